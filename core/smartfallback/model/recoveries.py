"""How requests that met an error were recovered, and those that wait in the queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.requests import Origin


class RecoveryAction(StrEnum):
    """The seven strategies by which a request is recovered."""

    RETRY = "retry"
    SWITCH_PROVIDER = "switch_provider"
    """Another account or pool was asked, also to go on with an answer."""
    DEGRADE_SERVICE = "degrade_service"
    QUEUE_REQUEST = "queue_request"
    USE_CACHE = "use_cache"
    SCALE_DOWN = "scale_down"
    CIRCUIT_BREAK = "circuit_break"


class RecoveryRecord(NamedTuple):
    """One request that met an error, and how that ended.

    Attributes:
        at: When it ended, in epoch seconds.
        category: Of its first error; UNKNOWN when nobody could be asked and the cache answered.
        original_account: The one that failed first; empty when none could be asked.
        final_account: The one that answered; None when none did, nor for an answer from the cache.
        actions: What was done, in the order of the first time.
        attempts: All of the request's attempts.
        total_s: From its first error to its end.
        success: It was answered.
    """

    request_id: str
    at: float
    chain: str
    category: ErrorCategory
    original_account: str
    final_account: str | None
    actions: tuple[RecoveryAction, ...]
    attempts: int
    total_s: float
    success: bool


@dataclass(frozen=True, slots=True)
class RecoveryStatistics:
    """Recoveries since the start; ``mean_s`` is over those that succeeded, None without any."""

    recoveries: int = 0
    succeeded: int = 0
    mean_s: float | None = None

    @property
    def success_rate(self) -> float | None:
        """From 0 to 1, None without any recovery."""
        return self.succeeded / self.recoveries if self.recoveries else None


@dataclass(frozen=True, slots=True)
class RecoveryView:
    """The recovery log: the latest ones, newest first, and statistics, of all and by category."""

    recent: tuple[RecoveryRecord, ...] = ()
    overall: RecoveryStatistics = field(default_factory=RecoveryStatistics)
    by_category: tuple[tuple[ErrorCategory, RecoveryStatistics], ...] = ()
    by_action: tuple[tuple[RecoveryAction, int], ...] = ()


class QueuedView(NamedTuple):
    """One request in the queue; times in epoch seconds."""

    request_id: str
    chain: str
    origin: Origin
    priority: int
    since: float
    expires_at: float
    restored: bool


@dataclass(frozen=True, slots=True)
class QueueView:
    """The queue, in the order of replay. ``uncollected`` answers wait for somebody to collect them."""

    limit: int = 0
    requests: tuple[QueuedView, ...] = ()
    uncollected: int = 0
