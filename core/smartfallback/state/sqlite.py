"""State in an SQLite file, written on a thread of its own and shared by several processes.

The first trouble with the file is told once and its end too; meanwhile everything goes on in memory
and what is unsaved is tried again. A damaged file is renamed and a new one begun; a file of another
program or version is left as it is.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

import platformdirs

from smartfallback.clock import Clock, SystemClock
from smartfallback.model.chat_sessions import ChatTranscript, ChatTurn, SessionCursor, SessionPage
from smartfallback.model.queueing import KeptOutcome, QueueNews, QueueState
from smartfallback.model.state import AccountState, CircuitRecord, SystemState
from smartfallback.state.codec import decode_account, decode_circuit, encode_account, encode_circuit
from smartfallback.state.database import (
    ForeignFile,
    busy,
    connect,
    connect_for_reading,
    damaged,
    identity,
    set_aside,
)
from smartfallback.state.merge import merged, merged_circuit
from smartfallback.state.queue_table import QueueTable
from smartfallback.state.session_table import SessionTable
from smartfallback.state.worker import Worker

FORGET_AFTER_S: Final = 90 * 86_400.0
"""How long the state of an account that is no longer configured is kept."""
RETRY_OPEN_S: Final = 5.0
"""After a file could not be opened, how long it is let alone."""

Key = tuple[Literal["account", "provider"], str]
Value = AccountState | CircuitRecord | None
Result = TypeVar("Result")

_FRESH: Final = AccountState()


def default_state_path() -> Path:
    """``smartfallback/state.db`` in the user's state directory."""
    return platformdirs.user_state_path("smartfallback", appauthor=False) / "state.db"


class SqliteStateStore:
    """A :class:`~smartfallback.state.base.StateStore` in a file.

    Several processes may use one file: what each changed since it last wrote is merged into it.

    Args:
        path: The file; by default :func:`default_state_path`. It is made when there is none, readable
            for the user alone, as is its directory if that is made too.
        clock: For the age of what is no longer configured; the machine's by default.
    """

    def __init__(self, path: Path | None = None, *, clock: Clock | None = None) -> None:
        self.path = path or default_state_path()
        self._clock = clock or SystemClock()
        self._worker = Worker("smartfallback-state")
        self._notices: list[str] = []
        self._load_abandoned = False
        # What follows belongs to the worker's thread, apart from a look whether `_unsaved` is empty.
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._closed_until = -float("inf")
        self._trouble = ""
        self._configured: frozenset[Key] = frozenset()
        self._known: dict[Key, Value] = {}
        """What this process last read from the file or wrote into it."""
        self._unsaved: dict[Key, Value] = {}
        self._queue = QueueTable(lambda notice: self._notices.append(f"{self.path}: {notice}"))
        self._sessions = SessionTable()

    async def load(self, accounts: Collection[str], providers: Collection[str]) -> SystemState:
        """What was saved before. What nobody configured for 90 days is forgotten."""
        keys: list[Key] = [("account", name) for name in accounts]
        keys += [("provider", name) for name in providers]
        self._configured = frozenset(keys)
        try:
            return _system(await self._worker.do(self._load))
        except BaseException:
            self._load_abandoned = True
            raise

    async def save(self, changes: SystemState) -> None:
        """Write changes; costs nothing when there is nothing to write."""
        if changes or self._unsaved:
            await self._worker.do(lambda: self._save(changes))

    async def exchange_queue(self, state: QueueState, room: int) -> QueueNews | None:
        """Keep the queue, and adopt what processes that are gone have left; costs little when idle."""
        if not self._queue.due(state, self._clock.monotonic()):
            return QueueNews()
        return await self._worker.do(lambda: self._exchange_queue(state, room))

    async def collect_outcome(self, request_id: str) -> KeptOutcome | None:
        """Take out the oldest outcome of a request of that name."""
        return await self._worker.do(lambda: self._collect_outcome(request_id))

    async def keep_turns(self, turns: Sequence[ChatTurn], running: Collection[str]) -> bool:
        """Keep turns of chat sessions."""
        return await self._worker.do(lambda: self._keep_turns(turns, running))

    async def list_sessions(
        self, words: str, limit: int, after: SessionCursor | None = None
    ) -> SessionPage | None:
        """Chat sessions, the last changed first."""
        page = self._sessions.page
        return await self._worker.do(
            lambda: self._look(SessionPage(), lambda connection: page(connection, words, limit, after))
        )

    async def load_session(self, session: str) -> ChatTranscript | None:
        """A chat session with its turns."""
        load, now = self._sessions.load, self._clock.time()
        return await self._worker.do(
            lambda: self._look(None, lambda connection: load(connection, session, now))
        )

    async def delete_sessions(self, sessions: Collection[str] | None) -> int | None:
        """Delete chat sessions, None for all; what was written is overwritten."""
        return await self._worker.do(lambda: self._delete_sessions(sessions))

    def take_notices(self) -> tuple[str, ...]:
        """What the operator should know; each sentence once."""
        notices, self._notices = self._notices, []
        return tuple(notices)

    async def aclose(self) -> None:
        """Write what is unsaved and close the file."""
        try:
            await self._worker.do(self._close)
        finally:
            self._worker.stop()

    # -- on the worker's thread --------------------------------------------------------------

    def _load(self) -> dict[Key, Value]:
        rows = self._with_file(self._read)
        if rows is None:
            rows = self._read_only()
        self._known = dict(rows)
        if rows:
            self._with_file(self._mark_seen)
        return rows

    def _save(self, changes: SystemState) -> None:
        if self._load_abandoned:  # nobody took it up, so nothing of it was restored
            self._load_abandoned = False
            self._known = {}
        self._unsaved.update((("account", name), state) for name, state in changes.accounts.items())
        self._unsaved.update((("provider", name), record) for name, record in changes.providers.items())
        self._save_unsaved()

    def _save_unsaved(self) -> None:
        written = self._with_file(self._write) if self._unsaved else None
        if written:
            self._known.update(self._unsaved)
            self._unsaved = {}

    def _exchange_queue(self, state: QueueState, room: int) -> QueueNews | None:
        queue, now, wall = self._queue, self._clock.monotonic(), self._clock.time()
        if not (state or queue.holds_any or self.path.exists()):
            return QueueNews()
        news = self._with_file(lambda connection: queue.exchange(connection, state, room, now, wall))
        if news is not None:
            queue.committed(now)
        return news

    def _collect_outcome(self, request_id: str) -> KeptOutcome | None:
        if not self.path.exists():
            return None
        return self._with_file(lambda connection: self._queue.collect(connection, request_id))

    def _keep_turns(self, turns: Sequence[ChatTurn], running: Collection[str]) -> bool:
        now = self._clock.time()

        def keep(connection: sqlite3.Connection) -> bool:
            self._sessions.keep(connection, turns, running, now)
            return True

        return self._with_file(keep) is True

    def _delete_sessions(self, sessions: Collection[str] | None) -> int | None:
        if not self.path.exists():
            return 0
        deleted = self._with_file(lambda connection: self._sessions.delete(connection, sessions))
        if deleted and self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # another process that reads keeps the log for now
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted

    def _look(self, nothing: Result, look: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """What ``look`` finds, also in a file that can't be written; ``nothing`` without a file."""
        if not self.path.exists():
            return nothing
        found = self._with_file(look)
        return self._look_only(look) if found is None and self._connection is None else found

    def _close(self) -> None:
        self._closed_until = -float("inf")
        self._save_unsaved()
        if self._connection is not None and self._queue.holds_any:
            self._with_file(self._queue.release)
        if self._connection is not None and self._known:
            self._with_file(self._mark_seen)
        self._disconnect()

    def _with_file(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """Do ``work`` in a transaction; None, with the trouble told once, when that can't be."""
        try:
            try:
                return self._transact(work)
            except sqlite3.Error as error:
                if not damaged(error):
                    raise
                self._replace_damaged()
                return self._transact(work)
        except ForeignFile as error:
            self._failed(f"{self.path} {error}; it is left as it is")
        except sqlite3.Error as error:
            if not busy(error):
                self._disconnect()
            self._failed(f"{self.path} can't be used ({error})")
        except OSError as error:
            self._failed(f"{self.path} can't be used ({error.strerror or error})")
        return None

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        if self._connection is not None and identity(self.path) != self._opened:
            self._disconnect()  # it was removed or replaced, so what is written would be lost
            self._unsaved = {**self._known, **self._unsaved}
            self._queue.forget_written()
        if self._connection is None:
            now = self._clock.monotonic()
            if now < self._closed_until:
                return None
            self._closed_until = now + RETRY_OPEN_S
            self._opened = identity(self.path)
            self._connection = connect(self.path)
            self._opened = identity(self.path)
            self._closed_until = -float("inf")
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        if self._trouble:
            self._trouble = ""
            self._notices.append(f"{self.path} can be used again: state is kept over a restart.")
        return result

    def _failed(self, trouble: str) -> None:
        if not self._trouble:
            self._notices.append(f"{trouble}: state is kept in memory only and will not survive a restart.")
        self._trouble = trouble

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _replace_damaged(self) -> None:
        """Rename the damaged file, unless another process has done so already."""
        self._disconnect()
        self._closed_until = -float("inf")
        if self._opened is not None and identity(self.path) == self._opened:
            aside = set_aside(self.path)
            self._notices.append(f"{self.path} was damaged: it is now {aside.name}, and a new one is begun.")
        self._unsaved = {**self._known, **self._unsaved}
        self._queue.forget_written()

    def _read_only(self) -> dict[Key, Value]:
        """What a file holds that can be read but not written."""
        return self._look_only(self._read) or {}

    def _look_only(self, look: Callable[[sqlite3.Connection], Result]) -> Result | None:
        with contextlib.suppress(sqlite3.Error, OSError, ForeignFile):
            if self.path.is_file():
                connection = connect_for_reading(self.path)
                with contextlib.closing(connection):
                    return look(connection)
        return None

    def _read(self, connection: sqlite3.Connection) -> dict[Key, Value]:
        rows: dict[Key, Value] = {}
        unreadable: list[str] = []
        for kind, name, document in connection.execute("SELECT kind, name, document FROM state"):
            try:
                if kind == "account":
                    rows["account", name] = decode_account(document)
                elif kind == "provider":
                    rows["provider", name] = decode_circuit(document)
            except (TypeError, ValueError):
                unreadable.append(str(name))
        if unreadable:
            listed = ", ".join(sorted(unreadable)[:5]) + (", …" if len(unreadable) > 5 else "")
            self._notices.append(f"{self.path}: what was saved of {listed} can't be read; they start anew.")
        return rows

    def _mark_seen(self, connection: sqlite3.Connection) -> None:
        now = self._clock.time()
        connection.executemany(
            "UPDATE state SET seen_at = ? WHERE kind = ? AND name = ?",
            [(now, *key) for key in self._configured],
        )
        connection.execute("DELETE FROM state WHERE seen_at < ?", (now - FORGET_AFTER_S,))

    def _write(self, connection: sqlite3.Connection) -> bool:
        now = self._clock.time()
        for key, mine in self._unsaved.items():
            try:
                document = self._merged_document(connection, key, mine)
            except ValueError as error:  # it would keep all others from being saved
                self._notices.append(f"{self.path}: what changed of {key[1]} can't be saved ({error}).")
                continue
            connection.execute(
                "INSERT INTO state VALUES (?, ?, ?, ?) ON CONFLICT (kind, name) "
                "DO UPDATE SET seen_at = excluded.seen_at, document = excluded.document",
                (*key, now, document),
            )
        return True

    def _merged_document(self, connection: sqlite3.Connection, key: Key, mine: Value) -> str:
        row = connection.execute("SELECT document FROM state WHERE kind = ? AND name = ?", key).fetchone()
        base = self._known.get(key)
        if isinstance(mine, AccountState):
            if row is not None:
                with contextlib.suppress(TypeError, ValueError):  # an unreadable one is replaced
                    before = base if isinstance(base, AccountState) else _FRESH
                    mine = merged(before, mine, decode_account(row[0]))
            return encode_account(mine)
        if row is not None:
            with contextlib.suppress(TypeError, ValueError):
                before_it = base if isinstance(base, CircuitRecord) else None
                mine = merged_circuit(before_it, mine, decode_circuit(row[0]))
        return encode_circuit(mine)


def _system(rows: Mapping[Key, Value]) -> SystemState:
    accounts: dict[str, AccountState] = {}
    providers: dict[str, CircuitRecord | None] = {}
    for (_, name), value in rows.items():
        if isinstance(value, AccountState):
            accounts[name] = value
        else:
            providers[name] = value
    return SystemState(accounts, providers)
