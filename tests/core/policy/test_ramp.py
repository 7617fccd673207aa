"""The way back of an account's traffic: how much each minute lets through, and what is usual."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.policy.ramp import (
    SLOWEST_PER_S,
    STEP_S,
    STEPS,
    UNKNOWN_PER_S,
    Ramp,
    SteadyRate,
    steady_share,
)

START = 1_000.0


def let_through(ramp: Ramp, arrivals: list[float]) -> list[float]:
    taken = []
    for at in arrivals:
        if ramp.next_at(at) <= at:
            ramp.admitted(at)
            taken.append(at)
    return taken


def evenly(per_s: float, seconds: float) -> list[float]:
    return [START + n / per_s for n in range(int(per_s * seconds))]


@pytest.mark.parametrize("steady", [0.05, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("in_service", [False, True])
def test_a_flood_meets_at_most_twice_the_steady_rate_in_the_first_minute(steady, in_service):
    ramp = Ramp(steady, START, in_service=in_service)
    assert 1 <= len(let_through(ramp, evenly(steady * 8, 60))) <= 2 * 60 * steady


def test_the_rate_doubles_step_by_step_to_the_steady_one_and_on_until_nothing_is_held_back():
    ramp = Ramp(1.0, START)
    rates = [ramp.rate(START + step * STEP_S) for step in range(STEPS)]
    assert rates == [2.0 ** (step - 5) for step in range(STEPS)]
    assert rates[5] == 1.0
    assert ramp.rate(ramp.ends_at) == float("inf")
    assert ramp.next_at(ramp.ends_at) == ramp.ends_at


def test_an_account_in_service_keeps_its_usual_traffic():
    ramp = Ramp(2.0, START, in_service=True)
    arrivals = evenly(2.0, 120)
    assert let_through(ramp, arrivals) == arrivals


def test_what_was_not_used_is_not_saved_for_a_burst():
    ramp = Ramp(1.0, START)
    late = [START + 59.0 + n / 1_000 for n in range(100)]
    assert len(let_through(ramp, late)) == 1


@settings(max_examples=60, deadline=None)
@given(st.floats(0.02, 50.0), st.booleans(), st.integers(0, 2**32), st.floats(0.5, 30.0))
def test_the_named_instant_is_the_earliest_and_is_kept(steady, in_service, seed, pressure):
    rng = random.Random(seed)
    ramp = Ramp(steady, START, in_service=in_service)
    now = START
    while now < ramp.ends_at:
        at = ramp.next_at(now)
        assert now <= at <= ramp.ends_at
        if at > now + 1e-6:
            assert ramp.next_at(now + (at - now) * 0.9) > now + (at - now) * 0.9
        now = at
        assert ramp.next_at(now + 0.001) == now + 0.001
        ramp.admitted(now + 0.001)
        now += 0.001 + rng.expovariate(pressure * steady)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 5.0), st.lists(st.floats(0.0, 60.0), max_size=200), st.booleans())
def test_no_arrivals_of_any_shape_exceed_the_first_minutes_bound(steady, offsets, in_service):
    ramp = Ramp(steady, START, in_service=in_service)
    taken = let_through(ramp, sorted(START + offset for offset in offsets))
    assert len(taken) <= max(1.0, 1.5 * 60 * steady + max(1.0, 1.5 * steady))


def test_requests_ahead_of_turn_leave_no_debt():
    ramp = Ramp(1.0, START)
    for _ in range(50):
        ramp.admitted(START)
    assert ramp.next_at(START) <= START + 30


def test_the_steady_rate_is_that_of_the_hour_up_to_the_latest_request():
    rate = SteadyRate()
    assert rate.per_s() is None
    for second in range(0, 3 * 3600, 10):
        rate.note(float(second))
    assert rate.per_s() == pytest.approx(0.1, rel=0.03)
    for second in range(3 * 3600, 4 * 3600, 2):
        rate.note(float(second))
    assert rate.per_s() == pytest.approx(0.5, rel=0.03)


def test_a_short_history_counts_as_a_minute_at_least():
    rate = SteadyRate()
    for n in range(6):
        rate.note(n / 10)
    assert rate.per_s() == pytest.approx(0.1)


def test_an_accounts_share_has_a_floor_and_a_guess():
    assert steady_share(None, 8) == UNKNOWN_PER_S
    assert steady_share(8.0, 8) == 1.0
    assert steady_share(0.001, 8) == SLOWEST_PER_S


def test_an_instant_that_rounding_puts_before_its_steps_end_holds_nobody_up():
    # 1021.66 + 10 - 1021.66 is a little less than 10 in floating point.
    ramp = Ramp(0.2, 1021.66)
    assert (1021.66 + STEP_S - 1021.66) // STEP_S == 0
    ramp.admitted(1021.66)
    ramp.next_at(1021.66 + STEP_S)
    assert ramp.next_at(1021.66 + 2 * STEP_S) < 1021.66 + STEPS * STEP_S
