"""How far the server's clock is from this machine's."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from smartfallback.clock import Clock

_KEPT: Final = 16
"""Samples; at one a second a drift of 100 ppm is followed to within 2 ms."""
_SLACK_S: Final = 0.001
"""By which answers may differ though no clock was set: rounding, and drift between them."""


class _Sample(NamedTuple):
    ahead: float
    """The server's time minus this machine's monotonic clock at the middle of the round trip."""
    half: float
    """Half the round trip: the true value is within that of ``ahead``."""

    def agrees(self, other: _Sample) -> bool:
        return abs(self.ahead - other.ahead) <= self.half + other.half + _SLACK_S


class ServerClock:
    """Estimates the offset from answers to ``TIME``; the shortest round trip knows best (D. Mills, NTP).

    The estimate is kept against the monotonic clock, so that a step of this machine's calendar shows
    in :attr:`offset_s` at once. A step of the server's clock is noticed by the first sample that
    contradicts what was known.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: deque[_Sample] = deque(maxlen=_KEPT)
        self._best: _Sample | None = None

    @property
    def offset_s(self) -> float:
        """The server's clock minus this machine's, in seconds; 0 before any sample."""
        if self._best is None:
            return 0.0
        return self._best.ahead + self._clock.monotonic() - self._clock.time()

    def heard(self, server_time: float, sent_at: float, received_at: float) -> None:
        """Take in one answer: epoch seconds, and when it was asked and heard in monotonic seconds."""
        half = max(0.0, received_at - sent_at) / 2
        sample = _Sample(server_time - (sent_at + half), half)
        if self._best is not None and not sample.agrees(self._best):
            self._samples.clear()
        self._samples.append(sample)
        self._best = min(self._samples, key=lambda known: known.half)

    def forget(self) -> None:
        """Another server answers from now on."""
        self._samples.clear()
        self._best = None
