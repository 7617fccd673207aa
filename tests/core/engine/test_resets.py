"""Accounts that come back after their quota began anew."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from smartfallback import (
    AccountSpec,
    ErrorCategory,
    Orchestrator,
    QuotaReset,
    QuotaUnit,
    RequestError,
    SkipReason,
    SqliteStateStore,
    TruthLabel,
    Usage,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.decisions import Rule
from smartfallback.model.events import AccountResumed, ResetOverdue, ResetValidated
from smartfallback.model.quota import QuotaReading, WindowReading
from smartfallback.providers.base import Chunk
from support.clock import FakeClock
from support.scripted import ANSWER, Pause, ScriptedUpstream, ask, failure, pool, system

HOUR = 3600.0
DAY = 24 * HOUR
SUNDAY = 5.5 * DAY
"""Seconds from the clock's Monday noon to the reset."""
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000_000, "sun 00:00 UTC")
EXHAUSTED = failure(ErrorCategory.QUOTA_EXHAUSTED, http_status=429)
OVERLOADED = failure(ErrorCategory.TRANSIENT_ERROR, http_status=503)


def weekly(*names: str, **fields: object) -> list[AccountSpec]:
    return [AccountSpec(name, quota=(WEEK,), **fields) for name in names]  # type: ignore[arg-type]


def used(orchestrator, percent: float, *names: str) -> None:
    orchestrator.preload_usage(dict.fromkeys(names, percent * 10000))


def told(events, *kinds):
    return [event for event in events.drain()[0] if isinstance(event, kinds)]


def to_reset(clock, orchestrator, after: float = 0.01) -> None:
    clock.advance(SUNDAY + after)
    orchestrator._maintenance.check(clock.monotonic())


def say(orchestrator, clock, name: str, percent: float, **fields: object) -> None:
    window = WindowReading("weekly", WindowKind.WEEK, QuotaUnit.TOKENS, percent_used=percent)
    label = fields.pop("label", TruthLabel.REPORTED)
    reading = QuotaReading(name, "its quota API", label, clock.time(), (window,))  # type: ignore[arg-type]
    orchestrator._placement.read(orchestrator._roster.accounts[name], reading)


async def test_one_canary_validates_and_the_rate_climbs_step_by_step(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    for _ in range(360):
        await orchestrator.chat(ask())
        clock.advance(10)
    events = orchestrator.subscribe()
    clock.advance(SUNDAY - HOUR)
    per_minute = []
    for _ in range(3):
        upstream.calls.clear()
        for _ in range(60):
            await orchestrator.chat(ask())
            clock.advance(1.0)
        per_minute.append(upstream.accounts_called().count("a-1"))
    assert per_minute[0] in (1, 2)
    assert per_minute[0] < per_minute[1] < per_minute[2] == 60
    assert [type(e) for e in told(events, QuotaReset, ResetValidated, AccountResumed)] == [
        QuotaReset,
        ResetValidated,
        AccountResumed,
    ]
    assert orchestrator.snapshot().account("a-1").skip is None


async def test_while_the_canary_runs_nobody_else_is_sent_and_the_others_answer(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    pause = Pause()
    upstream.queue("a-1", [pause, *ANSWER])
    canary = asyncio.create_task(orchestrator.chat(ask()))
    await pause.reached.wait()
    others = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(20)))
    assert {reply.account for reply in others} == {"b-1"}
    skip = orchestrator.snapshot().account("a-1").skip
    assert skip is not None
    assert skip.reason is SkipReason.RAMP
    pause.go_on.set()
    assert (await canary).account == "a-1"


async def test_an_answer_that_has_begun_is_proof_enough(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1"))))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    pause = Pause()
    upstream.queue("a-1", [Chunk("Hel"), pause, Chunk("lo", "stop")])
    events = orchestrator.subscribe()
    canary = asyncio.create_task(orchestrator.chat(ask()))
    await pause.reached.wait()
    assert [event.by for event in told(events, ResetValidated)] == ["a request"]
    assert (await orchestrator.chat(ask())).account == "a-1"
    pause.go_on.set()
    await canary


async def test_where_nobody_else_can_serve_callers_wait_for_the_canary_and_all_are_answered(
    start, upstream, clock
):
    orchestrator = await start(system(pool("main", *weekly("a-1"))))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    pause = Pause()
    upstream.queue("a-1", [pause, *ANSWER])
    tasks = [asyncio.create_task(orchestrator.chat(ask())) for _ in range(20)]
    await pause.reached.wait()
    await asyncio.sleep(0)
    assert len(upstream.calls) == 1
    pause.go_on.set()
    assert {reply.account for reply in await asyncio.gather(*tasks)} == {"a-1"}
    assert all(record.in_flight == 0 for record in orchestrator.snapshot().pools[0].accounts)


async def test_a_request_ahead_of_turn_says_so(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1"))))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    rules = []
    for _ in range(3):
        events = [event async for event in orchestrator.stream(ask())]
        rules.append(events[0].decision.rule)
    assert rules[1:] == [Rule.COMING_BACK] * 2


async def test_a_pinned_request_and_a_retry_are_served_in_the_ramp(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    for _ in range(4):
        assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"
    upstream.queue("a-1", [OVERLOADED])
    reply = await orchestrator.chat(ask(pin="a-1"))
    assert [record.account for record in reply.attempts] == ["a-1", "a-1"]


async def test_a_ramping_account_is_an_alternative_for_a_failed_one(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    await orchestrator.chat(ask())
    upstream.always("b-1", [failure(ErrorCategory.API_FAILURE, http_status=500)])
    reply = await orchestrator.chat(ask())
    assert [record.account for record in reply.attempts] == ["b-1", "a-1"]


async def test_a_reset_that_did_not_come_is_tried_again_with_growing_waits(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    upstream.always("a-1", [EXHAUSTED])
    events = orchestrator.subscribe()
    to_reset(clock, orchestrator)
    for _ in range(6 * 60):
        assert (await orchestrator.chat(ask())).account == "b-1"
        clock.advance(60)
    overdue = told(events, ResetOverdue)
    waits = [event.retry_at - event.at for event in overdue]
    assert [event.tries for event in overdue] == list(range(1, len(overdue) + 1))
    assert waits == sorted(waits)
    assert 60 <= waits[0] <= 75
    assert 8 <= len(waits) <= 14
    assert max(waits) <= 3600
    assert len(overdue) == upstream.accounts_called().count("a-1")
    upstream.always("a-1", ANSWER)
    for _ in range(70):
        await orchestrator.chat(ask())
        clock.advance(60)
    assert (await orchestrator.chat(ask())).account == "a-1"
    assert [event.by for event in told(events, ResetValidated)] == ["a request"]


async def test_a_wall_right_after_the_reset_that_the_own_count_cannot_explain_is_a_late_reset(
    start, upstream, clock
):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 60, "a-1")
    events = orchestrator.subscribe()
    to_reset(clock, orchestrator)
    assert (await orchestrator.chat(ask())).account == "a-1"
    clock.advance(HOUR)
    upstream.queue("a-1", [EXHAUSTED])
    assert (await orchestrator.chat(ask())).account == "b-1"
    assert [event.tries for event in told(events, ResetOverdue)] == [1]
    clock.advance(80)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_stated_wall_after_the_reset_is_kept_to_the_second(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    upstream.queue("a-1", [failure(ErrorCategory.QUOTA_EXHAUSTED, http_status=429, retry_after_s=7_999.0)])
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(7_998)
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(1.01)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_the_quota_source_validates_where_there_is_one(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    asked = []
    orchestrator._placement.resets.validate = lambda account: not asked.append(account.id)
    used(orchestrator, 96, "a-1")
    events = orchestrator.subscribe()
    to_reset(clock, orchestrator)
    assert asked == ["a-1"]
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(2)
    say(orchestrator, clock, "a-1", 0.0)
    assert [event.by for event in told(events, ResetValidated)] == ["its quota API"]
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_source_that_still_says_full_makes_the_reset_overdue_and_is_asked_again(
    start, upstream, clock
):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    asked = []
    orchestrator._placement.resets.validate = lambda account: not asked.append(clock.monotonic())
    used(orchestrator, 96, "a-1")
    events = orchestrator.subscribe()
    to_reset(clock, orchestrator)
    for _ in range(240):
        if asked and asked[-1] == clock.monotonic():
            say(orchestrator, clock, "a-1", 96.0)
        assert (await orchestrator.chat(ask())).account == "b-1"
        clock.advance(30)
        orchestrator._maintenance.check(clock.monotonic())
    overdue = told(events, ResetOverdue)
    assert len(overdue) == len(asked) >= 5
    assert "96 % used" in overdue[0].detail
    assert "a-1" not in upstream.accounts_called()
    say(orchestrator, clock, "a-1", 1.0)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_source_that_does_not_answer_leaves_it_to_a_canary(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    orchestrator._placement.resets.validate = lambda account: True
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(10.1)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_failing_source_leaves_it_to_a_canary_at_once(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    orchestrator._placement.resets.validate = lambda account: True
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    say(orchestrator, clock, "a-1", 80.0, label=TruthLabel.ESTIMATED)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_an_early_reset_that_the_provider_reports_brings_the_account_back(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 40, "a-1")
    upstream.queue("a-1", [EXHAUSTED])
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(DAY)
    assert (await orchestrator.chat(ask())).account == "b-1"
    events = orchestrator.subscribe()
    say(orchestrator, clock, "a-1", 0.5)
    assert [type(event) for event in told(events, QuotaReset, ResetValidated)] == [QuotaReset, ResetValidated]
    assert (await orchestrator.chat(ask())).account == "a-1"
    assert (await orchestrator.chat(ask())).account == "b-1"
    assert orchestrator.snapshot().account("a-1").quota.exhausted_until is None


async def test_a_reading_of_before_the_wall_does_not_lift_it(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 40, "a-1")
    window = WindowReading("weekly", WindowKind.WEEK, QuotaUnit.TOKENS, percent_used=1.0)
    asked_before = QuotaReading("a-1", "its quota API", TruthLabel.REPORTED, clock.time(), (window,))
    clock.advance(1)
    upstream.queue("a-1", [EXHAUSTED])
    await orchestrator.chat(ask())
    orchestrator._placement.read(orchestrator._roster.accounts["a-1"], asked_before)
    assert (await orchestrator.chat(ask())).account == "b-1"


async def test_a_long_wall_ends_in_a_canary_and_a_ramp_a_short_one_does_not(start, upstream, clock):
    wall = {"category": ErrorCategory.QUOTA_EXHAUSTED, "http_status": 429}
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    upstream.queue("a-1", [failure(**wall, retry_after_s=30.0)])
    await orchestrator.chat(ask())
    clock.advance(31)
    assert [(await orchestrator.chat(ask())).account for _ in range(5)] == ["a-1"] * 5
    upstream.queue("a-1", [failure(**wall, retry_after_s=7_999.0)])
    await orchestrator.chat(ask())
    clock.advance(8_000)
    assert [(await orchestrator.chat(ask())).account for _ in range(5)] == ["a-1"] + ["b-1"] * 4


async def test_accounts_in_service_are_held_to_their_usual_rate_over_the_reset(start, upstream, clock):
    """One of two begins anew: without a limit it would get its sibling's requests as well."""
    early = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000_000, "sun 00:00 UTC")
    late = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000_000, "wed 00:00 UTC")
    accounts = (AccountSpec("a-1", quota=(early,)), AccountSpec("a-2", quota=(late,)))
    for name in ("a-1", "a-2"):
        upstream.always(name, [Chunk("fine"), Chunk("", "stop", Usage(100, 100))])
    orchestrator = await start(system(pool("main", *accounts)))
    used(orchestrator, 70, "a-1", "a-2")
    clock.advance(SUNDAY - HOUR)
    for _ in range(360):
        await orchestrator.chat(ask())
        clock.advance(10)
    upstream.calls.clear()
    for _ in range(6):
        await orchestrator.chat(ask())
        clock.advance(10)
    assert upstream.accounts_called().count("a-1") <= 6
    assert upstream.accounts_called().count("a-2") >= 1
    assert len(upstream.calls) == 6


async def test_a_coming_back_does_not_make_the_chain_degraded(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    orchestrator._maintenance.check(clock.monotonic())
    assert orchestrator.snapshot().chains[0].degraded
    to_reset(clock, orchestrator)
    for _ in range(30):
        await orchestrator.chat(ask())
        orchestrator._maintenance.check(clock.monotonic())
        assert not orchestrator.snapshot().chains[0].degraded
        clock.advance(1)


async def test_a_cancelled_canary_leaves_the_place_to_the_next(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1")
    to_reset(clock, orchestrator)
    pause = Pause()
    upstream.queue("a-1", [pause])
    canary = asyncio.create_task(orchestrator.chat(ask()))
    await pause.reached.wait()
    canary.cancel()
    with pytest.raises(asyncio.CancelledError):
        await canary
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_reset_is_watched_for_after_requests_ran_across_it(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1"))))
    pause = Pause()
    upstream.queue("a-1", [Chunk("Hel"), pause, Chunk("lo", "stop", Usage(10, 5))])
    running = asyncio.create_task(orchestrator.chat(ask()))
    await pause.reached.wait()
    to_reset(clock, orchestrator)
    clock.advance(600)
    orchestrator._maintenance.check(clock.monotonic())
    pause.go_on.set()
    await running
    events = orchestrator.subscribe()
    clock.advance(7 * DAY)
    orchestrator._maintenance.check(clock.monotonic())
    assert [event.window for event in told(events, QuotaReset)] == ["week"]


async def test_a_project_that_is_still_exhausted_holds_all_its_accounts(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1", "a-2", project="p")), pool("next", "b-1")))
    used(orchestrator, 96, "a-1", "a-2")
    still = failure(ErrorCategory.QUOTA_EXHAUSTED, http_status=429, project_wide=True)
    upstream.always("a-1", [still])
    upstream.always("a-2", [still])
    to_reset(clock, orchestrator)
    for _ in range(10):
        assert (await orchestrator.chat(ask())).account == "b-1"
    assert len([name for name in upstream.accounts_called() if name != "b-1"]) == 1


async def test_nobody_left_is_an_error_not_a_wait(start, upstream, clock):
    orchestrator = await start(system(pool("main", *weekly("a-1"))))
    used(orchestrator, 96, "a-1")
    upstream.always("a-1", [EXHAUSTED])
    to_reset(clock, orchestrator)
    results = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(result, RequestError) for result in results)
    assert len(upstream.calls) == 1


def kept(tmp_path: Path, upstream: ScriptedUpstream, clock: FakeClock) -> Orchestrator:
    """An orchestrator that keeps its state in a file."""
    return Orchestrator(
        system(pool("main", *weekly("a-1")), pool("next", "b-1")),
        clock=clock,
        rng=random.Random(1),
        provider_factory=upstream.provider,
        store=SqliteStateStore(tmp_path / "state.db", clock=clock),
    )


async def test_a_reset_that_passed_while_the_console_was_off_is_validated_on_first_use(
    tmp_path, upstream, clock
):
    async with kept(tmp_path, upstream, clock) as orchestrator:
        used(orchestrator, 40, "a-1")
        assert (await orchestrator.chat(ask())).account == "a-1"
    clock.advance(SUNDAY + 30 * HOUR)
    async with kept(tmp_path, upstream, clock) as orchestrator:
        quota = orchestrator.snapshot().account("a-1").quota
        assert quota.windows[0].used == 0
        pause = Pause()
        upstream.queue("a-1", [pause, EXHAUSTED])
        canary = asyncio.create_task(orchestrator.chat(ask()))
        await pause.reached.wait()
        assert (await orchestrator.chat(ask())).account == "b-1"
        events = orchestrator.subscribe()
        pause.go_on.set()
        assert (await canary).account == "b-1"
        assert [event.tries for event in told(events, ResetOverdue)] == [1]
        clock.advance(80)
        assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_wall_that_ended_while_the_console_was_off_ends_in_a_canary_too(tmp_path, upstream, clock):
    async with kept(tmp_path, upstream, clock) as orchestrator:
        upstream.queue(
            "a-1", [failure(ErrorCategory.QUOTA_EXHAUSTED, http_status=429, retry_after_s=7_999.0)]
        )
        assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(7_998)
    async with kept(tmp_path, upstream, clock) as orchestrator:
        assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(DAY)
    async with kept(tmp_path, upstream, clock) as orchestrator:
        assert [(await orchestrator.chat(ask())).account for _ in range(3)] == ["a-1", "b-1", "b-1"]
