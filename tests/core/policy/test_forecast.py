from __future__ import annotations

import json
import math
import random
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.policy.forecast import Forecast, Outlook, UsageForecaster

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
MONDAY = 1_772_409_600.0
"""Monday, 2 March 2026, 00:00 UTC."""


def office_rate(local: float) -> float:
    """Units an hour: 100 from 9 to 18 on weekdays, 5 otherwise."""
    day, hour = divmod(local % WEEK, DAY)
    return 100.0 if day < 5 and 9 * HOUR <= hour < 18 * HOUR else 5.0


def feed_hours(forecaster: UsageForecaster, start: float, hours: int, rate: float) -> float:
    """Use ``rate`` an hour in steps of five minutes; gives the time after."""
    for step in range(12 * hours):
        forecaster.add(start + step * 300, rate / 12)
    return start + hours * HOUR


def feed_office(
    forecaster: UsageForecaster, weeks: float, *, scale: float = 1.0, seed: int | None = None
) -> float:
    rng = random.Random(seed)
    at = MONDAY
    while at < MONDAY + weeks * WEEK:
        noise = 1.0 if seed is None else rng.gammavariate(4, 0.25)
        forecaster.add(at, scale * noise * office_rate(at - MONDAY) / 4)
        at += HOUR / 4
    return at


def times(forecast: Forecast) -> list[float]:
    return [
        math.inf if at is None else at
        for at in (forecast.earliest_at, forecast.exhausted_at, forecast.latest_at)
    ]


# -- knowing nothing ---------------------------------------------------------------------------


def test_nothing_observed_is_unknown_and_gives_no_numbers() -> None:
    forecast = UsageForecaster().forecast(MONDAY, 10.0, 100.0, MONDAY + WEEK)
    assert forecast == Forecast(Outlook.UNKNOWN)


def test_a_window_that_is_used_up_is_exhausted_whatever_is_known() -> None:
    forecast = UsageForecaster().forecast(MONDAY, 100.0, 100.0, MONDAY + WEEK)
    assert forecast.outlook is Outlook.RUNS_OUT
    assert times(forecast) == [MONDAY] * 3
    assert forecast.burn_rate is None


@pytest.mark.parametrize("minutes", [5, 30, 59])
def test_less_than_an_hour_is_too_little(minutes: int) -> None:
    forecaster = UsageForecaster()
    for minute in range(minutes):
        forecaster.add(MONDAY + 60 * minute, 1.0)
    forecast = forecaster.forecast(MONDAY + 60 * minutes, 50.0, 100.0, MONDAY + 5 * HOUR)
    assert forecast == Forecast(Outlook.UNKNOWN)


def test_one_use_in_a_day_is_no_rate() -> None:
    forecaster = UsageForecaster()
    forecaster.add(MONDAY, 50.0)
    assert forecaster.forecast(MONDAY + DAY, 50.0, 100.0, MONDAY + WEEK).outlook is Outlook.UNKNOWN


def test_an_hour_says_nothing_of_a_week_but_of_the_next_hours() -> None:
    forecaster = UsageForecaster()
    now = feed_hours(forecaster, MONDAY, 1, 60.0)
    far = forecaster.forecast(now, 60.0, 100_000.0, MONDAY + WEEK)
    assert far == Forecast(Outlook.UNKNOWN, far.burn_rate)
    assert far.burn_rate == pytest.approx(60, rel=0.1)
    near = forecaster.forecast(now, 60.0, 180.0, MONDAY + 5 * HOUR)
    assert near.exhausted_at == pytest.approx(now + 2 * HOUR, abs=600)


def test_a_reset_that_has_passed_belongs_to_another_window() -> None:
    forecaster = UsageForecaster()
    now = feed_office(forecaster, 2)
    assert forecaster.forecast(now, 100.0, 200.0, now).outlook is Outlook.UNKNOWN


# -- steady and patterned use ------------------------------------------------------------------


def test_steady_use_runs_out_when_arithmetic_says() -> None:
    forecaster = UsageForecaster()
    now = feed_hours(forecaster, MONDAY, 14 * 24, 10.0)
    forecast = forecaster.forecast(now, 200.0, 1000.0, now + 6 * DAY)
    assert forecast.outlook is Outlook.RUNS_OUT
    assert forecast.burn_rate == pytest.approx(10, rel=0.02)
    assert forecast.exhausted_at == pytest.approx(now + 80 * HOUR, abs=2 * HOUR)
    assert forecast.use_at_reset == pytest.approx(200 + 144 * 10, rel=0.02)


def test_steady_use_below_the_limit_lasts() -> None:
    forecaster = UsageForecaster()
    now = feed_hours(forecaster, MONDAY, 14 * 24, 10.0)
    forecast = forecaster.forecast(now, 0.0, 3000.0, now + WEEK)
    assert forecast.outlook is Outlook.LASTS
    assert times(forecast) == [math.inf] * 3
    assert forecast.least_use is not None
    assert forecast.most_use is not None
    assert 1000 < forecast.least_use < 1680 < forecast.most_use < 3000


def test_a_reset_inside_the_range_is_unclear() -> None:
    forecaster = UsageForecaster()
    now = feed_office(forecaster, 4, seed=1)
    whole = forecaster.forecast(now, 0.0, 1e9, now + WEEK).use_at_reset
    assert whole is not None
    assert forecaster.forecast(now, 0.0, whole, now + WEEK).outlook is Outlook.UNCLEAR


def test_a_weekend_is_known_for_what_it_is() -> None:
    """On Friday evening a constant rate would see the quota out before Sunday."""
    forecaster = UsageForecaster()
    feed_office(forecaster, 4 + (4 * DAY + 18 * HOUR) / WEEK)
    now = MONDAY + 4 * WEEK + 4 * DAY + 18 * HOUR
    forecast = forecaster.forecast(now, 4800.0, 5800.0, now + 2 * DAY + 6 * HOUR)
    assert forecast.outlook is Outlook.LASTS
    assert forecast.use_at_reset == pytest.approx(4800 + 54 * 5, rel=0.05)


def test_monday_morning_is_foreseen_on_sunday() -> None:
    forecaster = UsageForecaster()
    now = feed_office(forecaster, 4)
    forecast = forecaster.forecast(now, 0.0, 45.0 + 200.0, now + WEEK)
    assert forecast.exhausted_at == pytest.approx(now + 11 * HOUR, abs=HOUR)


def test_what_happens_now_shows_in_the_rate_and_brings_the_end_nearer() -> None:
    calm, busy = UsageForecaster(), UsageForecaster()
    for forecaster in (calm, busy):
        feed_office(forecaster, 4)
    start = MONDAY + 4 * WEEK
    feed_hours(calm, start, 4, 5.0)
    now = feed_hours(busy, start, 4, 500.0)
    before, after = (f.forecast(now, 1000.0, 5000.0, start + WEEK) for f in (calm, busy))
    assert before.burn_rate == pytest.approx(5, rel=0.1)
    assert after.burn_rate == pytest.approx(500, rel=0.1)
    assert before.exhausted_at is not None
    assert after.exhausted_at is not None
    assert after.exhausted_at < before.exhausted_at


def test_use_without_noise_has_a_narrower_range_than_use_with_noise() -> None:
    def width(seed: int | None) -> float:
        forecaster = UsageForecaster()
        now = feed_office(forecaster, 4, seed=seed)
        forecast = forecaster.forecast(now, 0.0, 3000.0, now + WEEK)
        early, _, late = times(forecast)
        return late - early

    assert width(None) < width(3)


@pytest.mark.parametrize("seed", range(3))
def test_simulated_weeks_run_out_inside_the_range_and_nearer_than_a_constant_rate(seed: int) -> None:
    forecaster = UsageForecaster()
    feed_office(forecaster, 4, seed=seed)
    rng = random.Random(100 + seed)
    start, limit = MONDAY + 4 * WEEK, 3600.0
    use = [rng.gammavariate(4, 0.25) * office_rate(slot * 900) / 4 for slot in range(7 * 96)]
    truth, total = 0, 0.0
    while total < limit:
        total += use[truth]
        truth += 1
    used, ours, constant, inside = 0.0, 0.0, 0.0, 0
    asked = range(8, truth, 8)
    for slot in range(truth):
        now = start + slot * 900
        if slot in asked:
            forecast = forecaster.forecast(now, used, limit, start + WEEK)
            early, at, late = times(forecast)
            ours += abs(min(at, start + WEEK) - (start + truth * 900))
            constant += abs(
                min(start + WEEK, now + (limit - used) * slot * 900 / used) - (start + truth * 900)
            )
            inside += early - 900 <= start + truth * 900 <= late + 900
        forecaster.add(now, use[slot])
        used += use[slot]
    assert ours < constant / 3
    assert inside >= 0.7 * len(asked)


# -- properties --------------------------------------------------------------------------------

amounts = st.lists(st.floats(0, 1000), min_size=8, max_size=60)
limits = st.floats(1, 1e6)


def fed(uses: list[float], step: float = 1800.0, scale: float = 1.0) -> tuple[UsageForecaster, float]:
    forecaster = UsageForecaster()
    for number, use in enumerate(uses):
        forecaster.add(MONDAY + number * step, scale * use)
    return forecaster, MONDAY + len(uses) * step


@settings(deadline=None, max_examples=100)
@given(amounts, limits, st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(60, WEEK))
def test_more_used_never_runs_out_later(
    uses: list[float], limit: float, shares: list[float], ahead: float
) -> None:
    forecaster, now = fed(uses)
    forecasts = [forecaster.forecast(now, limit * share, limit, now + ahead) for share in sorted(shares)]
    known = [forecast for forecast in forecasts if forecast.outlook is not Outlook.UNKNOWN]
    for less, more in pairwise(known):
        assert all(b <= a for a, b in zip(times(less), times(more), strict=True))


@settings(deadline=None, max_examples=100)
@given(amounts, limits, st.floats(0, 1), st.floats(60, 31 * DAY))
def test_a_range_holds_its_estimate_and_lies_before_the_reset(
    uses: list[float], limit: float, share: float, ahead: float
) -> None:
    forecaster, now = fed(uses)
    forecast = forecaster.forecast(now, limit * share, limit, now + ahead)
    early, at, late = times(forecast)
    assert now <= early <= at <= late
    assert all(time is None or time <= now + ahead for time in forecast[2:5])
    if forecast.outlook is Outlook.UNKNOWN:
        assert forecast[2:] == (None,) * 6
    elif forecast.use_at_reset is not None:
        assert forecast.least_use is not None
        assert forecast.most_use is not None
        assert limit * share <= forecast.least_use <= forecast.use_at_reset <= forecast.most_use
        assert (forecast.outlook is Outlook.LASTS) == (early == math.inf)
        assert (forecast.outlook is Outlook.RUNS_OUT) == (late < math.inf)


@settings(deadline=None, max_examples=60)
@given(amounts, limits, st.floats(0, 1), st.integers(-20, 20))
def test_units_do_not_matter(uses: list[float], limit: float, share: float, power: int) -> None:
    scale = 2.0**power
    (one, now), (other, _) = fed(uses), fed(uses, scale=scale)
    a = one.forecast(now, limit * share, limit, now + WEEK)
    b = other.forecast(now, limit * share * scale, limit * scale, now + WEEK)
    assert a.outlook is b.outlook
    assert times(a) == pytest.approx(times(b), abs=1)
    for mine, yours in zip((a.burn_rate, *a[5:]), (b.burn_rate, *b[5:]), strict=True):
        assert (mine is None) == (yours is None)
        if mine is not None and yours is not None:
            assert mine * scale == pytest.approx(yours, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(amounts, limits)
def test_state_survives_json(uses: list[float], limit: float) -> None:
    forecaster, now = fed(uses)
    again = UsageForecaster.from_state(json.loads(json.dumps(forecaster.to_state())))
    third = UsageForecaster.from_state(again.to_state())
    assert again.to_state() == forecaster.to_state()
    for each in (again, third):
        each.add(now + 60, 5.0)
    expected = again.forecast(now + HOUR, 0.0, limit, now + WEEK)
    assert third.forecast(now + HOUR, 0.0, limit, now + WEEK) == expected


def test_a_foreign_state_is_refused() -> None:
    state = feed_and_state()
    for key, bad in (
        ("amounts", [1.0]),
        ("learnt_h", math.nan),
        ("accuracy", [0.0]),
        ("hours", [-1.0] * 168),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            UsageForecaster.from_state(state | {key: bad})
    with pytest.raises(ValueError, match="amounts"):
        UsageForecaster.from_state({"learnt_h": 1.0})


def feed_and_state() -> dict[str, float | list[float]]:
    forecaster = UsageForecaster()
    feed_office(forecaster, 1)
    return forecaster.to_state()


def test_memory_does_not_grow() -> None:
    forecaster = UsageForecaster()
    feed_office(forecaster, 1)
    size = len(
        json.dumps({key: len(v) if isinstance(v, list) else 1 for key, v in forecaster.to_state().items()})
    )
    feed_office(forecaster, 6)
    state = forecaster.to_state()
    assert len(json.dumps({key: len(v) if isinstance(v, list) else 1 for key, v in state.items()})) == size
    assert sum(len(v) if isinstance(v, list) else 1 for v in state.values()) < 400


# -- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("month", [3, 10])
def test_office_hours_stay_office_hours_when_the_clocks_change(month: int) -> None:
    """Berlin's clocks change on 29 March and 25 October 2026, on Sundays."""
    zone = ZoneInfo("Europe/Berlin")

    def local(at: float) -> float:
        moment = datetime.fromtimestamp(at, zone)
        return moment.weekday() * DAY + moment.hour * HOUR + moment.minute * 60

    change = datetime(2026, month, 29 if month == 3 else 25, 12, tzinfo=zone).timestamp()
    forecaster = UsageForecaster(zone)
    at = change - 4 * WEEK
    saturday = change - DAY
    while at < saturday:
        forecaster.add(at, office_rate(local(at)) / 4)
        at += 900
    monday_10 = datetime(2026, month, 30 if month == 3 else 26, 10, tzinfo=zone).timestamp()
    quiet = (monday_10 - HOUR - saturday) / HOUR * 5
    forecast = forecaster.forecast(saturday, 0.0, quiet + 50, saturday + WEEK)
    # Half of the first office hour: at the wrong offset it would be an hour off.
    assert forecast.exhausted_at == pytest.approx(monday_10 - HOUR / 2, abs=HOUR / 2)


def test_time_while_suspended_does_not_count() -> None:
    forecaster = UsageForecaster()
    now = feed_hours(forecaster, MONDAY, 48, 10.0)
    forecaster.suspend(now)
    forecaster.add(now + 60, 0.0)
    later = now + 3 * DAY
    forecaster.resume(later)
    rate = forecaster.forecast(later, 0.0, 1000.0, later + 4 * DAY).burn_rate
    assert rate == pytest.approx(10, rel=0.05)


def test_silence_counts_as_no_use() -> None:
    forecaster = UsageForecaster()
    now = feed_hours(forecaster, MONDAY, 48, 10.0) + 12 * HOUR
    assert forecaster.forecast(now, 0.0, 1000.0, now + DAY).burn_rate == pytest.approx(0, abs=0.05)


def test_a_silence_of_years_neither_hangs_nor_teaches() -> None:
    forecaster = UsageForecaster()
    now = feed_hours(forecaster, MONDAY, 14 * 24, 10.0) + 5 * 365 * DAY
    now = feed_hours(forecaster, now, 12, 10.0)
    forecast = forecaster.forecast(now, 0.0, 800.0, now + WEEK)
    assert forecast.exhausted_at == pytest.approx(now + 80 * HOUR, abs=3 * HOUR)


@pytest.mark.parametrize("back", [30.0, 7200.0, 400 * DAY])
def test_a_clock_set_back_loses_no_use(back: float) -> None:
    forecaster = UsageForecaster()
    now = feed_hours(forecaster, MONDAY, 14 * 24, 10.0)
    now = feed_hours(forecaster, now - back, 4, 10.0)
    forecast = forecaster.forecast(now, 0.0, 800.0, now + WEEK)
    assert forecast.burn_rate == pytest.approx(10, rel=0.3)
    assert forecast.exhausted_at == pytest.approx(now + 80 * HOUR, rel=0.1, abs=8 * HOUR)


# -- counters ----------------------------------------------------------------------------------


def test_a_counter_is_spread_over_the_time_between_readings_and_may_begin_anew() -> None:
    forecaster = UsageForecaster()
    used = 5000.0
    forecaster.observe(MONDAY, used)
    for reading in range(1, 14 * 24):
        used = 0.0 if reading == 100 else used + 10.0
        forecaster.observe(MONDAY + reading * HOUR, used)
    now = MONDAY + (14 * 24 - 1) * HOUR
    forecast = forecaster.forecast(now, used, used + 800.0, now + WEEK)
    assert forecast.burn_rate == pytest.approx(10, rel=0.05)
    assert forecast.exhausted_at == pytest.approx(now + 80 * HOUR, abs=2 * HOUR)


def test_a_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        UsageForecaster().add(math.nan, 1.0)
