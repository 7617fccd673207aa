"""Quota endpoints differ; what they say is read, what they leave out stays unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import QuotaUnit, WindowKind, WindowReading
from smartfallback.quota_sources.gemini_quota import parse_quota_status
from support.clock import EPOCH

SUNDAY = datetime(2026, 3, 8, tzinfo=UTC).timestamp()
WEEK = {"window": "week", "unit": "tokens", "limit": 1000}


def one(payload: Any, **options: Any) -> WindowReading:
    windows = parse_quota_status(payload, EPOCH, **options)
    assert windows is not None
    (window,) = windows
    return window


def test_the_documented_shape() -> None:
    entry = WEEK | {"used": 250, "resetTime": "2026-03-08T00:00:00Z"}
    assert one({"quotas": [entry]}) == WindowReading(
        "week", WindowKind.WEEK, QuotaUnit.TOKENS, 250, 1000, 25.0, SUNDAY
    )


@pytest.mark.parametrize(
    "payload",
    [
        {"quotas": [WEEK | {"used": 250}]},
        {"quota": WEEK | {"used": 250}},
        {"quotaStatus": {"quotas": [WEEK | {"used": 250}]}},
        {"quota_status": [WEEK | {"used": 250}]},
        {"buckets": {"weekly": {"unit": "tokens", "limit": 1000, "used": 250}}},
        {"limits": [{"name": "TokensPerWeek", "quotaValue": "1000", "usage": "250"}]},
        {"windows": [{"Period": "WEEKLY", "Metric": "TOKENS", "Quota_Limit": "1,000", "Remaining": 750}]},
        [WEEK | {"used": 250}],
        WEEK | {"used": 250},
    ],
)
def test_variants_of_the_shape_say_the_same(payload: Any) -> None:
    window = one(payload)
    assert (window.kind, window.unit, window.used, window.limit, window.percent) == (
        WindowKind.WEEK,
        QuotaUnit.TOKENS,
        250,
        1000,
        25.0,
    )


@pytest.mark.parametrize(
    ("figures", "percent"),
    [
        ({"used": 100}, 10.0),
        ({"used": "100"}, 10.0),
        ({"remaining": 100}, 90.0),
        ({"remaining": -100}, 110.0),
        ({"remainingFraction": 0.25}, 75.0),
        ({"remaining_fraction": "0.25"}, 75.0),
        ({"remainingFraction": 0}, 100.0),
        ({"remainingFraction": -0.1}, 110.0),
        ({"usedFraction": 0.25}, 25.0),
        ({"percentUsed": 33.5}, 33.5),
        ({"percentRemaining": 33.5}, 66.5),
        ({"used": 1500}, 150.0),
    ],
)
def test_what_is_gone_or_left(figures: dict[str, Any], percent: float) -> None:
    assert one([WEEK | figures]).percent == pytest.approx(percent)


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"used": None},
        {"used": "a lot"},
        {"used": True},
        {"remainingFraction": None},
        {"remainingFraction": 1.5},
        {"limit": 0, "used": 0},
        {"limit": 0, "remaining": 0},
        {"limit": "0", "remainingFraction": 1.0},
        {"limit": -5, "used": 3},
        {"limit": None, "used": 3},
    ],
)
def test_a_missing_share_is_unknown(figures: dict[str, Any]) -> None:
    assert one([WEEK | figures]).percent is None


def test_no_limit_is_told_apart() -> None:
    window = one([WEEK | {"limit": -1, "used": 3}])
    assert (window.unlimited, window.percent) == (True, None)


def test_a_share_without_a_unit_is_a_fraction() -> None:
    window = one([{"window": "5h", "remainingFraction": 0.25}])
    assert (window.kind, window.unit, window.percent) == (WindowKind.FIVE_HOURS, QuotaUnit.FRACTION, 75.0)
    assert (window.used, window.limit) == (None, None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("5h", WindowKind.FIVE_HOURS),
        ("FIVE_HOUR", WindowKind.FIVE_HOURS),
        ("daily", WindowKind.DAY),
        ("PER_DAY", WindowKind.DAY),
        ("WEEKLY", WindowKind.WEEK),
        ("month", WindowKind.MONTH),
        ("minute", None),
        ("PerMinute", None),
    ],
)
def test_spans(text: str, kind: WindowKind | None) -> None:
    assert one([WEEK | {"window": text, "used": 1}]).kind is kind


def test_the_span_may_stand_in_the_quotas_name() -> None:
    entry = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel", "quotaValue": "50", "used": 5}
    window = one([entry])
    assert (window.kind, window.unit) == (WindowKind.DAY, QuotaUnit.REQUESTS)
    burst = entry | {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}
    assert one([burst]).kind is None


def test_the_limit_of_another_model_binds_nothing() -> None:
    entry = WEEK | {"used": 900, "model": "models/gemini-2.5-pro"}
    assert one([entry], model="gemini-2.5-flash").kind is None
    assert one([entry], model="gemini-2.5-pro").kind is WindowKind.WEEK


@pytest.mark.parametrize(
    ("reset", "at"),
    [
        ({"resetTime": "2026-03-08T00:00:00Z"}, SUNDAY),
        ({"reset_at": "2026-03-08"}, SUNDAY),
        ({"resetsAt": SUNDAY}, SUNDAY),
        ({"resetTime": SUNDAY * 1000}, SUNDAY),
        ({"resetDelay": "1h2m3s"}, EPOCH + 3723),
        ({"resetIn": 60}, EPOCH + 60),
        ({"resetTime": "2020-01-01T00:00:00Z"}, None),
        ({"resetTime": "never"}, None),
        ({}, None),
    ],
)
def test_resets(reset: dict[str, Any], at: float | None) -> None:
    assert one([WEEK | {"used": 1} | reset]).resets_at == at


@pytest.mark.parametrize(
    "payload", [None, 3, "text", {}, [], [1, 2], {"error": {"code": 400}}, {"quotas": "no"}]
)
def test_an_answer_that_names_no_quota(payload: Any) -> None:
    assert parse_quota_status(payload, EPOCH) is None


def test_an_account_without_quotas_is_a_quota_answer() -> None:
    assert parse_quota_status({"quotas": []}, EPOCH) == ()


KEYS = (
    "quotas",
    "quota",
    "window",
    "unit",
    "limit",
    "used",
    "remaining",
    "name",
    "model",
    "remainingFraction",
    "percentUsed",
    "resetTime",
    "resetIn",
    "unlimited",
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
def test_no_answer_breaks_the_reader(payload: Any) -> None:
    for window in parse_quota_status(payload, EPOCH, model="m") or ():
        assert window.percent is None or window.percent >= 0
