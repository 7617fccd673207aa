"""What of the queue is to survive a restart, and the outcomes of requests whose caller is gone.

It holds plain values only: :mod:`~smartfallback.engine.replays` carries them to the storage and back.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from smartfallback.clock import Clock
from smartfallback.model.outcomes import Failure, RequestError
from smartfallback.model.queueing import KeptOutcome, QueuedRequest, QueueNews, QueueState
from smartfallback.model.requests import QueueTerms, Reply, Request

MOST_UNWRITTEN: Final = 500
"""So many outcomes are held while the storage can't take them; the oldest go first."""


class QueueArchive:
    """The records of one orchestrator's queue, by the names that its requests have there."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, QueuedRequest] = {}
        self._names: dict[str, str] = {}
        """Of the requests with a record, by ticket."""
        self._restored: set[str] = set()
        self._outcomes: dict[str, KeptOutcome] = {}
        self._stored_outcomes = 0
        self._closed = False
        self._state: QueueState | None = None

    def note(self, name: str, request: Request, terms: QueueTerms, failure: Failure, since: float) -> None:
        """A request waits; ``since`` is in epoch seconds. One that was there before keeps its record.

        A request whose text is not to be kept gets none: its answer could not be collected.
        """
        if name in self._records or not request.keep_text:
            return
        ticket = secrets.token_hex(8)
        self._add(name, QueuedRequest(ticket, name, request, terms, failure, since))

    def forget(self, name: str) -> None:
        """A request with a caller is over. Once closed, what waits stays for the next start."""
        if not self._closed and name not in self._restored:
            self._drop(name)

    def delivered(self, name: str) -> None:
        """A request's answer has begun to reach its caller, so that it must not be asked again."""
        if name not in self._restored:
            self._drop(name)

    def is_restored(self, name: str) -> bool:
        """Whether the request comes from before a restart and has no caller."""
        return name in self._restored

    def restore(self, record: QueuedRequest, name: str) -> None:
        """A request of a process that is gone waits here now, as ``name``."""
        self._restored.add(name)
        self._add(name, record)

    def end_restored(self, name: str, outcome: Reply | RequestError) -> None:
        """A request without a caller is over; the outcome is kept until somebody asks for it.

        One that ended in an error because all closed is left for the next start.
        """
        self._restored.discard(name)
        if self._closed and isinstance(outcome, RequestError):
            return
        record = self._records.get(name)
        if record is not None:
            self._drop(name)
            if isinstance(outcome, Reply):
                outcome = replace(outcome, request_id=record.request_id)
            else:
                outcome.request_id = record.request_id
            kept = KeptOutcome(record.ticket, record.request_id, self._clock.time(), outcome)
            self.put_back(kept)

    def put_back(self, kept: KeptOutcome) -> None:
        """Keep an outcome."""
        self._outcomes[kept.ticket] = kept
        while len(self._outcomes) > MOST_UNWRITTEN:
            del self._outcomes[next(iter(self._outcomes))]
        self._state = None

    def take_outcome(self, request_id: str) -> KeptOutcome | None:
        """The oldest outcome of that name among those that the storage does not have yet."""
        for ticket, kept in self._outcomes.items():
            if kept.request_id == request_id:
                del self._outcomes[ticket]
                self._state = None
                return kept
        return None

    def taken_from_storage(self) -> None:
        """Somebody has collected an outcome that the storage had."""
        self._stored_outcomes = max(0, self._stored_outcomes - 1)

    @property
    def uncollected(self) -> int:
        """How many outcomes wait for somebody to collect them, as far as known."""
        return self._stored_outcomes + len(self._outcomes)

    def state(self) -> QueueState:
        """All that is to be kept; the same object as long as nothing changes."""
        if self._state is None:
            records = {record.ticket: record for record in self._records.values()}
            self._state = QueueState(records, tuple(self._outcomes.values()))
        return self._state

    def written(self, state: QueueState, news: QueueNews) -> list[str]:
        """The storage has ``state``.

        Returns:
            The names of requests without a caller that another process has taken over meanwhile.
        """
        for kept in state.outcomes:
            self._outcomes.pop(kept.ticket, None)
        if state.outcomes:
            self._state = None
        if news.uncollected is not None:
            self._stored_outcomes = news.uncollected
        return list(self._lose(news.lost))

    def close(self) -> None:
        """From now on what waits is left for the next start."""
        self._closed = True

    def _lose(self, tickets: Iterable[str]) -> Iterable[str]:
        for ticket in tickets:
            name = self._names.get(ticket)
            if name is not None:
                self._drop(name)
                if name in self._restored:
                    yield name

    def _add(self, name: str, record: QueuedRequest) -> None:
        self._records[name] = record
        self._names[record.ticket] = name
        self._state = None

    def _drop(self, name: str) -> None:
        record = self._records.pop(name, None)
        if record is not None:
            del self._names[record.ticket]
            self._state = None
