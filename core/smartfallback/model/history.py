"""What became of requests: one value for each that has ended, with times in epoch seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from smartfallback.model.outcomes import AttemptResult, ErrorCategory
from smartfallback.model.recoveries import RecoveryRecord
from smartfallback.model.requests import Origin

KEPT_S: Final = 30 * 86_400.0
KEPT: Final = 200_000
"""How long, and how many, ended requests are kept; the oldest go first."""


class Ending(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Its caller went away."""


class PastAttempt(NamedTuple):
    """One attempt of an ended request; ``category`` is that of its error."""

    account: str
    pool: str
    model: str
    result: AttemptResult
    latency_s: float
    category: ErrorCategory | None = None


@dataclass(frozen=True, slots=True)
class PastRequest:
    """A request that has ended. It holds nothing of what was asked or answered.

    Attributes:
        id: Never used for another one, in any process.
        at: When it ended.
        request_id: Its name in all events.
        chain: Where it was asked; empty where that was never told.
        attempts: Its path, oldest first.
        account: The one that answered; empty when none did.
        latency_s: From its arrival to its end.
        first_token_s: From its arrival to the first content, None without any.
        cost: In US dollars, None when no price is set.
        degraded: The answer was less than what was asked for in some way.
        cached_age_s: The answer was an earlier one, so many seconds old.
        queued_s: Seconds that it spent in the queue.
        error: The error that ended it, in words; empty when it was answered.
        recovery: How it was recovered; None when it met no error that could be.
    """

    id: str
    at: float
    request_id: str
    chain: str
    origin: Origin
    ending: Ending
    attempts: tuple[PastAttempt, ...]
    latency_s: float
    account: str = ""
    pool: str = ""
    provider: str = ""
    model: str = ""
    first_token_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    tokens_estimated: bool = False
    cost: float | None = None
    degraded: bool = False
    cached_age_s: float | None = None
    queued_s: float = 0.0
    error: str = ""
    recovery: RecoveryRecord | None = None

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    @property
    def fell_back(self) -> bool:
        """Whether another than its first choice answered, or with less."""
        return len(self.attempts) > 1 or self.degraded
