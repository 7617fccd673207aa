"""A command that waits for the operator's word, and what it is pointed at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import (
    CloseCircuit,
    Disable,
    Drain,
    ForceFailover,
    OpenCircuit,
    ResetCircuit,
    SetCircuitMode,
)
from smartfallback_console.usable import live_step, usable

if TYPE_CHECKING:
    from smartfallback import AccountView, Command, PoolView, Snapshot


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
            case SetCircuitMode():
                return replace(self.command, reason=reason)
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


def left_without(subject: Subject, snapshot: Snapshot | None) -> str:
    """A warning when the pool is left without a usable account."""
    pool, account = subject.pool, subject.account
    now = snapshot.at if snapshot else 0.0
    able = usable(pool, now)
    if account is not None and (account not in able or len(able) > 1):
        return ""
    following = ""
    for chain in snapshot.chains if snapshot else ():
        if pool.name in chain.pools:
            later = chain.pools[chain.pools.index(pool.name) + 1 :]
            views = {view.name: view for view in snapshot.pools} if snapshot else {}
            step = live_step(later, views, now)
            following = f"Requests will go to {step}." if step else "Then nothing can answer."
            break
    what = "the last usable account of" if account is not None else "all of"
    return f"This takes away {what} {pool.name}. {following}".strip()
