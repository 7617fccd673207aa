from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.policy.circuit_window import BUCKETS, CountWindow, TimeWindow


def totals(window: TimeWindow | CountWindow, now: float = 0.0) -> tuple[int, int, int, int]:
    window.age(now)
    return (window.calls, window.failures, window.timed, window.slow)


def test_5_a_count_window_evicts_exactly_the_oldest() -> None:
    window = CountWindow(3)
    for failed in (True, False, True):
        window.record(0.0, failed, False)
    assert window.failures == 2
    window.record(0.0, False, False)
    assert (window.calls, window.failures) == (3, 1), "the first failure left"
    window.record(0.0, False, False)
    assert (window.calls, window.failures) == (3, 1), "a success left"
    window.record(0.0, False, True)
    assert (window.calls, window.failures, window.slow) == (3, 0, 1), "the second failure left"


def test_5_a_time_window_drops_a_bucket_exactly_at_its_age_without_new_calls() -> None:
    window = TimeWindow(60.0)
    window.record(100.0, True, False)
    assert totals(window, 159.999) == (1, 1, 1, 0)
    assert totals(window, 160.0) == (0, 0, 0, 0)


def test_5_a_bucket_leaves_with_all_it_holds_at_the_age_of_its_first_result() -> None:
    window = TimeWindow(60.0)
    width = 60.0 / BUCKETS
    window.record(0.0, True, False)
    window.record(width * 0.9, True, False)
    window.record(width, True, False)
    assert totals(window, 60.0) == (1, 1, 1, 0)
    assert totals(window, 60.0 + width) == (0, 0, 0, 0)


def test_6_failures_in_neighbouring_buckets_add_up() -> None:
    window = TimeWindow(60.0)
    for at in (0.0, 20.0, 40.0, 59.0):
        window.record(at, True, False)
    assert totals(window, 59.0) == (4, 4, 4, 0)


@pytest.mark.parametrize("idle", [60.0, 61.0, 119.9, 120.0, 180.0, 1e6, 1e12])
def test_7_a_long_idle_jump_clears_everything_and_no_stale_bucket_returns(idle: float) -> None:
    window = TimeWindow(60.0)
    for at in range(0, 60, 2):
        window.record(float(at), True, True)
    window.record(58.0 + idle, False, False)
    assert totals(window, 58.0 + idle) == (1, 0, 1, 0)
    assert totals(window, 58.0 + 2 * idle) == (0, 0, 0, 0)


def test_a_call_that_was_noticed_as_slow_is_timed_once_and_ends_once() -> None:
    for window in (TimeWindow(60.0), CountWindow(10)):
        window.notice_slow(0.0)
        assert totals(window) == (0, 0, 1, 1)
        window.record(1.0, True, True, timed=False)
        assert totals(window, 1.0) == (1, 1, 1, 1)


def test_to_look_at_a_window_does_not_split_its_buckets() -> None:
    window = TimeWindow(60.0)
    window.record(0.0, True, False)
    assert totals(window, 0.5) == (1, 1, 1, 0)
    window.record(0.75, True, False)
    assert totals(window, 60.0) == (0, 0, 0, 0), "both are of one bucket"


@pytest.mark.parametrize("hangs", [True, False])
def test_what_comes_after_a_look_leaves_in_its_time_too(hangs: bool) -> None:
    window = TimeWindow(60.0)
    window.record(0.0, True, True)
    totals(window, 10.0)
    if hangs:
        window.notice_slow(11.0)
    else:
        window.record(11.0, True, True)
    assert totals(window, 70.9)[3] == 1
    assert totals(window, 71.0) == (0, 0, 0, 0)


@pytest.mark.parametrize("hangs", [True, False])
def test_a_bucket_ends_exactly_at_its_width(hangs: bool) -> None:
    window = TimeWindow(60.0)
    window.record(0.0, False, True)
    if hangs:
        window.notice_slow(1.0)
    else:
        window.record(1.0, False, True)
    assert totals(window, 60.0)[2:] == (1, 1), "the second is of the next bucket"
    assert totals(window, 61.0) == (0, 0, 0, 0)


def test_a_success_that_was_noticed_before_is_no_failure_and_is_timed_no_second_time() -> None:
    for window in (TimeWindow(60.0), CountWindow(10)):
        window.notice_slow(0.0)
        window.record(1.0, False, False, timed=False)
        assert totals(window, 1.0) == (1, 0, 1, 1)


results = st.lists(
    st.tuples(st.floats(0, 30), st.sampled_from(["ok", "slow", "failed", "failed slow", "noticed"])),
    max_size=150,
)


@settings(deadline=None, max_examples=100)
@given(results=results)
def test_bucket_sums_equal_totals_and_every_result_leaves_between_its_age_less_a_bucket_and_its_age(
    results: list[tuple[float, str]],
) -> None:
    window = TimeWindow(60.0)
    width = 60.0 / BUCKETS
    now = 0.0
    failures: list[float] = []
    for pause, kind in results:
        now += pause
        if kind == "noticed":
            window.notice_slow(now)
        else:
            window.record(now, kind.startswith("failed"), kind.endswith("slow"))
        if kind.startswith("failed"):
            failures.append(now)
        window.age(now)
        assert window.bucket_sums() == (window.calls, window.failures, window.timed, window.slow)
        surely = sum(1 for at in failures if now - at < 60.0 - width - 1e-6)
        at_most = sum(1 for at in failures if now - at < 60.0)
        assert surely <= window.failures <= at_most
        assert window.failures <= window.calls
        assert window.slow <= window.timed


@settings(deadline=None, max_examples=100)
@given(results=results, length=st.integers(1, 20))
def test_a_count_window_holds_exactly_the_last_results(results: list[tuple[float, str]], length: int) -> None:
    window = CountWindow(length)
    for _, kind in results:
        if kind == "noticed":
            window.notice_slow(0.0)
        else:
            window.record(0.0, kind.startswith("failed"), kind.endswith("slow"))
    kept = [kind for _, kind in results][-length:]
    assert totals(window) == window.bucket_sums()
    assert window.failures == sum(kind.startswith("failed") for kind in kept)
    assert window.slow == sum(kind.endswith("slow") or kind == "noticed" for kind in kept)
    assert window.calls == sum(kind != "noticed" for kind in kept)
