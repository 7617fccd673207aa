"""The upstream of an instance's accounts, in its process: answers by plan, fails on demand, notes it all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from smartfallback import Clock, ErrorCategory, Failure, PoolSpec, Usage
from smartfallback.model.outcomes import ProviderError
from smartfallback.providers.base import Call, Chunk
from support.upstream_journal import Journal, Step


@dataclass
class Plan:
    """What becomes of one request.

    Attributes:
        units: What its answer costs.
        first_s: How long the upstream thinks before it.
        rest_s: How long it speaks.
        asked_at: When the upstream was asked first, in the seconds of ``time.perf_counter``.
    """

    units: int = 15
    first_s: float = 0.0
    rest_s: float = 0.0
    asked_at: float | None = None


PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)
"""The plan of the request that the running task is about."""


class PlannedUpstream:
    """Answers as each request's plan says, unless it was told to fail.

    The cost comes with the first piece of an answer, so that what a caller who goes away has spent is
    known to both sides.
    """

    def __init__(self, journal: Journal, accounts: Sequence[str]) -> None:
        self._journal = journal
        self._numbers = {name: number for number, name in enumerate(accounts)}
        self._failures: dict[str, deque[Failure]] = {name: deque() for name in accounts}
        self._always: dict[str, Failure] = {}
        self._slow: dict[str, float] = {}
        self.failed = 0

    def provider(self, pool: PoolSpec, clock: Clock) -> PlannedProvider:
        """The adapter of a pool."""
        return PlannedProvider(self)

    def fail(
        self, account: str, category: str, times: int | None = None, retry_after_s: float | None = None
    ) -> None:
        """Fail the next ``times`` calls of an account, or with None all until :meth:`heal`."""
        failure = Failure(ErrorCategory[category], "as told", retry_after_s=retry_after_s)
        if times is None:
            self._always[account] = failure
        else:
            self._failures[account].extend([failure] * times)

    def heal(self, account: str) -> None:
        """Fail no more calls of an account."""
        self._always.pop(account, None)
        self._failures[account].clear()
        self._slow.pop(account, None)

    def slow(self, account: str, first_s: float) -> None:
        """Let an account think for so long whatever a request's plan says, until :meth:`heal`."""
        self._slow[account] = first_s

    async def answer(self, account: str) -> AsyncGenerator[Chunk, None]:
        """One call."""
        plan = PLAN.get() or Plan()
        if plan.asked_at is None:
            plan.asked_at = time.perf_counter()
        number, queued = self._numbers[account], self._failures[account]
        self._journal.note(number, Step.ASKED)
        try:
            first_s = self._slow.get(account, plan.first_s)
            failure = queued.popleft() if queued else self._always.get(account)
            if first_s:
                await asyncio.sleep(first_s)
            if failure is not None:
                self.failed += 1
                raise ProviderError(failure)
            usage = Usage(plan.units)
            self._journal.note(number, Step.ANSWERED, plan.units)
            yield Chunk("well", None, usage)
            if plan.rest_s:
                await asyncio.sleep(plan.rest_s)
            yield Chunk("", "stop", usage)
        finally:
            self._journal.note(number, Step.ENDED)


class PlannedProvider:
    """The adapter's face of the upstream."""

    def __init__(self, upstream: PlannedUpstream) -> None:
        self._upstream = upstream

    def unavailable(self) -> str:
        return ""

    def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        return self._upstream.answer(call.account.id)

    async def aclose(self) -> None:
        pass
