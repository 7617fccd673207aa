"""A retry budget: retries may be only a share of recent traffic, so that an outage starts no storm."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

BUCKETS: Final = 20


class RetryBudget:
    """Counts requests and retries over a sliding window, in buckets of constant number.

    At the moment of every retry it holds that the retries of the last ``window_s`` seconds, this
    one among them, are at most ``reserve + share * requests of these seconds``. Requests leave
    the count up to a bucket (``window_s / 20``) early and retries up to a bucket late, so that
    rounding is always on the side of fewer retries. Times are monotonic seconds and must not go
    back.

    Args:
        share: Retries per request, 0.2 for one in five.
        window_s: Over which traffic is recent.
        reserve: Retries that a window always has, so that thin traffic can retry at all.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    __slots__ = ("_requests", "_reserve", "_retries", "_share")

    def __init__(self, *, share: float = 0.2, window_s: float = 10.0, reserve: int = 10) -> None:
        if not 0 <= share < math.inf:
            raise ValueError(f"share must be at least 0 and finite, not {share!r}")
        if not 0 < window_s < math.inf:
            raise ValueError(f"window_s must be above 0 and finite, not {window_s!r}")
        if reserve < 0:
            raise ValueError(f"reserve must not be negative, not {reserve!r}")
        width = window_s / BUCKETS
        self._share = share
        self._reserve = reserve
        self._requests = _Recent(width, keep_s=window_s)
        self._retries = _Recent(width, keep_s=window_s + width)

    def note_request(self, now: float) -> None:
        """A request came in (not one of its retries)."""
        self._requests.add(now)

    def try_spend(self, now: float) -> bool:
        """Take one retry from the budget; False, and nothing taken, when none is left."""
        if self.left(now) < 1:
            return False
        self._retries.add(now)
        return True

    def left(self, now: float) -> float:
        """Retries that the budget has now; a part of one can't be spent."""
        allowed = self._reserve + self._share * self._requests.count(now)
        return max(0.0, allowed - self._retries.count(now))


class _Recent:
    """A count of what happened in the last ``keep_s`` seconds.

    A bucket begins with its first event and leaves as a whole ``keep_s`` after it.
    """

    __slots__ = ("_buckets", "_keep_s", "_total", "_width")

    def __init__(self, width: float, *, keep_s: float) -> None:
        self._width = width
        self._keep_s = keep_s
        self._buckets: deque[list[float]] = deque()  # [start, count]
        self._total = 0

    def add(self, now: float) -> None:
        self._drop(now)
        buckets = self._buckets
        if buckets and now < buckets[-1][0] + self._width:
            buckets[-1][1] += 1
        else:
            buckets.append([now, 1])
        self._total += 1

    def count(self, now: float) -> int:
        self._drop(now)
        return self._total

    def _drop(self, now: float) -> None:
        buckets = self._buckets
        while buckets and now >= buckets[0][0] + self._keep_s:
            self._total -= int(buckets.popleft()[1])
