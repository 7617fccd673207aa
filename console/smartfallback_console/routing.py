"""The routing log: what became of each request, projected from the engine's events."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from smartfallback import (
    AccountResumed,
    AdminChanged,
    AttemptDiverted,
    AttemptFailed,
    AttemptStarted,
    AttentionRaised,
    CircuitChanged,
    CooldownStarted,
    DegradedModeChanged,
    ProviderNotice,
    QuotaCorrected,
    QuotaHeard,
    QuotaReset,
    QuotaStatusChanged,
    RequestCancelled,
    RequestDegraded,
    RequestFailed,
    RequestFinished,
    RequestRouted,
    ResetOverdue,
    ResetValidated,
    StateNotice,
    StrategyChanged,
    TruthLabel,
)
from smartfallback_console.formatting import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import Decision, Event, Failure

CAPACITY = 2_000
"""Entries kept; the oldest go first."""


class Outcome(StrEnum):
    """How a request stands."""

    RUNNING = "running"
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Severity(StrEnum):
    """How much a change of state should catch the eye."""

    INFO = "info"
    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"


@dataclass(slots=True)
class Hop:
    """One attempt; ``failure`` is None while it runs and when it answered."""

    account: str
    pool: str
    decision: Decision | None = None
    failure: Failure | None = None
    diverted: str = ""
    latency_s: float | None = None
    then: str = ""

    @property
    def mark(self) -> str:
        """In a word or number why it ended, empty if it did not fail."""
        if self.diverted:
            return "moved"
        if self.failure is None:
            return ""
        if self.failure.http_status:
            return str(self.failure.http_status)
        return self.failure.category.value.replace("_error", "").replace("_", " ")


@dataclass(slots=True)
class RequestEntry:
    """One request."""

    seq: int
    at: float
    request_id: str
    origin: str
    chain: str
    hops: list[Hop] = field(default_factory=list)
    outcome: Outcome = Outcome.RUNNING
    latency_s: float | None = None
    first_token_s: float | None = None
    tokens: int | None = None
    cost: float | None = None
    degradations: list[str] = field(default_factory=list)
    failure: Failure | None = None
    partial_chars: int = 0
    next_available_at: float | None = None
    skipped: tuple[str, ...] = ()
    decision: Decision | None = None

    def matches(self, needle: str) -> bool:
        """Whether any account, pool, mark or origin holds the text."""
        words = [self.origin, self.chain, self.outcome.value, *self.degradations]
        words += [word for hop in self.hops for word in (hop.account, hop.pool, hop.mark)]
        return any(needle in word.casefold() for word in words)


@dataclass(slots=True)
class NoteEntry:
    """A change of state between the requests."""

    seq: int
    at: float
    severity: Severity
    subject: str
    text: str

    def matches(self, needle: str) -> bool:
        """Whether its words hold the text."""
        return needle in self.subject.casefold() or needle in self.text.casefold()


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
            case RequestRouted():
                entry = RequestEntry(event.seq, event.at, event.request_id, event.origin.value, event.chain)
                entry.decision = event.decision
                self._running[event.request_id] = entry
                self.entries.append(entry)
            case AttemptStarted():
                entry = self._entry(event.request_id, event.seq, event.at)
                entry.hops.append(Hop(event.account, event.pool, event.decision))
            case AttemptFailed():
                hop = self._hop(self._entry(event.request_id, event.seq, event.at), event.account, event.pool)
                hop.failure, hop.latency_s, hop.then = event.failure, event.latency_s, event.then.value
            case AttemptDiverted():
                hop = self._hop(self._entry(event.request_id, event.seq, event.at), event.account, event.pool)
                hop.diverted, hop.latency_s = event.reason or "moved by the operator", event.latency_s
            case RequestDegraded():
                entry = self._entry(event.request_id, event.seq, event.at)
                entry.degradations.append(event.degradation.detail or event.degradation.kind.value)
            case RequestFinished():
                self._finished(event)
            case RequestFailed():
                self._failed(event)
            case RequestCancelled():
                entry = self._entry(event.request_id, event.seq, event.at, event.origin.value)
                entry.outcome, entry.latency_s = Outcome.CANCELLED, event.latency_s
                self._running.pop(event.request_id, None)
            case _:
                note = describe(event)
                if note is None:
                    return False
                self.entries.append(note)
        return True

    def _finished(self, event: RequestFinished) -> None:
        reply = event.reply
        entry = self._entry(event.request_id, event.seq, event.at, event.origin.value)
        entry.outcome = Outcome.ANSWERED
        entry.latency_s, entry.first_token_s = reply.latency_s, reply.first_token_s
        entry.tokens, entry.cost = reply.usage.total_tokens, reply.cost
        entry.degradations = [piece.detail or piece.kind.value for piece in reply.degradations]
        if not entry.hops:
            entry.hops = [Hop(record.account, record.pool, None, record.failure) for record in reply.attempts]
        if entry.hops:
            entry.hops[-1].latency_s = reply.attempts[-1].latency_s if reply.attempts else reply.latency_s
        self._running.pop(event.request_id, None)

    def _failed(self, event: RequestFailed) -> None:
        entry = self._entry(event.request_id, event.seq, event.at, event.origin.value)
        entry.outcome, entry.latency_s, entry.failure = Outcome.FAILED, event.latency_s, event.failure
        entry.partial_chars, entry.next_available_at = event.partial_chars, event.next_available_at
        entry.skipped = event.skipped
        self._running.pop(event.request_id, None)

    def _entry(self, request_id: str, seq: int, at: float, origin: str = "") -> RequestEntry:
        """The running request, or a new entry if its beginning was dropped."""
        entry = self._running.get(request_id)
        if entry is None:
            entry = RequestEntry(seq, at, request_id, origin or "api", "")
            self._running[request_id] = entry
            self.entries.append(entry)
        return entry

    @staticmethod
    def _hop(entry: RequestEntry, account: str, pool: str) -> Hop:
        if not entry.hops or entry.hops[-1].account != account:
            entry.hops.append(Hop(account, pool))
        return entry.hops[-1]


def describe(event: Event) -> NoteEntry | None:
    """A change of state in words; None for an event that is no change of state."""
    severity, subject, text = Severity.INFO, "", ""
    match event:
        case CircuitChanged():
            new = event.new.value
            subject = event.target.name
            scope = "" if event.target.scope.value == "account" else f" ({event.target.scope.value})"
            text = f"circuit{scope} {event.old.value} → {new}".replace("_", "-")
            text += f": {event.cause}" if event.cause else ""
            bad = new in ("open", "forced_open")
            severity = Severity.ERROR if bad else Severity.GOOD if new == "closed" else Severity.WARNING
        case AdminChanged():
            subject, text = event.account, f"{event.old.value} → {event.new.value}"
            text += f": {event.reason}" if event.reason else ""
        case CooldownStarted():
            subject = event.account
            text = f"rests {duration(event.until - event.at)}"
            text += f" on {event.model}" if event.model else ""
            text += f": {event.reason}" if event.reason else ""
            severity = Severity.WARNING
        case QuotaStatusChanged():
            subject = event.account
            used = "" if event.percent_used is None else f" at {event.percent_used:.1f} % used"
            text = f"quota {event.old.value} → {event.new.value}{used}"
            good = event.new.value == "healthy"
            severity = Severity.GOOD if good else Severity.WARNING
        case QuotaHeard():
            if event.label is TruthLabel.REPORTED:
                return None
            subject, severity = event.account, Severity.WARNING
            used = "" if event.percent_used is None else f" at {event.percent_used:.0f} %"
            text = f"quota is {event.label.value}{used}"
            text += f": {event.note}" if event.note else ""
        case QuotaCorrected():
            subject, text = event.account, f"quota of the {event.window} corrected by hand"
        case QuotaReset():
            subject, text, severity = event.account, f"quota of the {event.window} began anew", Severity.GOOD
        case ResetOverdue():
            subject, severity = event.account, Severity.WARNING
            left = max(0.0, event.retry_at - event.at)
            text = f"quota should have begun anew and has not; try {event.tries + 1} in {duration(left)}"
            text += f": {event.detail}" if event.detail else ""
        case ResetValidated():
            subject, severity = event.account, Severity.GOOD
            text = f"has its quota back ({event.by}); its share of requests climbs step by step"
        case AccountResumed():
            subject, text, severity = event.account, "takes its full share of requests again", Severity.GOOD
        case StrategyChanged():
            subject, text = event.pool, f"strategy {event.old} → {event.new}"
        case AttentionRaised():
            subject, severity = event.account, Severity.ERROR
            text = f"needs attention: {event.message}" + (f". {event.hint}" if event.hint else "")
        case DegradedModeChanged():
            subject = event.chain
            text = f"degraded: {event.detail}" if event.degraded else "no longer degraded"
            severity = Severity.WARNING if event.degraded else Severity.GOOD
        case ProviderNotice():
            subject, text = event.pool, event.message
        case StateNotice():
            subject, text, severity = "state", event.message, Severity.WARNING
        case _:
            return None
    return NoteEntry(event.seq, event.at, severity, subject, text)
