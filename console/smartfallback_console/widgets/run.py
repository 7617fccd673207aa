"""A run step by step, expected against observed; or a scenario and what it would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import chop_cells
from textual.binding import Binding, BindingType

from smartfallback import RunState, RunView, ScenarioView, StepState
from smartfallback_console.formatting import cell_len, clean, clock_time, count, countdown, fit, latency
from smartfallback_console.runs import LACKING_SIGN, RUN_SIGNS, STEP_SIGNS
from smartfallback_console.usable import live_step
from smartfallback_console.widgets.lines import Line, LineView, LineWriter
from smartfallback_console.widgets.recovery import open_now
from smartfallback_console.widgets.scenarios import tone_of

if TYPE_CHECKING:
    from rich.style import Style

    from smartfallback import Check, Snapshot, StepView
    from smartfallback_console.ink import Ink

Subject = RunView | ScenarioView | None
"""What is told of: a run, or a scenario that does not run."""

SIDE_BY_SIDE_FROM = 88
"""Cells from which expected and observed stand beside each other."""
INDENT = 4
HINT = "Choose a scenario. It injects faults on the real code path, sends requests, and judges each step."


def wrapped(text: str, width: int) -> list[str]:
    """Cleaned text in lines of at most ``width`` cells, broken between words where there are any."""
    lines: list[str] = []
    line = ""
    for word in clean(text).split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, max(2, width)) if word else [""]
        lines += whole
    return [*lines, line] if line or not lines else lines


class RunHead(LineView, can_focus=False):
    """The verdict, what it is about, and who was asked: stays in sight while the steps scroll."""

    DEFAULT_CSS = """
    RunHead { height: 3; border: none; padding: 0 2; background: $panel; overflow: hidden; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._subject: Subject = None
        self._last: RunView | None = None

    def show(self, subject: Subject, last: RunView | None = None) -> None:
        """Draw a run, or a scenario with its last run."""
        self._subject, self._last = subject, last
        self.redraw()

    def line_count(self) -> int:
        """Verdict, path, note."""
        return 3

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """One of the three lines."""
        subject = self._subject
        if isinstance(subject, RunView):
            return (_verdict, _path, _note)[index](subject, width, ink)
        if isinstance(subject, ScenarioView):
            return _scenario_head(subject, self._last, index, width, ink)
        return LineWriter().put(fit("Simulation" if index == 0 else "", width), ink.strong).line()


def _verdict(run: RunView, width: int, ink: Ink) -> Line:
    pill = {
        RunState.PASSED: ink.ok_pill,
        RunState.FAILED: ink.error_pill,
        RunState.RUNNING: ink.accent_pill,
    }.get(run.state, ink.muted_pill)
    out = LineWriter().put(f" {RUN_SIGNS[run.state]} {run.state.value.upper()} ", pill).space(2)
    tail = LineWriter()
    took = countdown(run.duration_s) if run.state is RunState.RUNNING else latency(run.duration_s)
    seed = f"seed {run.seed}"
    if width >= 60 and len(seed) <= 24:
        tail.put(f"{seed}  ", ink.muted)
    tail.put(took, ink.strong)
    room = width - out.length - tail.length - 2
    out.put(fit(run.title or run.scenario, max(0, room)), ink.strong)
    out.to(width - tail.length)
    return (*out.line(), *tail.line())


def _path(run: RunView, width: int, ink: Ink) -> Line:
    out, tail = LineWriter(), LineWriter()
    sent = f"{count(run.requests)} request{'' if run.requests == 1 else 's'}"
    tail.put(f"{sent}, {count(run.tokens)} tokens" if width >= 60 else sent, ink.muted)
    room = width - tail.length - 2
    answered = clean(run.answered_by) if run.answered_by else ""
    if not run.path and not answered:
        out.put(fit("nobody was asked yet", room), ink.muted)
        return (*out.to(width - tail.length).line(), *tail.line())
    who = min(cell_len(answered), 24) + 3 if answered else 0
    asked = " → ".join(clean(name) for name in run.path)
    out.put(fit(asked, min(cell_len(asked), max(0, room - who - 2))), ink.text)
    if answered and room > who:
        out.space(2).put("✓ ", ink.ok).put(fit(answered, who - 3).rstrip(), ink.strong)
        if room - out.length >= 9:
            out.put(" answers", ink.muted)
    return (*out.to(width - tail.length).line(), *tail.line())


def _note(run: RunView, width: int, ink: Ink) -> Line:
    if run.note:
        return LineWriter().put(fit(f"▲ {run.note}", width), ink.warning).line()
    if run.state is RunState.FAILED and run.failed_step:
        step = next(step for step in run.steps if step.state is StepState.FAILED)
        observed = next((f": {check.observed}" for check in step.checks if check.passed is False), "")
        return LineWriter().put(fit(f"✗ {step.title}{observed}", width), ink.error).line()
    if run.state is RunState.RUNNING:
        active = next((step for step in run.steps if step.state is StepState.RUNNING), None)
        told = f"● {active.title}" if active else "getting ready…"
        return LineWriter().put(fit(told, width), ink.accent if active else ink.muted).line()
    done = sum(step.state is StepState.PASSED for step in run.steps)
    at = f"{done} of {len(run.steps)} steps passed · began {clock_time(run.started_at)} · all is as before"
    return LineWriter().put(fit(at, width), ink.muted).line()


def _scenario_head(scenario: ScenarioView, last: RunView | None, index: int, width: int, ink: Ink) -> Line:
    out, tail = LineWriter(), LineWriter()
    if index == 0:
        case = "" if scenario.edge_case is None else f"edge case {scenario.edge_case}"
        tail.put(fit(case, min(cell_len(case), width // 2)), ink.accent)
        out.put(fit(scenario.title, max(0, width - tail.length - 2)), ink.strong)
    elif index == 1:
        names = [clean(name) for name in scenario.touches]
        shown = ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)})"
        tail.put(fit(scenario.name, min(cell_len(clean(scenario.name)), width // 2)), ink.muted)
        parts = [f"touches {shown}"] if names else []
        if scenario.requests:
            parts.append(f"at most {scenario.requests} requests")
        out.put(fit(" · ".join(parts), max(0, width - tail.length - 2)), ink.muted)
    elif scenario.lacking:
        out.put(fit(f"{LACKING_SIGN} can't run here: {scenario.lacking}", width), ink.warning)
    elif last is None:
        out.put(fit("never run", width), ink.muted)
    else:
        at = f" {last.state.value} at {clock_time(last.started_at)} in {latency(last.duration_s)}"
        out.put("last run  ", ink.muted).put(RUN_SIGNS[last.state], tone_of(last.state, ink))
        out.put(fit(at, max(0, width - out.length)), ink.muted)
    return (*out.to(width - tail.length).line(), *tail.line())


class RunSteps(LineView):
    """The steps with their checks; follows the running one until the reader scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_by(-1)", "Up", show=False),
        Binding("down,j", "scroll_by(1)", "Down", show=False),
        Binding("pageup", "scroll_by(-10)", "Page up", show=False),
        Binding("pagedown", "scroll_by(10)", "Page down", show=False),
        Binding("home,g", "scroll_by(-100000)", "First step", show=False),
        Binding("end,G", "scroll_by(100000)", "Last step, and follow", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Steps"
        self.following = True
        """Whether the picture goes with the running step."""
        self._subject: Subject = None
        self._lines: list[Line] = []
        self._focal = 0

    def show(self, subject: Subject) -> None:
        """Draw a run or a scenario."""
        if _id(subject) != _id(self._subject):
            self.following = True
            self.scroll_to(y=0, animate=False)
        self._subject = subject
        self.redraw()
        if self.following:
            self.call_after_refresh(self._follow)

    def _follow(self) -> None:
        height = self.scrollable_content_region.height
        if not self.following or height <= 0:
            return
        y = max(0, min(self._focal, self.line_count()) - height)
        if self.scroll_offset.y != y:
            self.scroll_to(y=y, animate=False)

    def redraw(self) -> None:
        """Compose all lines at once, since checks wrap."""
        if self.is_mounted and self.text_width > 0:
            self._lines, self._focal = lines_of(self._subject, self.text_width, self.ink)
        super().redraw()

    def on_resize(self) -> None:
        """Other lines, and maybe another place."""
        super().on_resize()
        if self.following:
            self.call_after_refresh(self._follow)

    def line_count(self) -> int:
        """As many as were composed."""
        return max(1, len(self._lines))

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:  # noqa: ARG002 - composed already
        """One line."""
        return self._lines[index] if index < len(self._lines) else ()

    def action_scroll_by(self, step: int) -> None:
        """Scroll by lines; the end follows again."""
        end = max(0, self.line_count() - self.scrollable_content_region.height)
        y = max(0, min(end, self.scroll_offset.y + step))
        self.following = step > 0 and y == end
        self.scroll_to(y=y, animate=False)


def _id(subject: Subject) -> str:
    match subject:
        case RunView():
            return f"run {subject.id} {subject.started_at}"
        case ScenarioView():
            return f"scenario {subject.name}"
    return ""


def lines_of(subject: Subject, width: int, ink: Ink) -> tuple[list[Line], int]:
    """All lines, and how many of them to have in sight down from the top: to the step that matters."""
    if isinstance(subject, ScenarioView):
        return list(_plan(subject, width, ink)), 0
    if subject is None:
        return [LineWriter().put(text, ink.muted).line() for text in wrapped(HINT, width)], 0
    lines: list[Line] = []
    focal = 0
    for number, step in enumerate(subject.steps, 1):
        lines += _step(number, step, width, ink)
        first_failure = step.state is StepState.FAILED and not focal
        if step.state is StepState.RUNNING or first_failure:
            focal = len(lines) + (1 if step.state is StepState.RUNNING else 0)
    return lines, focal


def _plan(scenario: ScenarioView, width: int, ink: Ink) -> list[Line]:
    lines = [LineWriter().put(text, ink.text).line() for text in wrapped(scenario.about, width)]
    if scenario.lacking:
        reason = f"{LACKING_SIGN} It can't run here: {scenario.lacking}"
        lines += [(), *(LineWriter().put(text, ink.warning).line() for text in wrapped(reason, width))]
    lines.append(())
    for number, title in enumerate(scenario.steps, 1):
        out = LineWriter().put(STEP_SIGNS[StepState.PENDING], ink.muted).put(f" {number} ", ink.muted)
        lines.append(out.put(fit(title, max(0, width - out.length)), ink.text).line())
    if scenario.source:
        lines += [(), LineWriter().put(fit(f"from {scenario.source}", width), ink.muted).line()]
    return lines


def _step_tone(state: StepState, ink: Ink) -> Style:
    return {
        StepState.PASSED: ink.ok,
        StepState.FAILED: ink.error,
        StepState.RUNNING: ink.accent,
    }.get(state, ink.muted)


def _step(number: int, step: StepView, width: int, ink: Ink) -> list[Line]:
    tone = _step_tone(step.state, ink)
    idle = step.state in (StepState.PENDING, StepState.SKIPPED)
    took = "" if idle else latency(step.duration_s)
    if step.state is StepState.SKIPPED:
        took = "skipped"
    out = LineWriter().put(STEP_SIGNS[step.state], tone).put(f" {number} ", ink.muted)
    name = ink.muted if idle else ink.strong
    out.put(fit(step.title, max(0, width - out.length - len(took) - 2)), name)
    out.to(width - len(took)).put(took, ink.muted)
    lines = [out.line()]
    if not idle:
        for check in step.checks:
            lines += _check(check, width, ink)
    return lines


def _check(check: Check, width: int, ink: Ink) -> list[Line]:
    """One expectation and what was observed; what differs stands out."""
    if check.passed is None:
        sign, tone, seen = "·", ink.muted, ink.accent
    elif check.passed:
        sign, tone, seen = "✓", ink.ok, ink.muted
    else:
        sign, tone, seen = "✗", ink.error, ink.error
    room = max(4, width - INDENT - 2)
    expected = ink.text if check.passed is not True else ink.muted
    observed = clean(check.observed)
    lead = "" if check.passed else "observed: "
    if width >= SIDE_BY_SIDE_FROM:
        left = room * 45 // 100
        lefts = wrapped(check.expected, left)
        rights = wrapped(observed or ("…" if check.passed is None else ""), room - left - 3)
        lines = []
        for row in range(max(len(lefts), len(rights))):
            out = LineWriter().space(INDENT).put(sign if row == 0 else " ", tone).space()
            out.put(fit(lefts[row] if row < len(lefts) else "", left), expected)
            out.put(" │ " if row == 0 else "   ", ink.faint)
            lines.append(out.put(rights[row] if row < len(rights) else "", seen).line())
        return lines
    whole = f"{clean(check.expected)} · {observed}"
    if observed and check.passed and cell_len(whole) <= room:
        out = LineWriter().space(INDENT).put(sign, tone).space().put(clean(check.expected), expected)
        return [out.put(f" · {observed}", seen).line()]
    lines = []
    for row, text in enumerate(wrapped(check.expected, room)):
        out = LineWriter().space(INDENT).put(sign if row == 0 else " ", tone).space()
        lines.append(out.put(text, expected).line())
    if observed:
        for row, text in enumerate(wrapped(lead + observed, room - 2)):
            out = LineWriter().space(INDENT + 2).put("→ " if row == 0 else "  ", seen)
            lines.append(out.put(text, seen).line())
    return lines


class LiveLine(LineView, can_focus=False):
    """Who would answer now and which circuits are open, where there is no room for the accounts."""

    DEFAULT_CSS = """
    LiveLine { height: 1; border: none; padding: 0 1; background: $panel; overflow: hidden; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._snapshot: Snapshot | None = None

    def show(self, snapshot: Snapshot | None) -> None:
        """Draw a snapshot."""
        self._snapshot = snapshot
        self.redraw()

    def line_count(self) -> int:
        """One."""
        return 1

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:  # noqa: ARG002 - a single line
        """The step of the chain that answers, then what is open."""
        snapshot = self._snapshot
        if snapshot is None:
            return LineWriter().put(fit("waiting…", width), ink.muted).line()
        out = LineWriter()
        if snapshot.chains:
            pools = {pool.name: pool for pool in snapshot.pools}
            live = live_step(snapshot.chains[0].pools, pools, snapshot.at)
            out.put("now ", ink.muted).put(
                fit(live or "nobody", min(20, width // 3)).rstrip(), ink.strong
            ).space(3)
        return (*out.line(), *open_now(snapshot, max(0, width - out.length), ink))
