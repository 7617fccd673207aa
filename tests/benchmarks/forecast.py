"""How far forecasts of a weekly quota are off, next to a constant rate in the same run.

Traffic is simulated for many weeks from several seeds: office hours with quiet evenings and weekends,
days of unequal weight, noise and bursts of a few hours; and flat traffic, where nothing can be
learnt from the hour. The level drifts from day to day; in one kind it changes only at the reset,
which is the case that suits the baseline best. The baseline is the average since the reset.

Every four hours both say
when a limit of 80 % of the mean weekly use is reached (the account then stops until the reset, so
that the forecaster learns from what an engine would see), and what a week's use will be under a limit
that is never reached. "No exhaustion before the reset" counts as the reset. ``in range`` should be
near 80 %: the share of forecasts whose range held the truth.

Run: python tests/benchmarks/forecast.py [--json]
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from statistics import median

from measuring import percentile, report, wants_json

from smartfallback.policy.forecast import UsageForecaster

SLOT_S = 900.0
HOUR_S = 3600.0
DAY_SLOTS = 96
WEEK_SLOTS = 7 * DAY_SLOTS
MONDAY = 1_772_409_600.0
"""Monday, 2 March 2026, 00:00 UTC; weekly resets are on Mondays here."""
WEEKS = 10
SEEDS = 6
MEAN_WEEK = 1_000_000.0
CALLS = 200_000
EVERY = 16
"""Slots from one forecast to the next."""

LEVEL_DEVIATION = 0.12
LEVEL_KEPT = 0.85
DAY_DEVIATION = 0.1
"""Of logarithms: how far the level strays, how much of that stays a day, and how far a day is off it."""

Shape = Callable[[int], float]


def office(slot: int) -> float:
    """Weight of a quarter of an hour of the week: office hours, evenings, nights, weekends."""
    day, hour = slot // DAY_SLOTS, slot % DAY_SLOTS / 4
    if day >= 5:
        return 0.12 if 9 <= hour < 22 else 0.02
    if 9 <= hour < 18:
        return 0.6 if 12 <= hour < 13 else 1.0
    return 0.2 if 18 <= hour < 23 else 0.02


def flat(slot: int) -> float:
    """The same at any time."""
    return 1.0


class Traffic:
    """Use of one account, week after week. Days are of unequal weight; how unequal changes slowly."""

    def __init__(
        self, shape: Shape, rng: random.Random, *, bursts: bool = False, uneven_weeks: bool = False
    ) -> None:
        self._shape = shape
        self._rng = rng
        self._bursts = bursts
        self._uneven_weeks = uneven_weeks
        self._total = sum(shape(slot) for slot in range(WEEK_SLOTS))
        self._level = rng.gauss(0, LEVEL_DEVIATION)

    def week(self) -> list[float]:
        """Use of each quarter of an hour of the next week."""
        rng, shape = self._rng, self._shape
        unit = MEAN_WEEK / self._total
        use: list[float] = []
        if self._uneven_weeks:
            self._level = rng.gauss(0, LEVEL_DEVIATION)
        for day in range(7):
            if not self._uneven_weeks:
                rest = math.sqrt(1 - LEVEL_KEPT**2)
                self._level = LEVEL_KEPT * self._level + rest * rng.gauss(0, LEVEL_DEVIATION)
            weight = unit * math.exp(self._level + rng.gauss(0, DAY_DEVIATION))
            for slot in range(day * DAY_SLOTS, (day + 1) * DAY_SLOTS):
                use.append(weight * shape(slot) * rng.gammavariate(2, 0.5))
        for _ in range(rng.randrange(5) if self._bursts else 0):
            start = rng.randrange(WEEK_SLOTS)
            if rng.random() < shape(start):
                for slot in range(start, min(WEEK_SLOTS, start + rng.randrange(4, 13))):
                    use[slot] += 1.5 * unit * rng.gammavariate(2, 0.5)
        return use


class Errors:
    """What was off by how much, in one kind of traffic and one stretch of weeks."""

    def __init__(self) -> None:
        self.time_ours: list[float] = []
        self.time_baseline: list[float] = []
        self.use_ours: list[float] = []
        self.use_baseline: list[float] = []
        self.in_range: list[bool] = []
        self.use_in_range: list[bool] = []
        self.unknown = 0
        self.asked = 0


def stopping_week(
    forecaster: UsageForecaster, use: list[float], start: float, limit: float, errors: Errors
) -> None:
    """One week in which the account stops at ``limit``; judged at the times of exhaustion."""
    reset = start + WEEK_SLOTS * SLOT_S
    total, truth = 0.0, reset
    for slot, amount in enumerate(use):
        if total + amount >= limit:
            truth = start + (slot + (limit - total) / amount) * SLOT_S
            break
        total += amount
    used = 0.0
    forecaster.resume(start)
    for slot, amount in enumerate(use):
        now = start + slot * SLOT_S
        if now >= truth:
            break
        if slot and slot % EVERY == 0:
            errors.asked += 1
            forecast = forecaster.forecast(now, used, limit, reset)
            rate = used / (now - start)
            if forecast.use_at_reset is None:
                errors.unknown += 1
            else:
                baseline = min(reset, now + (limit - used) / rate) if used else reset
                errors.time_ours.append(abs((forecast.exhausted_at or reset) - truth) / HOUR_S)
                errors.time_baseline.append(abs(baseline - truth) / HOUR_S)
                early, late = forecast.earliest_at or reset, forecast.latest_at or reset
                errors.in_range.append(early - SLOT_S <= truth <= late + SLOT_S)
        spent = min(amount, limit - used)
        forecaster.add(now + 1, spent)
        used += spent
    if truth < reset:
        forecaster.suspend(truth)


def free_week(forecaster: UsageForecaster, use: list[float], start: float, errors: Errors) -> None:
    """One week whose quota lasts; judged at the use that it ends with."""
    reset = start + WEEK_SLOTS * SLOT_S
    truth = sum(use)
    used = 0.0
    for slot, amount in enumerate(use):
        now = start + slot * SLOT_S
        if slot and slot % EVERY == 0:
            forecast = forecaster.forecast(now, used, 10 * MEAN_WEEK, reset)
            if forecast.use_at_reset is not None and forecast.least_use is not None:
                baseline = used / slot * WEEK_SLOTS
                errors.use_ours.append(100 * abs(forecast.use_at_reset - truth) / truth)
                errors.use_baseline.append(100 * abs(baseline - truth) / truth)
                errors.use_in_range.append(forecast.least_use <= truth <= (forecast.most_use or 0.0))
        forecaster.add(now + 1, amount)
        used += amount


def simulate(shape: Shape, *, bursts: bool = False, uneven_weeks: bool = False) -> tuple[Errors, Errors]:
    """Errors of the first week, in which everything is new, and of the weeks after the second."""
    new, settled = Errors(), Errors()
    for seed in range(SEEDS):
        traffic = Traffic(shape, random.Random(seed), bursts=bursts, uneven_weeks=uneven_weeks)
        stopping, free = UsageForecaster(), UsageForecaster()
        for week in range(WEEKS):
            errors = new if week == 0 else settled if week >= 2 else Errors()
            start = MONDAY + week * WEEK_SLOTS * SLOT_S
            use = traffic.week()
            stopping_week(stopping, use, start, 0.8 * MEAN_WEEK, errors)
            free_week(free, use, start, errors)
    return new, settled


def errors_of() -> list[dict[str, object]]:
    """A row for each kind of traffic and stretch of weeks."""
    rows: list[dict[str, object]] = []
    kinds = {
        "office": simulate(office),
        "office + bursts": simulate(office, bursts=True),
        "flat": simulate(flat),
        "flat, level by week": simulate(flat, uneven_weeks=True),
    }
    for name, stretches in kinds.items():
        for stretch, errors in zip(("week 1", "weeks 3-10"), stretches, strict=True):
            ours, baseline = median(errors.time_ours), median(errors.time_baseline)
            use_ours, use_baseline = median(errors.use_ours), median(errors.use_baseline)
            rows.append(
                {
                    "traffic": name,
                    "stretch": stretch,
                    "exhaustion h": ours,
                    "constant rate h": baseline,
                    "ratio": ours / baseline,
                    "p90 h": percentile(errors.time_ours, 0.9),
                    "constant p90 h": percentile(errors.time_baseline, 0.9),
                    "in range %": 100 * sum(errors.in_range) / len(errors.in_range),
                    "use %": use_ours,
                    "constant rate %": use_baseline,
                    "use ratio": use_ours / use_baseline,
                    "use in range %": 100 * sum(errors.use_in_range) / len(errors.use_in_range),
                    "unknown %": 100 * errors.unknown / errors.asked,
                }
            )
    return rows


def costs() -> dict[str, float]:
    """Microseconds of one use and of one forecast, after four weeks of traffic."""
    forecaster = UsageForecaster()
    traffic = Traffic(office, random.Random(1), bursts=True)
    at = MONDAY
    for _ in range(4):
        for amount in traffic.week():
            forecaster.add(at, amount)
            at += SLOT_S
    started = time.perf_counter()
    for _ in range(CALLS):
        forecaster.add(at, 1.0)
        at += 1.0
    adding = (time.perf_counter() - started) / CALLS
    samples = []
    for _ in range(CALLS // 100):
        at += 5.0
        started = time.perf_counter()
        forecaster.forecast(at, 300_000.0, 800_000.0, at + 4 * 86_400)
        samples.append(time.perf_counter() - started)
    return {"add µs": adding * 1e6, "forecast p50 µs": percentile(samples, 0.5) * 1e6}


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    cost = costs()
    report("Forecast: median absolute error", [row | cost for row in errors_of()], as_json=as_json)
