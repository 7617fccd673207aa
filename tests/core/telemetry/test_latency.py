"""Latency histograms against a plain list of samples."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.telemetry.latency import BOUNDS, LatencyHistogram

DURATIONS = st.floats(0.0, 200.0)


def test_bounds_are_even_on_a_log_scale_from_a_millisecond_to_two_minutes() -> None:
    ratios = [high / low for low, high in pairwise(BOUNDS)]
    assert BOUNDS[0] == 0.001
    assert BOUNDS[-1] == 120.0
    assert len(BOUNDS) == 40
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_empty_histogram_has_no_percentiles() -> None:
    view = LatencyHistogram(5.0).view(5.0)
    assert (view.p50, view.p95, view.p99) == (None, None, None)
    assert view.counts == (0,) * (len(BOUNDS) + 1)


def test_a_sample_on_a_bound_counts_up_to_it_and_one_beyond_all_counts_last() -> None:
    histogram = LatencyHistogram(0.0)
    histogram.record(BOUNDS[3], 0.0)
    histogram.record(500.0, 0.0)
    counts = histogram.view(0.0).counts
    assert [place for place, count in enumerate(counts) if count] == [3, len(BOUNDS)]
    assert histogram.view(0.0).p99 == 120.0


@settings(deadline=None, max_examples=150)
@given(st.lists(DURATIONS, min_size=1, max_size=300))
def test_percentiles_fall_into_the_bin_of_the_exact_ones(samples: list[float]) -> None:
    histogram = LatencyHistogram(0.0)
    for sample in samples:
        histogram.record(sample, 1.0)
    view = histogram.view(2.0)
    ordered = sorted(samples)
    for percent, found in ((50, view.p50), (95, view.p95), (99, view.p99)):
        exact = ordered[ceil(percent * len(ordered) / 100) - 1]
        place = bisect_left(BOUNDS, exact)
        assert found is not None
        if place == len(BOUNDS):
            assert found == BOUNDS[-1]
        else:
            low = BOUNDS[place - 1] if place else 0.0
            assert low <= found <= BOUNDS[place] * (1 + 1e-12)


def test_a_percentile_moves_through_its_bin_with_its_rank() -> None:
    histogram = LatencyHistogram(0.0)
    for _ in range(100):
        histogram.record(1.0, 0.0)
    view = histogram.view(0.0)
    assert view.p50 is not None
    assert view.p95 is not None
    assert view.p99 is not None
    assert view.p50 < view.p95 < view.p99


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.floats(0.0, 90.0), DURATIONS), max_size=60), st.floats(0.0, 700.0))
def test_samples_count_for_four_and_a_half_to_five_minutes(
    steps: list[tuple[float, float]], wait: float
) -> None:
    now = 1_000.0
    histogram = LatencyHistogram(now)
    recorded = []
    for step, duration in steps:
        now += step
        histogram.record(duration, now)
        recorded.append(now)
    now += wait
    counted = sum(histogram.view(now).counts)
    assert min(histogram.view(now).counts) >= 0
    assert counted >= sum(now - at < 270 - 1e-6 for at in recorded)
    assert counted <= sum(now - at < 300 + 1e-6 for at in recorded)


def test_view_is_kept_until_something_changes() -> None:
    histogram = LatencyHistogram(0.0)
    histogram.record(1.0, 0.0)
    view = histogram.view(1.0)
    assert histogram.view(200.0) is view
    histogram.record(1.0, 200.0)
    assert histogram.view(200.0) is not view
    assert sum(histogram.view(301.0).counts) == 1
    assert sum(histogram.view(10_000.0).counts) == 0
    assert histogram.view(10_000.0).p50 is None
