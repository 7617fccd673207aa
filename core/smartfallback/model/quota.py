"""Quota as it is known: windows, readings and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class WindowKind(StrEnum):
    """The span over which a quota is counted."""

    FIVE_HOURS = "5h"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class QuotaUnit(StrEnum):
    """What a quota counts. A ``fraction`` window is only known as a share of an unstated limit."""

    TOKENS = "tokens"
    REQUESTS = "requests"
    CREDITS = "credits"
    FRACTION = "fraction"


class TruthLabel(StrEnum):
    """How a number came to be known."""

    REPORTED = "reported"
    MEASURED = "measured"
    LEARNED = "learned"
    ESTIMATED = "estimated"
    STALE = "stale"
    UNKNOWN = "unknown"


class QuotaStatus(StrEnum):
    """Status by percent used of the binding window."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """One configured quota window.

    ``resets`` is ``"sun 00:00 UTC"``-style for calendar windows (weekday only for ``week``; a day
    of the month, ``"1 00:00 UTC"``, for ``month``); None for a window that slides from first use.
    """

    kind: WindowKind
    unit: QuotaUnit
    limit: float
    resets: str | None = None


@dataclass(frozen=True, slots=True)
class QuotaThresholds:
    """Percent used at which status changes, and the soft and hard limits of selection."""

    warning: float = 80.0
    critical: float = 95.0
    soft_limit: float = 80.0
    hard_limit: float = 95.0

    def status(self, percent: float | None) -> QuotaStatus:
        """The status for a percentage used; None gives UNKNOWN."""
        if percent is None:
            return QuotaStatus.UNKNOWN
        if percent >= 100.0:
            return QuotaStatus.EXHAUSTED
        if percent >= self.critical:
            return QuotaStatus.CRITICAL
        if percent >= self.warning:
            return QuotaStatus.WARNING
        return QuotaStatus.HEALTHY


class QuotaEstimate(NamedTuple):
    """What an attempt is expected to spend, or has spent."""

    tokens: int
    requests: int = 1
    credits: float = 0.0

    def amount(self, unit: QuotaUnit) -> float:
        """The part that counts against windows of ``unit``; nothing is known of a fraction."""
        if unit is QuotaUnit.TOKENS:
            return self.tokens
        if unit is QuotaUnit.REQUESTS:
            return self.requests
        if unit is QuotaUnit.CREDITS:
            return self.credits
        return 0.0
