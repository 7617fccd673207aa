"""The calls that run through a circuit, watched so that those that hang count as slow."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from smartfallback.policy.circuit_values import Permit

_SLACK: Final = 64


class RunningCalls:
    """Permits by start time. Those that ended stay until they reach the front or outnumber the rest.

    Adding is one append; each permit is taken once and each sweep halves the list at least, so
    the work is constant per call on average, and the list holds at most twice the live calls and
    a constant.

    Attributes:
        due_at: No watched call becomes slow before this instant; infinite while none is watched.
    """

    __slots__ = ("_limit", "_permits", "_slow_s", "due_at")

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self.clear()

    def clear(self) -> None:
        """Watch nothing."""
        self._permits: deque[Permit] = deque()
        self._limit = _SLACK
        self.due_at = math.inf

    def __len__(self) -> int:
        return len(self._permits)

    def add(self, permit: Permit) -> None:
        """Watch a call that starts now."""
        permits = self._permits
        permits.append(permit)
        if len(permits) == 1:
            self.due_at = permit.started_at + self._slow_s
        elif len(permits) > self._limit:
            self._permits = permits = deque(waiting for waiting in permits if waiting.live)
            self._limit = 2 * len(permits) + _SLACK
            self.due_at = permits[0].started_at + self._slow_s

    def overdue(self, now: float) -> int:
        """How many watched calls are slow by now."""
        count = 0
        for permit in self._permits:
            if now < permit.started_at + self._slow_s:
                break
            count += permit.live
        return count

    def take_overdue(self, now: float) -> int:
        """Mark the calls that are slow by now as noticed and watch them no more; returns how many."""
        permits = self._permits
        count = 0
        while permits and now >= permits[0].started_at + self._slow_s:
            permit = permits.popleft()
            if permit.live:
                permit.noticed = True
                count += 1
        self.due_at = permits[0].started_at + self._slow_s if permits else math.inf
        return count
