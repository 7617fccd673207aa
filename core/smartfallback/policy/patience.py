"""How long to wait for the first token of an answer while somebody else could give it instead.

A limit that suits every model is too long for most: an upstream that takes a request and then is
silent would cost its first victims all of it. So the limit follows what the pool showed lately, and
before it showed anything, whether a response has begun at all.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from smartfallback.policy.recovery import FAILOVER_S

FIRST_LIMIT_S: Final = FAILOVER_S - 0.5
"""How long nothing at all may come before anything is known; the next candidate has a moment left."""

WHOLE_FIRST_LIMIT_S: Final = 30.0
"""The same for an answer that comes in one piece, whose first token comes with its last."""

LEAST_S: Final = 2.0
"""No limit is shorter: even a fast API pauses now and then (a garbage collection, a lost packet)."""

FACTOR: Final = 3.0
"""The limit as a multiple of the slowest answer seen lately."""

REMEMBERED: Final = 50
"""So many answers are looked back on; one slow answer widens the limit for as many after it."""


class Patience:
    """The first-token limits of one pool.

    Args:
        most_s: The configured limit; it is never exceeded.
        first_s: The limit for silence while nothing is known; ``most_s`` if that is shorter.

    Attributes:
        silent_s: Seconds to wait while nothing has come of the response, not even its headers.
        begun_s: Seconds to wait for a token once the response has begun.

    An attempt that was cut off after its response had begun counts as an answer of that length, so the
    limits grow threefold: an upstream that has become slower loses at most a handful of requests to
    limits from its faster days. Silence teaches nothing: a dead upstream is left as fast each time.
    """

    __slots__ = ("_first_s", "_most_s", "_seen", "begun_s", "silent_s")

    def __init__(self, most_s: float, *, first_s: float = FIRST_LIMIT_S) -> None:
        self._most_s = most_s
        self._first_s = first_s
        self._seen: deque[float] = deque(maxlen=REMEMBERED)
        self.silent_s = min(most_s, first_s)
        self.begun_s = most_s

    def answered(self, first_token_s: float) -> None:
        """An answer began after so many seconds."""
        seen = self._seen
        leaves = len(seen) == REMEMBERED and seen[0] * FACTOR >= self.begun_s
        seen.append(first_token_s)
        # The slowest is looked for again only when it leaves; nearly every answer costs one comparison.
        if leaves or len(seen) == 1 or first_token_s * FACTOR > self.begun_s:
            self.silent_s = self.begun_s = min(self._most_s, max(LEAST_S, FACTOR * max(seen)))

    def cut(self, waited_s: float, *, begun: bool) -> None:
        """No token had come after so many seconds, and the attempt was ended for that."""
        if begun:
            self.answered(waited_s)
