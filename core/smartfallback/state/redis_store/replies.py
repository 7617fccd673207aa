"""What a server replied, as plain text. What is in the store may be anybody's, so all of it may be damaged."""

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

    Entries that are no text have no fields. Takes the forms of both protocols: RESP2 has a list of
    streams, RESP3 a map.

    Raises:
        ValueError: It is neither.
    """
    if not reply:
        return
    streams = [*reply.items()] if isinstance(reply, Mapping) else [parts(pair) for pair in parts(reply)]
    for _, entries in streams:
        for entry in parts(entries):
            name, fields = parts(entry)
            try:
                flat = [text(part) for part in parts(fields)]
            except ValueError:
                flat = []
            yield text(name), dict(zip(flat[::2], flat[1::2], strict=False))
