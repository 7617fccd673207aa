"""OpenAI-compatible streams that go wrong after their first token: never a clean end, never a lost answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.specs import Timeouts
from smartfallback.providers.answer import token_count
from support.http_servers import (
    Outcome,
    always,
    ask,
    call_to,
    http_server,
    pool_at,
    provider_for,
    sse_bytes,
    streams,
)

DONE = "[DONE]"


def event(content: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}]}


def whole(content: str, reason: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "finish_reason": reason}]}


async def answered(*events: Any) -> Outcome:
    return await ask(streams([sse_bytes(*events)]))


SOME = sse_bytes(event("some "))
END = sse_bytes(event("", "stop"), DONE)
MARK = sse_bytes(DONE)


@pytest.mark.parametrize(
    ("error", "category", "message"),
    [
        (
            b'event: error\ndata: {"message": "bad thing", "type": "server_error"}\n\n',
            ErrorCategory.API_FAILURE,
            "bad thing",
        ),
        (
            b'event: error\ndata: {"error": {"message": "full", "code": "server_is_overloaded"}}\n\n',
            ErrorCategory.TRANSIENT_ERROR,
            "full",
        ),
        (b"event: error\ndata: slot died\n\n", ErrorCategory.UNKNOWN, "slot died"),
        (b'event: error\ndata: "slot died"\n\n', ErrorCategory.UNKNOWN, "slot died"),
        (b"event: error\ndata: [1]\n\n", ErrorCategory.UNKNOWN, ""),
        (b"event: error\n\n", ErrorCategory.UNKNOWN, ""),
        (b'error: {"code": 500, "message": "slot died"}\n\n', ErrorCategory.API_FAILURE, "slot died"),
        (b'error: {"code": 503, "message": "busy"}\n', ErrorCategory.TRANSIENT_ERROR, "busy"),
        (
            b'data: {"message": "bad thing", "type": "server_error"}\n\n',
            ErrorCategory.API_FAILURE,
            "bad thing",
        ),
        (b'data: {"detail": "gone"}\n\n', ErrorCategory.UNKNOWN, "gone"),
    ],
)
@pytest.mark.parametrize("after", [b"", MARK, END], ids=["cut", "mark", "end"])
async def test_an_error_in_any_framing_is_no_clean_end(
    error: bytes, category: ErrorCategory, message: str, after: bytes
) -> None:
    for pieces in ([SOME + error + after], [SOME, error, after]):
        outcome = await ask(streams(pieces))
        assert (outcome.text, outcome.finish) == ("some ", None)
        assert outcome.failed.category is category
        assert message in outcome.failed.message
    assert (await ask(streams([error + after]))).failed.category is category


@pytest.mark.parametrize("after", [b"", MARK, END], ids=["cut", "mark", "end"])
@pytest.mark.parametrize(
    "line", [b"Internal Server Error\n", b"<html>502</html>\n", b'{"error": "x"}\n', b"ata: {}\n"]
)
async def test_something_else_in_the_middle_of_the_text_breaks_the_stream(line: bytes, after: bytes) -> None:
    for pieces in ([SOME + line + b"\n" + after], [SOME, line, after]):
        outcome = await ask(streams(pieces))
        assert (outcome.text, outcome.finish) == ("some ", None)
        assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


async def test_strange_lines_where_nothing_can_be_lost_are_overlooked() -> None:
    before = await ask(streams([b"hello\n\n" + SOME + END]))
    after = await ask(streams([SOME + sse_bytes(event("", "stop")) + b"bye\n\n" + MARK]))
    assert before == after == Outcome("some ", "stop", None, None)


async def test_text_with_the_end_mark_and_no_finish_reason_is_whole() -> None:
    """Decided: servers that never give a reason exist, and their mark is sent by nobody who broke off."""
    assert await ask(streams([SOME + MARK])) == Outcome("some ", "stop", None, None)
    assert (await ask(streams([SOME]))).failed.category is ErrorCategory.MALFORMED_RESPONSE


@pytest.mark.parametrize("reason", ["error", "abort", "network_error", "insufficient_system_resource"])
async def test_a_finish_reason_that_is_an_error_is_no_clean_end(reason: str) -> None:
    for outcome in (
        await answered(event("some"), event("", reason), DONE),
        await ask(always(200, whole("some", reason)), stream=False),
    ):
        assert (outcome.text, outcome.finish) == ("some", None)
        assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE
        assert reason in outcome.failed.message


async def test_the_wait_for_the_end_is_shorter_than_any_idle_limit() -> None:
    """Else a whole answer would be a time-out to whoever waits for its finish reason."""
    async with http_server(streams([sse_bytes(event("hi"), event("", "stop"))], hold=True)) as upstream:
        pool = replace(pool_at(upstream.url), timeouts=Timeouts(idle_s=1.0))
        async with provider_for(pool) as provider:
            chunks = provider.stream(call_to(pool))
            finish = None
            while finish is None:
                async with asyncio.timeout(pool.timeouts.idle_s):
                    finish = (await anext(chunks)).finish_reason
            await chunks.aclose()
    assert finish == "stop"


@pytest.mark.parametrize("absurd", [10**400, 1e308, float("inf"), float("nan"), -5, True, "5", None])
async def test_absurd_numbers_of_an_upstream_do_no_harm(absurd: Any) -> None:
    usage = {"prompt_tokens": absurd, "completion_tokens": 3}
    outcome = await answered(event("hi", "stop") | {"usage": usage}, DONE)
    assert (outcome.text, outcome.failure) == ("hi", None)
    assert outcome.usage is not None
    assert outcome.usage.total_tokens == 3 + token_count(absurd) < 10
    for name in ("resets_at", "retry_after", "resets_in_seconds"):
        refused = await ask(always(429, {"error": {"message": "slow down", name: absurd}}))
        assert refused.failed.category is ErrorCategory.RATE_LIMIT
