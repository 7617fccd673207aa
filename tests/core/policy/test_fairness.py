from __future__ import annotations

import math
import tracemalloc
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import QuotaUnit, WindowKind, WindowSpec
from smartfallback.policy.fairness import FairnessWindow, PoolUsage, fairness, gini, shares_of_limit

NOW = 1_772_452_800.0
MINUTE = 60.0
HOUR = 3600.0

use = st.one_of(st.integers(0, 10**9), st.floats(0, 1e300))
uses = st.lists(use, min_size=2, max_size=30)


def tokens_limit(limit: float) -> WindowSpec:
    return WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, limit)


def by_definition(values: list[float]) -> float:
    """Mean absolute difference over all pairs, half of it relative to the mean."""
    n = len(values)
    return sum(abs(a - b) for a in values for b in values) / (2 * n * sum(values))


@settings(deadline=None)
@given(uses)
def test_gini_lies_between_equal_and_all_to_one(values: list[float]) -> None:
    result = gini(values)
    assert result is not None
    assert 0 <= result <= 1 - 1 / len(values)


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=20))
def test_gini_is_the_relative_mean_difference(values: list[float]) -> None:
    assert gini(values) == pytest.approx(by_definition(values), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=20), st.floats(1e-6, 1e6), st.randoms())
def test_gini_knows_neither_scale_nor_order(values: list[float], scale: float, random: Random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    assert gini([value * scale for value in shuffled]) == pytest.approx(gini(values), abs=1e-9)


@given(st.floats(1e-300, 1e300), st.integers(2, 50))
def test_gini_of_equal_use_is_exactly_0(value: float, n: int) -> None:
    assert gini([value] * n) == 0


def test_gini_at_the_edges() -> None:
    assert gini([]) is None
    assert gini([5]) is None
    assert gini([0, 0, 0]) == 0
    assert gini([0, 0, 0, 7]) == pytest.approx(0.75)
    assert gini([1, 3]) == pytest.approx(0.25)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            gini([1.0, bad])


def test_an_hour_forgets_what_is_older_and_a_day_does_not() -> None:
    usage = PoolUsage(2, now=NOW)
    usage.add(0, 100, NOW)
    usage.add(0, 50, NOW + 30 * MINUTE)
    usage.add(1, 7, NOW + 59 * MINUTE)
    assert usage.totals(FairnessWindow.HOUR, NOW + 59 * MINUTE) == ((2, 1), (150, 7))
    assert usage.totals(FairnessWindow.HOUR, NOW + 60 * MINUTE) == ((1, 1), (50, 7))
    assert usage.totals(FairnessWindow.HOUR, NOW + 90 * MINUTE) == ((0, 1), (0, 7))
    assert usage.totals(FairnessWindow.HOUR, NOW + 10 * HOUR) == ((0, 0), (0, 0))
    assert usage.totals(FairnessWindow.DAY, NOW + 10 * HOUR) == ((2, 1), (150, 7))
    assert usage.totals(FairnessWindow.DAY, NOW + 30 * HOUR) == ((0, 0), (0, 0))
    assert usage.totals(FairnessWindow.SINCE_RESET, NOW + 30 * HOUR) == ((2, 1), (150, 7))


def test_since_reset_begins_anew_at_the_reset_only() -> None:
    usage = PoolUsage(2, now=NOW)
    usage.add(0, 100, NOW)
    usage.reset(NOW + 1)
    usage.add(1, 10, NOW + 2)
    assert usage.reset_at == NOW + 1
    assert usage.totals(FairnessWindow.SINCE_RESET, NOW + 3) == ((0, 1), (0, 10))
    assert usage.totals(FairnessWindow.HOUR, NOW + 3) == ((1, 1), (100, 10))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(-5, 10_000), st.sampled_from((0.0, 1.0, 40.0, 900.0, 9000.0))
        ),
        max_size=60,
    )
)
def test_sums_equal_a_recount_of_all_additions(additions: list[tuple[int, int, float]]) -> None:
    usage = PoolUsage(4, now=NOW)
    now = NOW
    done: list[tuple[int, int, float]] = []
    for slot, tokens, wait in additions:
        now += wait
        usage.add(slot, tokens, now)
        done.append((slot, max(tokens, 0), now))
        for window, bucket, count in ((FairnessWindow.HOUR, MINUTE, 60), (FairnessWindow.DAY, HOUR, 24)):
            kept = [entry for entry in done if entry[2] // bucket > now // bucket - count]
            expected = (
                tuple(sum(entry[0] == slot for entry in kept) for slot in range(4)),
                tuple(sum(entry[1] for entry in kept if entry[0] == slot) for slot in range(4)),
            )
            assert usage.totals(window, now) == expected


def test_a_clock_that_steps_back_loses_and_doubles_nothing() -> None:
    usage = PoolUsage(2, now=NOW)
    usage.add(0, 10, NOW + 5)
    usage.add(0, 10, NOW - HOUR)
    usage.add(1, 10, NOW + 70)
    for window in FairnessWindow:
        assert usage.totals(window, NOW + 70) == ((2, 1), (20, 10))


def test_an_absurd_token_count_is_clamped() -> None:
    usage = PoolUsage(2, now=NOW)
    usage.add(0, 10**40, NOW)
    usage.add(1, -10, NOW)
    tokens = usage.totals(FairnessWindow.HOUR, NOW + 2 * MINUTE).tokens
    assert 0 < tokens[0] < 10**13
    assert tokens[1] == 0


def test_memory_does_not_grow_over_days() -> None:
    usage = PoolUsage(3, now=NOW)

    def run(first_day: int, days: int) -> None:
        for step in range(first_day * 480, (first_day + days) * 480):
            usage.add(step % 3, 100, NOW + step * 180.0)

    tracemalloc.start()
    try:
        run(0, 3)
        before = tracemalloc.get_traced_memory()[0]
        run(3, 6)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 5_000


def test_shares_compare_use_with_what_each_account_may_use() -> None:
    limits = [tokens_limit(1000), tokens_limit(3000)]
    view = fairness([10, 30], [100, 300], limits)
    assert view.requests == pytest.approx(0.25)
    assert view.tokens == pytest.approx(0.25)
    assert view.share_of_limit == 0


def test_shares_use_the_unit_of_the_limit_and_leave_out_the_unknown() -> None:
    requests_limit = WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, 50)
    credits_limit = WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, 300)
    limits = [tokens_limit(1000), requests_limit, None, credits_limit, tokens_limit(0)]
    assert shares_of_limit([10] * 5, [100] * 5, limits) == [0.1, 0.2]
    with pytest.raises(ValueError, match="shorter"):
        shares_of_limit([1, 2], [1, 2], [None])


def test_the_alarm_goes_by_the_share_of_the_limit_when_it_is_known() -> None:
    uneven = ([10, 90], [100, 900])
    assert fairness(*uneven).alarm
    assert not fairness(*uneven, [tokens_limit(1000), tokens_limit(9000)]).alarm
    assert fairness([50, 50], [500, 500], [tokens_limit(1000), tokens_limit(9000)]).alarm
    assert not fairness(*uneven, alarm_threshold=0.5).alarm
    assert fairness(*uneven, [tokens_limit(1000), None]).alarm
    partly = [tokens_limit(1000), tokens_limit(1000), None]
    assert fairness([10, 10, 90], [100, 100, 900], partly).alarm, (
        "the even share of two says nothing of three"
    )


def test_a_handful_of_requests_raises_no_alarm() -> None:
    assert not fairness([3, 0, 0, 0], [300, 0, 0, 0]).alarm
    assert fairness([20, 0, 0, 0], [300, 0, 0, 0]).alarm


def test_a_single_account_has_no_fairness() -> None:
    usage = PoolUsage(1, now=NOW)
    for _ in range(100):
        usage.add(0, 5, NOW)
    view = usage.fairness(FairnessWindow.HOUR, NOW)
    assert (view.requests, view.tokens, view.share_of_limit, view.alarm) == (None, None, None, False)
