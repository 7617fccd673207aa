"""A chat pane alone, driven by keys and read as the terminal has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.events import Paste
from textual.pilot import Pilot

from smartfallback_console.chat.composer import Composer
from smartfallback_console.chat.transcript import Transcript
from smartfallback_console.chat.turn_view import TurnView
from support.chat_script import ChatApp, ScriptedSource, demo_source
from support.console import key_event, press, settle


class Driver:
    """Types, looks and reads."""

    def __init__(self, app: ChatApp, pilot: Pilot[None], source: ScriptedSource) -> None:
        self.app, self.pilot, self.source = app, pilot, source

    async def type(self, text: str) -> None:
        for character in text:
            self.app.post_message(key_event(character))
        await settle(self.pilot)

    async def ask(self, text: str) -> None:
        self.app.post_message(Paste(text))
        await self.press("enter")

    async def press(self, *keys: str) -> None:
        await press(self.pilot, *keys)

    async def look_until_ended(self) -> None:
        while self.app.chat.running:
            await self.look()

    async def look(self, seconds: float = 0.2) -> None:
        self.app.clock.advance(seconds)
        await self.app.chat.look()
        await settle(self.pilot)

    @property
    def composer(self) -> Composer:
        return self.app.chat.query_one(Composer)

    @property
    def transcript(self) -> Transcript:
        return self.app.chat.query_one(Transcript)

    @property
    def views(self) -> list[TurnView]:
        return list(self.app.chat.query(TurnView))

    def text(self, selector: str = "TurnView") -> str:
        """What the last widget of that kind shows, as the terminal has it."""
        widget = list(self.app.chat.query(selector))[-1]
        return "\n".join(self.rows(widget.region.y, widget.region.bottom))

    def rows(self, start: int = 0, end: int | None = None) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return [strip.text.rstrip() for strip in strips[start:end]]

    @property
    def screen(self) -> str:
        return "\n".join(self.rows())


@asynccontextmanager
async def chat(
    source: ScriptedSource | None = None, *, size: tuple[int, int] = (100, 44), read_only: bool = False
) -> AsyncIterator[Driver]:
    source = source or demo_source()
    app = ChatApp(source, read_only=read_only)
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        yield Driver(app, pilot, source)
