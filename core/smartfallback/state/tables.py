"""All that is kept over a restart, in tables of one database; where that database is, subclasses say."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from smartfallback.clock import Clock, SystemClock
from smartfallback.model.chat_sessions import ChatTranscript, ChatTurn, SessionCursor, SessionPage
from smartfallback.model.history import PastRequest
from smartfallback.model.queueing import KeptOutcome, QueueNews, QueueState
from smartfallback.model.sharing import StoreView
from smartfallback.model.state import SystemState
from smartfallback.state.history_table import HistoryTable
from smartfallback.state.queue_table import QueueTable
from smartfallback.state.session_table import SessionTable
from smartfallback.state.state_table import StateTable
from smartfallback.state.worker import Worker

Result = TypeVar("Result")


class TableStore(ABC):
    """A :class:`~smartfallback.state.base.StateStore` that does all of its work on a thread of its own.

    Args:
        clock: For the age of what is kept; the machine's by default.
    """

    def __init__(self, clock: Clock | None) -> None:
        self._clock = clock or SystemClock()
        self._worker = Worker("smartfallback-state")
        self._notices: list[str] = []
        self._load_abandoned = False
        # What follows belongs to the worker's thread, apart from a look whether anything is to be done.
        self._states = StateTable(self._tell)
        self._queue = QueueTable(self._tell)
        self._history = HistoryTable(self._tell)
        self._sessions = SessionTable()

    # -- what subclasses do, on the worker's thread ------------------------------------------

    @abstractmethod
    def _with_tables(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """Do ``work`` in a transaction; None, with the trouble told once, when that can't be."""

    @abstractmethod
    def _is_there(self) -> bool:
        """Whether there is anything to look into; if not, nothing is made for the sake of a look."""

    @abstractmethod
    def _let_go(self) -> None:
        """Let go of the database; it may be needed once more."""

    def _look_elsewhere(self, _look: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """What ``look`` finds where it can be read only, when :meth:`_with_tables` can't."""
        return None

    def _empty_log(self) -> None:  # noqa: B027 - only files have one
        """Let nothing of what was deleted remain beside the tables."""

    def _try_again(self) -> None:  # noqa: B027 - only files make one wait
        """Do not wait any longer after trouble."""

    def _tell(self, notice: str) -> None:
        self._notices.append(notice)

    # -- the protocol ------------------------------------------------------------------------

    async def load(self, accounts: Collection[str], providers: Collection[str]) -> SystemState:
        """What was saved before. What nobody configured for 90 days is forgotten."""
        self._states.configure(accounts, providers)
        try:
            return await self._worker.do(self._load)
        except BaseException:
            self._load_abandoned = True
            raise

    async def save(self, changes: SystemState) -> None:
        """Write changes; costs nothing when there is nothing to write."""
        if changes or self._states.unsaved:
            await self._worker.do(lambda: self._save(changes))

    async def exchange_queue(self, state: QueueState, room: int) -> QueueNews | None:
        """Keep the queue, and adopt what processes that are gone have left; costs little when idle."""
        if not self._queue.due(state, self._clock.monotonic()):
            return QueueNews()
        return await self._worker.do(lambda: self._exchange_queue(state, room))

    async def collect_outcome(self, request_id: str) -> KeptOutcome | None:
        """Take out the oldest outcome of a request of that name."""
        return await self._worker.do(lambda: self._collect_outcome(request_id))

    async def keep_history(self, ended: Sequence[PastRequest]) -> bool:
        """Keep what became of requests; False when that can't be now."""
        if not ended:
            return True
        return await self._worker.do(lambda: self._keep_history(tuple(ended)))

    async def history(self, limit: int, since: float | None = None) -> tuple[PastRequest, ...]:
        """What became of the latest requests, the newest first."""
        return await self._worker.do(lambda: self._latest(limit, since))

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

    @abstractmethod
    def view(self) -> StoreView:
        """Where state is kept, and how well."""

    def take_notices(self) -> tuple[str, ...]:
        """What the operator should know; each sentence once."""
        notices, self._notices = self._notices, []
        return tuple(notices)

    async def aclose(self) -> None:
        """Write what is unsaved, give back what this process holds, and let go of the database."""
        try:
            await self._worker.do(self._close)
        finally:
            self._worker.stop()

    # -- on the worker's thread --------------------------------------------------------------

    def _load(self) -> SystemState:
        now = self._clock.time()

        def read(connection: sqlite3.Connection) -> SystemState:
            return self._states.read(connection, now)

        found = self._with_tables(read)
        if found is None:
            found = self._look_elsewhere(read) or SystemState()
        if self._states.anything_known:
            self._with_tables(lambda connection: self._states.mark_seen(connection, now))
        return found

    def _save(self, changes: SystemState) -> None:
        if self._load_abandoned:  # nobody took it up, so nothing of it was restored
            self._load_abandoned = False
            self._states.forget_read()
        self._states.take(changes)
        self._save_unsaved()

    def _save_unsaved(self) -> None:
        now = self._clock.time()
        states = self._states
        if states.unsaved and self._with_tables(lambda connection: states.write(connection, now)):
            states.written()

    def _exchange_queue(self, state: QueueState, room: int) -> QueueNews | None:
        queue, now, wall = self._queue, self._clock.monotonic(), self._clock.time()
        if not (state or queue.holds_any or self._is_there()):
            return QueueNews()
        news = self._with_tables(lambda connection: queue.exchange(connection, state, room, now, wall))
        if news is not None:
            queue.committed(now)
        return news

    def _collect_outcome(self, request_id: str) -> KeptOutcome | None:
        if not self._is_there():
            return None
        return self._with_tables(lambda connection: self._queue.collect(connection, request_id))

    def _keep_history(self, ended: Sequence[PastRequest]) -> bool:
        now = self._clock.time()
        return bool(self._with_tables(lambda connection: self._history.keep(connection, ended, now)))

    def _latest(self, limit: int, since: float | None) -> tuple[PastRequest, ...]:
        return self._look((), lambda connection: self._history.latest(connection, limit, since)) or ()

    def _keep_turns(self, turns: Sequence[ChatTurn], running: Collection[str]) -> bool:
        now = self._clock.time()

        def keep(connection: sqlite3.Connection) -> bool:
            self._sessions.keep(connection, turns, running, now)
            return True

        return self._with_tables(keep) is True

    def _delete_sessions(self, sessions: Collection[str] | None) -> int | None:
        if not self._is_there():
            return 0
        deleted = self._with_tables(lambda connection: self._sessions.delete(connection, sessions))
        if deleted:
            self._empty_log()
        return deleted

    def _look(self, nothing: Result, look: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """What ``look`` finds, also in a file that can't be written; ``nothing`` without a file."""
        if not self._is_there():
            return nothing
        found = self._with_tables(look)
        return self._look_elsewhere(look) if found is None and not self._is_open() else found

    def _close(self) -> None:
        self._try_again()
        self._save_unsaved()
        if self._is_open():
            self._with_tables(self._release)
        self._let_go()

    @abstractmethod
    def _is_open(self) -> bool:
        """Whether the database is in use."""

    def _release(self, connection: sqlite3.Connection) -> None:
        self._states.release(connection)
        if self._queue.holds_any:
            self._queue.release(connection)
        if self._states.anything_known:
            self._states.mark_seen(connection, self._clock.time())

    def _begin_anew(self) -> None:
        """The database is another one: all that is known is to be written again."""
        self._states.forget_written()
        self._queue.forget_written()
