"""Faults by hand: picked or typed, shown wherever one looks, stopped, taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.widgets import Input

from smartfallback import (
    BurstLimit,
    CutStream,
    Drill,
    DrillScope,
    DrillTarget,
    Flapping,
    HttpStatus,
    Latency,
    Refused,
    StallBeforeFirstToken,
    playable,
)
from smartfallback_console.command_line import names_of
from smartfallback_console.dialogs.choose import ChooseDialog
from smartfallback_console.dialogs.rehearse import FaultDialog
from smartfallback_console.drill_words import KINDS, in_words, kinds_for, parse_fault, target_of
from smartfallback_console.proposal import OperatorError
from smartfallback_console.screens.simulation import SimulationScreen
from smartfallback_console.widgets.accounts import AccountsTable
from support import console_simulation as made
from support.console import Console, Opener
from support.console_data import hostile_snapshot, snapshot
from support.console_simulation import ScriptedSimulator, drill, simulation
from support.console_source import ScriptedSource

SIZES = ((80, 24), (120, 40), (200, 60))
AG_3 = DrillTarget(DrillScope.ACCOUNT, "ag-3")


def source(simulator: ScriptedSimulator | None = None) -> ScriptedSource:
    return ScriptedSource(simulator=simulator or ScriptedSimulator())


def asked(running: Console) -> list[tuple[object, ...]]:
    assert running.source.simulator is not None
    return running.source.simulator.asked


async def test_a_fault_is_picked_for_the_chosen_account(console: Opener) -> None:
    async with console(source(), size=(80, 24)) as running:
        running.dashboard.query_one(AccountsTable).select_account("ag-3")
        await running.press("b")
        assert isinstance(running.app.screen, ChooseDialog)
        assert "Inject a fault into ag-3" in running.screen_text()
        await running.press("down", "enter")
        assert isinstance(running.app.screen, FaultDialog)
        text = running.screen_text()
        assert "429, come back after …" in text
        assert "or wider: antigravity, gemini" in text
        running.app.screen.query_one("#number", Input).value = "90s"
        running.app.screen.query_one("#share", Input).value = "25 %"
        await running.press("enter")
        wanted = Drill(AG_3, BurstLimit(90.0), 0.25, 60.0, reason="by hand")
        assert asked(running) == [("start_drill", wanted)]
        assert "↯ 429, wait 1m 30s for 25% of calls on ag-3, for 1m.  (u or B ends it)" in running.toasts()


async def test_a_pool_s_line_means_the_pool_and_the_dialog_takes_its_provider(console: Opener) -> None:
    async with console(source()) as running:
        await running.press("home", "b", "enter")
        assert isinstance(running.app.screen, FaultDialog)
        assert "or wider: gemini" in running.screen_text()
        running.app.screen.query_one("#target", Input).value = "gemini"
        await running.press("enter")
        assert asked(running) == [
            (
                "start_drill",
                Drill(DrillTarget(DrillScope.PROVIDER, "gemini"), HttpStatus(503), reason="by hand"),
            )
        ]


async def test_wrong_particulars_are_said_and_start_nothing(console: Opener) -> None:
    async with console(source()) as running:
        await running.press("b", "enter")
        for field, wrong, problem in (
            ("target", "ag-33", "did you mean ag-3?"),
            ("number", "soon", "status takes status, such as 503"),
            ("number", "200", "status must be from 300 to 599"),
            ("duration", "long", "is no duration"),
            ("share", "0", "is no share of the calls"),
        ):
            box = running.app.screen.query_one(f"#{field}", Input)
            right, box.value = box.value, wrong
            await running.press("enter")
            assert problem in running.screen_text(), field
            box.value = right
        assert asked(running) == []
        await running.press("escape")
        assert running.app.screen is running.dashboard


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fault ag-3 status 503 30s", Drill(AG_3, HttpStatus(503), 1.0, 30.0)),
        ("fault ag-3 status 30s 50%", Drill(AG_3, HttpStatus(503), 0.5, 30.0)),
        ("fault ag-3 refused", Drill(AG_3, Refused())),
        ("fault ag-3 stall 2m", Drill(AG_3, StallBeforeFirstToken(), 1.0, 120.0)),
        ("fault ag-3 latency 3s 10m", Drill(AG_3, Latency(3.0), 1.0, 600.0)),
        ("fault ag-3 cut 5", Drill(AG_3, CutStream(5))),
        ("fault ag-3 flapping 8s 1m", Drill(AG_3, Flapping(HttpStatus(503), 8.0), 1.0, 60.0)),
        ("fault copilot refused 30s", Drill(DrillTarget(DrillScope.POOL, "copilot"), Refused(), 1.0, 30.0)),
        ("fault gemini refused", Drill(DrillTarget(DrillScope.PROVIDER, "gemini"), Refused())),
    ],
)
async def test_a_typed_fault_starts_at_once_on_simulated_accounts(
    console: Opener, line: str, wanted: Drill
) -> None:
    async with console(source()) as running:
        await running.command(line)
        (call,) = asked(running)
        found = call[1]
        assert isinstance(found, Drill)
        assert (found.target, found.fault, found.share, found.duration_s) == (
            wanted.target,
            wanted.fault,
            wanted.share,
            wanted.duration_s,
        )


async def test_real_accounts_are_asked_about_unless_that_was_said(console: Opener) -> None:
    real = ScriptedSimulator(simulation(confirm=True))
    async with console(ScriptedSource(snapshot(simulated=False), simulator=real)) as running:
        await running.command("fault ag-3 status 500 30s")
        assert isinstance(running.app.screen, FaultDialog)
        assert "These are real accounts" in running.screen_text()
        assert asked(running) == []
        await running.press("enter")
        await running.command("fault! ag-3 refused")
        assert [call[0] for call in asked(running)] == ["start_drill", "start_drill"]


async def test_wrong_lines_say_what_would_do(console: Opener) -> None:
    async with console(source()) as running:
        for line, problem in (
            ("fault", "Fault needs a target: fault TARGET"),
            ("fault ag-33 refused", "did you mean ag-3?"),
            ("fault ag-3 refusd", "There is no fault 'refusd'; did you mean refused?"),
            ("fault ag-3 status 200", "Status must be from 300 to 599"),
            ("fault ag-3 latency 0s", "latency takes delay, such as 2s"),
            ("fault ag-3 refused 10x", "is no duration"),
            ("fault ag-3 refused 200%", "is no share of the calls"),
            ("fault ag-3 refused 10s 20s", "one word too many"),
            ("fault stop drill-9", "No fault 'drill-9' is in force"),
        ):
            await running.command(line)
            assert problem.casefold() in running.screen_text().casefold(), line
            await running.press("escape")
        assert asked(running) == []


async def test_the_core_s_refusal_is_told(console: Opener) -> None:
    simulator = ScriptedSimulator()
    async with console(source(simulator)) as running:
        simulator.refuse = "ToolMissing can't be played to account ag-3"
        await running.command("fault ag-3 tool-missing")
        assert "No fault was started: ToolMissing can't be played to account ag-3" in running.toasts()


async def test_the_command_line_completes_targets_and_faults(console: Opener) -> None:
    async with console(source()) as running:
        await running.press("colon")
        await running.type("fault copilot-w")
        await running.press("tab")
        await running.type(" ra")
        await running.press("tab", "enter")
        (call,) = asked(running)
        found = call[1]
        assert isinstance(found, Drill)
        assert found.target.name == "copilot-work"
        assert found.fault == BurstLimit(30.0)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_faults_in_force_are_seen_from_every_screen(console: Opener, size: tuple[int, int]) -> None:
    drills = (drill(), drill("copilot", DrillScope.POOL, drill_id="drill-2", left=20.0))
    badge = "↯ 2 faults active 0:43" if size[0] >= 96 else "↯ 2 faults 0:43"
    async with console(source(ScriptedSimulator(simulation(drills=drills))), size=size) as running:
        text = running.screen_text()
        assert badge in text
        for marked in ("▲↯ag-3", "▾↯copilot", "●↯copilot-work", "▲↯copilot-home"):
            assert marked in text
        assert "↯ag-1" not in text
        await running.press("v")
        assert badge in running.screen_text()
        await running.press("w")
        text = running.screen_text()
        assert badge in text
        assert "↯ status 503 on ag-3" in text
        assert "2 hits" in text
        running.source.move(3.0)
        await running.look()
        assert badge.replace("0:43", "0:40") in running.screen_text()
        await running.press("p")
        running.source.move(30.0)
        await running.look()
        assert badge.replace("0:43", "0:10") in running.screen_text(), "a pause hides no fault"


async def test_the_mark_goes_with_the_fault_although_nothing_else_changes(console: Opener) -> None:
    simulator = ScriptedSimulator()
    async with console(source(simulator)) as running:
        simulator.now = simulation(drills=(drill(),))
        await running.look()
        assert "↯ag-3" in running.screen_text()
        simulator.now = simulation()
        await running.look()
        assert "↯" not in running.screen_text()
        simulator.now = simulation(drills=(drill(),))
        await running.look()
        await running.press("S")
        await running.command("filter ag-")
        assert "↯ag-3" in running.screen_text()


async def test_undo_ends_the_fault_that_was_started(console: Opener) -> None:
    async with console(source()) as running:
        await running.command("fault ag-3 refused")
        await running.press("d", "enter", "u", "u")
        assert [call[0] for call in asked(running)] == ["start_drill", "stop_drill"]
        assert "The fault is stopped." in running.toasts()
        assert "↯ag-3" not in running.screen_text()
        await running.command("fault ag-3 refused")
        await running.command("fault stop")
        await running.press("u")
        assert "The fault is over already." in running.toasts()


@pytest.mark.parametrize("line", ["fault stop", "fault stop all"])
async def test_all_are_stopped_by_a_line(console: Opener, line: str) -> None:
    drills = (drill(), drill("ag-4", drill_id="drill-2"))
    async with console(source(ScriptedSimulator(simulation(drills=drills)))) as running:
        await running.command(line)
        assert asked(running) == [("stop_all_drills",)]
        assert "2 faults stopped." in running.toasts()


async def test_one_of_several_is_chosen_from_a_list_or_by_its_row(console: Opener) -> None:
    drills = tuple(drill(f"ag-{number}", drill_id=f"drill-{number}") for number in range(1, 5))
    async with console(source(ScriptedSimulator(simulation(drills=drills)))) as running:
        await running.press("B", "down", "down", "enter")
        assert asked(running) == [("stop_drill", "drill-2")]
        await running.press("B", "enter")
        assert asked(running)[-1] == ("stop_all_drills",)
    async with console(source(ScriptedSimulator(simulation(drills=drills)))) as running:
        await running.press("w", *["down"] * 9, "enter")
        assert asked(running) == [("stop_drill", "drill-2")]
        await running.press("B")
        assert len(asked(running)) == 2
        await running.command("fault stop drill-1")
        assert asked(running)[-1] == ("stop_drill", "drill-1")


async def test_a_single_fault_needs_no_list(console: Opener) -> None:
    async with console(source(ScriptedSimulator(simulation(drills=(drill(),))))) as running:
        await running.press("B")
        assert asked(running) == [("stop_drill", "drill-1")]


async def test_the_faults_of_a_scenario_are_its_own(console: Opener) -> None:
    busy = simulation(made.under_way(), drills=(drill(),))
    async with console(source(ScriptedSimulator(busy))) as running:
        await running.press("B")
        assert asked(running) == []
        assert "These faults belong to the scenario that runs; X stops it." in running.toasts()


async def test_no_scenario_runs_into_faults_by_hand(console: Opener) -> None:
    async with console(source(ScriptedSimulator(simulation(drills=(drill(),))))) as running:
        await running.press("w", "enter")
        assert asked(running) == []
        assert any(
            "1 fault in force: stop what you started by hand first" in toast for toast in running.toasts()
        )
        assert isinstance(running.app.screen, SimulationScreen)


async def test_hostile_names_can_be_targets(console: Opener) -> None:
    view = hostile_snapshot()
    names = [account.id for pool in view.pools for account in pool.accounts]
    async with console(ScriptedSource(view, simulator=ScriptedSimulator()), size=(80, 24)) as running:
        for name in names:
            running.dashboard.query_one(AccountsTable).select_account(name)
            await running.press("b", "enter", "enter")
            call = asked(running)[-1]
            assert isinstance(call[1], Drill)
            assert call[1].target.name == name
        await running.look()
        text = running.screen_text()
        assert "\x1b" not in text
        assert "\u202e" not in text
        await running.press("B", "escape")


def test_each_offered_fault_can_be_met_by_whom_it_is_offered_for() -> None:
    view = snapshot()
    offered = set()
    for name in names_of(view):
        target = target_of(name, view)
        kinds = kinds_for(target, view)
        assert kinds, name
        offered |= {kind.name for kind in kinds}
        providers = [
            pool.provider
            for pool in view.pools
            if name in (pool.name, pool.provider_id, *(account.id for account in pool.accounts))
        ]
        for kind in kinds:
            assert any(playable(kind.build(kind.usual), provider) for provider in providers)
            assert in_words(kind.build(kind.usual))
            assert "{" not in kind.told()
    assert offered == {kind.name for kind in KINDS}


@given(st.text(min_size=1).filter(str.strip))
def test_whatever_is_typed_is_a_fault_or_a_sentence(text: str) -> None:
    for line in (text, f"status {text}", f"latency {text}", f"refused {text}"):
        try:
            told = in_words(parse_fault(line).drill(AG_3).fault)
        except OperatorError as error:
            told = str(error)
        assert told
