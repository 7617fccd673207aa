"""Sessions of the whole console: its own core on its own thread, a real state file, and a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from textual.events import Paste
from textual.pilot import Pilot

from smartfallback import Orchestrator, SqliteStateStore
from smartfallback_console.app import ConsoleApp
from smartfallback_console.bridge import CoreThread, SourceState
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.chat.turn_view import TurnView
from support.console import press, settle
from support.scripted import ScriptedUpstream, pool, system


@dataclass
class Configured:
    orchestrator: Orchestrator
    simulator: None = None


class Real:
    """A console over a core that runs."""

    def __init__(self, app: ConsoleApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def pane(self) -> ChatPane:
        return self.app.screen_stack[1].query_one(ChatPane)

    async def until(self, text: str) -> None:
        """Wait for another thread, with a bound."""
        async with asyncio.timeout(20):
            while text not in self.screen:
                await asyncio.sleep(0.02)
                await settle(self.pilot)

    async def ask(self, text: str) -> None:
        self.app.post_message(Paste(text))
        await press(self.pilot, "enter")

    @property
    def screen(self) -> str:
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())


@asynccontextmanager
async def console(path: Path) -> AsyncIterator[Real]:
    """The console from its start to the end of its core."""

    @asynccontextmanager
    async def configured() -> AsyncIterator[Configured]:
        spec = system(pool("main", "a", "b"))
        store = SqliteStateStore(path)
        upstream = ScriptedUpstream()
        async with Orchestrator(spec, provider_factory=upstream.provider, store=store) as orchestrator:
            yield Configured(orchestrator)

    core = CoreThread(configured)
    core.start()
    try:
        app = ConsoleApp(core)
        async with app.run_test(size=(120, 40)) as pilot:
            async with asyncio.timeout(20):
                while core.state is not SourceState.RUNNING:  # noqa: ASYNC110 - the other side is a thread
                    await asyncio.sleep(0.02)
            await settle(pilot)
            await press(pilot, "i")
            yield Real(app, pilot)
    finally:
        assert await asyncio.to_thread(core.stop)
        assert core.failure == ""


async def test_what_was_said_is_there_after_a_restart(tmp_path):
    path = tmp_path / "state.db"
    async with console(path) as at:
        await at.ask("does it survive?")
        await at.until(" ✓")
        answer = at.pane.conversation.turns[0]
        assert answer.text
    async with console(path) as at:
        await at.until("last session: does it survive? · /open 1")
        await at.ask("/sessions survive")
        await at.until("1 turn · just now")
        await at.ask("/open 1")
        await at.until(" ✓")
        (view,) = at.pane.query(TurnView)
        assert view.turn.text == answer.text
        assert view.turn.account == answer.account
        assert view.turn.reply is not None
        assert view.turn.reply.usage == answer.reply.usage
        await at.ask("and again?")
        await at.until("and again?")
        assert len(at.pane.conversation.turns[-1].request.messages) == 3
