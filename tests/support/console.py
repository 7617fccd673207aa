"""A console under test: keys go in, screen text, toasts and commands come out."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet
from textual.css.types import CSSLocation
from textual.events import Key
from textual.keys import REPLACED_KEYS, _character_to_key, _get_unicode_name_from_key
from textual.pilot import Pilot

from smartfallback_console.app import ConsoleApp
from smartfallback_console.screens.dashboard import Dashboard
from support.console_source import ScriptedSource

ROUNDS = 5
"""A key may open something that mounts something that asks for a layout."""


_parse_anew = Stylesheet._parse_rules
_parsed: dict[tuple[object, ...], list[RuleSet]] = {}


def _parse_once(
    sheet: Stylesheet,
    css: str,
    read_from: CSSLocation,
    is_default_rules: bool = False,
    tie_breaker: int = 0,
    scope: str = "",
) -> list[RuleSet]:
    """Each console has the same style sheets, and parsing them is a sixth of what opening one costs."""
    origin = (read_from, is_default_rules, tie_breaker, scope)
    key = (css, *origin, frozenset(sheet._variables.items()))
    if key not in _parsed:
        _parsed[key] = _parse_anew(sheet, css, *origin)
    return _parsed[key]


Stylesheet._parse_rules = _parse_once  # type: ignore[assignment]  # rules are only read once parsed


async def settle(pilot: Pilot[None]) -> None:
    """Let every widget work off its queue, a few times over, and what waits for a refresh be done.

    Pilot waits until the process is idle instead: that takes 40 ms a key, and takes a machine that is
    busy with something else for an idle process.
    """
    for _ in range(ROUNDS):
        await pilot._wait_for_screen()
        await asyncio.sleep(0)
        if not pilot.app.is_running or not pilot.app.screen_stack:
            return
        pilot.app.screen._on_timer_update()


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, each once the one before it has had its effect."""
    for key in keys:
        pilot.app.post_message(key_event(key))
        await settle(pilot)


def key_event(key: str) -> Key:
    """The event of a key by its name or character."""
    name = _character_to_key(key) if len(key) == 1 and not key.isalnum() else key
    try:
        character = unicodedata.lookup(_get_unicode_name_from_key(REPLACED_KEYS.get(name, name)))
    except KeyError:
        character = key if len(key) == 1 else ""
    return Key(name, character or None)


class Console:
    """One running console over a scripted core."""

    def __init__(self, app: ConsoleApp, pilot: Pilot[None], source: ScriptedSource) -> None:
        self.app = app
        self.pilot = pilot
        self.source = source

    @property
    def dashboard(self) -> Dashboard:
        found = next(screen for screen in self.app.screen_stack if isinstance(screen, Dashboard))
        assert isinstance(found, Dashboard)
        return found

    async def press(self, *keys: str) -> None:
        await press(self.pilot, *keys)

    async def type(self, text: str) -> None:
        """Type in one go, as fast as a terminal delivers what was pasted."""
        for character in text:
            self.app.post_message(key_event(character))
        await settle(self.pilot)

    async def command(self, line: str) -> None:
        await self.press("colon")
        await self.type(line)
        await self.press("enter")

    async def look(self) -> None:
        self.dashboard.look()
        await settle(self.pilot)

    def toasts(self) -> list[str]:
        return [notification.message for notification in self.app._notifications]

    def screen_text(self) -> str:
        """What the terminal shows, line by line."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips(self.app.size)
        assert len(lines) == height
        assert all(line.cell_length == width for line in lines)
        return "\n".join(line.text for line in lines)


Opener: TypeAlias = Callable[..., AbstractAsyncContextManager[Console]]


@asynccontextmanager
async def open_console(
    source: ScriptedSource | None = None, *, size: tuple[int, int] = (120, 40), read_only: bool = False
) -> AsyncIterator[Console]:
    """A console over a scripted core; its picture changes only with ``look``, keys and commands."""
    source = source or ScriptedSource()
    seconds = iter(range(1_000_000))
    app = ConsoleApp(source, read_only=read_only, live=False, clock=lambda: next(seconds) / 1_000)
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        running = Console(app, pilot, source)
        await running.look()
        yield running
