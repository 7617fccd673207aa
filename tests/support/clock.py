"""A clock that moves only when a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime

EPOCH = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()
"""A Monday noon, far from any reset."""


class FakeClock:
    def __init__(self, at: float = EPOCH) -> None:
        self._at = at
        self._elapsed = 0.0
        self._step = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    def time(self) -> float:
        return self._at + self._elapsed + self._step

    def advance(self, seconds: float) -> None:
        self._elapsed += seconds

    def step_wall_clock(self, seconds: float) -> None:
        """Move the calendar without letting time pass."""
        self._step += seconds
