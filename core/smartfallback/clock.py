"""Time and randomness as parameters, so that tests and simulations need no sleep."""

from __future__ import annotations

import time
from typing import Final, Protocol

_SLEEP_S: Final = 1.0
"""By less a calendar is adjusted while it runs."""


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

    Until it is set it shows the machine's time. From then on it runs by the machine's monotonic clock:
    whatever becomes of the machine's calendar, no window begins early for it and no rest ends late.

    Args:
        clock: The machine's own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead: float | None = None
        """Its time minus the monotonic clock; None until it is set."""
        self._calendar = clock.time() - clock.monotonic()
        """The same of the machine's calendar, when it was last looked at."""

    @property
    def offset_s(self) -> float:
        """Its time minus the machine's, in seconds; 0 until it is set."""
        return 0.0 if self._ahead is None else self.time() - self._clock.time()

    @property
    def is_set(self) -> bool:
        """Whether anybody has said what time it is."""
        return self._ahead is not None

    def set(self, offset_s: float) -> float:
        """Show the machine's time plus ``offset_s`` from now on.

        Returns:
            By how many seconds that differs from what it showed.
        """
        before = self.time()
        now = self._clock.monotonic()
        self._calendar = self._clock.time() - now
        self._ahead = self._calendar + offset_s
        return now + self._ahead - before

    def go_on_alone(self) -> float:
        """Nobody says what time it is: follow the machine if it has slept.

        Of a sleep its monotonic clock knows nothing; its calendar has leapt ahead. One that leaps back
        was only corrected.

        Returns:
            How many seconds it has slept.
        """
        before, self._calendar = self._calendar, self._clock.time() - self._clock.monotonic()
        leap_s = self._calendar - before
        if self._ahead is None or leap_s < _SLEEP_S:
            return 0.0
        self._ahead += leap_s
        return leap_s

    def monotonic(self) -> float:
        """As on the machine."""
        return self._clock.monotonic()

    def time(self) -> float:
        """Seconds since the Unix epoch, as the other's clock shows them."""
        ahead = self._ahead
        return self._clock.time() if ahead is None else self._clock.monotonic() + ahead
