"""Requests that wait for capacity: their order, their bound, their end, and the pace of their replay."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from sortedcontainers import SortedDict

from smartfallback.policy.backoff import ExponentialBackoff

if TYPE_CHECKING:
    import random

FIRST_REPLAYS: Final = 2
"""So many replays run at once until one succeeds."""
REPLAY_BACKOFF: Final = ExponentialBackoff(base_delay=1.0, max_delay=60.0)
"""Between a replay in vain and the next one."""


class Rank(NamedTuple):
    """Where a request stands: what sorts first is replayed first.

    Attributes:
        demotion: The priority with its sign turned round.
        since: When it first entered the queue, in monotonic seconds.
        number: Tells those apart that entered at once.
    """

    demotion: int
    since: float
    number: int


class Admission(NamedTuple):
    """A request was let in at ``place``, counted from 1; ``pushed_out`` had to leave for it."""

    place: int
    pushed_out: str | None = None


class RequestQueue:
    """Names of requests, higher priority first, then by arrival; at most ``limit`` of them.

    A full queue makes room for whoever stands before its last one, which is then pushed out.

    Raises:
        ValueError: ``limit`` is negative.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit must not be negative, not {limit!r}")
        self.limit = limit
        self._number = 0
        self._order: SortedDict[Rank, str] = SortedDict()
        self._ranks: dict[str, Rank] = {}
        self._ends: dict[str, float] = {}
        self._ending: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[str]:
        """The names in the order of replay; the queue must not change meanwhile."""
        return iter(self._order.values())

    def __contains__(self, name: object) -> bool:
        return name in self._ranks

    def enter(
        self, name: str, *, priority: int, since: float, expires: float, held: int = 0
    ) -> Admission | None:
        """Let a request in, unless the queue is full of requests that stand before it.

        Args:
            name: Must not be in the queue.
            priority: Higher ones stand before lower ones.
            since: When it first entered, in monotonic seconds; those of one priority stand in this order.
            expires: When it has to leave, in monotonic seconds.
            held: So many places are kept for requests that are being replayed just now.

        Returns:
            Its place, and who was pushed out for it; None when it was not let in.

        Raises:
            ValueError: The name is in the queue already.
        """
        if name in self._ranks:
            raise ValueError(f"{name!r} is in the queue already")
        self._number += 1
        rank = Rank(-priority, since, self._number)
        pushed_out: str | None = None
        if len(self._ranks) + held >= self.limit:
            if not self._order:
                return None
            last, last_name = self._order.peekitem(-1)
            if last < rank:
                return None
            pushed_out = last_name
            self.leave(last_name)
        self._order[rank] = name
        self._ranks[name] = rank
        self._ends[name] = expires
        heapq.heappush(self._ending, (expires, name))
        return Admission(self._order.index(rank) + 1, pushed_out)

    def leave(self, name: str) -> bool:
        """Take a request out; False when it is not in the queue."""
        rank = self._ranks.pop(name, None)
        if rank is None:
            return False
        del self._order[rank]
        del self._ends[name]
        if len(self._ending) > 2 * len(self._ranks) + 16:
            # Those that left early would otherwise be held until the moment at which they had expired.
            self._ending = [(expires, left) for left, expires in self._ends.items()]
            heapq.heapify(self._ending)
        return True

    def expire(self, now: float) -> list[str]:
        """Take out all whose time is up, the earliest first. Nearly free when there is none."""
        expired: list[str] = []
        while self._ending and self._ending[0][0] <= now:
            end, name = heapq.heappop(self._ending)
            if self._ends.get(name) == end:
                self.leave(name)
                expired.append(name)
        return expired


class ReplayPace:
    """How fast requests that need the same accounts leave the queue.

    A slow start: at most :data:`FIRST_REPLAYS` run at once, and one more for each that succeeds. One
    in vain starts that anew, after a break that grows while none succeeds.
    """

    __slots__ = ("_allowed", "_in_vain", "_rng", "_until", "running")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._allowed = FIRST_REPLAYS
        self._in_vain = 0
        self._until = -math.inf
        self.running = 0
        """Replays that have neither succeeded nor failed yet."""

    def admits(self, now: float) -> bool:
        """Whether another replay may begin."""
        return self.running < self._allowed and now >= self._until

    @property
    def pristine(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not self.running and not self._in_vain

    def began(self) -> None:
        """A replay begins."""
        self.running += 1

    def succeeded(self) -> None:
        """A replay is answered."""
        self.running -= 1
        self._allowed += 1
        self._in_vain = 0
        self._until = -math.inf

    def failed(self, now: float) -> None:
        """A replay was in vain."""
        self.running -= 1
        self._allowed = FIRST_REPLAYS
        self._in_vain += 1
        self._until = now + wait_before(self._in_vain, self._rng)

    def abandoned(self) -> None:
        """A replay ended without showing anything, such as by its caller's leaving."""
        self.running -= 1


def wait_before(rounds: int, rng: random.Random) -> float:
    """Seconds between a replay in vain and the next; never below the schedule's base.

    Args:
        rounds: How many were in vain so far, at least 1.
        rng: For the jitter, which keeps those that failed together from coming back together.
    """
    return max(REPLAY_BACKOFF.base_delay, REPLAY_BACKOFF.delay(rounds, rng))
