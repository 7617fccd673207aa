"""Rate-limit headers tell of bursts, and never pass for the weekly quota."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import QuotaUnit, WindowKind, WindowReading
from smartfallback.providers.limit_headers import limit_readings
from support.clock import EPOCH
from support.http_servers import always, call_to, http_server, pool_at, provider_for


def read(**headers: str) -> tuple[WindowReading, ...]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return limit_readings(raw, EPOCH)


def test_openai_style() -> None:
    requests, tokens = read(
        x_ratelimit_limit_requests="60",
        x_ratelimit_remaining_requests="15",
        x_ratelimit_reset_requests="1s",
        X_RateLimit_Limit_Tokens="150000",
        X_RateLimit_Remaining_Tokens="149984",
        X_RateLimit_Reset_Tokens="6m0s",
    )
    assert requests == WindowReading("requests", None, QuotaUnit.REQUESTS, 45, 60, 75.0, EPOCH + 1)
    assert (tokens.unit, tokens.used, tokens.resets_at) == (QuotaUnit.TOKENS, 16, EPOCH + 360)


def test_anthropic_style() -> None:
    at = datetime.fromtimestamp(EPOCH + 90, UTC).isoformat().replace("+00:00", "Z")
    (reading,) = read(
        anthropic_ratelimit_input_tokens_limit="1000",
        anthropic_ratelimit_input_tokens_remaining="0",
        anthropic_ratelimit_input_tokens_reset=at,
    )
    assert reading == WindowReading("input-tokens", None, QuotaUnit.TOKENS, 1000, 1000, 100.0, EPOCH + 90)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12ms", 0.012), ("6m0s", 360), ("1h2m3s", 3723), ("59", 59), ("1.5", 1.5), ("2m59.56s", 179.56)],
)
def test_durations(text: str, seconds: float) -> None:
    (reading,) = read(x_ratelimit_limit_tokens="10", x_ratelimit_reset_tokens=text)
    assert reading.resets_at == pytest.approx(EPOCH + seconds)


@pytest.mark.parametrize("text", ["-1", "0", "0s", "", "soon", "2020-01-01T00:00:00Z", "9" * 40])
def test_resets_that_say_nothing(text: str) -> None:
    (reading,) = read(x_ratelimit_limit_tokens="10", x_ratelimit_reset_tokens=text)
    assert reading.resets_at is None


@pytest.mark.parametrize(
    ("limit", "remaining"),
    [
        ("-1", "-1"),
        ("0", "0"),
        ("-1", "0"),
        ("100", "-1"),
        ("100", ""),
        ("100", "x"),
        ("", "5"),
        ("nan", "5"),
    ],
)
def test_azures_unknowns_are_neither_0_nor_100(limit: str, remaining: str) -> None:
    readings = read(
        x_ratelimit_limit_requests=limit,
        x_ratelimit_remaining_requests=remaining,
        x_ratelimit_reset_requests="1s",
    )
    assert [reading.percent for reading in readings] == [None]


def test_nothing_left_of_a_limit_is_full() -> None:
    (reading,) = read(x_ratelimit_limit_requests="100", x_ratelimit_remaining_requests="0")
    assert reading.percent == 100.0


def test_headers_that_say_nothing_at_all() -> None:
    assert read(x_ratelimit_limit_requests="-1", x_ratelimit_remaining_requests="0") == ()
    assert read(content_type="text/plain", retry_after="3") == ()
    assert read(x_ratelimit="3", ratelimit_policy="10;w=1", x_ratelimit_used="3") == ()


def test_only_a_name_with_a_span_makes_a_quota_window() -> None:
    (far,) = read(x_ratelimit_limit_requests="10", x_ratelimit_reset_requests="168h")
    assert far.kind is None
    (day,) = read(x_ratelimit_limit_tokens_day="10", x_ratelimit_remaining_tokens_day="5")
    assert (day.kind, day.unit, day.percent) == (WindowKind.DAY, QuotaUnit.TOKENS, 50.0)
    (minute,) = read(x_ratelimit_limit_tokens_minute="10", x_ratelimit_remaining_tokens_minute="5")
    assert minute.kind is None


def test_a_limit_of_unknown_unit_is_a_share() -> None:
    (reading,) = read(x_ratelimit_limit_images="10", x_ratelimit_remaining_images="4")
    assert (reading.unit, reading.percent, reading.limit) == (QuotaUnit.FRACTION, 60.0, None)


KEYS = (
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-reset",
    "x-ratelimit-",
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KEYS).map(str.encode),
            st.binary(max_size=12) | st.integers(-2, 10**20).map(lambda n: str(n).encode()),
        ),
        max_size=8,
    )
)
def test_no_header_breaks_the_reader(headers: list[tuple[bytes, bytes]]) -> None:
    for reading in limit_readings(headers, EPOCH):
        assert reading.kind is None


ANSWER = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}


async def limits_of(headers: dict[str, str]) -> list[tuple[WindowReading, ...]]:
    async with http_server(always(200, ANSWER, headers)) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            return [chunk.limits async for chunk in provider.stream(call_to(pool, stream=False))]


async def test_an_answers_first_chunk_brings_its_limits() -> None:
    first, *others = await limits_of(
        {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}
    )
    assert [reading.used for reading in first] == [1]
    assert others
    assert not any(others)


async def test_an_answer_without_limits_has_no_chunk_for_them() -> None:
    assert not any(await limits_of({}))
