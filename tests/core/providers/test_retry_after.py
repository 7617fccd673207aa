"""Stated waits: every form that upstreams use, and nothing ever capped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.providers.retry_after import (
    header_wait,
    parse_duration,
    parse_retry_after,
    parse_timestamp,
    rate_limit_wait,
    wait_in_prose,
)
from support.clock import EPOCH

NOW = EPOCH


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012),
        ("40s", 40.0),
        ("0.5s", 0.5),
        ("6m0s", 360.0),
        ("1h2m3s", 3_723.0),
        ("108h48m20.79s", 391_700.79),
        ("9 hours 44 minutes", 35_040.0),
        ("1d", 86_400.0),
        ("2 days, 3 hours and 1 minute", 183_660.0),
        ("250µs", 0.00025),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "12", "-3s", "5 parsecs", "1h later", "s", "1e9s", "\u0661s"])
def test_what_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Limit 200, Used 200. Please try again in 7m12s. Visit https://host", 432.0),
        ("Please retry in 31.510247132s.", 31.510247132),
        ("Please wait 58000 seconds before retrying.", 58_000.0),
        ("wait 9 hours 44 minutes", 35_040.0),
        ("Your quota will reset after 1h16m20s.", 4_580.0),
    ],
)
def test_waits_in_prose(text: str, seconds: float) -> None:
    assert wait_in_prose(text) == pytest.approx(seconds)


def test_prose_without_a_wait() -> None:
    assert wait_in_prose("You used 40s of compute, try again later.") is None


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**9))
def test_whole_seconds_are_taken_as_they_stand(seconds: int) -> None:
    assert parse_retry_after(str(seconds), NOW) == seconds
    assert header_wait({"retry-after": str(seconds)}, NOW) == seconds


@settings(deadline=None, max_examples=60)
@given(st.integers(-(10**6), 10**8))
def test_http_dates_are_measured_against_the_calendar(seconds: int) -> None:
    at = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)
    assert parse_retry_after(format_datetime(at, usegmt=True), NOW) == max(0, seconds)


@pytest.mark.parametrize("value", ["", "later", "-5", "nan", "inf", "1,5", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_retry_after_without_meaning_states_nothing(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


def test_milliseconds_are_the_finer_statement() -> None:
    assert header_wait({"retry-after": "2", "retry-after-ms": "1500"}, NOW) == 1.5


def test_the_reset_of_the_limit_that_is_used_up_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert rate_limit_wait(headers, NOW) == pytest.approx(0.012)
    headers["x-ratelimit-remaining-tokens"] = "0"
    assert rate_limit_wait(headers, NOW) == pytest.approx(360.0)


def test_unknown_resets_state_nothing() -> None:
    assert rate_limit_wait({"x-ratelimit-reset-requests": "-1", "x-ratelimit-reset-tokens": "0"}, NOW) is None


def test_resets_as_moments() -> None:
    assert rate_limit_wait({"x-ratelimit-reset": str(int(NOW) + 90)}, NOW) == pytest.approx(90.0)
    assert rate_limit_wait({"x-ratelimit-reset": str(int(NOW + 90) * 1000)}, NOW) == pytest.approx(90.0)
    stamp = datetime.fromtimestamp(NOW + 30, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert rate_limit_wait({"anthropic-ratelimit-tokens-reset": stamp}, NOW) == pytest.approx(30.0)


def test_timestamps() -> None:
    assert parse_timestamp("2026-03-02T12:00:00Z", NOW) == EPOCH
    assert parse_timestamp(True, NOW) is None
    assert parse_timestamp(None, NOW) is None
    assert parse_timestamp("soon", NOW) is None
    assert parse_timestamp(float("inf"), NOW) is None
