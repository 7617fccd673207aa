"""The simulation view: pick, confirm, run, watch, stop, read the verdict and the history."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.widgets import Input

from smartfallback import Check, DrillScope, HttpStatus, RunState, RunView, StepState, StepView
from smartfallback_console.dialogs.details import DetailsDialog
from smartfallback_console.dialogs.rehearse import RunDialog
from smartfallback_console.screens.recovery import RecoveryScreen
from smartfallback_console.screens.simulation import SimulationScreen
from smartfallback_console.screens.view import View
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.run import RunSteps
from smartfallback_console.widgets.scenarios import ScenarioList
from smartfallback_console.widgets.simulation_layout import SimulationArea
from smartfallback_console.widgets.tabs import PaneTabs
from support import console_simulation as made
from support.console import Console, Opener
from support.console_data import events, hostile_snapshot, snapshot
from support.console_simulation import ScriptedSimulator, drill, simulation
from support.console_source import ScriptedSource

SIZES = ((80, 24), (120, 40), (200, 60))
EACH_SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
HOSTILE = (
    "[/bold][@click=app.quit]x[/]",
    "👩‍💻 émoji-café",
    "حساب\u202eevil",
    "n" * 400,
    "ctrl\x1b[2J\x07\x00\nnew",
    "\\[",
)
PASSED = made.run(run_id="over", ago=3.0)


def source(simulator: ScriptedSimulator | None = None) -> ScriptedSource:
    return ScriptedSource(simulator=simulator or ScriptedSimulator())


def simulator_of(running: Console) -> ScriptedSimulator:
    assert running.source.simulator is not None
    return running.source.simulator


@EACH_SIZE
async def test_two_keys_run_edge_case_1_and_its_verdict_comes_by_itself(
    console: Opener, size: tuple[int, int]
) -> None:
    async with console(source(), size=size) as running:
        await running.press("w", "enter")
        simulator = simulator_of(running)
        assert simulator.asked == [("start", "all-above-soft-limit", False)]
        assert "▶ RUNNING" in running.screen_text()
        simulator.go_on(made.under_way(2))
        await running.look()
        text = running.screen_text()
        assert "✓ 2 Requests are answered by copilot" in text
        assert "● 3 A reset lets antigravity answer again" in text
        assert "○ 4 All is as before" in text
        assert "ag-1 → copilot-work" in text
        simulator.go_on(PASSED)
        await running.look()
        text = running.screen_text()
        assert "✓ PASSED" in text
        assert "3.08s" in text
        assert "4 of 4 steps passed" in text
        assert "✓ ag-7" in text


@EACH_SIZE
async def test_a_run_that_fails_names_the_step_and_what_was_observed(
    console: Opener, size: tuple[int, int]
) -> None:
    async with console(source(), size=size) as running:
        await running.press("w", "enter")
        simulator_of(running).go_on(made.failed())
        await running.look()
        text = running.screen_text()
        assert "✗ FAILED" in text
        assert "✗ Requests are answered by copilot: ag-3 answered 2 of 3" in text
        assert "✗ 2 Requests are answered by copilot" in text
        assert "✗ nobody of antigravity is asked" in text
        assert "2 attempts: ag-3, ag-3" in text
        assert text.count("skipped") == 2


@EACH_SIZE
async def test_what_happens_stays_in_sight_while_it_runs(console: Opener, size: tuple[int, int]) -> None:
    async with console(source(), size=size) as running:
        await running.press("w", "enter")
        text = running.screen_text()
        assert "open now" in text if size[1] == 24 else "3 failures in 300 s" in text
        assert ("Routing" in text) == (size[0] == 200)


async def test_the_view_is_reached_by_key_number_tab_palette_and_command(console: Opener) -> None:
    async with console(source(), size=(80, 24)) as running:
        for way in ("w", "6"):
            await running.press(way)
            assert isinstance(running.app.screen, SimulationScreen)
            await running.press(way)
            assert not isinstance(running.app.screen, View)
        running.dashboard.query_one(PaneTabs).post_message(PaneTabs.Chosen("simulation"))
        await running.press("f12")
        assert isinstance(running.app.screen, SimulationScreen)
        await running.press("escape")
        for line in ("simulation", "simulate"):
            await running.command(line)
            assert isinstance(running.app.screen, SimulationScreen)
            await running.press("escape")
        assert simulator_of(running).asked == []
        await running.press("ctrl+p")
        await running.type("simulate api-down")
        await running.pilot.pause(0.3)
        await running.press("enter")
        await running.pilot.pause(0.1)
        assert simulator_of(running).asked == [("start", "api-down", False)]


@pytest.mark.parametrize("line", ["simulate api-down", "simulate 2"])
async def test_the_command_line_runs_a_scenario_by_name_or_number(console: Opener, line: str) -> None:
    async with console(source()) as running:
        await running.command(line)
        assert simulator_of(running).asked == [("start", "api-down", False)]
        assert isinstance(running.app.screen, SimulationScreen)
        assert "▶ RUNNING" in running.screen_text()


async def test_a_wrong_name_is_said_with_the_nearest(console: Opener) -> None:
    async with console(source()) as running:
        await running.command("simulate api-dwon")
        assert "There is no scenario 'api-dwon'; did you mean api-down?" in running.screen_text()
        await running.press("escape", "colon")
        await running.type("simulate api")
        await running.press("tab", "enter")
        assert simulator_of(running).asked == [("start", "api-down", False)]


async def test_it_is_stopped_in_mid_run_from_any_screen(console: Opener) -> None:
    async with console(source()) as running:
        await running.press("w", "enter", "X")
        assert simulator_of(running).asked[-1] == ("stop",)
        assert "■ STOPPED" in running.screen_text()
        assert "▲ by the operator" in running.screen_text()
        await running.press("home", "enter", "escape")
        assert not isinstance(running.app.screen, View)
        assert "▶ All antigravity accounts ab… 1/4" in running.screen_text()
        await running.press("X")
        assert simulator_of(running).asked[-1] == ("stop",)
        assert any(toast.startswith("■ All antigravity accounts above 80 %") for toast in running.toasts())
        await running.command("stop")
        assert "No scenario is running." in running.toasts()


@pytest.mark.parametrize("keys", [("escape",), ("v",), ("escape", "4")])
async def test_elsewhere_a_badge_tells_of_the_run_and_a_toast_of_its_verdict(
    console: Opener, keys: tuple[str, ...]
) -> None:
    async with console(source(), size=(80, 24)) as running:
        await running.press("w", "enter", "escape", *keys)
        simulator_of(running).go_on(made.under_way(2))
        await running.look()
        assert "▶ 3/4" in running.screen_text()
        simulator_of(running).go_on(made.failed())
        await running.look()
        await running.look()
        told = [toast for toast in running.toasts() if "failed at" in toast]
        assert told == [
            "✗ All antigravity accounts above 80 %: failed at “Requests are answered by copilot” after 2.70s."
        ]


async def test_a_run_too_short_to_be_seen_running_is_told_all_the_same(console: Opener) -> None:
    class Hasty(ScriptedSimulator):
        def start(self, name: str, *, confirmed: bool = False) -> RunView:
            begun = super().start(name, confirmed=confirmed)
            self.go_on(PASSED)
            return begun

    for way in ("w", "command"):
        async with console(source(Hasty()), size=(80, 24)) as running:
            await (running.press("w", "enter") if way == "w" else running.command("simulate 1"))
            assert "✓ PASSED" in running.screen_text()
            assert "✓ 4 All is as before" in running.screen_text()


async def test_ids_that_begin_anew_with_each_process_mix_up_no_runs(console: Opener) -> None:
    old = replace(made.run(RunState.FAILED, ago=90_000.0, seed=4), id="run-91")
    async with console(source(ScriptedSimulator(simulation(history=(old,))))) as running:
        await running.press("w", "enter")
        assert "▶ RUNNING" in running.screen_text()
        simulator_of(running).go_on(PASSED)
        await running.look()
        assert "✓ PASSED" in running.screen_text()
        await running.press("end")
        assert "✗ FAILED" in running.screen_text()


async def test_a_run_that_the_core_refuses_is_said(console: Opener) -> None:
    simulator = ScriptedSimulator()
    simulator.refuse = "[/b] is busy"
    async with console(source(simulator)) as running:
        await running.press("w", "enter")
        assert "All antigravity accounts above 80 % was not started: [/b] is busy" in running.toasts()


async def test_a_second_run_and_one_that_can_t_run_are_refused(console: Opener) -> None:
    async with console(source()) as running:
        await running.press("w", *["down"] * 5)
        assert "can't run here: the chain has no local model" in running.screen_text()
        await running.press("enter")
        assert "All providers fail can't run here: the chain has no local model." in running.toasts()
        await running.press("home", "enter", "down", "enter")
        assert "All antigravity accounts above 80 % is running; X stops it." in running.toasts()
        assert len(simulator_of(running).asked) == 1


async def test_real_accounts_need_the_typed_name(console: Opener) -> None:
    async with console(source(ScriptedSimulator(simulation(confirm=True))), size=(80, 24)) as running:
        await running.command("simulate! 1")
        assert isinstance(running.app.screen, RunDialog)
        text = running.screen_text()
        assert "Touches 8 accounts: ag-1, ag-2, ag-3" in text
        assert "Sends at most 12 requests." in text
        for typed in ("", "yes"):
            running.app.screen.query_one(Input).value = typed
            await running.press("enter")
            assert isinstance(running.app.screen, RunDialog)
            assert "Type all-above-soft-limit to run it." in running.screen_text()
        assert simulator_of(running).asked == []
        running.app.screen.query_one(Input).value = "all-above-soft-limit"
        await running.press("enter")
        assert simulator_of(running).asked == [("start", "all-above-soft-limit", True)]


async def test_declining_runs_nothing(console: Opener) -> None:
    async with console(source(ScriptedSimulator(simulation(confirm=True)))) as running:
        await running.press("w", "enter", "escape")
        assert isinstance(running.app.screen, SimulationScreen)
        assert simulator_of(running).asked == []


@EACH_SIZE
async def test_a_history_of_200_is_walked_and_told_in_full(console: Opener, size: tuple[int, int]) -> None:
    history = tuple(
        made.run(
            RunState.FAILED if number == 199 else RunState.PASSED,
            made.failed().steps if number == 199 else made.PASSED_STEPS,
            run_id=f"old-{number}",
            ago=60.0 * number,
            seed=4_294_967_295 - number,
        )
        for number in range(200)
    )
    async with console(source(ScriptedSimulator(simulation(history=history))), size=size) as running:
        await running.press("w", "end")
        assert "✗ FAILED" in running.screen_text()
        assert "4294967096" in running.screen_text()
        await running.press("enter")
        assert isinstance(running.app.screen, DetailsDialog)
        text = running.screen_text()
        assert "failed at “Requests" in text
        assert "4294967096" in text
        assert "expected  every account of antigravity is above its soft limit" in text
        await running.press("escape", "home", "pagedown", "pageup")
        assert running.app.screen.query_one(ScenarioList).cursor == 1


async def test_the_terminal_may_change_its_size_in_mid_run(console: Opener) -> None:
    async with console(source(), size=(200, 60)) as running:
        await running.press("w", "enter")
        for number, (width, height) in enumerate([(80, 24), (120, 40), (40, 12), (200, 60), (80, 24)]):
            await running.pilot.resize_terminal(width, height)
            simulator_of(running).go_on(made.under_way(number % 4))
            await running.look()
            text = running.screen_text()
            assert "▶ RUNNING" in text
            assert f"● {number % 4 + 1} " in text
            assert running.app.screen.focused is not None
        assert running.app.screen.query_one(SimulationArea).single


async def test_the_picture_follows_the_running_step_until_the_reader_scrolls(console: Opener) -> None:
    def at(number: int) -> RunView:
        steps = tuple(
            StepView(
                f"Step {step}",
                StepState.RUNNING
                if step == number
                else StepState.PASSED
                if step < number
                else StepState.PENDING,
                (Check("it holds", "it does", True),) if step < number else (),
                1.0,
            )
            for step in range(30)
        )
        return replace(made.under_way(), steps=steps)

    async with console(source(), size=(80, 24)) as running:
        await running.press("w", "enter")
        for number in (0, 20):
            simulator_of(running).go_on(at(number))
            await running.look()
            assert f"● {number + 1} Step {number}" in running.screen_text()
        await running.press("home")
        simulator_of(running).go_on(at(25))
        await running.look()
        assert "✓ 1 Step 0" in running.screen_text()
        await running.press("end")
        assert running.app.screen.query_one(RunSteps).following
        simulator_of(running).go_on(at(26))
        await running.look()
        assert "● 27 Step 26" in running.screen_text()


@pytest.mark.parametrize("size", [(20, 8), (40, 10), (99, 60), (200, 20), (100, 29), (159, 90), (400, 120)])
async def test_any_size_has_the_verdict_in_sight(console: Opener, size: tuple[int, int]) -> None:
    async with console(source(), size=size) as running:
        await running.press("w", "enter")
        assert "▶ RUNNING" in running.screen_text()
        simulator_of(running).go_on(made.failed())
        await running.look()
        assert "✗ FAILED" in running.screen_text()
        await running.press("tab", "end", "enter", "escape", "escape", "escape")
        assert not isinstance(running.app.screen, View)


@EACH_SIZE
async def test_without_a_simulator_the_view_says_so(console: Opener, size: tuple[int, int]) -> None:
    async with console(ScriptedSource(), size=size) as running:
        await running.press("B", "w", "enter", "X", "b")
        assert "Nothing can be rehearsed here" in running.screen_text()
        assert "No fault is in force." in running.toasts()
        await running.command("simulate 1")
        assert "othing can be rehearsed here" in running.screen_text()


async def test_mistakes_in_the_user_s_files_are_shown(console: Opener) -> None:
    mistake = "scenarios/mine.toml:3: steps[0].fualt: there is no such key; did you mean fault?\n  [/red]"
    async with console(source(ScriptedSimulator(simulation(mistakes=(mistake,)))), size=(200, 60)) as running:
        await running.press("w")
        text = running.screen_text()
        assert "Mistakes in your scenario files" in text
        assert "✕ scenarios/mine.toml:3: steps[0].fualt" in text
        assert "[/red]" in text


async def test_a_read_only_console_looks_and_does_nothing(console: Opener) -> None:
    busy = simulation(made.under_way(), drills=(drill(),))
    simulator = ScriptedSimulator(busy)
    async with console(source(simulator), size=(80, 24), read_only=True) as running:
        assert "▶ 2/4" in running.screen_text()
        assert "↯ 1 fault 0:43" in running.screen_text()
        await running.press("b", "B", "X", "w")
        assert "▶ RUNNING" in running.screen_text()
        await running.press(
            "escape", "home", "enter", "escape", *["down"] * 8, "enter", "X", "B", "b", "escape"
        )
        for line in ("simulate 1", "stop", "fault ag-1 status 503", "fault stop"):
            await running.command(line)
            assert "there is no command" in running.screen_text().casefold(), line
            await running.press("escape")
        assert simulator.asked == []


async def test_the_help_lists_what_the_view_adds(console: Opener) -> None:
    async with console(source(), size=(120, 60)) as running:
        await running.press("w", "question_mark")
        text = running.screen_text()
        await running.press(*["j"] * 40)
        text += running.screen_text()
        for word in (":simulate [SCENARIO]", "Stop the running scenario", "Inject fault", ":fault-stop"):
            assert word in text


async def test_the_recovery_view_and_this_one_open_each_other(console: Opener) -> None:
    async with console(source()) as running:
        await running.press("w", "v")
        assert isinstance(running.app.screen, RecoveryScreen)
        await running.press("w")
        assert isinstance(running.app.screen, SimulationScreen)
        await running.press("escape")
        assert not isinstance(running.app.screen, View)


@pytest.mark.parametrize("view", ["w", "v"])
async def test_the_overview_is_up_to_date_when_a_view_closes(console: Opener, view: str) -> None:
    async with console(ScriptedSource(events=(), simulator=ScriptedSimulator())) as running:
        await running.press(view)
        running.source.snapshot = snapshot(version=7, degraded="nobody of antigravity")
        running.source.move(60.0, *events())
        simulator_of(running).now = simulation(drills=(drill(),))
        await running.look()
        await running.press("escape")
        text = running.screen_text()
        assert "▽ default is degraded" in text
        assert "12:01:00" in text
        assert "▲↯ag-3" in text
        assert "ag-6 ✗500" in text


async def test_actions_concern_the_account_that_is_chosen_in_front(console: Opener) -> None:
    async with console(source(), size=(120, 40)) as running:
        await running.press("w")
        running.app.screen.query_one(AccountsTable).focus()
        await running.press("down", "down", "enter")
        assert isinstance(running.app.screen, DetailsDialog)
        assert "ag-3" in running.screen_text()
        await running.press("escape", "b", "enter", "enter")
        (asked,) = simulator_of(running).asked
        assert asked[0] == "start_drill"
        assert getattr(asked[1], "target", None) == (DrillScope.ACCOUNT, "ag-3")


@EACH_SIZE
async def test_texts_that_mean_harm_do_none(console: Opener, size: tuple[int, int]) -> None:
    checks = tuple(Check(text, text, passed) for text in HOSTILE for passed in (True, False, None))
    steps = tuple(StepView(text, StepState.FAILED, checks, 1.0) for text in HOSTILE)
    scenarios = tuple(
        made.scenario(text, text, text, *HOSTILE, case=case, touches=HOSTILE, source=text, lacking=lacking)
        for case, text in enumerate(HOSTILE, 1)
        for lacking in ("", text)
    )
    bad = tuple(
        replace(
            made.run(RunState.FAILED, steps, run_id=text, name=text, title=text, note=text),
            path=HOSTILE,
            answered_by=text,
        )
        for text in HOSTILE
    )
    drills = tuple(
        replace(
            drill(text, drill_id=text),
            drill=replace(drill(text).drill, fault=HttpStatus(503, message=text), reason=text),
        )
        for text in HOSTILE
    )
    view = simulation(bad[0], history=bad, drills=drills, mistakes=HOSTILE, scenarios=scenarios, confirm=True)
    under_way = replace(bad[1], state=RunState.RUNNING, note="")
    shown = ScriptedSource(hostile_snapshot(), simulator=ScriptedSimulator(view))
    async with console(shown, size=size) as running:
        await running.press("w")
        seen = running.screen_text()
        for _ in range(len(scenarios) + len(drills) + len(bad)):
            await running.press("down")
            seen += running.screen_text()
        await running.press("enter")
        seen += running.screen_text()
        await running.press("escape", "home")
        simulator_of(running).now = replace(view, drills=())
        await running.look()
        await running.press("enter")
        assert isinstance(running.app.screen, RunDialog)
        seen += running.screen_text()
        await running.press("escape")
        simulator_of(running).now = replace(view, current=under_way)
        await running.look()
        simulator_of(running).now = view
        await running.look()
        await running.press("escape", "escape", "B", "down", "escape", "w")
        seen += running.screen_text()
        assert running.app.is_running
        assert "[/bold][" in seen
        assert "\x1b" not in seen
        assert "\u202e" not in seen
