"""What is told of scenarios and their runs: frozen values that any thread may read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from smartfallback.simulation.drills.drill import DrillView


class RunState(StrEnum):
    """How far a run has come."""

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    """What was observed is not what was expected."""
    STOPPED = "stopped"
    """Ended before its verdict, by the operator or because everything ends."""


class StepState(StrEnum):
    """How far one step of a run has come."""

    PENDING = "pending"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Never begun, since the run ended before."""


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation of a step in words, and what was observed; ``passed`` None while it is open."""

    expected: str
    observed: str = ""
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """One step; ``duration_s`` grows while it runs."""

    title: str
    state: StepState = StepState.PENDING
    checks: tuple[Check, ...] = ()
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RunView:
    """One run of a scenario, while it lasts and afterwards.

    Attributes:
        id: Of this run, unique in the process.
        started_at: Epoch seconds.
        path: The accounts that were asked, in the order of the first time.
        answered_by: Who gave the latest answer, None before any.
        requests: How many requests the run has sent, and ``tokens`` what they have cost.
        note: Why it ended early, or what could not be cleaned up; empty otherwise.
        played_on: Where it was played, if not on the system that runs; empty otherwise.
    """

    id: str
    scenario: str
    title: str
    state: RunState
    steps: tuple[StepView, ...]
    started_at: float
    duration_s: float
    seed: int
    path: tuple[str, ...] = ()
    answered_by: str | None = None
    requests: int = 0
    tokens: int = 0
    note: str = ""
    played_on: str = ""

    @property
    def failed_step(self) -> str:
        """The title of the first step that failed, empty without one."""
        return next((step.title for step in self.steps if step.state is StepState.FAILED), "")


@dataclass(frozen=True, slots=True)
class ScenarioView:
    """One scenario that can be run here.

    Attributes:
        about: What it shows, in a sentence or two.
        edge_case: Its number among the specified edge cases, None for others.
        source: The file it comes from, empty for built-in ones.
        lacking: What this system lacks for it, in a sentence; empty when it can run.
        requests: How many requests it sends at most.
        touches: The accounts whose calls meet faults, by id.
    """

    name: str
    title: str
    about: str
    steps: tuple[str, ...]
    edge_case: int | None = None
    source: str = ""
    lacking: str = ""
    requests: int = 0
    touches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SimulationView:
    """Everything about rehearsals at one moment.

    ``history`` holds finished runs, newest first. With ``confirm`` a run needs a typed confirmation,
    since real accounts are asked.
    """

    scenarios: tuple[ScenarioView, ...] = ()
    current: RunView | None = None
    history: tuple[RunView, ...] = ()
    drills: tuple[DrillView, ...] = ()
    confirm: bool = False
    mistakes: tuple[str, ...] = field(default=())
    """What is wrong with the user's own scenario files."""
