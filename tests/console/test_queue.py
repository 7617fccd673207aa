"""Dropping a request that waits in the queue, from wherever an operator may be."""

from __future__ import annotations

from dataclasses import replace

from smartfallback import DropQueued
from smartfallback.model.recoveries import QueueView
from smartfallback_console.dialogs.choose import ChooseDialog
from smartfallback_console.dialogs.confirm import ConfirmDialog
from smartfallback_console.screens.help import HelpScreen
from smartfallback_console.screens.recovery import RecoveryScreen
from smartfallback_console.widgets.prompt import Prompt
from support.console import Opener
from support.console_data import snapshot
from support.console_source import ScriptedSource
from support.recovery_data import recovering, stories


async def test_a_key_drops_the_request_under_the_cursor_once_confirmed(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories())) as running:
        await running.press("v", "down", "D")
        assert isinstance(running.app.screen, ConfirmDialog)
        text = running.screen_text()
        assert "Drop r-5e07?" in text
        assert "number 2 of 3" in text
        await running.press("escape")
        assert running.source.commands == []
        await running.press("D", "enter")
        assert running.source.commands == [DropQueued("r-5e07")]
        assert isinstance(running.app.screen, RecoveryScreen)


async def test_a_recovery_that_is_over_can_not_be_dropped(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories())) as running:
        await running.press("v", *["down"] * 4, "D")
        assert isinstance(running.app.screen, RecoveryScreen)
        assert "Choose a request that waits in the queue." in running.toasts()


async def test_on_the_dashboard_it_is_chosen_from_a_list(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories())) as running:
        await running.press("D")
        assert isinstance(running.app.screen, ChooseDialog)
        assert "api, chain fast, waits 2h 30m" in running.screen_text()
        await running.press("down", "enter", "enter")
        assert running.source.commands == [DropQueued("r-5e07")]


async def test_with_nobody_waiting_it_says_so(console: Opener) -> None:
    async with console(ScriptedSource(snapshot(), ())) as running:
        await running.press("D", "v", "D")
        assert running.toasts() == ["Nobody waits in the queue."] * 2


async def test_in_a_narrow_terminal_a_request_from_before_a_restart_still_says_so(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(80, 24)) as running:
        await running.press("v")
        assert "api · fast · restored" in running.screen_text()


async def test_by_command_line_on_either_screen(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories())) as running:
        await running.command("drop r-4c90")
        await running.press("enter")
        await running.press("v")
        await running.command("drop! r-5e11")
        assert running.source.commands == [DropQueued("r-4c90"), DropQueued("r-5e11")]
        assert isinstance(running.app.screen, RecoveryScreen)
        await running.command("drop r-5e12")
        assert "No request 'r-5e12' waits in the queue; did you mean" in running.screen_text()
        await running.press("escape")
        assert not running.app.screen.query_one(Prompt).is_open
        assert running.dashboard.complete("drop r-4") == "drop r-4c90"


async def test_by_palette_in_front_of_the_recovery_view(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories())) as running:
        await running.press("v", "ctrl+p")
        await running.type("drop r-5e07")
        await running.pilot.pause(0.3)
        await running.press("enter")
        await running.pilot.pause(0.1)
        await running.press("enter")
        assert running.source.commands == [DropQueued("r-5e07")]


async def test_a_request_that_left_the_queue_while_the_list_was_open(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories())) as running:
        await running.press("D")
        view = running.source.snapshot
        assert view is not None
        running.source.snapshot = replace(view, version=9, queue=QueueView(100, view.queue.requests[1:], 0))
        await running.look()
        await running.press("enter")
        assert running.source.commands == []
        assert any("'r-5e11' waits in the queue" in toast for toast in running.toasts())


async def test_a_read_only_console_has_no_way_to_drop(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), read_only=True) as running:
        await running.press("v")
        assert "Drop" not in running.screen_text().splitlines()[-1]
        await running.press("D", "question_mark")
        assert isinstance(running.app.screen, HelpScreen)
        await running.press("escape")
        await running.command("drop! r-5e11")
        assert "There is no command 'drop'" in running.screen_text()
        assert running.source.commands == []


async def test_the_recovery_view_has_keys_and_help_of_its_own(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(120, 60)) as running:
        await running.press("v")
        keys = running.screen_text().splitlines()[-1]
        for word in ("esc Back", "D Drop", "p Pause", ": Command", "? Help"):
            assert word in keys
        await running.press("p")
        assert "p Go on" in running.screen_text().splitlines()[-1]
        await running.press("p", "question_mark")
        assert isinstance(running.app.screen, HelpScreen)
        text = running.screen_text()
        assert "In this pane: Queue and latest recoveries" in text
        assert "Its whole story" in text
        assert "d          Drain or resume account" in text


async def test_number_keys_lead_from_the_recovery_view_to_the_panes(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(80, 24)) as running:
        await running.press("v", "3")
        assert running.app.screen is running.dashboard
        assert running.app.screen.focused is running.dashboard.query_one("#routing")


async def test_what_the_palette_shows_on_the_dashboard_is_not_hidden_behind_the_recovery_view(
    console: Opener,
) -> None:
    async with console(ScriptedSource(recovering(), stories())) as running:
        await running.press("v")
        running.dashboard.action_operate("filter")
        await running.press("f12")
        assert running.app.screen is running.dashboard
        assert running.dashboard.query_one(Prompt).is_open
        await running.press("escape")
        await running.command("recovery")
        await running.command("recovery")
        assert sum(isinstance(screen, RecoveryScreen) for screen in running.app.screen_stack) == 1
