"""How one simulated answer goes over the wire: piece by piece, and with the fault where it belongs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from aiohttp import web

from smartfallback.simulation.dialects import HTML_PAGE, NOISE, Dialect, Finish, Question
from smartfallback.simulation.faults import (
    CutStream,
    DoubledEnd,
    Garbage,
    GarbageKind,
    NoUsage,
    OverloadInStream,
    PlainFault,
    SignsOfLife,
    SlowFirstToken,
    StallBeforeFirstToken,
    StallMidStream,
)

TICK_S: Final = 0.1
"""One write each tick carries all tokens due by then: a write per token costs ten times the CPU."""
SIGN_OF_LIFE: Final = b": still at it\n\n"
UNPACED_TOKENS: Final = 8
"""Tokens a write when the speed is infinite, so that such an answer still comes in pieces."""


class Ending(StrEnum):
    """What happens after the last token that a fault lets through."""

    COMPLETE = "complete"
    CUT = "cut"
    CLEAN_CUT = "clean cut"
    STALL = "stall"
    SIGNS_OF_LIFE = "signs of life"
    DOUBLED = "doubled"
    JUNK = "junk"
    OVERLOAD = "overload"


class Script(NamedTuple):
    """How one answer is going to be delivered."""

    tokens: Sequence[str]
    truncated: bool
    wait_s: float
    tokens_per_s: float
    stop_after: int
    ending: Ending
    junk: bytes = b""
    sign_every_s: float = math.inf
    counted: bool = True

    @property
    def pauses(self) -> bool:
        """Whether what follows the stop comes once the fault is lifted."""
        return self.ending in (Ending.STALL, Ending.SIGNS_OF_LIFE)

    @property
    def breaks(self) -> bool:
        """Whether the answer never becomes whole."""
        return not self.pauses and self.ending not in (Ending.COMPLETE, Ending.DOUBLED)

    @classmethod
    def of(
        cls,
        tokens: Sequence[str],
        question: Question,
        pace: tuple[float, float],
        fault: PlainFault | None,
    ) -> Script:
        """The delivery of ``tokens`` at ``pace`` (seconds to the first, tokens a second) under ``fault``."""
        limit = question.max_output_tokens
        truncated = limit is not None and len(tokens) > limit
        tokens = tokens[:limit] if truncated else tokens
        wait_s, speed = pace
        stop, ending, junk, sign_every_s = len(tokens), Ending.COMPLETE, b"", math.inf
        if isinstance(fault, SlowFirstToken):
            wait_s += fault.delay_s
        elif isinstance(fault, StallBeforeFirstToken):
            stop, ending = 0, Ending.STALL
        elif isinstance(fault, StallMidStream):
            stop, ending = fault.after_tokens, Ending.STALL
        elif isinstance(fault, SignsOfLife):
            stop, ending, sign_every_s = fault.after_tokens, Ending.SIGNS_OF_LIFE, fault.every_s
        elif isinstance(fault, DoubledEnd):
            ending = Ending.DOUBLED
        elif isinstance(fault, CutStream):
            stop, ending = fault.after_tokens, Ending.CLEAN_CUT if fault.clean else Ending.CUT
        elif isinstance(fault, OverloadInStream):
            stop, ending = fault.after_tokens, Ending.OVERLOAD
        elif isinstance(fault, Garbage):
            stop, ending, junk = fault.after_tokens, Ending.JUNK, junk_of(fault.kind, question)
        counted = not isinstance(fault, NoUsage)
        stop = min(stop, len(tokens))
        return cls(tokens, truncated, wait_s, speed, stop, ending, junk, sign_every_s, counted)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One answer on its way. ``lifted`` is set when the fault that it meets is no longer in force."""

    request: web.BaseRequest
    response: web.StreamResponse
    dialect: Dialect
    question: Question
    script: Script
    call_id: str
    lifted: asyncio.Event | None

    def send(self) -> AsyncIterator[int]:
        """Write the response; yields the number of the answer's tokens in each write.

        Raises:
            ConnectionError: The client went away.
        """
        return self._stream() if self.question.stream else self._whole()

    async def _stream(self) -> AsyncIterator[int]:
        dialect, script, response = self.dialect, self.script, self.response
        call = self.call_id, self.question
        await response.prepare(self.request)
        head = dialect.head(*call)
        if head:
            await response.write(head)
        await self._wait(script.wait_s)
        async for piece in paced(script.tokens[: script.stop_after], script.tokens_per_s):
            await response.write(dialect.piece(*call, "".join(piece)))
            yield len(piece)
        if script.pauses:
            while not await self._lifted_within(script.sign_every_s):
                await response.write(SIGN_OF_LIFE)
            async for piece in paced(script.tokens[script.stop_after :], script.tokens_per_s):
                await response.write(dialect.piece(*call, "".join(piece)))
                yield len(piece)
        if script.ending is Ending.CUT:
            _hang_up(self.request)
        elif script.ending is Ending.OVERLOAD:
            await response.write(dialect.overload())
        elif script.ending is Ending.JUNK:
            await response.write(script.junk)
        elif script.ending is not Ending.CLEAN_CUT:
            tail = dialect.tail(*call, self._finish())
            await response.write(tail * 2 if script.ending is Ending.DOUBLED else tail)

    async def _whole(self) -> AsyncIterator[int]:
        script, response, total = self.script, self.response, len(self.script.tokens)
        body = self.dialect.whole(self.call_id, self.question, "".join(script.tokens), self._finish())
        await self._wait(script.wait_s)
        before = script.stop_after if script.pauses else total
        await self._wait(before / script.tokens_per_s)
        if script.pauses:
            # Without streaming nothing is on the wire before the answer is complete.
            await self._wait(math.inf)
        broken = script.breaks
        sent = body[: len(body) // 2] if broken else body
        if script.ending is Ending.JUNK:
            sent += script.junk
        if script.ending is not Ending.CLEAN_CUT:
            response.content_length = len(sent) if script.ending is Ending.JUNK else len(body)
        await response.prepare(self.request)
        await response.write(sent)
        yield script.stop_after if broken else total
        if script.ending is Ending.CUT:
            _hang_up(self.request)

    def _finish(self) -> Finish:
        script = self.script
        return Finish(self.question.input_tokens, len(script.tokens), script.truncated, script.counted)

    async def _lifted_within(self, seconds: float) -> bool:
        await self._wait(seconds)
        return self.lifted is None or self.lifted.is_set()

    async def _wait(self, seconds: float) -> None:
        await wait_until_lifted(self.lifted, seconds)


async def wait_until_lifted(lifted: asyncio.Event | None, seconds: float) -> None:
    """Wait; under a fault, at most until it is lifted."""
    if seconds <= 0:
        return
    if lifted is None:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(None if math.isinf(seconds) else seconds):
            await lifted.wait()


async def paced(tokens: Sequence[str], tokens_per_s: float) -> AsyncIterator[Sequence[str]]:
    """The tokens in the groups in which they are due, one group a tick."""
    if math.isinf(tokens_per_s):
        for begin in range(0, len(tokens), UNPACED_TOKENS):
            yield tokens[begin : begin + UNPACED_TOKENS]
        return
    loop = asyncio.get_running_loop()
    begun, sent = loop.time(), 0
    while sent < len(tokens):
        due = 1 + int((loop.time() - begun) * tokens_per_s)
        if due > sent:
            yield tokens[sent:due]
            sent = due
        if sent < len(tokens):
            await asyncio.sleep(max(TICK_S, 1.0 / tokens_per_s))


def junk_of(kind: GarbageKind, question: Question) -> bytes:
    """The bytes of a kind of garbage, as they come in answer to ``question``."""
    if kind is GarbageKind.HTML:
        return HTML_PAGE
    if kind is GarbageKind.SSE:
        return NOISE
    return b'data: {"candidates": [{"cont\n\n' if question.stream else b'{"candidates": [{"cont'


def _hang_up(request: web.BaseRequest) -> None:
    """Close after what was written has gone out, so that the client gets exactly that."""
    if request.transport is not None:
        request.transport.close()
