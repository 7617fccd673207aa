"""What accounts, providers and pools were before a time that is not kept, and how they are that again.

While such a time lasts, :class:`KeptAccount` and :class:`KeptProvider` stand for their originals
where state is saved; what time does to what they hold, it does when it is put back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, PoolRuntime, ProviderRuntime
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.model.events import Actor, AdminChanged, QuotaReset, StrategyChanged
from smartfallback.model.quota import QuotaReading, TruthLabel
from smartfallback.policy.circuit import Circuit
from smartfallback.policy.ledger import OwnUse, Reservation
from smartfallback.policy.ledger_layer import LedgerLayer

OVER: Final = "the rehearsal is over"


class KeptAccount:
    """One account as it was, with what is real of its use since.

    Fields have the names and meanings of :class:`AccountRuntime`. A command given by hand changes
    them too, for it is meant to last.
    """

    __slots__ = (
        "account",
        "admin",
        "admin_at",
        "admin_reason",
        "attention",
        "circuit",
        "comeback",
        "cooldown_reason",
        "cooldown_until",
        "failed_models",
        "failures",
        "last_used",
        "layer",
        "ledger",
        "limits",
        "model_blocks",
        "model_circuits",
        "readings",
        "throttle",
        "ties",
        "used_before_at",
        "watch",
    )

    def __init__(self, account: AccountRuntime, placement: Placement, wall: float) -> None:
        self.account = account
        self.ledger = account.ledger
        account.ledger = self.layer = LedgerLayer(account.ledger, wall)
        self.admin = account.admin
        self.admin_reason = account.admin_reason
        self.admin_at = account.admin_at
        self.attention = account.attention
        self.cooldown_until = account.cooldown_until
        self.cooldown_reason = account.cooldown_reason
        self.circuit = account.circuit.apart()
        self.model_circuits = {model: circuit.apart() for model, circuit in account.model_circuits.items()}
        self.model_blocks = dict(account.model_blocks)
        self.failed_models = dict(account.failed_models)
        self.limits = account.limits
        self.throttle = copy(account.throttle)
        self.watch = None if account.comeback is None else account.comeback.apart()
        self.comeback = placement.comebacks.standing(account.circuit.target)
        pool = account.pool
        self.ties = {each: each.ties(account.slot) for each in (pool.normal, pool.reserve)}
        self.last_used = account.last_used
        self.used_before_at = account.last_used_at
        self.failures = account.failures
        self.readings: dict[TruthLabel, tuple[QuotaReading, OwnUse | None]] = {}

    @property
    def requests(self) -> int:
        """Those answered since are counted, those that failed are not."""
        return self.account.requests - (self.account.failures - self.failures)

    @property
    def tokens(self) -> int:
        """All that were used."""
        return self.account.tokens

    @property
    def last_used_at(self) -> float | None:
        """When it was used last, other than in vain."""
        used_at = [at for at in (self.used_before_at, self.layer.used_at) if at is not None]
        return max(used_at, default=None)

    def heard(self, reading: QuotaReading, mark: OwnUse | None) -> None:
        """A quota source reports: that holds afterwards, too. That one fails is no news of the quota."""
        if reading.label not in (TruthLabel.REPORTED, TruthLabel.LEARNED):
            return
        self.readings.pop(reading.label, None)
        self.readings[reading.label] = reading, mark

    def corrected(
        self, window: int, percent_used: float, wall: float, label: TruthLabel = TruthLabel.REPORTED
    ) -> None:
        """The operator set what is used of a window, in percent: that holds afterwards, too."""
        shown = self.account.ledger.view(wall).windows[window]
        for index, mine in enumerate(self.ledger.view(wall).windows):
            if (mine.kind, mine.unit) == (shown.kind, shown.unit):
                self.ledger.set_used(index, mine.limit * percent_used / 100.0, wall, label)
        self.ledger.clear_exhausted(wall)

    def put_back(self, placement: Placement, bus: Bus, clock: Clock) -> None:
        """Let the account be as it was; :meth:`resume` has to follow."""
        account, now = self.account, clock.monotonic()
        account.kept = None
        account.ledger = self.ledger
        old = account.model_circuits
        account.disowned = {**account.disowned, **dict.fromkeys(self.layer.begun, old)}
        self._put_back_use(clock.time() - now)
        self._put_back_admin(bus, clock.time())
        account.attention = self.attention
        account.cooldown_until = self.cooldown_until
        account.cooldown_reason = self.cooldown_reason
        account.circuit.put_back(self.circuit, now, OVER)
        _put_back_models(account, old, self.model_circuits, now)
        account.model_blocks = self.model_blocks
        account.failed_models = self.failed_models
        account.limits = self.limits
        placement.throttles.put_back(account, self.throttle, OVER)
        watch = self.watch
        if watch is not None and isinstance(watch.canary, Reservation) and watch.canary.ended:
            watch.released(watch.canary)
        placement.resets.put_back(account, watch)
        placement.comebacks.put_back(account.circuit.target, self.comeback)

    def _put_back_use(self, offset: float) -> None:
        account = self.account
        account.requests, account.failures = self.requests, self.failures
        account.last_used_at = used_at = self.last_used_at
        really_used = used_at != self.used_before_at
        account.last_used = used_at - offset if really_used and used_at is not None else self.last_used
        if self.admin is AdminState.ACTIVE:
            for selection, ties in self.ties.items():
                if not really_used:
                    selection.forget(account.slot)  # what was bound to it since was bound in vain
                selection.tie(account.slot, ties._replace(turn=None) if really_used else ties)

    def _put_back_admin(self, bus: Bus, at: float) -> None:
        account = self.account
        old, new = account.admin, self.admin
        if new is AdminState.DRAINING and not account.in_flight:
            new = AdminState.DRAINED
        account.admin, account.admin_reason, account.admin_at = new, self.admin_reason, self.admin_at
        if old is not new:
            bus.publish(AdminChanged(bus.next_seq(), at, account.id, old, new, OVER, Actor.SYSTEM))

    def resume(self, placement: Placement, bus: Bus, clock: Clock) -> None:
        """Let the time act that has passed, take up what was heard, and place the account."""
        account, now, wall = self.account, clock.monotonic(), clock.time()
        account.circuit.tick(now)
        rolled, ended_wall_s = self.ledger.roll(wall), self.ledger.ended_wall(wall)
        for window in self.layer.untold(rolled):
            bus.publish(QuotaReset(bus.next_seq(), wall, account.id, window.kind.value, window.used_before))
        if rolled or ended_wall_s:
            placement.resets.began_anew(account, rolled, ended_wall_s, now)
        for reading, mark in self.readings.values():
            placement.read(account, reading, mark)
        account.watched = -math.inf
        placement.roll(account, now)


class KeptProvider:
    """A provider as it was."""

    __slots__ = ("circuit", "comeback", "provider")

    def __init__(self, provider: ProviderRuntime, placement: Placement) -> None:
        self.provider = provider
        self.circuit = provider.circuit.apart()
        self.comeback = placement.comebacks.standing(provider.circuit.target)

    def put_back(self, placement: Placement, now: float) -> None:
        """Let the provider be as it was; the caller places its accounts."""
        provider = self.provider
        provider.kept = None
        provider.circuit.put_back(self.circuit, now, OVER)
        placement.comebacks.put_back(provider.circuit.target, self.comeback)
        provider.circuit.tick(now)


class KeptPool:
    """What a pool has learnt and how it selects, as it was."""

    __slots__ = ("_patience", "_whole_patience", "hybrid", "pool", "strategy")

    def __init__(self, pool: PoolRuntime) -> None:
        self.pool = pool
        self._patience = deepcopy(pool.patience)
        self._whole_patience = deepcopy(pool.whole_patience)
        self.note_strategy()

    def note_strategy(self) -> None:
        """Let the strategy of now be the one to put back."""
        self.strategy = self.pool.strategy
        self.hybrid = self.pool.normal.settings

    def put_back(self, bus: Bus, at: float) -> None:
        """Let the pool be as it was; before its accounts, whose sessions depend on the strategy."""
        pool = self.pool
        pool.patience = self._patience
        pool.whole_patience = self._whole_patience
        if pool.strategy is self.strategy and pool.normal.settings == self.hybrid:
            return
        old, pool.strategy = pool.strategy, self.strategy
        for selection in (pool.normal, pool.reserve):
            selection.set_strategy(self.strategy, self.hybrid)
        bus.publish(StrategyChanged(bus.next_seq(), at, pool.name, old.value, self.strategy.value))


def _put_back_models(
    account: AccountRuntime, old: Mapping[str, Circuit], kept: Mapping[str, Circuit], now: float
) -> None:
    """Let the account have the circuits of models that it had; what came up since closes and is gone."""
    for model, circuit in old.items():
        before = kept.get(model)
        if before is not None:
            circuit.put_back(before, now, OVER)
        elif circuit.state is not CircuitState.CLOSED:
            circuit.put_back(circuit.anew(now), now, OVER)
    account.model_circuits = {model: circuit for model, circuit in old.items() if model in kept}
