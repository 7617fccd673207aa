"""Instances go by the store's clock, whatever their machine's calendar says and does."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from smartfallback import AccountSpec, AdminState, Drain, ErrorCategory, QuotaUnit, WindowKind, WindowSpec
from smartfallback.clock import SharedClock
from smartfallback.model.commands import ResetCircuit, Resume
from support.clock import FakeClock
from support.scripted import pool, system
from support.sharers import OffClock, make, of_account, sharing, told
from support.waiting import until

HOUR = 3_600.0


def test_until_it_is_set_it_shows_the_machines_time():
    machine = FakeClock()
    clock = SharedClock(machine)
    machine.step_wall_clock(HOUR)
    assert clock.time() == machine.time()
    assert clock.offset_s == 0.0


def test_once_set_it_runs_on_whatever_the_calendar_does():
    machine = FakeClock()
    clock = SharedClock(machine)
    assert clock.set(-HOUR) == -HOUR
    set_to = clock.time()
    machine.step_wall_clock(5 * HOUR)
    machine.advance(10)
    assert clock.time() == set_to + 10
    assert clock.offset_s == -6 * HOUR
    # Whoever asks again hears the same, and nothing moves.
    assert clock.set(clock.offset_s) == pytest.approx(0.0)


def test_alone_it_follows_a_machine_that_has_slept_and_no_other_step():
    machine = FakeClock()
    clock = SharedClock(machine)
    clock.set(100.0)
    before = clock.time()
    machine.step_wall_clock(-HOUR)  # somebody has corrected it
    assert clock.go_on_alone() == 0.0
    assert clock.time() == before
    machine.step_wall_clock(8 * HOUR)  # its monotonic clock stood still meanwhile
    assert clock.go_on_alone() == 8 * HOUR
    assert clock.time() == before + 8 * HOUR
    assert clock.go_on_alone() == 0.0


def ending_soon(within_s: float) -> WindowSpec:
    """A daily window that ends at the next full minute that is at least so many seconds away."""
    ends = datetime.now(UTC) + timedelta(seconds=within_s)
    return WindowSpec(WindowKind.DAY, QuotaUnit.TOKENS, 10_000, f"{ends:%H:%M} UTC")


async def test_a_window_does_not_begin_early_for_a_machine_that_is_ahead(url):
    cloud = pool("cloud", AccountSpec("a1", quota=(ending_soon(1_800),)), "mark", default_output_tokens=10)
    fast, right = OffClock(HOUR), OffClock()
    prefix = "ahead"
    one = make("right", url, prefix, system_spec=system(cloud), clock=right)
    two = make("ahead", url, prefix, system_spec=system(cloud), clock=fast)
    async with one.orchestrator, two.orchestrator:
        assert await one.answered("a1")
        assert await two.answered("a1")
        for sharer in (one, two):
            await until(lambda sharer=sharer: sharer.account("a1").quota.windows[0].used == 30.0)
        ends = one.account("a1").quota.windows[0].resets_at
        assert two.account("a1").quota.windows[0].resets_at == ends
        # Now it is set right, and then wrong again, while all runs.
        for off_s in (0.0, 2 * HOUR, -HOUR):
            fast.off_s = off_s
            assert await two.answered("a1")
            two.orchestrator._maintenance.check(time.monotonic())
            assert two.account("a1").quota.windows[0].resets_at == ends
        await until(lambda: one.account("a1").quota.windows[0].used == 75.0)
        assert two.account("a1").quota.windows[0].used == 75.0


async def test_a_step_of_one_machines_calendar_moves_no_rest_of_anybody(url):
    stepping = OffClock()
    prefix = "stepping"
    one, two = make("A", url, prefix, clock=stepping), make("B", url, prefix)
    async with one.orchestrator, two.orchestrator:
        await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=600.0)
        await told(one, two)
        ends = two.account("a1").cooldown_until
        for off_s in (HOUR, -HOUR, 0.0):
            stepping.off_s = off_s
            # Touched, so that it is looked at, and told if it seemed to be another.
            one.do(Drain("a1"))
            one.do(Resume("a1"))
            await told(one, two)
            for sharer in (one, two):
                assert sharer.account("a1").cooldown_until == pytest.approx(ends, abs=1)


@pytest.mark.parametrize("off_s", [HOUR, -HOUR])
async def test_words_of_a_machine_whose_clock_nobody_could_set_yet_keep_their_order(server, off_s):
    server.stop(save=True)
    wrong = make("wrong", server.url, "words", clock=OffClock(off_s))
    async with wrong.orchestrator:
        wrong.do(Drain("a1", "first"))
        wrong.do(Drain("a2", "first"))
        await wrong.fails("a3", ErrorCategory.RATE_LIMIT, retry_after_s=600.0)
        ends = time.time() + 600
        await until(lambda: wrong.has_to_tell("account:a3"))
        server.start()
        await until(lambda: wrong.store.status.usable)
        right = make("right", server.url, "words")
        async with right.orchestrator:
            await until(lambda: right.account("a1").admin is AdminState.DRAINED)
            await until(lambda: right.account("a3").cooldown_until)
            assert right.account("a3").cooldown_until == pytest.approx(ends, abs=30)
            # The later word holds, on either side.
            right.do(Resume("a1"))
            wrong.do(Resume("a2"))
            right.do(ResetCircuit(of_account("a3")))
            await told(right, wrong)
            await told(wrong, right)
            for sharer in (right, wrong):
                assert sharer.account("a1").admin is AdminState.ACTIVE
                assert sharer.account("a2").admin is AdminState.ACTIVE
                assert sharer.account("a3").cooldown_until is None


async def test_all_show_one_time(url):
    async with sharing(url) as (one, two):
        late = make("late", url, one.prefix, clock=OffClock(-HOUR))
        async with late.orchestrator:
            assert late.orchestrator.snapshot().at == pytest.approx(time.time(), abs=5)
            await until(lambda: len(two.orchestrator.snapshot().store.instances) == 3)
            started = {each.name: each.started_at for each in two.orchestrator.snapshot().store.instances}
            assert started["late"] == pytest.approx(time.time(), abs=30)
