"""The expected course of use from now on: the recent rate at first, the weekly pattern then."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final, final

from smartfallback.policy.forecast_pattern import HOUR_S

if TYPE_CHECKING:
    from smartfallback.policy.forecast_pattern import WeeklyPattern

_NEAR_HOURS: Final = 6
_RECENT_WEIGHT: Final = 0.3
"""What the recent rate counts for in the next hour; half as much in each hour after."""


@final
class Course:
    """Expected use since ``now`` as a function of time, and its inverse; both never fall."""

    __slots__ = ("_end", "_knots", "_level", "_near_end", "_pattern")

    def __init__(self, pattern: WeeklyPattern, level: float, recent: float, now: float, end: float) -> None:
        """Expect ``pattern * level``, blended at first with ``recent`` units an hour, until ``end``."""
        self._pattern = pattern
        self._level = level
        self._end = end
        total, at, weight = 0.0, now, _RECENT_WEIGHT
        knots = [(now, 0.0)]
        for _ in range(_NEAR_HOURS):
            usual = level * pattern.between(at, at + HOUR_S)
            total += usual + weight * (recent - usual)
            at += HOUR_S
            weight /= 2
            knots.append((at, total))
        self._knots = knots
        self._near_end = at

    def expected(self, until: float) -> float:
        """Expected use from now to ``until``."""
        if until >= self._near_end:
            return self._knots[-1][1] + self._level * self._pattern.between(self._near_end, until)
        for (start, before), (end, after) in pairwise(self._knots):
            if until < end:
                return before + (after - before) * max(0.0, until - start) / (end - start)
        return self._knots[-1][1]

    def reach(self, amount: float) -> float:
        """When expected use reaches ``amount``; infinite if not before the end."""
        near = self._knots[-1][1]
        if amount > near:
            rest = (amount - near) / self._level
            return self._pattern.reach(self._near_end, rest, self._end)
        for (start, before), (end, after) in pairwise(self._knots):
            if amount <= after:
                share = (amount - before) / (after - before) if after > before else 0.0
                at = start + share * (end - start)
                return at if at < self._end else math.inf
        return math.inf
