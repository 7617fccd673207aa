"""Scenarios as data: set-up, faults, traffic and expectations, addressed by a pool's role in its chain."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from smartfallback.model.circuits import CircuitState
from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.quota import QuotaStatus, TruthLabel
from smartfallback.model.requests import DegradationKind, OnBreak
from smartfallback.simulation.drills.drill import DrillScope
from smartfallback.simulation.faults import Fault, Flapping

THRESHOLD: Final = "threshold"
"""In place of a number: as many failures as open the circuit of the provider that a drill is put on."""


ABOUT_STORE: Final = frozenset({"store", "store_notices", "least_unsent", "most_unsent", "merged"})
"""The expectations about the store that instances share."""


class Role(StrEnum):
    """The place of a pool in its chain. The local model is no cloud pool, wherever it stands."""

    FIRST = "first"
    SECOND = "second"
    THIRD = "third"
    LOCAL = "local"


class Deed(StrEnum):
    """What an operator does to the accounts of a role or to their circuits."""

    HALF_OPEN = "half-open"
    """Let the next calls be probes where a circuit is open, in place of waiting for the end of its break."""
    OPEN = "open"
    CLOSE = "close"
    RESET = "reset"
    DRAIN = "drain"
    RESUME = "resume"
    DISABLE = "disable"
    ENABLE = "enable"
    REFRESH_QUOTA = "refresh-quota"
    """Ask the quota source now."""
    FORGET_QUOTA = "forget-quota"
    """What is known of the quota was a guess: little is used, as far as anybody knows."""


class Circuits(StrEnum):
    """Whose circuits are meant."""

    PROVIDER = "provider"
    ACCOUNTS = "accounts"


class Action(NamedTuple):
    """One command to each account of a role, or to its ``account``-th one (from 1)."""

    do: Deed
    on: Role
    circuit: Circuits = Circuits.PROVIDER
    account: int | None = None


@dataclass(frozen=True, slots=True)
class PlannedDrill:
    """A fault for the calls of a role's pool, its provider, or its ``account``-th account (from 1).

    Attributes:
        on: The role; None for the store that instances share.
        lasts: Until the end of its step, or of the scenario.
        most_calls: So many calls meet it at most.
        after: It begins once so many requests of its step have been sent.
    """

    on: Role | None
    fault: Fault
    scope: DrillScope = DrillScope.POOL
    account: int = 1
    share: float = 1.0
    most_calls: int | None = None
    lasts: Literal["step", "scenario"] = "scenario"
    after: int = 0


class Percent(NamedTuple):
    """What is used of the quota of each account of a role."""

    role: Role
    percent: float


class QuotaExpected(NamedTuple):
    """How the quota of each account of a role is known to stand; None for what does not matter."""

    status: QuotaStatus | None = None
    label: TruthLabel | None = None
    least_percent: float | None = None
    most_percent: float | None = None


class StoreState(StrEnum):
    """What the shared store is good for, as the operator sees it."""

    WELL = "well"
    SLOW = "slow"
    """It answers, but no request waits for it."""
    LOST = "lost"


Of = tuple[tuple[Role, CircuitState], ...]
Counts = tuple[tuple[Role, int], ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What has to be observed. Each field that is not None is one check.

    The first ones are about the requests of the step, those from ``provider_circuits`` on about the
    state of accounts, which may take a moment to come about.

    Attributes:
        answered: The least share of the requests that are answered.
        answered_by: Every answer comes from one of these.
        some_by: Each of these gives an answer.
        path: These and no others are asked, in the order of the first time.
        path_begins: Those asked begin with these.
        path_contains: These are among those asked, in this order.
        most_tries: No more attempts than so many.
        least_tries: No fewer.
        most_met: No more calls than so many meet the step's drills and those that last; or "threshold".
        least_met: No fewer.
        degraded: Each answer is less than what was asked for in all of these ways; in none if empty.
        error: Requests fail, and all that do so with this category.
        failures: Attempts fail, with these categories and no others; none fails if empty.
        slowest_s: No request takes longer.
        slowest_token_s: No first token comes later.
        most_at_once: No more calls run side by side.
        spread: At least so many accounts of the role answer.
        provider_circuits: The state of the provider's circuit.
        account_circuits: The state of the circuit of every account, of their models too.
        some_account_circuit: The state of the circuit of at least one account or model.
        shut: Roles that are asked no more, since the provider's circuit is open or, where there are too
            few accounts for that, those of all accounts.
        quota: How the quota of each account stands.
        skipped: Why every account would be passed over, in the words of the feed.
        usable: Roles of which an account would be chosen.
        attention: So many accounts need somebody to act.
        without_tool: Roles whose accounts stay in use where there is another way to ask them; otherwise
            they are skipped, and the reason is told.
        unblamed: Roles whose accounts show no trace of a failure.
        all_given_back: Nothing runs and nothing is held in any account.
        store: How the store that instances share is.
        store_notices: So many notices about it have come since the step began, no more and no fewer.
        least_unsent: At least so many changes wait for it.
        most_unsent: At most so many.
        merged: It has counted all that was used here, nothing of it twice.
    """

    answered: float | None = None
    answered_by: tuple[Role, ...] | None = None
    some_by: tuple[Role, ...] | None = None
    path: tuple[Role, ...] | None = None
    path_begins: tuple[Role, ...] | None = None
    path_contains: tuple[Role, ...] | None = None
    most_tries: Counts | None = None
    least_tries: Counts | None = None
    most_met: int | Literal["threshold"] | None = None
    least_met: int | Literal["threshold"] | None = None
    degraded: tuple[DegradationKind, ...] | None = None
    error: ErrorCategory | None = None
    failures: tuple[ErrorCategory, ...] | None = None
    slowest_s: float | None = None
    slowest_token_s: float | None = None
    most_at_once: Counts | None = None
    spread: Counts | None = None
    provider_circuits: Of | None = None
    account_circuits: Of | None = None
    some_account_circuit: Of | None = None
    shut: tuple[Role, ...] | None = None
    quota: tuple[tuple[Role, QuotaExpected], ...] | None = None
    skipped: tuple[tuple[Role, str], ...] | None = None
    usable: tuple[Role, ...] | None = None
    attention: Counts | None = None
    without_tool: tuple[Role, ...] | None = None
    unblamed: tuple[Role, ...] | None = None
    all_given_back: bool | None = None
    store: StoreState | None = None
    store_notices: int | None = None
    least_unsent: int | None = None
    most_unsent: int | None = None
    merged: bool | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the fields that are checked."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) is not None)

    @property
    def roles(self) -> frozenset[Role]:
        """The roles that have to be there."""
        found: set[Role] = set()
        for name in self.given:
            value = getattr(self, name)
            if isinstance(value, tuple):
                entries = (entry[0] if isinstance(entry, tuple) else entry for entry in value)
                found.update(entry for entry in entries if isinstance(entry, Role))
        return frozenset(found)

    @property
    def needs_store(self) -> bool:
        """Whether a store that instances share has to be there."""
        return not ABOUT_STORE.isdisjoint(self.given)


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """The requests of a step.

    Attributes:
        requests: So many at most.
        concurrency: So many at once.
        every_s: The least time between two beginnings.
        stop_when: Send no more when this is so.
        timeout_s: The deadline of each.
        prompt: What is asked; a number is added so that no two are equal.
    """

    requests: int
    concurrency: int = 1
    every_s: float = 0.0
    stream: bool = True
    stop_when: Expected | None = None
    max_output_tokens: int = 24
    timeout_s: float = 20.0
    on_break: OnBreak = OnBreak.CONTINUE
    session: bool = False
    prompt: str = "This is a rehearsal. Tell a short story about a lighthouse."


@dataclass(frozen=True, slots=True)
class ScenarioStep:
    """One step: set up, then wait, then traffic, then compare.

    Attributes:
        lift: End all drills that last from earlier steps first.
        wait_for: Go on only when this is so, after the set-up.
        within_s: How long states may take to be as ``wait_for`` and ``expect`` say.
    """

    title: str
    usage: tuple[Percent, ...] = ()
    actions: tuple[Action, ...] = ()
    lift: bool = False
    drills: tuple[PlannedDrill, ...] = ()
    wait_for: Expected | None = None
    traffic: TrafficPlan | None = None
    expect: Expected = field(default_factory=Expected)
    within_s: float = 5.0

    @property
    def roles(self) -> frozenset[Role]:
        """The roles that have to be there."""
        found = {each.role for each in self.usage} | {each.on for each in self.actions}
        found |= {each.on for each in self.drills if each.on is not None}
        return frozenset(found).union(*(expected.roles for expected in self.expectations))

    @property
    def expectations(self) -> tuple[Expected, ...]:
        """All that is compared with what is observed."""
        given = (self.expect, self.wait_for, self.traffic and self.traffic.stop_when)
        return tuple(expected for expected in given if expected)

    @property
    def needs_store(self) -> bool:
        """Whether a store that instances share has to be there."""
        return any(each.on is None for each in self.drills) or any(
            expected.needs_store for expected in self.expectations
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario, from a file.

    Attributes:
        name: What it is run by.
        about: What it shows.
        edge_case: Its number among the specified edge cases.
        source: The file, for those of the user.
    """

    name: str
    title: str
    about: str
    steps: tuple[ScenarioStep, ...]
    edge_case: int | None = None
    source: str = ""

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that have to be there, in the order of a chain."""
        found = frozenset[Role]().union(*(step.roles for step in self.steps))
        return tuple(role for role in Role if role in found)

    @property
    def most_requests(self) -> int:
        """How many requests it sends at most."""
        return sum(step.traffic.requests for step in self.steps if step.traffic)

    @property
    def needs_store(self) -> bool:
        """Whether a store that instances share has to be there."""
        return any(step.needs_store for step in self.steps)

    @property
    def drills(self) -> tuple[PlannedDrill, ...]:
        """All drills of all steps."""
        return tuple(drill for step in self.steps for drill in step.drills)


def plain_fault_name(fault: Fault) -> str:
    """``slow-first-token`` for a fault, as files have it, without its coming and going."""
    plain = fault.fault if isinstance(fault, Flapping) else fault
    return kebab(type(plain).__name__)


def kebab(name: str) -> str:
    """``slow-first-token`` for ``SlowFirstToken``."""
    return "".join(f"-{char.lower()}" if char.isupper() else char for char in name).lstrip("-")
