"""Streams that say things twice, late, for others or in an unusual wrapping: one answer, whole, once."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.requests import Usage
from smartfallback.model.specs import ProviderKind
from smartfallback.providers import sse
from smartfallback.providers.sse import SseDecoder, SseError
from support.http_servers import (
    Outcome,
    always,
    ask,
    call_to,
    collect,
    pool_at,
    provider_for,
    raw_server,
    sse_bytes,
    streams,
)

OPENAI, GEMINI = ProviderKind.OPENAI, ProviderKind.GEMINI
KINDS = pytest.mark.parametrize("kind", [OPENAI, GEMINI])
DONE = "[DONE]"
BOM = b"\xef\xbb\xbf"


def openai(text: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **fields}


def gemini(text: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}]}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], **fields}


SPENT = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}
COUNTED = {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3}}
USAGE = Usage(7, 3)


def answer_of(kind: ProviderKind, *texts: str) -> list[Any]:
    """A whole stream whose last event carries text, the reason and the counts."""
    if kind is OPENAI:
        return [*map(openai, texts[:-1]), openai(texts[-1], "stop", **SPENT), DONE]
    return [*map(gemini, texts[:-1]), gemini(texts[-1], "STOP", **COUNTED)]


async def answered(kind: ProviderKind, *events: Any) -> Outcome:
    return await ask(streams([sse_bytes(*events)]), kind)


@KINDS
@pytest.mark.parametrize("texts", [("one ", "two"), ("only",), ("one ", "")])
async def test_a_final_event_that_is_sent_twice_counts_once(
    kind: ProviderKind, texts: tuple[str, ...]
) -> None:
    events = answer_of(kind, *texts)
    last = len(texts) - 1
    twice = [*events[: last + 1], events[last], *events[last + 1 :], *events[last + 1 :]]
    assert await answered(kind, *twice) == Outcome("".join(texts), "stop", USAGE, None)


async def test_a_final_event_without_counts_that_is_sent_twice_counts_once() -> None:
    final = openai(" end", "stop")
    assert await answered(OPENAI, openai("the"), final, final, DONE) == Outcome("the end", "stop", None, None)


async def test_events_alike_are_no_copies_where_every_event_has_a_reason() -> None:
    for kind, event in ((OPENAI, openai("ha", "stop")), (GEMINI, gemini("ha", "STOP"))):
        assert (await answered(kind, event, event, event)).text == "hahaha"
    growing = [
        gemini("ha", "STOP", usageMetadata={"promptTokenCount": 7, "candidatesTokenCount": count})
        for count in (1, 2, 3)
    ]
    assert await answered(GEMINI, *growing) == Outcome("hahaha", "stop", USAGE, None)


@pytest.mark.parametrize(
    ("reasons", "finish"),
    [(("stop", "length"), "length"), (("length", "stop"), "length"), (("stop", "tool_calls"), "tool_calls")],
)
async def test_of_two_finish_reasons_the_one_that_says_more_holds(
    reasons: tuple[str, str], finish: str
) -> None:
    events = [openai("text"), *(openai("", reason) for reason in reasons), DONE]
    assert (await answered(OPENAI, *events)).finish == finish


async def test_a_gemini_answer_cut_short_stays_so_whatever_comes_after() -> None:
    outcome = await answered(GEMINI, gemini("text", "MAX_TOKENS"), gemini("", "STOP"))
    assert outcome.finish == "length"


async def test_a_reason_named_null_is_none() -> None:
    cut = await answered(OPENAI, openai("some ", "null"), openai("text", "null"))
    assert (cut.text, cut.finish) == ("some text", None)
    assert cut.failed.category is ErrorCategory.MALFORMED_RESPONSE
    whole = await answered(OPENAI, openai("some ", "null"), openai("text", "stop"), DONE)
    assert (whole.text, whole.finish) == ("some text", "stop")


@pytest.mark.parametrize("apart", [True, False])
async def test_counts_after_the_end_mark_are_taken(apart: bool) -> None:
    said = [sse_bytes(openai("text"), openai("", "stop"), DONE), sse_bytes({"choices": [], **SPENT})]
    outcome = await ask(streams(said if apart else [b"".join(said)]))
    assert outcome == Outcome("text", "stop", USAGE, None)


async def test_nothing_but_counts_is_taken_after_the_end_mark() -> None:
    junk = [{"error": {"message": "late", "code": 500}}, openai("more"), "no json", {"usage": ["?"]}, DONE]
    outcome = await answered(OPENAI, openai("text", "stop", **SPENT), DONE, *junk)
    assert outcome == Outcome("text", "stop", USAGE, None)


async def test_a_message_beside_each_delta_is_neither_text_nor_the_end() -> None:
    """Some servers repeat all that was said so far in every event."""
    events = [openai("one "), openai("two")]
    for event, so_far in zip(events, ("one ", "one two"), strict=True):
        event["choices"][0]["message"] = {"role": "assistant", "content": so_far}
    cut = await answered(OPENAI, *events)
    assert (cut.text, cut.finish) == ("one two", None)
    assert cut.failed.category is ErrorCategory.MALFORMED_RESPONSE
    last = {"choices": [{"message": {"content": "one two"}, "finish_reason": "stop"}]}
    assert await answered(OPENAI, *events, last, DONE) == Outcome("one two", "stop", None, None)


@pytest.mark.parametrize("delta", [None, {}, {"role": "assistant", "content": ""}], ids=str)
async def test_a_whole_answer_may_have_an_empty_delta_beside_it(delta: dict[str, str] | None) -> None:
    choice = {"message": {"content": "text"}, "delta": delta, "finish_reason": "stop"}
    outcome = await ask(always(200, {"choices": [choice]}), stream=False)
    assert (outcome.text, outcome.finish) == ("text", "stop")


@KINDS
async def test_of_several_choices_one_is_the_answer(kind: ProviderKind) -> None:
    name = "choices" if kind is OPENAI else "candidates"
    make = openai if kind is OPENAI else gemini
    stop = "stop" if kind is OPENAI else "STOP"
    other = make("B")
    other[name][0]["index"] = 1
    other_end = make("", stop)
    other_end[name][0]["index"] = 1
    both = make("a2 ")
    both[name] = [other[name][0], *both[name]]
    outcome = await answered(kind, make("a1 "), other, both, other_end, make("a3", stop))
    assert (outcome.text, outcome.finish) == ("a1 a2 a3", "stop")
    cut = await answered(kind, make("a1 "), other, other_end)
    assert (cut.text, cut.finish) == ("a1 ", None)


async def test_a_gemini_event_with_text_and_an_error_ends_in_the_error() -> None:
    error = {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}
    outcome = await answered(GEMINI, gemini("some"), gemini(" text", error=error), gemini("", "STOP"))
    assert (outcome.text, outcome.finish) == ("some text", None)
    assert outcome.failed.category is ErrorCategory.TRANSIENT_ERROR


@pytest.mark.parametrize(
    "opening",
    [
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
        {"choices": None, "error": None},
        {"choices": [{"index": 0, "delta": {"content": []}}], "error": None, "usage": None},
        {"object": "chat.completion.chunk", "choices": []},
    ],
    ids=str,
)
async def test_an_opening_without_content_is_overlooked(opening: dict[str, Any]) -> None:
    outcome = await answered(OPENAI, opening, openai("text"), openai("", "stop", error=None), DONE)
    assert (outcome.text, outcome.finish) == ("text", "stop")


async def test_control_characters_are_text_like_any_other() -> None:
    text = "a\x00b\x1b[31mc\u2028d\ufeff"
    for kind in (OPENAI, GEMINI):
        assert (await answered(kind, *answer_of(kind, text))).text == text


@KINDS
@pytest.mark.parametrize("stream", [True, False])
async def test_a_byte_order_mark_hides_nothing(kind: ProviderKind, stream: bool) -> None:
    if stream:
        body = sse_bytes(*answer_of(kind, "text"))
    elif kind is OPENAI:
        body = json.dumps({"choices": [{"message": {"content": "text"}, "finish_reason": "stop"}]}).encode()
    else:
        body = json.dumps(gemini("text", "STOP")).encode()
    outcome = await ask(always(200, BOM + body), kind, stream=stream)
    assert (outcome.text, outcome.finish) == ("text", "stop")


@KINDS
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
async def test_a_compressed_body_is_read_and_its_cut_is_seen(kind: ProviderKind, whole: bool) -> None:
    packed = gzip.compress(sse_bytes(*answer_of(kind, *(f"{number} " for number in range(400)))))
    body = packed if whole else packed[: len(packed) // 2]
    outcome = await ask(always(200, body, {"content-encoding": "gzip"}), kind)
    if whole:
        assert outcome.finish == "stop"
        assert outcome.text.split() == [str(number) for number in range(400)]
    else:
        assert outcome.finish is None
        assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


def framed(framing: str, body: bytes) -> bytes:
    if framing == "longer length":
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body) + 100, body)
    if framing == "http/1.0":
        return b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + body
    half = len(body) // 2
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
    return head + chunks + (b"0\r\nx-sum: 1\r\n\r\n" if framing == "trailers" else b"")


@KINDS
@pytest.mark.parametrize("framing", ["longer length", "http/1.0", "trailers", "no last chunk"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
async def test_the_answer_s_own_end_decides_not_the_body_s(
    kind: ProviderKind, framing: str, whole: bool
) -> None:
    events = answer_of(kind, "one ", "two")
    body = sse_bytes(*(events if whole else events[:1]))

    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(framing, body))
        await writer.drain()

    async with raw_server(handler) as upstream:
        pool = pool_at(upstream.url, kind)
        async with provider_for(pool) as provider:
            outcome = await collect(provider.stream(call_to(pool)))
    if whole:
        assert outcome == Outcome("one two", "stop", USAGE, None)
    else:
        assert (outcome.text, outcome.finish) == ("one ", None)
        assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


@KINDS
async def test_a_broken_framing_is_never_a_clean_end(kind: ProviderKind) -> None:
    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framed("no last chunk", sse_bytes(*answer_of(kind, "one ", "two")[:1])) + b"zz\r\n")
        await writer.drain()

    async with raw_server(handler) as upstream:
        pool = pool_at(upstream.url, kind)
        async with provider_for(pool) as provider:
            outcome = await collect(provider.stream(call_to(pool)))
    assert outcome.finish is None
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


async def test_a_connection_that_breaks_where_every_event_has_a_reason_is_a_cut() -> None:
    body = sse_bytes(gemini("one ", "STOP"), gemini("two ", "STOP"))

    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framed("no last chunk", body))
        await writer.drain()

    async with raw_server(handler) as upstream:
        pool = pool_at(upstream.url, GEMINI)
        async with provider_for(pool) as provider:
            outcome = await collect(provider.stream(call_to(pool)))
    assert (outcome.text, outcome.finish) == ("one two ", None)
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


@pytest.mark.parametrize("line", [b"data\n", b"data:\n", b"data: \n"])
def test_an_event_of_empty_lines_alone_has_a_limit_too(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10_000)
    decoder = SseDecoder()
    for _ in range(10_000 // len(line) - 1):
        decoder.feed(line)
    with pytest.raises(SseError):
        decoder.feed(line * 5_000)
