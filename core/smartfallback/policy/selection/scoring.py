"""The hybrid formula, as specified, for one account."""

from __future__ import annotations

from math import isnan

from smartfallback.model.decisions import ScoreTerms
from smartfallback.model.specs import HybridSettings, Recency

UNKNOWN_PERCENT_USED = 50.0
"""What an account counts as while nobody knows its quota: neither preferred nor shunned."""

NEVER = float("-inf")
"""The last use of an account that was never used."""


def known_percent(percent_used: float | None) -> float:
    """Percent used as selection counts it: unknown is 50, the rest is held between 0 and 100."""
    if percent_used is None or isnan(percent_used):
        return UNKNOWN_PERCENT_USED
    if 0.0 <= percent_used <= 100.0:
        return percent_used
    return 0.0 if percent_used < 0.0 else 100.0


def score_terms(
    percent_used: float | None,
    last_used: float | None,
    now: float,
    settings: HybridSettings,
    account: str = "",
) -> ScoreTerms:
    """Score one account by the formula of the specification (section 4), without jitter.

    ``quota = 1 - percent_used / 100``; ``recency = max(0, 1 - age / horizon)``, 0 for an account
    never used; ``score = quota_weight * quota + recency_weight * recency``. With
    ``recency = "rested"`` the recency term is turned round (1 minus the above).

    Args:
        percent_used: From 0 to 100 and held there; None (unknown) counts as 50.
        last_used: Seconds on the clock of ``now``; None for never. A time ahead of ``now`` counts
            as ``now``.
        now: Seconds.
        settings: Weights, horizon and direction of the recency term.
        account: The account's name, for the record.
    """
    quota = 1.0 - known_percent(percent_used) / 100.0
    recency = 0.0
    if last_used is not None and last_used > now - settings.recency_horizon_s:
        recency = 1.0 if last_used > now else 1.0 - (now - last_used) / settings.recency_horizon_s
    if settings.recency is Recency.RESTED:
        recency = 1.0 - recency
    score = settings.quota_weight * quota + settings.recency_weight * recency
    return ScoreTerms(account, quota, recency, score)
