"""A console under test: keys go in, screen text, toasts and commands come out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from textual.pilot import Pilot

from smartfallback_console.app import ConsoleApp
from smartfallback_console.screens.dashboard import Dashboard
from support.console_source import ScriptedSource


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
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        names = {" ": "space", "-": "minus", "/": "slash", ":": "colon", "!": "exclamation_mark"}
        await self.press(*(names.get(character, character) for character in text))

    async def command(self, line: str) -> None:
        await self.press("colon")
        await self.type(line)
        await self.press("enter")

    async def look(self) -> None:
        self.dashboard.look()
        await self.pilot.pause()

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
        await pilot.pause()
        running = Console(app, pilot, source)
        await running.look()
        yield running
