"""The full record of a choice: who was chosen, by which terms, and why others were skipped."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class AdminState(StrEnum):
    """What the operator allows an account to do."""

    ACTIVE = "active"
    DRAINING = "draining"
    DRAINED = "drained"
    DISABLED = "disabled"


class SkipReason(StrEnum):
    """Why an account was not chosen; listed in the order in which the checks run."""

    UNAVAILABLE = "unavailable"
    """The provider can't run here at all (a missing package, file or tool)."""
    DISABLED = "disabled"
    DRAINING = "draining"
    DRAINED = "drained"
    NEEDS_ATTENTION = "needs attention"
    """Its credentials were refused; an operator has to act."""
    QUOTA_EXHAUSTED = "quota exhausted"
    HARD_LIMIT = "above the hard limit"
    SOFT_LIMIT = "above the soft limit"
    NO_ROOM = "no room for the estimate"
    PROVIDER_CIRCUIT = "provider circuit"
    CIRCUIT = "account circuit"
    MODEL_CIRCUIT = "model circuit"
    COOLDOWN = "cooldown"
    JUST_FAILED = "just failed"
    """The same model of the account failed a moment ago; it is asked only when nobody else can serve."""
    CONCURRENCY = "concurrency cap"
    RAMP = "coming back step by step"
    """Its quota began anew, or a circuit closed: one request or a few tested that, now the rate climbs."""
    CONTEXT = "context too long"
    CAPABILITY = "missing capability"
    EXCLUDED = "excluded by the request"
    TRIED = "already tried"


class Skip(NamedTuple):
    """Why one account (or, for a pool-wide reason, one pool) was passed over.

    ``until`` is when the reason ends by itself, None when it doesn't or nobody knows.
    """

    name: str
    pool: str
    reason: SkipReason
    detail: str = ""
    until: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.reason.value}{f' ({self.detail})' if self.detail else ''}"


class Tier(StrEnum):
    """Which part of an account's quota a choice spends."""

    NORMAL = "normal"
    RESERVE = "reserve"
    """Between the soft and the hard limit."""


class Rule(StrEnum):
    """Which rule of the strategy made the choice."""

    BEST_OF_TOP = "best of the top by score"
    STARVATION_PREVENTION = "least recently used, against starvation"
    MOST_QUOTA = "most quota left"
    NEXT_IN_TURN = "next in turn"
    STUCK = "stays until it can't serve"
    SESSION = "holds this session"
    LEAST_RECENTLY_USED = "least recently used"
    PINNED = "pinned by the request"
    RETRY = "the same account once more"
    COMING_BACK = "ahead of its turn, since nobody else can serve"
    """Its rate still climbs after a reset, or after a circuit closed."""
    JUST_FAILED = "failed a moment ago, but nobody else can serve"


class ScoreTerms(NamedTuple):
    """One account's score and the terms that made it; jitter 1.0 where none was drawn."""

    account: str
    quota: float
    recency: float
    score: float
    jitter: float = 1.0

    @property
    def final(self) -> float:
        """The score by which the choice was made."""
        return self.score * self.jitter


class Decision(NamedTuple):
    """One choice of one account.

    ``considered`` holds the scored candidates, the chosen one among them. ``skipped`` lists at
    most a screenful; ``skipped_more`` counts those beyond it.
    """

    at: float
    chain: str
    pool: str
    account: str
    model: str
    strategy: str
    rule: Rule
    tier: Tier
    considered: tuple[ScoreTerms, ...]
    skipped: tuple[Skip, ...]
    skipped_more: int = 0
