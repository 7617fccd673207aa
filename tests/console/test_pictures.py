"""Pictures of the dashboard at the sizes that must read well, with fixed data and clock."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from smartfallback_console.app import ConsoleApp
from smartfallback_console.screens.dashboard import Dashboard
from support.console_source import ScriptedSource
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
