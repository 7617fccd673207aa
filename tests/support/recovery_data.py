"""Made-up recoveries, a queue, and requests that were hedged, continued, queued or cached."""

from __future__ import annotations

from dataclasses import replace

from smartfallback import (
    AnswerResumed,
    AttemptFailed,
    AttemptOutrun,
    AttemptRecord,
    AttemptResult,
    AttemptStarted,
    ConcurrencyChanged,
    Degradation,
    DegradationKind,
    ErrorCategory,
    Event,
    Failure,
    NextStep,
    Origin,
    QueuedView,
    QueueView,
    RecoveryAction,
    RecoveryRecord,
    RecoveryStatistics,
    RecoveryView,
    Reply,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
    Seam,
    Snapshot,
    Usage,
)
from support.console_data import NOW, OUTAGE, RATE_LIMIT, decision, snapshot

CUT = Failure(ErrorCategory.MALFORMED_RESPONSE, "the stream ended without its final chunk")
RETRY, SWITCH = RecoveryAction.RETRY, RecoveryAction.SWITCH_PROVIDER


def record(
    name: str,
    ago: float,
    category: ErrorCategory,
    original: str,
    final: str | None,
    *actions: RecoveryAction,
    attempts: int = 2,
    total_s: float = 0.8,
) -> RecoveryRecord:
    return RecoveryRecord(
        name,
        NOW - ago,
        "default",
        category,
        original,
        final,
        actions,
        attempts,
        total_s,
        final is not None,
    )


def recovery() -> RecoveryView:
    recent = (
        record("r-9", 4, ErrorCategory.MALFORMED_RESPONSE, "ag-3", "copilot-work", SWITCH, total_s=3.1),
        record("r-8", 9, ErrorCategory.RATE_LIMIT, "ag-8", "ag-2", SWITCH, total_s=0.42),
        record("r-7", 12, ErrorCategory.TRANSIENT_ERROR, "ag-4", "ag-4", RETRY, total_s=0.31),
        record(
            "r-6",
            40,
            ErrorCategory.API_FAILURE,
            "ag-6",
            "opencode",
            RETRY,
            SWITCH,
            RecoveryAction.CIRCUIT_BREAK,
            attempts=4,
            total_s=2.6,
        ),
        record(
            "r-5",
            95,
            ErrorCategory.TIMEOUT,
            "ag-1",
            None,
            SWITCH,
            RecoveryAction.QUEUE_REQUEST,
            attempts=3,
            total_s=61.0,
        ),
        record(
            "r-4",
            140,
            ErrorCategory.NETWORK_ERROR,
            "copilot-work",
            "ag-3",
            RecoveryAction.USE_CACHE,
            attempts=3,
        ),
        *(
            record(f"old-{at}", 200 + 31 * at, ErrorCategory.RATE_LIMIT, f"ag-{at % 8 + 1}", "ag-2", SWITCH)
            for at in range(40)
        ),
    )
    return RecoveryView(
        recent,
        RecoveryStatistics(214, 208, 1.24),
        (
            (ErrorCategory.RATE_LIMIT, RecoveryStatistics(121, 121, 0.44)),
            (ErrorCategory.TRANSIENT_ERROR, RecoveryStatistics(48, 47, 0.61)),
            (ErrorCategory.API_FAILURE, RecoveryStatistics(22, 20, 2.3)),
            (ErrorCategory.TIMEOUT, RecoveryStatistics(9, 6, 21.5)),
            (ErrorCategory.MALFORMED_RESPONSE, RecoveryStatistics(8, 8, 3.1)),
            (ErrorCategory.NETWORK_ERROR, RecoveryStatistics(6, 6, 0.2)),
        ),
        (
            (SWITCH, 171),
            (RETRY, 52),
            (RecoveryAction.DEGRADE_SERVICE, 9),
            (RecoveryAction.CIRCUIT_BREAK, 4),
            (RecoveryAction.QUEUE_REQUEST, 3),
            (RecoveryAction.USE_CACHE, 2),
            (RecoveryAction.SCALE_DOWN, 1),
        ),
    )


def queue() -> QueueView:
    return QueueView(
        100,
        (
            QueuedView("r-5e11", "default", Origin.CHAT, 5, NOW - 200, NOW + 1_600, restored=False),
            QueuedView("r-5e07", "default", Origin.API, 0, NOW - 340, NOW + 3_260, restored=False),
            QueuedView("r-4c90", "fast", Origin.API, 0, NOW - 9_000, NOW + 240, restored=True),
        ),
        1,
    )


def recovering() -> Snapshot:
    """Some recoveries, three requests that wait, and an account that is scaled down."""
    base = snapshot()
    first = base.pools[0]
    accounts = tuple(
        replace(
            view, max_concurrency=4 if view.id == "ag-1" else view.max_concurrency, configured_concurrency=8
        )
        for view in first.accounts
    )
    return replace(
        base,
        pools=(replace(first, accounts=accounts), *base.pools[1:]),
        recovery=recovery(),
        queue=queue(),
        retry_budget_left=12.0,
    )


class Story:
    """Writes the events of one request."""

    def __init__(self, request_id: str, *, seq: int = 5_000, origin: Origin = Origin.API) -> None:
        self.id = request_id
        self.origin = origin
        self.events: list[Event] = []
        self.seams: list[Seam] = []
        self._seq = seq
        self._records: dict[int, AttemptRecord] = {}

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def routed(self, account: str) -> Story:
        self.events.append(
            RequestRouted(self._next(), NOW, self.id, "default", self.origin, decision(account))
        )
        return self

    def starts(self, number: int, account: str, pool: str = "antigravity", *, hedge: bool = False) -> Story:
        step = decision(account, pool)
        self.events.append(
            AttemptStarted(self._next(), NOW, self.id, number, account, pool, pool, "m", step, hedge)
        )
        self._records[number] = AttemptRecord(number, account, pool, "m", AttemptResult.SUCCESS, 1.0)
        return self

    def fails(self, number: int, failure: Failure, then: NextStep = NextStep.SWITCH_ACCOUNT) -> Story:
        tried = self._records[number]
        self._records[number] = tried._replace(result=AttemptResult.FAILED, failure=failure)
        self.events.append(
            AttemptFailed(
                self._next(), NOW, self.id, number, tried.account, tried.pool, tried.pool, 0.3, failure, then
            )
        )
        return self

    def outrun(self, number: int, winner: int) -> Story:
        tried = self._records[number]
        self._records[number] = tried._replace(result=AttemptResult.OUTRUN)
        self.events.append(
            AttemptOutrun(
                self._next(), NOW, self.id, number, tried.account, tried.pool, tried.pool, 0.3, winner
            )
        )
        return self

    def resumes(self, broken: int, resumed: int, at: int = 812, overlap: int = 0) -> Story:
        seam = Seam(at, self._records[broken].account, self._records[resumed].account, "stream cut", overlap)
        self.seams.append(seam)
        self.events.append(AnswerResumed(self._next(), NOW, self.id, seam))
        return self

    def queued(self, place: int = 2, failure: Failure = OUTAGE) -> Story:
        self.events.append(
            RequestQueued(self._next(), NOW, self.id, self.origin, "default", 5, place, NOW + 1_800, failure)
        )
        return self

    def replayed(self, waited_s: float = 200.0, *, restored: bool = False) -> Story:
        self.events.append(
            RequestReplayed(self._next(), NOW, self.id, self.origin, "default", waited_s, restored)
        )
        return self

    def finishes(self, account: str, *kinds: DegradationKind, cached_age_s: float | None = None) -> Story:
        reply = Reply(
            self.id,
            "An answer.",
            account,
            "antigravity",
            "gemini",
            "m",
            Usage(100, 300),
            "stop",
            tuple(self._records.values()),
            1.4,
            0.4,
            None,
            tuple(Degradation(kind, "") for kind in kinds),
            tuple(self.seams),
            cached_age_s,
        )
        self.events.append(RequestFinished(self._next(), NOW, self.id, self.origin, reply))
        return self


def stories() -> tuple[Event, ...]:
    """One request of each new kind, in the order of the feed."""
    hedged = Story("hedged").routed("ag-1").starts(1, "ag-1").starts(2, "copilot-work", "copilot", hedge=True)
    hedged.outrun(1, 2).finishes("copilot-work", DegradationKind.FALLBACK_POOL)
    kept = Story("kept", seq=5_100).routed("ag-2").starts(1, "ag-2").starts(2, "ag-7", hedge=True)
    kept.outrun(2, 1).finishes("ag-2")
    torn = Story("torn", seq=5_200).routed("ag-3").starts(1, "ag-3").fails(1, CUT, NextStep.CONTINUE)
    torn.starts(2, "copilot-work", "copilot").resumes(1, 2, overlap=24)
    torn.finishes("copilot-work", DegradationKind.FALLBACK_POOL, DegradationKind.CONTINUED)
    late = Story("late", seq=5_300, origin=Origin.CHAT).routed("ag-1").starts(1, "ag-1")
    late.fails(1, OUTAGE, NextStep.QUEUE).queued().replayed().starts(2, "ag-2").finishes("ag-2")
    old = Story("old", seq=5_400).routed("ag-8").starts(1, "ag-8").fails(1, RATE_LIMIT, NextStep.CACHE)
    old.finishes("ag-3", DegradationKind.CACHED, cached_age_s=245.0)
    waits = (
        Story("waits", seq=5_500).routed("ag-6").starts(1, "ag-6").fails(1, OUTAGE, NextStep.QUEUE).queued()
    )
    scaled = ConcurrencyChanged(5_600, NOW, "ag-1", 8, 4, 8, "429 while 8 ran at once")
    raised = ConcurrencyChanged(5_601, NOW, "ag-2", 7, 8, 8, "")
    parts = (hedged, kept, torn, late, old, waits)
    return (*(event for part in parts for event in part.events), scaled, raised)
