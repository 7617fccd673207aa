"""The two kinds of 429, as the providers word them: who rests, and until when, to the second."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from smartfallback import (
    CooldownStarted,
    ErrorCategory,
    Orchestrator,
    QuotaStatus,
    RequestError,
    SkipReason,
    TruthLabel,
)
from smartfallback.model.specs import QuotaSourceRule
from smartfallback.providers.gemini_errors import next_pacific_midnight
from smartfallback.simulation.faults import BurstLimit, Fault, QuotaWall, WaitForm
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import DialectName
from support.clock import EPOCH, FakeClock
from support.lab_systems import chain
from support.quota_scene import (
    GEMINI,
    MODEL,
    OPENAI,
    Scene,
    account_of,
    pool_at,
    running,
    upstream,
    upstream_account,
)

NAMES = ("a-1", "a-2", "b-1")
LONG_S = 391_668.0
OTHER = "gemini-2.5-pro"


@pytest.fixture(params=[GEMINI, OPENAI])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Scene]]:
    name = request.param
    clock = FakeClock()
    async with system(name, clock) as s:
        yield name, s


@pytest.fixture
async def gemini() -> AsyncIterator[Scene]:
    async with system(GEMINI, FakeClock()) as s:
        yield s


@asynccontextmanager
async def system(name: str, clock: FakeClock) -> AsyncIterator[Scene]:
    """``a-1`` and ``a-2`` of one project and ``b-1`` of another, on the own count."""
    entries = [upstream_account(entry, quota=None) for entry in NAMES]
    accounts = [account_of(entry, project=entry.id[0]) for entry in entries]
    async with Lab(clock, random.Random(1), [upstream(DialectName(name), *entries)]) as lab:
        pool = pool_at(lab, name, *accounts, quota_source=QuotaSourceRule.NONE)
        orchestrator = Orchestrator(chain(pool), clock=clock, rng=random.Random(1))
        async with running(lab, clock, orchestrator) as s:
            yield s


async def refused(s: Scene, api: str, fault: Fault, **fields: object) -> ErrorCategory:
    """What the first account's answer is taken for, while its upstream has the fault."""
    active = s.lab.set_fault(api, fault, "a-1")
    with pytest.raises(RequestError) as caught:
        await s.ask(pin="a-1", **fields)
    s.lab.lift(active)
    return caught.value.failure.category


async def answers(s: Scene, **fields: object) -> set[str]:
    """Who answers now when asked by name."""
    found = set()
    for name in NAMES:
        try:
            found.add((await s.ask(pin=name, **fields)).account)
        except RequestError:
            continue
    return found


WAITS = [
    BurstLimit(9.0, WaitForm.SECONDS),
    BurstLimit(9.0, WaitForm.DATE),
    BurstLimit(9.0, WaitForm.BODY),
    BurstLimit(7_999.0, WaitForm.SECONDS),
    BurstLimit(7_999.0, WaitForm.BODY),
]


@pytest.mark.parametrize("fault", WAITS, ids=str)
async def test_a_burst_rests_until_its_stated_end_and_no_second_longer(
    api: tuple[str, Scene], fault: BurstLimit
):
    name, s = api
    assert await refused(s, name, fault) is ErrorCategory.RATE_LIMIT
    view = s.account("a-1")
    assert view.cooldown_until == pytest.approx(s.clock.time() + fault.retry_after_s, abs=1e-6)
    assert view.quota.status is not QuotaStatus.EXHAUSTED
    assert view.quota.exhausted_until is None
    s.clock.advance(fault.retry_after_s - 0.5)
    assert "a-1" not in await answers(s)
    s.clock.advance(0.6)
    assert "a-1" in await answers(s)


async def test_a_burst_that_states_no_wait_rests_as_long_as_the_pool_says(api: tuple[str, Scene]):
    name, s = api
    assert await refused(s, name, BurstLimit(9.0, WaitForm.NONE)) is ErrorCategory.RATE_LIMIT
    assert s.account("a-1").cooldown_until == pytest.approx(s.clock.time() + 5.0, abs=1e-6)


async def test_a_burst_of_a_gemini_project_rests_all_its_accounts_and_no_others(gemini: Scene):
    s = gemini
    await refused(s, GEMINI, BurstLimit(9.0))
    assert await answers(s) == {"b-1"}
    assert {(await s.ask()).account for _ in range(6)} == {"b-1"}
    told = {event.account for event in s.news() if isinstance(event, CooldownStarted)}
    assert told == {"a-1", "a-2"}
    s.clock.advance(9.1)
    assert await answers(s) == set(NAMES)


async def test_a_burst_that_names_no_quota_is_the_account_s_alone(gemini: Scene):
    await refused(gemini, GEMINI, BurstLimit(9.0, details=False))
    assert await answers(gemini) == {"a-2", "b-1"}


async def test_a_burst_of_one_model_leaves_the_others_alone(gemini: Scene):
    s = gemini
    await refused(s, GEMINI, BurstLimit(9.0, model=OTHER), model=OTHER)
    assert await answers(s, model=OTHER) == {"b-1"}
    assert await answers(s, model=MODEL) == set(NAMES)
    s.clock.advance(9.1)
    assert await answers(s, model=OTHER) == set(NAMES)


async def test_a_wall_of_a_gemini_project_exhausts_all_its_accounts_until_its_stated_end(gemini: Scene):
    s = gemini
    assert await refused(s, GEMINI, QuotaWall(LONG_S)) is ErrorCategory.QUOTA_EXHAUSTED
    for name in ("a-1", "a-2"):
        view = s.account(name)
        assert view.quota.status is QuotaStatus.EXHAUSTED
        assert view.quota.exhausted_until == pytest.approx(s.clock.time() + LONG_S, abs=0.02)
        assert view.quota.bound is not None
        assert view.quota.bound.label is TruthLabel.LEARNED
        assert view.skip is not None
        assert view.skip.reason is SkipReason.QUOTA_EXHAUSTED
    assert s.account("b-1").skip is None
    assert await answers(s) == {"b-1"}
    s.clock.advance(LONG_S - 1)
    assert await answers(s) == {"b-1"}
    s.clock.advance(1.1)
    assert "a-1" in await answers(s)


async def test_a_daily_wall_lasts_until_pacific_midnight_whatever_delay_it_states(gemini: Scene):
    s = gemini
    assert await refused(s, GEMINI, QuotaWall()) is ErrorCategory.QUOTA_EXHAUSTED
    view = s.account("a-2")
    assert view.quota.exhausted_until == next_pacific_midnight(EPOCH) == EPOCH + 20 * 3_600
    s.clock.advance(32)
    assert await answers(s) == {"b-1"}


async def test_a_wall_of_another_model_leaves_the_pool_s_own_alone(gemini: Scene):
    s = gemini
    await refused(s, GEMINI, QuotaWall(LONG_S), model=OTHER)
    assert await answers(s, model=OTHER) == {"b-1"}
    assert await answers(s) == set(NAMES)
    assert s.account("a-1").quota.status is not QuotaStatus.EXHAUSTED


async def test_a_wall_of_an_openai_account_is_its_own():
    async with system(OPENAI, FakeClock()) as s:
        assert await refused(s, OPENAI, QuotaWall(LONG_S)) is ErrorCategory.QUOTA_EXHAUSTED
        assert s.account("a-1").quota.exhausted_until == s.clock.time() + LONG_S
        assert await answers(s) == {"a-2", "b-1"}


async def test_a_wall_in_the_way_costs_the_caller_nothing(api: tuple[str, Scene]):
    name, s = api
    s.lab.set_fault(name, QuotaWall(LONG_S), "a-1")
    for _ in range(20):
        reply = await s.ask()
        assert len(reply.attempts) <= 2
    assert s.lab.counters(name, "a-1").requests <= 1
