"""Every way to act: keys, palette, command line; what asks, what is undone, what read-only lacks."""

from __future__ import annotations

import pytest
from textual.events import Key
from textual.widgets import Input

from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.commands import (
    CloseCircuit,
    Command,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    ForceFailover,
    OpenCircuit,
    RefreshQuota,
    ResetCircuit,
    Resume,
    SetCircuitMode,
    SetStrategy,
)
from smartfallback.model.specs import Strategy
from smartfallback_console.actions import ACTIONS
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.dialogs.choose import ChooseDialog
from smartfallback_console.dialogs.confirm import ConfirmDialog
from smartfallback_console.screens.help import HelpScreen
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.prompt import Prompt
from support.console import Opener, settle

AG_1 = CircuitTarget(CircuitScope.ACCOUNT, "ag-1")
GEMINI = CircuitTarget(CircuitScope.PROVIDER, "gemini")


async def test_drain_by_key_asks_then_drains_with_the_reason(console: Opener) -> None:
    async with console() as running:
        running.dashboard.query_one(AccountsTable).select_account("ag-2")
        await running.press("d")
        assert isinstance(running.app.screen, ConfirmDialog)
        assert running.source.commands == []
        await running.type("key rotation")
        await running.press("enter")
        assert running.source.commands == [Drain("ag-2", "key rotation")]
        await running.look()
        assert "drained" in running.screen_text()


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
async def test_declining_does_nothing(console: Opener, key: str) -> None:
    async with console() as running:
        await running.press("d", key)
        assert not isinstance(running.app.screen, ConfirmDialog)
        assert running.source.commands == []


async def test_a_drained_account_is_resumed_without_a_question(console: Opener) -> None:
    async with console() as running:
        running.dashboard.query_one(AccountsTable).select_account("ag-5")
        await running.press("d")
        assert running.source.commands == [Resume("ag-5")]


async def test_undo_takes_the_last_change_back(console: Opener) -> None:
    async with console() as running:
        await running.press("d", "enter")
        await running.press("u")
        assert running.source.commands == [Drain("ag-1", ""), Resume("ag-1")]
        await running.press("u")
        assert "There is nothing to undo." in running.toasts()


async def test_drain_by_palette(console: Opener) -> None:
    async with console() as running:
        await running.press("ctrl+p")
        await running.type("drain ag-2")
        await running.pilot.pause(0.3)
        await running.press("enter")
        await running.pilot.pause(0.1)
        assert isinstance(running.app.screen, ConfirmDialog)
        await running.press("enter")
        assert running.source.commands == [Drain("ag-2", "")]


async def test_drain_by_command_line_carries_the_reason_into_the_question(console: Opener) -> None:
    async with console() as running:
        await running.command("drain ag-2 key rotation")
        dialog = running.app.screen
        assert isinstance(dialog, ConfirmDialog)
        assert dialog.query_one("#reason", Input).value == "key rotation"
        await running.press("enter")
        assert running.source.commands == [Drain("ag-2", "key rotation")]


async def test_command_lines(console: Opener) -> None:
    cases: list[tuple[str, Command]] = [
        ("drain! ag-1 because", Drain("ag-1", "because")),
        ("resume ag-5", Resume("ag-5")),
        ("disable! ag-1", Disable("ag-1", "")),
        ("failover! ag-1 10m slow", ForceFailover(AG_1, "slow", 600.0)),
        ("failover-provider! gemini outage", ForceFailover(GEMINI, "outage", None)),
        ("open! ag-1 2h testing it", OpenCircuit(AG_1, "testing it", 7_200.0)),
        ("open! gemini outage", OpenCircuit(GEMINI, "outage", None)),
        ("close! ag-6 fixed", CloseCircuit(CircuitTarget(CircuitScope.ACCOUNT, "ag-6"), "fixed")),
        ("reset! ag-6", ResetCircuit(CircuitTarget(CircuitScope.ACCOUNT, "ag-6"), "")),
        ("strategy antigravity greedy", SetStrategy("antigravity", Strategy.GREEDY)),
        ("refresh ag-3", RefreshQuota("ag-3")),
        ("correct! ag-3 40 %", CorrectQuota("ag-3", 40.0)),
    ]
    async with console() as running:
        for line, command in cases:
            running.dashboard.run_line(line)
            await settle(running.pilot)
            assert running.source.commands[-1] == command, line
        assert len(running.source.commands) == len(cases)


async def test_keys_of_what_asks(console: Opener) -> None:
    cases: list[tuple[str, str, Command]] = [
        ("x", "ag-1", Disable("ag-1", "why")),
        ("f", "ag-1", ForceFailover(AG_1, "why", None)),
        ("F", "ag-1", ForceFailover(GEMINI, "why", None)),
        ("o", "ag-1", OpenCircuit(AG_1, "why", None)),
        ("c", "ag-6", CloseCircuit(CircuitTarget(CircuitScope.ACCOUNT, "ag-6"), "why")),
        ("r", "ag-6", ResetCircuit(CircuitTarget(CircuitScope.ACCOUNT, "ag-6"), "why")),
    ]
    async with console() as running:
        for key, account, expected in cases:
            running.dashboard.query_one(AccountsTable).select_account(account)
            await running.press(key)
            assert isinstance(running.app.screen, ConfirmDialog)
            await running.press("w", "h", "y", "enter")
            assert running.source.commands[-1] == expected


async def test_on_a_pools_line_circuit_actions_concern_its_provider(console: Opener) -> None:
    async with console() as running:
        await running.press("home", "o", "enter")
        assert running.source.commands == [OpenCircuit(GEMINI, "operator", None)]


async def test_strategy_is_chosen_from_a_list(console: Opener) -> None:
    async with console() as running:
        await running.press("s")
        assert isinstance(running.app.screen, ChooseDialog)
        await running.press("down", "enter")
        assert running.source.commands == [SetStrategy("antigravity", Strategy.GREEDY)]
        await running.press("u")
        assert running.source.commands[-1] == SetStrategy("antigravity", Strategy.HYBRID)


async def test_a_wrong_duration_is_said_and_nothing_is_done(console: Opener) -> None:
    async with console() as running:
        await running.press("o", "tab")
        await running.type("soon")
        await running.press("enter")
        assert isinstance(running.app.screen, ConfirmDialog)
        assert "no duration" in running.screen_text()
        assert running.source.commands == []


async def test_what_the_core_refuses_is_shown(console: Opener) -> None:
    async with console() as running:
        running.source.refuse = "ag-1 is gone"
        await running.press("d", "enter")
        assert "ag-1 is gone" in running.toasts()


async def test_a_wrong_line_stays_open_and_says_what_is_wrong(console: Opener) -> None:
    cases = [
        ("drian ag-1", "did you mean drain?"),
        ("drain ag-11", "did you mean ag-1?"),
        ("drain", "needs a target"),
        ("strategy antigravity greddy", "did you mean greedy?"),
        ("correct ag-3", "write correct ag-3 PERCENT"),
        ("correct gguf 10", "has no quota window"),
        ("drain antigravity", "hoose an account"),
        ("resume ag-1", "nothing to resume"),
        ("sort colour", "Sort by"),
        ("theme nope", "no theme"),
    ]
    async with console() as running:
        prompt = running.dashboard.query_one(Prompt)
        for line, problem in cases:
            await running.press("colon")
            prompt.query_one(Input).value = line
            await running.press("enter")
            assert prompt.is_open
            assert problem in running.screen_text(), line
            await running.press("escape")
            assert not prompt.is_open
        assert running.source.commands == []


async def test_the_command_line_completes_verbs_and_targets(console: Opener) -> None:
    async with console() as running:
        await running.press("colon")
        await running.type("dra")
        await running.press("tab")
        await running.type(" copilot-h")
        await running.press("tab")
        assert running.dashboard.query_one(Prompt).query_one(Input).value == "drain copilot-home"


async def test_the_last_usable_account_is_not_taken_away_without_a_warning(console: Opener) -> None:
    async with console() as running:
        running.dashboard.query_one(AccountsTable).select_account("opencode")
        await running.press("d")
        assert "last usable account of opencode" in running.screen_text()
        assert "Requests will go to local" in running.screen_text()


async def test_read_only_has_no_dangerous_action_by_any_way(console: Opener) -> None:
    dangerous = [action for action in ACTIONS if action.dangerous]
    assert dangerous
    async with console(read_only=True) as running:
        bound = {active.binding.id for active in running.dashboard.active_bindings.values()}
        assert not bound & {action.id for action in dangerous}
        for action in dangerous:
            for key in action.keys.split(","):
                await running.press(key)
                assert running.app.screen is running.dashboard
            for verb in action.verbs:
                running.dashboard.run_line(f"{verb}! ag-1 greedy")
        await running.press("question_mark")
        assert "Force failover" not in running.screen_text()
        await running.press("escape")
        assert running.source.commands == []


async def test_every_action_with_a_verb_or_key_is_in_the_help(console: Opener) -> None:
    async with console(size=(140, 150)) as running:
        await running.press("question_mark")
        assert isinstance(running.app.screen, HelpScreen)
        text = running.screen_text()
        for action in ACTIONS:
            assert action.title in text
            for verb in action.verbs:
                assert f":{verb}" in text


async def test_enable_brings_back_a_disabled_account(console: Opener) -> None:
    async with console() as running:
        running.dashboard.run_line("disable! ag-1")
        await settle(running.pilot)
        await running.look()
        await running.press("x")
        assert running.source.commands == [Disable("ag-1", ""), Enable("ag-1")]


async def test_quit_ends_the_app(console: Opener) -> None:
    async with console() as running:
        await running.press("q")
        assert not running.app.is_running or running.app._exit


@pytest.mark.parametrize("opener", ["colon", "slash", "i"])
async def test_keys_typed_ahead_belong_to_the_line_that_was_opened(console: Opener, opener: str) -> None:
    async with console() as running:
        for key in (opener, "d", "p", "x", "q"):
            running.app.post_message(Key(key, key if len(key) == 1 else None))
        await settle(running.pilot)
        await settle(running.pilot)
        assert running.app.screen is running.dashboard
        assert not running.dashboard.feed.paused
        assert running.dashboard.focused is not None
        assert "dpxq" in running.screen_text()


async def test_a_command_typed_in_one_go_is_entered_whole(console: Opener) -> None:
    async with console() as running:
        for character in ":theme paper\r":
            key = {":": "colon", " ": "space", "\r": "enter"}.get(character, character)
            running.app.post_message(Key(key, character))
        await settle(running.pilot)
        await settle(running.pilot)
        assert running.app.theme == "paper"
        for character in "i/pin ag-3\r":
            running.app.post_message(
                Key({" ": "space", "/": "slash", "\r": "enter"}.get(character, character), character)
            )
        await settle(running.pilot)
        await settle(running.pilot)
        assert running.dashboard.query_one(ChatPane).conversation.pin == "ag-3"


async def test_quota_is_refreshed_and_corrected_by_key(console: Opener) -> None:
    async with console() as running:
        running.dashboard.query_one(AccountsTable).select_account("ag-2")
        await running.press("R")
        assert running.source.commands == [RefreshQuota("ag-2")]
        await running.press("K")
        prompt = running.dashboard.query_one(Prompt).query_one(Input)
        assert prompt.value == "correct ag-2 "
        await running.type("55")
        await running.press("enter")
        assert isinstance(running.app.screen, ConfirmDialog)
        await running.press("enter")
        assert running.source.commands[-1] == CorrectQuota("ag-2", 55.0)


async def test_a_circuits_mode_is_chosen_from_a_list_and_taken_back(console: Opener) -> None:
    async with console() as running:
        await running.press("m")
        assert isinstance(running.app.screen, ChooseDialog)
        text = running.screen_text()
        assert "Mode of the circuit of ag-1" in text
        assert "reports, but turns nothing away" in text
        await running.press("down", "down", "enter")
        text = running.screen_text()
        assert "Set the circuit of ag-1 to observe-only?" in text
        assert "this outlives a restart" in " ".join(text.split())
        assert running.source.commands == []
        await running.type("noisy")
        await running.press("enter")
        observe = SetCircuitMode(AG_1, CircuitState.OBSERVE_ONLY, "noisy")
        assert running.source.commands == [observe]
        await running.press("u")
        assert running.source.commands == [observe, SetCircuitMode(AG_1, CircuitState.CLOSED, "undo")]


async def test_circuit_modes_by_command_line(console: Opener) -> None:
    async with console() as running:
        await running.command("mode! ag-1 half-open try it")
        await running.command("mode! gemini disabled planned work")
        assert running.source.commands == [
            SetCircuitMode(AG_1, CircuitState.HALF_OPEN, "try it"),
            SetCircuitMode(GEMINI, CircuitState.DISABLED, "planned work"),
        ]
        await running.command("mode ag-6 half-open")
        assert isinstance(running.app.screen, ConfirmDialog)
        assert "3 failures in 300 s" in running.screen_text()
        await running.press("escape")
        await running.command("mode ag-1 obsrve-only")
        assert "did you mean observe-only?" in running.screen_text()
        await running.press("escape")
        await running.command("mode ag-1 normal")
        assert "is closed already" in running.screen_text()
        await running.press("escape")
        await running.command("mode ag-1")
        assert isinstance(running.app.screen, ChooseDialog)


async def test_the_modes_are_completed(console: Opener) -> None:
    async with console() as running:
        await running.press("colon")
        await running.type("mode ag-1 o")
        await running.press("tab")
        assert running.dashboard.query_one("#prompt Input", Input).value == "mode ag-1 observe-only"
