"""Quota readings at work in the engine: sources in the background, headers, the operator's hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from smartfallback import (
    AccountSpec,
    CorrectQuota,
    Orchestrator,
    QuotaCorrected,
    QuotaHeard,
    QuotaStatus,
    QuotaUnit,
    RefreshQuota,
    SkipReason,
    SystemSpec,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.quota import QuotaReading, WindowReading
from smartfallback.providers.base import Chunk
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
from smartfallback.quota_sources.refresher import Watch
from support.clock import FakeClock
from support.scripted import ANSWER, Pause, ask, pool, system

WEEKLY = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000, "sun 00:00 UTC"),)


class Source:
    """A quota source that says what the test wants."""

    name = "test source"
    ttl_s = 300.0
    missing_retry_s = 30.0
    estimates_when_missing = True
    assumed_kind = WindowKind.MONTH

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.says: float | QuotaSourceError | Pause = 10.0
        self.asked = 0

    async def read(self, account: AccountSpec) -> QuotaReading:
        self.asked += 1
        read_at = self._clock.time()
        if isinstance(self.says, Pause):
            self.says.reached.set()
            await self.says.go_on.wait()
        if isinstance(self.says, QuotaSourceError):
            raise self.says
        percent = self.says if isinstance(self.says, float) else 10.0
        window = WindowReading("week", WindowKind.WEEK, QuotaUnit.TOKENS, percent_used=percent)
        return QuotaReading(account.id, self.name, TruthLabel.REPORTED, read_at, (window,))

    async def aclose(self) -> None:
        pass


@pytest.fixture
def source(clock: FakeClock) -> Source:
    return Source(clock)


@pytest.fixture
async def begin(clock, upstream, source) -> AsyncIterator[Callable[[SystemSpec], object]]:
    async with AsyncExitStack() as stack:

        async def started(spec: SystemSpec) -> Orchestrator:
            return await stack.enter_async_context(
                Orchestrator(
                    spec,
                    clock=clock,
                    rng=random.Random(1),
                    provider_factory=upstream.provider,
                    source_factory=lambda pool, _: {
                        account.id: Watch(account, source) for account in pool.accounts
                    },
                )
            )

        yield started


async def heard(events) -> QuotaHeard:
    """The next news of a quota source."""
    async with asyncio.timeout(5):
        while True:
            for event in events.drain()[0]:
                if isinstance(event, QuotaHeard):
                    return event
            await asyncio.sleep(0.01)


async def test_a_reported_quota_replaces_the_own_count_and_own_use_is_added(begin, clock, source):
    source.says = 40.0
    orchestrator = await begin(system(pool("main", AccountSpec("a-1", quota=WEEKLY))))
    news = await heard(orchestrator.subscribe())
    assert (news.account, news.label, news.percent_used) == ("a-1", TruthLabel.REPORTED, 40.0)
    clock.advance(1)
    await orchestrator.chat(ask())
    account = orchestrator.snapshot().account("a-1")
    window = account.quota.bound
    assert window.used == 40_000 + 15
    assert window.label is TruthLabel.REPORTED
    assert window.read_at == clock.time() - 1
    assert account.quota_source == "test source"


async def test_a_source_that_hangs_delays_no_request(begin, source):
    source.says = Pause()
    orchestrator = await begin(system(pool("main", AccountSpec("a-1", quota=WEEKLY))))
    async with asyncio.timeout(5):
        await source.says.reached.wait()
        assert (await orchestrator.chat(ask())).account == "a-1"
    assert orchestrator.snapshot().account("a-1").quota.bound.label is TruthLabel.MEASURED


async def test_a_failing_source_leaves_a_pessimistic_estimate_that_is_still_usable(begin, source):
    source.says = QuotaSourceError("the tool is not installed", QuotaFault.MISSING)
    orchestrator = await begin(system(pool("main", "a-1")))
    news = await heard(orchestrator.subscribe())
    assert (news.label, news.percent_used) == (TruthLabel.ESTIMATED, 80.0)
    account = orchestrator.snapshot().account("a-1")
    assert account.quota.bound.percent == 80.0
    assert account.quota.bound.resets_at is None
    assert account.quota.status is QuotaStatus.WARNING
    assert "not installed" in account.quota_note
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_what_was_missing_is_noticed_when_it_comes(begin, clock, source):
    source.says = QuotaSourceError("the tool is not installed", QuotaFault.MISSING)
    orchestrator = await begin(system(pool("main", "a-1")))
    events = orchestrator.subscribe()
    assert (await heard(events)).label is TruthLabel.ESTIMATED
    source.says = 25.0
    clock.advance(40)
    assert (await heard(events)).label is TruthLabel.REPORTED
    assert orchestrator.snapshot().account("a-1").quota.bound.percent == 25.0


async def percent_of(orchestrator: Orchestrator, account_id: str, percent: float) -> None:
    """Wait until the account shows that percentage."""
    while True:
        account = orchestrator.snapshot().account(account_id)
        if account is not None and account.quota.bound and account.quota.bound.percent == percent:
            return
        await asyncio.sleep(0.01)


async def test_the_operator_refreshes_a_quota(begin, clock, source):
    orchestrator = await begin(system(pool("main", AccountSpec("a-1", quota=WEEKLY))))
    events = orchestrator.subscribe()
    await heard(events)
    asked = source.asked
    source.says = 55.0
    clock.advance(1)
    assert orchestrator.execute(RefreshQuota("a-1")).ok
    async with asyncio.timeout(5):
        await percent_of(orchestrator, "a-1", 55.0)
    assert source.asked == asked + 1


async def test_an_account_without_a_source_can_not_be_refreshed(start):
    orchestrator = await start(system(pool("main", "a-1")))
    result = orchestrator.execute(RefreshQuota("a-1"))
    assert not result.ok
    assert "own count" in result.message


async def test_the_operator_corrects_a_quota_and_selection_follows(start, clock):
    accounts = [AccountSpec(name, quota=WEEKLY) for name in ("a-1", "a-2")]
    orchestrator = await start(system(pool("main", *accounts)))
    events = orchestrator.subscribe()
    assert orchestrator.execute(CorrectQuota("a-1", 97.0)).ok
    corrected = [event for event in events.drain()[0] if isinstance(event, QuotaCorrected)]
    assert [(event.account, event.used_before, event.used) for event in corrected] == [("a-1", 0, 97_000)]
    assert orchestrator.snapshot().account("a-1").skip.reason is SkipReason.HARD_LIMIT
    assert {(await orchestrator.chat(ask())).account for _ in range(10)} == {"a-2"}
    assert orchestrator.execute(CorrectQuota("a-1", 5.0)).ok
    assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (CorrectQuota("a-1", -3), "must be from 0 to 1000, not -3"),
        (CorrectQuota("a-1", float("nan")), "must be from 0 to 1000"),
        (CorrectQuota("a-1", 10, window=4), "has 1 quota windows"),
        (CorrectQuota("b-1", 10), "has 0 quota windows"),
        (CorrectQuota("nobody", 10), "there is no account 'nobody'"),
    ],
)
async def test_a_wrong_correction_is_refused(start, command, says):
    orchestrator = await start(system(pool("main", AccountSpec("a-1", quota=WEEKLY), "b-1")))
    result = orchestrator.execute(command)
    assert not result.ok
    assert says in result.message


async def test_rate_limit_headers_are_shown_and_never_bind(start, upstream):
    limit = WindowReading("requests", None, QuotaUnit.REQUESTS, used=599.0, limit=600.0)
    upstream.always("a-1", [Chunk(limits=(limit,)), *ANSWER])
    orchestrator = await start(system(pool("main", AccountSpec("a-1", quota=WEEKLY))))
    await orchestrator.chat(ask())
    account = orchestrator.snapshot().account("a-1")
    assert account.limits == (limit,)
    assert account.quota.bound.percent < 1
    assert account.skip is None


async def test_headers_count_when_they_arrive_not_when_their_answer_ends(start, upstream, clock):
    def limit(used: float) -> WindowReading:
        return WindowReading("tokens-day", WindowKind.DAY, QuotaUnit.TOKENS, used=used, limit=10_000.0)

    day = (WindowSpec(WindowKind.DAY, QuotaUnit.TOKENS, 10_000, "00:00 UTC"),)
    slow = Pause()
    upstream.queue("a-1", [Chunk(limits=(limit(1_000.0),)), Chunk("Hel"), slow, *ANSWER])
    upstream.queue("a-1", [Chunk(limits=(limit(6_000.0),)), *ANSWER])
    orchestrator = await start(system(pool("main", AccountSpec("a-1", quota=day))))
    first = asyncio.create_task(orchestrator.chat(ask(max_output_tokens=10)))
    await slow.reached.wait()
    clock.advance(5)
    await orchestrator.chat(ask(max_output_tokens=10))
    assert orchestrator.snapshot().account("a-1").quota.bound.used == 6_015
    clock.advance(5)
    slow.go_on.set()
    await first
    assert orchestrator.snapshot().account("a-1").quota.bound.used == 6_030
