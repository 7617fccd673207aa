"""The simulation view: pick a scenario, watch its steps beside the live panels, read the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType

from smartfallback import DrillView, RunView, ScenarioView
from smartfallback_console.actions import BY_ID, bindings
from smartfallback_console.dialogs.run_details import run_dialog
from smartfallback_console.runs import key_of, latest_runs, running
from smartfallback_console.screens.view import View
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.footer import KeyBar
from smartfallback_console.widgets.prompt import Prompt
from smartfallback_console.widgets.routing_feed import RoutingFeed
from smartfallback_console.widgets.run import LiveLine, RunHead, RunSteps
from smartfallback_console.widgets.scenarios import ScenarioList
from smartfallback_console.widgets.simulation_layout import SimulationArea

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult

    from smartfallback import SimulationView
    from smartfallback_console.feed import Tick
    from smartfallback_console.screens.dashboard import Dashboard


class SimulationScreen(View):
    """Scenarios and history, the run, and the accounts and requests that it moves; to look at."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("w,6,q", "dismiss", "Back", show=False),
        *bindings([BY_ID["recovery"], BY_ID["store"]]),
    ]

    DEFAULT_CSS = """
    SimulationScreen.-single SimulationArea > * { border: none; }
    """

    def __init__(self, dashboard: Dashboard) -> None:
        super().__init__(dashboard)
        self._run_id: str | None = None
        """The run that is told of, whatever the cursor stands on."""
        self._under_way: str | None = None
        self._can_stop = (False, False)
        self._chosen: str = ""

    def compose_body(self) -> ComposeResult:
        """List, run, and live panels."""
        with SimulationArea(id="simulation"):
            yield ScenarioList(id="scenarios")
            yield RunHead(id="run-head")
            yield RunSteps(id="run-steps")
            yield LiveLine(id="live")
            yield AccountsTable(id="live-accounts")
            yield RoutingFeed(self.dashboard.routing, id="live-routing")

    @property
    def simulation(self) -> SimulationView | None:
        """How rehearsals stand in what is on the screen."""
        return self.dashboard.tick.simulation if self.dashboard.tick is not None else None

    @property
    def chosen_drill(self) -> str:
        """The fault under the cursor, by id; empty for none."""
        row = self.query_one(ScenarioList).chosen
        return row.id if isinstance(row, DrillView) else ""

    def tells_of(self, run: RunView) -> bool:
        """Whether the run's verdict stands on the screen."""
        if not self.ready:
            return False
        area = self.query_one(SimulationArea)
        return self.is_current and self._run_id == run.id and (area.steps or not area.single)

    def take_focus(self) -> None:
        """Focus the list, or the steps where they fill the screen."""
        area = self.query_one(SimulationArea)
        # At once, not when the app gets round to it: keys typed ahead belong to the list.
        self.set_focus(self.query_one(RunSteps if area.steps and area.single else ScenarioList))

    def choose(self, name: str) -> None:
        """Put the cursor on a scenario."""
        if not self.ready:
            return
        listed = self.query_one(ScenarioList)
        listed.choose_scenario(name)
        self._chosen = _name(listed.chosen)

    def tell_of(self, run: RunView) -> None:
        """Show a run's steps, on a small screen in place of the list."""
        self._run_id = run.id
        if self.ready:
            self._bring_steps()

    def _bring_steps(self) -> None:
        self.query_one(RunSteps).following = True
        area = self.query_one(SimulationArea)
        area.steps = True
        if area.single:
            self.set_focus(self.query_one(RunSteps))

    def show(self, tick: Tick) -> None:
        """Draw how rehearsals stand, and the live panels."""
        view = tick.simulation
        listed = self.query_one(ScenarioList)
        listed.show(view, tick.at)
        if not self._chosen:
            self._chosen = _name(listed.chosen)
            if self._run_id is not None:
                self._bring_steps()
        under_way = running(view)
        if under_way is not None and under_way.id != self._under_way:
            self.choose(under_way.scenario)
            self.tell_of(under_way)
        self._under_way = under_way.id if under_way is not None else None
        can_stop = (self._under_way is not None, view is not None and bool(view.drills))
        if can_stop != self._can_stop:
            self._can_stop = can_stop
            self.refresh_bindings()
        self._show_subject()
        drills = view.drills if view is not None else ()
        self.query_one(LiveLine).show(tick.snapshot)
        table = self.query_one(AccountsTable)
        table.show(tick.snapshot, drills)
        self.query_one(SimulationArea).account_lines = table.line_count() + 2
        self.query_one(RoutingFeed).show()

    def _show_subject(self) -> None:
        view = self.simulation
        subject: RunView | ScenarioView | None = None
        last: RunView | None = None
        runs = latest_runs(view) if view is not None else ()
        chosen = self.query_one(ScenarioList).chosen
        if self._run_id is not None:
            subject = next((run for run in runs if run.id == self._run_id), None)
        if subject is None and isinstance(chosen, ScenarioView):
            subject = chosen
            last = next((run for run in runs if run.scenario == chosen.name), None)
        elif subject is None and isinstance(chosen, RunView):
            subject = chosen
        self.query_one(RunHead).show(subject, last)
        self.query_one(RunSteps).show(subject)

    def words(self, tick: Tick) -> dict[str, str]:
        """What enter does to the row under the cursor."""
        row = self.query_one(ScenarioList).chosen
        enter = (
            "Run" if isinstance(row, ScenarioView) else "Stop it" if isinstance(row, DrillView) else "Details"
        )
        if isinstance(row, ScenarioView | DrillView) and (
            self.dashboard.READ_ONLY or self._is_under_way(row)
        ):
            enter = "Steps"
        return {**super().words(tick), "choose_row": enter}

    def on_resize(self, event: events.Resize) -> None:  # noqa: ARG002 - Textual's signature
        """Other parts may be in sight."""
        self.call_after_refresh(self._arrange)

    def _arrange(self) -> None:
        area = self.query_one(SimulationArea)
        grown = self.has_class("-single") and not area.single
        self.set_class(area.single, "-single")
        for widget in (self.query_one(AccountsTable), self.query_one(RoutingFeed)):
            widget.display = not area.single
        if self.query_one(Prompt).is_open:
            return  # the line being typed keeps the focus
        lost = area.single and not isinstance(self.focused, ScenarioList | RunSteps)
        if lost or (grown and isinstance(self.focused, RunSteps)):
            self.take_focus()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Where there is room for list or steps, the focused one is shown."""
        if isinstance(event.widget, ScenarioList | RunSteps):
            self.query_one(SimulationArea).steps = isinstance(event.widget, RunSteps)

    @on(ScenarioList.Moved)
    def moved(self) -> None:
        """Tell of what the cursor stands on now."""
        row = self.query_one(ScenarioList).chosen
        if _name(row) == self._chosen:
            return
        self._chosen = _name(row)
        under_way = running(self.simulation)
        same = under_way is not None and isinstance(row, ScenarioView) and row.name == under_way.scenario
        self._run_id = under_way.id if same and under_way is not None else None
        self._show_subject()
        if self.dashboard.tick is not None:
            self.query_one(KeyBar).rename(self.words(self.dashboard.tick))

    @on(ScenarioList.Chosen)
    def chosen(self, event: ScenarioList.Chosen) -> None:
        """Run a scenario, stop a fault, or tell a run in full."""
        event.stop()
        row = event.row
        if isinstance(row, RunView):
            self.app.push_screen(run_dialog(row))
        elif self.dashboard.READ_ONLY or self._is_under_way(row):
            self.query_one(RunSteps).focus()
        elif isinstance(row, DrillView):
            self.dashboard.operations.rehearsals.stop_fault(row.id)
        else:
            self.dashboard.operations.rehearsals.run_or_say(row.name)

    def _is_under_way(self, row: ScenarioView | DrillView) -> bool:
        under_way = running(self.simulation)
        return isinstance(row, ScenarioView) and under_way is not None and under_way.scenario == row.name

    @on(AccountsTable.Inspected)
    def inspect(self, event: AccountsTable.Inspected) -> None:
        """The details of an account or a pool."""
        event.stop()
        self.dashboard.inspect(event)

    @on(AccountsTable.CursorMoved)
    def account_chosen(self, event: AccountsTable.CursorMoved) -> None:
        """Actions concern what is chosen in front."""
        event.stop()
        table = self.query_one(AccountsTable)
        if table.has_focus:
            self.dashboard.query_one(AccountsTable).select(table.selected)

    @on(RoutingFeed.Opened)
    def open_entry(self, event: RoutingFeed.Opened) -> None:
        """The full story of a request."""
        event.stop()
        self.dashboard.open_entry(event)

    def action_back(self) -> None:
        """Escape: on a small screen from the steps to the list, then out."""
        area = self.query_one(SimulationArea)
        if area.single and area.steps:
            area.steps = False
            self.query_one(ScenarioList).focus()
        else:
            self.dismiss()


class OperatorSimulationScreen(SimulationScreen):
    """The simulation view with what runs scenarios and starts and stops faults."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            replace(binding, description="Stop", show=True)
            for binding in bindings([BY_ID["stop_simulation"]])
        ),
        *bindings([BY_ID["fault"]]),
        *(
            replace(binding, description="Stop faults", show=True)
            for binding in bindings([BY_ID["stop_faults"]])
        ),
        *bindings([BY_ID["undo"]]),
    ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What can be stopped only while it lasts."""
        view = self.simulation
        if action == "operate" and parameters == ("stop_simulation",):
            return running(view) is not None
        if action == "operate" and parameters == ("stop_faults",):
            return view is not None and bool(view.drills) and running(view) is None
        return super().check_action(action, parameters)


def _name(row: ScenarioView | DrillView | RunView | None) -> str:
    """What tells a row from all others."""
    match row:
        case ScenarioView():
            return f"scenario {row.name}"
        case DrillView():
            return f"drill {row.id}"
        case RunView():
            return f"run {key_of(row)}"
    return ""
