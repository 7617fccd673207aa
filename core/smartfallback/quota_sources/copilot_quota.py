"""Reads what Copilot says of an account's quota, from its command-line tool or its user endpoint.

The tool's answer (``account.getQuota``)::

    {"quotaSnapshots": {"premium_interactions": {"entitlementRequests": 300, "usedRequests": 60,
        "remainingPercentage": 80.0, "isUnlimitedEntitlement": false}}}

The endpoint's (``copilot_internal/user``, which GitHub does not document)::

    {"copilot_plan": "pro", "quota_reset_date": "2026-04-01", "quota_snapshots":
        {"premium_interactions": {"entitlement": 300, "remaining": 240, "percent_remaining": 80.0}}}

and on the free plan ``{"monthly_quotas": {"chat": 50}, "limited_user_quotas": {"chat": 12}}``, the second
of which is what is left.

What is odd and how it is read: numbers may be strings and fractions; less than nothing left is overage,
above 100 % used; an entitlement of 0 is a placeholder, whatever share it claims, so unknown; a quota whose
rest is missing is unknown, not full; a reset date may be missing, or have passed. With
``token_based_billing`` the amounts are credits.

The quota that meters the tool's requests, premium interactions, or chat where a plan has none of these,
is the month's. The others are read with kind None, which binds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

from smartfallback.model.quota import QuotaUnit, WindowKind, WindowReading
from smartfallback.quota_sources.values import flag, moment, name, number

_BINDING: Final = ("premium_interactions", "chat")
_RESETS: Final = ("quota_reset_date_utc", "quota_reset_date", "limited_user_reset_date")
_MAX_QUOTAS: Final = 20


class CopilotQuota(NamedTuple):
    """What an answer holds: the limits, and what the operator should know of them."""

    windows: tuple[WindowReading, ...]
    note: str


def parse_copilot_user(payload: Any, now: float) -> CopilotQuota | None:
    """The quota in an answer of the user endpoint; None when it is nothing of the kind.

    Args:
        payload: The decoded body.
        now: Epoch seconds.
    """
    if not isinstance(payload, dict):
        return None
    resets_at = _first_moment(now, *(payload.get(key) for key in _RESETS))
    unit = QuotaUnit.CREDITS if flag(payload.get("token_based_billing")) else QuotaUnit.REQUESTS
    snapshots = payload.get("quota_snapshots")
    monthly, left = payload.get("monthly_quotas"), payload.get("limited_user_quotas")
    found: dict[str, WindowReading] = {}
    notes: list[str] = []
    if isinstance(snapshots, dict):
        for key, snapshot in _tables(snapshots):
            found[key] = _snapshot(key, snapshot, unit, resets_at, now)
            if flag(snapshot.get("overage_permitted")) and key in _BINDING:
                notes.append(f"{key}: overage is permitted and billed")
    if isinstance(monthly, dict):
        rest = left if isinstance(left, dict) else {}
        for key, limit in list(monthly.items())[:_MAX_QUOTAS]:
            title = name(key, "quota")
            if title not in found or found[title].percent is None:
                found[title] = _from_rest(title, number(limit), number(rest.get(key)), None, unit, resets_at)
    elif not isinstance(snapshots, dict):
        return None
    plan = name(payload.get("copilot_plan"), "")
    return CopilotQuota(_with_kinds(found), "; ".join([f"plan {plan}"] * bool(plan) + notes))


def parse_tool_quota(result: Any, now: float) -> CopilotQuota | None:
    """The quota in the tool's answer; None when it is nothing of the kind."""
    snapshots = result.get("quotaSnapshots") if isinstance(result, dict) else None
    if not isinstance(snapshots, dict):
        return None
    found: dict[str, WindowReading] = {}
    notes = []
    for key, snapshot in _tables(snapshots):
        limit, used = number(snapshot.get("entitlementRequests")), number(snapshot.get("usedRequests"))
        # Some versions put the time of the answer here; a reset lies ahead, if only by hours.
        resets_at = _first_moment(now, snapshot.get("resetDate"))
        if flag(snapshot.get("isUnlimitedEntitlement")) or limit == -1:
            found[key] = WindowReading(key, None, QuotaUnit.REQUESTS, resets_at=resets_at, unlimited=True)
            continue
        rest = limit - used if limit is not None and used is not None else None
        share = number(snapshot.get("remainingPercentage"))
        found[key] = _from_rest(key, limit, rest, share, QuotaUnit.REQUESTS, resets_at)
        if flag(snapshot.get("overageAllowedWithExhaustedQuota")) and key in _BINDING:
            notes.append(f"{key}: overage is permitted and billed")
    return CopilotQuota(_with_kinds(found), "; ".join(notes))


def _tables(snapshots: dict[Any, Any]) -> list[tuple[str, dict[str, Any]]]:
    pairs = [(name(key, "quota"), value) for key, value in snapshots.items() if isinstance(value, dict)]
    return pairs[:_MAX_QUOTAS]


def _snapshot(
    key: str, snapshot: dict[str, Any], unit: QuotaUnit, resets_at: float | None, now: float
) -> WindowReading:
    own_reset = _first_moment(now, snapshot.get("quota_reset_at"), snapshot.get("reset_date"))
    resets_at = resets_at if own_reset is None else own_reset
    limit = number(snapshot.get("entitlement"))
    if flag(snapshot.get("unlimited")) or limit == -1:
        return WindowReading(key, None, unit, resets_at=resets_at, unlimited=True)
    rest = number(snapshot.get("remaining"))
    if rest is None:
        rest = number(snapshot.get("quota_remaining"))
    spent = number(snapshot.get("credits_used"))
    if rest is None and spent is not None and limit is not None:
        rest = limit - spent
    return _from_rest(key, limit, rest, number(snapshot.get("percent_remaining")), unit, resets_at)


def _from_rest(
    key: str,
    limit: float | None,
    rest: float | None,
    share_left: float | None,
    unit: QuotaUnit,
    resets_at: float | None,
) -> WindowReading:
    if limit is not None and limit <= 0:
        return WindowReading(key, None, unit, resets_at=resets_at)
    if limit is not None and rest is not None:
        used = max(0.0, limit - rest)
        return WindowReading(key, None, unit, used, limit, 100.0 * used / limit, resets_at)
    percent = 100.0 - share_left if share_left is not None and share_left <= 100.0 else None
    amount = percent * limit / 100.0 if percent is not None and limit is not None else None
    return WindowReading(key, None, unit, amount, limit, percent, resets_at)


def _with_kinds(found: dict[str, WindowReading]) -> tuple[WindowReading, ...]:
    """The month's quota is the first of those that count for which anything is known."""
    binding = next(
        (
            key
            for key in _BINDING
            if key in found and (found[key].percent is not None or found[key].unlimited)
        ),
        next((key for key in _BINDING if key in found), None),
    )
    return tuple(
        replace(window, kind=WindowKind.MONTH) if key == binding else window for key, window in found.items()
    )


def _first_moment(now: float, *values: Any) -> float | None:
    return next((at for value in values if (at := moment(value, now)) is not None), None)
