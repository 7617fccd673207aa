"""What the events of a streamed answer say, as far as counting its tokens needs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from smartfallback.model.specs import ProviderKind

MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n|\r\r")


class Said(NamedTuple):
    """What one event says: about how many tokens of the answer, and whether it ends the answer."""

    tokens: int = 0
    final: bool = False


Reader = Callable[[bytes], Said]
"""Reads one event as it came, lines and all."""

_NOTHING: Final = Said()


class EventSplitter:
    """Cuts an event stream between its events, so that the pieces together are what came."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that ``piece`` completes, each with its blank line."""
        whole = self._rest + piece
        events, begin = [], 0
        for blank in _BLANK_LINE.finditer(whole):
            events.append(whole[begin : blank.end()])
            begin = blank.end()
        self._rest = whole[begin:]
        if len(self._rest) > MAX_EVENT_BYTES:
            events.append(self.flush())
        return events

    def flush(self) -> bytes:
        """What has come of an event that is not complete."""
        rest, self._rest = self._rest, b""
        return rest


def tokens_in(text: object) -> int:
    """About how many tokens a piece of text is: its words, and at least one."""
    return max(1, len(text.split())) if isinstance(text, str) and text else 0


def reader_of(kind: ProviderKind) -> Reader:
    """How the events of a provider of this kind are read."""
    return _read_gemini if kind is ProviderKind.GEMINI else _read_openai


def read_opencode(event: bytes, session: str) -> Said:
    """What an event of an OpenCode server says of the session's answer."""
    if not session or session.encode() not in event:
        return _NOTHING
    value = _payload(event)
    fields = _object(value.get("properties"))
    match value.get("type"):
        case "message.part.delta" | "message.part.updated" if fields.get("delta"):
            return Said(tokens_in(fields["delta"]))
        case "message.updated" if _object(fields.get("info")).get("finish"):
            return Said(final=True)
        case "session.idle" | "session.error":
            return Said(final=True)
        case _:
            return _NOTHING


def _read_openai(event: bytes) -> Said:
    if b"[DONE]" in event and _data(event).strip() == b"[DONE]":
        return Said(final=True)
    choice = _first(_payload(event).get("choices"))
    if choice.get("finish_reason"):
        return Said(final=True)
    return Said(tokens_in(_object(choice.get("delta")).get("content")))


def _read_gemini(event: bytes) -> Said:
    candidate = _first(_payload(event).get("candidates"))
    if candidate.get("finishReason"):
        return Said(final=True)
    parts = _object(candidate.get("content")).get("parts")
    texts = [part.get("text") for part in _objects(parts) if not part.get("thought")]
    return Said(sum(map(tokens_in, texts)))


def _data(event: bytes) -> bytes:
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def _payload(event: bytes) -> dict[str, Any]:
    try:
        return _object(json.loads(_data(event) or b"null"))
    except (ValueError, RecursionError):
        return {}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _first(value: object) -> dict[str, Any]:
    return next(iter(_objects(value)), {})
