"""Carries out the operator's commands. Nothing else outside a request changes an account."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.placement import Placement
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.engine.quota_desk import QuotaDesk
from smartfallback.engine.roster import AccountRuntime, Roster
from smartfallback.engine.settlement import Settlement
from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.commands import (
    CIRCUIT_MODES,
    CloseCircuit,
    Command,
    CommandResult,
    CorrectQuota,
    Disable,
    Drain,
    DropQueued,
    Enable,
    ForceFailover,
    OpenCircuit,
    RefreshQuota,
    ResetCircuit,
    Resume,
    SetCircuitMode,
    SetStrategy,
)
from smartfallback.model.decisions import AdminState
from smartfallback.model.events import Actor, StrategyChanged
from smartfallback.model.quota import TruthLabel
from smartfallback.policy.circuit import Circuit

_MOST_PERCENT = 1_000.0
"""Overage is real, but a thousand percent is a slip of the keyboard."""


class Refused(Exception):
    """A command can't be carried out; the message says why and what would be possible."""


class Operator:
    """One method a command; :meth:`execute` picks it."""

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        settlement: Settlement,
        clock: Clock,
        bus: Bus,
        quota: QuotaDesk,
        queue: QueueDesk,
    ) -> None:
        self._quota = quota
        self._queue = queue
        self._roster = roster
        self._placement = placement
        self._settlement = settlement
        self._clock = clock
        self._bus = bus

    def execute(self, command: Command) -> CommandResult:
        """Carry out ``command`` now. A refusal changes nothing."""
        try:
            return CommandResult(True, self._carry_out(command))
        except Refused as refused:
            return CommandResult(False, str(refused))

    def _carry_out(self, command: Command) -> str:
        match command:
            case Drain(account=name, reason=reason):
                return self._drain(self._account(name), reason)
            case Resume(account=name):
                return self._resume(self._account(name))
            case Disable(account=name, reason=reason):
                return self._disable(self._account(name), reason)
            case Enable(account=name):
                return self._enable(self._account(name))
            case ForceFailover():
                return self._force_failover(command)
            case OpenCircuit():
                targets = (command.target, *command.also)
                return self._force_open(targets, command.reason, command.duration_s)
            case CloseCircuit(reason=reason):
                targets = (command.target, *command.also)
                return self._on_circuits(targets, lambda circuit, now: circuit.close(reason, now), "closed")
            case ResetCircuit():
                return self._reset(command)
            case SetCircuitMode():
                return self._set_mode(command)
            case SetStrategy():
                return self._set_strategy(command)
            case RefreshQuota(account=name):
                return self._refresh_quota(self._account(name))
            case CorrectQuota():
                return self._correct_quota(command)
            case DropQueued(request_id=request_id):
                return self._drop(request_id)

    def _drop(self, request_id: str) -> str:
        if not self._queue.drop(request_id):
            raise Refused(f"no request {request_id!r} waits in the queue")
        return f"request {request_id} is out of the queue and fails"

    def _account(self, name: str) -> AccountRuntime:
        account = self._roster.accounts.get(name)
        if account is None:
            raise Refused(f"there is no account {name!r}; the accounts are {_listed(self._roster.accounts)}")
        return account

    def _drain(self, account: AccountRuntime, reason: str) -> str:
        if account.admin is not AdminState.ACTIVE:
            raise Refused(f"{account.id} is {account.admin.value} already")
        new = AdminState.DRAINING if account.in_flight else AdminState.DRAINED
        self._set_admin(account, new, reason)
        account.pool.normal.forget(account.slot)
        account.pool.reserve.forget(account.slot)
        if new is AdminState.DRAINED:
            return f"{account.id} is drained"
        return f"{account.id} drains: {account.in_flight} running, no new requests"

    def _resume(self, account: AccountRuntime) -> str:
        if account.admin not in (AdminState.DRAINING, AdminState.DRAINED):
            raise Refused(f"{account.id} is {account.admin.value}, not drained")
        self._set_admin(account, AdminState.ACTIVE, "")
        return f"{account.id} takes requests again"

    def _disable(self, account: AccountRuntime, reason: str) -> str:
        if account.admin is AdminState.DISABLED:
            raise Refused(f"{account.id} is disabled already")
        self._set_admin(account, AdminState.DISABLED, reason)
        account.pool.normal.forget(account.slot)
        account.pool.reserve.forget(account.slot)
        return f"{account.id} is disabled"

    def _enable(self, account: AccountRuntime) -> str:
        if account.admin is not AdminState.DISABLED and not account.attention:
            raise Refused(f"{account.id} is {account.admin.value} and needs no attention")
        account.attention = ""
        if account.admin is AdminState.DISABLED:
            self._settlement.set_admin(account, AdminState.ACTIVE, "", Actor.OPERATOR)
        self._placement.place(account, self._clock.monotonic())
        if account.admin is not AdminState.ACTIVE:
            return f"{account.id} needs attention no longer; it is still {account.admin.value}"
        return f"{account.id} is enabled"

    def _set_admin(self, account: AccountRuntime, new: AdminState, reason: str) -> None:
        self._settlement.set_admin(account, new, reason, Actor.OPERATOR)
        self._placement.place(account, self._clock.monotonic())

    def _circuit(self, target: CircuitTarget) -> Circuit:
        circuit = self._roster.circuit(target)
        if circuit is None:
            known = self._roster.providers if target.scope is CircuitScope.PROVIDER else self._roster.accounts
            raise Refused(f"there is no circuit of {target}; those of this kind are {_listed(known)}")
        return circuit

    def _on_circuits(
        self, targets: Sequence[CircuitTarget], change: Callable[[Circuit, float], None], what: str
    ) -> str:
        """Change all circuits of ``targets``; none if one is unknown. ``change`` can't be refused."""
        circuits = [self._circuit(target) for target in targets]
        now = self._clock.monotonic()
        for circuit in circuits:
            change(circuit, now)
        for target, circuit in zip(targets, circuits, strict=True):
            if circuit.state is CircuitState.CLOSED:
                self._placement.comebacks.at_once(target)
            self._place_all(target, now)
        if len(targets) == 1:
            return f"the circuit of {targets[0]} is {what}"
        return f"{len(targets)} circuits are {what}: {_listed([str(target) for target in targets])}"

    def _force_open(self, targets: Sequence[CircuitTarget], reason: str, duration_s: float | None) -> str:
        if duration_s is not None and not 0 < duration_s < math.inf:
            raise Refused(f"the duration must be above 0 seconds and finite, not {duration_s:g}")
        until = None if duration_s is None else self._clock.monotonic() + duration_s
        return self._on_circuits(
            targets,
            lambda circuit, now: circuit.force_open(reason, now, until),
            f"forced open{_for(duration_s)}",
        )

    def _set_mode(self, command: SetCircuitMode) -> str:
        mode, reason = command.mode, command.reason
        if mode not in CIRCUIT_MODES:
            raise Refused(f"a circuit's mode is one of {_listed(CIRCUIT_MODES)}, not {mode}; open it instead")
        targets = (command.target, *command.also)
        for circuit in [self._circuit(target) for target in targets]:
            if not circuit.may_become(mode):
                state = circuit.state
                raise Refused(
                    f"the circuit of {circuit.target} is {state} and can't be {mode}; close it first"
                )
        changes: dict[CircuitState, tuple[Callable[[Circuit, float], None], str]] = {
            CircuitState.CLOSED: (lambda circuit, now: circuit.close(reason, now), "closed"),
            CircuitState.HALF_OPEN: (lambda circuit, now: circuit.half_open(now, reason), "probing"),
            CircuitState.OBSERVE_ONLY: (lambda circuit, now: circuit.observe_only(now, reason), "observing"),
            CircuitState.DISABLED: (lambda circuit, now: circuit.disable(now, reason), "disabled"),
        }
        return self._on_circuits(targets, *changes[mode])

    def _force_failover(self, command: ForceFailover) -> str:
        target = command.target
        self._force_open((target,), command.reason, command.duration_s)
        accounts = self._roster.accounts_of(target)
        reason = command.reason or "forced failover"
        moved = sum(attempt.divert(reason) for account in accounts for attempt in tuple(account.attempts))
        return (
            f"traffic moves away from {target}{_for(command.duration_s)}; {moved} waiting requests switched"
        )

    def _reset(self, command: ResetCircuit) -> str:
        targets = (command.target, *command.also)
        for target in targets:
            self._circuit(target)
        for target in targets:
            self._lift_rests(target)
        reason = command.reason or "reset"
        return self._on_circuits(targets, lambda circuit, now: circuit.reset(reason, now), "reset")

    def _lift_rests(self, target: CircuitTarget) -> None:
        for account in self._roster.accounts_of(target):
            if target.scope is CircuitScope.MODEL:
                account.model_blocks.pop(target.name.partition("/")[2], None)
            elif target.scope is CircuitScope.ACCOUNT:
                account.cooldown_until = None
                account.cooldown_reason = ""
                account.model_blocks.clear()
                self._placement.throttles.lift(account, "reset by the operator")
                account.ledger.clear_exhausted(self._clock.time())

    def _place_all(self, target: CircuitTarget, now: float) -> None:
        for account in self._roster.accounts_of(target):
            self._placement.place(account, now)

    def _set_strategy(self, command: SetStrategy) -> str:
        pool = self._roster.pools.get(command.pool)
        if pool is None:
            raise Refused(f"there is no pool {command.pool!r}; the pools are {_listed(self._roster.pools)}")
        old, pool.strategy = pool.strategy, command.strategy
        settings = command.hybrid or pool.spec.hybrid
        pool.normal.set_strategy(command.strategy, settings)
        pool.reserve.set_strategy(command.strategy, settings)
        bus = self._bus
        bus.publish(
            StrategyChanged(bus.next_seq(), self._clock.time(), pool.name, old.value, command.strategy.value)
        )
        return f"pool {pool.name} selects by {command.strategy.value}"

    def _refresh_quota(self, account: AccountRuntime) -> str:
        if not self._quota.refresh(account.id):
            raise Refused(f"{account.id} has no quota source to ask; its quota is the own count")
        return f"asking for the quota of {account.id}"

    def _correct_quota(self, command: CorrectQuota) -> str:
        account = self._account(command.account)
        view = account.ledger.view(self._clock.time())
        window = view.binding if command.window is None else command.window
        if command.window is None and window is None and view.windows:
            window = 0
        if window is None or not 0 <= window < len(view.windows):
            raise Refused(f"{account.id} has {len(view.windows)} quota windows; there is none to correct")
        if not 0 <= command.percent_used <= _MOST_PERCENT:
            raise Refused(f"percent used must be from 0 to {_MOST_PERCENT:g}, not {command.percent_used:g}")
        if command.label not in (TruthLabel.REPORTED, TruthLabel.ESTIMATED):
            raise Refused(f"a quota set by hand is reported or estimated, not {command.label.value}")
        shown = view.windows[window]
        self._quota.correct(account, window, shown.limit * command.percent_used / 100.0, command.label)
        return f"the {shown.kind.value} quota of {account.id} is set to {command.percent_used:g} % used"


def _for(duration_s: float | None) -> str:
    return "" if duration_s is None else f" for {duration_s:g} s"


def _listed(names: Collection[str], most: int = 12) -> str:
    shown = ", ".join(list(names)[:most])
    return f"{shown}, …" if len(names) > most else shown
