"""Latencies of the last five minutes as a histogram with percentiles."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from smartfallback.model.snapshot import LatencyView

_SHORTEST_S: Final = 0.001
_LONGEST_S: Final = 120.0
_BINS: Final = 40

BOUNDS: Final[tuple[float, ...]] = (
    *(_SHORTEST_S * (_LONGEST_S / _SHORTEST_S) ** (step / (_BINS - 1)) for step in range(_BINS - 1)),
    _LONGEST_S,
)
"""Upper bounds of the bins in seconds, 1 ms to 120 s, each about 1.35 times the one before."""

WINDOW_S: Final = 300.0
_SLICES: Final = 10
_SLICE_S: Final = WINDOW_S / _SLICES


class LatencyHistogram:
    """Counts durations into log-spaced bins and forgets them after five minutes.

    The window slides in steps of 30 s: a sample counts for at least 270 and at most 300 seconds.
    Percentiles are interpolated inside their bin, so that their relative error stays below the
    bins' ratio; samples beyond 120 s count as 120 s there.

    Args:
        now: Seconds on the clock that :meth:`record` and :meth:`view` are given.
    """

    __slots__ = ("_current", "_ends_at", "_slices", "_totals", "_view")

    def __init__(self, now: float) -> None:
        self._slices = [[0] * (_BINS + 1) for _ in range(_SLICES)]
        self._current = self._slices[-1]
        self._ends_at = now + _SLICE_S
        self._totals = [0] * (_BINS + 1)
        self._view: LatencyView | None = None

    def record(self, seconds: float, now: float) -> None:
        """Count one duration."""
        if now >= self._ends_at:
            self._rotate(now)
        place = bisect_left(BOUNDS, seconds)
        self._current[place] += 1
        self._totals[place] += 1
        self._view = None

    def view(self, now: float) -> LatencyView:
        """The last five minutes; the same object as before while nothing has changed."""
        if now >= self._ends_at:
            self._rotate(now)
        view = self._view
        if view is None:
            view = self._view = LatencyView(
                bounds=BOUNDS,
                counts=tuple(self._totals),
                p50=self._percentile(50),
                p95=self._percentile(95),
                p99=self._percentile(99),
            )
        return view

    def _rotate(self, now: float) -> None:
        passed = int((now - self._ends_at) // _SLICE_S) + 1
        self._ends_at += passed * _SLICE_S
        for _ in range(min(passed, _SLICES)):
            oldest = self._slices.pop(0)
            if any(oldest):
                self._totals = [total - old for total, old in zip(self._totals, oldest, strict=True)]
                self._view = None
            self._slices.append([0] * (_BINS + 1))
        self._current = self._slices[-1]

    def _percentile(self, percent: int) -> float | None:
        """The value below which ``percent`` of the samples lie, in seconds; None without samples."""
        wanted = percent * sum(self._totals)
        if not wanted:
            return None
        below = 0
        for place, count in enumerate(self._totals):
            if count and (below + count) * 100 >= wanted:
                if place == _BINS:
                    break
                share = (wanted / 100 - below) / count
                if place == 0:
                    return BOUNDS[0] * share
                low, high = BOUNDS[place - 1], BOUNDS[place]
                # The bins are even on a logarithmic scale, so the way through one is too.
                return float(low * (high / low) ** share)
            below += count
        return _LONGEST_S
