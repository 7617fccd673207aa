"""A provider around a real one that lets calls meet drills, for adapters that run a program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from smartfallback.clock import Clock
from smartfallback.model.outcomes import Failure, ProviderError
from smartfallback.model.specs import PoolSpec
from smartfallback.providers.base import Call, Chunk, Provider
from smartfallback.simulation.drills.drill import Meeting
from smartfallback.simulation.drills.spoken import tokens_in
from smartfallback.simulation.drills.turns import turn_of
from smartfallback.simulation.faults import ConnectTimeout, Latency, PlainFault

if TYPE_CHECKING:
    from smartfallback.simulation.drills.injector import Injector

Fails = Callable[[PlainFault, Call, int, float], Failure | None]
"""The failure that a fault makes of a call after so many characters at an epoch time; None for none."""


class InjectingProvider:
    """Passes calls on to ``inner``, but for what drills make of them.

    Args:
        inner: The real adapter; closed with this one.
        injector: Knows which drills are in force.
        pool: Whose calls come here.
        clock: Dates what failures state.
        can: The faults that can be played here.
        fails: How the adapter fails.
        missing: Why the adapter's program is missing by a drill, empty while it isn't.
        runs: Whether calls run the program; those that don't are no matter of this wrapper.
    """

    def __init__(
        self,
        inner: Provider,
        injector: Injector,
        pool: PoolSpec,
        clock: Clock,
        *,
        can: tuple[type[PlainFault], ...],
        fails: Fails,
        missing: Callable[[], str] = str,
        runs: Callable[[], bool] = lambda: True,
    ) -> None:
        self._inner = inner
        self._injector = injector
        self._pool = pool
        self._clock = clock
        self._can = can
        self._fails = fails
        self._missing = missing
        self._runs = runs

    def unavailable(self) -> str:
        """See :meth:`smartfallback.providers.base.Provider.unavailable`."""
        return self._missing() or self._inner.unavailable()

    def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Answer ``call``. Without a drill the real adapter's own generator is handed on."""
        if not self._injector.armed or not self._runs():
            return self._inner.stream(call)
        return self._drilled(call)

    async def aclose(self) -> None:
        """Close the real adapter."""
        await self._inner.aclose()

    async def _drilled(self, call: Call) -> AsyncGenerator[Chunk, None]:
        meeting = self._injector.meet(call.account.id, self._pool.name, call.model, self._can)
        try:
            if meeting is not None:
                await self._before(call, meeting)
            async with (
                aclosing(self._inner.stream(call)) as chunks,
                aclosing(self._turned(chunks, call, meeting)) as passed,
            ):
                async for chunk in passed:
                    yield chunk
        finally:
            if meeting is not None:
                meeting.close()

    async def _before(self, call: Call, meeting: Meeting) -> None:
        """What happens before the program is run.

        Raises:
            ProviderError: It is not run.
        """
        fault = meeting.fault
        if isinstance(fault, Latency):
            await meeting.stand_still(fault.delay_s)
        elif isinstance(fault, ConnectTimeout):
            await meeting.stand_still(self._pool.timeouts.connect_s)
            if meeting.lifted:
                return
        turn = turn_of(fault)
        if turn is None or (turn.breaks and not turn.after):
            self._fail(call, fault, 0)

    async def _turned(
        self, chunks: AsyncGenerator[Chunk, None], call: Call, meeting: Meeting | None
    ) -> AsyncGenerator[Chunk, None]:
        turn = None if meeting is None else turn_of(meeting.fault)
        told = characters = 0
        async for chunk in chunks:
            if turn is not None and meeting is not None:
                tokens = tokens_in(chunk.text)
                if chunk.finish_reason is not None or (tokens and told >= turn.after):
                    await meeting.stand_still(turn.wait_s)
                    if turn.breaks and not meeting.lifted:
                        self._fail(call, meeting.fault, characters)
                    turn = None
                told += tokens
                characters += len(chunk.text)
            yield chunk

    def _fail(self, call: Call, fault: PlainFault, characters: int) -> None:
        failure = self._fails(fault, call, characters, self._clock.time())
        if failure is not None:
            raise ProviderError(failure)
