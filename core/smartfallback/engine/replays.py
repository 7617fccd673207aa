"""Carries the queue over a restart: what waited is asked again without a caller, and the answer kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.queue_archive import QueueArchive
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.model.events import Event, RequestFinished
from smartfallback.model.outcomes import ErrorCategory, Failure, RequestError
from smartfallback.model.queueing import KeptOutcome, QueuedRequest
from smartfallback.model.requests import Reply
from smartfallback.state.base import StateStore

COLLECT_WAIT_S: Final = 3.0
"""How long somebody who collects an outcome waits for the storage."""
CLOSE_WAIT_S: Final = 2.0

Start = Callable[[str, QueuedRequest, float], AsyncGenerator[Event, None]]
"""The events of a request that waits under this name since that monotonic instant."""


class Replays:
    """Keeps the storage and the queue of one orchestrator in step; owns the requests without a caller.

    Args:
        desk: The queue.
        archive: What of it is kept.
        store: Where it is kept.
        clock: The time.
        start: Asks a request again. It raises RequestError for one that can't be asked any more.
    """

    def __init__(
        self, desk: QueueDesk, archive: QueueArchive, store: StateStore, clock: Clock, start: Start
    ) -> None:
        self._desk = desk
        self._archive = archive
        self._store = store
        self._clock = clock
        self._start = start
        self._storage = asyncio.Lock()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetches: set[asyncio.Task[KeptOutcome | None]] = set()

    async def exchange(self) -> None:
        """Keep what has changed, and begin to replay what processes that are gone have left."""
        async with self._storage:
            state = self._archive.state()
            news = await self._store.exchange_queue(state, self._desk.room)
            if news is None:
                return
            for name in self._archive.written(state, news):
                self._desk.ended(name)
        # What is adopted while all closes stays in the storage for the next start.
        for record in () if self._closed else news.adopted:
            self._replay(record)

    async def collect(self, request_id: str) -> Reply | RequestError | None:
        """The outcome of a request that was restored after a restart; each is handed out once.

        Returns:
            How it ended, the oldest first where several have that id; None when there is nothing of
            that id (yet), or when the storage does not tell within :data:`COLLECT_WAIT_S`.
        """
        fetch = asyncio.create_task(self._fetch(request_id), name=f"smartfallback-collect-{request_id}")
        self._fetches.add(fetch)
        fetch.add_done_callback(self._fetches.discard)
        try:
            async with asyncio.timeout(COLLECT_WAIT_S):
                kept = await asyncio.shield(fetch)
        except TimeoutError:
            fetch.add_done_callback(self._put_back)
            return None
        except asyncio.CancelledError:
            fetch.add_done_callback(self._put_back)
            raise
        return None if kept is None else kept.outcome

    async def aclose(self) -> None:
        """End the requests without a caller; they are replayed after the next start."""
        self._closed = True
        tasks = tuple(self._tasks)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await asyncio.gather(*tasks, return_exceptions=True)
        for task in (*tasks, *self._fetches):
            task.cancel()
        await asyncio.gather(*tasks, *self._fetches, return_exceptions=True)

    def _replay(self, record: QueuedRequest) -> None:
        name = record.request_id
        if self._desk.holds(name):
            name = f"{name}-{record.ticket}"
        self._archive.restore(record, name)
        task = asyncio.create_task(self._run(name, record), name=f"smartfallback-replay-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, name: str, record: QueuedRequest) -> None:
        outcome: Reply | RequestError
        try:
            outcome = await self._outcome(name, record)
        except RequestError as error:
            outcome = error
        except Exception as error:
            # Whoever collects it has to learn that it ended, also when that was our own mistake.
            failure = Failure(ErrorCategory.UNKNOWN, f"the replay failed with {type(error).__name__}")
            outcome = RequestError(name, failure)
        self._archive.end_restored(name, outcome)

    async def _outcome(self, name: str, record: QueuedRequest) -> Reply:
        now = self._clock.monotonic()
        since = now - max(0.0, self._clock.time() - record.since)
        events = self._start(name, record, since)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, RequestFinished):
                    return event.reply
        raise RuntimeError("a stream of events ended without a result")

    async def _fetch(self, request_id: str) -> KeptOutcome | None:
        async with self._storage:  # an exchange under way may be writing the very one that is asked for
            kept = self._archive.take_outcome(request_id)
            if kept is None and not self._closed:
                kept = await self._store.collect_outcome(request_id)
                if kept is not None:
                    self._archive.taken_from_storage()
            return kept

    def _put_back(self, fetch: asyncio.Task[KeptOutcome | None]) -> None:
        """What nobody was there to take waits again."""
        if not fetch.cancelled() and fetch.exception() is None:
            kept = fetch.result()
            if kept is not None:
                self._archive.put_back(kept)
