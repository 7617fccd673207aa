"""How long to wait before another try: fixed, linear or exponential, with full jitter.

Full jitter draws the wait evenly from 0 to the schedule's value, which spreads callers that failed
together best (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Base of the schedules.

    Attributes:
        base_delay: Seconds before the first retry, as far as jitter doesn't shorten them.
        max_delay: No wait is longer, in seconds.
        jitter: Draw from 0 to the schedule's value instead of taking it.

    Raises:
        ValueError: A delay is negative, not finite, or ``max_delay`` is below ``base_delay``.
    """

    base_delay: float = 1.0
    max_delay: float = 60.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.base_delay < math.inf:
            raise ValueError(f"base_delay must be at least 0 and finite, not {self.base_delay!r}")
        if not self.base_delay <= self.max_delay < math.inf:
            raise ValueError(f"max_delay must be finite and at least base_delay, not {self.max_delay!r}")

    def ceiling(self, attempt: int) -> float:
        """The longest wait before retry ``attempt`` (1 is the first), in seconds."""
        raise NotImplementedError

    def delay(self, attempt: int, rng: random.Random) -> float:
        """The wait before retry ``attempt`` (1 is the first), in seconds.

        Raises:
            ValueError: ``attempt`` is below 1.
        """
        if attempt < 1:
            raise ValueError(f"retries are counted from 1, not {attempt!r}")
        ceiling = self.ceiling(attempt)
        return rng.uniform(0.0, ceiling) if self.jitter else ceiling


@dataclass(frozen=True, slots=True)
class FixedBackoff(Backoff):
    """The same wait each time."""

    def ceiling(self, attempt: int) -> float:  # noqa: ARG002 - one face for all schedules
        """``base_delay``."""
        return self.base_delay


@dataclass(frozen=True, slots=True)
class LinearBackoff(Backoff):
    """Grows by ``base_delay`` with each retry."""

    def ceiling(self, attempt: int) -> float:
        """``base_delay`` times ``attempt``, at most ``max_delay``."""
        return min(self.base_delay * attempt, self.max_delay)


@dataclass(frozen=True, slots=True)
class ExponentialBackoff(Backoff):
    """Multiplies with each retry.

    Raises:
        ValueError: As the base, or ``multiplier`` is below 1 or not finite.
    """

    multiplier: float = 2.0

    def __post_init__(self) -> None:
        # dataclass(slots=True) replaces the class, so the argument-less super() would miss it
        Backoff.__post_init__(self)
        if not 1 <= self.multiplier < math.inf:
            raise ValueError(f"multiplier must be at least 1 and finite, not {self.multiplier!r}")

    def ceiling(self, attempt: int) -> float:
        """``base_delay`` times ``multiplier`` to the power of ``attempt`` - 1, at most ``max_delay``."""
        try:
            grown = self.base_delay * self.multiplier ** (attempt - 1)
        except OverflowError:
            grown = math.inf
        # 0 times an overflown power is not a number; a base of 0 never waits
        return min(grown, self.max_delay) if self.base_delay else 0.0
