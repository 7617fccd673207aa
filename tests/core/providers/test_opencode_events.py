"""OpenCode's events in every shape that a release is known to send, and what its errors mean."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.requests import Usage
from smartfallback.model.specs import ProviderKind
from smartfallback.providers.opencode import OpenCodeProvider
from support.clock import EPOCH, FakeClock
from support.http_servers import Outcome, call_to, collect, pool_at
from support.opencode_script import (
    ASKED,
    IDLE,
    PASSWORD,
    Played,
    answered,
    delta,
    error,
    message,
    part,
    raw,
    scripted_opencode,
    status,
)

MODEL = "lab/m-1"
LIMIT_S = 10.0
"""An answer that never ends fails its test instead of holding up the run."""
BEGUN: list[Played] = [*ASKED, status("busy"), message("assistant"), part("")]


async def outcome_of(*events: Played, **server: Any) -> Outcome:
    async with scripted_opencode(*events, **server) as running:
        pool = pool_at(running.url, ProviderKind.OPENCODE, key=PASSWORD, model=MODEL)
        provider = OpenCodeProvider(pool, FakeClock(), silence_s=5.0)
        try:
            async with asyncio.timeout(LIMIT_S):
                return await collect(provider.stream(call_to(pool)))
        finally:
            await provider.aclose()


async def failure_of(*events: Played) -> Failure:
    return (await outcome_of(*BEGUN, *events, IDLE)).failed


async def test_deltas_of_newer_releases() -> None:
    tokens = {"input": 5, "output": 2, "reasoning": 1, "cache": {"read": 10, "write": 3}}
    outcome = await outcome_of(*answered("Hel", "lo"), delta("never read"))
    assert outcome == Outcome("Hello", "stop", None, None)
    assert (await outcome_of(*answered("Hello", tokens=tokens))).usage == Usage(18, 3)


async def test_growing_parts_of_older_releases() -> None:
    outcome = await outcome_of(
        *ASKED,
        message("assistant"),
        part("Hel", delta="Hel"),
        part("Hello", delta="lo"),
        part("Hello you"),
        message("assistant", tokens={"input": 4, "output": 2}),
        IDLE,
    )
    assert outcome == Outcome("Hello you", "stop", Usage(4, 2), None)


async def test_a_delta_without_the_whole_text() -> None:
    events = [*ASKED, message("assistant"), part(None, delta="Hel"), part(None, delta="lo"), IDLE]
    assert (await outcome_of(*events)).text == "Hello"


async def test_what_comes_twice_or_late_is_said_once() -> None:
    outcome = await outcome_of(
        *BEGUN,
        delta("Hel", event="evt_1"),
        delta("Hel", event="evt_1"),
        part(""),
        delta("lo", event="evt_2"),
        part("Hel"),
        part("Hello"),
        part("Hello"),
        delta("lo", event="evt_2"),
        IDLE,
    )
    assert outcome == Outcome("Hello", "stop", None, None)


async def test_text_that_comes_before_its_message_and_its_part() -> None:
    late = message("assistant")
    step = part("", kind="step-start", name="prt_0")
    assert (await outcome_of(delta("Hel"), delta("lo"), part("Hello"), late, IDLE)).text == "Hello"
    assert (await outcome_of(part("Hello"), late, IDLE)).text == "Hello"
    assert (await outcome_of(part("Hello"), step, IDLE)).text == "Hello"


async def test_a_trailing_blank_that_the_last_update_drops() -> None:
    assert (await outcome_of(*BEGUN, delta("Hello "), part("Hello"), IDLE)).text == "Hello "


async def test_a_lost_piece_is_no_clean_success() -> None:
    outcome = await outcome_of(*BEGUN, delta("Hel"), delta("you"), part("Hello you"), IDLE)
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE
    assert outcome.text == "Helyou"


async def test_only_the_answers_own_text_is_passed_on() -> None:
    outcome = await outcome_of(
        *BEGUN,
        part("", kind="reasoning", name="prt_7"),
        delta("I think", name="prt_7"),
        part("I think", kind="reasoning", name="prt_7"),
        part(None, kind="tool", name="prt_8"),
        part("again the question", of="msg_1", name="prt_9"),
        delta("Hello"),
        part("Hello"),
        IDLE,
    )
    assert outcome.text == "Hello"


async def test_events_of_other_sessions_and_unknown_ones_change_nothing() -> None:
    def elsewhere(event: Played) -> bytes:
        return raw(event, "ses_other")

    talk = {"type": "message.part.delta", "properties": {"sessionID": "ses_other", "delta": "about $session"}}
    outcome = await outcome_of(
        *BEGUN,
        *(elsewhere(event) for event in answered("not", " mine")),
        elsewhere(error("UnknownError", message="not mine")),
        talk,
        {"type": "session.error", "properties": {"error": {"name": "UnknownError", "data": {}}}},
        {"type": "server.heartbeat", "properties": {}},
        {"type": "some.novelty", "properties": {"sessionID": "$session", "anything": [1]}},
        b": a comment\n\n",
        delta("mine"),
        IDLE,
    )
    assert outcome == Outcome("mine", "stop", None, None)


async def test_characters_that_are_cut_between_pieces() -> None:
    whole = raw(delta("Grüße 🙂"), "ses_1")
    cut = [whole[i : i + 1] for i in range(len(whole))]
    assert (await outcome_of(*BEGUN, *cut, IDLE)).text == "Grüße 🙂"


async def test_half_a_character_is_replaced() -> None:
    half = raw(delta("HALF"), "ses_1").replace(b"HALF", b"a\\ud83db")
    assert (await outcome_of(*BEGUN, half, IDLE)).text == "a\ufffdb"


@settings(deadline=None, max_examples=15)
@given(
    pieces=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=6),
    data=st.data(),
)
async def test_any_text_in_any_mixture_of_shapes_comes_out_once(
    pieces: list[str], data: st.DataObject
) -> None:
    events: list[Played] = list(BEGUN)
    said = ""
    for number, piece in enumerate(pieces):
        said += piece
        event: Played = delta(piece, event=f"evt_{number}") if data.draw(st.booleans()) else part(said)
        events += [event] * data.draw(st.integers(1, 2))
    assert (await outcome_of(*events, IDLE)).text == said


async def test_how_an_answer_ends() -> None:
    assert (await outcome_of(*answered("a", finish="length"))).finish == "length"
    assert (await outcome_of(*answered("a", finish="end_turn"))).finish == "stop"
    filtered = (await outcome_of(*answered("a", finish="content-filter"))).failed
    assert filtered.category is ErrorCategory.CONTENT_FILTERED
    too_long = await outcome_of(*BEGUN, delta("a"), error("MessageOutputLengthError"), IDLE)
    assert (too_long.text, too_long.finish, too_long.failure) == ("a", "length", None)


async def test_idle_before_the_prompt_arrived_is_no_end() -> None:
    assert (await outcome_of(status("idle"), *answered("Hello"))).text == "Hello"


async def test_status_idle_alone_ends_an_answer() -> None:
    assert (await outcome_of(*BEGUN, delta("Hello"), status("idle"))).text == "Hello"


async def test_an_end_without_text() -> None:
    assert (await failure_of()).category is ErrorCategory.MALFORMED_RESPONSE


async def test_a_broken_event_of_the_session() -> None:
    torn = b'data: {"type": "message.part.delta", "properties": {"sessionID": "ses_1", "del\n\n'
    assert (await failure_of(torn)).category is ErrorCategory.MALFORMED_RESPONSE
    shapeless = {"type": "message.updated", "properties": {"sessionID": "$session", "info": []}}
    assert (await failure_of(shapeless)).category is ErrorCategory.MALFORMED_RESPONSE


async def test_nobody_is_there_to_be_asked() -> None:
    for kind in ("permission.asked", "question.asked", "session.deleted"):
        event: Played = {"type": kind, "properties": {"sessionID": "$session"}}
        assert (await failure_of(event)).category is ErrorCategory.MALFORMED_RESPONSE


def api_error(
    status_code: int | None,
    body: Any = None,
    *,
    retryable: bool = False,
    headers: dict[str, str] | None = None,
) -> Played:
    data: dict[str, Any] = {"message": "said so", "isRetryable": retryable, "responseHeaders": headers or {}}
    if status_code is not None:
        data["statusCode"] = status_code
    if body is not None:
        data["responseBody"] = body if isinstance(body, str) else json.dumps(body)
    return error("APIError", **data)


@pytest.mark.parametrize(
    ("event", "category"),
    [
        (api_error(401), ErrorCategory.AUTHENTICATION),
        (api_error(403), ErrorCategory.AUTHENTICATION),
        (api_error(400), ErrorCategory.INVALID_REQUEST),
        (api_error(402), ErrorCategory.QUOTA_EXHAUSTED),
        (
            api_error(429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}),
            ErrorCategory.RATE_LIMIT,
        ),
        (
            api_error(429, {"error": {"message": "x", "code": "insufficient_quota"}}),
            ErrorCategory.QUOTA_EXHAUSTED,
        ),
        (api_error(500), ErrorCategory.API_FAILURE),
        (api_error(529), ErrorCategory.TRANSIENT_ERROR),
        (api_error(503, "<html>"), ErrorCategory.TRANSIENT_ERROR),
        (api_error(None, retryable=True), ErrorCategory.TRANSIENT_ERROR),
        (api_error(None), ErrorCategory.UNKNOWN),
        (error("ProviderAuthError", providerID="lab", message="no key"), ErrorCategory.AUTHENTICATION),
        (error("ContentFilterError", message="no"), ErrorCategory.CONTENT_FILTERED),
        (error("MessageAbortedError", message="Aborted"), ErrorCategory.TRANSIENT_ERROR),
        (error("UnknownError", message="Model not found: lab/m-1."), ErrorCategory.INVALID_REQUEST),
        (error("UnknownError", message="overloaded"), ErrorCategory.TRANSIENT_ERROR),
        (error("UnknownError", message="what?"), ErrorCategory.UNKNOWN),
        (error("SomethingNew"), ErrorCategory.UNKNOWN),
    ],
)
async def test_errors(event: Played, category: ErrorCategory) -> None:
    assert (await failure_of(event)).category is category


async def test_what_the_providers_error_says_is_kept() -> None:
    body = {"error": {"message": "m-1 is slow", "code": "rate_limit_exceeded"}}
    failure = await failure_of(api_error(429, body, headers={"Retry-After": "7"}))
    assert (failure.http_status, failure.code, failure.message) == (429, "rate_limit_exceeded", "m-1 is slow")
    assert (failure.retry_after_s, failure.model) == (7.0, MODEL)
    overflow = await failure_of(error("ContextOverflowError", message="too long"))
    assert overflow.context_overflow
    assert overflow.category is ErrorCategory.INVALID_REQUEST
    signed_out = await failure_of(error("ProviderAuthError", providerID="lab", message="no key"))
    assert "opencode auth login" in signed_out.hint
    assert "lab" in signed_out.hint


async def test_an_error_in_the_message_alone() -> None:
    data = {"name": "APIError", "data": {"message": "no", "statusCode": 401, "isRetryable": False}}
    failure = await failure_of(message("assistant", error=data))
    assert failure.category is ErrorCategory.AUTHENTICATION


async def test_the_password_is_in_no_error() -> None:
    failure = await failure_of(error("UnknownError", message=f"denied {PASSWORD}"))
    assert PASSWORD not in repr(failure)


def retry(message: str, wait_s: float, attempt: int = 1, **more: Any) -> Played:
    return status("retry", attempt=attempt, message=message, next=int((EPOCH + wait_s) * 1_000), **more)


@pytest.mark.parametrize(
    ("event", "category", "wait_s", "resets_at"),
    [
        (retry("Too Many Requests", 30), ErrorCategory.RATE_LIMIT, 30.0, None),
        (retry("rate limit reached", 2), ErrorCategory.RATE_LIMIT, 2.0, None),
        (retry("Provider is overloaded", 4), ErrorCategory.TRANSIENT_ERROR, 4.0, None),
        (retry("boom", 4), ErrorCategory.TRANSIENT_ERROR, 4.0, None),
        (retry("5 hour usage limit reached", 7_999), ErrorCategory.QUOTA_EXHAUSTED, 7_999.0, EPOCH + 7_999),
        (retry("Free usage exceeded, subscribe", 2), ErrorCategory.QUOTA_EXHAUSTED, None, None),
        (
            retry("Come back", 9_000, action={"reason": "account_rate_limit"}),
            ErrorCategory.QUOTA_EXHAUSTED,
            9_000.0,
            EPOCH + 9_000,
        ),
        (status("retry", attempt=1, message="boom"), ErrorCategory.TRANSIENT_ERROR, None, None),
        (retry("boom", 0.2, attempt=3), ErrorCategory.TRANSIENT_ERROR, 0.2, None),
    ],
)
async def test_a_long_wait_for_the_provider_is_a_failure(
    event: Played, category: ErrorCategory, wait_s: float | None, resets_at: float | None
) -> None:
    failure = (await outcome_of(*ASKED, status("busy"), event)).failed
    assert failure.category is category
    assert failure.retry_after_s == pytest.approx(wait_s, abs=0.01)
    assert failure.resets_at == pytest.approx(resets_at, abs=0.01)


async def test_a_short_wait_for_the_provider_is_put_up_with() -> None:
    outcome = await outcome_of(*ASKED, status("busy"), retry("boom", 0.5), *answered("Hello"))
    assert outcome == Outcome("Hello", "stop", None, None)
