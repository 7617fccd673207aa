"""The cache asks in the background, once per account at a time, and says how far it can be trusted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from smartfallback.model.quota import (
    QuotaReading,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowReading,
    WindowSpec,
)
from smartfallback.model.specs import AccountSpec
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
from smartfallback.quota_sources.refresher import QuotaRefresher, Watch
from support.clock import FakeClock
from support.quota_sources import ScriptedSource

WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1000, "sun 00:00 UTC")
ACCOUNT = AccountSpec("ag-1", quota=(WEEK,))
TTL_S = 300.0


@dataclass
class Scene:
    """A refresher whose clock the test moves, and everything that it told."""

    refresher: QuotaRefresher
    source: ScriptedSource
    clock: FakeClock
    told: list[QuotaReading]

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.refresher.tick()
        await self.refresher.settled()

    @property
    def current(self) -> QuotaReading:
        reading = self.refresher.current("ag-1")
        assert reading is not None
        return reading


class Upstream:
    """What a scripted source answers: a percentage, or an error."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.percent = 30.0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self, account: AccountSpec) -> QuotaReading:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        window = WindowReading("w", WindowKind.WEEK, QuotaUnit.TOKENS, percent_used=self.percent)
        return QuotaReading(account.id, "scripted", TruthLabel.REPORTED, self.clock.time(), (window,))


@asynccontextmanager
async def scene(
    *, timeout_s: float = 5.0, accounts: int = 1, estimates_when_missing: bool = True
) -> AsyncIterator[tuple[Scene, Upstream]]:
    clock = FakeClock()
    upstream = Upstream(clock)
    source = ScriptedSource(upstream, ttl_s=TTL_S, estimates_when_missing=estimates_when_missing)
    told: list[QuotaReading] = []
    watches = {
        f"ag-{n}": Watch(AccountSpec(f"ag-{n}", quota=(WEEK,)), source) for n in range(1, accounts + 1)
    }
    refresher = QuotaRefresher(watches, clock, told.append, random.Random(1), timeout_s=timeout_s)
    try:
        yield Scene(refresher, source, clock, told), upstream
    finally:
        await refresher.aclose()


def unavailable() -> QuotaSourceError:
    return QuotaSourceError("status 503", QuotaFault.UNAVAILABLE)


async def test_an_answer_is_told_and_kept() -> None:
    async with scene() as (s, _):
        assert s.refresher.current("ag-1") is None
        await s.later(0)
        assert [(r.percent, r.label) for r in s.told] == [(30.0, TruthLabel.REPORTED)]
        assert s.current == s.told[0]


async def test_it_is_asked_again_before_its_ttl_ends_and_no_sooner() -> None:
    async with scene() as (s, upstream):
        await s.later(0)
        upstream.percent = 40.0
        await s.later(0.7 * TTL_S)
        assert s.source.reads == 1
        await s.later(0.3 * TTL_S)
        assert s.source.reads == 2
        assert s.current.percent == 40.0


async def test_refreshes_of_accounts_that_started_together_spread() -> None:
    async with scene(accounts=20) as (s, _):
        await s.later(0)
        await s.later(0.74 * TTL_S)
        counts = []
        for _ in range(25):
            before = s.source.reads
            await s.later(0.01 * TTL_S)
            counts.append(s.source.reads - before)
        assert sum(counts) >= 20
        assert max(counts) <= 8


async def test_nine_checks_in_ten_and_more_are_served_from_cache() -> None:
    async with scene() as (s, _):
        await s.later(0)
        for _ in range(3600):
            await s.later(1)
            assert s.current.age(s.clock.time()) <= TTL_S
        stats = s.refresher.stats
        assert stats.checks == 3600
        assert stats.share is not None
        assert stats.share > 0.9
        assert 3600 / TTL_S <= stats.calls <= 3600 / (0.75 * TTL_S) + 1


async def test_checks_without_a_fresh_answer_are_not_counted_as_served() -> None:
    async with scene() as (s, upstream):
        upstream.error = unavailable()
        assert s.refresher.stats.share is None
        s.refresher.current("ag-1")
        await s.later(0)
        s.refresher.current("ag-1")
        assert s.refresher.stats.share == 0.0


async def test_that_there_is_nothing_to_ask_is_knowledge_from_cache_too() -> None:
    async with scene(estimates_when_missing=False) as (s, upstream):
        upstream.error = QuotaSourceError("status 404", QuotaFault.MISSING)
        await s.later(0)
        for _ in range(200):
            await s.later(1)
            assert s.current.label is TruthLabel.UNKNOWN
        assert s.refresher.stats.share == 1.0


async def test_a_hundred_callers_at_once_make_one_call() -> None:
    async with scene() as (s, upstream):
        upstream.gate = asyncio.Event()
        callers = [asyncio.create_task(s.refresher.refresh_now("ag-1")) for _ in range(100)]
        await s.source.reached(1)
        s.refresher.tick()
        upstream.gate.set()
        readings = await asyncio.gather(*callers)
        assert {id(reading) for reading in readings} == {id(readings[0])}
        assert s.source.reads == 1
        assert len(s.told) == 1


async def test_a_caller_that_goes_away_does_not_end_the_call_of_the_others() -> None:
    async with scene() as (s, upstream):
        upstream.gate = asyncio.Event()
        gone, stays = (asyncio.create_task(s.refresher.refresh_now("ag-1")) for _ in range(2))
        await s.source.reached(1)
        gone.cancel()
        upstream.gate.set()
        assert (await stays).percent == 30.0
        assert gone.cancelled()


async def test_refreshing_on_demand_does_not_wait_for_the_ttl() -> None:
    async with scene() as (s, upstream):
        await s.later(0)
        upstream.percent = 55.0
        assert (await s.refresher.refresh_now("ag-1")).percent == 55.0
        # The refresh that was due before is not made a second time.
        await s.later(0.7 * TTL_S)
        assert s.source.reads == 2


async def test_an_unknown_account_is_refused() -> None:
    async with scene() as (s, _):
        with pytest.raises(KeyError):
            await s.refresher.refresh_now("nobody")
        with pytest.raises(KeyError):
            s.refresher.current("nobody")


async def test_a_hanging_source_gives_an_estimate_after_the_limit() -> None:
    async with scene(timeout_s=0.01) as (s, upstream):
        upstream.gate = asyncio.Event()
        await s.later(0)
        assert (s.current.percent, s.current.label) == (80.0, TruthLabel.ESTIMATED)
        assert "no answer within" in s.current.note
        assert s.source.cancelled == 1


@pytest.mark.parametrize("error", [unavailable(), ValueError("a fault in the reader"), RuntimeError()])
async def test_a_failing_source_gives_an_estimate_and_the_others_go_on(error: Exception) -> None:
    async with scene(accounts=2) as (s, upstream):
        upstream.error = error
        await s.later(0)
        assert {r.label for r in s.told} == {TruthLabel.ESTIMATED}
        assert s.refresher.stats.failures == 2


async def test_a_failing_source_is_asked_less_and_less_but_within_its_ttl() -> None:
    async with scene() as (s, upstream):
        upstream.error = unavailable()
        asked = []
        for second in range(3000):
            before = s.source.reads
            await s.later(1)
            if s.source.reads > before:
                asked.append(second)
        gaps = [b - a for a, b in pairwise(asked)]
        assert gaps[0] < 16
        assert gaps[:4] == sorted(gaps[:4])
        assert max(gaps) <= TTL_S
        assert min(gaps[6:]) >= 0.7 * TTL_S


async def test_an_answer_ages_to_stale_while_its_source_fails_and_is_fresh_again_after() -> None:
    async with scene() as (s, upstream):
        await s.later(0)
        upstream.error = unavailable()
        await s.later(TTL_S)
        assert (s.current.percent, s.current.label) == (30.0, TruthLabel.REPORTED)
        assert s.current.note
        await s.later(TTL_S + 1)
        assert (s.current.percent, s.current.label) == (30.0, TruthLabel.STALE)
        assert s.current.age(s.clock.time()) == 2 * TTL_S + 1
        assert s.told[-1].label is TruthLabel.STALE
        upstream.error = None
        await s.later(TTL_S)
        assert s.current.label is TruthLabel.REPORTED
        assert s.current.note == ""


async def test_a_missing_source_is_looked_for_again_and_noticed() -> None:
    async with scene() as (s, upstream):
        upstream.error = QuotaSourceError("not installed", QuotaFault.MISSING)
        await s.later(0)
        assert (s.current.percent, s.current.label) == (80.0, TruthLabel.ESTIMATED)
        upstream.error = None
        await s.later(ScriptedSource.missing_retry_s)
        assert (s.current.percent, s.current.label) == (30.0, TruthLabel.REPORTED)


async def test_a_source_that_may_be_missing_leaves_the_own_count_alone() -> None:
    async with scene(estimates_when_missing=False) as (s, upstream):
        upstream.error = QuotaSourceError("status 404", QuotaFault.MISSING)
        await s.later(0)
        assert (s.current.windows, s.current.label) == ((), TruthLabel.UNKNOWN)


async def test_only_so_many_calls_at_once() -> None:
    async with scene(accounts=50) as (s, upstream):
        upstream.gate = asyncio.Event()
        s.refresher.tick()
        for _ in range(5):
            await asyncio.sleep(0)
        assert s.source.reads == 8
        upstream.gate.set()
        await s.refresher.settled()
        assert s.source.reads == 50


async def test_closing_ends_every_call_and_closes_each_source_once() -> None:
    async with scene(accounts=3) as (s, upstream):
        upstream.gate = asyncio.Event()
        s.refresher.tick()
        await s.source.reached(3)
        await s.refresher.aclose()
        assert (s.source.cancelled, s.source.closed) == (3, 1)
        assert s.told == []
        with pytest.raises(RuntimeError):
            await s.refresher.refresh_now("ag-1")


async def test_the_background_task_refreshes_by_itself_and_ends_with_the_block() -> None:
    clock = FakeClock()
    answered = asyncio.Event()
    source = ScriptedSource(Upstream(clock))
    before = asyncio.all_tasks()
    async with QuotaRefresher(
        {"ag-1": Watch(ACCOUNT, source)}, clock, lambda _: answered.set(), random.Random(1)
    ):
        await answered.wait()
    assert asyncio.all_tasks() == before


async def test_the_own_use_is_marked_when_the_source_is_asked() -> None:
    clock = FakeClock()
    order: list[str] = []

    async def respond(account: AccountSpec) -> QuotaReading:
        order.append("read")
        return await Upstream(clock)(account)

    refresher = QuotaRefresher(
        {"ag-1": Watch(ACCOUNT, ScriptedSource(respond))},
        clock,
        lambda _: order.append("told"),
        random.Random(1),
        on_asked=order.append,
    )
    await refresher.refresh_now("ag-1")
    await refresher.aclose()
    assert order == ["ag-1", "read", "told"]
