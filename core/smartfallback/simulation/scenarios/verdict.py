"""What a run has shown, in short."""

from __future__ import annotations

from dataclasses import dataclass

from smartfallback.simulation.scenarios.views import RunState, RunView, StepState, StepView


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended.

    Attributes:
        expected: What the first failed check expected, or, of a run that passed, its last step's.
        observed: What was observed there.
        path: The accounts that were asked, in the order of the first time.
        answered_by: Who gave the latest answer.
        failed_step: The title of the step that failed, empty if none did.
    """

    scenario: str
    passed: bool
    steps: tuple[StepView, ...]
    expected: str
    observed: str
    path: tuple[str, ...]
    answered_by: str | None
    duration_s: float
    seed: int
    failed_step: str = ""
    note: str = ""


def verdict_of(run: RunView) -> Verdict:
    """The verdict of a run that is over."""
    expected = observed = ""
    told = [step for step in run.steps if step.checks and step.state is not StepState.SKIPPED]
    if told:
        step = next((each for each in told if each.state is StepState.FAILED), told[-1])
        checks = [each for each in step.checks if each.passed is False] or list(step.checks)
        expected = "; ".join(each.expected for each in checks)
        observed = "; ".join(each.observed for each in checks)
    return Verdict(
        run.scenario,
        run.state is RunState.PASSED,
        run.steps,
        expected,
        observed,
        run.path,
        run.answered_by,
        run.duration_s,
        run.seed,
        run.failed_step,
        run.note,
    )
