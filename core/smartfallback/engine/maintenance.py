"""What has to happen although nobody asks: windows that roll, leases that end, modes that change."""

from __future__ import annotations

import asyncio
import math

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.meters import Meters
from smartfallback.engine.placement import Placement
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.engine.roster import Chain, PoolRuntime, Roster
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import SkipReason
from smartfallback.model.events import DegradedModeChanged, ProviderNotice

INTERVAL_S = 0.5
_CLOCK_STEP_S = 2.0


class Maintenance:
    """Runs twice a second; each check is cheap when nothing is due."""

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        meters: Meters,
        clock: Clock,
        bus: Bus,
        queue: QueueDesk,
    ) -> None:
        self._roster = roster
        self._placement = placement
        self._meters = meters
        self._clock = clock
        self._bus = bus
        self._queue = queue
        self._wall_offset = clock.time() - clock.monotonic()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.check(self._clock.monotonic())

    def check(self, now: float) -> None:
        """Do all that is due at ``now``."""
        self._placement.wake(now)
        for account in self._placement.resets.due(now):
            self._placement.roll(account, now)
        placement = self._placement
        for account in (*placement.comebacks.due(now), *placement.throttles.due(now)):
            placement.place(account, now)
        for provider in self._roster.providers.values():
            provider.circuit.tick(now)
        for pool in self._roster.pools.values():
            self._check_availability(pool)
            for account in pool.accounts:
                if account.in_flight and account.ledger.expire(self._clock.time()):
                    self._placement.place(account, now)
        self._follow_wall_clock(now)
        for chain in self._roster.chains.values():
            self._check_degraded(chain, now)
        self._meters.tick(now)
        self._queue.tick(now)

    def _check_availability(self, pool: PoolRuntime) -> None:
        try:
            unavailable = pool.adapter.unavailable()
        except Exception as error:
            # One faulty adapter must not end the care for all the others.
            unavailable = f"its adapter failed with {type(error).__name__}"
        if unavailable != pool.unavailable:
            pool.unavailable = unavailable
            for account in pool.accounts:
                account.view = None
            message = unavailable or f"the {pool.spec.provider.value} provider is available again"
            self._bus.publish(ProviderNotice(self._bus.next_seq(), self._clock.time(), pool.name, message))

    def _follow_wall_clock(self, now: float) -> None:
        """A stepped wall clock moves quota resets, so every account is looked at again."""
        offset = self._clock.time() - now
        if abs(offset - self._wall_offset) > _CLOCK_STEP_S:
            self._wall_offset = offset
            for account in self._roster.accounts.values():
                account.watched = -math.inf
                self._placement.roll(account, now)

    def _check_degraded(self, chain: Chain, now: float) -> None:
        detail = _why_degraded(chain.pools[0], now)
        if bool(detail) != bool(chain.degraded):
            event = DegradedModeChanged(
                self._bus.next_seq(), self._clock.time(), chain.name, bool(detail), detail or chain.degraded
            )
            chain.degraded = detail
            self._bus.publish(event)
        else:
            chain.degraded = detail


def _why_degraded(first: PoolRuntime, now: float) -> str:
    """Why a chain's first pool has no usable account; empty when it has one."""
    if first.unavailable:
        return f"{first.name}: {first.unavailable}"
    circuit = first.provider.circuit
    if circuit.state is not CircuitState.CLOSED and not circuit.admits(now):
        return f"{first.name}: its provider's circuit is {circuit.state.value.replace('_', ' ')}"
    if len(first.normal) or first.saturated or first.ramping:
        return ""
    reasons = {skip.reason for skip in first.parked.values()}
    if reasons == {SkipReason.SOFT_LIMIT}:
        return f"{first.name}: every account is above the soft limit"
    why = ", ".join(sorted(reason.value for reason in reasons))
    return f"{first.name}: no account can serve ({why})"
