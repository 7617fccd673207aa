"""Chat sessions of an orchestrator: written behind, at most once a second, and whole at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from smartfallback import ChatSessions, ChatTurn, Orchestrator, SessionsLostError, SqliteStateStore, TurnState
from smartfallback.engine import sessions as engine_sessions
from smartfallback.engine.sessions import MOST_WAITING, SEEN_EVERY_S, WRITE_EVERY_S
from smartfallback.model.chat_sessions import ChatTranscript, SessionCursor, SessionPage
from support.clock import EPOCH
from support.jumping_loop import run
from support.scripted import ScriptedUpstream, pool, system


def turn(number: int, state: TurnState = TurnState.ANSWERED, session: str = "s") -> ChatTurn:
    return ChatTurn(f"t{number}", session, EPOCH + number, f"question {number}", state=state)


class SlowDisk:
    """Notes what is written when, and can fail or hang."""

    def __init__(self) -> None:
        self.writes: list[tuple[float, tuple[ChatTurn, ...], tuple[str, ...]]] = []
        self.works = True
        self.hangs = False

    async def keep_turns(self, turns: Sequence[ChatTurn], running: Collection[str]) -> bool:
        self.writes.append((asyncio.get_running_loop().time(), tuple(turns), tuple(running)))
        if self.hangs:
            await asyncio.Event().wait()
        return self.works

    async def list_sessions(
        self, words: str, limit: int, after: SessionCursor | None = None
    ) -> SessionPage | None:
        if self.hangs:
            await asyncio.Event().wait()
        return SessionPage() if self.works else None

    async def load_session(self, session: str) -> ChatTranscript | None:
        return None

    async def delete_sessions(self, sessions: Collection[str] | None) -> int | None:
        return 0 if self.works else None

    @property
    def kept(self) -> dict[str, TurnState]:
        return {turn.id: turn.state for _, turns, _ in self.writes for turn in turns}


def test_a_turn_is_written_at_once_and_many_at_most_once_a_second():
    async def main() -> None:
        disk = SlowDisk()
        sessions = ChatSessions(disk)
        began = asyncio.get_running_loop().time()
        for number in range(100):
            sessions.save_turn(turn(number))
            await asyncio.sleep(0.05)
        await sessions.aclose()
        assert disk.writes[0][0] == pytest.approx(began, abs=0.01)
        assert len(disk.writes) <= 5.0 / WRITE_EVERY_S + 2
        assert all(later - at >= 0.8 for (at, _, _), (later, _, _) in pairwise(disk.writes[:-1]))
        for number in range(100):
            first = next(at for at, turns, _ in disk.writes if any(t.id == f"t{number}" for t in turns))
            assert first - (began + 0.05 * number) <= 1.0
        assert sum(len(turns) for _, turns, _ in disk.writes) == 100

    run(main())


def test_a_turn_that_runs_is_seen_again_until_it_ends_and_idle_writes_nothing():
    async def main() -> None:
        disk = SlowDisk()
        sessions = ChatSessions(disk)
        sessions.save_turn(turn(1, TurnState.RUNNING))
        await asyncio.sleep(20)
        beats = [at for at, _, running in disk.writes if running == ("t1",)]
        assert max(later - at for at, later in pairwise(beats)) <= SEEN_EVERY_S + WRITE_EVERY_S + 0.1
        sessions.save_turn(turn(1))
        await asyncio.sleep(2)
        written = len(disk.writes)
        await asyncio.sleep(3600)
        assert len(disk.writes) == written
        assert disk.kept == {"t1": TurnState.ANSWERED}
        await sessions.aclose()

    run(main())


def test_what_still_runs_at_the_end_is_kept_as_broken_off():
    async def main() -> None:
        disk = SlowDisk()
        sessions = ChatSessions(disk)
        sessions.save_turn(turn(1, TurnState.RUNNING))
        await sessions.aclose()
        await sessions.aclose()
        assert disk.kept == {"t1": TurnState.BROKEN_OFF}
        sessions.save_turn(turn(2))
        await asyncio.sleep(2)
        assert "t2" not in disk.kept

    run(main())


def test_a_disk_that_fails_is_let_alone_and_then_gets_everything():
    async def main() -> None:
        disk = SlowDisk()
        disk.works = False
        sessions = ChatSessions(disk)
        for number in range(MOST_WAITING + 50):
            sessions.save_turn(turn(number))
        await asyncio.sleep(30)
        assert len(disk.writes) < 10
        with pytest.raises(SessionsLostError):
            await sessions.list()
        with pytest.raises(SessionsLostError):
            await sessions.delete(None)
        sessions.save_turn(turn(999))
        disk.works = True
        disk.writes.clear()
        await asyncio.sleep(30)
        assert "t999" in disk.kept
        await sessions.aclose()

    run(main())


def test_the_bound_on_what_waits_keeps_the_newest():
    async def main() -> None:
        disk = SlowDisk()
        disk.works = False
        sessions = ChatSessions(disk)
        for number in range(MOST_WAITING + 50):
            sessions.save_turn(turn(number))
        disk.works = True
        await asyncio.sleep(1)
        assert sorted(disk.kept) == sorted(f"t{number}" for number in range(50, MOST_WAITING + 50))
        await sessions.aclose()

    run(main())


def test_a_disk_that_hangs_keeps_nobody_for_ever():
    async def main() -> None:
        disk = SlowDisk()
        disk.hangs = True
        sessions = ChatSessions(disk)
        sessions.save_turn(turn(1))
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        with pytest.raises(SessionsLostError, match="has not answered"):
            await sessions.search("x")
        assert loop.time() - asked <= engine_sessions.READ_WAIT_S + 0.1
        closing = loop.time()
        await sessions.aclose()
        assert loop.time() - closing <= engine_sessions.CLOSE_WAIT_S + 0.1

    run(main())


async def test_without_a_store_nothing_is_kept():
    sessions = ChatSessions(None)
    sessions.save_turn(turn(1))
    assert not sessions.kept
    assert await sessions.list() == ()
    assert await sessions.load("s") is None
    assert await sessions.delete(None) == 0
    await sessions.aclose()


async def test_what_was_just_saved_is_found_and_what_is_deleted_is_not_written_later(tmp_path):
    store = SqliteStateStore(tmp_path / "state.db")
    sessions = ChatSessions(store)
    sessions.save_turn(turn(1))
    sessions.save_turn(turn(2, TurnState.RUNNING, "other"))
    assert [session.id for session in await sessions.list()] == ["other", "s"]
    assert [session.id for session in await sessions.search("QUESTION 1")] == ["s"]
    sessions.save_turn(replace(turn(2), session="other", answer="late"))
    sessions.save_turn(turn(3, session="other"))
    assert await sessions.delete(["other"]) == 1
    assert await sessions.load("other") is None
    await sessions.aclose()
    assert [session.id for session in (await store.list_sessions("", 9)).sessions] == ["s"]
    await store.aclose()


async def test_a_search_goes_on_over_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("smartfallback.state.session_table.MOST_SEARCHED", 50)
    store = SqliteStateStore(tmp_path / "state.db")
    sessions = ChatSessions(store)
    for number in range(60):
        sessions.save_turn(turn(number, session=f"s{number}"))
    assert len(await sessions.search("question", 100)) == 60
    assert [session.id for session in await sessions.search("question 59", 100)] == ["s59"]
    assert len(await sessions.search("question", 7)) == 7
    await sessions.aclose()
    await store.aclose()


async def test_an_orchestrator_keeps_sessions_in_its_store_over_a_restart(tmp_path):
    spec = system(pool("main", "a"))

    def orchestrator() -> Orchestrator:
        store = SqliteStateStore(tmp_path / "state.db")
        return Orchestrator(spec, provider_factory=ScriptedUpstream().provider, store=store)

    async with orchestrator() as first:
        first.sessions.save_turn(turn(1))
        first.sessions.save_turn(turn(2, TurnState.RUNNING))
    async with orchestrator() as second:
        kept = await second.sessions.load("s")
        assert kept is not None
        assert [turn.state for turn in kept.turns] == [TurnState.ANSWERED, TurnState.BROKEN_OFF]
    async with Orchestrator(spec, provider_factory=ScriptedUpstream().provider) as without:
        assert not without.sessions.kept
