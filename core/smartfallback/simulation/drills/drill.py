"""A drill as it is described, as it is shown, and as it runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from smartfallback.simulation.faults import Fault, Flapping, PlainFault


class DrillScope(StrEnum):
    """How wide a drill's target is."""

    ACCOUNT = "account"
    POOL = "pool"
    PROVIDER = "provider"
    STORE = "store"
    """No account: the exchange with the store that instances share."""


class DrillTarget(NamedTuple):
    """What a drill may touch: one account, the accounts of a pool or of a provider, or the shared store."""

    scope: DrillScope
    name: str
    """The account's id, the pool's name or the provider's id; of the store, that of :data:`SHARED_STORE`."""

    def __str__(self) -> str:
        return "the shared store" if self.scope is DrillScope.STORE else f"{self.scope.value} {self.name}"


SHARED_STORE: Final = DrillTarget(DrillScope.STORE, "store")
"""The store that instances share; there is one at most."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One fault to inject.

    Attributes:
        target: Whose calls may meet it.
        fault: What they meet.
        share: Which share of those calls, above 0 and at most 1.
        duration_s: It ends by itself after so many seconds.
        most_calls: So many calls meet it at most; None for any number.
        reason: What it is for, shown to the operator.
    """

    target: DrillTarget
    fault: Fault
    share: float = 1.0
    duration_s: float = 60.0
    most_calls: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DrillView:
    """A drill in force.

    Attributes:
        id: What it is stopped by.
        drill: What was asked for.
        started_at: Epoch seconds.
        ends_at: Epoch seconds by which it has ended by itself.
        hits: How many calls have met it.
    """

    id: str
    drill: Drill
    started_at: float
    ends_at: float
    hits: int


@dataclass(eq=False, slots=True)
class RunningDrill:
    """A drill in force, from the inside. All times are monotonic seconds but ``started_at``.

    Attributes:
        pools: The pools whose calls it may touch.
        account: The only account that it may touch, None for all of those pools.
        on_rest: Called when the last call that has met it is over.
        touching: How many calls that have met it are not over.
        lifted: It was stopped or is over: nothing of it happens any more.
    """

    id: str
    drill: Drill
    pools: frozenset[str]
    account: str | None
    since: float
    until: float
    started_at: float
    now: Callable[[], float]
    on_rest: Callable[[RunningDrill], None]
    hits: int = 0
    touching: int = 0
    lifted: bool = False
    _lift: asyncio.Event | None = None

    @property
    def exhausted(self) -> bool:
        """Whether it has touched as many calls as it may."""
        most = self.drill.most_calls
        return most is not None and self.hits >= most

    def concerns(self, account: str, pool: str) -> bool:
        """Whether calls of the account may meet it."""
        return pool in self.pools and self.account in (None, account)

    def present(self, now: float) -> PlainFault | None:
        """The fault at monotonic time ``now``; None while a flapping one is away."""
        fault = self.drill.fault
        if not isinstance(fault, Flapping):
            return fault
        phase = (now - self.since) % fault.period_s
        return fault.fault if phase < fault.period_s * fault.down_share else None

    def view(self) -> DrillView:
        """How it stands."""
        ends_at = self.started_at + self.drill.duration_s
        return DrillView(self.id, self.drill, self.started_at, ends_at, self.hits)

    def touch(self, fault: PlainFault) -> Meeting:
        """Count a call that meets it."""
        self.hits += 1
        self.touching += 1
        return Meeting(self, fault)

    def lift(self) -> None:
        """Let all go on that stand still because of it."""
        self.lifted = True
        if self._lift is not None:
            self._lift.set()

    async def stand_still(self, seconds: float) -> None:
        """Wait until ``seconds`` have passed or the drill is lifted, whichever is first."""
        if self._lift is None:
            self._lift = asyncio.Event()
        began = self.now()
        # The clock that drills run by may be slower than the loop's, so it is asked at each end.
        while not self.lifted and (left := min(began + seconds, self.until) - self.now()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._lift.wait()


class Meeting:
    """What one call meets: the fault, and the drill that it belongs to. Must be closed."""

    __slots__ = ("_open", "_running", "fault")

    def __init__(self, running: RunningDrill, fault: PlainFault) -> None:
        self.fault = fault
        self._running = running
        self._open = True

    @property
    def lifted(self) -> bool:
        """Whether the drill was stopped or is over, and the call goes on as if there had been none."""
        running = self._running
        return running.lifted or running.now() >= running.until

    async def stand_still(self, seconds: float = math.inf) -> None:
        """Wait so long, but no longer than the drill lasts."""
        await self._running.stand_still(seconds)

    def close(self) -> None:
        """The call is over, or nothing more of the fault is to come. Safe to call twice."""
        if self._open:
            self._open = False
            self._running.touching -= 1
            if not self._running.touching:
                self._running.on_rest(self._running)
