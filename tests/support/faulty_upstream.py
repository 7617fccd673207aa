"""A real HTTP server that answers in the dialect of OpenAI or Gemini and draws a fault for each call.

It writes its bytes itself, so that a fault is on the wire exactly what it is called, and it counts
what it sees: calls, those still open, connections, and each fault.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from random import Random
from typing import Any, NamedTuple

WORDS = 24
"""Words in a whole answer; each is numbered, so that a lost or repeated one shows."""
WORDS_A_PIECE = 4
_NO_LINGER = struct.pack("ii", 1, 0)
_WORD = re.compile(r"w(\d+)\b")


class Ill(StrEnum):
    """What can happen to one call."""

    STATUS = "an error status"
    BURST = "a 429 with a tiny wait"
    RESET = "a reset before the response"
    CLOSE = "an end before the response"
    EMPTY = "an empty 200"
    HALF_JSON = "JSON that breaks off"
    HTML = "a gateway's page with status 200"
    NOISE = "noise instead of events"
    OVERLOAD = "an overload error inside a 200"
    SILENT = "no response at all"
    STALL = "a response without a token"
    SLOW = "a slow first token"
    CUT = "a reset in mid-answer"
    CLEAN_CUT = "an answer without its end"
    STALL_MID = "an answer that stands still"
    NOISE_MID = "noise in mid-answer"
    OVERLOAD_MID = "an overload error in mid-answer"


MID_ANSWER = frozenset({Ill.CUT, Ill.CLEAN_CUT, Ill.STALL_MID, Ill.NOISE_MID, Ill.OVERLOAD_MID})
"""Faults that a stream meets after its first token."""
STATUSES = (408, 500, 500, 501, 502, 503, 503, 504, 529)

Draw = Callable[[], "Ill | None"]


def answer(start: int = 0) -> str:
    """The whole answer from word ``start`` on."""
    return " ".join(f"w{number}" for number in range(start, WORDS))


def one_in(share: float, seed: int, faults: tuple[Ill, ...] = tuple(Ill)) -> Draw:
    """Faults for ``share`` of the calls, evenly drawn."""
    rng = Random(seed)
    return lambda: rng.choice(faults) if rng.random() < share else None


class Asked(NamedTuple):
    """One call as the server understands it; ``begins`` is the word with which the answer starts."""

    gemini: bool
    stream: bool
    begins: int


class FaultyUpstream:
    """One server. Use :func:`faulty_upstream` to run it.

    Args:
        draw: What happens to the next call; None lets it be answered well.
        pace_s: Between two pieces of an answer, and ten times that before a slow first token.
        seed: Of the statuses and places that are drawn within a fault.
        overlap: So many words an answer that goes on with another one repeats of it.
    """

    def __init__(self, draw: Draw, *, pace_s: float = 0.0, seed: int = 1, overlap: int = 0) -> None:
        self.draw = draw
        self.calls = 0
        self.open_calls = 0
        self.silence = asyncio.Event()
        """Set while no call is open."""
        self.silence.set()
        self.hung_up = 0
        self.continued = 0
        self.faults: Counter[Ill] = Counter()
        self.connections: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._closed = asyncio.Event()
        self._pace_s = pace_s
        self._overlap = overlap
        self._rng = Random(seed)

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's dialect."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def gemini_url(self) -> str:
        """The base URL for Gemini's dialect."""
        return f"http://127.0.0.1:{self.port}"

    async def idle(self) -> None:
        """Wait until no connection is open."""
        while self.connections:
            self._closed.clear()
            await self._closed.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the calls of one connection, one after the other."""
        self.connections.add(writer)
        try:
            while (asked := await _read_call(reader)) is not None:
                self.calls += 1
                self.open_calls += 1
                self.silence.clear()
                try:
                    again = await self._reply(asked, reader, writer)
                finally:
                    self.open_calls -= 1
                    if not self.open_calls:
                        self.silence.set()
                if not again:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up += 1
        finally:
            self.connections.discard(writer)
            self._closed.set()
            writer.close()

    async def _reply(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer or misbehave; whether the connection can be used again."""
        ill = self.draw()
        if ill is not None:
            self.faults[ill] += 1
        if asked.begins:
            self.continued += 1
        if ill in (Ill.RESET, Ill.CLOSE):
            if ill is Ill.RESET:
                _reset(writer)
            return False
        if ill is Ill.SILENT:
            return await _until_gone(reader)
        if ill is Ill.STATUS:
            status = self._rng.choice(STATUSES)
            await _whole(writer, status, {"error": {"message": "out of order", "code": status}})
            return True
        if ill is Ill.BURST:
            await _whole(writer, 429, _burst(asked.gemini))
            return True
        if ill is Ill.OVERLOAD and not asked.stream:
            await _whole(writer, 503, {"error": {"message": "overloaded", "code": 503}})
            return True
        if asked.stream:
            return await self._stream(asked, ill, reader, writer)
        return await self._at_once(asked, ill, reader, writer)

    async def _at_once(
        self, asked: Asked, ill: Ill | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        text = answer(max(0, asked.begins - self._overlap))
        body = json.dumps(_gemini_whole(text) if asked.gemini else _openai_whole(text)).encode()
        if ill in (Ill.SLOW, Ill.STALL, Ill.STALL_MID):
            if ill is not Ill.SLOW:
                return await _until_gone(reader)
            await asyncio.sleep(10 * self._pace_s)
        if ill in (
            Ill.EMPTY,
            Ill.HALF_JSON,
            Ill.HTML,
            Ill.NOISE,
            Ill.NOISE_MID,
            Ill.CLEAN_CUT,
            Ill.OVERLOAD_MID,
        ):
            body = _JUNK.get(ill, body[: len(body) // 2])
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode())
        if ill is Ill.CUT:
            writer.write(body[: len(body) // 2])
            await writer.drain()
            return False
        writer.write(body)
        await writer.drain()
        return True

    async def _stream(
        self, asked: Asked, ill: Ill | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        if ill is Ill.STALL:
            await writer.drain()
            return await _until_gone(reader)
        if ill in _JUNK and ill is not Ill.NOISE_MID:
            return await _end(writer, _JUNK[ill])
        if ill is Ill.OVERLOAD:
            return await _end(writer, _overload(asked.gemini))
        if ill is Ill.SLOW:
            await asyncio.sleep(10 * self._pace_s)
        words = [f"w{number}" for number in range(max(0, asked.begins - self._overlap), WORDS)]
        pieces = [words[at : at + WORDS_A_PIECE] for at in range(0, len(words), WORDS_A_PIECE)]
        breaks_at = self._rng.randrange(1, len(pieces)) if ill in MID_ANSWER and len(pieces) > 1 else None
        for number, piece in enumerate(pieces):
            if number == breaks_at:
                return await self._break_off(asked, ill, reader, writer)
            last = number == len(pieces) - 1
            text = " ".join(piece) + ("" if last else " ")
            _chunk(writer, _event(asked.gemini, text, last=last))
            await writer.drain()
            if not last:
                await asyncio.sleep(self._pace_s)
        return await _end(writer, b"" if asked.gemini else b"data: [DONE]\n\n")

    async def _break_off(
        self, asked: Asked, ill: Ill | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if ill is Ill.STALL_MID:
            return await _until_gone(reader)
        if ill is Ill.CUT:
            # What was written has to be read before a reset, which would throw it away.
            await asyncio.sleep(self._pace_s)
            _reset(writer)
            return False
        if ill is Ill.CLEAN_CUT:
            return await _end(writer)
        return await _end(
            writer, _overload(asked.gemini) if ill is Ill.OVERLOAD_MID else _JUNK[Ill.NOISE_MID]
        )


_JUNK = {
    Ill.EMPTY: b"",
    Ill.HALF_JSON: b'data: {"choices": [{"del\n\n',
    Ill.HTML: b"<html><body><h1>Bad gateway</h1></body></html>\n",
    Ill.NOISE: b"data: %%%\n\ndata: ~~~\n\n",
    Ill.NOISE_MID: b"data: {{{\n\n",
}


@asynccontextmanager
async def faulty_upstream(upstream: FaultyUpstream) -> AsyncIterator[FaultyUpstream]:
    """Run ``upstream`` on a free port of loopback."""
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=1_024)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for writer in tuple(upstream.connections):
            writer.close()
        await upstream.idle()


async def _read_call(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
    body: dict[str, Any] = json.loads(await reader.readexactly(int(length[1])) if length else b"{}")
    path = head.split(" ", 2)[1]
    if "/models/" in path:
        said = [
            part["text"] for turn in body["contents"] if turn.get("role") == "model" for part in turn["parts"]
        ]
        return Asked(True, "streamGenerateContent" in path, _next_word(said))
    said = [turn["content"] for turn in body["messages"] if turn["role"] == "assistant"]
    return Asked(False, bool(body.get("stream")), _next_word(said))


def _next_word(said: list[str]) -> int:
    words = [int(number) for text in said for number in _WORD.findall(text)]
    return max(words) + 1 if words else 0


async def _until_gone(reader: asyncio.StreamReader) -> bool:
    # A client sends nothing more before its answer, so the next thing to read is its going away.
    with suppress(ConnectionError):
        await reader.read(1)
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


async def _whole(writer: asyncio.StreamWriter, status: int, payload: dict[str, Any]) -> None:
    body = json.dumps(payload).encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


def _burst(gemini: bool) -> dict[str, Any]:
    if not gemini:
        return {
            "error": {
                "message": "Rate limit reached. Please try again in 20ms.",
                "code": "rate_limit_exceeded",
            }
        }
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.02s"}
    return {
        "error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down", "details": [retry]}
    }


async def _end(writer: asyncio.StreamWriter, last: bytes = b"") -> bool:
    if last:
        _chunk(writer, last)
    _chunk(writer, b"")
    await writer.drain()
    return True


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _data(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def _event(gemini: bool, text: str, *, last: bool) -> bytes:
    if gemini:
        return _data(_gemini_whole(text, whole=last))
    choice: dict[str, Any] = {
        "index": 0,
        "delta": {"content": text},
        "finish_reason": "stop" if last else None,
    }
    payload: dict[str, Any] = {"object": "chat.completion.chunk", "choices": [choice]}
    if last:
        payload["usage"] = _OPENAI_USAGE
    return _data(payload)


_OPENAI_USAGE = {"prompt_tokens": 10, "completion_tokens": WORDS, "total_tokens": 10 + WORDS}


def _gemini_whole(text: str, *, whole: bool = True) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    payload: dict[str, Any] = {"candidates": [candidate]}
    if whole:
        candidate["finishReason"] = "STOP"
        payload["usageMetadata"] = {
            "promptTokenCount": 10,
            "candidatesTokenCount": WORDS,
            "totalTokenCount": 10 + WORDS,
        }
    return payload


def _openai_whole(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _OPENAI_USAGE,
    }


def _overload(gemini: bool) -> bytes:
    if gemini:
        return _data({"error": {"code": 503, "status": "UNAVAILABLE", "message": "The model is overloaded."}})
    return _data({"error": {"message": "overloaded", "type": "overloaded_error", "code": 529}})
