"""Runs scenarios and injects faults for the dashboard, whichever way they were asked for."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import DrillScope
from smartfallback_console.dialogs.choose import ChooseDialog
from smartfallback_console.dialogs.rehearse import FaultDialog, RunDialog
from smartfallback_console.drill_words import (
    BY_NAME,
    STOP,
    USUAL_S,
    Typed,
    kinds_for,
    left,
    number_of,
    parse_fault,
    target_of,
    told,
)
from smartfallback_console.formatting import span
from smartfallback_console.proposal import OperatorError
from smartfallback_console.runs import RunWatch, find_scenario, running, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from smartfallback import Drill, DrillTarget, ScenarioView, SimulationView, Snapshot
    from smartfallback_console.proposal import Subject
    from smartfallback_console.screens.dashboard import Dashboard
    from smartfallback_console.screens.operations import Operations, Severity
    from smartfallback_console.system import Simulator

ALL = "all"


class Rehearsals:
    """The dashboard's hands where outages are rehearsed.

    Args:
        dashboard: The screen on whose behalf it acts.
        operations: Tells of what was done, and remembers how to take it back.
    """

    def __init__(self, dashboard: Dashboard, operations: Operations) -> None:
        self._screen = dashboard
        self._operations = operations
        self._watch = RunWatch()

    # Scenarios

    def look(self, view: SimulationView | None) -> None:
        """Tell the verdict of a run that has ended."""
        ended = self._watch.look(view)
        front = self._screen.simulation_view
        if ended is not None and not (front is not None and front.tells_of(ended)):
            severity: Severity = {"passed": "information", "failed": "error"}.get(
                ended.state.value, "warning"
            )  # type: ignore[assignment]  # one of the three
            self._operations.say(verdict(ended), severity)

    def run_or_say(self, name: str) -> None:
        """Run a scenario, telling of a problem by toast."""
        try:
            self.run(name)
        except OperatorError as error:
            self._operations.complain(error)

    def run(self, name: str) -> None:
        """Run a scenario, asking first where real accounts are touched.

        Raises:
            OperatorError: It can't be run now; the message says why.
        """
        view = self._view()
        scenario = find_scenario(view, name)
        if scenario.lacking:
            raise OperatorError(f"{scenario.title} can't run here: {scenario.lacking}")
        under_way = running(view)
        if under_way is not None:
            raise OperatorError(f"{under_way.title} is running; X stops it")
        if view.drills:
            raise OperatorError(
                f"{number_of(len(view.drills))} in force: stop what you started by hand first (B)"
            )
        self._screen.show_simulation()

        def agreed(yes: bool | None) -> None:
            if yes:
                self._start(scenario, confirmed=True)

        if view.confirm:
            self._screen.app.push_screen(RunDialog(scenario), agreed)
        else:
            self._start(scenario, confirmed=False)

    def _start(self, scenario: ScenarioView, *, confirmed: bool) -> None:
        self._screen.run_worker(self._started(scenario, confirmed=confirmed), group="commands")

    async def _started(self, scenario: ScenarioView, *, confirmed: bool) -> None:
        try:
            run = await self._screen.source.simulate(
                lambda simulator: simulator.start(scenario.name, confirmed=confirmed)
            )
        except Exception as error:
            self._operations.say(f"{scenario.title} was not started: {error}", "error")
            return
        self._watch.began(run)
        view = self._screen.simulation_view
        if view is not None:
            view.choose(scenario.name)
            view.tell_of(run)
        self._screen.look()

    def stop_run(self) -> None:
        """End the scenario that runs."""
        self._ask(
            lambda simulator: simulator.stop(),
            "Stopping it",
            lambda stopped: "" if stopped else "No scenario is running.",
        )

    # Faults

    def inject(self, target: str, text: str, *, confirmed: bool) -> None:
        """Carry out ``fault TARGET [FAULT …]`` of the command line.

        Raises:
            OperatorError: The line makes no sense; the message says what would.
        """
        snapshot = self._snapshot()
        view = self._view()
        if target == STOP:
            self.stop_faults(text)
            return
        aim = target_of(target, snapshot)
        if not text:
            self._offer(aim, snapshot, ())
            return
        typed = parse_fault(text)
        if view.confirm and not confirmed:
            self._ask_for_particulars(typed, target, snapshot, ())
        else:
            self._inject(typed.drill(aim))

    def offer_faults(self, subject: Subject) -> None:
        """A list of faults for what is chosen on the dashboard."""
        pool, account = subject.pool, subject.account
        try:
            self._view()
            snapshot = self._snapshot()
            name = pool.name if account is None else account.id
            wider = () if account is None else (pool.name,)
            wider = tuple(dict.fromkeys((*wider, pool.provider_id)))
            self._offer(target_of(name, snapshot), snapshot, tuple(one for one in wider if one != name))
        except OperatorError as error:
            self._operations.complain(error)

    def _offer(self, target: DrillTarget, snapshot: Snapshot, wider: tuple[str, ...]) -> None:
        kinds = kinds_for(target, snapshot)
        choices = [(kind.name, kind.told()) for kind in kinds]

        def chosen(name: str | None) -> None:
            if name is not None:
                typed = Typed(BY_NAME[name], BY_NAME[name].usual, USUAL_S, 1.0)
                self._ask_for_particulars(typed, target.name, snapshot, wider)

        whom = target.name if target.scope is DrillScope.ACCOUNT else str(target)
        self._screen.app.push_screen(ChooseDialog(f"Inject a fault into {whom}", choices, ""), chosen)

    def _ask_for_particulars(
        self, typed: Typed, target: str, snapshot: Snapshot, wider: tuple[str, ...]
    ) -> None:
        def agreed(drill: Drill | None) -> None:
            if drill is not None:
                self._inject(drill)

        tick = self._screen.tick
        real = tick is not None and tick.simulation is not None and tick.simulation.confirm
        self._screen.app.push_screen(FaultDialog(typed, target, snapshot, wider=wider, real=real), agreed)

    def _inject(self, drill: Drill) -> None:
        self._screen.run_worker(self._injected(drill), group="commands")

    async def _injected(self, drill: Drill) -> None:
        try:
            view = await self._screen.source.simulate(lambda simulator: simulator.start_drill(drill))
        except Exception as error:
            self._operations.say(f"No fault was started: {error}", "error")
            return
        title = told(view.drill)
        self._operations.remember(title, lambda: self._ended(view.id))
        self._operations.say(f"↯ {title}, for {span(drill.duration_s)}.  (u or B ends it)", "warning")
        self._screen.look()

    def choose_fault_to_stop(self) -> None:
        """End the only fault, the one under the cursor, or one of a list."""
        view = self._screen.tick.simulation if self._screen.tick is not None else None
        if view is None or not view.drills:
            self._operations.say("No fault is in force.", "warning")
            return
        front = self._screen.simulation_view
        if front is not None and front.chosen_drill:
            self.stop_fault(front.chosen_drill)
            return
        if len(view.drills) == 1:
            self.stop_fault(view.drills[0].id)
            return
        now = self._screen.now()
        choices = [(ALL, f"all {number_of(len(view.drills))}")]
        choices += [(drill.id, f"{told(drill.drill)}, {left(drill, now)} left") for drill in view.drills]

        def chosen(name: str | None) -> None:
            if name is not None:
                self.stop_fault("" if name == ALL else name)

        self._screen.app.push_screen(ChooseDialog("Stop faults", choices, ""), chosen)

    def stop_faults(self, which: str) -> None:
        """Carry out ``fault stop [ID]``.

        Raises:
            OperatorError: None of that id is in force; the message offers the nearest.
        """
        ids = [drill.id for drill in self._view().drills]
        if which and which != ALL and which not in ids:
            near = get_close_matches(which, ids, n=1)
            raise OperatorError(
                f"no fault {which!r} is in force" + (f"; did you mean {near[0]}?" if near else "")
            )
        self.stop_fault("" if which == ALL else which)

    def stop_fault(self, drill_id: str) -> None:
        """End one fault, or all without an id."""
        view = self._screen.tick.simulation if self._screen.tick is not None else None
        if running(view) is not None:
            self._operations.say("These faults belong to the scenario that runs; X stops it.", "warning")
            return
        if drill_id:
            self._screen.run_worker(self._ended(drill_id), group="commands")
            return
        self._ask(
            lambda simulator: simulator.stop_all_drills(),
            "Stopping faults",
            lambda number: f"{number_of(number)} stopped." if number else "No fault is in force.",
        )

    async def _ended(self, drill_id: str) -> None:
        await self._asked(
            lambda simulator: simulator.stop_drill(drill_id),
            "Stopping the fault",
            lambda stopped: "The fault is stopped." if stopped else "The fault is over already.",
        )

    # What they share

    def _ask(self, act: Callable[[Simulator], int], doing: str, words: Callable[[int], str]) -> None:
        self._screen.run_worker(self._asked(act, doing, words), group="commands")

    async def _asked(self, act: Callable[[Simulator], int], doing: str, words: Callable[[int], str]) -> None:
        try:
            result = await self._screen.source.simulate(act)
        except Exception as error:
            self._operations.say(f"{doing} failed: {error}", "error")
            return
        if text := words(result):
            self._operations.say(text)
        self._screen.look()

    def _view(self) -> SimulationView:
        view = self._screen.tick.simulation if self._screen.tick is not None else None
        if view is None:
            raise OperatorError("nothing can be rehearsed here: the core has no simulator")
        return view

    def _snapshot(self) -> Snapshot:
        snapshot = self._screen.snapshot
        if snapshot is None:
            raise OperatorError("the core has not started yet")
        return snapshot
