"""What happened: frozen values with a sequence number, in the order in which it happened.

Panels, telemetry and recordings are projections of these events. :class:`Delta` goes only to the
caller of its request; all others are also published to subscribers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from smartfallback.model.circuits import CircuitState, CircuitTarget
from smartfallback.model.decisions import AdminState, Decision
from smartfallback.model.outcomes import AttemptRecord, Failure, NextStep
from smartfallback.model.quota import QuotaStatus, TruthLabel
from smartfallback.model.requests import Degradation, Origin, Reply, Seam


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. ``seq`` grows by one an event; ``at`` is in epoch seconds."""

    seq: int
    at: float


@dataclass(frozen=True, slots=True)
class RequestEvent(Event):
    """Base of the events in a request's life."""

    request_id: str


@dataclass(frozen=True, slots=True)
class RequestRouted(RequestEvent):
    """A request came in and its first candidate is chosen."""

    chain: str
    origin: Origin
    decision: Decision


@dataclass(frozen=True, slots=True)
class AttemptStarted(RequestEvent):
    """A candidate is being tried."""

    attempt: int
    account: str
    pool: str
    provider: str
    model: str
    decision: Decision
    hedge: bool = False
    """It runs beside another attempt that has not answered yet; the first to answer stays."""


@dataclass(frozen=True, slots=True)
class Delta(RequestEvent):
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class AttemptEnded(RequestEvent):
    """Base of the ways in which an attempt ends."""

    attempt: int
    account: str
    pool: str
    provider: str
    latency_s: float


@dataclass(frozen=True, slots=True)
class AttemptFailed(AttemptEnded):
    """An attempt ended in an error; ``then`` says what the engine does next."""

    failure: Failure
    then: NextStep


@dataclass(frozen=True, slots=True)
class AttemptDiverted(AttemptEnded):
    """An operator moved the request away before its first token."""

    reason: str


@dataclass(frozen=True, slots=True)
class AttemptOutrun(AttemptEnded):
    """Attempt number ``winner`` of a hedged pair answered first; nobody is blamed."""

    winner: int


@dataclass(frozen=True, slots=True)
class AnswerResumed(RequestEvent):
    """An answer that had broken off goes on; ``seam`` says where. What follows is new text."""

    seam: Seam


@dataclass(frozen=True, slots=True)
class RequestQueued(RequestEvent):
    """Nobody can serve the request now; it waits for capacity.

    ``place`` counts from 1 in the order of replay; ``expires_at`` is in epoch seconds.
    """

    origin: Origin
    chain: str
    priority: int
    place: int
    expires_at: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class RequestReplayed(RequestEvent):
    """A request leaves the queue and is tried again, after ``waited_s`` seconds in it.

    ``restored`` ones come from before a restart: their caller is gone, their answer is kept until it
    is collected.
    """

    origin: Origin
    chain: str
    waited_s: float
    restored: bool = False


@dataclass(frozen=True, slots=True)
class RequestDegraded(RequestEvent):
    """The answer will be less than what was asked for."""

    degradation: Degradation


@dataclass(frozen=True, slots=True)
class RequestFinished(RequestEvent):
    """The answer is complete. Subscribers get the reply too, with its text."""

    origin: Origin
    reply: Reply


@dataclass(frozen=True, slots=True)
class RequestFailed(RequestEvent):
    """No account could answer, or the answer broke off (``partial_chars`` had been delivered)."""

    origin: Origin
    chain: str
    failure: Failure
    attempts: tuple[AttemptRecord, ...]
    latency_s: float
    partial_chars: int
    next_available_at: float | None
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RequestCancelled(RequestEvent):
    """The caller went away; nobody is blamed."""

    origin: Origin
    attempts: tuple[AttemptRecord, ...]
    latency_s: float


class Actor(StrEnum):
    """Who caused a change."""

    SYSTEM = "system"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class CircuitChanged(Event):
    """A circuit went from one state to another. ``until`` is when an open one may probe."""

    target: CircuitTarget
    old: CircuitState
    new: CircuitState
    cause: str
    actor: Actor
    until: float | None


@dataclass(frozen=True, slots=True)
class AdminChanged(Event):
    """An account's admin state changed."""

    account: str
    old: AdminState
    new: AdminState
    reason: str
    actor: Actor


@dataclass(frozen=True, slots=True)
class CooldownStarted(Event):
    """An account (or one of its models) rests until a time."""

    account: str
    model: str | None
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class ConcurrencyChanged(Event):
    """How many requests an account may run at once was lowered, or raised a step again."""

    account: str
    old: int
    new: int
    configured: int
    cause: str


@dataclass(frozen=True, slots=True)
class QuotaStatusChanged(Event):
    """The status of an account's binding window changed."""

    account: str
    old: QuotaStatus
    new: QuotaStatus
    percent_used: float | None


@dataclass(frozen=True, slots=True)
class QuotaReset(Event):
    """A quota window began anew."""

    account: str
    window: str
    used_before: float


@dataclass(frozen=True, slots=True)
class ResetValidated(Event):
    """An account that was out has its quota back; ``by`` says who showed it. Its rate climbs from now."""

    account: str
    by: str


@dataclass(frozen=True, slots=True)
class ResetOverdue(Event):
    """An account is exhausted although its quota should have begun anew.

    ``tries`` counts the tries that found it so; the next one is at ``retry_at`` (epoch seconds).
    """

    account: str
    tries: int
    retry_at: float
    detail: str


@dataclass(frozen=True, slots=True)
class AccountResumed(Event):
    """An account that was out takes as many requests as any other again."""

    account: str


@dataclass(frozen=True, slots=True)
class QuotaHeard(Event):
    """A quota is known in another way than before: its source answers, fails, or answers again."""

    account: str
    source: str
    label: TruthLabel
    percent_used: float | None
    note: str


@dataclass(frozen=True, slots=True)
class QuotaCorrected(Event):
    """An operator set what is used of a quota window, in its unit."""

    account: str
    window: str
    used_before: float
    used: float


@dataclass(frozen=True, slots=True)
class StrategyChanged(Event):
    """A pool selects by another strategy."""

    pool: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class AttentionRaised(Event):
    """An account can't serve until somebody acts; ``hint`` says how."""

    account: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class DegradedModeChanged(Event):
    """A chain's first pool stopped, or started again, having any usable account."""

    chain: str
    degraded: bool
    detail: str


@dataclass(frozen=True, slots=True)
class ProviderNotice(Event):
    """A provider tells something worth knowing, such as a restarted child process."""

    pool: str
    message: str


@dataclass(frozen=True, slots=True)
class StateNotice(Event):
    """Something about how state is kept over a restart, such as a file that can't be written."""

    message: str
