"""How attempts end: the eleven error categories and the errors that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class ErrorCategory(StrEnum):
    """What went wrong, in the terms that decide the recovery."""

    TRANSIENT_ERROR = "transient_error"
    RATE_LIMIT = "rate_limit"
    QUOTA_EXHAUSTED = "quota_exhausted"
    API_FAILURE = "api_failure"
    TIMEOUT = "timeout"
    NETWORK_ERROR = "network_error"
    AUTHENTICATION = "authentication"
    INVALID_REQUEST = "invalid_request"
    CONTENT_FILTERED = "content_filtered"
    MALFORMED_RESPONSE = "malformed_response"
    UNKNOWN = "unknown"


class TimeoutPhase(StrEnum):
    """Which wait ran out."""

    CONNECT = "connect"
    FIRST_TOKEN = "first token"  # noqa: S105 - a phase, not a password
    IDLE = "idle stream"
    TOTAL = "total"


ERROR_STATUS = 400
"""From this HTTP status on it says why an attempt failed: trouble inside a good response is no 200."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One classified error.

    Attributes:
        message: What the upstream said, redacted and at most a few hundred characters.
        http_status: The status of the response, None when there was none.
        code: The upstream's own name for the error.
        model: Set when the error concerns one model of the account only.
        project_wide: The wall is shared by every account of the same project.
        retry_after_s: A wait that the upstream stated. Never a guess.
        resets_at: When a named quota comes back, as far as the upstream stated it.
        hint: What the operator can do, empty when nothing.
        context_overflow: The conversation was longer than the model's context.
        permanent: No later try with this account can succeed (a ban).
        phase: For timeouts, which wait ran out.
    """

    category: ErrorCategory
    message: str
    http_status: int | None = None
    code: str = ""
    model: str | None = None
    project_wide: bool = False
    retry_after_s: float | None = None
    resets_at: float | None = None
    hint: str = ""
    context_overflow: bool = False
    permanent: bool = False
    phase: TimeoutPhase | None = None

    def __str__(self) -> str:
        status = f" {self.http_status}" if (self.http_status or 0) >= ERROR_STATUS else ""
        return f"{self.category.value}{status}: {self.message}"


class ProviderError(Exception):
    """Raised by adapters: an attempt failed, for the reason in ``failure``."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class NextStep(StrEnum):
    """What the engine does after a failed attempt."""

    RETRY = "retry"
    SWITCH_ACCOUNT = "switch account"
    SWITCH_POOL = "switch pool"
    DEGRADE = "degrade"
    CONTINUE = "continue"
    """Another candidate goes on with the answer that broke off."""
    QUEUE = "queue"
    CACHE = "cache"
    FAIL = "fail"


class AttemptResult(StrEnum):
    """How one attempt ended."""

    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DIVERTED = "diverted"
    """Moved away by the operator before its first token; counts against nobody."""
    OUTRUN = "outrun"
    """One of a hedged pair, whose other attempt answered first; counts against nobody."""


class AttemptRecord(NamedTuple):
    """One try of one candidate, for replies, errors and the feed."""

    number: int
    account: str
    pool: str
    model: str
    result: AttemptResult
    latency_s: float
    failure: Failure | None = None


class RequestError(Exception):
    """No account could answer, or the answer broke off after it had begun.

    Attributes:
        request_id: The request.
        failure: The error that ended it: the last one, or the request's own.
        attempts: Every attempt with its reason.
        partial: The text that had already reached the caller, empty if none had.
        next_available_at: When the first account of the chain is expected back, None if unknown.
        skipped: In words, why the accounts that were not tried were not.
    """

    def __init__(
        self,
        request_id: str,
        failure: Failure,
        attempts: Sequence[AttemptRecord] = (),
        *,
        partial: str = "",
        next_available_at: float | None = None,
        skipped: Sequence[str] = (),
    ) -> None:
        super().__init__(str(failure))
        self.request_id = request_id
        self.failure = failure
        self.attempts = tuple(attempts)
        self.partial = partial
        self.next_available_at = next_available_at
        self.skipped = tuple(skipped)
