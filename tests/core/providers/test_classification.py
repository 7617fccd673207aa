"""What both dialects share: the table of statuses, stated waits, and words fit to be shown."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.specs import ProviderKind
from support.clock import EPOCH, FakeClock
from support.http_servers import KEY, Outcome, always, ask, sse_bytes, streams

KINDS = pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.GEMINI])


@KINDS
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "category"),
    [
        *[(status, ErrorCategory.TRANSIENT_ERROR) for status in (408, 425, 502, 503, 504, 529)],
        *[(status, ErrorCategory.API_FAILURE) for status in (500, 501, 505, 507, 520)],
        *[(status, ErrorCategory.AUTHENTICATION) for status in (401, 403)],
        (402, ErrorCategory.QUOTA_EXHAUSTED),
        (429, ErrorCategory.RATE_LIMIT),
        *[(status, ErrorCategory.INVALID_REQUEST) for status in (400, 404, 413, 422)],
        *[(status, ErrorCategory.UNKNOWN) for status in (304, 405, 409, 418, 499)],
    ],
)
async def test_every_status_has_its_category(
    kind: ProviderKind, stream: bool, status: int, category: ErrorCategory
) -> None:
    failure = (await ask(always(status, ""), kind, stream=stream)).failed
    assert failure.category is category
    assert failure.http_status == status
    assert failure.message


@KINDS
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_passed_on_in_seconds_and_as_a_date(kind: ProviderKind, status: int) -> None:
    for value, seconds in (("7999", 7_999.0), (formatdate(EPOCH + 86_400, usegmt=True), 86_400.0)):
        failure = (await ask(always(status, "", {"retry-after": value}), kind)).failed
        assert failure.retry_after_s == seconds


async def test_a_date_is_measured_at_the_moment_of_the_answer() -> None:
    clock = FakeClock()
    clock.step_wall_clock(1_000)
    headers = {"retry-after": formatdate(EPOCH + 1_500, usegmt=True)}
    assert (await ask(always(429, "", headers), clock=clock)).failed.retry_after_s == 500.0


async def test_rate_limit_headers_state_a_wait_on_a_429_only() -> None:
    headers = {"x-ratelimit-reset-tokens": "1h2m3s", "x-ratelimit-remaining-tokens": "0"}
    assert (await ask(always(429, "", headers))).failed.retry_after_s == 3_723.0
    assert (await ask(always(503, "", headers))).failed.retry_after_s is None


def everything(failure: Failure) -> str:
    return f"{failure!r} {failure}"


def gemini_error(code: int, message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **fields}}


@KINDS
@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
async def test_a_key_that_the_upstream_echoes_shows_up_nowhere(kind: ProviderKind, status: int) -> None:
    other = "sk-abcdefghijklmnopqrstuvwx"
    body = gemini_error(
        status,
        f"bad key {KEY} {other}",
        status=f"S {KEY}",
        type=KEY,
        details=[{"reason": KEY, "@type": "x.ErrorInfo"}],
    )
    for answer in (always(status, body), always(status, f"<b>{KEY}</b> {other}"), always(status, KEY)):
        text = everything((await ask(answer, kind)).failed)
        assert KEY not in text
        assert other not in text


@KINDS
async def test_a_key_across_the_cut_of_a_long_message_is_gone_whole(kind: ProviderKind) -> None:
    for padding in range(270, 305, 5):
        message = "x" * padding + KEY + "y" * 500
        failure = (await ask(always(500, gemini_error(500, message)), kind)).failed
        assert KEY[:8] not in everything(failure)


@KINDS
async def test_a_key_in_a_broken_answer_shows_up_nowhere(kind: ProviderKind) -> None:
    outcomes: list[Outcome] = [
        await ask(always(200, f"{KEY} is no answer"), kind),
        await ask(always(200, f'{{"{KEY}'), kind),
        await ask(streams([sse_bytes(f"{KEY} is no JSON")]), kind),
        await ask(streams([sse_bytes({"error": {"message": KEY, "code": KEY}})]), kind),
        await ask(always(302, "", {"location": f"https://host/{KEY}"}), kind),
    ]
    for outcome in outcomes:
        assert KEY not in everything(outcome.failed)


@KINDS
async def test_messages_are_one_short_line(kind: ProviderKind) -> None:
    message = "first\nsecond\r\n\tthird\x1b[31m\u2028" + "long " * 500
    failure = (await ask(always(500, gemini_error(500, message)), kind)).failed
    assert failure.message.startswith("first second third [31m")
    assert failure.message.isprintable()
    assert len(failure.message) <= 300


@KINDS
async def test_lone_surrogates_in_a_message_can_be_encoded(kind: ProviderKind) -> None:
    failure = (await ask(always(500, b'{"error": {"message": "half \\ud83d"}}'), kind)).failed
    assert failure.message.encode().startswith(b"half")


@KINDS
async def test_a_refused_key_names_the_account_and_what_to_do(kind: ProviderKind) -> None:
    failure = (await ask(always(401, gemini_error(401, "no")), kind)).failed
    assert "check the key" in failure.hint
    assert "acc-1" in failure.hint
    assert "has no key" in (await ask(always(401, ""), kind, key=None)).failed.hint


@KINDS
@pytest.mark.parametrize("key", ["", "k\u00e9y", "two\nlines"])
async def test_a_key_that_no_header_can_carry_is_never_sent(kind: ProviderKind, key: str) -> None:
    failure = (await ask(always(200, {}), kind, key=key)).failed
    assert failure.category is ErrorCategory.AUTHENTICATION
    assert "acc-1" in failure.message
    assert not key or key not in everything(failure)


@KINDS
async def test_the_title_of_an_html_page_is_its_message(kind: ProviderKind) -> None:
    page = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    failure = (await ask(always(502, page), kind)).failed
    assert failure.message == "502 Bad Gateway (an HTML page)"


@KINDS
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n  \n",
        b"<!doctype html><html>welcome</html>",
        b"something else entirely",
        b'{"half": ',
        b"[]",
        b'"text"',
        b"{}",
        b"null",
        b"[1, 2]",
        b'{"choices": "none", "candidates": "none"}',
        b'{"choices": [null], "candidates": [null]}',
        b'{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}],'
        b' "candidates": [{"content": {"parts": [{"text": 7}]}, "finishReason": "STOP"}]}',
        b"[" * 100_000,
        b"data: not json\n\n",
        b"data: \xff\xfe\n\n",
        b"data: [1]\n\n",
        b": only\n\n: comments\n\n",
        b"\x00\x01\x02\x03",
    ],
)
async def test_a_200_that_is_no_answer_is_malformed(kind: ProviderKind, stream: bool, body: bytes) -> None:
    outcome = await ask(always(200, body), kind, stream=stream)
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE
    assert outcome.text == ""
    assert outcome.finish is None


async def test_a_204_is_an_empty_answer() -> None:
    assert (await ask(always(204, ""))).failed.category is ErrorCategory.MALFORMED_RESPONSE
