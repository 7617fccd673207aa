"""Time and randomness as parameters, so that tests and simulations need no sleep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings: one that never steps, for waits and circuits, and the calendar's, for quotas."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch; may step."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


class SharedClock:
    """A calendar clock that is set by somebody else's, so that all who share state agree on the time.

    Args:
        clock: The machine's own.

    Attributes:
        offset_s: The other's time minus the machine's, in seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset_s = 0.0

    def monotonic(self) -> float:
        """As on the machine."""
        return self._clock.monotonic()

    def time(self) -> float:
        """Seconds since the Unix epoch, as the other's clock shows them."""
        return self._clock.time() + self.offset_s
