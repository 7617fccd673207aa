"""Pictures of kept sessions: the offer at the start, lists, one that was opened, and the question."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from textual.app import App
from textual.events import Paste
from textual.pilot import Pilot

from smartfallback import ChatAttempt, ChatSessions, ChatTurn, Reply, SqliteStateStore, TurnState, Usage
from smartfallback_console.chat.composer import Composer
from smartfallback_console.chat.pane import ChatPane
from support.chat_script import ChatApp, ScriptedSource
from support.clock import EPOCH
from support.console_data import RATE_LIMIT, snapshot

REPLY = Reply(
    request_id="r-1",
    text="",
    account="ag-2",
    pool="antigravity",
    provider="gemini",
    model="gemini-2.5-flash",
    usage=Usage(812, 230),
    finish_reason="stop",
    attempts=(),
    latency_s=2.31,
    first_token_s=0.42,
    cost=0.0012,
)
ATTEMPTS = (
    ChatAttempt(1, "ag-1", "antigravity", "gemini-2.5-flash", 0.3, RATE_LIMIT, then="switch account"),
    ChatAttempt(2, "ag-2", "antigravity", "gemini-2.5-flash", 2.31),
)
PROMPTS = (
    "How does a circuit breaker work?",
    "Why does the sky look blue at noon and red at sunset, although the light that comes is the same?",
    "日本語のテスト [/x] [@click=app.quit]",
    "A regular expression for dates",
)
ANSWER = "It **trips** after three failures:\n\n- closed\n- open\n- half-open\n\nNothing here is 100% sure."


class Compare(Protocol):
    def __call__(
        self, app: App[None], *, terminal_size: tuple[int, int], run_before: object = ...
    ) -> bool: ...


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ScriptedSource]:
    store = SqliteStateStore(tmp_path / "state.db")
    turns = [
        ChatTurn(
            id=f"t{number}-{place}",
            session=f"s{number}",
            asked_at=EPOCH - 200_000 * number - 60 * (3 - place),
            prompt=prompt if place == 0 else "And then?",
            answer=ANSWER,
            state=TurnState.ANSWERED,
            took_s=2.31,
            sent_along=2 * place,
            reply=REPLY,
            attempts=ATTEMPTS,
        )
        for number, prompt in enumerate(PROMPTS)
        for place in range(1 + number % 2)
    ]
    turns.append(ChatTurn("lost", "s0", EPOCH - 30, "Was this one lost?", state=TurnState.BROKEN_OFF))
    asyncio.run(_keep(store, turns))
    made = ScriptedSource(snapshot(simulated=False))
    made.kept = ChatSessions(store)
    yield made
    asyncio.run(store.aclose())


async def _keep(store: SqliteStateStore, turns: list[ChatTurn]) -> None:
    assert await store.keep_turns(turns, ())


SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])


def typed(*lines: str) -> object:
    async def run(pilot: Pilot[None]) -> None:
        await pilot.pause()
        await pilot.app.workers.wait_for_complete()
        pilot.app.query_one(ChatPane).query_one(Composer).cursor_blink = False
        for line in lines:
            pilot.app.post_message(Paste(line))
            await pilot.press("enter")
            await pilot.pause()
        await pilot.pause()

    return run


@SIZES
def test_the_offer_at_the_start(snap_compare: Compare, source: ScriptedSource, size: tuple[int, int]) -> None:
    assert snap_compare(ChatApp(source, single=True), terminal_size=size, run_before=typed())


@SIZES
def test_a_list_and_a_search(snap_compare: Compare, source: ScriptedSource, size: tuple[int, int]) -> None:
    app = ChatApp(source, single=True)
    assert snap_compare(app, terminal_size=size, run_before=typed("/sessions", "/sessions 100% breaker"))


@SIZES
def test_a_session_that_was_opened(
    snap_compare: Compare, source: ScriptedSource, size: tuple[int, int]
) -> None:
    app = ChatApp(source, single=True, theme="daylight")
    assert snap_compare(app, terminal_size=size, run_before=typed("/open 1"))


def test_the_question_before_forgetting(snap_compare: Compare, source: ScriptedSource) -> None:
    app = ChatApp(source, single=True)
    assert snap_compare(app, terminal_size=(80, 24), run_before=typed("/sessions", "/forget 2"))


def test_a_list_without_colours(
    snap_compare: Compare, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = ChatApp(source, single=True)
    assert snap_compare(app, terminal_size=(56, 20), run_before=typed("/sessions failures"))
