"""Numbers and moments as quota answers write them. What can't be read is unknown, never 0."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from smartfallback.providers.retry_after import parse_timestamp

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?", re.ASCII)
_MAX: Final = 1e18
_MAX_NAME: Final = 64


def number(value: Any) -> float | None:
    """A finite number, also one written as a string (``"300"``, ``"1,500"``, ``"11.72"``); else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        # Compared first: a huge int does not convert.
        return float(value) if -_MAX <= value <= _MAX else None
    if not isinstance(value, str):
        return None
    text = value.strip().replace(",", "").replace("_", "")
    return float(text) if _NUMBER.fullmatch(text) else None


def moment(value: Any, now: float) -> float | None:
    """Epoch seconds of a date, an RFC 3339 time or an epoch number; None if unreadable or not ahead.

    A reset that has passed says nothing about the window that runs now.
    """
    try:
        at = parse_timestamp(value, now)
    except (ValueError, OverflowError):
        return None
    return at if at is not None and math.isfinite(at) and at > now else None


def flag(value: Any) -> bool:
    """Whether ``value`` says yes: true, ``"true"``, or a table that is ``enabled``."""
    if isinstance(value, dict):
        return flag(value.get("enabled", False))
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def name(value: Any, default: str) -> str:
    """``value`` as a short name on one line, ``default`` if it is none."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    text = "".join(char for char in text if char.isprintable())
    return text[:_MAX_NAME] or default
