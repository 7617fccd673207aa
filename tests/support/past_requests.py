"""Requests from before a start: one of each way to end, for the console."""

from __future__ import annotations

from smartfallback import (
    AttemptResult,
    Ending,
    ErrorCategory,
    Origin,
    PastAttempt,
    PastRequest,
    RecoveryAction,
    RecoveryRecord,
)
from smartfallback_console.bridge import Earlier
from support.console_data import DAY, NOW

START = NOW - 60.0
"""Before the first live event that the console is shown."""
ANSWERED = AttemptResult.SUCCESS


def attempt(
    account: str,
    result: AttemptResult = ANSWERED,
    category: ErrorCategory | None = None,
    *,
    pool: str = "antigravity",
    latency_s: float = 0.4,
) -> PastAttempt:
    return PastAttempt(account, pool, "gemini-3-pro", result, latency_s, category)


def failed(account: str, category: ErrorCategory = ErrorCategory.RATE_LIMIT) -> PastAttempt:
    return attempt(account, AttemptResult.FAILED, category)


def past(
    number: int,
    *attempts: PastAttempt,
    ago: float = 60.0,
    ending: Ending = Ending.ANSWERED,
    origin: Origin = Origin.CHAT,
    latency_s: float = 0.82,
    tokens: int = 812,
    error: str = "",
    degraded: bool = False,
    cached_age_s: float | None = None,
    queued_s: float = 0.0,
    recovery: RecoveryRecord | None = None,
) -> PastRequest:
    """A request that ended so many seconds before the start."""
    last = attempts[-1] if attempts and ending is Ending.ANSWERED else None
    return PastRequest(
        f"0ther-{number}",
        START - ago,
        f"r{number}",
        "default",
        origin,
        ending,
        attempts,
        latency_s,
        account="ag-3" if last is None and cached_age_s is not None else last.account if last else "",
        pool=last.pool if last else "",
        model=last.model if last else "",
        first_token_s=0.2 if last else None,
        input_tokens=tokens - 200 if ending is Ending.ANSWERED else 0,
        output_tokens=200 if ending is Ending.ANSWERED else 0,
        cost=0.0042 if ending is Ending.ANSWERED else None,
        degraded=degraded,
        cached_age_s=cached_age_s,
        queued_s=queued_s,
        error=error,
        recovery=recovery,
    )


def switched() -> PastRequest:
    """Its first account failed, another pool answered."""
    record = RecoveryRecord(
        "r6",
        START - 15.0,
        "default",
        ErrorCategory.RATE_LIMIT,
        "ag-8",
        "copilot-work",
        (RecoveryAction.RETRY, RecoveryAction.SWITCH_PROVIDER),
        2,
        0.7,
        True,
    )
    answered = attempt("copilot-work", pool="copilot")
    return past(6, failed("ag-8"), answered, ago=15.0, degraded=True, latency_s=1.24, recovery=record)


def of_every_kind() -> tuple[PastRequest, ...]:
    """One of each way to end, the newest first, as history tells them."""
    outrun = attempt("ag-1", AttemptResult.OUTRUN)
    torn = attempt("ag-5", AttemptResult.CANCELLED)
    gone = "authentication 401: the key was refused"
    return (
        past(8, ago=5.0, ending=Ending.FAILED, origin=Origin.API, error="quota_exhausted: nobody is left"),
        past(7, torn, ago=10.0, ending=Ending.CANCELLED),
        switched(),
        past(5, outrun, attempt("ag-2"), ago=20.0, origin=Origin.API),
        past(4, failed("ag-8"), ago=25.0, cached_age_s=245.0, degraded=True),
        past(3, failed("ag-6", ErrorCategory.NETWORK_ERROR), attempt("ag-2"), ago=30.0, queued_s=200.0),
        past(
            2,
            failed("ag-6", ErrorCategory.AUTHENTICATION),
            ago=DAY,
            ending=Ending.FAILED,
            origin=Origin.API,
            error=gone,
        ),
        past(1, attempt("ag-1"), ago=2 * DAY),
    )


def earlier(*requests: PastRequest) -> Earlier:
    """What the console is told at its start."""
    return Earlier(START, requests or of_every_kind())
