"""The course of one request: who was tried, how each try ended, and what it waited for.

The routing feed and the chat read it from the same events, and tell it with the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from smartfallback import (
    AnswerResumed,
    AttemptDiverted,
    AttemptFailed,
    AttemptOutrun,
    AttemptResult,
    AttemptStarted,
    DegradationKind,
    NextStep,
    RequestDegraded,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
)
from smartfallback_console.formatting import age, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from smartfallback import AttemptRecord, Decision, Degradation, Event, Failure, Reply, Seam

KINDS = {
    DegradationKind.FALLBACK_POOL: ("another pool", "other pool"),
    DegradationKind.RESERVE_QUOTA: ("reserve quota", "reserve"),
    DegradationKind.LOCAL_MODEL: ("local model", "local"),
    DegradationKind.TRIMMED_HISTORY: ("trimmed history", "trimmed"),
    DegradationKind.SHORTER_ANSWER: ("shorter answer", "shorter"),
    DegradationKind.CHEAPER_MODEL: ("cheaper model", "cheaper"),
    DegradationKind.CONTINUED: ("continued", "continued"),
    DegradationKind.CACHED: ("cached", "cached"),
}
"""In what way an answer is less than what was asked for: in words, and where there is little room."""
MOST_TELLING = (
    DegradationKind.CACHED,
    DegradationKind.CONTINUED,
    DegradationKind.SHORTER_ANSWER,
    DegradationKind.TRIMMED_HISTORY,
    DegradationKind.CHEAPER_MODEL,
    DegradationKind.LOCAL_MODEL,
)
"""Where one kind has to stand for all: first those that change the answer itself."""


ERROR_STATUS = 400
"""From this HTTP status on it says why an attempt failed."""


class Outcome(StrEnum):
    """How a request stands."""

    RUNNING = "running"
    QUEUED = "queued"
    """Nobody can serve it now: it waits for capacity."""
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Hop:
    """One attempt; ``failure`` is None while it runs and when it answered.

    ``number`` is the engine's, 0 when its beginning was missed. A ``hedge`` runs beside the one before
    it; ``outrun`` is the number of the attempt that answered before this one, 0 for none.
    """

    account: str
    pool: str
    decision: Decision | None = None
    failure: Failure | None = None
    diverted: str = ""
    latency_s: float | None = None
    then: str = ""
    number: int = 0
    model: str = ""
    hedge: bool = False
    outrun: int = 0

    @property
    def ended(self) -> bool:
        """Whether it ended without an answer."""
        return self.failure is not None or bool(self.diverted) or bool(self.outrun)

    @property
    def mark(self) -> str:
        """In a word or number why it ended, empty if it did not fail."""
        if self.diverted:
            return "moved"
        if self.failure is None:
            return ""
        if self.then == NextStep.CONTINUE.value:
            return "broke off"
        status = self.failure.http_status or 0
        if status >= ERROR_STATUS:  # trouble inside a good response is no 200
            return str(status)
        return self.failure.category.value.removesuffix("_error").removesuffix("_response").replace("_", " ")


@dataclass(slots=True)
class Wait:
    """One stay in the queue, after so many hops; times in epoch seconds.

    ``waited_s`` is None while it lasts. ``place`` is that on arrival, 0 when it is not known.
    """

    after: int
    since: float
    place: int = 0
    expires_at: float | None = None
    priority: int = 0
    failure: Failure | None = None
    waited_s: float | None = None
    restored: bool = False


class Role(StrEnum):
    """What a step of a request's path is."""

    FAILED = "failed"
    MOVED = "moved"
    OUTRUN = "outrun"
    ANSWERED = "answered"
    CANCELLED = "cancelled"
    BROKEN = "broken"
    """The request ended while this one answered."""
    RUNNING = "running"
    WAITED = "waited"
    WAITS = "waits"
    CACHE = "cache"
    MORE = "more"
    """Several that there is no room for."""


class Step(NamedTuple):
    """One step of a path: what joins it to the one before, who, and a word on how it ended."""

    joint: str
    role: Role
    name: str
    mark: str = ""


THEN = " → "
BESIDE = " ∥ "
"""The attempt after it began while the one before had not answered yet."""
GOES_ON = " ⇢ "
"""The attempt after it went on with the answer of the one before."""
QUEUE_SIGN = "◷"


@dataclass(slots=True, kw_only=True)
class Course:
    """What became of a request so far."""

    hops: list[Hop] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    seams: list[Seam] = field(default_factory=list)
    degradations: list[Degradation] = field(default_factory=list)
    outcome: Outcome = Outcome.RUNNING
    decision: Decision | None = None
    """Why the first candidate was chosen."""
    cached_age_s: float | None = None
    cached_from: str = ""
    """Who gave the cached answer when it was new."""

    def take(self, event: Event) -> bool:
        """Take in an event of the request; returns whether it told anything of its course."""
        match event:
            case RequestRouted():
                self.decision = self.decision or event.decision
            case AttemptStarted():
                hop = Hop(event.account, event.pool, event.decision, number=event.attempt)
                hop.model, hop.hedge = event.model, event.hedge
                self.hops.append(hop)
            case AttemptFailed():
                hop = self._hop(event.attempt, event.account, event.pool)
                hop.failure, hop.latency_s, hop.then = event.failure, event.latency_s, event.then.value
            case AttemptDiverted():
                hop = self._hop(event.attempt, event.account, event.pool)
                hop.diverted, hop.latency_s = event.reason or "moved by the operator", event.latency_s
            case AttemptOutrun():
                hop = self._hop(event.attempt, event.account, event.pool)
                hop.outrun, hop.latency_s = event.winner, event.latency_s
            case AnswerResumed():
                self.seams.append(event.seam)
            case RequestQueued():
                wait = Wait(len(self.hops), event.at, event.place, event.expires_at, event.priority)
                wait.failure = event.failure
                self.waits.append(wait)
                self.outcome = Outcome.QUEUED
            case RequestReplayed():
                if self.waiting is None:
                    self.waits.append(Wait(len(self.hops), event.at - event.waited_s))
                self.waits[-1].waited_s, self.waits[-1].restored = event.waited_s, event.restored
                self.outcome = Outcome.RUNNING
            case RequestDegraded():
                self.degradations.append(event.degradation)
            case _:
                return False
        return True

    def answered(self, reply: Reply) -> None:
        """The answer is complete."""
        self.outcome = Outcome.ANSWERED
        self.degradations = list(reply.degradations)
        self.seams = list(reply.seams)
        self.cached_age_s = reply.cached_age_s
        self.cached_from = reply.account if reply.cached_age_s is not None else ""
        self.complete(reply.attempts)
        if reply.queued_s and not self.waits:
            self.waits.append(Wait(0, 0.0, waited_s=reply.queued_s))

    def complete(self, records: Sequence[AttemptRecord]) -> None:
        """Add from the records what events did not tell."""
        known = len(self.hops)
        for record in records:
            hop = self._hop(record.number, record.account, record.pool)
            hop.model = hop.model or record.model
            hop.latency_s = record.latency_s
            hop.failure = hop.failure or record.failure
            if record.result is AttemptResult.DIVERTED:
                hop.diverted = hop.diverted or "moved by the operator"
            elif record.result is AttemptResult.OUTRUN and not hop.outrun:
                winner = next((r for r in records if r.result is AttemptResult.SUCCESS), record)
                hop.outrun = winner.number
        if len(self.hops) > known:
            self.hops.sort(key=lambda hop: hop.number)

    @property
    def waiting(self) -> Wait | None:
        """The stay in the queue that lasts."""
        return self.waits[-1] if self.waits and self.waits[-1].waited_s is None else None

    @property
    def open_hops(self) -> list[Hop]:
        """Attempts that run, or that answered; two while a hedged pair runs."""
        return [hop for hop in self.hops if not hop.ended]

    @property
    def winner(self) -> Hop | None:
        """Who answered or is about to; None while nobody is asked, and for an answer from the cache."""
        return next((hop for hop in reversed(self.hops) if not hop.ended), None)

    def outrunner(self, hop: Hop) -> str:
        """The account that answered before ``hop`` did."""
        return next((other.account for other in self.hops if other.number == hop.outrun), "the other")

    def steps(self, hidden: int = 0) -> list[Step]:
        """The path, its first ``hidden`` attempts only as a number."""
        steps: list[Step] = []
        if hidden:
            steps.append(Step("", Role.MORE, f"+{hidden}"))
        for index, hop in enumerate(self.hops[hidden:], hidden):
            steps += self._waits_after(index, first=not steps)
            steps.append(self._step(index, hop, first=not steps))
        steps += self._waits_after(len(self.hops), first=not steps)
        if self.cached_age_s is not None:
            told = f"{age(self.cached_age_s)} old"
            steps.append(Step(THEN if steps else "", Role.CACHE, "cache", told))
        return steps

    def _step(self, index: int, hop: Hop, *, first: bool) -> Step:
        joint = "" if first else BESIDE if hop.hedge else THEN
        if not first and not hop.hedge and self.goes_on(index):
            joint = GOES_ON
        if hop.diverted:
            return Step(joint, Role.MOVED, hop.account, hop.mark)
        if hop.failure is not None:
            return Step(joint, Role.FAILED, hop.account, hop.mark)
        if hop.outrun:
            return Step(joint, Role.OUTRUN, hop.account, "outrun")
        role = {
            Outcome.ANSWERED: Role.ANSWERED if hop is self.winner else Role.RUNNING,
            Outcome.FAILED: Role.BROKEN,
            Outcome.CANCELLED: Role.CANCELLED,
        }.get(self.outcome, Role.RUNNING)
        return Step(joint, role, hop.account)

    def goes_on(self, index: int) -> bool:
        """Whether hop ``index`` goes on with the answer of one before it."""
        if index == 0:
            return False
        earlier = {hop.account for hop in self.hops[:index]}
        return self.hops[index - 1].then == NextStep.CONTINUE.value or any(
            seam.resumed == self.hops[index].account and seam.broken in earlier for seam in self.seams
        )

    def _waits_after(self, hops: int, *, first: bool) -> list[Step]:
        steps: list[Step] = []
        for wait in self.waits:
            if wait.after == hops:
                joint = "" if first and not steps else THEN
                if wait.waited_s is not None:
                    steps.append(Step(joint, Role.WAITED, f"{QUEUE_SIGN} {duration(wait.waited_s)}"))
                elif self.outcome is Outcome.QUEUED:
                    place = f" no. {wait.place}" if wait.place else ""
                    steps.append(Step(joint, Role.WAITS, f"{QUEUE_SIGN} queued{place}"))
                else:
                    steps.append(Step(joint, Role.WAITED, f"{QUEUE_SIGN} queue"))
        return steps

    def _hop(self, number: int, account: str, pool: str) -> Hop:
        """The attempt of that number, or a new one if its beginning was missed."""
        for hop in reversed(self.hops):
            if hop.number == number:
                return hop
        self.hops.append(Hop(account, pool, number=number))
        return self.hops[-1]


def in_words(degradation: Degradation) -> str:
    """What an answer lacks, as the engine tells it."""
    return degradation.detail or KINDS[degradation.kind][0]


def headline(degradations: Iterable[Degradation]) -> str:
    """The most telling kind in a word, and how many there are besides; empty for none."""
    kinds = list(dict.fromkeys(degradation.kind for degradation in degradations))
    if not kinds:
        return ""
    first = next((kind for kind in MOST_TELLING if kind in kinds), kinds[0])
    return KINDS[first][1] + (f" +{len(kinds) - 1}" if len(kinds) > 1 else "")
