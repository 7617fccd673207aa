"""The traffic meter against a plain log of what happened."""

from __future__ import annotations

from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.telemetry.traffic import TrafficMeter

START = 1_000.25

STEP = st.one_of(st.floats(0.0, 1.5), st.floats(0.0, 200.0))
WHAT = st.sampled_from(["start", "ok", "failed", "cancel"])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(STEP, WHAT, st.booleans(), st.integers(0, 5_000)), max_size=80),
    st.floats(0.0, 130.0),
)
def test_view_agrees_with_a_recount(events: list[tuple[float, str, bool, int]], wait: float) -> None:
    now = START
    meter = TrafficMeter(now)
    log: list[tuple[int, str, bool, int]] = []
    in_flight = 0
    for step, what, fallback, tokens in events:
        now += step
        log.append((floor(now), what, fallback, tokens))
        if what == "start":
            meter.started(now)
            in_flight += 1
        elif what == "cancel":
            meter.cancelled(now)
            in_flight = max(0, in_flight - 1)
        else:
            meter.finished(now, ok=what == "ok", fallback=fallback, tokens=tokens)
            in_flight = max(0, in_flight - 1)
        meter.view(now)
    now += wait

    view = meter.view(now)

    latest = floor(now)
    recent = [entry for entry in log if entry[0] > latest - 60]
    ended = [entry for entry in recent if entry[1] in ("ok", "failed")]
    span = min(60, latest - floor(START) + 1)
    assert view.in_flight == in_flight
    assert view.total_requests == sum(what == "start" for _, what, _, _ in log)
    assert view.total_failed == sum(what == "failed" for _, what, _, _ in log)
    assert view.requests_per_s == pytest.approx(sum(what == "start" for _, what, _, _ in recent) / span)
    assert view.tokens_per_s == pytest.approx(sum(tokens for *_, tokens in ended) / span)
    if ended:
        assert view.success_rate == pytest.approx(sum(entry[1] == "ok" for entry in ended) / len(ended))
        assert view.fallback_rate == pytest.approx(sum(entry[2] for entry in ended) / len(ended))
    else:
        assert view.success_rate is None
        assert view.fallback_rate is None
    seconds = range(latest - 59, latest + 1)
    assert view.requests_series == tuple(
        sum(at == second and what == "start" for at, what, _, _ in log) for second in seconds
    )
    assert view.failed_series == tuple(
        sum(at == second and what == "failed" for at, what, _, _ in log) for second in seconds
    )


def test_an_end_without_a_beginning_counts_nothing_below_zero() -> None:
    meter = TrafficMeter(START)
    meter.cancelled(START)
    meter.finished(START, ok=False, fallback=False, tokens=-5)
    view = meter.view(START)
    assert view.in_flight == 0
    assert view.tokens_per_s == 0.0


def test_a_long_silence_brings_no_old_second_back() -> None:
    meter = TrafficMeter(START)
    meter.started(START)
    meter.finished(START, ok=False, fallback=True, tokens=100)
    view = meter.view(START + 3_600)
    assert set(view.requests_series) == {0}
    assert set(view.failed_series) == {0}
    assert view.success_rate is None
    assert view.total_requests == 1


def test_a_clock_that_goes_back_loses_nothing() -> None:
    meter = TrafficMeter(START)
    meter.started(START)
    meter.started(START - 30)
    assert meter.view(START - 10).requests_series[-1] == 2


def test_view_is_kept_within_a_second_while_nothing_changes() -> None:
    meter = TrafficMeter(START)
    meter.started(START)
    view = meter.view(START + 0.1)
    assert meter.view(START + 0.5) is view
    meter.started(START + 0.5)
    assert meter.view(START + 0.5) is not view
