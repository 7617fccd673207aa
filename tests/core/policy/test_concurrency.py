"""The limit on requests at once: cut by overload, once a flight, and raised until it is as configured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.outcomes import ErrorCategory, Failure, TimeoutPhase
from smartfallback.policy.concurrency import (
    GENTLE,
    MEMORY_S,
    PAUSE_S,
    STEP_S,
    ConcurrencyLimit,
    shows_overload,
)

START = 1_000.0


def cut(configured: int, running: int) -> ConcurrencyLimit:
    limit = ConcurrencyLimit(configured)
    limit.overloaded(running, START - 1, START)
    return limit


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure(ErrorCategory.RATE_LIMIT, "slow down", 429), True),
        (Failure(ErrorCategory.TRANSIENT_ERROR, "overloaded", 503), True),
        (Failure(ErrorCategory.TRANSIENT_ERROR, "overloaded", 529), True),
        (Failure(ErrorCategory.TRANSIENT_ERROR, "bad gateway", 502), False),
        (Failure(ErrorCategory.TRANSIENT_ERROR, "the process died"), False),
        (Failure(ErrorCategory.TIMEOUT, "slow", phase=TimeoutPhase.FIRST_TOKEN), True),
        (Failure(ErrorCategory.TIMEOUT, "slow", phase=TimeoutPhase.IDLE), True),
        (Failure(ErrorCategory.TIMEOUT, "nobody there", phase=TimeoutPhase.CONNECT), False),
        (Failure(ErrorCategory.QUOTA_EXHAUSTED, "weekly wall", 429), False),
        (Failure(ErrorCategory.API_FAILURE, "bug", 500), False),
        (Failure(ErrorCategory.NETWORK_ERROR, "refused"), False),
        (Failure(ErrorCategory.MALFORMED_RESPONSE, "cut"), False),
    ],
)
def test_which_failures_show_overload(failure, expected):
    assert shows_overload(failure) is expected


@pytest.mark.parametrize(("running", "left"), [(8, 4), (7, 3), (3, 1), (2, 1)])
def test_a_cut_leaves_half_of_what_was_in_flight(running, left):
    limit = ConcurrencyLimit(8)
    assert limit.overloaded(running, START - 1, START)
    assert limit.limit == left


def test_what_ran_alone_lowers_nothing():
    limit = ConcurrencyLimit(8)
    assert not limit.overloaded(1, START - 1, START)
    assert limit.limit == 8


def test_one_flight_cuts_once():
    limit = ConcurrencyLimit(64)
    results = [limit.overloaded(64 - n, START - 1, START + n) for n in range(64)]
    assert results == [True] + [False] * 63
    assert limit.limit == 32


def test_calls_begun_after_the_cut_cut_again():
    limit = cut(64, 64)
    assert limit.overloaded(32, START + 1, START + 2)
    assert limit.limit == 16
    assert not limit.overloaded(17, START + 1, START + 3)


def test_a_late_result_of_before_the_cut_does_not_delay_the_way_up():
    limit = cut(8, 8)
    limit.overloaded(4, START - 1, START + STEP_S - 1)
    assert limit.passed(START + STEP_S)
    assert limit.limit == 5


def answered(limit: ConcurrencyLimit, until: int, now: float, latency_s: float = 5.0) -> int:
    """Successes at the limit that it takes until the limit is ``until``, each well apart."""
    successes = 0
    while limit.limit < until:
        now += latency_s / limit.limit
        limit.succeeded(limit.limit, now - latency_s / 2, now)
        successes += 1
        assert successes < 10_000
    return successes


def test_a_full_flight_of_successes_raises_by_one_and_slower_where_it_broke():
    limit = cut(16, 8)
    assert answered(limit, 5, START + 10) == 4
    assert answered(limit, 6, START + 20) == 5
    assert answered(limit, 7, START + 30) == 6
    assert answered(limit, 8, START + 40) == 7 * GENTLE
    assert answered(limit, 9, START + 90) == 8 * GENTLE
    assert answered(limit, 10, START + 200) == 9, "eight at once are proven, so that nothing is remembered"


def test_successes_below_the_limit_say_nothing():
    limit = cut(8, 8)
    for n in range(100):
        assert not limit.succeeded(3, START + 1, START + 2 + n / 100)
    assert limit.limit == 4


def test_calls_that_end_together_all_count():
    limit = cut(8, 8)
    assert [limit.succeeded(running, START + 1, START + 5) for running in (4, 3, 2, 1)] == [False] * 3 + [
        True
    ]
    assert limit.limit == 5


def test_quick_answers_raise_at_most_once_in_a_pause():
    limit = cut(1_000, 100)
    raised = [n for n in range(1, 2_001) if limit.succeeded(limit.limit, START + 1e-9, START + n * 0.005)]
    assert len(raised) <= 10 / PAUSE_S
    assert len(raised) >= 8


def test_what_began_before_the_cut_raises_nothing():
    limit = cut(8, 8)
    assert not any(limit.succeeded(4, START - 1, START + 10) for _ in range(100))


def test_time_alone_brings_all_back_in_minutes():
    limit = cut(8, 8)
    risen = {}
    for second in range(600):
        if limit.passed(START + second):
            risen[limit.limit] = second
    assert risen == {5: STEP_S, 6: 2 * STEP_S, 7: 3 * STEP_S, 8: (3 + GENTLE) * STEP_S}


def test_large_limits_come_back_in_larger_steps():
    limit = cut(1_000, 1_000)
    for _ in range(20):
        limit.overloaded(limit.limit, limit._cut_at + 1, limit._cut_at + 2)
    assert limit.limit == 1
    limit.passed(limit._cut_at + MEMORY_S + 40 * STEP_S)
    assert limit.limit == 1_000


def test_while_lone_calls_show_overload_nothing_is_raised():
    limit = cut(2, 2)
    for n in range(1, 20):
        at = START + n * (STEP_S - 1)
        assert not limit.overloaded(1, at - 1, at)
        assert not limit.passed(at)
    assert limit.limit == 1


def test_spent_only_when_all_is_back_and_forgotten():
    limit = cut(8, 8)
    limit.passed(START + MEMORY_S - 1)
    assert limit.limit == 8
    assert not limit.spent(START + MEMORY_S - 1)
    assert not limit.overloaded(8, START - 1, START + MEMORY_S - 1), "a late result is still known for one"
    assert limit.spent(START + MEMORY_S)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["overload", "success", "time"]),
        st.floats(0, 90, allow_nan=False),
        st.floats(0, 120, allow_nan=False),
        st.integers(1, 200),
    ),
    max_size=80,
)


def play(limit: ConcurrencyLimit, actions: list[tuple[str, float, float, int]]) -> float:
    now = START
    for kind, passes, age, running in actions:
        now += passes
        before = limit.limit
        running = min(running, limit.configured)
        if kind == "overload":
            moved = limit.overloaded(running, now - age, now)
            assert limit.limit <= before
            assert not moved or limit.limit <= max(1, running // 2)
        elif kind == "success":
            moved = limit.succeeded(running, now - age, now)
            assert limit.limit in (before, before + 1)
        else:
            moved = limit.passed(now)
            assert limit.limit >= before
        assert moved == (limit.limit != before)
        assert 1 <= limit.limit <= limit.configured
    return now


@given(configured=st.integers(1, 200), actions=ACTIONS)
@settings(deadline=None, max_examples=150)
def test_the_limit_keeps_its_bounds_and_always_comes_back(configured, actions):
    limit = ConcurrencyLimit(configured)
    now = play(limit, actions)
    enough = MEMORY_S + STEP_S * (GENTLE + 4 + 4 * math.ceil(math.log(configured + 4, 1.25)))
    limit.passed(now + enough)
    assert limit.limit == configured
    assert limit.spent(now + enough)


@given(configured=st.integers(1, 200), actions=ACTIONS, looks=st.lists(st.floats(0, 1_000), max_size=30))
@settings(deadline=None, max_examples=100)
def test_it_does_not_matter_how_often_time_is_let_act(configured, actions, looks):
    often, seldom = ConcurrencyLimit(configured), ConcurrencyLimit(configured)
    now = play(often, actions)
    play(seldom, actions)
    for look in sorted(looks):
        often.passed(now + look)
    often.passed(now + 1_000)
    seldom.passed(now + 1_000)
    assert often.limit == seldom.limit


@given(
    latencies=st.lists(st.floats(0.01, 30), min_size=1, max_size=60),
    running=st.integers(2, 100),
)
@settings(deadline=None, max_examples=100)
def test_any_number_of_overloads_in_one_flight_is_one_cut(latencies, running):
    limit = ConcurrencyLimit(100)
    cuts = 0
    for number, latency in enumerate(sorted(latencies)):
        cuts += limit.overloaded(max(1, running - number), START, START + latency)
    assert cuts == 1
