"""An attempt that nobody waits for: what it holds, and how it goes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from smartfallback.engine.grant import Grant
from smartfallback.simulation.policy_world.faults import Course

if TYPE_CHECKING:
    from smartfallback.simulation.policy_world.asking import Asking


class Try:
    """One attempt of a request.

    Attributes:
        number: In its request, from 1.
        begun: The answer has begun.
        over: It was settled.
        resets: When the account's quota windows begin anew, as of the reservation.
    """

    __slots__ = (
        "_asking",
        "begun",
        "course",
        "diverted",
        "grant",
        "hurried",
        "limit_s",
        "number",
        "over",
        "resets",
        "started",
    )

    def __init__(self, asking: Asking, grant: Grant, number: int, now: float, course: Course) -> None:
        self._asking = asking
        self.grant = grant
        self.number = number
        self.started = now
        self.course = course
        self.limit_s = math.inf
        self.hurried = False
        self.begun = False
        self.diverted = False
        self.over = False
        self.resets: tuple[float | None, ...] = ()

    @property
    def latency_s(self) -> float:
        """Seconds since it began."""
        return self._asking.world.clock.now - self.started

    def divert(self, reason: str) -> bool:  # noqa: ARG002 - as the operator calls an attempt
        """Move it away, unless its answer has begun."""
        if self.begun or self.diverted or self.over:
            return False
        self.diverted = True
        self._asking.world.soon(lambda: self._asking.moved(self))
        return True
