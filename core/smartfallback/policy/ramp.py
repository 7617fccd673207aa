"""How an account's traffic comes back after a reset: step by step, as a share of what is usual.

The *steady rate* of an account is its equal share of its pool's requests, as a mean over the hour
up to the pool's latest request. It is taken over the pool, because an account that was exhausted
has no rate of its own to come back to; over all of the pool's accounts, because one that comes
back while its siblings are exhausted must not take their share too; and up to the latest request,
because a night without traffic says nothing about the morning.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

STEP_S: Final = 10.0
"""Length of a step, in seconds; each has double the rate of the one before."""

STEPS_TO_STEADY: Final = 6
"""The last of so many steps is at the steady rate: a minute in all."""

STEPS: Final = 12
"""After so many steps there is no limit any more."""

IN_SERVICE_FACTOR: Final = 1.5
"""What an account that never stopped serving may take during the first minute, in steady rates."""

UNKNOWN_PER_S: Final = 0.1
"""The steady rate that is assumed, a second, where no request was ever counted."""

SLOWEST_PER_S: Final = 1 / 60
"""No steady rate is taken for slower, so that hardly any traffic does not stretch the way back."""

_BURST_S: Final = 1.0
# What rounding may take from a token that is due now.
_TOKEN: Final = 1.0 - 1e-6
_MINUTES: Final = 60


class SteadyRate:
    """Counts a pool's requests by the minute, over the hour up to the latest one."""

    __slots__ = ("_count", "_first", "_latest", "_minute", "_past")

    def __init__(self) -> None:
        self._minute = -inf
        self._count = 0
        self._first = inf
        self._latest = -inf
        self._past: deque[tuple[float, int]] = deque()

    def note(self, now: float) -> None:
        """Count one request at ``now``, in monotonic seconds."""
        minute = now // 60.0
        if minute != self._minute:
            self._begin(minute, now)
        self._count += 1
        self._latest = now

    def per_s(self) -> float | None:
        """Requests a second, None when none was counted."""
        if not self._count:
            return None
        counted_from = max(self._first, (self._minute - _MINUTES + 1) * 60.0)
        total = self._count + sum(count for _, count in self._past)
        return total / max(60.0, self._latest - counted_from)

    def _begin(self, minute: float, now: float) -> None:
        if self._count:
            self._past.append((self._minute, self._count))
        else:
            self._first = now
        while self._past and self._past[0][0] <= minute - _MINUTES:
            self._past.popleft()
        self._minute = minute
        self._count = 0


def steady_share(per_s: float | None, accounts: int) -> float:
    """An account's steady rate a second, from its pool's rate and the number of its accounts."""
    return UNKNOWN_PER_S if per_s is None else max(SLOWEST_PER_S, per_s / accounts)


class Ramp:
    """A token bucket whose rate doubles every :data:`STEP_S`; a token admits one request.

    For an account that was out, the rate reaches the steady one after a minute, in which it hands
    out a third of what is usual. For one that was in service throughout, the first minute is held
    to :data:`IN_SERVICE_FACTOR` times the steady rate: without a limit, an account that suddenly
    has the most quota left would get its siblings' requests as well. From then on both go on
    doubling for another minute, so that no step opens a flood. Tokens that nobody takes are not
    saved up beyond one second's worth.

    All times are monotonic seconds.

    Args:
        steady_per_s: The account's steady rate, above 0.
        now: When the ramp begins.
        in_service: The account never stopped serving.
        tokens: What the bucket holds at first.
    """

    __slots__ = ("_filled_at", "_in_service", "_started", "_steady", "_tokens")

    def __init__(
        self, steady_per_s: float, now: float, *, in_service: bool = False, tokens: float = 1.0
    ) -> None:
        self._steady = steady_per_s
        self._started = now
        self._filled_at = now
        self._in_service = in_service
        self._tokens = tokens

    @property
    def ends_at(self) -> float:
        """When the limit is gone."""
        return self._started + STEPS * STEP_S

    def rate(self, now: float) -> float:
        """Requests a second that are let through at ``now``."""
        return self._rate_of(int((now - self._started) // STEP_S))

    def next_at(self, now: float) -> float:
        """The earliest instant from ``now`` on at which a request is let through."""
        self._fill(now)
        missing = 1.0 - self._tokens
        if self._tokens >= _TOKEN:
            return now
        step = int((now - self._started) // STEP_S)
        at = now
        while step < STEPS:
            ends_at = self._started + (step + 1) * STEP_S
            rate = self._rate_of(step)
            if at + missing / rate <= ends_at:
                return at + missing / rate
            missing -= (ends_at - at) * rate
            at = ends_at
            step += 1
        return max(now, self.ends_at)

    def admitted(self, now: float) -> None:
        """A request was let through, on a token or for want of anybody else."""
        self._fill(now)
        self._tokens = max(0.0, self._tokens - 1.0)

    def _rate_of(self, step: int) -> float:
        if step >= STEPS:
            return inf
        if self._in_service and step < STEPS_TO_STEADY:
            return self._steady * IN_SERVICE_FACTOR
        return float(self._steady * 2.0 ** (step - STEPS_TO_STEADY + 1))

    def _fill(self, now: float) -> None:
        at = self._filled_at
        if now <= at:
            return
        self._filled_at = now
        if now >= self.ends_at:
            self._tokens = max(1.0, self._tokens)
            return
        tokens = self._tokens
        step = int((at - self._started) // STEP_S)
        while at < now:
            # Rounding can put an instant at a step's very end back into it, where no time is left.
            until = max(at, min(now, self._started + (step + 1) * STEP_S))
            tokens += (until - at) * self._rate_of(step)
            at = until
            step += 1
        self._tokens = min(tokens, max(1.0, self.rate(now) * _BURST_S))
