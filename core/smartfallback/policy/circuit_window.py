"""Sliding windows of a circuit's results: by time in buckets, or by number of calls.

Both keep running totals, so that a judgement reads four numbers whatever the window's length. A
call is counted once as ended (``calls``, ``failures``) and once as timed (``timed``, ``slow``);
the two fall apart only for a call that is counted as slow while it still runs.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from smartfallback.model.circuits import CircuitSettings

BUCKETS: Final = 60
"""Of a time window: a result leaves at most a sixtieth of the window's length early."""


class _Bucket(NamedTuple):
    """The results of one stretch of time; ``start`` is the instant of its first."""

    start: float
    calls: int
    failures: int
    timed: int
    slow: int


class TimeWindow:
    """The results of the last ``length_s`` seconds.

    A bucket begins with the first result that no bucket holds and takes those of the following
    ``length_s / BUCKETS`` seconds; it leaves, with all that it holds, exactly ``length_s`` after
    its first result. Sparse results therefore leave at their exact age.

    Attributes:
        calls: Calls that ended inside the window.
        failures: Those of them that failed.
        timed: Calls whose duration is judged: ended, or still running and already slow.
        slow: Those of them that were slow.
    """

    __slots__ = (
        "_buckets",
        "_closed",
        "_length",
        "_start",
        "_turn_at",
        "_width",
        "calls",
        "failures",
        "slow",
        "timed",
    )

    def __init__(self, length_s: float) -> None:
        self._length = length_s
        self._width = length_s / BUCKETS
        self._buckets: deque[_Bucket] = deque()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._closed = (0, 0, 0, 0)  # sums over _buckets; the open bucket is the totals minus these
        self._start: float | None = None
        self._turn_at = -math.inf
        self.calls = self.failures = self.timed = self.slow = 0

    def record(self, now: float, failed: bool, slow: bool, timed: bool = True) -> None:
        """Count a call that ended; ``timed=False`` when its duration was counted before."""
        if now >= self._turn_at:
            self._begin(now)
        self.calls += 1
        if failed:
            self.failures += 1
        if timed:
            self.timed += 1
            if slow:
                self.slow += 1

    def notice_slow(self, now: float) -> None:
        """Count a call as slow that still runs."""
        if now >= self._turn_at:
            self._begin(now)
        self.timed += 1
        self.slow += 1

    def age(self, now: float) -> None:
        """Drop what is older than the window, so that the totals hold for ``now``."""
        start = self._start
        if start is not None and now >= start + self._width:
            calls, failures, timed, slow = self._closed
            self._buckets.append(
                _Bucket(
                    start, self.calls - calls, self.failures - failures, self.timed - timed, self.slow - slow
                )
            )
            self._closed = (self.calls, self.failures, self.timed, self.slow)
            self._start = None
            self._turn_at = -math.inf
        buckets = self._buckets
        while buckets and now >= buckets[0].start + self._length:
            gone = buckets.popleft()
            self.calls -= gone.calls
            self.failures -= gone.failures
            self.timed -= gone.timed
            self.slow -= gone.slow
            calls, failures, timed, slow = self._closed
            self._closed = (
                calls - gone.calls,
                failures - gone.failures,
                timed - gone.timed,
                slow - gone.slow,
            )

    def bucket_sums(self) -> tuple[int, int, int, int]:
        """Calls, failures, timed and slow, added up bucket by bucket: equal to the totals."""
        calls, failures, timed, slow = self._closed
        open_bucket = (self.calls - calls, self.failures - failures, self.timed - timed, self.slow - slow)
        buckets = [open_bucket, *(bucket[1:] for bucket in self._buckets)]
        calls, failures, timed, slow = (sum(bucket[column] for bucket in buckets) for column in range(4))
        return (calls, failures, timed, slow)

    def _begin(self, now: float) -> None:
        """Age the window and make sure that a bucket is open for a result at ``now``."""
        self.age(now)
        if self._start is None:
            self._start = now
        turn_at = self._start + self._width
        if self._buckets:
            turn_at = min(turn_at, self._buckets[0].start + self._length)
        self._turn_at = turn_at


_FAILED: Final = 1
_SLOW: Final = 2
_TIMED: Final = 4
_ENDED: Final = 8


class CountWindow:
    """The last ``length`` results, whenever they came; the totals mean what they do in time windows."""

    __slots__ = ("_entries", "_length", "calls", "failures", "slow", "timed")

    def __init__(self, length: int) -> None:
        self._length = length
        self._entries: deque[int] = deque()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.calls = self.failures = self.timed = self.slow = 0

    def record(self, now: float, failed: bool, slow: bool, timed: bool = True) -> None:  # noqa: ARG002 - one face for both windows
        """Count a call that ended; ``timed=False`` when its duration was counted before."""
        self._push(_ENDED | (_FAILED if failed else 0) | ((_TIMED | (_SLOW if slow else 0)) if timed else 0))

    def notice_slow(self, now: float) -> None:  # noqa: ARG002 - one face for both windows
        """Count a call as slow that still runs."""
        self._push(_TIMED | _SLOW)

    def age(self, now: float) -> None:
        """Nothing leaves by age."""

    def bucket_sums(self) -> tuple[int, int, int, int]:
        """Calls, failures, timed and slow, added up entry by entry: equal to the totals."""
        entries = self._entries
        flags = (_ENDED, _FAILED, _TIMED, _SLOW)
        sums = [sum(1 for entry in entries if entry & flag) for flag in flags]
        return (sums[0], sums[1], sums[2], sums[3])

    def _push(self, entry: int) -> None:
        entries = self._entries
        if len(entries) >= self._length:
            self._count(entries.popleft(), -1)
        entries.append(entry)
        self._count(entry, 1)

    def _count(self, entry: int, by: int) -> None:
        if entry & _ENDED:
            self.calls += by
            if entry & _FAILED:
                self.failures += by
        if entry & _TIMED:
            self.timed += by
            if entry & _SLOW:
                self.slow += by


CircuitWindow = TimeWindow | CountWindow


def window_of(settings: CircuitSettings) -> CircuitWindow:
    """The window that ``settings`` ask for."""
    if settings.window_calls is not None:
        return CountWindow(settings.window_calls)
    return TimeWindow(settings.window_s)
