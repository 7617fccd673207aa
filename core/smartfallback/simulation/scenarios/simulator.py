"""What an operator starts and stops: scenarios, and drills by hand."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from random import Random
from typing import TYPE_CHECKING, Final

from smartfallback.clock import Clock
from smartfallback.simulation.drills.drill import Drill, DrillScope, DrillView
from smartfallback.simulation.scenarios.history import RunHistory
from smartfallback.simulation.scenarios.model import Scenario
from smartfallback.simulation.scenarios.runner import Caps, ScenarioRun, StandIn
from smartfallback.simulation.scenarios.stage import Stage
from smartfallback.simulation.scenarios.views import RunView, ScenarioView, SimulationView

if TYPE_CHECKING:
    from smartfallback.engine.orchestrator import Orchestrator
    from smartfallback.simulation.drills.injector import Injector

Quiet = Callable[[], AbstractAsyncContextManager[None]]
"""A time in which nothing else of a simulation happens."""

LARGEST_SEED: Final = 2**32 - 1
CAPS: Final = Caps()
"""Of a run against configured accounts that names no others."""
_LOOK_S: Final = 0.2


class Simulator:
    """Runs one scenario at a time and drills by hand. On the engine's loop only.

    Args:
        orchestrator: The running system.
        injector: Stands behind its adapters.
        clock: Of the system.
        rng: Draws the seeds of runs that name none.
        scenarios: Those that can be run, by name.
        history: Keeps finished runs over a restart; None remembers them as long as this lasts.
        confirm: Real accounts are asked: runs must be confirmed and are capped, and drills by hand run
            inside a rehearsal, so that nothing of them is kept.
        mistakes: What is wrong with the user's own scenario files.
        quiet: Entered for the time of a run.
        stand_in: A system with a shared store, for scenarios about that where this one has none.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        injector: Injector,
        clock: Clock,
        rng: Random,
        *,
        scenarios: Mapping[str, Scenario],
        history: RunHistory | None = None,
        confirm: bool,
        mistakes: tuple[str, ...] = (),
        quiet: Quiet | None = None,
        stand_in: StandIn | None = None,
    ) -> None:
        self._orchestrator = orchestrator
        self._injector = injector
        self._clock = clock
        self._rng = rng
        self._scenarios = scenarios
        self._history = history or RunHistory()
        self._confirm = confirm
        self._mistakes = mistakes
        self._quiet: Quiet = quiet or nullcontext
        self._stand_in = stand_in
        self._stage = Stage.of(orchestrator, injector)
        self._begun = 0
        self._run: ScenarioRun | None = None
        self._task: asyncio.Task[None] | None = None
        self._by_hand: dict[str, tuple[str, ...]] = {}
        self._rehearsals: dict[str, ExitStack] = {}
        self._watching: asyncio.Task[None] | None = None
        self._known: tuple[ScenarioView, ...] = ()
        self._known_at = -1.0
        self._view: SimulationView | None = None
        self._changed_at = -1

    # -- reading ----------------------------------------------------------------------------

    def view(self) -> SimulationView:
        """How everything stands; the same object as before while nothing has changed."""
        drills = self._injector.active()
        now = self._clock.monotonic()
        run = self._run
        stale = now - self._known_at >= 1.0
        changed_at = -1 if run is None else run.version
        view = self._view
        if (
            view is not None
            and not stale
            and changed_at == self._changed_at
            and view.drills == drills
            and not self.running
        ):
            return view
        if stale:
            self._known, self._known_at = self._scenario_views(), now
        fresh = SimulationView(
            self._known,
            None if run is None else run.progress(),
            self._history.runs,
            drills,
            self._confirm,
            self._mistakes + ((self._history.problem,) if self._history.problem else ()),
        )
        self._changed_at = changed_at
        if view is None or fresh != view:
            self._view = fresh
        return self._view or fresh

    @property
    def running(self) -> bool:
        """Whether a scenario runs."""
        return self._task is not None

    def _scenario_views(self) -> tuple[ScenarioView, ...]:
        snapshot = self._orchestrator.snapshot()
        return tuple(
            ScenarioView(
                scenario.name,
                scenario.title,
                scenario.about,
                tuple(step.title for step in scenario.steps),
                scenario.edge_case,
                scenario.source,
                "" if self.running or self._elsewhere(scenario) else self._stage.lacking(scenario, snapshot),
                scenario.most_requests,
                self._stage.touched(scenario, snapshot),
            )
            for scenario in self._scenarios.values()
        )

    def _elsewhere(self, scenario: Scenario) -> StandIn | None:
        """Where the scenario is played in place of here, None if it is played here."""
        return self._stand_in if scenario.needs_store and self._injector.store is None else None

    # -- scenarios --------------------------------------------------------------------------

    def start(
        self, name: str, *, seed: int | None = None, caps: Caps | None = None, confirmed: bool = False
    ) -> RunView:
        """Begin to run a scenario.

        Args:
            name: Which one.
            seed: Of its random choices; drawn if there is none.
            caps: What it may send. Against configured accounts there always are some.
            confirmed: The operator has typed that real accounts may be asked.

        Raises:
            ValueError: It can't begin; in a sentence.
        """
        scenario = self._scenarios.get(name)
        if scenario is None:
            close = difflib.get_close_matches(name, self._scenarios, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"there is no scenario {name!r}{hint}")
        if self.running and self._run is not None:
            raise ValueError(f"{self._run.progress().scenario} is running; stop it first")
        if self._injector.active():
            raise ValueError("faults are in force that were started by hand; stop them first")
        if seed is not None and not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"a seed is from 0 to {LARGEST_SEED}, not {seed}")
        if self._confirm and not confirmed:
            raise ValueError("this asks the configured accounts; confirm that first")
        seed = self._rng.randrange(LARGEST_SEED + 1) if seed is None else seed
        if self._confirm and caps is None:
            caps = CAPS
        run = ScenarioRun(
            scenario,
            self._stage,
            seed=seed,
            caps=caps,
            run_id=f"rehearsal-{self._begun + 1}",
            stand_in=self._elsewhere(scenario),
        )
        run.check()
        self._begun += 1
        self._run = run
        task = asyncio.get_running_loop().create_task(self._play(run), name="smartfallback-scenario")
        # One that is stopped before its first step never gets to an end of its own.
        task.add_done_callback(lambda _: self._ended(run))
        self._task = task
        return run.progress()

    def stop(self) -> bool:
        """End the running scenario; False if none runs. All is put back before :meth:`wait` returns."""
        if self._task is None:
            return False
        self._task.cancel()
        return True

    async def wait(self) -> RunView | None:
        """The run of now once it is over, or else the one before it; None before any."""
        task = self._task
        if task is not None:
            await asyncio.wait((task,))
        return None if self._run is None else self._run.progress()

    async def _play(self, run: ScenarioRun) -> None:
        try:
            async with self._quiet():
                await run.run()
        except ValueError as error:
            run.refused(str(error))

    def _ended(self, run: ScenarioRun) -> None:
        run.refused("stopped")  # says nothing of one that has its verdict
        self._task = None
        self._history.add(run.progress())

    # -- drills by hand ---------------------------------------------------------------------

    def start_drill(self, drill: Drill) -> DrillView:
        """Put a fault in force until it ends by itself or is stopped.

        Raises:
            ValueError: It can't be, or a scenario runs; in a sentence.
        """
        if self.running:
            raise ValueError("a scenario is running; stop it first")
        view = self._injector.start(drill)
        providers = self._providers(drill)
        try:
            self._hold(providers)
        except ValueError:
            self._injector.stop(view.id)
            self._let_go()
            raise
        self._by_hand[view.id] = providers
        if self._confirm and self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(
                self._watch(), name="smartfallback-drills"
            )
        return view

    def stop_drill(self, drill_id: str) -> bool:
        """End a fault that was started by hand; False if there is none of that id."""
        if drill_id not in self._by_hand:
            return False
        stopped = self._injector.stop(drill_id)
        self._let_go()
        return stopped

    def stop_all_drills(self) -> int:
        """End all faults that were started by hand; how many there were."""
        stopped = sum([self._injector.stop(drill_id) for drill_id in self._by_hand])
        self._let_go()
        return stopped

    def _providers(self, drill: Drill) -> tuple[str, ...]:
        scope, name = drill.target
        return tuple(
            dict.fromkeys(
                pool.provider_id
                for pool in self._orchestrator.spec.pools
                if name
                in {
                    DrillScope.PROVIDER: (pool.provider_id,),
                    DrillScope.POOL: (pool.name,),
                    DrillScope.ACCOUNT: tuple(account.id for account in pool.accounts),
                    DrillScope.STORE: (),
                }[scope]
            )
        )

    def _hold(self, providers: tuple[str, ...]) -> None:
        """Rehearse with these providers, unless that is being done."""
        for provider in providers if self._confirm else ():
            if provider not in self._rehearsals:
                with ExitStack() as stack:
                    stack.enter_context(self._orchestrator.rehearsal((), (provider,)))
                    self._rehearsals[provider] = stack.pop_all()

    def _let_go(self) -> None:
        """End the rehearsals of providers that no fault is left for."""
        active = {view.id for view in self._injector.active()}
        self._by_hand = {name: held for name, held in self._by_hand.items() if name in active}
        needed = {provider for held in self._by_hand.values() for provider in held}
        for provider in [each for each in self._rehearsals if each not in needed]:
            self._rehearsals.pop(provider).close()

    async def _watch(self) -> None:
        try:
            while self._by_hand:
                await asyncio.sleep(_LOOK_S)
                self._let_go()
        finally:
            self._watching = None

    async def aclose(self) -> None:
        """Stop the run and all drills by hand; all is as it was before. Safe to call twice."""
        self.stop()
        await self.wait()
        self.stop_all_drills()
        watching = self._watching
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
