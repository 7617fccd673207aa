"""Lets traffic climb again where a circuit has closed by itself, instead of sending it all at once.

What probes can show is that an API answers one or three requests. So an account, or all that share
a provider, get a growing share of what was usual before the circuit opened (see ``policy.ramp``),
and other candidates take the rest. Where there are none, nobody is turned away.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.roster import AccountRuntime, PoolRuntime, ProviderRuntime, Roster
from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.events import AccountResumed
from smartfallback.policy.circuit import CircuitChange
from smartfallback.policy.ramp import Ramp, steady_share

_OPENED = frozenset({CircuitState.OPEN, CircuitState.FORCED_OPEN})


class Comeback(NamedTuple):
    """Where the way back of an account or a provider stands.

    Attributes:
        ramp: Its ramp, None for one that is on none.
        usual: Requests a second before its circuit opened, None where that is not known.
        tested: Its circuit tests whether a rate limit is over.
    """

    ramp: Ramp | None
    usual: float | None
    tested: bool


class Comebacks:
    """Follows the circuits of accounts and providers, and holds the ramps of those that closed."""

    def __init__(self, roster: Roster, clock: Clock, bus: Bus) -> None:
        self._roster = roster
        self._clock = clock
        self._bus = bus
        self._usual: dict[CircuitTarget, float] = {}
        """The steady rate before the circuit opened: meanwhile hardly anything is counted."""
        self._tested: set[CircuitTarget] = set()
        """Circuits that test with one request whether a rate limit is over, without having opened."""
        self.returning: dict[AccountRuntime, None] = {}
        """The accounts whose traffic climbs because their own circuit closed, in that order."""

    def circuit_changed(self, change: CircuitChange) -> None:
        """A circuit changed; only those of accounts and providers matter here."""
        target = change.target
        if target.scope is CircuitScope.MODEL or change.old is change.new:
            return
        if change.new in _OPENED:
            self._tested.discard(target)
            self._usual.setdefault(target, self._steady(target))
            self._end(target)
        elif change.new is CircuitState.HALF_OPEN:
            if change.old is CircuitState.CLOSED:
                self._tested.add(target)
        elif change.by_operator:
            self.at_once(target)
        elif target in self._tested:
            self._tested.discard(target)
        else:
            self._begin(target, change.at)

    def at_once(self, target: CircuitTarget) -> None:
        """Let the target's traffic come back without a ramp; the caller places its accounts."""
        if target.scope is CircuitScope.MODEL:
            return
        self._tested.discard(target)
        self._usual.pop(target, None)
        self._end(target)

    def standing(self, target: CircuitTarget) -> Comeback:
        """Where the target's way back stands, for :meth:`put_back`; nothing that happens moves it."""
        ramp = self._runtime(target).ramp
        return Comeback(copy(ramp), self._usual.get(target), target in self._tested)

    def put_back(self, target: CircuitTarget, standing: Comeback) -> None:
        """Let the target's way back stand where it stood; the caller places its accounts."""
        self.at_once(target)
        if standing.usual is not None:
            self._usual[target] = standing.usual
        if standing.tested:
            self._tested.add(target)
        if standing.ramp is not None:
            runtime = self._runtime(target)
            runtime.ramp = standing.ramp
            if isinstance(runtime, AccountRuntime):
                self.returning[runtime] = None

    def tick(self, account: AccountRuntime, now: float) -> None:
        """End the account's ramp if its time has come."""
        ramp = account.ramp
        if ramp is not None and now >= ramp.ends_at:
            self.at_once(account.circuit.target)
            bus = self._bus
            bus.publish(AccountResumed(bus.next_seq(), self._clock.time(), account.id))

    def due(self, now: float) -> list[AccountRuntime]:
        """The accounts whose ramp has just ended although nobody asked for them; providers' end too."""
        for provider in self._roster.providers.values():
            if provider.ramp is not None and now >= provider.ramp.ends_at:
                self.at_once(provider.circuit.target)
        ended = [account for account in self.returning if account.ramp is None or now >= account.ramp.ends_at]
        for account in ended:
            self.tick(account, now)
        return ended

    def _begin(self, target: CircuitTarget, now: float) -> None:
        steady = self._usual.get(target)
        if steady is None:
            # Restored from before a restart, so that it was never seen to open.
            steady = self._steady(target)
        # The probe was the first request, so the bucket starts empty.
        ramp = Ramp(steady, now, tokens=0.0)
        if target.scope is CircuitScope.PROVIDER:
            self._roster.providers[target.name].ramp = ramp
        else:
            account = self._roster.accounts[target.name]
            account.ramp = ramp
            self.returning[account] = None

    def _end(self, target: CircuitTarget) -> None:
        if target.scope is CircuitScope.PROVIDER:
            self._roster.providers[target.name].ramp = None
            return
        account = self._roster.accounts[target.name]
        if account.ramp is not None:
            account.ramp = None
            account.pool.ramping.discard(account.slot)
            self.returning.pop(account, None)

    def _runtime(self, target: CircuitTarget) -> AccountRuntime | ProviderRuntime:
        if target.scope is CircuitScope.PROVIDER:
            return self._roster.providers[target.name]
        return self._roster.accounts[target.name]

    def _steady(self, target: CircuitTarget) -> float:
        if target.scope is CircuitScope.PROVIDER:
            pools: Sequence[PoolRuntime] = self._roster.providers[target.name].pools
            return sum(steady_share(pool.steady.per_s(), 1) for pool in pools)
        pool = self._roster.accounts[target.name].pool
        return steady_share(pool.steady.per_s(), len(pool.accounts))


def held_until(provider: ProviderRuntime, now: float) -> float | None:
    """When the provider's ramp lets the next request through; None when it does so now."""
    ramp = provider.ramp
    if ramp is None:
        return None
    at = ramp.next_at(now)
    return at if at > now else None
