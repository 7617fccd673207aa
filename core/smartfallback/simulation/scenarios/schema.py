"""The tables of a scenario file, key by key, and what each may hold."""

from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

from pydantic import Field, create_model

from smartfallback.config.schema import Count, Name, NotNegative, Positive, Share, Table
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import SkipReason
from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.quota import QuotaStatus, TruthLabel
from smartfallback.model.requests import DegradationKind, OnBreak
from smartfallback.simulation import faults
from smartfallback.simulation.drills.drill import DrillScope
from smartfallback.simulation.drills.playable import BY_MODEL, BY_STORE, BY_TOOL, OVER_HTTP
from smartfallback.simulation.faults import Flapping, PlainFault, QuotaApiFault, RawResponse
from smartfallback.simulation.scenarios.model import (
    Action,
    Circuits,
    Deed,
    Expected,
    Percent,
    PlannedDrill,
    QuotaExpected,
    Role,
    ScenarioStep,
    StoreState,
    TrafficPlan,
    kebab,
)

MOST_REQUESTS: Final = 500
MOST_STEPS: Final = 30
MOST_SECONDS: Final = 120.0


class Drilled(StrEnum):
    """Whom a fault can be put on: the accounts of a role, or the store that instances share."""

    FIRST = Role.FIRST.value
    SECOND = Role.SECOND.value
    THIRD = Role.THIRD.value
    LOCAL = Role.LOCAL.value
    STORE = "store"


DrilledName = Annotated[Drilled, Field(strict=False)]
RoleName = Annotated[Role, Field(strict=False)]
StateName = Annotated[CircuitState, Field(strict=False)]
ErrorName = Annotated[ErrorCategory, Field(strict=False)]
KindName = Annotated[DegradationKind, Field(strict=False)]
ReasonName = Annotated[SkipReason, Field(strict=False)]
Number = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS)]
UsedPercent = Annotated[float, Field(ge=0, le=1_000)]
Met = Number | Literal["threshold"]

_PLAN: Final = TrafficPlan(1)
_FLAPPING: Final = Flapping()


class QuotaTable(Table):
    """``quota.ROLE``: how the quota of each account of the role stands."""

    status: Annotated[QuotaStatus | None, Field(strict=False)] = None
    label: Annotated[TruthLabel | None, Field(strict=False)] = None
    least_percent: UsedPercent | None = None
    most_percent: UsedPercent | None = None

    def made(self) -> QuotaExpected:
        """The value that the table describes."""
        return QuotaExpected(self.status, self.label, self.least_percent, self.most_percent)


class ExpectTable(Table):
    """``[steps.expect]``, and ``wait_for`` and ``stop_when``: see :class:`Expected`."""

    answered: Share | None = None
    answered_by: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    some_by: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    path: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    path_begins: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    path_contains: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    most_tries: Annotated[dict[RoleName, Number] | None, Field(min_length=1)] = None
    least_tries: Annotated[dict[RoleName, Number] | None, Field(min_length=1)] = None
    most_met: Met | None = None
    least_met: Met | None = None
    degraded: list[KindName] | None = None
    error: ErrorName | None = None
    failures: list[ErrorName] | None = None
    slowest_s: Positive | None = None
    slowest_token_s: Positive | None = None
    most_at_once: Annotated[dict[RoleName, Number] | None, Field(min_length=1)] = None
    spread: Annotated[dict[RoleName, Count] | None, Field(min_length=1)] = None
    provider_circuits: Annotated[dict[RoleName, StateName] | None, Field(min_length=1)] = None
    account_circuits: Annotated[dict[RoleName, StateName] | None, Field(min_length=1)] = None
    some_account_circuit: Annotated[dict[RoleName, StateName] | None, Field(min_length=1)] = None
    shut: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    quota: Annotated[dict[RoleName, QuotaTable] | None, Field(min_length=1)] = None
    skipped: Annotated[dict[RoleName, ReasonName] | None, Field(min_length=1)] = None
    usable: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    attention: Annotated[dict[RoleName, Number] | None, Field(min_length=1)] = None
    without_tool: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    unblamed: Annotated[list[RoleName] | None, Field(min_length=1)] = None
    all_given_back: Literal[True] | None = None
    store: Annotated[StoreState | None, Field(strict=False)] = None
    store_notices: Number | None = None
    least_unsent: Count | None = None
    most_unsent: Number | None = None
    merged: Literal[True] | None = None

    def made(self) -> Expected:
        """The value that the table describes."""
        return Expected(**{name: _frozen(getattr(self, name)) for name in type(self).model_fields})


def _frozen(value: object) -> Any:
    if isinstance(value, dict):
        return tuple((key, _frozen(each)) for key, each in value.items())
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, QuotaTable):
        return value.made()
    return value.value if isinstance(value, SkipReason) else value


class TrafficTable(Table):
    """``[steps.traffic]``: see :class:`TrafficPlan`."""

    requests: Annotated[int, Field(gt=0, le=MOST_REQUESTS)]
    concurrency: Annotated[int, Field(gt=0, le=200)] = 1
    every_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    stream: bool = True
    stop_when: ExpectTable | None = None
    max_output_tokens: Annotated[int, Field(gt=0, le=500)] = _PLAN.max_output_tokens
    timeout_s: Seconds = _PLAN.timeout_s
    on_break: Annotated[OnBreak, Field(strict=False)] = OnBreak.CONTINUE
    session: bool = False
    prompt: Name = _PLAN.prompt

    def made(self) -> TrafficPlan:
        """The value that the table describes."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "stop_when"}
        return TrafficPlan(**given, stop_when=self.stop_when.made() if self.stop_when else None)


class ActionTable(Table):
    """One ``[[steps.actions]]``: a command of the operator."""

    do: Annotated[Deed, Field(strict=False)]
    on: RoleName
    circuit: Annotated[Circuits, Field(strict=False)] = Circuits.PROVIDER
    account: Count | None = None

    def made(self) -> Action:
        """The value that the table describes."""
        return Action(self.do, self.on, self.circuit, self.account)


class FlappingTable(Table):
    """``flapping``: the fault comes and goes."""

    period_s: Positive = _FLAPPING.period_s
    down_share: Share = _FLAPPING.down_share


class DrillTable(Table):
    """One ``[[steps.drills]]``; the parameters of its fault stand beside these."""

    fault: str
    on: DrilledName
    scope: Annotated[DrillScope, Field(strict=False)] = DrillScope.POOL
    account: Count = 1
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    most_calls: Count | None = None
    lasts: Literal["step", "scenario"] = "scenario"
    after: Number = 0
    flapping: FlappingTable | None = None

    def made(self) -> PlannedDrill:
        """The value that the table describes.

        Raises:
            ValueError: The fault's parameters don't fit together.
        """
        kind = FAULTS[self.fault]
        on = None if self.on is Drilled.STORE else Role(self.on.value)
        if on is None:
            self._check_store(kind)
        elif self.scope is DrillScope.STORE:
            raise ValueError('a fault of the shared store has on = "store", and no scope')
        elif not issubclass(kind, _OF_ACCOUNTS):
            raise ValueError(f'{self.fault} is for the shared store only: on = "store"')
        plain: PlainFault = kind(**{each.name: getattr(self, each.name) for each in fields(kind)})
        coming = self.flapping
        fault = plain if coming is None else Flapping(plain, coming.period_s, coming.down_share)
        scope = DrillScope.STORE if on is None else self.scope
        return PlannedDrill(
            on, fault, scope, self.account, self.share, self.most_calls, self.lasts, self.after
        )

    def _check_store(self, kind: type[PlainFault]) -> None:
        if not issubclass(kind, BY_STORE):
            allowed = ", ".join(kebab(each.__name__) for each in BY_STORE)
            raise ValueError(f"the shared store can't meet {self.fault}, only {allowed}")
        given = self.model_fields_set & {"scope", "account", "share", "most_calls"}
        if given:
            raise ValueError(f"{', '.join(sorted(given))} can't be said of a fault of the shared store")


class StepTable(Table):
    """One ``[[steps]]``: see :class:`ScenarioStep`."""

    title: Name
    usage: dict[RoleName, UsedPercent] = Field(default_factory=dict)
    actions: list[ActionTable] = Field(default_factory=list)
    lift: bool = False
    drills: list[dict[str, Any]] = Field(default_factory=list)
    """Checked one by one by :func:`drill_table`, since each fault has its own parameters."""
    wait_for: ExpectTable | None = None
    traffic: TrafficTable | None = None
    expect: ExpectTable
    within_s: Seconds = 5.0

    def made(self, drills: tuple[PlannedDrill, ...]) -> ScenarioStep:
        """The value that the table describes."""
        return ScenarioStep(
            self.title,
            tuple(Percent(role, percent) for role, percent in self.usage.items()),
            tuple(action.made() for action in self.actions),
            self.lift,
            drills,
            self.wait_for.made() if self.wait_for else None,
            self.traffic.made() if self.traffic else None,
            self.expect.made(),
            self.within_s,
        )


class ScenarioFile(Table):
    """The whole file."""

    title: Name
    about: Name
    edge_case: Annotated[int | None, Field(ge=1, le=6)] = None
    steps: Annotated[list[StepTable], Field(min_length=1, max_length=MOST_STEPS)]


def _fault_table(kind: type[PlainFault]) -> type[DrillTable]:
    hints = get_type_hints(kind, vars(faults))
    columns: dict[str, Any] = {each.name: (_lenient(hints[each.name]), each.default) for each in fields(kind)}
    return create_model(kind.__name__, __base__=DrillTable, **columns)


def _lenient(hint: Any) -> Any:
    """TOML has neither enums nor tuples: names and lists stand for them. Amounts are never negative."""
    if hint is float:
        return NotNegative
    if hint == float | None:
        return NotNegative | None
    if hint is int:
        return Number
    simple = hint in (str, bool) or (get_origin(hint) is not None and str in get_args(hint))
    return hint if simple else Annotated[hint, Field(strict=False)]


_OF_ACCOUNTS: Final = tuple(dict.fromkeys((*OVER_HTTP, *BY_TOOL, *BY_MODEL, QuotaApiFault)))
FAULTS: Final[dict[str, type[PlainFault]]] = {
    kebab(kind.__name__): kind
    for kind in dict.fromkeys((*_OF_ACCOUNTS, *BY_STORE))
    if kind is not RawResponse
}
"""The faults that a scenario can name."""
_TABLES: Final = {name: _fault_table(kind) for name, kind in FAULTS.items()}


def drill_table(fault: str) -> type[DrillTable] | None:
    """What a drill with this fault may hold; None if there is no such fault."""
    return _TABLES.get(fault)
