"""Runs of scenarios in words and signs, and which of them ended since the last look."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import RunState, StepState
from smartfallback_console.formatting import clean, latency
from smartfallback_console.proposal import OperatorError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import RunView, ScenarioView, SimulationView

STEP_SIGNS = {
    StepState.PENDING: "○",
    StepState.RUNNING: "●",
    StepState.PASSED: "✓",
    StepState.FAILED: "✗",
    StepState.SKIPPED: "·",
}
"""How far a step is, without colour."""
RUN_SIGNS = {
    RunState.RUNNING: "▶",
    RunState.PASSED: "✓",
    RunState.FAILED: "✗",
    RunState.STOPPED: "■",
}
"""How a run ended, without colour."""
NEVER_SIGN = "○"
LACKING_SIGN = "⊘"


def ordered(scenarios: Iterable[ScenarioView]) -> list[ScenarioView]:
    """The specified edge cases by their number, then the others as they come."""
    return sorted(scenarios, key=lambda view: (view.edge_case is None, view.edge_case or 0))


def find_scenario(view: SimulationView, name: str) -> ScenarioView:
    """A scenario by its name, or an edge case by its number.

    Raises:
        OperatorError: There is none; the message offers the nearest.
    """
    for scenario in view.scenarios:
        if name in (scenario.name, str(scenario.edge_case)):
            return scenario
    near = get_close_matches(name, [scenario.name for scenario in view.scenarios], n=1)
    raise OperatorError(f"there is no scenario {name!r}" + (f"; did you mean {near[0]}?" if near else ""))


def running(view: SimulationView | None) -> RunView | None:
    """The run that is under way."""
    current = view.current if view is not None else None
    return current if current is not None and current.state is RunState.RUNNING else None


def latest_runs(view: SimulationView) -> tuple[RunView, ...]:
    """All runs that are known, newest first, none of them twice."""
    current = view.current
    if current is None or any(key_of(run) == key_of(current) for run in view.history[:1]):
        return view.history
    return (current, *view.history)


def key_of(run: RunView) -> tuple[str, float]:
    """What tells a run from all others: ids begin anew with each process, and the history outlives it."""
    return run.id, run.started_at


def steps_done(run: RunView) -> int:
    """How many steps have had their verdict."""
    return sum(step.state in (StepState.PASSED, StepState.FAILED) for step in run.steps)


def verdict(run: RunView) -> str:
    """How a run ended, in a sentence."""
    name = clean(run.title or run.scenario)
    took = latency(run.duration_s)
    match run.state:
        case RunState.PASSED:
            return f"✓ {name}: passed in {took}."
        case RunState.FAILED:
            at = f" at “{clean(run.failed_step)}”" if run.failed_step else ""
            return f"✗ {name}: failed{at} after {took}."
        case RunState.STOPPED:
            why = f": {clean(run.note)}" if run.note else ""
            return f"■ {name}: stopped after {took}{why}."
    return f"▶ {name}: running."


class RunWatch:
    """Notices that a run has ended, once."""

    def __init__(self) -> None:
        self._awaited: str | None = None

    def began(self, run: RunView) -> None:
        """A run was started here; its end may come before anybody looks."""
        self._awaited = run.id

    def look(self, view: SimulationView | None) -> RunView | None:
        """The awaited run, if it has ended."""
        if view is None:
            return None
        under_way = running(view)
        ended = None
        if self._awaited is not None and (under_way is None or under_way.id != self._awaited):
            ended = next(
                (
                    run
                    for run in latest_runs(view)
                    if run.id == self._awaited and run.state is not RunState.RUNNING
                ),
                None,
            )
        if ended is not None:
            self._awaited = None
        if under_way is not None:
            self._awaited = under_way.id
        return ended
