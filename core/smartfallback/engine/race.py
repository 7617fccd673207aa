"""The wait for the first token, by one attempt or by a hedged pair.

A hedge asks a second candidate when the first has been silent for a while; the first of the two that
brings content answers, and the other is ended without blame (J. Dean and L. A. Barroso, "The Tail at
Scale", Communications of the ACM 56, 2013). It spends from the retry budget, so that an upstream
that becomes slow under load is not given twice the load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from smartfallback.engine.attempt import Attempt, Diverted, Stopped
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError
from smartfallback.providers.base import Chunk


class Opened(NamedTuple):
    """The attempt brought ``chunk``, the first with content."""

    attempt: Attempt
    chunk: Chunk


class Ended(NamedTuple):
    """The attempt ended before its answer began."""

    attempt: Attempt
    error: ProviderError | Diverted | Stopped


class HedgeDue(NamedTuple):
    """The attempt has been silent for so long that a second candidate may be asked."""

    attempt: Attempt


Outcome = Opened | Ended | HedgeDue


class Race:
    """What comes of a request's running attempts until one answers.

    Args:
        running: The attempts that run; the list is the caller's and may grow between calls.
        hedge_after_s: When a hedge is due after a lone attempt began; None for never.
        now: The loop's time.
    """

    def __init__(self, running: list[Attempt], hedge_after_s: float | None, now: Callable[[], float]) -> None:
        self._running = running
        self._hedge_after_s = hedge_after_s
        self._now = now
        self._asked_for: Attempt | None = None

    async def next(self) -> Outcome:
        """The next thing that happens; each attempt's own limits bound the wait."""
        if self._hedge_after_s is None:
            # Without hedges nothing runs beside the one attempt, so it needs no task of its own.
            return await _outcome(self._running[0])
        while True:
            tasks = {attempt.reading(): attempt for attempt in self._running}
            done, _ = await asyncio.wait(
                tasks, timeout=self._time_to_hedge(), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                self._asked_for = self._running[0]
                return HedgeDue(self._running[0])
            # Who failed goes first: the other may still answer, and then is the only one left.
            outcomes = [_of(tasks[task], task) for task in tasks if task in done]
            return next((outcome for outcome in outcomes if isinstance(outcome, Ended)), outcomes[0])

    def _time_to_hedge(self) -> float | None:
        """Seconds until a hedge is due; None when none is to come for what runs now."""
        first = self._running[0]
        if self._hedge_after_s is None or len(self._running) > 1 or self._asked_for is first:
            return None
        return max(0.0, first.started + self._hedge_after_s - self._now())


async def _outcome(attempt: Attempt) -> Opened | Ended:
    try:
        return _opened(attempt, await attempt.first())
    except (ProviderError, Diverted, Stopped) as error:
        return Ended(attempt, error)


def _of(attempt: Attempt, task: asyncio.Task[Chunk]) -> Opened | Ended:
    try:
        return _opened(attempt, task.result())
    except (ProviderError, Diverted, Stopped) as error:
        return Ended(attempt, error)


def _opened(attempt: Attempt, chunk: Chunk) -> Opened:
    if not chunk.text and chunk.finish_reason == "stop":
        raise ProviderError(Failure(ErrorCategory.MALFORMED_RESPONSE, "the answer is empty"))
    return Opened(attempt, chunk)
