"""The body of a real response that meets a drill on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final, cast

import httpx

from smartfallback.simulation.drills.connections import cut_body
from smartfallback.simulation.drills.drill import Meeting
from smartfallback.simulation.drills.spoken import EventSplitter, Reader
from smartfallback.simulation.drills.turns import Turn

_PLAIN: Final = ("", "identity")


class DrilledBody(httpx.AsyncByteStream):
    """Passes a body on as it comes, up to the turn that a drill makes it take.

    Args:
        response: The real response; closed with this body.
        meeting: The drill behind the turn.
        turn: What happens, and when; None for nothing.
        reader: Counts the tokens of events.
        words: Gives what comes in place of the rest of an answer, where something does.
        whole: Whether the body is one piece and no event stream; None to see by its beginning.
    """

    def __init__(
        self,
        response: httpx.Response,
        meeting: Meeting,
        turn: Turn | None,
        reader: Reader,
        words: Callable[[], bytes],
        *,
        whole: bool | None = None,
    ) -> None:
        self._response = response
        self._meeting = meeting
        self._turn = turn
        self._reader = reader
        self._splitter = EventSplitter()
        self._queue: deque[bytes] = deque()
        self._told = 0
        self._whole = whole
        self._words = words

    def insert(self, events: bytes) -> None:
        """Let these events come before anything that was not read yet."""
        self._queue.append(events)

    async def aclose(self) -> None:
        """Give the real connection back if the body was read to its end, else close it."""
        self._meeting.close()
        await cast("httpx.AsyncByteStream", self._response.stream).aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = _pieces(self._response)
        try:
            while self._turn is not None:
                passed, due = await self._up_to_the_turn(pieces)
                if passed:
                    yield passed
                if not due:
                    continue
                turn, self._turn = self._turn, None
                await self._meeting.stand_still(turn.wait_s)
                if turn.breaks and not self._meeting.lifted:
                    if turn.speaks:
                        yield self._words()
                    if turn.broken:
                        raise cut_body()
                    return
            if rest := self._splitter.flush():
                self._queue.append(rest)
            while (piece := await self._next(pieces)) is not None:
                yield piece
        finally:
            await pieces.aclose()

    async def _up_to_the_turn(self, pieces: AsyncGenerator[bytes, None]) -> tuple[bytes, bool]:
        """What passes of the next piece, and whether the turn comes behind it. The rest is kept."""
        turn = self._turn
        piece = await self._next(pieces)
        if piece is None or turn is None:
            return b"", True
        if self._whole is None and (opening := piece.lstrip()[:1]):
            self._whole = opening in (b"{", b"[", b"<")
        if self._whole:
            # Nothing is to be counted in an answer that comes in one piece; half of it is no answer.
            piece = self._splitter.flush() + piece
            half = len(piece) // 2 if turn.breaks else 0
            self._queue.appendleft(piece[half:])
            return piece[:half], True
        events = self._splitter.feed(piece)
        for number, event in enumerate(events):
            said = self._reader(event)
            if said.final or (said.tokens and self._told >= turn.after):
                return self._split(events, number)
            self._told += said.tokens
            if said.tokens and self._told >= turn.after:
                return self._split(events, number + 1)
        return b"".join(events), False

    def _split(self, events: list[bytes], at: int) -> tuple[bytes, bool]:
        self._queue.extendleft(reversed(events[at:]))
        return b"".join(events[:at]), True

    async def _next(self, pieces: AsyncGenerator[bytes, None]) -> bytes | None:
        return self._queue.popleft() if self._queue else await anext(pieces, None)


def drilled(response: httpx.Response, body: DrilledBody, request: httpx.Request) -> httpx.Response:
    """``response`` with ``body`` in place of its own."""
    headers = httpx.Headers(response.headers)
    headers.pop("content-encoding", None)
    return httpx.Response(
        response.status_code, headers=headers, stream=body, request=request, extensions=response.extensions
    )


def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    # Events can only be counted in a body that is not compressed.
    if response.headers.get("content-encoding", "identity") not in _PLAIN:
        return cast("AsyncGenerator[bytes, None]", response.aiter_bytes())
    return cast("AsyncGenerator[bytes, None]", aiter(cast("httpx.AsyncByteStream", response.stream)))
