"""From an operator's action to a command: what it would do, how to undo it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import (
    AdminState,
    CircuitScope,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    ForceFailover,
    OpenCircuit,
    RefreshQuota,
    ResetCircuit,
    Resume,
    SetStrategy,
    Strategy,
)

if TYPE_CHECKING:
    from smartfallback import AccountView, CircuitView, Command, PoolView, Snapshot


class OperatorError(ValueError):
    """An action can't be carried out; the message says why and what would do."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A command that is ready but for what the operator is asked.

    Attributes:
        action: The registry's id.
        title: The question, such as "Drain ag-3?".
        consequence: What will happen, in a sentence or two.
        warning: What speaks against it, empty when nothing does.
        verb: The word on the button.
        command: The command, before reason and duration are filled in.
        takes_reason: Whether the command carries a reason.
        takes_duration: Whether it carries a duration.
        asks: Whether to ask at all.
        undo: The command that takes it back, None if there is none.
    """

    action: str
    title: str
    consequence: str
    verb: str
    command: Command
    warning: str = ""
    takes_reason: bool = True
    takes_duration: bool = False
    asks: bool = True
    undo: Command | None = None

    def filled(self, reason: str, duration_s: float | None) -> Command:
        """The command with what the operator entered."""
        match self.command:
            case Drain(account) | Disable(account):
                return type(self.command)(account, reason)
            case ForceFailover(target) | OpenCircuit(target):
                return type(self.command)(target, reason or "operator", duration_s)
            case CloseCircuit(target):
                return CloseCircuit(target, reason or "operator")
            case ResetCircuit(target):
                return ResetCircuit(target, reason)
        return self.command


@dataclass(frozen=True, slots=True)
class Subject:
    """What an action is pointed at: a pool, and one of its accounts unless the pool itself is meant."""

    pool: PoolView
    account: AccountView | None
    model: str | None = None


def find(snapshot: Snapshot, name: str) -> Subject:
    """The account, ``account/model``, pool or provider of a name.

    Raises:
        OperatorError: There is none; the message offers the nearest.
    """
    known: dict[str, Subject] = {}
    for pool in reversed(snapshot.pools):
        known[pool.provider_id] = Subject(pool, None)
    for pool in snapshot.pools:
        known[pool.name] = Subject(pool, None)
    for pool in snapshot.pools:
        for account in pool.accounts:
            known[account.id] = Subject(pool, account)
            for circuit in account.model_circuits:
                model = circuit.target.name.removeprefix(f"{account.id}/")
                known[circuit.target.name] = Subject(pool, account, model)
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    raise OperatorError(f"there is no {name!r}" + (f"; did you mean {near[0]}?" if near else ""))


def propose(
    action: str, subject: Subject, *, verb: str = "", argument: str = "", snapshot: Snapshot | None = None
) -> Proposal:
    """What an action would do to its subject.

    Args:
        action: The registry's id.
        subject: What it is pointed at.
        verb: For a toggle, which way; empty takes the way that fits.
        argument: For ``strategy``, the new one; for ``correct_quota``, the percentage used.
        snapshot: For what would be left in the chain.

    Raises:
        OperatorError: It makes no sense for this subject.
    """
    match action:
        case "drain":
            return _drain(_account(subject), subject, verb, snapshot)
        case "disable":
            return _disable(_account(subject), subject, verb, snapshot)
        case "failover":
            account = _account(subject)
            target = CircuitTarget(CircuitScope.ACCOUNT, account.id)
            return _failover("failover", target, account.id, subject, snapshot)
        case "failover_provider":
            provider = subject.pool.provider_id
            target = CircuitTarget(CircuitScope.PROVIDER, provider)
            return _failover(
                "failover_provider", target, f"provider {provider}", Subject(subject.pool, None), snapshot
            )
        case "open_circuit" | "close_circuit" | "reset_circuit":
            return _circuit(action, subject, snapshot)
        case "strategy":
            return _strategy(subject, argument)
        case "refresh_quota":
            return _refresh_quota(_account(subject))
        case "correct_quota":
            return _correct_quota(_account(subject), argument)
    raise OperatorError(f"{action} needs no target")


def _account(subject: Subject) -> AccountView:
    if subject.account is None:
        raise OperatorError(f"choose an account of {subject.pool.name}: this acts on one account")
    return subject.account


def _running(account: AccountView) -> str:
    if not account.in_flight:
        return "Nothing runs on it."
    return (
        "1 running answer finishes."
        if account.in_flight == 1
        else f"{account.in_flight} running answers finish."
    )


def _left(subject: Subject, snapshot: Snapshot | None) -> str:
    """A warning when the pool is left without a usable account."""
    pool, account = subject.pool, subject.account
    rest = [
        view for view in pool.accounts if view.skip is None and account is not None and view.id != account.id
    ]
    if rest or (account is not None and account.skip is not None):
        return ""
    following = ""
    for chain in snapshot.chains if snapshot else ():
        if pool.name in chain.pools:
            later = chain.pools[chain.pools.index(pool.name) + 1 :]
            views = {view.name: view for view in snapshot.pools} if snapshot else {}
            able = [
                name
                for name in later
                if name in views and any(view.skip is None for view in views[name].accounts)
            ]
            following = f"Requests will go to {able[0]}." if able else "Then nothing can answer."
            break
    what = "the last usable account of" if account is not None else "all of"
    return f"This takes away {what} {pool.name}. {following}".strip()


def _drain(account: AccountView, subject: Subject, verb: str, snapshot: Snapshot | None) -> Proposal:
    resting = account.admin in (AdminState.DRAINING, AdminState.DRAINED)
    if verb == "resume" or (not verb and resting):
        if not resting:
            raise OperatorError(f"{account.id} is {account.admin.value}: there is nothing to resume")
        return Proposal(
            "drain",
            f"Resume {account.id}?",
            "It gets requests again.",
            "Resume",
            Resume(account.id),
            takes_reason=False,
            asks=False,
            undo=Drain(account.id, account.admin_reason),
        )
    if resting:
        raise OperatorError(f"{account.id} is {account.admin.value} already")
    if account.admin is AdminState.DISABLED:
        raise OperatorError(f"{account.id} is disabled: enable it first (x)")
    return Proposal(
        "drain",
        f"Drain {account.id}?",
        f"No new requests. {_running(account)}",
        "Drain",
        Drain(account.id),
        _left(subject, snapshot),
        undo=Resume(account.id),
    )


def _disable(account: AccountView, subject: Subject, verb: str, snapshot: Snapshot | None) -> Proposal:
    off = account.admin is AdminState.DISABLED
    if verb == "enable" or (not verb and (off or account.attention)):
        if not off and not account.attention:
            raise OperatorError(f"{account.id} is {account.admin.value}: there is nothing to enable")
        return Proposal(
            "disable",
            f"Enable {account.id}?",
            "It gets requests again; what needed attention is cleared.",
            "Enable",
            Enable(account.id),
            takes_reason=False,
            asks=False,
            undo=Disable(account.id, account.admin_reason),
        )
    if off:
        raise OperatorError(f"{account.id} is disabled already")
    return Proposal(
        "disable",
        f"Disable {account.id}?",
        f"Out of service at once. {_running(account)}",
        "Disable",
        Disable(account.id),
        _left(subject, snapshot),
        undo=Enable(account.id),
    )


def _failover(
    action: str, target: CircuitTarget, name: str, subject: Subject, snapshot: Snapshot | None
) -> Proposal:
    return Proposal(
        action,
        f"Force failover from {name}?",
        "Its circuit is forced open and requests that wait for a first token there move on now; "
        "answers already flowing finish.",
        "Fail over",
        ForceFailover(target, ""),
        _left(subject, snapshot),
        takes_duration=True,
        undo=ResetCircuit(target, "undo"),
    )


def circuit_of(subject: Subject) -> CircuitView:
    """The circuit that circuit actions concern: the model's, the account's or the provider's."""
    if subject.account is None:
        return subject.pool.provider_circuit
    if subject.model is not None:
        for circuit in subject.account.model_circuits:
            if circuit.target.name == f"{subject.account.id}/{subject.model}":
                return circuit
    return subject.account.circuit


def _circuit(action: str, subject: Subject, snapshot: Snapshot | None) -> Proposal:
    view = circuit_of(subject)
    target, state = view.target, view.state
    name = f"provider {target.name}" if target.scope is CircuitScope.PROVIDER else target.name
    now = f"It is {state.value.replace('_', '-')}" + (f": {view.cause}." if view.cause else ".")
    if action == "open_circuit":
        return Proposal(
            action,
            f"Open the circuit of {name}?",
            "Nothing passes until its time is over or it is reset; running answers finish.",
            "Open",
            OpenCircuit(target, ""),
            "" if state is CircuitState.FORCED_OPEN else _left(subject, snapshot),
            takes_duration=True,
            undo=ResetCircuit(target, "undo"),
        )
    if action == "close_circuit":
        if state is CircuitState.CLOSED:
            raise OperatorError(f"the circuit of {name} is closed already")
        return Proposal(
            action,
            f"Close the circuit of {name}?",
            f"{now} Requests pass again at once and its counts start anew.",
            "Close",
            CloseCircuit(target, ""),
        )
    return Proposal(
        action,
        f"Reset the circuit of {name}?",
        f"{now} Counts and back-off are cleared, and any cooldown is lifted.",
        "Reset",
        ResetCircuit(target),
    )


def _refresh_quota(account: AccountView) -> Proposal:
    return Proposal(
        "refresh_quota",
        f"Refresh the quota of {account.id}?",
        "Its quota source is asked now.",
        "Refresh",
        RefreshQuota(account.id),
        takes_reason=False,
        asks=False,
    )


def _correct_quota(account: AccountView, text: str) -> Proposal:
    bound = account.quota.bound
    if bound is None:
        raise OperatorError(f"{account.id} has no quota window to correct")
    try:
        percent_used = float(text.strip().removesuffix("%"))
    except ValueError:
        raise OperatorError(f"how much is used? write correct {account.id} PERCENT, such as 40") from None
    now = "unknown" if bound.percent is None else f"{bound.percent:.1f} % used, {bound.label.value}"
    undo = None if bound.percent is None else CorrectQuota(account.id, bound.percent)
    return Proposal(
        "correct_quota",
        f"Set the {bound.kind.value} quota of {account.id} to {percent_used:g} % used?",
        f"It is {now}. A quota wall is lifted; the next report of its source replaces the number.",
        "Set",
        CorrectQuota(account.id, percent_used),
        takes_reason=False,
        undo=undo,
    )


def _strategy(subject: Subject, strategy: str) -> Proposal:
    names = [member.value for member in Strategy]
    if strategy not in names:
        near = get_close_matches(strategy, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
        raise OperatorError(f"there is no strategy {strategy!r}{hint}")
    pool = subject.pool
    return Proposal(
        "strategy",
        f"Let {pool.name} select by {strategy}?",
        f"It selects by {pool.strategy.value} now.",
        "Switch",
        SetStrategy(pool.name, Strategy(strategy)),
        takes_reason=False,
        asks=False,
        undo=SetStrategy(pool.name, pool.strategy),
    )
