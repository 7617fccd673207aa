"""Pictures of the dashboard at the sizes that must read well, with fixed data and clock."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from smartfallback import DrillScope
from smartfallback_console.app import ConsoleApp
from smartfallback_console.screens.dashboard import Dashboard
from support import console_simulation
from support.console_data import hostile_store, snapshot, stored
from support.console_simulation import ScriptedSimulator, drill, simulation
from support.console_source import ScriptedSource
from support.past_requests import earlier
from support.recovery_data import recovering, stories


class Compare(Protocol):
    def __call__(
        self, app: ConsoleApp, *, terminal_size: tuple[int, int], run_before: object = ...
    ) -> bool: ...


@pytest.fixture(autouse=True)
def _no_user_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))


def still(*keys: str) -> object:
    """Press keys, then look once and stop the cursor's blinking."""

    async def run(pilot: Pilot[None]) -> None:
        await pilot.pause()
        for screen in pilot.app.screen_stack:
            if isinstance(screen, Dashboard):
                screen.look()
        await pilot.press(*keys)
        await pilot.pause()
        for field in pilot.app.screen.query(Input):
            field.cursor_blink = False
        await pilot.pause()

    return run


SIZES = ((80, 24), (120, 40), (200, 60))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("theme", ["harbour-night", "paper"])
def test_dashboard(snap_compare: Compare, size: tuple[int, int], theme: str) -> None:
    app = ConsoleApp(ScriptedSource(), theme=theme, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=size, run_before=still())


def test_confirm_dialog(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(80, 24), run_before=still("o"))


def test_help(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(80, 24), run_before=still("question_mark"))


def test_decision(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(120, 40), run_before=still("3", *["up"] * 5, "enter"))


def test_metrics_alone(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(80, 24), run_before=still("2"))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("theme", ["harbour-night", "paper"])
def test_recovery(snap_compare: Compare, size: tuple[int, int], theme: str) -> None:
    source = ScriptedSource(recovering(), stories())
    app = ConsoleApp(source, theme=theme, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=size, run_before=still("v"))


def test_recovery_with_nothing_to_tell(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(80, 24), run_before=still("v"))


@pytest.mark.parametrize("theme", ["harbour-night", "paper"])
def test_recoveries_in_the_feed(snap_compare: Compare, theme: str) -> None:
    source = ScriptedSource(recovering(), stories())
    app = ConsoleApp(source, theme=theme, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(120, 40), run_before=still("3", "z"))


def test_a_continued_request(snap_compare: Compare) -> None:
    source = ScriptedSource(recovering(), stories())
    app = ConsoleApp(source, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(120, 40), run_before=still("3", *["up"] * 5, "enter"))


RUNS = {
    "idle": simulation(),
    "running": simulation(console_simulation.under_way(), drills=(drill("gemini", DrillScope.PROVIDER),)),
    "passed": simulation(console_simulation.run(run_id="run-9", ago=3.0)),
    "failed": simulation(console_simulation.failed()),
}
"""How a rehearsal can stand."""


def rehearsing(state: str, theme: str = "harbour-night") -> ConsoleApp:
    source = ScriptedSource(simulator=ScriptedSimulator(simulation(RUNS[state].current)))
    assert source.simulator is not None
    if state != "idle":
        source.simulator.now = RUNS["running"]
    return ConsoleApp(source, theme=theme, live=False, clock=lambda: 0.0)


def shown(state: str) -> object:
    """Open the view while the scenario runs, and look again once it is over."""

    async def run(pilot: Pilot[None]) -> None:
        await still("w")(pilot)  # type: ignore[operator]  # what snap_compare takes as an object
        dashboard = next(screen for screen in pilot.app.screen_stack if isinstance(screen, Dashboard))
        source = dashboard.source
        assert isinstance(source, ScriptedSource)
        assert source.simulator is not None
        source.simulator.now = RUNS[state]
        source.snapshot = snapshot(version=2)
        dashboard.look()
        pilot.app.clear_notifications()
        await pilot.pause()

    return run


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", RUNS)
def test_simulation(snap_compare: Compare, state: str, size: tuple[int, int]) -> None:
    assert snap_compare(rehearsing(state), terminal_size=size, run_before=shown(state))


@pytest.mark.parametrize(
    ("state", "size"),
    [("idle", (200, 60)), ("running", (120, 40)), ("passed", (80, 24)), ("failed", (120, 40))],
)
def test_simulation_in_the_light(snap_compare: Compare, state: str, size: tuple[int, int]) -> None:
    assert snap_compare(rehearsing(state, "paper"), terminal_size=size, run_before=shown(state))


def test_faults_on_the_overview(snap_compare: Compare) -> None:
    drills = (drill(), drill("copilot", DrillScope.POOL, drill_id="drill-2", left=20.0, limit=True))
    source = ScriptedSource(simulator=ScriptedSimulator(simulation(drills=drills)))
    app = ConsoleApp(source, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(120, 40), run_before=still())


def test_the_question_before_real_accounts(snap_compare: Compare) -> None:
    source = ScriptedSource(snapshot(simulated=False), simulator=ScriptedSimulator(simulation(confirm=True)))
    app = ConsoleApp(source, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(80, 24), run_before=still("w", "enter"))


def test_the_particulars_of_a_fault(snap_compare: Compare) -> None:
    source = ScriptedSource(snapshot(simulated=False), simulator=ScriptedSimulator(simulation(confirm=True)))
    app = ConsoleApp(source, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(80, 24), run_before=still("b", "enter"))


def test_the_faults_there_are(snap_compare: Compare) -> None:
    source = ScriptedSource(simulator=ScriptedSimulator())
    app = ConsoleApp(source, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(80, 24), run_before=still("b"))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("how", ["redis", "down"])
def test_store(snap_compare: Compare, how: str, size: tuple[int, int]) -> None:
    app = ConsoleApp(ScriptedSource(stored(how)), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=size, run_before=still("n"))


@pytest.mark.parametrize(
    ("how", "size"), [("slow", (120, 40)), ("full disk", (80, 24)), ("redis", (200, 60))], ids=str
)
def test_store_in_the_light(snap_compare: Compare, how: str, size: tuple[int, int]) -> None:
    app = ConsoleApp(ScriptedSource(stored(how)), theme="paper", live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=size, run_before=still("n"))


def test_a_small_terminal_without_the_store(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(stored("down")), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(20, 8), run_before=still("n"))


def test_instances_with_names_from_outside(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(hostile_store()), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(120, 40), run_before=still("n"))


def test_a_lost_store_on_the_overview(snap_compare: Compare) -> None:
    app = ConsoleApp(ScriptedSource(stored("down")), live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(120, 40), run_before=still())


def test_requests_from_before_the_start(snap_compare: Compare) -> None:
    source = ScriptedSource()
    source.past = earlier()
    app = ConsoleApp(source, live=False, clock=lambda: 0.0)
    assert snap_compare(app, terminal_size=(120, 40), run_before=still("3", "z"))
