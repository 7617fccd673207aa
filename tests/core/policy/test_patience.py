from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.policy.patience import FACTOR, FIRST_LIMIT_S, LEAST_S, REMEMBERED, Patience
from smartfallback.policy.recovery import FAILOVER_S

SECONDS = st.floats(0.001, 100.0)


def test_before_anything_is_known_silence_is_left_within_the_failover_time_and_a_begun_response_is_not():
    patience = Patience(20.0)
    assert patience.silent_s == FIRST_LIMIT_S < FAILOVER_S
    assert patience.begun_s == 20.0


def test_a_shorter_configured_limit_holds_from_the_start():
    assert Patience(0.5).silent_s == Patience(0.5).begun_s == 0.5


@pytest.mark.parametrize(("seen", "limit"), [(0.1, LEAST_S), (1.0, 3.0), (3.0, 9.0), (8.0, 20.0)])
def test_it_follows_what_was_seen(seen, limit):
    patience = Patience(20.0)
    patience.answered(seen)
    assert patience.silent_s == patience.begun_s == pytest.approx(limit)


def test_each_cut_of_a_begun_response_widens_it_until_a_slower_upstream_can_answer():
    patience = Patience(20.0)
    for _ in range(REMEMBERED):
        patience.answered(0.3)
    limits = []
    for _ in range(3):
        limits.append(patience.begun_s)
        patience.cut(patience.begun_s, begun=True)
    assert limits == [2.0, 6.0, 18.0]
    assert patience.begun_s == 20.0


def test_silence_teaches_nothing():
    patience = Patience(20.0)
    for _ in range(10):
        patience.cut(patience.silent_s, begun=False)
    assert (patience.silent_s, patience.begun_s) == (FIRST_LIMIT_S, 20.0)


def test_one_slow_answer_is_forgotten_after_so_many_fast_ones():
    patience = Patience(20.0)
    patience.answered(5.0)
    for _ in range(REMEMBERED - 1):
        patience.answered(0.2)
        assert patience.begun_s == 15.0
    patience.answered(0.2)
    assert patience.begun_s == LEAST_S


@given(st.lists(SECONDS, min_size=1, max_size=3 * REMEMBERED), SECONDS)
@settings(deadline=None, max_examples=150)
def test_it_is_three_times_the_slowest_of_the_latest_within_its_bounds(seen, most):
    patience = Patience(most)
    for seconds in seen:
        patience.answered(seconds)
        assert patience.begun_s <= most
    slowest = max(seen[-REMEMBERED:])
    assert patience.silent_s == patience.begun_s == pytest.approx(min(most, max(LEAST_S, FACTOR * slowest)))
