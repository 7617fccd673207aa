"""Quota as it is known: windows, readings and how far to trust them."""

from __future__ import annotations

import math
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


@dataclass(frozen=True, slots=True)
class WindowReading:
    """What one source says about one limit. None is "not said": never 0 and never 100.

    ``kind`` None means that the limit is none of the account's quota windows: a burst limit by the
    minute, or a quota that does not meter what this project sends. Such a reading is shown, but
    never binds and never changes a window.

    Attributes:
        name: The source's own name for the limit.
        kind: The span over which it counts.
        unit: What it counts; FRACTION when only a share is known.
        used: Amount used, in ``unit``; more than ``limit`` in overage.
        limit: Amount allowed, in ``unit``.
        percent_used: As the source states it; above 100 in overage.
        resets_at: Epoch seconds at which it begins anew.
        unlimited: The source says that there is no limit.

    Raises:
        ValueError: A number is negative or not finite, or ``limit`` is 0.
    """

    name: str
    kind: WindowKind | None
    unit: QuotaUnit
    used: float | None = None
    limit: float | None = None
    percent_used: float | None = None
    resets_at: float | None = None
    unlimited: bool = False

    def __post_init__(self) -> None:
        for name, value in (("used", self.used), ("percent_used", self.percent_used)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number from 0, not {value!r}")
        if self.limit is not None and not 0 < self.limit < math.inf:
            raise ValueError(f"limit must be a finite number above 0, not {self.limit!r}")
        if self.resets_at is not None and not math.isfinite(self.resets_at):
            raise ValueError(f"resets_at must be finite, not {self.resets_at!r}")

    @property
    def percent(self) -> float | None:
        """Percent used: as stated, else from ``used`` and ``limit``.

        None when neither is known, or when the limit is so small that no number can say it.
        """
        if self.percent_used is not None:
            return self.percent_used
        if self.used is None or self.limit is None:
            return None
        share = 100.0 * self.used / self.limit
        return share if share < math.inf else None


@dataclass(frozen=True, slots=True)
class QuotaReading:
    """What is known of one account's quota from one source at one time.

    Attributes:
        account: The account's id.
        source: Who says so, in words for the operator.
        label: How it came to be known; holds for all of ``windows``.
        read_at: Epoch seconds at which the source was asked. A reading keeps it when it gets stale.
        windows: The limits that the source names.
        note: What the operator should know besides, such as why this is only an estimate.

    Raises:
        ValueError: ``read_at`` is not finite.
    """

    account: str
    source: str
    label: TruthLabel
    read_at: float
    windows: tuple[WindowReading, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.read_at):
            raise ValueError(f"read_at must be finite, not {self.read_at!r}")

    def age(self, now: float) -> float:
        """Seconds since the source was asked; 0 after a step of the clock backwards."""
        return max(0.0, now - self.read_at)

    @property
    def percent(self) -> float | None:
        """Percent used of the quota window where that is highest, None when none is known."""
        known = [w.percent for w in self.windows if w.kind is not None and w.percent is not None]
        return max(known, default=None)
