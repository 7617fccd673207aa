"""What passes through a drilled body is what came, and the real response is closed with it."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from random import Random

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.specs import ProviderKind
from smartfallback.providers.http_client import Attempt
from smartfallback.simulation.drills.body import DrilledBody
from smartfallback.simulation.drills.drill import Drill
from smartfallback.simulation.drills.injector import Injector
from smartfallback.simulation.drills.spoken import EventSplitter, Said, reader_of
from smartfallback.simulation.drills.transport import InjectingTransport
from smartfallback.simulation.drills.turns import Turn
from smartfallback.simulation.faults import HttpStatus, RawResponse, StallMidStream
from support.clock import FakeClock
from support.drills import at, pool, system

STREAM = st.lists(
    st.sampled_from([b"data: x", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\r", b"{", b": a\n\n"])
)


class Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    async def aclose(self) -> None:
        self.closed += 1


class Inner(httpx.AsyncBaseTransport):
    """Remembers what reached it."""

    def __init__(self, stream: Pieces) -> None:
        self.stream = stream
        self.seen: list[httpx.Request] = []
        self.closed = False
        self.headers: dict[str, str] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        return httpx.Response(200, headers=self.headers, stream=self.stream, request=request)

    async def aclose(self) -> None:
        self.closed = True


def rig(pieces: list[bytes]) -> tuple[Injector, Inner, InjectingTransport]:
    spec = pool(ProviderKind.OPENAI, "main", "a-1")
    injector = Injector(system(spec), FakeClock(), Random(1))
    inner = Inner(Pieces(pieces))
    return injector, inner, InjectingTransport(inner, injector, spec, FakeClock())


def request() -> httpx.Request:
    attempt = Attempt("a-1", "m-1", stream=True)
    return httpx.Request(
        "POST",
        "http://up.test/v1",
        headers={"authorization": "Bearer s3cret"},
        extensions={"attempt": attempt},
    )


def said(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


async def read(response: httpx.Response) -> bytes:
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    try:
        return b"".join([piece async for piece in stream])
    finally:
        await stream.aclose()


@given(STREAM, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_a_splitter_gives_back_all_that_came_wherever_it_was_cut(parts: list[bytes], rng: Random) -> None:
    whole = b"".join(parts)
    splitter, out, begin = EventSplitter(), b"", 0
    while begin < len(whole):
        end = begin + rng.randint(1, 5)
        out += b"".join(splitter.feed(whole[begin:end]))
        begin = end
    assert out + splitter.flush() == whole


@given(STREAM, st.integers(0, 6), st.integers(1, 7))
@settings(deadline=None, max_examples=100)
async def test_a_body_that_only_waits_passes_every_byte(parts: list[bytes], after: int, size: int) -> None:
    whole = b"".join(parts)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    injector, inner, _ = rig(pieces)
    injector.start(Drill(at("a-1"), HttpStatus(500)))
    meeting = injector.meet("a-1", "main")
    assert meeting is not None
    response = httpx.Response(200, stream=inner.stream, request=request())
    turn = Turn(after, wait_s=0.0)
    body = DrilledBody(response, meeting, turn, lambda event: Said(len(event) // 4), lambda: b"never")
    assert await read(httpx.Response(200, stream=body)) == whole
    assert inner.stream.closed


def test_tokens_are_counted_in_the_words_of_each_dialect() -> None:
    openai, gemini = reader_of(ProviderKind.OPENAI), reader_of(ProviderKind.GEMINI)
    assert openai(said("two words")) == Said(2)
    assert openai(said(" ")) == Said(1)
    assert openai(b": comment\n\n") == Said()
    assert openai(b"data: {broken\n\n") == Said()
    assert openai(b"data: [DONE]\n\n") == Said(final=True)
    assert openai(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n') == Said(final=True)
    assert gemini(b'data: {"candidates":[{"content":{"parts":[{"text":"a b c"}]}}]}\r\n\r\n') == Said(3)
    assert gemini(b'data: {"candidates":[{"finishReason":"STOP"}]}\r\n\r\n') == Said(final=True)


async def test_without_a_drill_the_real_transports_own_answer_is_handed_on() -> None:
    injector, inner, transport = rig([b"as it came"])
    response = await transport.handle_async_request(request())
    assert response.stream is inner.stream
    injector.start(Drill(at("a-1"), HttpStatus(500)))
    assert (await transport.handle_async_request(request())).status_code == 500
    assert len(inner.seen) == 1
    unmarked = httpx.Request("GET", "http://up.test/v1")
    assert (await transport.handle_async_request(unmarked)).stream is inner.stream
    await transport.aclose()
    assert inner.closed


async def test_a_refusal_quotes_nothing_of_the_request() -> None:
    injector, _, transport = rig([])
    for fault in (HttpStatus(401), RawResponse(403, "no", (("X-Why", "drill"),))):
        injector.start(Drill(at("a-1"), fault, most_calls=1))
        response = await transport.handle_async_request(request())
        assert "s3cret" not in repr((await read(response), response.headers.raw, response))


async def test_a_compressed_answer_is_passed_on_readable() -> None:
    injector, inner, transport = rig([gzip.compress(said("one two three") + b"data: [DONE]\n\n")])
    inner.headers = {"content-encoding": "gzip"}
    injector.start(Drill(at("a-1"), StallMidStream(100), duration_s=0.01))
    clock = injector._clock
    assert isinstance(clock, FakeClock)
    response = await transport.handle_async_request(request())
    clock.advance(1)
    assert await read(response) == said("one two three") + b"data: [DONE]\n\n"
