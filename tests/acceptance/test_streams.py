"""Streams through the public face: what opens an answer, what ends it, and who waits for whom."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from itertools import repeat

import pytest

from smartfallback import (
    AttemptResult,
    Delta,
    ErrorCategory,
    RequestFinished,
    Timeouts,
    Usage,
)
from smartfallback.model.outcomes import TimeoutPhase
from support.stream_script import (
    GEMINI,
    OPENAI,
    Pieces,
    Watched,
    encoded,
    end_mark,
    final,
    piece,
    preamble,
    serving,
    stream_of,
    wire,
)
from support.troubled import QUESTION, troubled

BOTH = pytest.mark.parametrize("api", [GEMINI, OPENAI])
TIGHT = Timeouts(connect_s=5.0, first_token_s=0.25, idle_s=0.25)
IDLE = Timeouts(connect_s=5.0, first_token_s=5.0, idle_s=0.2)
MIB = 1024 * 1024


def told(events: list[object]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def answered_by(api: str, pieces: Pieces, *, text: str, usage: Usage | None = None) -> None:
    """One whole answer, told once, by the only account at the first try."""
    async with troubled(api, serving(pieces), others=False) as system:
        result = await system.ask()
        assert result.answer.text == told(list(result.events)) == text
        assert len([event for event in result.events if isinstance(event, RequestFinished)]) == 1
        assert [record.result for record in result.answer.attempts] == [AttemptResult.SUCCESS]
        assert result.answer.finish_reason == "stop"
        if usage is not None:
            assert result.answer.usage == usage
        assert system.account().tokens == result.answer.usage.total_tokens
        assert system.account().circuit.failures == 0


# --- the gate before the first token


@BOTH
async def test_what_is_no_content_opens_no_answer(api: str) -> None:
    """A server that thinks aloud and then fails costs the caller nothing."""
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE", "type": "overloaded"}}
    async with troubled(api, serving(wire(*preamble(api), error)), others=True) as system:
        result = await system.ask()
        assert result.path == ["a-1"] * 4 + ["a-2"]
        assert told(list(result.events)) == result.answer.text
        assert "think" not in result.answer.text


@BOTH
async def test_what_is_no_content_is_no_part_of_the_answer(api: str) -> None:
    events = [*preamble(api), piece(api, "The "), *preamble(api), piece(api, "answer."), final(api)]
    await answered_by(api, wire(*events, *end_mark(api)), text="The answer.", usage=Usage(7, 3))


def without_content(api: str, what: str) -> bytes:
    """About 16 KiB that bring no content."""
    part = {
        "comments": b": keep-alive\n\n",
        "comment without end": b": on and on",
        "empty lines": b"\n",
        "roles": b"".join(wire(*preamble(api))),
        "unnamed events": b"event: ping\nid: 1\n\n",
        "an event without end": b"data: " if api == OPENAI else b"data:\n",
        "spaces": b" ",
    }[what]
    return part * (16_384 // len(part))


ENDLESS = pytest.mark.parametrize(
    "what",
    [
        *("comments", "comment without end", "empty lines", "roles"),
        *("unnamed events", "an event without end", "spaces"),
    ],
)


@BOTH
@ENDLESS
async def test_endless_preludes_are_cut_off_and_fill_no_memory(api: str, what: str) -> None:
    watched = Watched()
    place = serving(lambda: forever(without_content(api, what)), watched)
    async with troubled(api, place, others=True, timeouts=TIGHT) as system:
        tracemalloc.start()
        try:
            result = await system.ask()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert result.path == ["a-1", "a-1", "a-2"]
        failures = [record.failure for record in result.answer.attempts[:2]]
        categories = {failure and failure.category for failure in failures}
        assert categories <= {ErrorCategory.TIMEOUT, ErrorCategory.MALFORMED_RESPONSE}
        # The longest event that is waited for has 8 MiB, and may stand in memory twice for a moment.
        assert peak < 40 * MIB
    assert watched.bytes_sent > 0


async def forever(part: bytes) -> AsyncIterator[bytes]:
    while True:
        yield part
        await asyncio.sleep(0)


async def test_on_the_last_candidate_an_endless_prelude_ends_with_the_deadline() -> None:
    place = serving(lambda: forever(without_content(OPENAI, "comments")))
    async with troubled(OPENAI, place, others=False, timeouts=TIGHT) as system:
        failure = (await system.ask(timeout_s=0.6)).failed.failure
        assert (failure.category, failure.phase) == (ErrorCategory.TIMEOUT, TimeoutPhase.TOTAL)


# --- waits within an answer


def every(seconds: float, *parts: bytes, count: int | None = None) -> AsyncIterator[bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in repeat(None) if count is None else range(count):
            for part in parts:
                yield part
            await asyncio.sleep(seconds)

    return pieces()


@BOTH
async def test_signs_of_life_bridge_a_pause_longer_than_the_idle_limit(api: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield encoded(piece(api, "Wait"))
        async for part in every(0.05, b": keep-alive\n\n", count=8):
            yield part
        yield stream_of(api, " for it.")

    async with troubled(api, serving(pieces), others=False, timeouts=IDLE) as system:
        assert (await system.ask()).answer.text == "Wait for it."


@BOTH
@pytest.mark.parametrize("sign", ["comment", "thought"])
async def test_signs_of_life_alone_keep_no_answer_for_ever(api: str, sign: str) -> None:
    part = b": keep-alive\n\n" if sign == "comment" else b"".join(wire(*preamble(api)))

    async def pieces() -> AsyncIterator[bytes]:
        yield encoded(piece(api, "Wait"))
        async for entry in every(0.05, part):
            yield entry

    async with troubled(api, serving(pieces), others=True, timeouts=IDLE) as system:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        error = (await system.ask()).failed
        assert (error.failure.category, error.failure.phase) == (ErrorCategory.TIMEOUT, TimeoutPhase.IDLE)
        assert "no text" in error.failure.message
        assert error.partial == "Wait"
        assert loop.time() - begun >= 4 * IDLE.idle_s, "four idle limits, as long as it shows signs of life"
        assert system.account().circuit.failures == 1


async def test_a_reader_s_own_pauses_are_no_stall() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(4):
            yield encoded(piece(OPENAI, f"{number} "))
            yield b": keep-alive\n\n" * 3
        yield stream_of(OPENAI, "done")

    async with troubled(OPENAI, serving(pieces), others=False, timeouts=IDLE) as system:
        text = ""
        async for event in system.orchestrator.stream(QUESTION):
            if isinstance(event, Delta):
                text += event.text
                await asyncio.sleep(1.2 * IDLE.idle_s)
        assert text == "0 1 2 3 done"


# --- how answers end

WORDS = [f"word{number} " for number in range(60)]


@BOTH
async def test_a_cut_after_forty_of_sixty_tokens_is_an_explicit_error(api: str) -> None:
    watched = Watched()
    place = serving([encoded(piece(api, word)) for word in WORDS[:40]], watched)
    async with troubled(api, place, others=True) as system:
        result = await system.ask()
        error = result.failed
        assert error.failure.category is ErrorCategory.MALFORMED_RESPONSE
        assert error.partial == told(list(result.events)) == "".join(WORDS[:40])
        assert not [event for event in result.events if isinstance(event, RequestFinished)]
        assert watched.calls == 1
        account = system.account()
        assert (account.failures, account.circuit.failures) == (1, 1)
        assert account.tokens >= len(error.partial) // 4
        assert [system.account(name).requests for name in ("a-2", "b-1")] == [0, 0]


@BOTH
async def test_a_doubled_end_is_told_once(api: str) -> None:
    last = final(api, "end.")
    for tail in ([last, last, *end_mark(api) * 2], [last, *end_mark(api), last, *end_mark(api)]):
        events = wire(piece(api, "The "), *tail)
        await answered_by(api, events, text="The end.", usage=Usage(7, 3))
        await answered_by(api, [b"".join(events)], text="The end.", usage=Usage(7, 3))


@BOTH
async def test_signs_of_life_after_the_end_hold_no_answer_back(api: str) -> None:
    """A server that never closes its stream, and sends comments on it for ever, has still answered."""

    async def pieces() -> AsyncIterator[bytes]:
        for event in wire(piece(api, "The "), final(api, "end.")):
            yield event
        async for part in every(0.02, b": keep-alive\n\n"):
            yield part

    async with troubled(api, serving(pieces), others=False, timeouts=IDLE) as system:
        result = await system.ask(timeout_s=5.0)
        assert (result.answer.text, result.answer.usage) == ("The end.", Usage(7, 3))
        assert result.answer.latency_s < 4 * IDLE.idle_s


@BOTH
async def test_missing_counts_are_estimated_and_said_to_be(api: str) -> None:
    events = wire(piece(api, "word " * 100), final(api, usage=None), *end_mark(api))
    async with troubled(api, serving(events), others=False) as system:
        usage = (await system.ask()).answer.usage
        assert usage.estimated
        assert usage.output_tokens == pytest.approx(125, rel=0.1)
        assert usage.input_tokens > 0
        assert system.account().tokens == usage.total_tokens


# --- framing

TEXTS = ("Größe ", "数百万 ", "😀🏽 ", "e\u0301\u200d ", "tab\tnew\nline ", "nul\x00 ", "end")


@BOTH
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
async def test_an_answer_cut_into_pieces_of_any_size_is_the_same(api: str, newline: bytes, size: int) -> None:
    body = b": hello" + newline * 2 + stream_of(api, *TEXTS, newline=newline)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    await answered_by(api, pieces, text="".join(TEXTS), usage=Usage(7, 3))


@BOTH
async def test_a_final_event_without_its_blank_line_counts(api: str) -> None:
    body = b"".join(wire(piece(api, "The "), final(api, "end."))).rstrip(b"\n")
    await answered_by(api, [body], text="The end.", usage=Usage(7, 3))
