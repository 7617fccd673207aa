"""JSON read with care: each field as what it has to be, or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def loaded(text: str) -> Any:
    """The document.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class Fields:
    """The fields of one JSON object; each method raises ValueError for what has another type.

    Raises:
        ValueError: The document is no object.
    """

    def __init__(self, document: object) -> None:
        if not isinstance(document, Mapping):
            raise ValueError("an object was expected")
        self._document: Mapping[str, Any] = document

    def get(self, name: str, default: Any = None) -> Any:
        """The field as it stands there."""
        return self._document.get(name, default)

    def text(self, name: str, default: str = "") -> str:
        """A text, ``default`` when it is missing."""
        value = self.get(name, default)
        if not isinstance(value, str):
            raise ValueError(f"{name} is no text")
        return value

    def text_or_none(self, name: str) -> str | None:
        """A text, None when it is missing or null."""
        return None if self.get(name) is None else self.text(name)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false, ``default`` when it is missing."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{name} is neither true nor false")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; one that is missing without a default is an error too."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is no number")
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number beyond what a float can hold
            finite = False
        if not finite:
            raise ValueError(f"{name} is no finite number")
        return value

    def number_or_none(self, name: str) -> float | None:
        """A finite number, None when it is missing or null."""
        return None if self.get(name) is None else self.number(name)

    def integer(self, name: str, default: int = 0) -> int:
        """A whole number, ``default`` when it is missing."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} is no whole number")
        return value

    def count(self, name: str) -> int:
        """A whole number from 0, 0 when it is missing."""
        value = self.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} is no count")
        return value

    def count_or_none(self, name: str) -> int | None:
        """A whole number from 0, None when it is missing or null."""
        return None if self.get(name) is None else self.count(name)

    def part(self, name: str) -> Fields | None:
        """An object, None when it is missing or null."""
        value = self.get(name)
        return None if value is None else Fields(value)

    def parts(self, name: str) -> list[tuple[str, Fields]]:
        """The objects in an object, with their names; none when it is missing."""
        value = self.part(name)
        return [] if value is None else [(key, Fields(entry)) for key, entry in value._document.items()]

    def items(self, name: str) -> list[Fields]:
        """The objects in a list; none when it is missing."""
        return [Fields(entry) for entry in self._list(name)]

    def texts(self, name: str) -> list[str]:
        """The texts in a list; none when it is missing."""
        entries = self._list(name)
        if not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"{name} is no list of texts")
        return entries

    def _list(self, name: str) -> list[Any]:
        value = self.get(name, [])
        if not isinstance(value, list):
            raise ValueError(f"{name} is no list")
        return value
