"""Event streams of the Gemini and OpenAI dialects, as a test writes them down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from support.http_servers import Handler, http_server
from support.troubled import Elsewhere

OPENAI, GEMINI = "openai", "gemini"


def piece(api: str, text: str, **fields: Any) -> dict[str, Any]:
    """An event with a piece of text."""
    if api == OPENAI:
        return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **fields}
    return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}], **fields}


def final(api: str, text: str = "", *, usage: tuple[int, int] | None = (7, 3)) -> dict[str, Any]:
    """The event with the finish reason, and the counts unless ``usage`` is None."""
    event = piece(api, text)
    if api == OPENAI:
        event["choices"][0]["finish_reason"] = "stop"
        if usage:
            event["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    else:
        event["candidates"][0]["finishReason"] = "STOP"
        if usage:
            event["usageMetadata"] = {"promptTokenCount": usage[0], "candidatesTokenCount": usage[1]}
    return event


def preamble(api: str) -> list[Any]:
    """Events that are no content: roles, empty texts, thoughts, comments."""
    if api == OPENAI:
        deltas: list[dict[str, Any] | None] = [
            {"role": "assistant", "content": ""},
            {"role": "assistant"},
            {},
            None,
            {"content": None, "reasoning_content": "Let me think."},
            {"reasoning": "Still thinking."},
            {"content": []},
        ]
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        return [b": processing\n\n", {"choices": [], "prompt_filter_results": []}, *chunks, b": go\n"]
    thought = {"text": "Let me think.", "thought": True}
    parts: list[list[dict[str, Any]]] = [[], [{"text": ""}], [thought]]
    chunks = [{"candidates": [{"content": {"parts": entry}, "index": 0}]} for entry in parts]
    counts = {"usageMetadata": {"promptTokenCount": 7, "thoughtsTokenCount": 3}}
    return [b": processing\n\n", {"candidates": [{"index": 0}]}, counts, *chunks, b": go\n"]


def end_mark(api: str) -> list[Any]:
    """What follows the final event."""
    return ["[DONE]"] if api == OPENAI else []


def encoded(event: Any, newline: bytes = b"\n") -> bytes:
    """One event on the wire; bytes are sent as they are, text as data, all else as JSON."""
    if isinstance(event, bytes):
        return event
    data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    return b"data: " + data.encode() + newline * 2


def wire(*events: Any) -> list[bytes]:
    """Each event on the wire."""
    return [encoded(event) for event in events]


def stream_of(api: str, *texts: str, newline: bytes = b"\n") -> bytes:
    """A whole stream with these pieces."""
    events = [*(piece(api, text) for text in texts), final(api), *end_mark(api)]
    return b"".join(encoded(event, newline) for event in events)


@dataclass
class Watched:
    """What a scripted server sees of its calls."""

    calls: int = 0
    bytes_sent: int = 0
    gone_at: list[float] = field(default_factory=list)
    """The loop's time when a client was noticed to be gone in mid-answer."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


Pieces = Iterable[bytes] | Callable[[], AsyncIterator[bytes]]


def serving(
    pieces: Pieces, watched: Watched | None = None, *, hold: bool = False, silent: bool = False
) -> Elsewhere:
    """A server that sends ``pieces`` one by one to every caller.

    With ``hold`` it then never ends; a ``silent`` one sends not even the headers.
    """
    seen = watched or Watched()
    known = None if callable(pieces) else list(pieces)

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.calls += 1
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            if silent:
                seen.begun.set()
                await asyncio.Event().wait()
            await response.prepare(request)
            seen.begun.set()
            if known is not None:
                for part in known:
                    await response.write(part)
                    seen.bytes_sent += len(part)
                    await asyncio.sleep(0)
            elif callable(pieces):
                async for part in pieces():
                    await response.write(part)
                    seen.bytes_sent += len(part)
            if hold:
                await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionError):
            seen.gone_at.append(asyncio.get_running_loop().time())
            seen.gone.set()
            raise
        return response

    return place(handler)


def place(handler: Handler) -> Elsewhere:
    """A server with this handler as the place of an account."""

    @asynccontextmanager
    async def server() -> AsyncIterator[str]:
        async with http_server(handler) as upstream:
            yield f"{upstream.url}/v1"

    return server
