"""The routing log: what became of each request, projected from the engine's events.

In front of what events tell stands what is kept of the requests before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from smartfallback import (
    AttemptRecord,
    AttemptResult,
    AttemptStarted,
    Degradation,
    DegradationKind,
    ErrorCategory,
    Failure,
    RequestCancelled,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
)
from smartfallback_console.changes import NoteEntry, Severity, describe
from smartfallback_console.course import Course, Outcome, Wait, headline, in_words
from smartfallback_console.formatting import calendar_date

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import Event, PastAttempt, PastRequest, RecoveryRecord
    from smartfallback_console.bridge import Earlier

CAPACITY = 2_000
"""Entries kept; the oldest go first."""
BEGINNINGS = (RequestRouted, AttemptStarted, RequestQueued, RequestReplayed)
"""Events of which one tells enough of a request whose first event was missed."""
NOT_KEPT: Final = "its words were not kept"
"""Stands for what an upstream said about an attempt before the start."""


@dataclass(slots=True)
class RequestEntry(Course):
    """One request, as events tell it or as it was kept.

    Attributes:
        at: When it came, in epoch seconds.
        ended_at: When it ended; None while it runs.
        error: The error that ended it, in words; ``hint`` is what the operator can do about it.
        degraded: The answer was less than what was asked for, if only that is known.
        before_start: It is told from what was kept of it, not by events.
        day: Month and day of one from before the day of the start, else empty.
        recovery: How it was recovered; only known of one from before the start.
    """

    seq: int
    at: float
    request_id: str
    origin: str
    chain: str
    latency_s: float | None = None
    first_token_s: float | None = None
    tokens: int | None = None
    cost: float | None = None
    error: str = ""
    hint: str = ""
    partial_chars: int = 0
    next_available_at: float | None = None
    skipped: tuple[str, ...] = ()
    ended_at: float | None = None
    degraded: bool = False
    before_start: bool = False
    day: str = ""
    recovery: RecoveryRecord | None = None

    @property
    def lack(self) -> str:
        """In a word, in what way the answer is less than what was asked for; empty if it is not."""
        return headline(self.degradations) or ("degraded" if self.degraded else "")

    def matches(self, needle: str) -> bool:
        """Whether any account, pool, mark, degradation or origin holds the text."""
        words = [self.origin, self.chain, self.outcome.value]
        words += [f"{piece.kind.value.replace('_', ' ')} {in_words(piece)}" for piece in self.degradations]
        words += ["degraded"] if self.degraded else []
        words += ["hedge" for hop in self.hops if hop.hedge]
        words += ["queued" for _ in self.waits]
        words += [word for hop in self.hops for word in (hop.account, hop.pool, hop.mark)]
        return any(needle in word.casefold() for word in words)


@dataclass(slots=True)
class StartEntry:
    """Where the log of this start begins; above it stands what was kept of ``count`` requests.

    ``at`` is in epoch seconds.
    """

    at: float
    count: int

    def matches(self, needle: str) -> bool:  # noqa: ARG002 - as the other entries are asked
        """It goes with what is shown above it, and is never looked for."""
        return False


Entry = RequestEntry | NoteEntry | StartEntry


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
        self._trim()
        return changed

    def look_back(self, earlier: Earlier) -> None:
        """Put what is kept of the requests before the start in front of all else, in the order they came."""
        if earlier.requests:
            past = [past_entry(request, earlier.until) for request in earlier.requests]
            past.sort(key=lambda entry: entry.at)
            self.entries[:0] = [*past, StartEntry(earlier.until, len(past))]
            self._trim()

    def _trim(self) -> None:
        excess = len(self.entries) - self._capacity
        if excess > self._capacity // 10:
            for old in islice(self.entries, excess):
                if isinstance(old, RequestEntry):
                    self._running.pop(old.request_id, None)
            del self.entries[:excess]

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
            if isinstance(entry, StartEntry):
                continue
            if isinstance(entry, NoteEntry):
                if entry.subject == account or entry.subject.startswith(f"{account}/"):
                    found.append((entry.at, entry.severity, entry.text))
                elif entry.subject == provider:
                    found.append((entry.at, entry.severity, f"{provider}: {entry.text}"))
                continue
            for hop in reversed(entry.hops):
                if hop.account == account and hop.failure is not None:
                    told = f"attempt failed: {hop.failure}"
                    if entry.before_start:
                        day = f" ({entry.day})" if entry.day else ""
                        told = f"attempt failed before this start{day}: {hop.mark}"
                    found.append((entry.at, Severity.WARNING, told))
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
                entry.outcome, entry.latency_s = Outcome.FAILED, event.latency_s
                entry.error, entry.hint = str(event.failure), event.failure.hint
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
        entry.origin, entry.ended_at = origin, event.at
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

    def find(self, request_id: str, ended_at: float | None = None) -> RequestEntry | None:
        """The entry of a request, None when it is no longer kept.

        Args:
            request_id: Its name, which a request before the start may have had too.
            ended_at: When it ended, in epoch seconds; None for the latest one since the start.
        """
        for entry in reversed(self.entries):
            if isinstance(entry, RequestEntry) and entry.request_id == request_id:
                found = not entry.before_start if ended_at is None else entry.ended_at == ended_at
                if found:
                    return entry
        return None


def past_entry(past: PastRequest, until: float) -> RequestEntry:
    """What is kept of a request as an entry like those that events tell of.

    Args:
        past: It has ended.
        until: The start, in epoch seconds.
    """
    began = past.at - past.latency_s
    date = calendar_date(began)
    cached = past.cached_age_s is not None
    entry = RequestEntry(
        seq=0,
        at=began,
        request_id=past.request_id,
        origin=past.origin.value,
        chain=past.chain,
        latency_s=past.latency_s,
        first_token_s=past.first_token_s,
        cost=past.cost,
        error=past.error,
        ended_at=past.at,
        outcome=Outcome(past.ending.value),
        degraded=past.degraded and not cached,
        before_start=True,
        day="" if date == calendar_date(until) else date[5:],
        cached_age_s=past.cached_age_s,
        cached_from=past.account if cached else "",
        degradations=[Degradation(DegradationKind.CACHED, "")] if cached else [],
        recovery=past.recovery,
    )
    if entry.outcome is Outcome.ANSWERED:
        entry.tokens = past.tokens
    entry.complete([_record(number, attempt) for number, attempt in enumerate(past.attempts, 1)])
    for hop in entry.hops:
        if hop.outrun not in (0, hop.number):  # of the two that ran side by side, the later one was the hedge
            entry.hops[max(hop.number, hop.outrun) - 1].hedge = True
    if past.queued_s:
        entry.waits.append(Wait(0, began, waited_s=past.queued_s))
    return entry


def _record(number: int, attempt: PastAttempt) -> AttemptRecord:
    account, pool, model, result, latency_s, category = attempt
    failure = None
    if category is not None or result is AttemptResult.FAILED:
        failure = Failure(category or ErrorCategory.UNKNOWN, NOT_KEPT)
    return AttemptRecord(number, account, pool, model, result, latency_s, failure)
