"""When a quota runs out: from the rate of the last hours and the pattern of the weeks.

Expected use is the integral of a rate. The rate is that of the weekly pattern, times the level at
which the last days stood against it; in the next hours it is blended with the recent rate, whose
weight halves each hour. What is still to come has the variance ``spread * S + (drift * S)**2`` for
expected use ``S``: the first part is noise that evens out, the second an error of the level that
does not. Both are learnt from how far use was from what was expected, and are large at first.
Solved for ``S``, a quota's rest gives three amounts (early, expected, late), and the course of
expected use turns each into a time; so a range always contains its estimate, and more use never
moves any of the three to later.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Self, final
from zoneinfo import ZoneInfo

from smartfallback.policy.forecast_accuracy import Accuracy
from smartfallback.policy.forecast_course import Course
from smartfallback.policy.forecast_pattern import DAY_S, HOUR_S, WeeklyPattern

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOT_S: Final = 900.0
"""Use is gathered in quarters of an hour, which fit the hours of every time zone."""
LEAST_OBSERVED_H: Final = 1.0
LEAST_SLOTS_WITH_USE: Final = 3
REACH: Final = 48.0
"""No forecast looks further ahead than this many times the time observed."""
HORIZON_S: Final = 31 * DAY_S
"""How far ahead a quota without a known reset is looked at."""

_RECENT_HALF_LIFE_H: Final = 1.0
_LEVEL_HALF_LIFE_H: Final = 36.0
_LEVEL_PRIOR_H: Final = 12.0
_LONGEST_SILENCE_S: Final = 8 * DAY_S
"""A silence may be a long weekend; what goes beyond counts as not observed."""

State = dict[str, "float | list[float]"]
"""Plain numbers, ready for JSON."""


class Outlook(StrEnum):
    """Whether a quota lasts until its reset."""

    LASTS = "lasts"
    RUNS_OUT = "runs out"
    UNCLEAR = "unclear"
    """The reset lies inside the range of the time of exhaustion."""
    UNKNOWN = "unknown"
    """Too little was observed to say."""


class Forecast(NamedTuple):
    """What is to be expected of one window. Whatever is not known is None.

    Four of five outcomes should lie in a range (one in ten before it, one in ten behind it).

    Attributes:
        outlook: Whether the quota lasts until the reset.
        burn_rate: Units an hour, over about the last two hours.
        exhausted_at: Epoch seconds at which use is expected to reach the limit; None if not before
            the reset.
        earliest_at: Start of the range of ``exhausted_at``; None if beyond the reset.
        latest_at: End of the range; None if beyond the reset.
        use_at_reset: Expected use at the reset if nothing stopped it, in units.
        least_use: Start of the range of ``use_at_reset``.
        most_use: End of the range of ``use_at_reset``.
    """

    outlook: Outlook
    burn_rate: float | None = None
    exhausted_at: float | None = None
    earliest_at: float | None = None
    latest_at: float | None = None
    use_at_reset: float | None = None
    least_use: float | None = None
    most_use: float | None = None


UNKNOWN: Final = Forecast(Outlook.UNKNOWN)


@final
class UsageForecaster:
    """Learns how one quota of one account is used. Bounded memory; for one thread.

    It is fed either with :meth:`add` (each use as it happens) or with :meth:`observe` (readings of a
    counter), not with both. Time without a call counts as time without use, up to a long weekend;
    time between :meth:`suspend` and :meth:`resume` does not count, for nothing can be learnt from an
    account that may not serve.

    Windows of one unit can share a forecaster: their use is the same, only their limits differ.

    Args:
        zone: Whose hours and days the use follows, usually the window's own time zone.
    """

    __slots__ = (
        "_accuracy",
        "_end",
        "_level_expected",
        "_level_use",
        "_pattern",
        "_reading",
        "_recent_h",
        "_recent_use",
        "_slot_use",
        "_slots_with_use",
        "_start",
        "_suspended",
    )

    def __init__(self, zone: ZoneInfo | None = None) -> None:
        self._pattern = WeeklyPattern(zone or ZoneInfo("UTC"))
        self._accuracy = Accuracy()
        self._start = math.inf
        """Start of the slot in which use is being gathered; infinite while none is."""
        self._end = -math.inf
        self._suspended = False
        self._slot_use = 0.0
        self._slots_with_use = 0
        self._recent_use = self._recent_h = 0.0
        self._level_use = self._level_expected = 0.0
        self._reading: tuple[float, float] | None = None

    def add(self, at: float, amount: float) -> None:
        """Count ``amount`` (from 0) used at ``at`` (epoch seconds)."""
        if not self._start <= at < self._end:
            self._advance(at)
        self._slot_use += amount

    def observe(self, at: float, used: float) -> None:
        """Read the window's counter: ``used`` units at ``at``.

        Counting starts with the first reading. What came since the one before is spread evenly over
        the time between. A counter that fell has begun anew.
        """
        last, self._reading = self._reading, (at, used)
        if last is None:
            self._advance(at)
            return
        since, before = last
        amount = used - before if used >= before else used
        span = at - since
        if not SLOT_S < span <= _LONGEST_SILENCE_S or self._start == math.inf:
            self.add(at, amount)
            return
        while since < at:
            until = min(at, (since // SLOT_S + 1) * SLOT_S)
            self.add(since, amount * (until - since) / span)
            since = until

    def suspend(self, at: float) -> None:
        """The account may not serve from ``at`` on. What it still uses counts, but no time does."""
        if self._suspended:
            return
        if self._start < math.inf:
            self._advance(at)
            self._fold(at)
            self._start, self._end = math.inf, -math.inf
        self._suspended = True

    def resume(self, at: float) -> None:
        """The account may serve again."""
        if self._suspended:
            self._suspended = False
            self._advance(at)

    def forecast(self, now: float, used: float, limit: float, resets_at: float | None) -> Forecast:
        """What is to be expected of a window.

        Args:
            now: Epoch seconds.
            used: Used of the window so far, in the units that were fed.
            limit: At what use it is exhausted.
            resets_at: Epoch seconds at which it begins anew, None when that is not known.

        Returns:
            UNKNOWN where too little was observed for the time that has to be looked ahead, or
            ``resets_at`` has passed. A window that is used up is exhausted now, whatever is known.
        """
        if resets_at is not None and resets_at <= now:
            return UNKNOWN
        if self._start < math.inf and now >= self._end:
            self._advance(now)
        open_h = min(SLOT_S, max(0.0, now - self._start)) / HOUR_S if self._start < math.inf else 0.0
        observed_h = self._pattern.learnt_h + open_h
        known = observed_h >= LEAST_OBSERVED_H and self._slots_with_use >= LEAST_SLOTS_WITH_USE
        burn_rate = self._burn_rate(open_h) if known else None
        if used >= limit:
            return Forecast(Outlook.RUNS_OUT, burn_rate, now, now, now)
        if burn_rate is None:
            return UNKNOWN
        end = now + HORIZON_S if resets_at is None else resets_at
        mean = self._pattern.mean_rate
        prior = _LEVEL_PRIOR_H * mean
        level = (self._level_use + prior) / (self._level_expected + prior)
        course = Course(self._pattern, level, burn_rate, now, end)
        rest = limit - used
        at = course.reach(rest)
        if min(at, end) - now > REACH * observed_h * HOUR_S:
            return Forecast(Outlook.UNKNOWN, burn_rate)
        doubt = self._accuracy.doubt(mean, observed_h)
        sooner, later = doubt.amounts(rest)
        earliest, latest = course.reach(sooner), course.reach(later)
        exhausted_at, earliest_at, latest_at = (
            None if time == math.inf else time for time in (at, min(earliest, at), max(latest, at))
        )
        if resets_at is None:
            return Forecast(Outlook.UNCLEAR, burn_rate, exhausted_at, earliest_at, latest_at)
        if latest_at is not None:
            outlook = Outlook.RUNS_OUT
        else:
            outlook = Outlook.LASTS if earliest_at is None else Outlook.UNCLEAR
        coming = course.expected(end)
        margin = doubt.margin(coming)
        return Forecast(
            outlook,
            burn_rate,
            exhausted_at,
            earliest_at,
            latest_at,
            used + coming,
            used + max(0.0, coming - margin),
            used + coming + margin,
        )

    # -- persistence -------------------------------------------------------------------------

    def to_state(self) -> State:
        """All that was learnt, as plain numbers; use of the slot that is still open goes with it."""
        amounts, hours = self._pattern.to_numbers()
        return {
            "amounts": amounts,
            "hours": hours,
            "learnt_h": self._pattern.learnt_h,
            "accuracy": self._accuracy.to_numbers(),
            "recent": [self._recent_use, self._recent_h],
            "level": [self._level_use, self._level_expected],
            "slots_with_use": float(self._slots_with_use),
            "slot": [] if self._start == math.inf else [self._start, self._end, self._slot_use],
            "reading": [] if self._reading is None else list(self._reading),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, float | list[float]], zone: ZoneInfo | None = None) -> Self:
        """A forecaster that goes on where :meth:`to_state` was called.

        The time until it is used again counts as time without use; :meth:`suspend` before
        :meth:`to_state` if nobody watches meanwhile.

        Raises:
            ValueError: The state can't come from there.
        """
        forecaster = cls(zone)
        try:
            forecaster._load(state)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the state of a forecaster: {error}") from error
        return forecaster

    def _load(self, state: Mapping[str, float | list[float]]) -> None:
        def numbers(key: str) -> list[float]:
            value = state[key]
            values = value if isinstance(value, list) else [value]
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{key} holds a number that is not finite")
            return values

        (learnt_h,) = numbers("learnt_h")
        self._pattern.load(numbers("amounts"), numbers("hours"), learnt_h)
        self._accuracy.load(numbers("accuracy"))
        self._recent_use, self._recent_h = numbers("recent")
        self._level_use, self._level_expected = numbers("level")
        self._slots_with_use = int(numbers("slots_with_use")[0])
        if slot := numbers("slot"):
            self._start, self._end, self._slot_use = slot
        if reading := numbers("reading"):
            at, used = reading
            self._reading = at, used

    # -- inside ------------------------------------------------------------------------------

    def _burn_rate(self, open_h: float) -> float:
        kept = 0.5 ** (open_h / _RECENT_HALF_LIFE_H)
        hours = self._recent_h * kept + open_h
        return (self._recent_use * kept + self._slot_use) / hours if hours > 0 else 0.0

    def _advance(self, at: float) -> None:
        """Open the slot that holds ``at``, and learn from those that end before it."""
        if not math.isfinite(at):
            raise ValueError(f"a time must be finite, not {at!r}")
        if self._suspended:
            return
        if self._start - HOUR_S <= at < self._start < math.inf:
            # The clock was set back a little: what is used counts in the slot that is open.
            return
        if at < self._start or at - self._end > _LONGEST_SILENCE_S:
            if self._start < math.inf:
                self._fold(self._end)
            self._start, self._end = at, (at // SLOT_S + 1) * SLOT_S
            return
        while at >= self._end:
            self._fold(self._end)
            self._start = self._end
            hour_end = self._pattern.hour_end(self._start)
            # Hours without any call are learnt whole.
            self._end = hour_end if at >= hour_end else (self._start // SLOT_S + 1) * SLOT_S

    def _fold(self, until: float) -> None:
        """Learn from the open slot, as far as it was observed."""
        hours = (until - self._start) / HOUR_S
        if hours <= 0:
            return
        use, self._slot_use = self._slot_use, 0.0
        if use > 0:
            self._slots_with_use += 1
        kept = 0.5 ** (hours / _RECENT_HALF_LIFE_H)
        self._recent_use = self._recent_use * kept + use
        self._recent_h = self._recent_h * kept + hours
        pattern = self._pattern
        if pattern.learnt_h > 0:
            usual = pattern.between(self._start, until)
            prior = _LEVEL_PRIOR_H * pattern.mean_rate
            if prior > 0:
                level = (self._level_use + prior) / (self._level_expected + prior)
                self._accuracy.add(use, usual * level, hours)
            kept = 0.5 ** (hours / _LEVEL_HALF_LIFE_H)
            self._level_use = self._level_use * kept + use
            self._level_expected = self._level_expected * kept + usual
        pattern.learn(self._start, use, hours)
