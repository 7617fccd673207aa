"""A provider that keeps its own, true count of each account and begins it anew when a test says so."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from smartfallback import Clock, ErrorCategory, Failure, PoolSpec, TruthLabel, Usage
from smartfallback.model.outcomes import ProviderError
from smartfallback.model.quota import QuotaReading, QuotaUnit, WindowKind, WindowReading
from smartfallback.providers.base import Call, Chunk

if TYPE_CHECKING:
    from support.clock import FakeClock


class WeeklyUpstream:
    """Answers every call at ``cost`` tokens until an account's limit is reached, then names a wall."""

    def __init__(self, clock: FakeClock, limit: int) -> None:
        self.clock = clock
        self.limit = limit
        self.cost = 1_000
        self.used: dict[str, int] = {}
        self.most_used: dict[str, int] = {}
        self.calls: defaultdict[str, list[float]] = defaultdict(list)
        """When each account was called and answered, in order."""
        self.refused = 0
        self.refusing: set[str] = set()

    def provider(self, pool: PoolSpec, clock: Clock) -> WeeklyProvider:
        return WeeklyProvider(self)

    def begin_anew(self, account: str) -> None:
        self.used[account] = 0

    def reading(self, account: str) -> QuotaReading:
        """What its quota API would answer now."""
        window = WindowReading(
            "weekly", WindowKind.WEEK, QuotaUnit.TOKENS, used=self.used.get(account, 0), limit=self.limit
        )
        return QuotaReading(account, "its quota API", TruthLabel.REPORTED, self.clock.time(), (window,))

    def calls_between(self, account: str, start: float, end: float) -> int:
        calls = self.calls[account]
        return bisect_left(calls, end) - bisect_left(calls, start)

    def first_call(self, account: str, start: float) -> float | None:
        calls = self.calls[account]
        place = bisect_left(calls, start)
        return calls[place] if place < len(calls) else None


class WeeklyProvider:
    def __init__(self, upstream: WeeklyUpstream) -> None:
        self._upstream = upstream

    def unavailable(self) -> str:
        return ""

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        upstream, name = self._upstream, call.account.id
        at = upstream.clock.time()
        used = upstream.used.get(name, 0)
        if name in upstream.refusing or (call.account.quota and used >= upstream.limit):
            upstream.refused += 1
            raise ProviderError(Failure(ErrorCategory.QUOTA_EXHAUSTED, "quota exceeded", 429))
        upstream.calls[name].append(at)
        upstream.used[name] = used + upstream.cost
        upstream.most_used[name] = max(upstream.most_used.get(name, 0), upstream.used[name])
        yield Chunk("fine")
        yield Chunk("", "stop", Usage(1, upstream.cost - 1))

    async def aclose(self) -> None:
        pass
