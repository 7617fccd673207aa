"""OpenAI-compatible servers: what is sent, what their variants send back, and what their errors mean."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.requests import Message, Role, Usage
from smartfallback.providers import answer as answer_module
from smartfallback.providers.openai import OpenAIProvider
from support.clock import EPOCH
from support.http_servers import (
    KEY,
    Outcome,
    always,
    ask,
    call_to,
    collect,
    first_text,
    http_server,
    pool_at,
    provider_for,
    sse_bytes,
    streams,
)

if TYPE_CHECKING:
    pass

MODEL = "m-1"
DONE = "[DONE]"


def event(content: str | None = None, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    if content is not None:
        delta["content"] = content
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }


def whole(content: str, reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"object": "chat.completion", "choices": [{"message": message, "finish_reason": reason}], **more}


def counted(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def answered(*events: Any) -> Outcome:
    return await ask(streams([sse_bytes(*events)]))


async def refused(status: int, headers: dict[str, str] | None = None, **error: Any) -> Failure:
    return (await ask(always(status, {"error": error}, headers))).failed


async def test_the_request() -> None:
    async with http_server(always(200, whole("hello"))) as upstream:
        pool = pool_at(upstream.url)
        messages = (Message(Role.SYSTEM, "be"), Message(Role.USER, "hi"), Message(Role.ASSISTANT, "yes?"))
        async with provider_for(pool) as provider:
            for stream in (True, False):
                call = call_to(pool, stream=stream, messages=messages, max_output_tokens=7, temperature=0.0)
                assert (await collect(provider.stream(call))).text == "hello"
    streamed, plain = upstream.seen
    assert streamed.path == plain.path == "/v1/chat/completions"
    assert streamed.headers["authorization"] == f"Bearer {KEY}"
    assert plain.body == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "be"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes?"},
        ],
        "max_tokens": 7,
        "temperature": 0.0,
    }
    assert streamed.body == plain.body | {"stream": True, "stream_options": {"include_usage": True}}


async def test_without_a_key_nothing_is_said_about_one() -> None:
    async with http_server(always(200, whole("hello"))) as upstream:
        pool = pool_at(upstream.url, key=None)
        async with provider_for(pool) as provider:
            await collect(provider.stream(call_to(pool)))
    assert "authorization" not in upstream.seen[0].headers
    assert "max_tokens" not in upstream.seen[0].body


async def test_a_stream_as_the_original_sends_it() -> None:
    outcome = await answered(
        event("", role="assistant"),
        event("Hel"),
        event("lo"),
        event(reason="stop"),
        {"choices": [], "usage": counted(4, 2)},
        DONE,
    )
    assert outcome == Outcome("Hello", "stop", Usage(4, 2), None)


async def test_text_is_passed_on_as_it_comes() -> None:
    async with http_server(streams([sse_bytes(event("Hel"))], hold=True)) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            stream = provider.stream(call_to(pool))
            text = await first_text(stream)
            await stream.aclose()
    assert text == "Hel"


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        ([event("hi"), event(reason="stop"), DONE], None),
        ([event("hi"), event(reason="stop")], None),
        ([event("hi"), DONE], None),
        ([event("hi"), event(reason="stop") | {"usage": counted(3, 1)}, DONE], Usage(3, 1)),
        ([event("hi") | {"usage": None}, event("", "stop") | {"usage": counted(0, 0)}, DONE], None),
        ([{"choices": [], "prompt_filter_results": []}, event("hi", "stop"), DONE], None),
        ([event("hi", "eos"), DONE], None),
    ],
)
async def test_variants_of_the_end(events: list[Any], usage: Usage | None) -> None:
    assert await answered(*events) == Outcome("hi", "stop", usage, None)


async def test_comments_and_bare_lines_are_no_content() -> None:
    body = b": keep-alive\n\n\n\n: OPENROUTER PROCESSING\n\n" + sse_bytes(event("hi", "stop"), DONE)
    assert (await ask(streams([body]))).text == "hi"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_crlf_and_characters_cut_between_chunks(size: int) -> None:
    text = "gr\u00fc\u00df \u4f60\u597d \U0001f600"
    raw = json.dumps(event(text, "stop"), ensure_ascii=False).encode()
    body = b"data: " + raw + b"\r\n\r\ndata: [DONE]\r\n\r\n"
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert (await ask(streams(pieces))).text == text


async def test_an_event_over_several_lines() -> None:
    lines = json.dumps(event("hi", "stop"), indent=1).splitlines()
    body = "".join(f"data: {line}\n" for line in lines) + "\n"
    assert (await ask(streams([body.encode()]))).text == "hi"


async def test_a_last_event_without_a_blank_line() -> None:
    assert (await ask(streams([sse_bytes(event("hi", "stop"))[:-2]]))).text == "hi"


async def test_half_a_character_can_be_encoded() -> None:
    outcome = await ask(
        streams([b'data: {"choices":[{"delta":{"content":"a\\ud83d"},"finish_reason":"stop"}]}\n\n'])
    )
    assert outcome.text.encode().startswith(b"a")
    assert len(outcome.text) == 2


async def test_reasoning_is_no_text() -> None:
    outcome = await answered(
        event(None, None, reasoning_content="hmm"),
        event(None, None, reasoning="hmm"),
        event("yes", "stop"),
        DONE,
    )
    assert outcome.text == "yes"


async def test_content_in_parts() -> None:
    parts: Any = [{"type": "thinking", "text": "hmm"}, {"type": "text", "text": "yes"}]
    assert (await answered(event(parts, "stop"), DONE)).text == "yes"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_that_answers_in_the_other_form(stream: bool) -> None:
    usage = counted(4, 2)
    one = await ask(always(200, whole("hello", usage=usage)), stream=stream)
    many = await ask(
        streams([sse_bytes(event("hello"), event("", "stop") | {"usage": usage}, DONE)]), stream=stream
    )
    assert one == many == Outcome("hello", "stop", Usage(4, 2), None)


async def test_a_wrong_content_type_is_overlooked() -> None:
    for kind in ("text/html", "application/octet-stream", ""):
        body = sse_bytes(event("hi", "stop"), DONE)
        assert (await ask(always(200, body, {"content-type": kind}))).text == "hi"


async def test_a_whole_answer_without_a_reason_is_whole() -> None:
    assert (await ask(always(200, whole("hello", None)), stream=False)).finish == "stop"


@pytest.mark.parametrize("reason", ["length", "tool_calls"])
async def test_other_reasons_are_passed_on(reason: str) -> None:
    assert (await answered(event("x"), event("", reason), DONE)).finish == reason


@pytest.mark.parametrize(
    "events",
    [
        [event("some ")],
        [event("some "), '{"choices": [{"del'],
    ],
)
async def test_a_stream_that_just_ends_was_cut_off(events: list[Any]) -> None:
    outcome = await ask(streams([sse_bytes(*events).rstrip()]))
    assert outcome.text == "some "
    assert outcome.finish is None
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE
    assert "cut off after 5 characters" in outcome.failed.message


@pytest.mark.parametrize(
    "events", [[event("")], [DONE], [event("", "stop"), DONE], [event(role="assistant"), DONE]]
)
async def test_an_answer_without_text_is_malformed(events: list[Any]) -> None:
    assert (await answered(*events)).failed.category is ErrorCategory.MALFORMED_RESPONSE


async def test_garbage_in_mid_stream_is_malformed_after_the_text() -> None:
    outcome = await answered(event("some "), "what?", event("more", "stop"), DONE)
    assert outcome.text == "some "
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


async def test_an_end_that_the_server_forgets_is_waited_for_only_briefly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OpenAIProvider, "after_finish_s", 0.02)
    monkeypatch.setattr(answer_module, "END_OF_BODY_S", 0.02)
    for events in ([event("hi"), event("", "stop")], [event("hi", "stop"), DONE]):
        async with asyncio.timeout(10):
            outcome = await ask(streams([sse_bytes(*events)], hold=True))
        assert outcome == Outcome("hi", "stop", None, None)


@pytest.mark.parametrize(
    ("refusal", "refused_part", "instead"),
    [
        ("Unknown parameter: 'stream_options'", "stream_options", None),
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_tokens",
            "max_completion_tokens",
        ),
    ],
)
async def test_a_part_of_the_protocol_that_is_refused_is_left_out_from_then_on(
    refusal: str, refused_part: str, instead: str | None
) -> None:
    bodies: list[Any] = []

    async def picky(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        bodies.append(body)
        if refused_part in body:
            return web.json_response({"error": {"message": refusal}}, status=400)
        return await streams([sse_bytes(event("hi", "stop"), DONE)])(request)

    async with http_server(picky) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            calls = [provider.stream(call_to(pool, max_output_tokens=9)) for _ in range(3)]
            first = await asyncio.gather(*(collect(call) for call in calls))
            asked = len(bodies)
            later = await collect(provider.stream(call_to(pool, max_output_tokens=9)))
    assert all(outcome.text == "hi" for outcome in [*first, later])
    assert len(bodies) == asked + 1
    assert instead is None or bodies[-1][instead] == 9


async def test_a_refusal_that_is_not_about_an_option_is_final() -> None:
    async with http_server(
        always(400, {"error": {"message": "stream_options is fine, you are not"}})
    ) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.INVALID_REQUEST
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    ("error", "category", "status"),
    [
        (
            {"type": "service_unavailable_error", "code": "server_is_overloaded"},
            ErrorCategory.TRANSIENT_ERROR,
            503,
        ),
        ({"type": "overloaded_error", "message": "Overloaded"}, ErrorCategory.TRANSIENT_ERROR, 529),
        ({"message": "The engine is currently overloaded"}, ErrorCategory.TRANSIENT_ERROR, 503),
        ({"code": 502, "message": "Upstream error"}, ErrorCategory.TRANSIENT_ERROR, 502),
        ({"code": "502", "message": "Upstream error"}, ErrorCategory.TRANSIENT_ERROR, 502),
        ({"type": "server_error", "message": "oops"}, ErrorCategory.API_FAILURE, 500),
        ({"code": "rate_limit_exceeded", "message": "slow"}, ErrorCategory.RATE_LIMIT, 429),
        ({"code": "insufficient_quota", "message": "empty"}, ErrorCategory.QUOTA_EXHAUSTED, 429),
        ({"code": "context_length_exceeded", "message": "long"}, ErrorCategory.INVALID_REQUEST, 200),
        ({"type": "invalid_request_error", "message": "bad"}, ErrorCategory.INVALID_REQUEST, 400),
        ({"message": "who knows"}, ErrorCategory.UNKNOWN, 200),
        ("something broke", ErrorCategory.UNKNOWN, 200),
    ],
)
async def test_errors_inside_a_200(error: Any, category: ErrorCategory, status: int) -> None:
    outcomes = [
        await answered({"error": error}),
        await answered(event("some"), {"error": error}),
        await ask(always(200, {"error": error}), stream=False),
    ]
    for outcome in outcomes:
        assert outcome.failed.category is category
        assert outcome.failed.http_status == status
        assert outcome.finish is None
    assert outcomes[1].text == "some"


async def test_an_error_beside_the_last_choice() -> None:
    last = event("", "error") | {"error": {"code": 502, "message": "Provider disconnected"}}
    outcome = await answered(event("some"), last)
    assert outcome.text == "some"
    assert outcome.failed.category is ErrorCategory.TRANSIENT_ERROR
    assert outcome.failed.message == "Provider disconnected"


@pytest.mark.parametrize("stream", [True, False])
async def test_the_content_filter(stream: bool) -> None:
    handler = (
        streams([sse_bytes(event("some "), event("text", "content_filter"), DONE)])
        if stream
        else always(200, whole("some text", "content_filter"))
    )
    outcome = await ask(handler, stream=stream)
    assert outcome.text == "some text"
    assert outcome.failed.category is ErrorCategory.CONTENT_FILTERED
    refused_prompt = await refused(400, code="content_filter", message="The response was filtered")
    assert refused_prompt.category is ErrorCategory.CONTENT_FILTERED


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            429,
            {"code": "insufficient_quota", "message": "You exceeded your current quota, check your billing."},
        ),
        (429, {"message": "You exceeded your current quota, please check your plan and billing details."}),
        (
            429,
            {"code": "rate_limit_exceeded", "message": "Limit reached on requests per day (RPD): Limit 200"},
        ),
        (
            429,
            {
                "code": "RateLimitReached",
                "message": "Rate limit of 150 per 86400s exceeded for UserByModelByDay.",
            },
        ),
        (429, {"code": 429, "message": "Rate limit exceeded: free-models-per-day"}),
        (429, {"code": "user_weekly_rate_limited", "message": "wait 9 hours 44 minutes"}),
        (402, {"code": 402, "message": "Insufficient credits"}),
        (402, {"message": "You have no quota", "code": "quota_exceeded"}),
        (403, {"code": "insufficient_quota", "message": "no"}),
    ],
)
async def test_walls(status: int, error: dict[str, Any]) -> None:
    failure = await refused(status, **error)
    assert failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert "acc-1" in failure.hint


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached for requests per min (RPM): Limit 3. Add a payment method on the billing page.",
        "This request would exceed your organization's rate limit of 50,000 input tokens per minute",
        "Too many requests",
    ],
)
async def test_bursts(message: str) -> None:
    for code in ("rate_limit_exceeded", None):
        assert (await refused(429, code=code, message=message)).category is ErrorCategory.RATE_LIMIT


async def test_a_wall_ends_when_it_says_and_not_by_a_gateways_short_delay() -> None:
    stated = await refused(429, message="Limit on tokens per day (TPD) reached. Please try again in 7m12s.")
    assert stated.resets_at == EPOCH + 432
    short = await refused(429, {"retry-after": "20"}, code="insufficient_quota", message="no")
    assert short.resets_at is None
    assert short.retry_after_s is None
    long = await refused(429, {"retry-after": "7999"}, code="insufficient_quota", message="no")
    assert long.resets_at == EPOCH + 7_999
    fields = await refused(429, type="usage_limit_reached", message="limit", resets_in_seconds=5_000)
    assert fields.resets_at == EPOCH + 5_000


async def test_the_wait_of_a_burst() -> None:
    in_words = await refused(429, message="Please try again in 20s.")
    assert in_words.retry_after_s == 20.0
    header_first = await refused(429, {"retry-after": "3"}, message="Please try again in 20s.")
    assert header_first.retry_after_s == 3.0
    body_field = await refused(
        429, message="slow", metadata={"headers": {"X-RateLimit-Reset": str(int((EPOCH + 60) * 1000))}}
    )
    assert body_field.retry_after_s == pytest.approx(60.0)


async def test_a_limit_that_names_the_model_concerns_that_model() -> None:
    assert (await refused(429, message=f"Rate limit reached for {MODEL} in organization x")).model == MODEL
    assert (await refused(429, message=f"Rate limit reached for {MODEL}-large")).model is None
    assert (await refused(429, message="Rate limit reached")).model is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "context_length_exceeded", "message": "too long"}),
        (400, {"message": "This model's maximum context length is 8192 tokens."}),
        (
            400,
            {
                "type": "exceed_context_size_error",
                "message": "the request exceeds the available context size",
            },
        ),
        (413, {"code": "tokens_limit_reached", "message": "Request body too large for gpt-4o model."}),
        (400, {"message": "Requested tokens (5000) exceed context window of 2048"}),
    ],
)
async def test_context_overflow(status: int, error: dict[str, Any]) -> None:
    failure = await refused(status, **error)
    assert failure.category is ErrorCategory.INVALID_REQUEST
    assert failure.context_overflow


async def test_a_ban_is_permanent_and_a_bad_key_is_not() -> None:
    ban = await refused(403, message="Your account has been suspended for violating our Terms of Service")
    assert ban.category is ErrorCategory.AUTHENTICATION
    assert ban.permanent
    key = await refused(401, code="invalid_api_key", message="Incorrect API key provided")
    assert key.category is ErrorCategory.AUTHENTICATION
    assert key.code == "invalid_api_key"
    assert not key.permanent


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "model 'x' not found"}, "model 'x' not found"),
        ({"object": "error", "message": "from vllm", "code": 404}, "from vllm"),
        ({"detail": "from fastapi"}, "from fastapi"),
        ("plain words", "plain words"),
        ("", "Not Found"),
    ],
)
async def test_forms_of_an_error_body(body: Any, message: str) -> None:
    failure = (await ask(always(404, body))).failed
    assert failure.message == message
    assert MODEL in failure.hint
