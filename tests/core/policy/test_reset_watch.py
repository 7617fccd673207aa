"""An account's way back after a reset, as a state machine."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import QuotaReading, QuotaUnit, TruthLabel, WindowKind, WindowReading
from smartfallback.policy.quota_merge import Tracked
from smartfallback.policy.reset_watch import (
    CANARY_LEASE_S,
    FIRST_RETRY_S,
    MAX_RETRY_S,
    READING_LIMIT_S,
    ResetState,
    ResetWatch,
    reset_seen,
    retry_wait,
)

NOW = 5_000.0
WALL = 1_790_000_000.0


def test_exactly_one_request_is_let_through_until_it_is_answered():
    watch = ResetWatch(NOW, 1.0)
    assert watch.admits_at(NOW) == NOW
    watch.admitted("canary", NOW)
    assert watch.canary_running(NOW)
    assert watch.admits_at(NOW + 1) == NOW + CANARY_LEASE_S
    assert not watch.answered("another", NOW + 2)
    assert watch.answered("canary", NOW + 3)
    assert watch.state is ResetState.RAMPING
    assert not watch.answered("canary", NOW + 4)


def test_a_canary_that_ends_without_a_word_on_the_quota_makes_place():
    watch = ResetWatch(NOW, 1.0)
    watch.admitted("canary", NOW)
    watch.released("another")
    assert watch.admits_at(NOW) > NOW
    watch.released("canary")
    assert watch.admits_at(NOW) == NOW


def test_a_silent_canary_cannot_wedge_it():
    watch = ResetWatch(NOW, 1.0)
    watch.admitted("canary", NOW)
    later = NOW + CANARY_LEASE_S
    assert watch.admits_at(later) == later
    watch.admitted("second", later)
    assert not watch.answered("canary", later)
    assert watch.answered("second", later)


def test_a_reading_is_waited_for_only_so_long():
    watch = ResetWatch(NOW, 1.0, asked=True)
    assert watch.reading_awaited(NOW)
    assert watch.admits_at(NOW) == NOW + READING_LIMIT_S
    assert watch.admits_at(NOW + READING_LIMIT_S) == NOW + READING_LIMIT_S
    watch = ResetWatch(NOW, 1.0, asked=True)
    watch.no_reading()
    assert watch.admits_at(NOW) == NOW


def test_a_reading_that_shows_the_reset_starts_the_ramp_at_once():
    watch = ResetWatch(NOW, 1.0, asked=True)
    watch.validated(NOW + 2)
    assert watch.state is ResetState.RAMPING
    assert watch.admits_at(NOW + 2) == NOW + 2
    assert not watch.over(NOW + 100)
    assert watch.over(NOW + 122)


def test_a_reading_no_lower_than_before_the_reset_contradicts_it():
    watch = ResetWatch(NOW, 1.0, asked=True, before=88.0)
    assert watch.contradicted(88.0, 95.0)
    assert watch.contradicted(87.5, 95.0)
    assert not watch.contradicted(80.0, 95.0)
    assert ResetWatch(NOW, 1.0).contradicted(95.0, 95.0)
    assert not ResetWatch(NOW, 1.0).contradicted(94.0, 95.0)


def test_results_that_come_in_together_count_as_one():
    watch = ResetWatch(NOW, 1.0)
    rng = random.Random(1)
    assert watch.overdue(NOW, rng)
    retry_at = watch.retry_at
    assert not any(watch.overdue(NOW, rng) for _ in range(49))
    assert (watch.tries, watch.retry_at) == (1, retry_at)
    assert not watch.overdue(NOW, rng, retry_at + 500)
    assert watch.retry_at == retry_at + 500


def test_each_further_failure_waits_longer_and_success_forgets_them():
    watch = ResetWatch(NOW, 1.0)
    rng = random.Random(2)
    now, waits = NOW, []
    for _ in range(10):
        watch.overdue(now, rng)
        waits.append(watch.retry_at - now)
        now = watch.retry_at
        watch.retry(now, asked=False)
        watch.admitted("canary", now)
    assert waits == sorted(waits)
    assert waits[-1] == MAX_RETRY_S
    assert watch.answered("canary", now)
    assert watch.tries == 0


def test_what_the_provider_states_is_taken_to_the_second():
    watch = ResetWatch(NOW, 1.0)
    watch.overdue(NOW, random.Random(3), NOW + 7_999)
    assert watch.admits_at(NOW) == NOW + 7_999


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_waits_stay_between_a_minute_and_an_hour(tries, seed):
    assert FIRST_RETRY_S <= retry_wait(tries, random.Random(seed)) <= MAX_RETRY_S


ACTIONS = ("admit", "answer", "release", "overdue", "retry", "validated", "no_reading", "wait")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), max_size=40), st.booleans(), st.integers(0, 2**32))
def test_while_validating_never_two_requests_run_and_it_always_admits_again(actions, asked, seed):
    rng = random.Random(seed)
    watch = ResetWatch(NOW, 1.0, asked=asked)
    now, running = NOW, None
    for number, action in enumerate(actions):
        if action == "admit" and watch.admits_at(now) <= now:
            if watch.state is ResetState.VALIDATING:
                assert running is None or not watch.canary_running(now)
                running = number
            watch.admitted(number, now)
        elif action == "answer" and running is not None:
            if watch.answered(running, now):
                assert watch.state is ResetState.RAMPING
            running = None
        elif action == "release" and running is not None:
            watch.released(running)
            running = None
        elif action == "overdue":
            watch.overdue(now, rng)
            running = None
        elif action == "retry" and watch.state is ResetState.OVERDUE and now >= watch.retry_at:
            watch.retry(now, asked=asked)
        elif action == "validated":
            watch.validated(now)
            running = None
        elif action == "no_reading":
            watch.no_reading()
        elif action == "wait":
            now += rng.uniform(0, 100)
        assert now <= watch.admits_at(now) <= now + MAX_RETRY_S


def tracked(used: float, label: TruthLabel, read_at: float | None = WALL - 600) -> Tracked:
    return Tracked(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000.0, used, label, read_at, WALL - 3 * 86_400, False)


def reading(
    percent: float, label: TruthLabel = TruthLabel.REPORTED, resets_at: float | None = None
) -> QuotaReading:
    window = WindowReading(
        "week", WindowKind.WEEK, QuotaUnit.TOKENS, percent_used=percent, resets_at=resets_at
    )
    return QuotaReading("a-1", "provider", label, WALL, (window,))


@pytest.mark.parametrize(
    ("before", "said", "was_out", "wall_until", "seen"),
    [
        pytest.param(tracked(960, TruthLabel.REPORTED), reading(2), True, None, True, id="full-to-empty"),
        pytest.param(
            tracked(960, TruthLabel.MEASURED, None), reading(2), True, None, True, id="own-count-was-out"
        ),
        pytest.param(tracked(700, TruthLabel.REPORTED), reading(3), False, None, True, id="in-service"),
        pytest.param(tracked(700, TruthLabel.MEASURED, None), reading(3), False, None, False, id="corrected"),
        pytest.param(
            tracked(800, TruthLabel.ESTIMATED), reading(3), False, None, False, id="estimate-replaced"
        ),
        pytest.param(tracked(960, TruthLabel.REPORTED), reading(90), True, None, False, id="small-drop"),
        pytest.param(tracked(960, TruthLabel.REPORTED), reading(98), True, None, False, id="rise"),
        pytest.param(tracked(10, TruthLabel.REPORTED), reading(0), False, None, False, id="nothing-to-reset"),
        pytest.param(
            tracked(960, TruthLabel.REPORTED),
            reading(2, TruthLabel.ESTIMATED),
            True,
            None,
            False,
            id="no-report",
        ),
        pytest.param(
            tracked(960, TruthLabel.REPORTED, WALL + 5), reading(2), True, None, False, id="older-than-known"
        ),
        pytest.param(
            tracked(5, TruthLabel.MEASURED, None),
            reading(4, resets_at=WALL + 7 * 86_400),
            True,
            WALL + 86_400,
            True,
            id="moved-past-the-wall",
        ),
        pytest.param(
            tracked(5, TruthLabel.MEASURED, None),
            reading(4, resets_at=WALL + 86_400),
            True,
            WALL + 86_400,
            False,
            id="another-limits-wall",
        ),
    ],
)
def test_an_early_reset_is_told_from_a_correction(before, said, was_out, wall_until, seen):
    found = reset_seen((before,), said, was_out=was_out, wall_until=wall_until)
    assert (found is before) is seen
