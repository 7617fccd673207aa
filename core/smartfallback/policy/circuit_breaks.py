"""How long a circuit stays open: exactly as configured at first, longer with each failed probing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from smartfallback.model.circuits import CircuitSettings


class Breaks:
    """The breaks of one circuit, in seconds.

    The first break after closing is exact: it is what the operator configured and reads on the
    screen. Later ones grow by ``backoff_multiplier`` up to ``max_recovery_timeout_s`` and are
    spread upwards by ``recovery_jitter``, so that instances that failed together drift apart; at
    the maximum the spread lies below it. A first break above the maximum is the maximum.
    """

    __slots__ = ("_current", "_first", "_rng", "_settings")

    def __init__(self, settings: CircuitSettings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._first: float = settings.recovery_timeout_s
        self._current: float | None = None

    def reset(self) -> None:
        """The circuit closed: the next break is a first one again."""
        self._current = None

    def coming(self, base: float) -> float:
        """The next break without its jitter; ``base`` is the length of a first one."""
        if self._current is None:
            return base
        return min(self._current * self._settings.backoff_multiplier, self._limit())

    def take(self, base: float) -> float:
        """Begin the next break and return its length; ``base`` is the length of a first one."""
        first = self._current is None
        self._current = self.coming(base)
        if first:
            self._first = base
            return base
        spread = 1 + self._settings.recovery_jitter
        high = min(self._current * spread, self._limit())
        return self._rng.uniform(max(self._first, high / spread), high)

    def adopt(self, length: float | None) -> None:
        """Count another instance's break as one of this circuit's, so that the next one is longer.

        Hearing of the same break again changes nothing.

        Args:
            length: The other's break without its jitter; None, or what can't have been one, counts
                as a first break here.
        """
        settings = self._settings
        base = settings.recovery_timeout_s
        if length is None or not 0 < length < math.inf:
            length = base
        if self._current is None:
            longest = max(settings.max_recovery_timeout_s, base)
            self._first = self._current = min(max(length, min(base, settings.rate_limit_recovery_s)), longest)
        else:
            self._current = max(self._current, length)

    @property
    def first(self) -> float:
        """The length of the first break since it last closed, without meaning before one."""
        return self._first

    @property
    def latest(self) -> float | None:
        """The latest break without its jitter, None before the first."""
        return self._current

    def restore(self, first: float, latest: float | None) -> None:
        """Go on from breaks before a restart; a later one still keeps to the settings' maximum."""
        known = latest is not None and first > 0 and latest > 0
        self._first, self._current = first, latest if known else None

    def _limit(self) -> float:
        return max(self._settings.max_recovery_timeout_s, self._first)
