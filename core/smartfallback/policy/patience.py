"""How long to wait for the first token of an answer while somebody else could give it instead.

A limit that suits every model is too long for most: an upstream that accepts a request and then is
silent would cost its first victims all of it. So the limit follows what the pool showed lately.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from smartfallback.policy.recovery import FAILOVER_S

FIRST_LIMIT_S: Final = FAILOVER_S - 0.5
"""The limit before anything is known: it leaves the next candidate a moment to answer in."""

LEAST_S: Final = 2.0
"""No limit is shorter: even a fast API pauses now and then (a garbage collection, a lost packet)."""

FACTOR: Final = 3.0
"""The limit as a multiple of the slowest answer seen lately."""

REMEMBERED: Final = 50
"""So many answers are looked back on; one slow answer widens the limit for as many after it."""


class Patience:
    """The first-token limit of one pool.

    Args:
        most_s: The configured limit; it is never exceeded.
        first_s: The limit while nothing is known; ``most_s`` if that is shorter.

    A limit that cut an answer off counts as the time of an answer itself, so it grows threefold with
    each cut: an upstream that has become slower loses at most a handful of requests to a limit from
    its faster days.
    """

    __slots__ = ("_first_s", "_limit_s", "_most_s", "_seen")

    def __init__(self, most_s: float, *, first_s: float = FIRST_LIMIT_S) -> None:
        self._most_s = most_s
        self._first_s = first_s
        self._seen: deque[float] = deque(maxlen=REMEMBERED)
        self._limit_s = min(most_s, first_s)

    @property
    def limit_s(self) -> float:
        """Seconds to wait for a first token now."""
        return self._limit_s

    def answered(self, first_token_s: float) -> None:
        """An answer began after so many seconds."""
        seen = self._seen
        leaves = len(seen) == REMEMBERED and seen[0] * FACTOR >= self._limit_s
        seen.append(first_token_s)
        # The slowest is looked for again only when it leaves; nearly every answer costs one comparison.
        if leaves or len(seen) == 1 or first_token_s * FACTOR > self._limit_s:
            self._limit_s = min(self._most_s, max(LEAST_S, FACTOR * max(seen)))

    def cut(self, waited_s: float) -> None:
        """No token had come after so many seconds, and the attempt was ended for that."""
        self.answered(waited_s)
