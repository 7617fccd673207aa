"""The Gemini API: what is sent, what is read, and what its errors mean."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.requests import Message, Role, Usage
from smartfallback.model.specs import ProviderKind, Timeouts
from support.clock import EPOCH
from support.http_servers import (
    KEY,
    Outcome,
    always,
    ask,
    call_to,
    collect,
    http_server,
    pool_at,
    provider_for,
    sse_bytes,
    streams,
)

GEMINI = ProviderKind.GEMINI
MODEL = "gemini-2.5-flash"


def event(text: str | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {}
    if text is not None:
        candidate["content"] = {"role": "model", "parts": [{"text": text}]}
    if reason is not None:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], **more}


async def answered(*events: Any, stream: bool = True) -> Outcome:
    handler = streams([sse_bytes(*events)]) if stream else always(200, events[0])
    return await ask(handler, GEMINI, stream=stream, model=MODEL)


async def refused(code: int, message: str = "no", **error: Any) -> Failure:
    body = {"error": {"code": code, "message": message, **error}}
    return (await ask(always(code, body), GEMINI, model=MODEL)).failed


def quota_failure(quota_id: str, *, value: str = "50", model: str | None = MODEL) -> dict[str, Any]:
    violation: dict[str, Any] = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": quota_id,
        "quotaValue": value,
    }
    if model is not None:
        violation["quotaDimensions"] = {"location": "global", "model": model}
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}


def retry_info(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def error_info(reason: str, **metadata: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": metadata}


PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"


@pytest.mark.parametrize(
    ("stream", "path"),
    [
        (True, f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"),
        (False, f"/v1beta/models/{MODEL}:generateContent"),
    ],
)
async def test_the_request(stream: bool, path: str) -> None:
    async with http_server(always(200, event("hello", "STOP"))) as upstream:
        pool = pool_at(upstream.url, GEMINI, model=MODEL)
        call = call_to(
            pool,
            stream=stream,
            messages=(
                Message(Role.SYSTEM, "be brief"),
                Message(Role.USER, "hi"),
                Message(Role.ASSISTANT, "yes?"),
                Message(Role.SYSTEM, "be kind"),
                Message(Role.USER, "gr\u00fc\u00df \U0001f600"),
            ),
            max_output_tokens=7,
            temperature=0.5,
        )
        async with provider_for(pool) as provider:
            assert (await collect(provider.stream(call))).text == "hello"
    seen = upstream.seen[0]
    assert seen.path == path
    assert seen.headers["x-goog-api-key"] == KEY
    assert KEY not in seen.path
    assert "authorization" not in seen.headers
    assert seen.body == {
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"text": "yes?"}]},
            {"role": "user", "parts": [{"text": "gr\u00fc\u00df \U0001f600"}]},
        ],
        "systemInstruction": {"parts": [{"text": "be brief"}, {"text": "be kind"}]},
        "generationConfig": {"maxOutputTokens": 7, "temperature": 0.5},
    }


async def test_what_is_not_asked_for_is_not_sent() -> None:
    async with http_server(always(200, event("hello", "STOP"))) as upstream:
        pool = pool_at(upstream.url, GEMINI, key=None)
        async with provider_for(pool) as provider:
            await collect(provider.stream(call_to(pool)))
            await collect(provider.stream(call_to(pool, messages=(Message(Role.SYSTEM, "be"),))))
    assert set(upstream.seen[0].body) == {"contents"}
    assert "x-goog-api-key" not in upstream.seen[0].headers
    assert upstream.seen[1].body == {"contents": [{"role": "user", "parts": [{"text": "be"}]}]}


@pytest.mark.parametrize(
    ("base", "model", "path"),
    [
        ("", "models/m", "/v1beta/models/m:generateContent"),
        ("/", "tunedModels/m", "/v1beta/tunedModels/m:generateContent"),
        ("/v1beta", "m", "/v1beta/models/m:generateContent"),
        ("/gw/v1", "m", "/gw/v1/models/m:generateContent"),
        ("", "../../admin?x=#", "/v1beta/models/..%2F..%2Fadmin%3Fx=%23:generateContent"),
    ],
)
async def test_paths(base: str, model: str, path: str) -> None:
    async with http_server(always(200, event("hello", "STOP"))) as upstream:
        pool = pool_at(upstream.url + base, GEMINI, model=model)
        async with provider_for(pool) as provider:
            await collect(provider.stream(call_to(pool, stream=False)))
    assert upstream.seen[0].path.replace("%3D", "=") == path


async def test_a_stream_of_text_with_its_count() -> None:
    outcome = await answered(
        event("Hel", usageMetadata={"promptTokenCount": 4, "totalTokenCount": 4}),
        event("lo"),
        event(
            "",
            "STOP",
            usageMetadata={"promptTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": 30},
        ),
    )
    assert outcome == Outcome("Hello", "stop", Usage(4, 32), None)


async def test_an_answer_in_one_piece() -> None:
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 2, "toolUsePromptTokenCount": 3}
    outcome = await answered(event("Hello", "MAX_TOKENS", usageMetadata=usage), stream=False)
    assert outcome == Outcome("Hello", "length", Usage(7, 2), None)


async def test_a_finish_reason_in_every_event_cuts_nothing_off() -> None:
    outcome = await answered(event("one ", "STOP"), event("two ", "STOP"), event("three", "STOP"))
    assert outcome.text == "one two three"
    assert outcome.finish == "stop"


async def test_thoughts_are_no_text() -> None:
    parts = [{"text": "hmm", "thought": True}, {"text": "yes"}, {"inlineData": {}}]
    outcome = await answered({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})
    assert outcome.text == "yes"


async def test_an_answer_that_is_all_thought_up_to_the_limit_is_an_answer_cut_short() -> None:
    outcome = await answered(
        event(None, "MAX_TOKENS", usageMetadata={"promptTokenCount": 1, "thoughtsTokenCount": 9})
    )
    assert outcome == Outcome("", "length", Usage(1, 9), None)


async def test_no_text_at_all_is_malformed() -> None:
    assert (await answered(event("", "STOP"))).failed.category is ErrorCategory.MALFORMED_RESPONSE


async def test_a_stream_without_a_finish_reason_was_cut_off_and_its_count_is_kept() -> None:
    outcome = await answered(event("Hel", usageMetadata={"promptTokenCount": 4, "candidatesTokenCount": 1}))
    assert outcome.text == "Hel"
    assert outcome.usage == Usage(4, 1)
    assert outcome.finish is None
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE
    assert "cut off" in outcome.failed.message


@pytest.mark.parametrize("stream", [True, False])
async def test_a_blocked_prompt(stream: bool) -> None:
    outcome = await answered({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, stream=stream)
    assert outcome.failed.category is ErrorCategory.CONTENT_FILTERED
    assert outcome.failed.code == "PROHIBITED_CONTENT"


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"])
async def test_a_blocked_answer_before_and_after_text(reason: str) -> None:
    before = await answered(event(None, reason))
    after = await answered(event("some "), event("text", reason))
    assert before.failed.category is after.failed.category is ErrorCategory.CONTENT_FILTERED
    assert (before.text, after.text) == ("", "some text")
    assert "before any text" in before.failed.message
    assert "after 9 characters" in after.failed.message


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
async def test_a_model_that_breaks_off_is_malformed(reason: str) -> None:
    assert (await answered(event(None, reason))).failed.category is ErrorCategory.MALFORMED_RESPONSE


@pytest.mark.parametrize("reason", ["OTHER", "NO_IMAGE", "A_REASON_OF_NEXT_YEAR"])
async def test_any_end_but_the_two_good_ones_is_no_clean_end(reason: str) -> None:
    for outcome in (
        await answered(event("some "), event("text", reason)),
        await answered(event("some text", reason), stream=False),
    ):
        assert (outcome.text, outcome.finish) == ("some text", None)
        assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE
        assert reason in outcome.failed.message


async def test_a_reason_that_is_not_given_is_none() -> None:
    assert (await answered(event("x", "FINISH_REASON_UNSPECIFIED"), event("y", "STOP"))).finish == "stop"


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (b'event: error\ndata: {"code": 503, "message": "overloaded"}\n\n', ErrorCategory.TRANSIENT_ERROR),
        (
            b'event: error\ndata: {"error": {"status": "RESOURCE_EXHAUSTED"}}\n\n',
            ErrorCategory.RATE_LIMIT,
        ),
        (b"event: error\ndata: sorry\n\n", ErrorCategory.UNKNOWN),
        (b'error: {"status": "INTERNAL"}\n\n', ErrorCategory.API_FAILURE),
    ],
)
async def test_an_error_event_in_mid_answer(error: bytes, category: ErrorCategory) -> None:
    body = sse_bytes(event("some ")) + error + sse_bytes(event("more", "STOP"))
    outcome = await ask(streams([body]), GEMINI)
    assert (outcome.text, outcome.finish) == ("some ", None)
    assert outcome.failed.category is category


async def test_a_whole_answer_whose_end_is_withheld_is_no_time_out() -> None:
    async with http_server(streams([sse_bytes(event("hi", "STOP"))], hold=True)) as upstream:
        pool = replace(pool_at(upstream.url, GEMINI), timeouts=Timeouts(idle_s=1.0))
        async with provider_for(pool) as provider:
            chunks = provider.stream(call_to(pool))
            finish = None
            while finish is None:
                async with asyncio.timeout(pool.timeouts.idle_s):
                    finish = (await anext(chunks)).finish_reason
            await chunks.aclose()
    assert finish == "stop"


async def test_an_error_inside_the_stream() -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    first = await answered(error)
    later = await answered(event("some"), error)
    named = await answered({"error": {"message": "busy", "status": "UNAVAILABLE"}})
    for outcome in (first, later, named):
        assert outcome.failed.category is ErrorCategory.TRANSIENT_ERROR
        assert outcome.failed.http_status == 503
        assert outcome.failed.code == "UNAVAILABLE"
    assert later.text == "some"


async def test_a_daily_wall_stays_a_wall_whatever_the_delay_says() -> None:
    failure = await refused(
        429, "quota", status="RESOURCE_EXHAUSTED", details=[quota_failure(PER_DAY), retry_info("31s")]
    )
    assert failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert failure.model == MODEL
    assert failure.project_wide
    midnight = datetime(2026, 3, 3, tzinfo=ZoneInfo("America/Los_Angeles")).timestamp()
    assert failure.resets_at == midnight
    assert failure.retry_after_s == midnight - EPOCH


async def test_a_daily_wall_honours_a_delay_beyond_midnight() -> None:
    failure = await refused(429, details=[quota_failure(PER_DAY), retry_info("400000s")])
    assert failure.resets_at == EPOCH + 400_000


async def test_a_wall_of_more_than_a_day_has_no_reset_unless_one_is_stated() -> None:
    weekly = "GenerateTokensPerWeekPerProject"
    assert (await refused(429, details=[quota_failure(weekly), retry_info("31s")])).resets_at is None
    assert (
        await refused(429, details=[quota_failure(weekly), retry_info("200000s")])
    ).resets_at == EPOCH + 2e5


async def test_a_limit_by_the_minute_is_a_burst() -> None:
    failure = await refused(
        429, "quota", status="RESOURCE_EXHAUSTED", details=[quota_failure(PER_MINUTE), retry_info("40s")]
    )
    assert failure.category is ErrorCategory.RATE_LIMIT
    assert failure.retry_after_s == 40.0
    assert failure.resets_at is None
    assert failure.model == MODEL
    assert failure.project_wide


async def test_both_limits_at_once_are_a_wall() -> None:
    failure = await refused(
        429, details=[quota_failure(PER_MINUTE), quota_failure(PER_DAY), retry_info("5s")]
    )
    assert failure.category is ErrorCategory.QUOTA_EXHAUSTED


async def test_no_quota_at_all_concerns_the_model_and_mends_by_no_wait() -> None:
    failure = await refused(429, details=[quota_failure(PER_MINUTE, value="0"), retry_info("20s")])
    assert failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert failure.model == MODEL
    assert failure.retry_after_s is None
    assert failure.resets_at is None
    assert "billing" in failure.hint


async def test_resource_exhausted_without_details_is_a_burst() -> None:
    failure = await refused(
        429, "Resource has been exhausted (e.g. check quota).", status="RESOURCE_EXHAUSTED"
    )
    assert failure.category is ErrorCategory.RATE_LIMIT
    assert failure.retry_after_s is None
    assert failure.model is None
    assert not failure.project_wide


@pytest.mark.parametrize(
    ("metadata", "resets_at"),
    [
        ({"quotaResetDelay": "108h48m20.79s"}, EPOCH + 391_700.79),
        ({"quotaResetTimeStamp": "2026-03-07T00:48:20Z", "quotaResetDelay": "1s"}, EPOCH + 391_700),
        ({}, None),
    ],
)
async def test_the_reason_quota_exhausted_is_a_wall_with_its_reset(
    metadata: dict[str, str], resets_at: float | None
) -> None:
    failure = await refused(429, details=[error_info("QUOTA_EXHAUSTED", model=MODEL, **metadata)])
    assert failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert failure.code == "QUOTA_EXHAUSTED"
    assert failure.model == MODEL
    assert failure.resets_at == pytest.approx(resets_at)


async def test_the_reason_rate_limit_exceeded_is_a_burst() -> None:
    failure = await refused(429, details=[error_info("RATE_LIMIT_EXCEEDED", quotaResetDelay="2.5s")])
    assert failure.category is ErrorCategory.RATE_LIMIT
    assert failure.retry_after_s == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("status", "category"), [(429, ErrorCategory.RATE_LIMIT), (503, ErrorCategory.TRANSIENT_ERROR)]
)
async def test_a_model_without_capacity(status: int, category: ErrorCategory) -> None:
    failure = await refused(status, details=[error_info("MODEL_CAPACITY_EXHAUSTED"), retry_info("3s")])
    assert failure.category is category
    assert failure.retry_after_s == 3.0
    assert failure.model == (MODEL if status == 429 else None)


async def test_a_wait_that_only_the_message_states() -> None:
    failure = await refused(429, "Quota exceeded. Please retry in 31.5s.")
    assert failure.retry_after_s == 31.5


@pytest.mark.parametrize("status", [400, 403])
async def test_a_key_error_under_any_status_is_authentication(status: int) -> None:
    failure = await refused(
        status, "API key not valid. Please pass a valid API key.", details=[error_info("API_KEY_INVALID")]
    )
    assert failure.category is ErrorCategory.AUTHENTICATION
    assert not failure.permanent
    assert "acc-1" in failure.hint
    expired = await refused(400, "API key expired. Please renew the API key.")
    assert expired.category is ErrorCategory.AUTHENTICATION


@pytest.mark.parametrize(
    ("message", "details"),
    [
        ("This service has been disabled in this account for violation of Terms of Service.", []),
        ("Consumer 'projects/1' has been suspended.", [error_info("CONSUMER_SUSPENDED")]),
    ],
)
async def test_a_terms_violation_is_permanent(message: str, details: list[Any]) -> None:
    failure = await refused(403, message, status="PERMISSION_DENIED", details=details)
    assert failure.category is ErrorCategory.AUTHENTICATION
    assert failure.permanent
    assert "acc-1" in failure.hint


async def test_a_plain_denial_is_not_permanent() -> None:
    failure = await refused(403, "The caller does not have permission", status="PERMISSION_DENIED")
    assert failure.category is ErrorCategory.AUTHENTICATION
    assert not failure.permanent


async def test_a_403_that_speaks_of_quota_is_a_wall() -> None:
    failure = await refused(403, "Quota exceeded for quota metric 'x'", details=[quota_failure(PER_DAY)])
    assert failure.category is ErrorCategory.QUOTA_EXHAUSTED


async def test_a_conversation_beyond_the_context_is_an_overflow() -> None:
    failure = await refused(
        400, "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
    )
    assert failure.category is ErrorCategory.INVALID_REQUEST
    assert failure.context_overflow
    assert not (await refused(400, "Invalid value at 'contents'")).context_overflow


async def test_an_error_in_an_array_is_read() -> None:
    body = [{"error": {"code": 429, "message": "slow", "details": [quota_failure(PER_DAY)]}}]
    failure = (await ask(always(429, body), GEMINI)).failed
    assert failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert failure.message == "slow"


@pytest.mark.parametrize(
    "details",
    ["text", [7], [{"@type": 5}], [{"@type": "x.QuotaFailure", "violations": [3, {"quotaDimensions": 4}]}]],
)
async def test_details_of_another_shape_do_no_harm(details: Any) -> None:
    assert (await refused(429, details=details)).category is ErrorCategory.RATE_LIMIT
