"""Asks the quota sources in the background and keeps what they said, so that no request ever waits."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Mapping
from itertools import count
from types import TracebackType
from typing import Final, NamedTuple

from smartfallback.clock import Clock
from smartfallback.model.quota import QuotaReading, TruthLabel
from smartfallback.model.specs import AccountSpec
from smartfallback.policy.backoff import ExponentialBackoff
from smartfallback.policy.quota_merge import after_failure, as_of, assumed
from smartfallback.quota_sources.base import QuotaFault, QuotaSource, QuotaSourceError

TIMEOUT_S: Final = 5.0
"""Limit of every call to a source."""

_TICK_S: Final = 1.0
_MAX_AT_ONCE: Final = 8
# Asked again before the TTL ends, so that a healthy source never lets its answer expire; spread, so
# that accounts that started together don't stay together.
_EARLY: Final = (0.75, 0.95)
_FIRST_RETRY_S: Final = 15.0


class Watch(NamedTuple):
    """An account and the source that knows its quota."""

    account: AccountSpec
    source: QuotaSource


class RefreshStats(NamedTuple):
    """What the cache did.

    Attributes:
        checks: How often somebody relied on a quota: each attempt does so once.
        from_cache: How many of them met an answer within its TTL, or the fresh knowledge that there is
            nothing to ask. All others got what was left (stale, estimated or none), also without a call.
        calls: Calls to sources.
        failures: How many of the calls brought no answer.
    """

    checks: int
    from_cache: int
    calls: int
    failures: int

    @property
    def share(self) -> float | None:
        """The share of checks served from cache, from 0 to 1; None before the first check."""
        return self.from_cache / self.checks if self.checks else None


class _Entry:
    """One account's cache. Monotonic instants."""

    __slots__ = ("answer", "due", "failures", "holds_until", "reading", "task", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.answer: QuotaReading | None = None
        """What the source itself said last."""
        self.holds_until = -math.inf
        self.reading: QuotaReading | None = None
        """What holds: the answer, or what its failing made of it."""
        self.due = 0.0
        self.failures = 0
        self.task: asyncio.Task[QuotaReading] | None = None


class QuotaRefresher:
    """Keeps a reading of each watched account, on one event loop.

    Use it as an async context manager: entering starts the refreshing, leaving ends every call
    and closes the sources. A failing source is asked again with growing waits, at most its TTL
    apart; meanwhile the rules of ``policy.quota_merge`` say what holds.

    Args:
        watches: By account id.
        clock: Monotonic time of TTLs and waits; the calendar's for ages.
        on_reading: Called on the loop with each new reading, also with those that a failure makes.
        rng: Spreads the refreshes.
        on_asked: Called with the account's id when its source is about to be asked, which is when
            to mark the own use that its answer will not know of.
        timeout_s: Limit of every call.
    """

    def __init__(
        self,
        watches: Mapping[str, Watch],
        clock: Clock,
        on_reading: Callable[[QuotaReading], None],
        rng: random.Random,
        *,
        on_asked: Callable[[str], None] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._clock = clock
        self._on_reading = on_reading
        self._on_asked = on_asked
        self._rng = rng
        self._timeout_s = timeout_s
        self._entries = {account: _Entry(watch) for account, watch in watches.items()}
        self._order = count()
        now = clock.monotonic()
        self._queue: list[tuple[float, int, str]] = []
        for account in self._entries:
            self._schedule(account, now)
        self._gate = asyncio.Semaphore(_MAX_AT_ONCE)
        self._loop_task: asyncio.Task[None] | None = None
        self._closed = False
        self._checks = self._from_cache = self._calls = self._failures = 0

    async def __aenter__(self) -> QuotaRefresher:
        self._loop_task = asyncio.create_task(self._run(), name="smartfallback-quota")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every call and close the sources. Safe to call twice."""
        self._closed = True
        tasks: list[asyncio.Task[None] | asyncio.Task[QuotaReading]] = [
            entry.task for entry in self._entries.values() if entry.task is not None
        ]
        if self._loop_task is not None:
            tasks.append(self._loop_task)
            self._loop_task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sources = {id(entry.watch.source): entry.watch.source for entry in self._entries.values()}
        await asyncio.gather(*(source.aclose() for source in sources.values()), return_exceptions=True)

    @property
    def stats(self) -> RefreshStats:
        """What the cache did so far."""
        return RefreshStats(self._checks, self._from_cache, self._calls, self._failures)

    def current(self, account: str) -> QuotaReading | None:
        """What is known of the account's quota now; never a call. None before the first answer.

        Raises:
            KeyError: The account has no source.
        """
        self.note_check(account)
        entry = self._entries[account]
        if entry.reading is None:
            return None
        if entry.reading.label is TruthLabel.ESTIMATED:
            return entry.reading
        return as_of(entry.reading, ttl_s=entry.watch.source.ttl_s, now=self._clock.time())

    def note_check(self, account: str) -> None:
        """Count a check of the account's quota: somebody relied on what is known of it now.

        Raises:
            KeyError: The account has no source.
        """
        entry = self._entries[account]
        self._checks += 1
        if entry.reading is not None and self._clock.monotonic() <= entry.holds_until:
            self._from_cache += 1

    def tick(self) -> None:
        """Start what is due. The background task does so every second."""
        now = self._clock.monotonic()
        while self._queue and self._queue[0][0] <= now:
            due, _, account = heapq.heappop(self._queue)
            entry = self._entries[account]
            # An entry that was rescheduled meanwhile has a later place in the queue as well.
            if entry.due == due and entry.task is None:
                self._start(account, entry)

    def forget(self, account: str) -> None:
        """What the account's source said last is no longer believed; it holds until it is asked again.

        Raises:
            KeyError: The account has no source.
        """
        self._entries[account].answer = None

    async def refresh_now(self, account: str) -> QuotaReading:
        """Ask the account's source at once, or join the call that is under way.

        Returns:
            What holds then: the answer, or what its failing makes of what was known.

        Raises:
            KeyError: The account has no source.
            RuntimeError: The refresher is closed.
        """
        entry = self._entries[account]
        if self._closed:
            raise RuntimeError("the quota refresher is closed")
        task = entry.task or self._start(account, entry)
        # A caller that goes away must not end the call for the others.
        return await asyncio.shield(task)

    async def settled(self) -> None:
        """Wait until no call is under way."""
        while tasks := [entry.task for entry in self._entries.values() if entry.task is not None]:
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(_TICK_S)

    def _schedule(self, account: str, due: float) -> None:
        self._entries[account].due = due
        heapq.heappush(self._queue, (due, next(self._order), account))

    def _start(self, account: str, entry: _Entry) -> asyncio.Task[QuotaReading]:
        entry.task = asyncio.create_task(self._refresh(account, entry), name=f"smartfallback-quota-{account}")
        return entry.task

    async def _refresh(self, account: str, entry: _Entry) -> QuotaReading:
        try:
            async with self._gate:
                try:
                    reading = await self._ask(entry)
                except QuotaSourceError as error:
                    reading = self._failed(account, entry, error)
                else:
                    reading = self._answered(account, entry, reading)
        finally:
            entry.task = None
        entry.reading = reading
        self._on_reading(reading)
        return reading

    async def _ask(self, entry: _Entry) -> QuotaReading:
        account, source = entry.watch
        self._calls += 1
        if self._on_asked is not None:
            self._on_asked(account.id)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await source.read(account)
        except TimeoutError:
            message = f"no answer within {self._timeout_s:g} s"
            fault = QuotaFault.TIMEOUT
        except QuotaSourceError:
            raise
        except Exception as error:
            # A fault in one source's reader must not end the watch over the others.
            message, fault = f"{type(error).__name__} while reading the quota", QuotaFault.MALFORMED
        raise QuotaSourceError(message, fault)

    def _answered(self, account: str, entry: _Entry, reading: QuotaReading) -> QuotaReading:
        now = self._clock.monotonic()
        entry.holds_until = now + entry.watch.source.ttl_s
        entry.failures = 0
        self._schedule(account, now + entry.watch.source.ttl_s * self._rng.uniform(*_EARLY))
        if reading.label is TruthLabel.UNKNOWN and entry.answer is not None:
            # An answer that names no number must not keep the last one looking fresh for ever.
            return after_failure(
                entry.answer, reading, ttl_s=entry.watch.source.ttl_s, now=self._clock.time()
            )
        entry.answer = reading
        return reading

    def _failed(self, account: str, entry: _Entry, error: QuotaSourceError) -> QuotaReading:
        self._failures += 1
        entry.failures += 1
        spec, source = entry.watch
        at = self._clock.time()
        missing = error.kind is QuotaFault.MISSING
        if missing:
            entry.holds_until = self._clock.monotonic() + source.missing_retry_s
            wait = source.missing_retry_s * self._rng.uniform(*_EARLY)
        else:
            backoff = ExponentialBackoff(min(_FIRST_RETRY_S, source.ttl_s), source.ttl_s, jitter=False)
            wait = backoff.ceiling(entry.failures) * self._rng.uniform(*_EARLY)
        self._schedule(account, self._clock.monotonic() + wait)
        note = f"{source.name}: {error}"
        if missing and not source.estimates_when_missing and entry.answer is None:
            return QuotaReading(spec.id, source.name, TruthLabel.UNKNOWN, at, note=note)
        estimate = assumed(spec.id, source.name, spec.quota, source.assumed_kind, at, note)
        return after_failure(entry.answer, estimate, ttl_s=source.ttl_s, now=at)
