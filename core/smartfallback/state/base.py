"""What keeps the state of accounts and circuits over a restart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from smartfallback.model.chat_sessions import ChatTranscript, ChatTurn, SessionCursor, SessionPage
from smartfallback.model.history import PastRequest
from smartfallback.model.queueing import KeptOutcome, QueueNews, QueueState
from smartfallback.model.sharing import StoreView
from smartfallback.model.state import SystemState


class SessionStore(Protocol):
    """Keeps chat sessions, within the bounds of :mod:`smartfallback.model.chat_sessions`."""

    async def keep_turns(self, turns: Sequence[ChatTurn], running: Collection[str]) -> bool:
        """Keep new or changed turns, and those whose answer is on its way as such for a while longer.

        Args:
            turns: What to keep.
            running: Ids of turns that were kept earlier and still run.

        Returns:
            Whether it is kept; what is not is to be handed in again.
        """
        ...

    async def list_sessions(
        self, words: str, limit: int, after: SessionCursor | None = None
    ) -> SessionPage | None:
        """Sessions, the last changed first; None when the storage can't be read.

        Args:
            words: Each of these words stands somewhere in a session that fits; empty for all sessions.
            limit: How many at most. A search that takes long gives fewer, with a cursor to go on from.
            after: Where an earlier page ended.
        """
        ...

    async def load_session(self, session: str) -> ChatTranscript | None:
        """A session by its id; None when there is none, or when the storage can't be read."""
        ...

    async def delete_sessions(self, sessions: Collection[str] | None) -> int | None:
        """Delete sessions by their ids, None for all of them, so that nothing of their texts remains.

        Returns:
            How many there were; None when they could not be deleted.
        """
        ...


class StateStore(SessionStore, Protocol):
    """Keeps state; one orchestrator owns it and closes it.

    No method raises for trouble with the storage, and none is called on a request's way: what can't
    be kept stays in memory, is tried again with the next :meth:`save`, and is told of once.
    """

    async def load(self, accounts: Collection[str], providers: Collection[str]) -> SystemState:
        """What was saved before, also of names that are not configured.

        Holds are those of other processes, gone or not, as far as they have not ended by now.

        Args:
            accounts: The configured accounts; the state of others may be forgotten after a while.
            providers: The configured providers, likewise.
        """
        ...

    async def save(self, changes: SystemState) -> None:
        """Keep the state of these accounts and providers; without any, what is still unsaved."""
        ...

    async def exchange_queue(self, state: QueueState, room: int) -> QueueNews | None:
        """Keep the queue as it is now, and adopt requests that nobody owns any more.

        Args:
            state: All that waits, and new outcomes. A request that was in the state of an earlier call
                and is not in this one has ended and is forgotten.
            room: How many more requests the queue can take.

        Returns:
            What is new; None when nothing could be kept, so that the outcomes are to be handed in again.
        """
        ...

    async def collect_outcome(self, request_id: str) -> KeptOutcome | None:
        """Take out the oldest outcome of a request of that name; None when there is none."""
        ...

    async def keep_history(self, ended: Sequence[PastRequest]) -> bool:
        """Keep what became of requests, within the bounds of :mod:`smartfallback.model.history`.

        One that is handed in twice is kept once.

        Returns:
            Whether it is kept; what is not is to be handed in again.
        """
        ...

    async def history(self, limit: int, since: float | None = None) -> tuple[PastRequest, ...]:
        """What became of the latest requests, the newest first; nothing while the storage can't be read.

        Args:
            limit: How many at most.
            since: Only those that ended then or later, in epoch seconds.
        """
        ...

    def view(self) -> StoreView:
        """Where state is kept, and how well. Costs next to nothing."""
        ...

    def take_notices(self) -> tuple[str, ...]:
        """What the operator should know, in sentences; each is handed out once."""
        ...

    async def aclose(self) -> None:
        """Save what is still unsaved, forget this process's holds, and let go of the storage.

        Safe to call twice.
        """
        ...
