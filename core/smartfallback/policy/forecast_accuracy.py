"""How far use was from what was expected, and so how far a forecast may be off.

The variance of what is still to come is put as ``spread * S + (drift * S)**2`` for expected use
``S`` (method of moments for an overdispersed count): ``spread`` is measured over blocks of a few
hours, ``drift`` is what days are further off than such noise explains. Both start from wide
assumptions, which lose weight as data comes in.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, final

_SPREAD_BLOCK_H: Final = 6.0
"""Longer than a burst, so that its hours don't pass for independent ones."""
_DAYS_BLOCK_H: Final = 24.0
_HALF_LIFE_H: Final = 14 * 24.0
_PRIOR_H: Final = 24.0
_PRIOR_SPREAD_H: Final = 3.0
_WEEK_H: Final = 168.0
_UNSEEN_DRIFT: Final = 0.5
"""Before a whole week was seen: some day yet to come may be quite another one."""
_FIRST_DRIFT: Final = 0.8
_LEAST_DRIFT: Final = 0.05

_Z: Final = 1.2816
"""Four fifths of a normal distribution lie within so many standard deviations of its mean."""


class Doubt(NamedTuple):
    """Both terms of the variance: ``spread`` in units of use, ``drift`` as a share."""

    spread: float
    drift: float

    def amounts(self, rest: float) -> tuple[float, float]:
        """The expected use at which ``rest`` may be reached earliest, and at which latest.

        Solves ``S + z * sd(S) = rest`` and ``S - z * sd(S) = rest``; the latest may be infinite.
        """
        half = rest + _Z * _Z * self.spread / 2
        lead = 1 - (_Z * self.drift) ** 2
        root = math.sqrt(max(0.0, half * half - lead * rest * rest))
        return rest * (rest / (half + root)) if rest > 0 else 0.0, (
            half + root
        ) / lead if lead > 0 else math.inf

    def margin(self, expected: float) -> float:
        """By how much use may miss ``expected`` either way."""
        return _Z * math.sqrt(self.spread * expected + (self.drift * expected) ** 2)


@final
class _Block:
    """Sums of a span, handed on when it is full."""

    __slots__ = ("actual", "error", "expected", "hours", "length_h", "weight")

    def __init__(self, length_h: float) -> None:
        self.length_h = length_h
        self.hours = self.actual = self.expected = 0.0
        self.error = self.weight = 0.0

    def add(self, actual: float, expected: float, hours: float) -> bool:
        """Count; True when that filled the block and its squared error can be taken."""
        self.hours += hours
        self.actual += actual
        self.expected += expected
        return self.hours >= self.length_h - 1e-6

    def clear(self) -> float:
        """Begin anew; gives how much of what is remembered stays."""
        kept: float = 0.5 ** (self.hours / _HALF_LIFE_H)
        self.hours = self.actual = self.expected = 0.0
        return kept


@final
class Accuracy:
    """Learns both terms from pairs of expected and actual use."""

    __slots__ = ("_days", "_noise")

    def __init__(self) -> None:
        self._noise = _Block(_SPREAD_BLOCK_H)
        self._days = _Block(_DAYS_BLOCK_H)

    def add(self, actual: float, expected: float, hours: float) -> None:
        """Count ``actual`` use in ``hours`` in which ``expected`` was expected."""
        noise, days = self._noise, self._days
        if noise.add(actual, expected, hours):
            error, weight = (noise.actual - noise.expected) ** 2, noise.expected
            kept = noise.clear()
            noise.error = noise.error * kept + error
            noise.weight = noise.weight * kept + weight
        if days.add(actual, expected, hours):
            error, weight = (days.actual - days.expected) ** 2, days.expected
            spread = noise.error / noise.weight if noise.weight else 0.0
            kept = days.clear()
            days.error = days.error * kept + error - spread * weight
            days.weight = days.weight * kept + weight * weight

    def doubt(self, mean_rate: float, observed_h: float) -> Doubt:
        """The terms for a forecast, given the mean rate and for how long use was observed."""
        prior = _PRIOR_H * mean_rate
        spread = (self._noise.error + prior * _PRIOR_SPREAD_H * mean_rate) / (self._noise.weight + prior)
        learnt = max(0.0, self._days.error / self._days.weight) if self._days.weight else 0.0
        first = _UNSEEN_DRIFT if observed_h < _WEEK_H else _FIRST_DRIFT / (1 + observed_h / 24)
        return Doubt(spread, math.sqrt(learnt + first * first + _LEAST_DRIFT**2))

    def to_numbers(self) -> list[float]:
        """What is known, as plain numbers."""
        return [
            value
            for block in (self._noise, self._days)
            for value in (block.hours, block.actual, block.expected, block.error, block.weight)
        ]

    def load(self, numbers: list[float]) -> None:
        """Take over what :meth:`to_numbers` gave.

        Raises:
            ValueError: The numbers can't come from there.
        """
        if len(numbers) != 10 or not all(map(math.isfinite, numbers)):
            raise ValueError("the accuracy of a forecast is ten finite numbers")
        for block, values in ((self._noise, numbers[:5]), (self._days, numbers[5:])):
            block.hours, block.actual, block.expected, block.error, block.weight = values
