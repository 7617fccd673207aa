"""Chat sessions over a restart: the same file, another console."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from smartfallback import (
    ChatSessions,
    ChatTurn,
    ErrorCategory,
    Failure,
    NextStep,
    Role,
    SqliteStateStore,
    TurnState,
)
from smartfallback_console.app import ConsoleApp
from smartfallback_console.chat.forget_dialog import ForgetDialog
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.chat.session_list import SessionList
from smartfallback_console.dialogs.choose import ChooseDialog
from support.chat_driver import Driver, chat
from support.chat_script import demo_source
from support.clock import FakeClock
from support.console import press, settle
from support.console_data import NOW, OUTAGE, RATE_LIMIT, snapshot

CUT = Failure(ErrorCategory.MALFORMED_RESPONSE, "the stream ended without its final chunk")
HOSTILE = "[/x] [@click=app.quit]q[/] \x1b[2J\u202eevil"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@asynccontextmanager
async def console(
    path: Path, *, size: tuple[int, int] = (100, 44), read_only: bool = False
) -> AsyncIterator[Driver]:
    """A chat whose sessions are kept in a file; leaving it is quitting."""
    store = SqliteStateStore(path)
    source = demo_source()
    source.view = snapshot(simulated=False)
    source.kept = ChatSessions(store)
    async with chat(source, size=size, read_only=read_only) as at:
        await waited(at)
        yield at
    await source.kept.aclose()
    await store.aclose()
    assert store.take_notices() == ()


async def waited(at: Driver) -> None:
    """Wait until what was asked of the file has come."""
    await at.app.workers.wait_for_complete()
    await at.pilot.pause()


async def answer(at: Driver, prompt: str, text: str, account: str = "ag-3") -> None:
    await at.ask(prompt)
    at.source.answer().tries("ag-1").fails(RATE_LIMIT).tries(account).says(text).finishes()
    await at.look()


async def agree(at: Driver, key: str = "enter") -> None:
    assert isinstance(at.app.screen, ForgetDialog)
    await at.press(key)
    await waited(at)


def flat(text: str) -> str:
    return " ".join(text.replace("│", " ").replace("▌", " ").split())


async def test_a_restarted_console_offers_the_last_session_and_goes_on_in_it(path):
    async with console(path) as at:
        assert "last session" not in at.screen
        await answer(at, "why is the sky blue", "It is **Rayleigh** scattering.")
        await answer(at, "and the sunset", "The way is longer.", "ag-7")
        first = at.source.requests[-1].session
        footer = at.text("Footer")
        await at.press("ctrl+o")
        details = at.text("TurnView")

    async with console(path) as at:
        assert not at.views
        assert "last session: why is the sky blue · /open 1" in at.screen
        await at.ask("/open 1")
        assert [view.turn.prompt for view in at.views] == ["why is the sky blue", "and the sunset"]
        assert "It is Rayleigh scattering." in at.screen
        assert "“why is the sky blue” · 2 turns since" in at.screen
        assert at.text("Footer") == footer
        for part in ("ag-1 ✗429 → ag-7 ✓", "gemini-2.5-flash", "812+230 tok", "$0.0012"):
            assert part in footer
        await at.press("ctrl+o")
        kept = flat(at.text("TurnView"))
        for part in (
            "2 earlier messages sent along",
            "rate limit 429",
            "then: switch account",
            "request r-1",
        ):
            assert part in kept
            assert part in flat(details)
        await at.ask("and at night")
        request = at.source.requests[-1]
        assert request.session == first
        assert [(message.role, message.content) for message in request.messages] == [
            (Role.USER, "why is the sky blue"),
            (Role.ASSISTANT, "It is **Rayleigh** scattering."),
            (Role.USER, "and the sunset"),
            (Role.ASSISTANT, "The way is longer."),
            (Role.USER, "and at night"),
        ]
        at.source.answer().tries("ag-1").says("Dark.").finishes()
        await at.look()

    async with console(path) as at:
        await at.ask("/open 1")
        assert [view.turn.prompt for view in at.views][-1] == "and at night"
        await at.press("up")
        assert at.composer.text == "and at night"


async def test_the_numbers_of_the_list_hold_before_it_was_ever_shown(path):
    async with console(path) as at:
        await answer(at, "first topic", "one")
        await at.ask("/new")
        await answer(at, "second topic", "two")
    async with console(path) as at:
        assert "last session: second topic" in at.screen
        await at.ask("/open 2")
        assert [view.turn.prompt for view in at.views] == ["first topic"]


async def test_retry_of_an_opened_turn_asks_another_account(path):
    async with console(path) as at:
        await answer(at, "why", "because")
    async with console(path) as at:
        await at.ask("/open 1")
        await at.ask("/retry")
        request = at.source.requests[-1]
        assert request.avoid == {"ag-3"}
        assert [message.content for message in request.messages] == ["why"]


async def test_sessions_are_listed_searched_and_found_by_their_texts(path):
    async with console(path) as at:
        await answer(at, "first topic", "about 100% of_it")
        await at.ask("/new")
        await answer(at, "second topic", 'it\'s "quoted"')
        await at.ask("/sessions")
        listed = flat(at.text("SessionList"))
        assert "1 second topic this one 2 first topic 1 turn · just now" in listed
        await at.ask("/sessions 100% OF_IT")
        found = at.text("SessionList")
        assert "first topic" in found
        assert "second topic" not in found
        assert "about 100% of_it" in found
        await at.ask("/open 1")
        assert [view.turn.prompt for view in at.views] == ["first topic"]
        await at.ask("/sessions absent")
        assert "No session holds “absent”." in at.text("Notice")
        for typed, said in (("/open", "Write its number"), ("/open x", "Write its number")):
            await at.ask("/sessions")
            await at.ask(typed)
            assert said in flat(at.text("Notice"))
        await at.ask("/open 9")
        assert "it goes from 1 to 2" in flat(at.text("Notice"))


async def test_a_click_opens_what_is_listed(path):
    async with console(path) as at:
        await answer(at, "first topic", "one")
        await at.ask("/new")
        await answer(at, "second topic", "two")
        await at.ask("/sessions topic")
        await at.pilot.click(SessionList, offset=(6, 2))
        await waited(at)
        assert [view.turn.prompt for view in at.views] == ["first topic"]


async def test_new_begins_a_session_and_keeps_what_ran_as_cancelled(path):
    async with console(path) as at:
        await at.ask("tell me")
        at.source.answer().tries("ag-2").says("Once upon")
        await at.look()
        await at.ask("/new")
        assert at.source.handles[0].cancelled
        await answer(at, "another", "yes")
        assert len(at.source.requests[-1].messages) == 1
    async with console(path) as at:
        await at.ask("/sessions")
        await at.ask("/open 2")
        assert "Once upon" in at.screen
        assert "Cancelled after 9 characters." in at.screen
        assert "ag-2 ∅" in at.text("Footer")


async def test_failed_continued_and_hostile_turns_come_back_as_they_were(path):
    async with console(path, size=(100, 60)) as at:
        await at.ask("fails")
        reply = at.source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-3").says("It begins")
        reply.breaks(OUTAGE, next_available_at=NOW + 304.0, skipped=("ag-4: above the hard limit",))
        await at.look()
        await at.ask("continues")
        reply = at.source.answer().tries("ag-3").says("one ").fails(CUT, NextStep.CONTINUE)
        reply.tries("ag-2").resumes("ag-2", "stream cut", overlap=2).says("two").finishes()
        for _ in range(3):
            await at.look()
        await at.ask("hedges")
        at.source.answer().tries("ag-1").hedges("cp-1", wins=True).says("Hi").finishes()
        await at.look()
        await at.ask(HOSTILE)
        at.source.answer().tries(HOSTILE).says(HOSTILE).finishes()
        await at.look()
        before = [view.turn for view in at.views]
        footers = [at.app.chat.query("Footer")[n].render() for n in range(4)]
    async with console(path, size=(100, 60)) as at:
        assert "last session: fails · /open 1" in at.screen
        await at.ask("/open 1")
        after = [view.turn for view in at.views]
        assert [turn.text for turn in after] == [turn.text for turn in before]
        assert [turn.outcome for turn in after] == [turn.outcome for turn in before]
        assert [turn.steps() for turn in after] == [turn.steps() for turn in before]
        assert [at.app.chat.query("Footer")[n].render() for n in range(4)] == footers
        await at.press("pageup", "pageup", "pageup")
        shown = flat(at.screen)
        assert "Broken off after 9 characters. api failure 500" in shown
        assert "ag-4: above the hard limit" in shown
        assert "— broke off at ag-3 (stream cut) · continued by ag-2 —" in shown
        for forbidden in "\x1b\u202e":
            assert forbidden not in at.screen
        await at.ask("/sessions evil")
        assert "\x1b" not in at.text("SessionList")
        assert at.app.is_running


async def test_what_ran_in_a_killed_console_is_marked_as_broken_off(path):
    store = SqliteStateStore(path)
    await store.keep_turns(
        [ChatTurn("t-1", "s-1", NOW, "was it lost?", state=TurnState.RUNNING)], ()
    )  # and no end of it: the process was killed
    await store.aclose()
    async with console(path) as at:
        await at.ask("/open 1")
        assert "was it lost?" in at.screen
        assert "Broken off: the console ended before the answer was complete." in at.screen
        await at.ask("again")
        assert [message.content for message in at.source.requests[-1].messages] == ["again"]


async def test_quitting_in_the_middle_of_an_answer_keeps_what_came(path):
    async with console(path) as at:
        await at.ask("why")
        at.source.answer().tries("ag-2").says("Because of")
        await at.look()
    async with console(path) as at:
        await at.ask("/open 1")
        assert "Because of" in at.screen
        assert "Cancelled after 10 characters." in at.screen


async def test_forgetting_asks_first_and_keeps_the_other_numbers(path):
    async with console(path) as at:
        for topic in ("alpha", "beta", "gamma"):
            await answer(at, topic, f"about {topic}")
            await at.ask("/new")
        await at.ask("/sessions")
        await at.ask("/forget 2")
        assert "beta" in at.screen
        await agree(at, "escape")
        assert await titles(at) == ["gamma", "beta", "alpha"]
        await at.ask("/forget 2")
        await agree(at)
        assert "“beta” is forgotten." in at.screen
        assert await titles(at) == ["gamma", "alpha"]
        await at.ask("/forget 2")
        assert "Number 2 was forgotten" in flat(at.text("Notice"))
        await at.ask("/forget")
        assert "Write its number" in flat(at.text("Notice"))
        await at.ask("/open 3")
        assert [view.turn.prompt for view in at.views] == ["alpha"]
        await at.ask("/forget 3")
        await agree(at)
        assert not at.views
        assert at.app.chat.conversation.turns == []
        await at.ask("/forget all")
        assert "with all prompts and answers" in at.screen
        await agree(at)
        assert "1 session is forgotten." in at.screen
        assert await titles(at) == []
        await at.ask("/sessions")
        assert "No session is kept yet." in at.text("Notice")
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"about alpha" not in everything


async def titles(at: Driver) -> list[str]:
    return [session.title for session in await at.source.kept.list()]


async def test_while_an_answer_runs_no_session_is_opened_or_forgotten(path):
    async with console(path) as at:
        await answer(at, "first", "one")
        await at.ask("/new")
        await at.ask("second")
        for command in ("/open 1", "/forget 1", "/forget all"):
            await at.ask("/sessions")
            await at.ask(command)
            assert "esc stops it" in flat(at.text("Notice"))
        assert at.app.chat.running


async def test_two_consoles_on_one_file_see_each_others_turns(path):
    async with console(path) as one, console(path) as two:
        await answer(one, "shared", "by one")
        assert [session.title for session in await one.source.kept.list()] == ["shared"]
        await two.ask("/sessions")
        await two.ask("/open 1")
        await answer(two, "more", "by two")
        await answer(one, "even more", "by one again")
        await two.source.kept.list()
        await one.source.kept.list()
    async with console(path) as at:
        await at.ask("/open 1")
        assert sorted(view.turn.prompt for view in at.views) == ["even more", "more", "shared"]
        await at.ask("/new")
        await at.ask("/sessions")
        assert "3 turns" in at.text("SessionList")


async def test_a_long_session_shows_its_end_and_sends_along_what_it_should(path):
    store = SqliteStateStore(path)
    turns = [ChatTurn(f"t{n:03}", "s", NOW + n, f"q{n}", f"a{n}", TurnState.ANSWERED) for n in range(150)]
    await store.keep_turns(turns, ())
    await store.aclose()
    async with console(path) as at:
        await at.ask("/open 1")
        assert "150 turns" in flat(at.transcript.children[0].render().plain)
        assert [view.turn.prompt for view in at.views] == [f"q{n}" for n in range(138, 150)]
        await at.ask("next")
        sent = [message.content for message in at.source.requests[-1].messages]
        assert sent[-3:] == ["q149", "a149", "next"]
        assert len(sent) == 41


async def test_the_demo_keeps_nothing_and_says_so_when_asked():
    async with chat() as at:
        await waited(at)
        assert "last session" not in at.screen
        await answer(at, "why", "because")
        for command in ("/sessions", "/open 1", "/forget all"):
            await at.ask(command)
            assert "The demo keeps nothing" in flat(at.text("Notice"))


async def test_a_file_that_can_not_be_used_is_said_and_chatting_goes_on(tmp_path):
    (tmp_path / "file").write_text("no folder")
    source = demo_source()
    store = SqliteStateStore(tmp_path / "file" / "state.db")
    source.kept = ChatSessions(store)
    async with chat(source) as at:
        await answer(at, "why", "because")
        assert "because" in at.screen
        await at.ask("/sessions")
        assert "Sessions can't be kept now." in flat(at.text("Notice"))
    await source.kept.aclose()
    await store.aclose()


async def test_tab_completes_numbers_by_their_titles(path):
    async with console(path) as at:
        await answer(at, "the topic", "one")
        await at.ask("/sessions")
        await at.type("/open ")
        assert "the topic" in at.text("Hints")
        await at.press("tab", "enter")
        assert [view.turn.prompt for view in at.views] == ["the topic"]


async def test_help_tells_of_sessions():
    async with chat() as at:
        await at.ask("/help")
        for command in ("/new", "/sessions [WORDS]", "/open N", "/forget N|all"):
            assert command in at.screen


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_key_lists_the_sessions_and_opens_one(path, read_only):
    async with console(path) as at:
        await answer(at, "the topic", "its answer")
    store = SqliteStateStore(path)
    source = demo_source()
    source.view = snapshot(simulated=False)
    source.kept = ChatSessions(store)
    app = ConsoleApp(source, read_only=read_only, live=False, clock=FakeClock().monotonic)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await app.workers.wait_for_complete()
        await press(pilot, "C")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert isinstance(app.screen, ChooseDialog)
        await press(pilot, "enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        pane = app.screen.query_one(ChatPane)
        assert [turn.prompt for turn in pane.conversation.turns] == ["the topic"]
        await press(pilot, "escape")
        await press(pilot, "colon")
        for character in "sessions nowhere":
            await press(pilot, "space" if character == " " else character)
        await press(pilot, "enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert [note.message for note in app._notifications][-1] == "No session holds “nowhere”."
        if read_only:
            await pane.sessions.list("")
            assert "forget" not in "".join(line.text for line in app.screen._compositor.render_strips())
            with pytest.raises(ValueError, match="Read-only"):
                await pane.sessions.forget("1")
    await source.kept.aclose()
    await store.aclose()
