"""Chat sessions: what a chat keeps over a restart, and finds again.

Turns are handed in as they begin and end, and written behind by an own task, at most once a second. So
a killed process leaves each turn that ran as one that was broken off, and no answer waits for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from typing import Final

from smartfallback.model.chat_sessions import (
    LISTED,
    ChatSession,
    ChatTranscript,
    ChatTurn,
    SessionCursor,
    TurnState,
)
from smartfallback.state.base import SessionStore

WRITE_EVERY_S: Final = 0.9
"""Time between two writes, at least; with that of the write itself a turn is kept within a second."""
SEEN_EVERY_S: Final = 2.5
"""How often the store is told that a turn still runs."""
RETRY_S: Final = 5.0
"""How long a store that could not write is let alone."""
READ_WAIT_S: Final = 10.0
"""How long somebody who asks for sessions waits for the storage."""
CLOSE_WAIT_S: Final = 2.0
MOST_WAITING: Final = 200
"""Turns that run, or that wait for a store that can't write; of more the oldest are let go."""


class SessionsLostError(RuntimeError):
    """The storage could not be read or written; the message says so in a sentence."""


class ChatSessions:
    """The chat sessions of one orchestrator, on its event loop.

    Args:
        store: Where they are kept; None keeps nothing.
    """

    def __init__(self, store: SessionStore | None) -> None:
        self._store = store
        self._unwritten: dict[str, ChatTurn] = {}
        self._running: dict[str, ChatTurn] = {}
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def kept(self) -> bool:
        """Whether anything is kept at all."""
        return self._store is not None

    def save_turn(self, turn: ChatTurn) -> None:
        """Keep a turn as it is now: when it begins, and once more when it ends. Returns at once."""
        if self._store is None or self._closed:
            return
        self._unwritten.pop(turn.id, None)
        self._unwritten[turn.id] = turn
        self._running.pop(turn.id, None)
        if turn.state is TurnState.RUNNING:
            self._running[turn.id] = turn
        for turns in (self._unwritten, self._running):
            while len(turns) > MOST_WAITING:
                del turns[next(iter(turns))]
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="smartfallback-sessions")

    async def list(self, limit: int = LISTED) -> tuple[ChatSession, ...]:
        """The sessions that were changed last, newest first.

        Raises:
            SessionsLostError: The storage can't be read.
        """
        return await self.search("", limit)

    async def search(self, words: str, limit: int = LISTED) -> tuple[ChatSession, ...]:
        """The sessions in whose titles and texts each of the words stands, newest first.

        Args:
            words: Apart by blanks; every sign stands for itself, capitals for small letters too.
            limit: How many at most.

        Raises:
            SessionsLostError: The storage can't be read, or it has none and can't be written.
        """
        store = self._store
        if store is None:
            return ()
        found: dict[str, ChatSession] = {}
        after: SessionCursor | None = None
        async with _patience():
            written = await self._write()
            while len(found) < limit:
                page = await store.list_sessions(words, limit - len(found), after)
                if page is None:
                    raise SessionsLostError("The kept sessions can't be read now.")
                found.update((session.id, session) for session in page.sessions)
                after = page.then
                if after is None:
                    break
        if not (found or written):
            raise SessionsLostError("Sessions can't be kept now.")
        return tuple(found.values())

    async def load(self, session: str) -> ChatTranscript | None:
        """A session with its turns, oldest first; None when there is none of that id, or it can't be read.

        Raises:
            SessionsLostError: The storage does not answer.
        """
        if self._store is None:
            return None
        async with _patience():
            await self._write()
            return await self._store.load_session(session)

    async def delete(self, sessions: Collection[str] | None) -> int:
        """Delete sessions by their ids, None for all, and what of them is not written yet.

        One in which another process goes on comes back with its next turn.

        Returns:
            How many there were.

        Raises:
            SessionsLostError: They could not be deleted.
        """
        if self._store is None:
            return 0
        async with _patience(), self._writing:
            for turns in (self._unwritten, self._running):
                for turn in tuple(turns.values()):
                    if sessions is None or turn.session in sessions:
                        del turns[turn.id]
            deleted = await self._store.delete_sessions(sessions)
        if deleted is None:
            raise SessionsLostError("The kept sessions can't be changed now.")
        return deleted

    async def aclose(self) -> None:
        """Write what is left; what still runs is kept as broken off. Safe to call twice."""
        self._closed = True
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for turn in self._running.values():
            self._unwritten[turn.id] = replace(turn, state=TurnState.BROKEN_OFF)
        self._running.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self._write()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEEN_EVERY_S if self._running else None):
                    await self._wake.wait()
            self._wake.clear()
            if await self._write(beat=True):
                await asyncio.sleep(WRITE_EVERY_S)
            else:
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _write(self, *, beat: bool = False) -> bool:
        """Write what waits; with ``beat`` also that turns still run. Returns whether it is written."""
        store = self._store
        async with self._writing:
            turns = tuple(self._unwritten.values())
            running = tuple(self._running) if beat else ()
            if store is None or not (turns or running):
                return True
            if not await store.keep_turns(turns, running):
                return False
            for turn in turns:
                if self._unwritten.get(turn.id) is turn:
                    del self._unwritten[turn.id]
            return True


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    """Waits for the storage, but not for ever."""
    try:
        async with asyncio.timeout(READ_WAIT_S):
            yield
    except TimeoutError:
        raise SessionsLostError(f"The storage has not answered for {READ_WAIT_S:g} s.") from None
