"""What the simulated quota endpoints say: an account's quota as it is, or odd in a known way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from smartfallback.model.quota import QuotaUnit
from smartfallback.simulation.faults import QuotaTrouble
from smartfallback.simulation.upstreams import AccountState, DialectName

QuotaAnswer = Callable[[AccountState, float, QuotaTrouble | None], dict[str, Any]]
"""Makes a body from an account, the time in epoch seconds, and what is to be odd about it."""


def quota_answer(dialect: DialectName, method: str, path: str) -> QuotaAnswer | None:
    """What answers a call for the quota; None when the call asks for something else.

    Copilot's user endpoint is at the root of upstreams of the OpenAI dialect, which stand for it.
    """
    return _ANSWERS.get((dialect, method, path))


def gemini_quota(state: AccountState, now: float, trouble: QuotaTrouble | None) -> dict[str, Any]:
    """The body of ``quotaStatus``; an account without a quota has none to tell."""
    quota = state.spec.quota
    if quota is None:
        return {"quotas": []}
    used = _used(state, now, trouble)
    limit: float = 0 if trouble is QuotaTrouble.PLACEHOLDER else quota.limit
    entry: dict[str, Any] = {"window": quota.kind.value, "unit": quota.unit.value, "limit": limit}
    if trouble is QuotaTrouble.PLACEHOLDER:
        entry["remainingFraction"] = 1.0
    elif trouble is QuotaTrouble.OVERAGE:
        entry["remaining"] = limit - used
    elif trouble is not QuotaTrouble.NO_FRACTION:
        entry["used"] = used
    if trouble is not QuotaTrouble.NO_DATES:
        entry["resetTime"] = _moment(state)
    return {"quotas": [_written(entry, trouble)]}


def copilot_user(state: AccountState, now: float, trouble: QuotaTrouble | None) -> dict[str, Any]:
    """The body of ``copilot_internal/user``."""
    body: dict[str, Any] = {"copilot_plan": "pro"}
    quota = state.spec.quota
    if quota is None:
        free = {"entitlement": -1, "remaining": 0, "percent_remaining": 100.0, "unlimited": True}
        return body | {"quota_snapshots": {"premium_interactions": free}}
    used = _used(state, now, trouble)
    snapshot: dict[str, Any] = {"entitlement": quota.limit, "unlimited": False, "overage_permitted": False}
    if trouble is QuotaTrouble.PLACEHOLDER:
        snapshot |= {"entitlement": 0, "remaining": 0, "percent_remaining": 100.0}
    elif trouble is not QuotaTrouble.NO_FRACTION:
        left = quota.limit - used
        snapshot |= {"remaining": left, "percent_remaining": 100.0 * left / quota.limit}
    if quota.unit is not QuotaUnit.REQUESTS:
        body["token_based_billing"] = quota.unit is QuotaUnit.CREDITS
    if trouble is not QuotaTrouble.NO_DATES:
        body["quota_reset_date"] = _moment(state)[:10]
        body["quota_reset_date_utc"] = _moment(state)
    return body | {"quota_snapshots": {"premium_interactions": _written(snapshot, trouble)}}


def _used(state: AccountState, now: float, trouble: QuotaTrouble | None) -> float:
    used = state.used(now)
    limit = state.spec.quota.limit if state.spec.quota else 0.0
    if trouble is QuotaTrouble.OVERAGE:
        return max(used, limit) + 12.5
    return used + 0.25 if trouble is QuotaTrouble.FRACTIONS else used


def _written(entry: dict[str, Any], trouble: QuotaTrouble | None) -> dict[str, Any]:
    if trouble is not QuotaTrouble.STRINGS:
        return entry
    return {
        key: str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        for key, value in entry.items()
    }


def _moment(state: AccountState) -> str:
    return datetime.fromtimestamp(state.window_ends_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_ANSWERS: Final[dict[tuple[DialectName, str, str], QuotaAnswer]] = {
    (DialectName.GEMINI, "GET", "/v1beta/quotaStatus"): gemini_quota,
    (DialectName.OPENAI, "GET", "/copilot_internal/user"): copilot_user,
}
