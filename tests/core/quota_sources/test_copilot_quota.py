"""Every oddity that Copilot's answers were seen with is read for what it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import QuotaUnit, WindowKind, WindowReading
from smartfallback.quota_sources.copilot_quota import (
    CopilotQuota,
    parse_copilot_user,
    parse_tool_quota,
)
from support.clock import EPOCH

APRIL = datetime(2026, 4, 1, tzinfo=UTC).timestamp()


def user(snapshot: Any, **fields: Any) -> dict[str, Any]:
    return {
        "copilot_plan": "pro",
        "quota_reset_date": "2026-04-01",
        "quota_snapshots": {"premium_interactions": snapshot},
        **fields,
    }


def read(payload: Any) -> CopilotQuota:
    quota = parse_copilot_user(payload, EPOCH)
    assert quota is not None
    return quota


def window(payload: Any) -> WindowReading:
    (binding,) = [w for w in read(payload).windows if w.kind is WindowKind.MONTH]
    return binding


def test_a_plain_answer() -> None:
    found = window(user({"entitlement": 300, "remaining": 240, "percent_remaining": 80.0}))
    assert found == WindowReading(
        "premium_interactions", WindowKind.MONTH, QuotaUnit.REQUESTS, 60, 300, 20.0, APRIL
    )


@pytest.mark.parametrize(
    ("snapshot", "percent"),
    [
        ({"entitlement": "300", "remaining": "240"}, 20.0),
        ({"entitlement": "1,500", "remaining": "750.0"}, 50.0),
        ({"entitlement": 300, "remaining": 34.5}, 88.5),
        ({"entitlement": 300, "remaining": -30}, 110.0),
        ({"entitlement": "300", "remaining": "-30"}, 110.0),
        ({"entitlement": 300, "quota_remaining": 150}, 50.0),
        ({"entitlement": 300, "credits_used": 150}, 50.0),
        ({"percent_remaining": "11.72"}, 88.28),
        ({"percent_remaining": -5}, 105.0),
        ({"entitlement": 300, "percent_remaining": 25}, 75.0),
        ({"entitlement": 300, "remaining": 0}, 100.0),
        ({"entitlement": 300, "remaining": 300}, 0.0),
        # The amounts are exact, the share is rounded by some clients.
        ({"entitlement": 300, "remaining": 35, "percent_remaining": 12}, 100 * 265 / 300),
    ],
)
def test_shares_that_are_known(snapshot: dict[str, Any], percent: float) -> None:
    assert window(user(snapshot)).percent == pytest.approx(percent)


@pytest.mark.parametrize(
    "snapshot",
    [
        {"entitlement": 0, "remaining": 0, "percent_remaining": 100.0},
        {"entitlement": "0", "remaining": 0, "percent_remaining": 100},
        {"entitlement": 0, "remaining": 0, "percent_remaining": 0.0},
        {"entitlement": 300},
        {"entitlement": 300, "remaining": None},
        {"entitlement": 300, "remaining": "plenty"},
        {"entitlement": 300, "remaining": True},
        {"entitlement": 300, "percent_remaining": 140},
        {"remaining": 240},
        {"percent_remaining": float("nan")},
        {"percent_remaining": float("inf")},
        {"entitlement": 10**400, "remaining": 5},
        {},
    ],
)
def test_what_is_not_said_is_unknown_and_neither_0_nor_100(snapshot: dict[str, Any]) -> None:
    assert window(user(snapshot)).percent is None


@pytest.mark.parametrize("snapshot", [{"unlimited": True}, {"unlimited": "true"}, {"entitlement": -1}])
def test_unlimited_is_no_share(snapshot: dict[str, Any]) -> None:
    found = window(user(snapshot))
    assert found.unlimited
    assert found.percent is None


@pytest.mark.parametrize(
    ("fields", "resets_at"),
    [
        ({"quota_reset_date": "2026-04-01"}, APRIL),
        ({"quota_reset_date": "2026-04-01T00:00:00Z"}, APRIL),
        ({"quota_reset_date": "2026-04-01T02:00:00.000+02:00"}, APRIL),
        ({"quota_reset_date": "2026-04-02", "quota_reset_date_utc": "2026-04-01T00:00:00.000Z"}, APRIL),
        ({"quota_reset_date": APRIL}, APRIL),
        ({"quota_reset_date": None, "limited_user_reset_date": "2026-04-01"}, APRIL),
        ({"quota_reset_date": None}, None),
        ({"quota_reset_date": ""}, None),
        ({"quota_reset_date": "soon"}, None),
        ({"quota_reset_date": 0}, None),
        ({"quota_reset_date": "2025-01-01"}, None),
        ({"quota_reset_date": "0001-01-01T00:00:00+23:00"}, None),
        ({"quota_reset_date": {"at": 1}}, None),
    ],
)
def test_reset_dates_in_every_form(fields: dict[str, Any], resets_at: float | None) -> None:
    assert window(user({"entitlement": 300, "remaining": 240}, **fields)).resets_at == resets_at


@pytest.mark.parametrize("billing", [True, "true", {"enabled": True}])
def test_token_based_billing_counts_credits(billing: Any) -> None:
    found = window(user({"entitlement": 1000, "remaining": 400}, token_based_billing=billing))
    assert (found.unit, found.percent) == (QuotaUnit.CREDITS, 60.0)


@pytest.mark.parametrize("billing", [False, None, "false", {"enabled": False}, 1])
def test_other_billing_counts_requests(billing: Any) -> None:
    found = window(user({"entitlement": 10, "remaining": 4}, token_based_billing=billing))
    assert found.unit is QuotaUnit.REQUESTS


def test_the_free_plan_counts_what_is_left_of_the_month() -> None:
    quota = read(
        {
            "copilot_plan": "free",
            "monthly_quotas": {"chat": "50", "completions": 2000},
            "limited_user_quotas": {"chat": 10, "completions": 2000},
            "limited_user_reset_date": "2026-04-01",
        }
    )
    chat, completions = quota.windows
    assert (chat.name, chat.kind, chat.percent, chat.resets_at) == ("chat", WindowKind.MONTH, 80.0, APRIL)
    assert (completions.kind, completions.percent) == (None, 0.0)
    assert quota.note == "plan free"


@pytest.mark.parametrize("left", [None, {}, "gone", {"completions": 3}])
def test_a_free_plan_without_what_is_left_is_unknown_not_full(left: Any) -> None:
    payload = {"monthly_quotas": {"chat": 50}, "limited_user_quotas": left}
    assert window(payload).percent is None


def test_a_plan_without_premium_requests_is_measured_by_its_chat() -> None:
    quota = read(
        {
            "quota_snapshots": {
                "premium_interactions": {"entitlement": 0, "remaining": 0, "percent_remaining": 0.0},
                "chat": {"entitlement": 200, "remaining": 50},
                "completions": {"entitlement": 2000, "remaining": 0},
            }
        }
    )
    binding = {w.name: w.percent for w in quota.windows if w.kind is not None}
    assert binding == {"chat": 75.0}


def test_overage_that_is_billed_is_noted() -> None:
    quota = read(user({"entitlement": 300, "remaining": -3, "overage_permitted": True}))
    assert quota.note == "plan pro; premium_interactions: overage is permitted and billed"


@pytest.mark.parametrize("payload", [None, [], "text", 3, {}, {"login": "me"}, {"quota_snapshots": []}])
def test_an_answer_that_is_no_quota_is_told_apart_from_an_unknown_one(payload: Any) -> None:
    assert parse_copilot_user(payload, EPOCH) is None
    assert parse_tool_quota(payload, EPOCH) is None


def test_the_tools_answer() -> None:
    quota = parse_tool_quota(
        {
            "quotaSnapshots": {
                "premium_interactions": {
                    "entitlementRequests": 300,
                    "usedRequests": 60,
                    "remainingPercentage": 80,
                    "resetDate": "2026-04-01T00:00:00Z",
                    "overageAllowedWithExhaustedQuota": True,
                },
                "chat": {"isUnlimitedEntitlement": True, "entitlementRequests": -1},
            }
        },
        EPOCH,
    )
    assert quota is not None
    premium, chat = quota.windows
    assert (premium.kind, premium.used, premium.limit, premium.percent) == (WindowKind.MONTH, 60, 300, 20.0)
    assert premium.resets_at == APRIL
    assert (chat.kind, chat.unlimited, chat.percent) == (None, True, None)
    assert "overage" in quota.note


def test_the_time_of_the_tools_answer_is_no_reset() -> None:
    now = datetime.fromtimestamp(EPOCH, UTC).isoformat()
    snapshot = {"entitlementRequests": 300, "usedRequests": 3, "resetDate": now}
    quota = parse_tool_quota({"quotaSnapshots": {"premium_interactions": snapshot}}, EPOCH)
    assert quota is not None
    assert quota.windows[0].resets_at is None


KEYS = (
    "quota_snapshots",
    "premium_interactions",
    "chat",
    "entitlement",
    "remaining",
    "unlimited",
    "percent_remaining",
    "monthly_quotas",
    "limited_user_quotas",
    "quota_reset_date",
    "quotaSnapshots",
    "entitlementRequests",
    "usedRequests",
    "remainingPercentage",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@settings(deadline=None, max_examples=150)
@given(JSON)
def test_no_answer_breaks_the_readers(payload: Any) -> None:
    for parse in (parse_copilot_user, parse_tool_quota):
        quota = parse(payload, EPOCH)
        if quota is not None:
            assert sum(w.kind is not None for w in quota.windows) <= 1
