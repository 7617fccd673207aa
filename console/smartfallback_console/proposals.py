"""From an operator's action to a command: what it would do, how to undo it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import (
    AdminState,
    CircuitScope,
    CircuitTarget,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    RefreshQuota,
    Resume,
    SetStrategy,
    Strategy,
)
from smartfallback_console.circuit_proposals import circuit, failover, set_mode
from smartfallback_console.proposal import OperatorError, Proposal, Subject, left_without

if TYPE_CHECKING:
    from smartfallback import AccountView, Snapshot


def propose(
    action: str, subject: Subject, *, verb: str = "", argument: str = "", snapshot: Snapshot | None = None
) -> Proposal:
    """What an action would do to its subject.

    Args:
        action: The registry's id.
        subject: What it is pointed at.
        verb: For a toggle, which way; empty takes the way that fits.
        argument: For ``strategy`` and ``circuit_mode``, the new one; for ``correct_quota``, the
            percentage used.
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
            return failover("failover", target, account.id, subject, snapshot)
        case "failover_provider":
            provider = subject.pool.provider_id
            target = CircuitTarget(CircuitScope.PROVIDER, provider)
            return failover(
                "failover_provider", target, f"provider {provider}", Subject(subject.pool, None), snapshot
            )
        case "open_circuit" | "close_circuit" | "reset_circuit":
            return circuit(action, subject, snapshot)
        case "circuit_mode":
            return set_mode(subject, argument)
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
        left_without(subject, snapshot),
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
        left_without(subject, snapshot),
        undo=Enable(account.id),
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
