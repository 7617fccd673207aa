"""How many requests an account may run at once: lowered when it shows overload, raised step by step.

Additive increase, multiplicative decrease (AIMD), as TCP's congestion control does it (Chiu and
Jain, 1989; RFC 5681), applied to calls in flight instead of bytes as in Netflix's
``concurrency-limits``. What is taken from TCP besides: a cut starts from what was in flight rather
than from what was allowed (RFC 5681's FlightSize), losses of one flight cut once (NewReno's recovery
point, RFC 6582), and the level at which it broke is remembered and approached slowly (as CUBIC does
with its W_max, RFC 9438). Unlike a sender on a network, an account often has hardly any traffic, so
time alone raises the limit too: an upstream's rate limits are counted by the minute and forget.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from smartfallback.model.outcomes import ErrorCategory, TimeoutPhase
from smartfallback.model.state import ThrottleState

if TYPE_CHECKING:
    from smartfallback.model.outcomes import Failure

CUT: Final = 0.5
"""A cut leaves this share of what was in flight, TCP's factor: twice the load that an upstream bears
comes down to it in one cut."""

PAUSE_S: Final = 1.0
"""Successes raise the limit at most once in so many seconds, since answers of a few milliseconds would
else be back at the level that broke before the upstream has drawn breath."""

STEP_S: Final = 20.0
"""Without any overload for so long the limit rises by itself: three steps in the minute in which
upstreams count."""

GENTLE: Final = 3
"""From the level at which it broke, a step takes so many times the successes or the time."""

MEMORY_S: Final = 600.0
"""So long the level at which it broke is remembered, and a late result known for one; then the
upstream's load has changed more than the memory is worth."""

_GROWTH: Final = 4
"""Below the level at which it broke, time raises by a quarter, so that from 1 to 100 takes minutes."""

_OVERLOADED: Final = frozenset({503, 529})


def shows_overload(failure: Failure) -> bool:
    """Whether fewer requests at once might have spared the caller ``failure``.

    So it is with a rate limit, an upstream that says it is overloaded (503, 529), and an answer that
    did not come in time. A connection that could not be opened in time says nothing of that kind.
    """
    if failure.category is ErrorCategory.TRANSIENT_ERROR:
        return failure.http_status in _OVERLOADED
    if failure.category is ErrorCategory.TIMEOUT:
        return failure.phase is not TimeoutPhase.CONNECT
    return failure.category is ErrorCategory.RATE_LIMIT


class ConcurrencyLimit:
    """The limit of one account; always from 1 to ``configured``.

    A plain object without a clock: all times are monotonic seconds. Each method that may move the
    limit returns whether it did. ``running`` is what the account has in flight, the call that ends
    included; ``started_at`` is when that call began.

    Args:
        configured: What the operator allows, at least 1: the limit without overload.

    Attributes:
        configured: As given.
        limit: What may run at once now.
    """

    __slots__ = ("_broke_at", "_credits", "_cut_at", "_full", "_since", "configured", "limit")

    def __init__(self, configured: int) -> None:
        self.configured = configured
        self.limit = configured
        self._broke_at: float = inf
        self._cut_at = -inf
        self._since = -inf
        self._credits = 0
        self._full = False

    def overloaded(self, running: int, started_at: float, now: float) -> bool:
        """A call showed overload.

        It cuts the limit to half of what was running, once for all calls begun before the cut. A
        call that ran alone lowers nothing, but while such calls fail the limit does not rise.
        """
        if started_at <= self._cut_at:
            return False
        self._begin(now)
        if running < 2:
            return False
        old = self.limit
        self._cut_at = now
        self._broke_at = running
        self.limit = max(1, int(min(running, old) * CUT))
        return self.limit < old

    def succeeded(self, running: int, started_at: float, now: float) -> bool:
        """A call succeeded; once the limit was reached, a full flight of them raises it by one."""
        limit = self.limit
        if limit >= self.configured or started_at <= self._cut_at:
            return False
        # Calls that end together leave one by one, so that only the first of them sees all running.
        self._full = self._full or running >= limit
        if not self._full:
            return False
        self._credits += 1
        needed = limit * GENTLE if limit + 1 >= self._remembered(now) else limit
        if self._credits < needed or now - self._since < PAUSE_S:
            return False
        if limit >= self._broke_at:
            self._broke_at = inf
        self._raise(limit + 1, now)
        return True

    def passed(self, now: float) -> bool:
        """Let time act; as often or as seldom as is convenient, the result is the same."""
        old = self.limit
        while self.limit < self.configured:
            due = self._since + STEP_S
            broke_at = self._remembered(due)
            if self.limit + 1 >= broke_at:
                due = self._since + STEP_S * GENTLE
                step = 1
            else:
                step = int(min(max(1, self.limit // _GROWTH), broke_at - 1 - self.limit))
            if now < due:
                break
            self._raise(min(self.configured, self.limit + step), due)
        return self.limit > old

    def spent(self, now: float) -> bool:
        """Whether nothing is lowered and nothing has to be remembered any more."""
        return self.limit >= self.configured and now - self._cut_at >= MEMORY_S

    def record(self, offset: float) -> ThrottleState | None:
        """What of it outlives a restart; ``offset`` added to its times makes them epoch seconds."""
        if self._since == -inf:
            return None
        return ThrottleState(
            limit=self.limit,
            broke_at=None if self._broke_at == inf else int(self._broke_at),
            cut_at=None if self._cut_at == -inf else self._cut_at + offset,
            since=self._since + offset,
        )

    def restore(self, saved: ThrottleState, now: float, offset: float) -> None:
        """Go on from ``saved``; what was configured may have changed. Times ahead of ``now`` are now."""
        self.limit = max(1, min(saved.limit, self.configured))
        self._broke_at = inf if saved.broke_at is None else saved.broke_at
        self._cut_at = -inf if saved.cut_at is None else min(now, saved.cut_at - offset)
        self._since = min(now, saved.since - offset)

    def _remembered(self, now: float) -> float:
        """What was in flight when it broke, as far as that is still worth knowing."""
        return self._broke_at if now - self._cut_at < MEMORY_S else inf

    def _raise(self, limit: int, since: float) -> None:
        self.limit = limit
        self._begin(since)

    def _begin(self, since: float) -> None:
        self._since = since
        self._credits = 0
        self._full = False
