"""Made-up rehearsals for the console: scenarios, runs in each state, and a simulator that a test moves."""

from __future__ import annotations

from dataclasses import replace

from smartfallback import (
    BurstLimit,
    Check,
    Drill,
    DrillScope,
    DrillTarget,
    DrillView,
    HttpStatus,
    RunState,
    RunView,
    ScenarioView,
    SimulationView,
    StepState,
    StepView,
)
from support.console_data import NOW

AG = tuple(f"ag-{number}" for number in range(1, 9))
COPILOT = ("copilot-work", "copilot-home")


def scenario(
    name: str,
    title: str,
    about: str,
    *steps: str,
    case: int | None = None,
    touches: tuple[str, ...] = AG,
    requests: int = 12,
    lacking: str = "",
    source: str = "",
) -> ScenarioView:
    return ScenarioView(name, title, about, steps, case, source, lacking, requests, touches)


QUOTA_STEPS = (
    "Each antigravity account stands at 82 % of its week",
    "Requests are answered by copilot",
    "A reset lets antigravity answer again",
    "All is as before",
)

SCENARIOS = (
    scenario(
        "malformed-stream",
        "A stream that turns into noise",
        "Half-way through its answer an account sends something unreadable.",
        "The answer is continued by another account",
        touches=("ag-1",),
        requests=4,
    ),
    scenario(
        "all-above-soft-limit",
        "All antigravity accounts above 80 %",
        "Every account of the first pool has used more than the soft limit of its week. Requests go on "
        "to the second pool, and come back as soon as the quota is reset.",
        *QUOTA_STEPS,
        case=1,
    ),
    scenario(
        "api-down",
        "The antigravity API is down",
        "Each call is answered with 500 until the circuit opens; then nobody asks until a probe is due.",
        "Calls fail with 500",
        "The provider's circuit opens",
        "No further tries until half-open",
        "The circuit closes again",
        case=2,
        requests=24,
    ),
    scenario(
        "cli-missing",
        "The Copilot CLI is missing",
        "Its quota can't be read, so 80 % is assumed; the accounts stay usable.",
        "Quota is assumed at 80 %",
        "Both accounts still answer",
        case=3,
        touches=COPILOT,
        requests=6,
    ),
    scenario(
        "rate-limit-during-fallback",
        "A rate limit in the middle of a fallback",
        "antigravity is out, copilot answers 429: opencode answers.",
        "copilot answers 429",
        "opencode answers",
        case=4,
        touches=(*AG, *COPILOT),
        requests=8,
    ),
    scenario(
        "rapid-exhaustion",
        "Accounts run out one after the other",
        "Circuits and walls keep requests from hammering accounts that are used up.",
        "Six accounts hit their wall within a second",
        "Nobody is asked twice",
        case=5,
        requests=40,
    ),
    scenario(
        "all-fail",
        "All providers fail",
        "Nothing is left but the model on this machine.",
        "Every provider fails",
        "The local model answers",
        case=6,
        touches=(*AG, *COPILOT, "opencode"),
        requests=6,
        lacking="the chain has no local model",
    ),
    scenario(
        "thundering-herd",
        "A thundering herd",
        "Fifty requests at once meet an account that has just come back.",
        "Fifty requests are sent at once",
        "The account is not overrun",
        requests=50,
    ),
)

PASSED_STEPS = (
    StepView(
        QUOTA_STEPS[0],
        StepState.PASSED,
        (Check("every account of antigravity is above its soft limit", "8 of 8 at 82.0 %", True),),
        0.02,
    ),
    StepView(
        QUOTA_STEPS[1],
        StepState.PASSED,
        (
            Check("copilot answers", "copilot-work answered 3 of 3", True),
            Check("nobody of antigravity is asked", "0 attempts", True),
        ),
        2.31,
    ),
    StepView(
        QUOTA_STEPS[2],
        StepState.PASSED,
        (Check("an account of antigravity answers", "ag-7 answered in 0.61s", True),),
        0.74,
    ),
    StepView(
        QUOTA_STEPS[3],
        StepState.PASSED,
        (Check("quota, circuits and attention are what they were", "nothing differs", True),),
        0.01,
    ),
)


def run(
    state: RunState = RunState.PASSED,
    steps: tuple[StepView, ...] = PASSED_STEPS,
    *,
    run_id: str = "run-1",
    ago: float = 60.0,
    duration_s: float = 3.08,
    seed: int = 7,
    name: str = "all-above-soft-limit",
    title: str = "All antigravity accounts above 80 %",
    note: str = "",
) -> RunView:
    path = ("ag-1", "copilot-work", "ag-7")
    return RunView(
        run_id, name, title, state, steps, NOW - ago, duration_s, seed, path, "ag-7", 4, 3_412, note
    )


def under_way(number: int = 1) -> RunView:
    """A run whose step ``number``, counted from 0, is not over."""
    steps = tuple(
        step
        if at < number
        else StepView(
            step.title,
            StepState.RUNNING,
            (Check(step.checks[0].expected, "copilot-work answered 1 of 3"), *step.checks[1:0]),
            1.2,
        )
        if at == number
        else StepView(step.title)
        for at, step in enumerate(PASSED_STEPS)
    )
    return replace(
        run(RunState.RUNNING, steps, run_id="run-9", ago=4.0, duration_s=4.2, seed=11),
        path=("ag-1", "copilot-work"),
        answered_by="copilot-work",
        requests=2,
        tokens=1_204,
    )


def failed() -> RunView:
    """A run whose second step saw something else than it should."""
    wrong = StepView(
        QUOTA_STEPS[1],
        StepState.FAILED,
        (
            Check(
                "copilot answers",
                "ag-3 answered 2 of 3 although it stands at 82.0 % of its week, copilot-work 1 of 3",
                False,
            ),
            Check("nobody of antigravity is asked", "2 attempts: ag-3, ag-3", False),
        ),
        2.6,
    )
    skipped = tuple(StepView(title, StepState.SKIPPED) for title in QUOTA_STEPS[2:])
    return run(RunState.FAILED, (PASSED_STEPS[0], wrong, *skipped), run_id="run-9", duration_s=2.7, seed=11)


def drill(
    target: str = "ag-3",
    scope: DrillScope = DrillScope.ACCOUNT,
    *,
    drill_id: str = "drill-1",
    left: float = 43.0,
    hits: int = 2,
    limit: bool = False,
) -> DrillView:
    fault = BurstLimit(30.0) if limit else HttpStatus(503)
    return DrillView(
        drill_id, Drill(DrillTarget(scope, target), fault, duration_s=60.0), NOW - 17, NOW + left, hits
    )


HISTORY = (
    run(ago=400.0),
    run(
        RunState.FAILED,
        failed().steps,
        run_id="run-2",
        ago=900.0,
        seed=3,
        name="api-down",
        title="The antigravity API is down",
    ),
    run(RunState.STOPPED, run_id="run-3", ago=1_800.0, seed=5, note="by the operator"),
)


def simulation(
    current: RunView | None = None,
    *,
    history: tuple[RunView, ...] = HISTORY,
    drills: tuple[DrillView, ...] = (),
    confirm: bool = False,
    mistakes: tuple[str, ...] = (),
    scenarios: tuple[ScenarioView, ...] = SCENARIOS,
) -> SimulationView:
    return SimulationView(scenarios, current, history, drills, confirm, mistakes)


class ScriptedSimulator:
    """Notes what is asked of it; a run goes on and ends when a test says so."""

    def __init__(self, view: SimulationView | None = None) -> None:
        self.now = view or simulation()
        self.asked: list[tuple[object, ...]] = []
        self.refuse = ""

    def view(self) -> SimulationView:
        return self.now

    def start(self, name: str, *, confirmed: bool = False) -> RunView:
        self._note("start", name, confirmed)
        begun = replace(under_way(0), id=f"run-{len(self.asked) + 90}")
        known = next(one for one in self.now.scenarios if one.name == name)
        self.now = replace(self.now, current=replace(begun, scenario=name, title=known.title))
        return self.now.current or begun

    def go_on(self, run: RunView) -> None:
        """The run is where ``run`` is; over, it is in the history."""
        current = self.now.current
        run = replace(run, id=current.id) if current is not None else run
        if run.state is RunState.RUNNING:
            self.now = replace(self.now, current=run)
        else:
            self.now = replace(self.now, current=None, history=(run, *self.now.history))

    def stop(self) -> bool:
        self._note("stop")
        current = self.now.current
        if current is None:
            return False
        self.go_on(replace(current, state=RunState.STOPPED, note="by the operator"))
        return True

    def start_drill(self, drill: Drill) -> DrillView:
        self._note("start_drill", drill)
        view = DrillView(f"drill-{len(self.asked)}", drill, NOW, NOW + drill.duration_s, 0)
        self.now = replace(self.now, drills=(view, *self.now.drills))
        return view

    def stop_drill(self, drill_id: str) -> bool:
        self._note("stop_drill", drill_id)
        kept = tuple(view for view in self.now.drills if view.id != drill_id)
        stopped = len(kept) < len(self.now.drills)
        self.now = replace(self.now, drills=kept)
        return stopped

    def stop_all_drills(self) -> int:
        self._note("stop_all_drills")
        number = len(self.now.drills)
        self.now = replace(self.now, drills=())
        return number

    def _note(self, *what: object) -> None:
        if self.refuse:
            raise ValueError(self.refuse)
        self.asked.append(what)
