"""Makes accounts be as a step wants them: through the operator's commands, inside the rehearsal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from smartfallback.model.circuits import CircuitState, CircuitTarget
from smartfallback.model.commands import (
    CloseCircuit,
    Command,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    OpenCircuit,
    RefreshQuota,
    ResetCircuit,
    Resume,
    SetCircuitMode,
)
from smartfallback.model.quota import TruthLabel
from smartfallback.simulation.scenarios.model import Action, Circuits, Deed, Percent, Role

if TYPE_CHECKING:
    from random import Random

    from smartfallback.engine.rehearsal import Rehearsal
    from smartfallback.model.snapshot import AccountView, Snapshot
    from smartfallback.simulation.scenarios.stage import Stage

WHY: Final = "rehearsal"
FIT_PERCENT: Final = 50.0
"""What is used of a quota that would keep an account from being asked, before a scenario begins."""
GUESS_PERCENT: Final = 10.0
_OPERATORS: Final = (CircuitState.FORCED_OPEN, CircuitState.OBSERVE_ONLY, CircuitState.DISABLED)


@dataclass(frozen=True, slots=True)
class _Held:
    """A quota that was set for a step."""

    percent: float
    at: float


class SettingUp:
    """Sets up one run.

    Args:
        stage: Where.
        rehearsal: Takes the commands, and takes them back at its end.
        accounts: The accounts of each role that take part.
        rng: Orders commands, since no scenario may depend on that.
    """

    def __init__(
        self,
        stage: Stage,
        rehearsal: Rehearsal,
        accounts: Mapping[Role, frozenset[str]],
        rng: Random,
    ) -> None:
        self._stage = stage
        self._rehearsal = rehearsal
        self._accounts = accounts
        self._rng = rng
        self._held: dict[str, _Held] = {}

    def make_fit(self) -> None:
        """Let all that take part be without failures, rests and nearly used quotas."""
        snapshot = self._stage.orchestrator.snapshot()
        for role, taking_part in self._accounts.items():
            circuit = self._stage.pool_view(role, snapshot).provider_circuit
            if circuit.state not in _OPERATORS:
                self._order(ResetCircuit(circuit.target, WHY))
            soft_limit = self._stage.roles[role].thresholds.soft_limit
            for account in self._of(role, snapshot):
                if account.id not in taking_part:
                    continue
                circuits = [account.circuit, *account.model_circuits]
                for each in (each for each in circuits if each.state not in _OPERATORS):
                    self._order(ResetCircuit(each.target, WHY))
                for index, window in enumerate(account.quota.windows):
                    if window.percent is not None and window.percent >= min(soft_limit, FIT_PERCENT):
                        fit = min(soft_limit / 2, FIT_PERCENT)
                        self._order(CorrectQuota(account.id, fit, index))

    def use(self, usage: Sequence[Percent]) -> None:
        """Set what is used of the quota of all accounts of some roles, until it is set anew."""
        snapshot = self._stage.orchestrator.snapshot()
        for role, percent in usage:
            for account in self._of(role, snapshot):
                if account.quota.windows:
                    self._set(account.id, percent)

    def hold_usage(self) -> None:
        """Set it again where a quota source has reported what is really used since."""
        if not self._held:
            return
        snapshot = self._stage.orchestrator.snapshot()
        for name, held in tuple(self._held.items()):
            account = snapshot.account(name)
            bound = None if account is None else account.quota.bound
            if bound is not None and bound.label is TruthLabel.REPORTED and (bound.read_at or 0) > held.at:
                self._set(name, held.percent)

    def act(self, actions: Sequence[Action]) -> None:
        """Carry out the commands of a step."""
        for action in actions:
            accounts = self._of(action.on, self._stage.orchestrator.snapshot())
            if action.account is not None:
                accounts = [accounts[(action.account - 1) % len(accounts)]]
            for command in self._commands(action, [account.id for account in accounts]):
                self._order(command)

    def _set(self, account: str, percent: float) -> None:
        self._order(CorrectQuota(account, percent))
        self._held[account] = _Held(percent, time.time())

    def _of(self, role: Role, snapshot: Snapshot) -> list[AccountView]:
        pool = self._stage.pool_view(role, snapshot)
        return [account for account in pool.accounts if account.id in self._accounts[role]]

    def _commands(self, action: Action, accounts: Sequence[str]) -> list[Command]:
        match action.do:
            case Deed.DRAIN:
                return [Drain(account, WHY) for account in accounts]
            case Deed.RESUME:
                return [Resume(account) for account in accounts]
            case Deed.DISABLE:
                return [Disable(account, WHY) for account in accounts]
            case Deed.ENABLE:
                return [Enable(account) for account in accounts]
            case Deed.REFRESH_QUOTA:
                for account in accounts:
                    self._held.pop(account, None)  # what the source says is what the step is about
                return [RefreshQuota(account) for account in accounts]
            case Deed.FORGET_QUOTA:
                for account in accounts:
                    self._held.pop(account, None)
                guess = TruthLabel.ESTIMATED
                return [CorrectQuota(account, GUESS_PERCENT, label=guess) for account in accounts]
        snapshot = self._stage.orchestrator.snapshot()
        if action.circuit is Circuits.PROVIDER:
            circuits = [self._stage.pool_view(action.on, snapshot).provider_circuit]
        else:
            views = [view for view in self._of(action.on, snapshot) if view.id in accounts]
            circuits = [view.circuit for view in views]
            if action.do is not Deed.OPEN:
                circuits += [each for view in views for each in view.model_circuits]
        if action.do is Deed.HALF_OPEN:
            circuits = [circuit for circuit in circuits if circuit.state is CircuitState.OPEN]
        targets = [circuit.target for circuit in circuits]
        return [_on_circuit(action.do, target) for target in targets]

    def _order(self, command: Command) -> None:
        # A refusal (an account that is drained already) shows in what is observed.
        self._rehearsal.execute(command)


def _on_circuit(do: Deed, target: CircuitTarget) -> Command:
    match do:
        case Deed.HALF_OPEN:
            return SetCircuitMode(target, CircuitState.HALF_OPEN, WHY)
        case Deed.OPEN:
            return OpenCircuit(target, WHY)
        case Deed.CLOSE:
            return CloseCircuit(target, WHY)
        case _:
            return ResetCircuit(target, WHY)
