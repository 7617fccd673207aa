"""Rehearsals: times in which what happens to some accounts and providers is not kept.

Nothing in here knows what is rehearsed. While a rehearsal lasts, the engine works on its accounts as
on all others; what is saved of them is what they were before, with their real use, so that a process
that is killed starts as before. At its end all of that is put back in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import Final, TypeVar, final

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.kept import KeptAccount, KeptPool, KeptProvider
from smartfallback.engine.maintenance import Maintenance
from smartfallback.engine.operator import Operator
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, ProviderRuntime, Roster
from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.commands import (
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
    ResetCircuit,
    Resume,
    SetCircuitMode,
    SetStrategy,
)
from smartfallback.model.decisions import AdminState
from smartfallback.policy.circuit import Circuit

CircuitCommand = CloseCircuit | ForceFailover | OpenCircuit | ResetCircuit | SetCircuitMode
Runtime = TypeVar("Runtime")

AdminCommand = Drain | Resume | Disable | Enable

_ASKED_FOR: Final[dict[type[AdminCommand], frozenset[AdminState]]] = {
    Drain: frozenset({AdminState.DRAINING, AdminState.DRAINED}),
    Resume: frozenset({AdminState.ACTIVE}),
    Disable: frozenset({AdminState.DISABLED}),
    Enable: frozenset({AdminState.ACTIVE}),
}


@final
class Rehearsal:
    """One rehearsal, from ``Orchestrator.rehearsal``.

    Attributes:
        accounts: The accounts that it holds, by id.
        providers: The providers that it holds, by id.
    """

    def __init__(
        self,
        accounts: Collection[KeptAccount],
        providers: Collection[KeptProvider],
        pools: Collection[KeptPool],
        operator: Operator,
    ) -> None:
        self.accounts = frozenset(kept.account.id for kept in accounts)
        self.providers = frozenset(kept.provider.id for kept in providers)
        self._operator = operator
        self.kept_accounts = tuple(accounts)
        self.kept_providers = tuple(providers)
        self.kept_pools = tuple(pools)
        self.over = False

    def execute(self, command: Command) -> CommandResult:
        """Carry out ``command`` for the time of the rehearsal; its end takes it back.

        What concerns anything that the rehearsal does not hold is refused, and changes nothing.
        """
        if self.over:
            return CommandResult(False, "the rehearsal is over")
        outside = self._outside(command)
        if outside:
            return CommandResult(False, f"{outside} is not part of the rehearsal")
        return self._operator.execute(command)

    def _outside(self, command: Command) -> str:
        """The first thing that ``command`` concerns and the rehearsal does not hold; empty if none."""
        if isinstance(command, CircuitCommand):
            strange = [str(target) for target in _targets(command) if not self._holds(target)]
            return strange[0] if strange else ""
        if isinstance(command, SetStrategy):
            pools = {kept.pool.name for kept in self.kept_pools}
            return "" if command.pool in pools else f"the pool {command.pool}"
        if isinstance(command, DropQueued):
            return "the queue"
        return "" if command.account in self.accounts else command.account

    def _holds(self, target: CircuitTarget) -> bool:
        if target.scope is CircuitScope.PROVIDER:
            return target.name in self.providers
        return _account_of(target) in self.accounts


class Rehearsals:
    """Begins and ends rehearsals, and lets commands that are given by hand meanwhile outlast them."""

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        maintenance: Maintenance,
        operator: Operator,
        clock: Clock,
        bus: Bus,
        on_room: Callable[[], None],
    ) -> None:
        self._roster = roster
        self._placement = placement
        self._maintenance = maintenance
        self._operator = operator
        self._clock = clock
        self._bus = bus
        self._on_room = on_room
        self._running: list[Rehearsal] = []

    def begin(self, accounts: Collection[str], providers: Collection[str]) -> Rehearsal:
        """Hold the accounts, those that share a project with them, and the providers.

        With an account its provider is held, with a named provider all of its accounts.

        Raises:
            ValueError: A name is unknown or nothing is named, or another rehearsal holds any of it.
        """
        held = _found(accounts, self._roster.accounts, "account")
        apis = _found(providers, self._roster.providers, "provider")
        if not held and not apis:
            raise ValueError("a rehearsal is of at least one account or provider")
        held += [account for api in apis for pool in api.pools for account in pool.accounts]
        for account in tuple(held):
            held += self._roster.projects.get(account.spec.project or "", ())
        all_accounts = tuple(dict.fromkeys(held))
        all_providers = tuple(dict.fromkeys([*apis, *(each.pool.provider for each in all_accounts)]))
        both: tuple[AccountRuntime | ProviderRuntime, ...] = (*all_accounts, *all_providers)
        for each in both:
            if each.kept is not None:
                raise ValueError(f"{each.id} is part of another rehearsal")
        return self._hold(all_accounts, all_providers)

    def _hold(self, accounts: Iterable[AccountRuntime], providers: Iterable[ProviderRuntime]) -> Rehearsal:
        now, wall = self._clock.monotonic(), self._clock.time()
        self._maintenance.check(now)
        for account in accounts:
            account.kept = KeptAccount(account, self._placement, wall)
        for provider in providers:
            provider.kept = KeptProvider(provider, self._placement)
        rehearsal = Rehearsal(
            [account.kept for account in accounts if account.kept is not None],
            [provider.kept for provider in providers if provider.kept is not None],
            [KeptPool(pool) for pool in dict.fromkeys(account.pool for account in accounts)],
            self._operator,
        )
        self._running.append(rehearsal)
        for account in accounts:
            self._placement.place(account, now)
        return rehearsal

    def end(self, rehearsal: Rehearsal) -> None:
        """Put everything back, look at everything anew, and tell of what is different now."""
        self._running.remove(rehearsal)
        rehearsal.over = True
        for pool in rehearsal.kept_pools:
            pool.put_back(self._bus, self._clock.time())
        for provider in rehearsal.kept_providers:
            provider.put_back(self._placement, self._clock.monotonic())
        for account in rehearsal.kept_accounts:
            account.put_back(self._placement, self._bus, self._clock)
        for account in rehearsal.kept_accounts:
            account.resume(self._placement, self._bus, self._clock)
        self._on_room()
        self._maintenance.check(self._clock.monotonic())

    def execute(self, command: Command) -> CommandResult:
        """Carry out a command that is given by hand: what it does to held accounts outlasts rehearsals."""
        if not self._running:
            return self._operator.execute(command)
        if isinstance(command, CorrectQuota):
            command = self._with_window(command)
        result = self._operator.execute(command)
        if isinstance(command, AdminCommand):
            return self._keep_admin(command, result)
        if not result.ok:
            return result
        if isinstance(command, CircuitCommand):
            for target in _targets(command):
                self._keep_circuit(command, target)
        elif isinstance(command, CorrectQuota):
            kept = self._roster.accounts[command.account].kept
            if kept is not None and command.window is not None:
                kept.corrected(command.window, command.percent_used, self._clock.time(), command.label)
        elif isinstance(command, SetStrategy):
            for pool in (pool for rehearsal in self._running for pool in rehearsal.kept_pools):
                if pool.pool.name == command.pool:
                    pool.note_strategy()
        return result

    def _with_window(self, command: CorrectQuota) -> CorrectQuota:
        """The command with the window that it means, which may be another one once it has been set."""
        account = self._roster.accounts.get(command.account)
        if account is None or command.window is not None:
            return command
        view = account.ledger.view(self._clock.time())
        return replace(command, window=view.binding or 0)

    def _keep_admin(self, command: AdminCommand, result: CommandResult) -> CommandResult:
        account = self._roster.accounts.get(command.account)
        kept = None if account is None else account.kept
        if account is None or kept is None:
            return result
        asked_for = _ASKED_FOR[type(command)]
        stands = kept.admin in asked_for and not (isinstance(command, Enable) and kept.attention)
        if not result.ok and (stands or account.admin not in asked_for):
            return result
        self._placement.changed.add(account)
        if isinstance(command, Enable):
            kept.attention = ""
        if not isinstance(command, Enable) or kept.admin is AdminState.DISABLED:
            kept.admin, kept.admin_reason, kept.admin_at = (
                account.admin,
                account.admin_reason,
                account.admin_at,
            )
        if result.ok:
            return result
        return CommandResult(True, f"{account.id} is {kept.admin.value}, after the rehearsal too")

    def _keep_circuit(self, command: CircuitCommand, target: CircuitTarget) -> None:
        live = self._roster.circuit(target)
        if live is None:
            return
        now = self._clock.monotonic()
        comebacks = self._placement.comebacks
        if target.scope is CircuitScope.PROVIDER:
            provider = self._roster.providers[target.name].kept
            if provider is not None:
                provider.circuit = _after(command, provider.circuit, live, now)
                provider.comeback = comebacks.standing(target)
            return
        account = self._roster.accounts[_account_of(target)].kept
        if account is None:
            return
        if target.scope is CircuitScope.ACCOUNT:
            account.circuit = _after(command, account.circuit, live, now)
            account.comeback = comebacks.standing(target)
            if isinstance(command, ResetCircuit):
                account.cooldown_until, account.cooldown_reason = None, ""
                account.model_blocks.clear()
                account.throttle = None
                account.ledger.clear_exhausted(self._clock.time())
            return
        model = target.name.partition("/")[2]
        before = account.model_circuits.get(model)
        if before is not None:
            account.model_circuits[model] = _after(command, before, live, now)
        elif live.state is not CircuitState.CLOSED:
            account.model_circuits[model] = live.apart()
        if isinstance(command, ResetCircuit):
            account.model_blocks.pop(model, None)


def _after(command: CircuitCommand, kept: Circuit, live: Circuit, now: float) -> Circuit:
    """``kept`` after the command that ``live`` has just carried out."""
    if isinstance(command, OpenCircuit | ForceFailover):
        kept.force_open(command.reason, now, live.until)
    elif isinstance(command, CloseCircuit | ResetCircuit):
        kept.close(live.cause, now)
    elif not kept.may_become(command.mode):
        return live.apart()
    elif command.mode is CircuitState.CLOSED:
        kept.close(command.reason, now)
    elif command.mode is CircuitState.HALF_OPEN:
        kept.half_open(now, command.reason)
    elif command.mode is CircuitState.OBSERVE_ONLY:
        kept.observe_only(now, command.reason)
    else:
        kept.disable(now, command.reason)
    return kept


def _targets(command: CircuitCommand) -> tuple[CircuitTarget, ...]:
    return (command.target,) if isinstance(command, ForceFailover) else (command.target, *command.also)


def _account_of(target: CircuitTarget) -> str:
    return target.name.partition("/")[0] if target.scope is CircuitScope.MODEL else target.name


def _found(names: Collection[str], known: dict[str, Runtime], what: str) -> list[Runtime]:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no {what} {name!r}{hint}")
    return [known[name] for name in names]
