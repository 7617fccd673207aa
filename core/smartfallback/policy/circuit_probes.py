"""The probes of a half-open circuit: how many at once, how many in all, each with its own lease."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartfallback.policy.circuit_values import Permit


class OneTest(Enum):
    """What the one request of a circuit that has not opened is to show."""

    RATE_LIMIT = auto()
    """Whether a rate limit is over."""
    SUSPICION = auto()
    """Whether what made another instance open its circuit is to be seen from here too."""


class Probes:
    """Places for the test calls of one half-open generation.

    At most ``at_once`` run together. In all there are as many places as successes can be needed
    or probes can run (the larger of the two): a success keeps its place, while a probe without a
    verdict gives it back. So there is always either a running probe or a free place, unless
    another instance probes; that ends by itself.

    Attributes:
        needed: Successes that close the circuit.
        successes: Successes so far.
        live: The running probes, oldest first; each has its own lease, which no refusal prolongs.
        test: For the one request that tests a circuit which has not opened: what it is to show.
        elsewhere_until: Until then the probes are another instance's, and none starts here.
    """

    __slots__ = ("at_once", "elsewhere_until", "live", "needed", "successes", "test", "total")

    def __init__(self, at_once: int, needed: int, test: OneTest | None = None) -> None:
        self.at_once = at_once
        self.needed = needed
        self.total = max(at_once, needed)
        self.test = test
        self.successes = 0
        self.live: list[Permit] = []
        self.elsewhere_until = -math.inf

    def room(self, now: float) -> bool:
        """Whether another probe may start; places of expired leases count as free."""
        return now >= self.elsewhere_until and self._place(now)

    def room_from(self, now: float) -> float:
        """When the next probe may start if none that runs ends before its lease does."""
        if self._place(now):
            return max(now, self.elsewhere_until)
        # Without a place there is a running probe.
        first = min(probe.lease_until for probe in self.live if probe.lease_until is not None)
        return max(first, self.elsewhere_until)

    def slow(self, now: float, slow_s: float) -> Permit | None:
        """A probe that has run for ``slow_s`` within its lease, None if there is none."""
        for probe in self.live:
            slow_at = probe.started_at + slow_s
            if now >= slow_at and probe.lease_until is not None and slow_at <= probe.lease_until:
                return probe
        return None

    def expire(self, now: float) -> list[Permit]:
        """Take the places of probes whose lease ran out; returns those probes."""
        gone = [probe for probe in self.live if expired(probe, now)]
        if gone:
            self.live = [probe for probe in self.live if not expired(probe, now)]
        return gone

    def _place(self, now: float) -> bool:
        live = sum(1 for probe in self.live if not expired(probe, now))
        return live < self.at_once and live + self.successes < self.total


def expired(probe: Permit, now: float) -> bool:
    """Whether the lease of ``probe`` ran out."""
    return probe.lease_until is not None and now >= probe.lease_until
