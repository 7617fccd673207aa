"""Chat sessions in the state file: exact, searchable, bounded, private, and gone when they are forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import (
    AttemptRecord,
    AttemptResult,
    ChatAttempt,
    ChatTurn,
    ChatWait,
    Degradation,
    DegradationKind,
    ErrorCategory,
    Failure,
    Reply,
    Resumption,
    Seam,
    SqliteStateStore,
    TurnState,
    Usage,
)
from smartfallback.model import chat_sessions
from smartfallback.model.chat_sessions import MOST_TEXT, TITLE_LENGTH, SessionCursor, bounded, title_of
from smartfallback.state import session_table
from smartfallback.state.session_search import SessionSearch, snippet
from smartfallback.state.session_table import LEASE_S
from support.clock import EPOCH, FakeClock
from support.session_shelf import SessionShelf
from support.states import DRAINED, change, of, read

SEAM = Seam(12, "ag-1", "ag-2", "the stream ended", 3)
FAILURE = Failure(ErrorCategory.RATE_LIMIT, "slow down", http_status=429, retry_after_s=1.5, hint="wait")
REPLY = Reply(
    request_id="r-1",
    text="",
    account="ag-2",
    pool="antigravity",
    provider="gemini",
    model="gemini-2.5-flash",
    usage=Usage(812, 230, estimated=True),
    finish_reason="stop",
    attempts=(),
    latency_s=2.31,
    first_token_s=0.1 + 0.2,
    cost=0.0012,
    degradations=(Degradation(DegradationKind.CONTINUED, "continued by ag-2"),),
    seams=(SEAM,),
    queued_s=1.5,
)
FULL = ChatTurn(
    id="t-1",
    session="s-1",
    asked_at=EPOCH + 1 / 3,
    prompt="Why is the sky blue? \x00 [/x] 🍵 %_'\"\n\n" + "long " * 50,
    answer="It is **Rayleigh** scattering.\n\n```py\nx = 1\n```",
    state=TurnState.ANSWERED,
    took_s=2.5,
    request_id="r-1",
    chain="default",
    pin="ag-2",
    avoid=frozenset({"ag-3", "ag-1"}),
    is_retry=True,
    sent_along=4,
    reply=REPLY,
    attempts=(
        ChatAttempt(1, "ag-1", "antigravity", "gemini-2.5-flash", 0.3, FAILURE, then="switch account"),
        ChatAttempt(2, "ag-4", "antigravity", "", None, None, "moved by the operator"),
        ChatAttempt(3, "cp-1", "copilot", "gpt-4o", 0.9, hedge=True, outrun=4),
        ChatAttempt(4, "ag-2", "antigravity", "gemini-2.5-flash", 2.31),
    ),
    waits=(ChatWait(1, 1.5), ChatWait(2)),
    resumptions=(Resumption(11, SEAM),),
    failure=FAILURE,
    problem="The core ended.",
    skipped=("ag-5: drained",),
    next_available_at=EPOCH + 60,
    cut=3,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state.db"


def turn(session: str, number: int, prompt: str = "", answer: str = "", **fields: object) -> ChatTurn:
    return replace(
        ChatTurn(
            f"{session}-{number}",
            session,
            EPOCH + number,
            prompt or f"question {number}",
            answer,
            TurnState.ANSWERED,
        ),
        **fields,
    )


async def keep(path: Path, *turns: ChatTurn) -> None:
    store = SqliteStateStore(path, clock=FakeClock())
    assert await store.keep_turns(turns, ())
    await store.aclose()
    assert store.take_notices() == ()


async def titles(store: SqliteStateStore, words: str = "", limit: int = 100) -> list[str]:
    page = await store.list_sessions(words, limit)
    assert page is not None
    return [session.title for session in page.sessions]


async def test_a_turn_is_read_back_to_the_last_bit(path):
    await keep(path, FULL, turn("s-1", 7))
    store = SqliteStateStore(path)
    found = await store.load_session("s-1")
    assert found is not None
    assert found.turns == (FULL, turn("s-1", 7))
    assert found.session.title.startswith("Why is the sky blue?")
    assert (found.session.began_at, found.session.changed_at) == (EPOCH + 1 / 3, EPOCH + 7)
    assert found.session.turns == 2
    await store.aclose()


async def test_files_are_for_the_user_alone_and_looking_makes_none(path):
    store = SqliteStateStore(path)
    assert await titles(store) == []
    assert await store.load_session("s-1") is None
    assert await store.delete_sessions(None) == 0
    assert not path.exists()
    assert await store.keep_turns([FULL], ())
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes["state.db"] == modes["state.db-wal"] == 0o600
    await store.aclose()


async def test_what_is_listed_is_newest_first_and_goes_on_page_by_page(path):
    await keep(path, *(turn(f"s-{number}", number) for number in range(7)), turn("s-2", 50))
    store = SqliteStateStore(path)
    found, after = [], None
    while True:
        page = await store.list_sessions("", 3, after)
        found += [session.id for session in page.sessions]
        after = page.then
        if after is None:
            break
    assert found == ["s-2", "s-6", "s-5", "s-4", "s-3", "s-1", "s-0"]
    page = await store.list_sessions("", 3)
    assert [session.turns for session in page.sessions] == [2, 1, 1]
    await store.aclose()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("%", ["a 100% sure thing"]),
        ("_", ["snake_case names"]),
        ("'", ['it\'s "quoted"']),
        ('"quoted"', ['it\'s "quoted"']),
        ("\\", ["back\\slash"]),
        ("100% SURE", ["a 100% sure thing"]),
        ("größe", ["Die GRÖSSE zählt"] if "größe".upper() == "grösse" else []),
        ("ZÄHLT", ["Die GRÖSSE zählt"]),
        ("sure hidden", ["a 100% sure thing"]),
        ("sure absent", []),
        ("[/x]", ["back\\slash"]),
        (".*", []),
        ("'; DROP TABLE chat_turns; --", []),
        ("case question", ["snake_case names"]),
    ],
)
async def test_every_sign_stands_for_itself(path, words, found):
    await keep(
        path,
        turn("a", 1, "a 100% sure thing", "something Hidden here"),
        turn("b", 2, "snake_case names", "an answer"),
        turn("b", 6, "another question"),
        turn("c", 3, 'it\'s "quoted"', "yes"),
        turn("d", 4, "back\\slash", "[/x] [@click=app.quit]"),
        turn("e", 5, "Die GRÖSSE zählt", "ja"),
    )
    store = SqliteStateStore(path)
    assert await titles(store, words) == found
    await store.aclose()


async def test_a_snippet_shows_where_it_was_found(path):
    answer = "x " * 300 + "the Needle\n\nin a haystack" + " y" * 300
    await keep(path, turn("a", 1, "first", answer), turn("a", 2, "second", "no such thing"))
    store = SqliteStateStore(path)
    (found,) = (await store.list_sessions("needle", 10)).sessions
    text, start, length = found.found
    assert text[start : start + length] == "Needle"
    assert "the Needle in a haystack y" in text
    assert text.startswith("…")
    assert text.endswith("…")
    assert len(text) < 130
    (by_title,) = (await store.list_sessions("first", 10)).sessions
    assert by_title.found is None
    (beyond,) = (await store.list_sessions("first such", 10)).sessions
    assert beyond.found.text == "no such thing"  # and not the title once more
    await store.aclose()


TEXT = st.text(alphabet=st.sampled_from("abAB %_'\"\\[]().*\n\té💥"), max_size=60)


@given(TEXT, TEXT, st.integers(0, 60), st.integers(1, 10))
@settings(deadline=None, max_examples=150)
def test_whatever_stands_in_a_text_is_found_there(before, after, start, length):
    text = before + after
    word = "".join(text[start : start + length].split())
    if word and word in text:
        fits, found = SessionSearch(word).fits("", [text])
        assert fits
        assert found is not None
        assert found.text[found.start : found.start + found.length].casefold() == word.casefold()
        assert "\n" not in found.text


def test_a_snippet_of_a_huge_word_is_short():
    found = snippet("a" * 5_000, 0, 5_000)
    assert len(found.text) < 140
    assert found.length < 120


async def test_a_search_through_much_text_comes_in_parts_and_is_whole(path, monkeypatch):
    monkeypatch.setattr(session_table, "MOST_SEARCHED", 100)
    await keep(path, *(turn(f"s-{number}", number, "x" * 60, "y needle") for number in range(9)))
    store = SqliteStateStore(path)
    first = await store.list_sessions("needle", 100)
    assert 0 < len(first.sessions) < 9
    assert first.then == SessionCursor(first.sessions[-1].changed_at, first.sessions[-1].id)
    assert (await store.list_sessions("nothing", 100)).then is not None
    await store.aclose()


async def test_sessions_turns_and_texts_are_bounded_and_the_oldest_fall_out(path, monkeypatch):
    monkeypatch.setattr(session_table, "MOST_SESSIONS", 3)
    monkeypatch.setattr(session_table, "MOST_TURNS", 4)
    await keep(path, *(turn(f"s-{number}", number) for number in range(5)))
    await keep(path, *(turn("long", 10 + number) for number in range(7)))
    store = SqliteStateStore(path)
    assert [s.id for s in (await store.list_sessions("", 9)).sessions] == ["long", "s-4", "s-3"]
    assert await store.load_session("s-0") is None
    kept = await store.load_session("long")
    assert [t.prompt for t in kept.turns] == [f"question {number}" for number in range(13, 17)]
    assert kept.session.title == "question 10"
    await store.aclose()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM chat_turns").fetchone() == (6,)
    connection.close()


async def test_a_turn_of_more_than_a_megabyte_loses_its_end(path):
    huge = turn("s", 1, "p" * 10, "€" * 400_000)
    await keep(path, huge)
    store = SqliteStateStore(path)
    (kept,) = (await store.load_session("s")).turns
    await store.aclose()
    assert kept.prompt == huge.prompt
    assert len((kept.prompt + kept.answer).encode()) <= MOST_TEXT
    assert len((kept.prompt + kept.answer).encode()) > MOST_TEXT - 4
    assert set(kept.answer) == {"€"}
    assert kept.cut == 400_000 - len(kept.answer)


@given(st.text(), st.text(), st.integers(0, 40))
@settings(deadline=None, max_examples=150)
def test_bounds_never_break_a_character(prompt, answer, room):
    original = chat_sessions.MOST_TEXT
    chat_sessions.MOST_TEXT = room
    try:
        kept = bounded(turn("s", 1, prompt or "p", answer))
    finally:
        chat_sessions.MOST_TEXT = original
    assert (prompt or "p").startswith(kept.prompt)
    assert answer.startswith(kept.answer)
    assert len((kept.prompt + kept.answer).encode("utf-8", "surrogatepass")) <= room
    assert kept.cut == len(prompt or "p") + len(answer) - len(kept.prompt) - len(kept.answer)


def test_titles_are_one_short_line():
    assert title_of("  Why\n\tnot? ") == "Why not?"
    assert len(title_of("word " * 100)) <= TITLE_LENGTH
    assert title_of("word " * 100).endswith("…")


async def test_halves_of_characters_do_not_stop_the_rest(path):
    await keep(path, turn("s", 1, "half \ud800"), turn("s", 2, "whole"))
    store = SqliteStateStore(path)
    assert [t.prompt for t in (await store.load_session("s")).turns] == ["half ?", "whole"]
    await store.aclose()


async def test_what_is_forgotten_is_not_in_the_file_any_more(path):
    store = SqliteStateStore(path)
    secret = "correct horse battery staple"
    await store.keep_turns([turn("s", 1, secret, secret.upper()), turn("other", 2, "stays")], ())
    assert await store.delete_sessions(["s", "unknown"]) == 1
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in everything
    assert secret.upper().encode() not in everything
    assert await titles(store) == ["stays"]
    assert await store.load_session("s") is None
    await store.keep_turns([turn("third", 3)], ())
    assert await store.delete_sessions(None) == 2
    assert await titles(store) == []
    await store.aclose()


async def test_a_running_turn_of_a_process_that_is_gone_was_broken_off(path):
    clock = FakeClock()
    store = SqliteStateStore(path, clock=clock)
    running = turn("s", 1, state=TurnState.RUNNING)
    await store.keep_turns([running], ())
    assert (await store.load_session("s")).turns[0].state is TurnState.RUNNING
    other = SqliteStateStore(path, clock=clock)
    change(path, "UPDATE chat_turns SET owner = replace(owner, substr(owner, 1, instr(owner, ' ')), '1 ')")
    assert (await other.load_session("s")).turns[0].state is TurnState.RUNNING  # process 1 is always there
    clock.advance(LEASE_S - 1)
    await store.keep_turns((), [running.id])
    clock.advance(LEASE_S - 1)
    assert (await other.load_session("s")).turns[0].state is TurnState.RUNNING
    clock.advance(2)
    assert (await other.load_session("s")).turns[0].state is TurnState.BROKEN_OFF
    await store.keep_turns((), [running.id])
    change(path, "UPDATE chat_turns SET owner = replace(owner, '1 ', '4194999 ')")  # above any process id
    assert (await other.load_session("s")).turns[0].state is TurnState.BROKEN_OFF
    await store.keep_turns([turn("s", 1, answer="done")], ())
    assert (await other.load_session("s")).turns[0].state is TurnState.ANSWERED
    await store.aclose()
    await other.aclose()


async def test_an_unreadable_story_costs_no_text(path):
    await keep(path, FULL, turn("s-1", 9))
    change(path, "UPDATE chat_turns SET document = '[]', state = 'odd' WHERE id = 't-1'")
    store = SqliteStateStore(path)
    first, second = (await store.load_session("s-1")).turns
    assert (first.prompt, first.answer) == (FULL.prompt, FULL.answer)
    assert first.reply is None
    assert first.state is TurnState.BROKEN_OFF
    assert second == turn("s-1", 9)
    await store.aclose()


async def test_a_damaged_file_is_set_aside_and_keeping_goes_on(path):
    await keep(path, *(turn("s", number, "x" * 4_000) for number in range(20)))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    store = SqliteStateStore(path)
    assert await store.list_sessions("x", 10) is not None
    assert await store.keep_turns([turn("new", 1)], ())
    (notice,) = store.take_notices()
    assert "was damaged" in notice
    assert await titles(store) == ["question 1"]
    assert [file.name for file in path.parent.iterdir() if "damaged" in file.name]
    await store.aclose()


async def test_an_older_file_learns_to_keep_sessions(path):
    store = SqliteStateStore(path)
    await store.save(of(a=DRAINED))
    await store.aclose()
    for table in _tables_beyond_version_2(path):
        change(path, f"DROP TABLE {table}")
    change(path, "PRAGMA user_version = 2")
    await keep(path, turn("s", 1))
    assert (await read(path)).accounts == {"a": DRAINED}


def _tables_beyond_version_2(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
    connection.close()
    return [name for name in names if name not in ("state", "queue", "queue_owners", "outcomes")]


async def test_two_stores_in_one_session_lose_no_turn(path):
    stores = [SqliteStateStore(path) for _ in range(2)]
    for step in range(10):
        await asyncio.gather(
            *(store.keep_turns([turn("s", 2 * step + which)], ()) for which, store in enumerate(stores))
        )
    for store in stores:
        assert [t.prompt for t in (await store.load_session("s")).turns] == [
            f"question {number}" for number in range(20)
        ]
        await store.aclose()


async def test_a_store_that_can_not_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("no folder")
    store = SqliteStateStore(tmp_path / "file" / "state.db")
    assert not await store.keep_turns([turn("s", 1)], ())
    assert len(store.take_notices()) == 1
    await store.aclose()


ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("keep"), st.integers(0, 3), st.integers(0, 30), st.sampled_from(["ab", "a%", "b_"])
        ),
        st.tuples(st.just("delete"), st.integers(0, 3)),
        st.tuples(st.just("list"), st.sampled_from(["", "a", "%", "B", "zz"]), st.integers(1, 5)),
    ),
    max_size=25,
)


@given(ACTS)
@settings(deadline=None, max_examples=40)
def test_file_and_memory_tell_the_same(acts):
    with sqlite3.connect(":memory:", isolation_level=None) as connection:
        for statement in session_table.SCHEMA:
            connection.execute(statement)
        table, shelf = session_table.SessionTable(), SessionShelf()
        for act in acts:
            match act:
                case ("keep", session, number, text):
                    new = turn(f"s{session}", number, text, text[::-1])
                    table.keep(connection, [new], (), EPOCH)
                    shelf.keep([new])
                case ("delete", session):
                    names = [f"s{session}"]
                    assert table.delete(connection, names) == shelf.delete(names)
                case ("list", words, limit):
                    assert (
                        table.page(connection, words, limit, None).sessions
                        == shelf.page(words, limit, None).sessions
                    )
        for session in range(4):
            assert table.load(connection, f"s{session}", EPOCH) == shelf.load(f"s{session}")
    connection.close()


def test_attempts_of_replies_are_told_once():
    """The reply's own attempts would stand in the file twice."""
    record = AttemptRecord(1, "ag-1", "p", "m", AttemptResult.SUCCESS, 1.0)
    with sqlite3.connect(":memory:", isolation_level=None) as connection:
        for statement in session_table.SCHEMA:
            connection.execute(statement)
        table = session_table.SessionTable()
        whole = replace(FULL, reply=replace(REPLY, text="It is", attempts=(record,)))
        table.keep(connection, [whole], (), EPOCH)
        assert table.load(connection, "s-1", EPOCH).turns == (FULL,)
    connection.close()
