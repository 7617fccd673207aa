"""The routing log: what became of each request, projected from the engine's events."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from smartfallback import (
    AttemptStarted,
    RequestCancelled,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
)
from smartfallback_console.changes import NoteEntry, Severity, describe
from smartfallback_console.course import Course, Outcome, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import Event, Failure

CAPACITY = 2_000
"""Entries kept; the oldest go first."""
BEGINNINGS = (RequestRouted, AttemptStarted, RequestQueued, RequestReplayed)
"""Events of which one tells enough of a request whose first event was missed."""


@dataclass(slots=True)
class RequestEntry(Course):
    """One request."""

    seq: int
    at: float
    request_id: str
    origin: str
    chain: str
    latency_s: float | None = None
    first_token_s: float | None = None
    tokens: int | None = None
    cost: float | None = None
    failure: Failure | None = None
    partial_chars: int = 0
    next_available_at: float | None = None
    skipped: tuple[str, ...] = ()

    def matches(self, needle: str) -> bool:
        """Whether any account, pool, mark, degradation or origin holds the text."""
        words = [self.origin, self.chain, self.outcome.value]
        words += [f"{piece.kind.value.replace('_', ' ')} {in_words(piece)}" for piece in self.degradations]
        words += ["hedge" for hop in self.hops if hop.hedge]
        words += ["queued" for _ in self.waits]
        words += [word for hop in self.hops for word in (hop.account, hop.pool, hop.mark)]
        return any(needle in word.casefold() for word in words)


Entry = RequestEntry | NoteEntry


class RoutingLog:
    """Keeps the last entries in order and updates those that still run."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.entries: list[Entry] = []
        self.dropped = 0
        """Events that never arrived because the console fell behind."""
        self._capacity = capacity
        self._running: dict[str, RequestEntry] = {}

    def apply(self, events: Iterable[Event]) -> bool:
        """Take in events; returns whether anything changed."""
        changed = False
        for event in events:
            changed = self._apply(event) or changed
        excess = len(self.entries) - self._capacity
        if excess > self._capacity // 10:
            for old in islice(self.entries, excess):
                if isinstance(old, RequestEntry):
                    self._running.pop(old.request_id, None)
            del self.entries[:excess]
        return changed

    def history(self, account: str, provider: str, limit: int) -> list[tuple[float, Severity, str]]:
        """What happened to an account, newest first: changes of state and failed attempts.

        Args:
            account: Its id.
            provider: The id of its provider, whose changes concern it too.
            limit: At most so many.
        """
        found: list[tuple[float, Severity, str]] = []
        for entry in reversed(self.entries):
            if len(found) >= limit:
                break
            if isinstance(entry, NoteEntry):
                if entry.subject == account or entry.subject.startswith(f"{account}/"):
                    found.append((entry.at, entry.severity, entry.text))
                elif entry.subject == provider:
                    found.append((entry.at, entry.severity, f"{provider}: {entry.text}"))
                continue
            for hop in reversed(entry.hops):
                if hop.account == account and hop.failure is not None:
                    found.append((entry.at, Severity.WARNING, f"attempt failed: {hop.failure}"))
        return found[:limit]

    def _apply(self, event: Event) -> bool:
        match event:
            case RequestFinished():
                entry = self._ended(event, event.origin.value)
                reply = event.reply
                entry.answered(reply)
                entry.latency_s, entry.first_token_s = reply.latency_s, reply.first_token_s
                entry.tokens, entry.cost = reply.usage.total_tokens, reply.cost
            case RequestFailed():
                entry = self._ended(event, event.origin.value)
                entry.outcome, entry.latency_s, entry.failure = (
                    Outcome.FAILED,
                    event.latency_s,
                    event.failure,
                )
                entry.complete(event.attempts)
                entry.partial_chars, entry.next_available_at = event.partial_chars, event.next_available_at
                entry.skipped, entry.chain = event.skipped, event.chain
            case RequestCancelled():
                entry = self._ended(event, event.origin.value)
                entry.outcome, entry.latency_s = Outcome.CANCELLED, event.latency_s
                entry.complete(event.attempts)
            case RequestEvent():
                return self._goes_on(event)
            case _:
                note = describe(event)
                if note is None:
                    return False
                self.entries.append(note)
        return True

    def _goes_on(self, event: RequestEvent) -> bool:
        if event.request_id not in self._running and not isinstance(event, BEGINNINGS):
            return False  # what comes after the end, such as the loser of a hedged pair
        entry = self._entry(event)
        if isinstance(event, RequestRouted | RequestQueued | RequestReplayed):
            entry.origin, entry.chain = event.origin.value, event.chain
        return entry.take(event)

    def _ended(self, event: RequestEvent, origin: str) -> RequestEntry:
        entry = self._entry(event)
        entry.origin = origin
        self._running.pop(event.request_id, None)
        return entry

    def _entry(self, event: RequestEvent) -> RequestEntry:
        """The running request, or a new entry if its beginning was dropped."""
        entry = self._running.get(event.request_id)
        if entry is None:
            entry = RequestEntry(event.seq, event.at, event.request_id, "api", "")
            self._running[event.request_id] = entry
            self.entries.append(entry)
        return entry

    def find(self, request_id: str) -> RequestEntry | None:
        """The entry of a request, None when it is no longer kept."""
        for entry in reversed(self.entries):
            if isinstance(entry, RequestEntry) and entry.request_id == request_id:
                return entry
        return None
