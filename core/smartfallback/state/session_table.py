"""Chat sessions in the SQLite file.

Each turn has an id of its own and is written by the process in which it was asked, so that several may
go on in one session. A turn whose answer is on its way is seen again every :data:`BEAT_S`; one that has
not been for :data:`LEASE_S`, or whose process is gone, was broken off.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from smartfallback.model.chat_sessions import (
    MOST_SESSIONS,
    MOST_TURNS,
    ChatSession,
    ChatTranscript,
    ChatTurn,
    SessionCursor,
    SessionPage,
    TurnState,
    bounded,
    title_of,
)
from smartfallback.state.session_codec import decode_turn, encode_turn
from smartfallback.state.session_search import SessionSearch

BEAT_S: Final = 2.5
"""How often a turn whose answer is on its way is seen again, at least."""
LEASE_S: Final = 10.0
"""One that has not been seen for so long was broken off."""
MOST_SEARCHED: Final = 4_000_000
"""Characters that one page looks through, so that a search keeps nothing else from being written for long."""

SCHEMA: Final = (
    """
CREATE TABLE chat_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    title TEXT NOT NULL,
    began_at REAL NOT NULL,
    changed_at REAL NOT NULL
) WITHOUT ROWID
""",
    "CREATE INDEX chat_sessions_by_change ON chat_sessions (changed_at, id)",
    """
CREATE TABLE chat_turns (
    id TEXT NOT NULL PRIMARY KEY,
    session TEXT NOT NULL,
    asked_at REAL NOT NULL,
    state TEXT NOT NULL,
    owner TEXT NOT NULL,
    seen_at REAL NOT NULL,
    document TEXT NOT NULL,
    prompt TEXT NOT NULL,
    answer TEXT NOT NULL
)
""",
    "CREATE INDEX chat_turns_by_session ON chat_turns (session, asked_at, id)",
)


class _Owner(NamedTuple):
    """The process that writes a turn."""

    host: str
    process: int
    mark: str

    def __str__(self) -> str:
        return f"{self.process} {self.mark} {self.host}"

    @classmethod
    def read(cls, text: str) -> _Owner | None:
        process, _, rest = text.partition(" ")
        mark, _, host = rest.partition(" ")
        return cls(host, int(process), mark) if process.isascii() and process.isdigit() else None

    def is_gone(self, me: _Owner) -> bool:
        """Whether the process has certainly ended; others are given time until their lease is over."""
        if self.mark == me.mark:
            return False
        if self.host != me.host or os.name != "posix":
            return False
        if self.process == me.process:  # an earlier store of this process
            return True
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False


class SessionTable:
    """One process's view of the sessions; to be used inside a transaction."""

    def __init__(self) -> None:
        self._me = _Owner(platform.node(), os.getpid(), secrets.token_hex(8))

    def keep(
        self, connection: sqlite3.Connection, turns: Sequence[ChatTurn], running: Collection[str], now: float
    ) -> None:
        """Write turns, and see those again that run.

        Args:
            connection: In a transaction.
            turns: New or changed ones.
            running: Ids of turns whose answer is on its way.
            now: Epoch seconds.
        """
        for turn in turns:
            self._keep(connection, bounded(turn), now)
        connection.executemany(
            "UPDATE chat_turns SET seen_at = ? WHERE id = ? AND state = ?",
            [(now, turn_id, TurnState.RUNNING.value) for turn_id in running],
        )
        if turns:
            self._prune(connection, {turn.session for turn in turns})

    def page(
        self, connection: sqlite3.Connection, words: str, limit: int, after: SessionCursor | None
    ) -> SessionPage:
        """Sessions that fit, the last changed first; fewer than ``limit`` where the search takes long."""
        search = SessionSearch(words)
        at, name = after or (float("inf"), "")
        found: list[ChatSession] = []
        looked_through = 0
        for row in connection.execute(
            "SELECT id, title, began_at, changed_at FROM chat_sessions "
            "WHERE changed_at < ? OR (changed_at = ? AND id < ?) ORDER BY changed_at DESC, id DESC",
            (at, at, name),
        ):
            session, title, began_at, changed_at = row
            snippet = None
            fits = True
            if search:
                texts = _Texts(connection, session)
                fits, snippet = search.fits(title, texts)
                looked_through += len(title) + texts.length
            if fits:
                (turns,) = connection.execute(
                    "SELECT count(*) FROM chat_turns WHERE session = ?", (session,)
                ).fetchone()
                found.append(ChatSession(session, title, began_at, changed_at, turns, snippet))
            if len(found) >= limit or looked_through >= MOST_SEARCHED:
                return SessionPage(tuple(found), SessionCursor(changed_at, session))
        return SessionPage(tuple(found))

    def load(self, connection: sqlite3.Connection, session: str, now: float) -> ChatTranscript | None:
        """A session with its turns; None when there is none of that id."""
        head = connection.execute(
            "SELECT title, began_at, changed_at FROM chat_sessions WHERE id = ?", (session,)
        ).fetchone()
        if head is None:
            return None
        turns = tuple(
            self._turn(session, row, now)
            for row in connection.execute(
                "SELECT id, asked_at, state, owner, seen_at, document, prompt, answer FROM chat_turns "
                "WHERE session = ? ORDER BY asked_at, id",
                (session,),
            )
        )
        title, began_at, changed_at = head
        return ChatTranscript(ChatSession(session, title, began_at, changed_at, len(turns)), turns)

    def delete(self, connection: sqlite3.Connection, sessions: Collection[str] | None) -> int:
        """Delete sessions, None for all; returns how many there were. Their texts are overwritten."""
        connection.execute("PRAGMA secure_delete = ON")
        try:
            if sessions is None:
                connection.execute("DELETE FROM chat_turns")
                return connection.execute("DELETE FROM chat_sessions").rowcount
            connection.executemany("DELETE FROM chat_turns WHERE session = ?", [(name,) for name in sessions])
            return connection.executemany(
                "DELETE FROM chat_sessions WHERE id = ?", [(name,) for name in sessions]
            ).rowcount
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA secure_delete = OFF")

    def _keep(self, connection: sqlite3.Connection, turn: ChatTurn, now: float) -> None:
        prompt, answer = _encodable(turn.prompt), _encodable(turn.answer)
        connection.execute(
            "INSERT INTO chat_sessions VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "title = CASE WHEN excluded.began_at < began_at THEN excluded.title ELSE title END, "
            "began_at = min(began_at, excluded.began_at), changed_at = max(changed_at, excluded.changed_at)",
            (turn.session, title_of(prompt), turn.asked_at, turn.asked_at),
        )
        connection.execute(
            "INSERT INTO chat_turns VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "state = excluded.state, owner = excluded.owner, seen_at = excluded.seen_at, "
            "document = excluded.document, prompt = excluded.prompt, answer = excluded.answer",
            (
                turn.id,
                turn.session,
                turn.asked_at,
                turn.state.value,
                str(self._me),
                now,
                encode_turn(turn),
                prompt,
                answer,
            ),
        )

    def _prune(self, connection: sqlite3.Connection, changed: Collection[str]) -> None:
        connection.executemany(
            "DELETE FROM chat_turns WHERE id IN (SELECT id FROM chat_turns WHERE session = ? "
            "ORDER BY asked_at DESC, id DESC LIMIT -1 OFFSET ?)",
            [(session, MOST_TURNS) for session in changed],
        )
        gone = connection.execute(
            "SELECT id FROM chat_sessions ORDER BY changed_at DESC, id DESC LIMIT -1 OFFSET ?",
            (MOST_SESSIONS,),
        ).fetchall()
        connection.executemany("DELETE FROM chat_turns WHERE session = ?", gone)
        connection.executemany("DELETE FROM chat_sessions WHERE id = ?", gone)

    def _turn(
        self, session: str, row: tuple[str, float, str, str, float, str, str, str], now: float
    ) -> ChatTurn:
        name, asked_at, state, owner, seen_at, document, prompt, answer = row
        bare = ChatTurn(name, session, asked_at, prompt, answer, self._state(state, owner, seen_at, now))
        try:
            return decode_turn(bare, document)
        except (TypeError, ValueError):  # its texts are worth showing without the story
            return bare

    def _state(self, text: str, owner: str, seen_at: float, now: float) -> TurnState:
        try:
            state = TurnState(text)
        except ValueError:
            return TurnState.BROKEN_OFF
        if state is not TurnState.RUNNING:
            return state
        writer = _Owner.read(owner)
        if writer is None or abs(now - seen_at) > LEASE_S or writer.is_gone(self._me):
            return TurnState.BROKEN_OFF
        return state


class _Texts:
    """The texts of a session, the newest turn's first; counts what was looked through."""

    def __init__(self, connection: sqlite3.Connection, session: str) -> None:
        self._rows = connection.execute(
            "SELECT prompt, answer FROM chat_turns WHERE session = ? ORDER BY asked_at DESC, id DESC",
            (session,),
        )
        self.length = 0

    def __iter__(self) -> Iterator[str]:
        for row in self._rows:
            for text in row:
                self.length += len(text)
                yield text


def _encodable(text: str) -> str:
    """``text`` with halves of surrogate pairs replaced, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
