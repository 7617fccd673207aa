"""What a server replied, as plain text. What is in the store may be anybody's, and damaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def text(part: Any) -> str:
    """A part of a reply as text.

    Raises:
        ValueError: It is none.
    """
    if isinstance(part, bytes):
        return part.decode()  # UnicodeDecodeError is a ValueError
    if isinstance(part, str):
        return part
    if isinstance(part, bool) or not isinstance(part, int | float):
        raise ValueError("a reply holds something that is no text")
    return str(part)


def parts(reply: Any) -> list[Any]:
    """A list in a reply.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(reply, list | tuple):
        raise ValueError("a reply holds something that is no list")
    return list(reply)


def stream_entries(reply: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """The entries in the answer to ``XREAD`` for one stream: ids and fields; none for no answer.

    Entries that are no text have no fields. Streams and fields may be lists or maps: that hangs on the
    protocol and on what the client makes of it.

    Raises:
        ValueError: They are neither.
    """
    for _, entries in _pairs(reply or []):
        for entry in parts(entries):
            name, fields = parts(entry)
            try:
                read = {text(field): text(value) for field, value in _pairs(fields, flat=True)}
            except ValueError:
                read = {}
            yield text(name), read


def _pairs(reply: Any, *, flat: bool = False) -> list[Any]:
    if isinstance(reply, Mapping):
        return list(reply.items())
    listed = parts(reply)
    return list(zip(listed[::2], listed[1::2], strict=True)) if flat else [parts(pair) for pair in listed]
