"""How use is spread over the hours of the week, learnt from what was used when.

Use is counted by local hour of the week, since people and their jobs follow the wall clock. An
hour that was seen seldom borrows from a plainer model: the profile of the day's hours, over all
days, times how busy this weekday is. That model in turn borrows from the mean rate, so the pattern
is flat at first and takes shape as data comes in.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, final
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
HOURS: Final = 168

_EPOCH_WEEKDAY_S: Final = 3 * DAY_S
"""The epoch began on a Thursday; weeks here begin on Monday."""
_LOOK_AHEAD_DAYS: Final = 400
_KEPT_A_VISIT: Final = 0.85
"""Weight of what was known of an hour of the week when it has been seen once more."""
_PROFILE_WEIGHT_H: Final = 0.5
"""Hours of data at which the mean rate and the seen rate of an hour of the day count the same."""
_DAY_WEIGHT_H: Final = 3.0
_BUCKET_WEIGHT_H: Final = 1.0
_REBUILD_AFTER_H: Final = 1.0
_NOTHING: Final = array("d", bytes(8 * (HOURS + 1)))


@final
class LocalWeek:
    """Where an instant lies in the local week of one time zone."""

    __slots__ = ("_from", "_phase", "_until", "_zone")

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._from = math.inf
        self._until = -math.inf
        self._phase = 0.0

    def phase(self, at: float) -> tuple[float, float]:
        """What to add to epoch seconds, and until when that holds (exclusive).

        ``(at + phase) % WEEK_S`` is the time since Monday 00:00 by the local clock.
        """
        if not self._from <= at < self._until:
            self._find(at)
        return self._phase, self._until

    def _offset(self, at: float) -> float:
        offset = datetime.fromtimestamp(at, self._zone).utcoffset()
        return 0.0 if offset is None else offset.total_seconds()

    def _find(self, at: float) -> None:
        """Look for the next change of the clock: by days, then to the second."""
        offset = self._offset(at)
        before = at
        for _ in range(_LOOK_AHEAD_DAYS):
            after = before + DAY_S
            if self._offset(after) != offset:
                low, high = math.floor(before), math.ceil(after)
                while high - low > 1:
                    middle = (low + high) // 2
                    if self._offset(middle) == offset:
                        low = middle
                    else:
                        high = middle
                before = float(high)
                break
            before = after
        self._from, self._until, self._phase = at, before, offset + _EPOCH_WEEKDAY_S


@lru_cache(maxsize=64)
def local_week(zone: ZoneInfo) -> LocalWeek:
    """The one :class:`LocalWeek` of a zone, whose look-ups all its accounts share."""
    return LocalWeek(zone)


@final
class WeeklyPattern:
    """Rate of use by hour of the local week: two numbers an hour, whatever the traffic."""

    __slots__ = ("_amounts", "_cumulative", "_hours", "_learnt_h", "_rebuild_from_h", "_week")

    def __init__(self, zone: ZoneInfo) -> None:
        self._week = local_week(zone)
        self._amounts = array("d")
        self._hours = array("d")
        self._learnt_h = 0.0
        self._rebuild_from_h = 0.0
        self._cumulative = _NOTHING
        """Expected use from Monday 00:00 to each full hour of the week."""

    @property
    def learnt_h(self) -> float:
        """Hours of data that went in, without forgetting."""
        return self._learnt_h

    @property
    def mean_rate(self) -> float:
        """Expected use an hour over a whole week."""
        return self._totals()[-1] / HOURS

    def hour_end(self, at: float) -> float:
        """The end of the local hour that holds ``at``, in epoch seconds."""
        phase, until = self._week.phase(at)
        return min(at + HOUR_S - (at + phase) % HOUR_S, until)

    def learn(self, at: float, amount: float, hours: float) -> None:
        """Count ``amount`` used in ``hours`` (above 0) of the local hour that holds ``at``."""
        if not self._amounts:
            self._amounts = array("d", bytes(8 * HOURS))
            self._hours = array("d", bytes(8 * HOURS))
        bucket = self._bucket(at)
        # The weight of the new data reaches 1 a full hour, so parts of an hour weigh as the whole does.
        kept = _KEPT_A_VISIT**hours
        self._amounts[bucket] = self._amounts[bucket] * kept + amount
        self._hours[bucket] = self._hours[bucket] * kept + hours
        self._learnt_h += hours

    def between(self, start: float, end: float) -> float:
        """Expected use from ``start`` to ``end``."""
        return sum(
            self._upto(stop + phase) - self._upto(begin + phase)
            for begin, stop, phase in self._segments(start, end)
        )

    def reach(self, start: float, amount: float, end: float) -> float:
        """When expected use since ``start`` reaches ``amount``; infinite if not before ``end``."""
        if amount <= 0:
            return start
        totals = self._totals()
        for begin, stop, phase in self._segments(start, end):
            here = self._upto(begin + phase)
            there = self._upto(stop + phase)
            if amount <= there - here:
                weeks, part = divmod(here + amount, totals[-1])
                index = bisect_left(totals, part)
                fraction = (
                    index - (totals[index] - part) / (totals[index] - totals[index - 1]) if index else 0.0
                )
                reached = weeks * WEEK_S + fraction * HOUR_S - phase
                return min(max(begin, reached), stop)
            amount -= there - here
        return math.inf

    def to_numbers(self) -> tuple[list[float], list[float]]:
        """What is known, as plain numbers: amounts and hours of each hour of the week."""
        return list(self._amounts), list(self._hours)

    def load(self, amounts: Sequence[float], hours: Sequence[float], learnt_h: float) -> None:
        """Take over what :meth:`to_numbers` gave.

        Raises:
            ValueError: The numbers can't come from there.
        """
        if len(amounts) != len(hours) or len(amounts) not in (0, HOURS):
            raise ValueError(f"a weekly pattern has {HOURS} hours or none, not {len(amounts)}")
        if not all(0 <= value < math.inf for value in (*amounts, *hours, learnt_h)):
            raise ValueError("a weekly pattern holds finite numbers from 0")
        self._amounts, self._hours = array("d", amounts), array("d", hours)
        self._learnt_h = learnt_h
        self._rebuild_from_h = 0.0
        self._cumulative = _NOTHING

    # -- inside ------------------------------------------------------------------------------

    def _bucket(self, at: float) -> int:
        return int((at + self._week.phase(at)[0]) % WEEK_S // HOUR_S)

    def _segments(self, start: float, end: float) -> Iterator[tuple[float, float, float]]:
        """Parts of a span between changes of the clock: start, end and phase of each."""
        while start < end:
            phase, until = self._week.phase(start)
            stop = min(end, until)
            yield start, stop, phase
            start = stop

    def _upto(self, local: float) -> float:
        totals = self._totals()
        weeks, seconds = divmod(local, WEEK_S)
        hour = seconds / HOUR_S
        index = min(int(hour), len(totals) - 2)
        low = totals[index]
        return weeks * totals[-1] + low + (totals[index + 1] - low) * (hour - index)

    def _totals(self) -> array[float]:
        if self._learnt_h >= self._rebuild_from_h and self._amounts:
            self._rebuild()
        return self._cumulative

    def _rebuild(self) -> None:
        amounts, hours = self._amounts, self._hours
        mean = sum(amounts) / sum(hours)
        borrowed = _PROFILE_WEIGHT_H
        profile = [
            (sum(amounts[hour::24]) + borrowed * mean) / (sum(hours[hour::24]) + borrowed)
            for hour in range(24)
        ]
        day_weight = _DAY_WEIGHT_H * mean
        weight = _BUCKET_WEIGHT_H
        total = 0.0
        cumulative = array("d", (0.0,))
        for first in range(0, HOURS, 24):
            day, seen = amounts[first : first + 24], hours[first : first + 24]
            expected = sum(map(float.__mul__, seen, profile))
            # A day never seen is taken for an average one.
            busy = (sum(day) + day_weight) / (expected + day_weight) * weight if mean else 0.0
            for amount, hour, usual in zip(day, seen, profile, strict=True):
                total += (amount + busy * usual) / (hour + weight)
                cumulative.append(total)
        self._cumulative = cumulative
        # Once an hour is enough for a mean over weeks, and keeps the cost of a forecast low.
        self._rebuild_from_h = self._learnt_h + min(_REBUILD_AFTER_H, self._learnt_h / 2)
