"""A run told in full: each step, expected against observed, nothing cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartfallback import StepState
from smartfallback_console.dialogs.details import DIM, DetailsDialog, Piece
from smartfallback_console.formatting import clock_time, latency
from smartfallback_console.runs import STEP_SIGNS, verdict

if TYPE_CHECKING:
    from smartfallback import RunView

TONES = {StepState.PASSED: "$success", StepState.FAILED: "$error", StepState.RUNNING: "$accent"}


def run_dialog(run: RunView) -> DetailsDialog:
    """The details of a finished run."""
    return DetailsDialog(f"Run of {run.scenario} at {clock_time(run.started_at)}", run_lines(run))


def run_lines(run: RunView) -> list[list[Piece]]:
    """Everything that is known of a run."""
    tone = {"passed": "$success", "failed": "$error"}.get(run.state.value, "")
    lines: list[list[Piece]] = [
        [(verdict(run), f"bold {tone}".strip())],
        [],
        [("scenario   ", DIM), (run.scenario, "")],
        [("began      ", DIM), (clock_time(run.started_at), ""), (f" · took {latency(run.duration_s)}", DIM)],
        [("seed       ", DIM), (str(run.seed), "")],
        [("asked      ", DIM), (" → ".join(run.path) or "nobody", "")],
        [("answered   ", DIM), (run.answered_by or "nobody", "")],
        [("sent       ", DIM), (f"{run.requests} requests, {run.tokens} tokens", "")],
    ]
    if run.note:
        lines.append([("note       ", DIM), (run.note, "$warning")])
    for number, step in enumerate(run.steps, 1):
        tone = TONES.get(step.state, DIM)
        took = "" if step.state in (StepState.PENDING, StepState.SKIPPED) else f"  {latency(step.duration_s)}"
        lines += [
            [],
            [(f"{STEP_SIGNS[step.state]} ", tone), (f"{number} {step.title}", "bold"), (took, DIM)],
        ]
        for check in step.checks:
            good = check.passed
            sign, tone = ("·", DIM) if good is None else ("✓", "$success") if good else ("✗", "$error")
            lines.append([(f"    {sign} ", tone), ("expected  ", DIM), (check.expected, "")])
            lines.append([("      observed  ", DIM), (check.observed or "—", "" if good else tone)])
    return lines
