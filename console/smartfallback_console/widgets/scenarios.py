"""What can be rehearsed, which faults are in force, and the history of runs, with a cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from smartfallback import DrillView, RunState, RunView, ScenarioView
from smartfallback_console.drill_words import DRILL_SIGN, left, told
from smartfallback_console.formatting import cell_len, clean, clock_time, count, fit, latency
from smartfallback_console.runs import (
    LACKING_SIGN,
    NEVER_SIGN,
    RUN_SIGNS,
    key_of,
    latest_runs,
    ordered,
    running,
)
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events

    from smartfallback import SimulationView
    from smartfallback_console.ink import Ink

NO_SIMULATOR = "Nothing can be rehearsed here: the core has no simulator."
NO_SCENARIOS = "There are no scenarios."
NOTHING_RUN = "Nothing was run yet. Each run's verdict is kept here."
NAMED_FROM = 56
"""Cells from which a scenario's name stands beside its title."""
SEED_FROM = 70
"""Cells from which a run's line has its seed; the head and the details always do."""

Row = ScenarioView | DrillView | RunView | str | None
"""A scenario, a fault in force, a run, a line of words (a heading when it ends in a colon), or a gap."""


def tone_of(state: RunState, ink: Ink) -> Style:
    """The colour of a run's state."""
    return {RunState.PASSED: ink.ok, RunState.FAILED: ink.error, RunState.RUNNING: ink.accent}.get(
        state, ink.muted
    )


class ScenarioList(LineView):
    """Scenarios first, then faults in force, then finished runs, newest first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move(-10)", "Page up", show=False),
        Binding("pagedown", "move(10)", "Page down", show=False),
        Binding("home,g", "move(-100000)", "First", show=False),
        Binding("end,G", "move(100000)", "Last", show=False),
        Binding("enter", "choose", "Run", id="choose_row"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    """The line of the cursor."""

    class Chosen(Message):
        """The operator entered a row: run it, stop it, or tell all of it."""

        def __init__(self, row: ScenarioView | DrillView | RunView) -> None:
            super().__init__()
            self.row = row

    class Moved(Message):
        """The cursor stands on something else."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Scenarios"
        self._view: SimulationView | None = None
        self._now = 0.0
        self._rows: list[Row] = []
        self._last: dict[str, RunView] = {}

    def show(self, view: SimulationView | None, now: float) -> None:
        """Draw how rehearsals stand; the cursor stays on what it stands on."""
        chosen = _key(self.chosen)
        self._view, self._now = view, now
        self._rows = rows(view)
        self._last = {}
        for run in latest_runs(view) if view is not None else ():
            self._last.setdefault(run.scenario, run)
        places = self._places()
        kept = next((at for at in places if _key(self._rows[at]) == chosen), None) if chosen else None
        nearest = min(places, key=lambda at: abs(at - self.cursor), default=0)
        self.cursor = nearest if kept is None else kept
        self.redraw()

    @property
    def chosen(self) -> ScenarioView | DrillView | RunView | None:
        """What the cursor stands on."""
        row = self._rows[self.cursor] if self.cursor < len(self._rows) else None
        return None if isinstance(row, str) else row

    def choose_scenario(self, name: str) -> None:
        """Put the cursor on a scenario."""
        for at, row in enumerate(self._rows):
            if isinstance(row, ScenarioView) and row.name == name:
                self.cursor = at

    def _places(self) -> list[int]:
        return [at for at, row in enumerate(self._rows) if row is not None and not isinstance(row, str)]

    def line_count(self) -> int:
        """One line a row."""
        return max(1, len(self._rows))

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """A heading, a scenario, a fault, or a run."""
        row = self._rows[index] if index < len(self._rows) else None
        match row:
            case ScenarioView():
                return scenario_line(row, self._last.get(row.name), running(self._view), width, ink)
            case DrillView():
                return drill_line(row, width, self._now, ink)
            case RunView():
                return run_line(row, width, ink)
            case None:
                return ()
        tone = ink.heading if row.endswith(":") else ink.error if row.startswith("✕") else ink.muted
        return LineWriter().put(fit(row.removesuffix(":"), width), tone).line()

    def line_background(self, index: int, ink: Ink) -> Style | None:
        """The cursor's line."""
        if index == self.cursor and self.chosen is not None:
            return ink.selected if self.has_focus else ink.selected_idle
        return None

    def watch_cursor(self, old: int, new: int) -> None:
        """Repaint both lines, keep the cursor in sight, and the heading above the first with it."""
        self.repaint_line(old)
        self.repaint_line(new)
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        above = 0 if new == next(iter(self._places()), 0) else max(0, new - 1)
        if height > 0 and new < top + 1:
            self.scroll_to(y=above, animate=False)
        elif height > 0 and new >= top + height:
            self.scroll_to(y=new - height + 1, animate=False)
        self.post_message(self.Moved())

    def on_focus(self) -> None:
        """The cursor is brighter with the focus."""
        self.repaint_line(self.cursor)

    def on_blur(self) -> None:
        """The cursor is fainter without the focus."""
        self.repaint_line(self.cursor)

    def action_move(self, step: int) -> None:
        """Move the cursor by so many rows that can be chosen."""
        places = self._places()
        if places:
            at = places.index(self.cursor) if self.cursor in places else 0
            self.cursor = places[max(0, min(len(places) - 1, at + step))]

    def action_choose(self) -> None:
        """Ask for what a row stands for."""
        if self.chosen is not None:
            self.post_message(self.Chosen(self.chosen))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor; a second click chooses."""
        inside = event.get_content_offset(self)
        at = -1 if inside is None else inside.y + self.scroll_offset.y
        if at in self._places():
            self.cursor = at
            if event.chain >= 2:
                self.action_choose()


def _key(row: Row) -> tuple[str, object] | None:
    match row:
        case ScenarioView():
            return "scenario", row.name
        case DrillView():
            return "drill", row.id
        case RunView():
            return "run", key_of(row)
    return None


def rows(view: SimulationView | None) -> list[Row]:
    """What the list tells, line by line."""
    if view is None:
        return [NO_SIMULATOR]
    scenarios = ordered(view.scenarios)
    cases = [scenario for scenario in scenarios if scenario.edge_case is not None]
    others = [scenario for scenario in scenarios if scenario.edge_case is None]
    told: list[Row] = []
    for heading, part in (("Edge cases:", cases), ("More scenarios:", others)):
        if part:
            told += [*([None] if told else []), heading, *part]
    if not scenarios:
        told.append(NO_SCENARIOS)
    if view.mistakes:
        told += [None, "Mistakes in your scenario files:", *(f"✕ {line}" for line in _lines(view.mistakes))]
    if view.drills:
        told += [None, "Faults in force:", *view.drills]
    return [*told, None, "History:", *(view.history or (NOTHING_RUN,))]


def _lines(texts: tuple[str, ...]) -> list[str]:
    return [clean(line) for text in texts for line in text.splitlines() if line.strip()]


def scenario_line(
    scenario: ScenarioView, last: RunView | None, under_way: RunView | None, width: int, ink: Ink
) -> Line:
    """Verdict of the last run, number, title, name."""
    out, tail = LineWriter(), LineWriter()
    if under_way is not None and under_way.scenario == scenario.name:
        sign, tone = RUN_SIGNS[under_way.state], ink.accent
    elif scenario.lacking:
        sign, tone = LACKING_SIGN, ink.muted
    elif last is not None:
        sign, tone = RUN_SIGNS[last.state], tone_of(last.state, ink)
    else:
        sign, tone = NEVER_SIGN, ink.muted
    number = "" if scenario.edge_case is None else count(scenario.edge_case)
    out.put(sign, tone).space().put(fit(number, 2, "right"), ink.accent).space()
    if width >= NAMED_FROM:
        tail.put(fit(scenario.name, min(28, width * 2 // 5), "right"), ink.muted)
    room = width - out.length - tail.length - (2 if tail.length else 0)
    out.put(fit(scenario.title, room), ink.muted if scenario.lacking else ink.text)
    out.to(width - tail.length)
    return (*out.line(), *tail.line())


def drill_line(view: DrillView, width: int, now: float, ink: Ink) -> Line:
    """What, to whom, how many calls have met it, how long it lasts."""
    tail = LineWriter().put(f"{count(view.hits)} hit{'' if view.hits == 1 else 's'}", ink.muted).space(2)
    tail.put(fit(left(view, now), 5, "right"), ink.warning)
    out = LineWriter().put(f"{DRILL_SIGN} ", ink.accent)
    out.put(fit(told(view.drill), max(0, width - out.length - tail.length - 2)), ink.text)
    out.to(width - tail.length)
    return (*out.line(), *tail.line())


def run_line(run: RunView, width: int, ink: Ink) -> Line:
    """When, verdict, what, where it failed, how long it took, and its seed."""
    out, tail = LineWriter(), LineWriter()
    out.put(RUN_SIGNS[run.state], tone_of(run.state, ink)).space()
    out.put(clock_time(run.started_at), ink.muted).space(2)
    tail.put(fit(latency(run.duration_s), 6, "right"), ink.muted)
    seed = f"seed {run.seed}"
    if width >= SEED_FROM and len(seed) <= 24:
        tail.space(2).put(fit(seed, 15, "right"), ink.muted)
    room = max(0, width - out.length - tail.length - 2)
    name = clean(run.title or run.scenario)
    failed = clean(run.failed_step)
    title = min(cell_len(name), room if not failed else max(room // 2, room - cell_len(failed) - 3))
    out.put(fit(name, title), ink.text)
    if failed and room - title > 6:
        out.put(fit(f" ✗ {failed}", room - title), ink.error)
    out.to(width - tail.length)
    return (*out.line(), *tail.line())
