"""Connections: pooling, cancellation, lost and silent servers, whichever dialect is spoken over them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing, suppress

import pytest
from aiohttp import web

from smartfallback.model.outcomes import ErrorCategory, TimeoutPhase
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind, Timeouts
from smartfallback.providers import http_provider
from support.http_servers import (
    KEY,
    Upstream,
    always,
    ask,
    call_to,
    collect,
    first_text,
    http_server,
    pool_at,
    provider_for,
    raw_server,
    sse_bytes,
    streams,
)

KINDS = pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.GEMINI])

TOKEN = {
    ProviderKind.OPENAI: {"choices": [{"delta": {"content": "tok "}, "finish_reason": None}]},
    ProviderKind.GEMINI: {"candidates": [{"content": {"parts": [{"text": "tok "}]}}]},
}
END = {
    ProviderKind.OPENAI: {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ProviderKind.GEMINI: {"candidates": [{"finishReason": "STOP"}]},
}
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TURNS = 2_000
"""Turns of the loop within which a server on it must see a hang-up: a few milliseconds."""


async def hung_up_within_turns(upstream: Upstream, calls: int = 1) -> bool:
    for _ in range(TURNS):
        if upstream.hung_up == calls:
            return True
        await asyncio.sleep(0)
    return False


@KINDS
async def test_fifty_streams_at_once_all_arrive_whole(kind: ProviderKind) -> None:
    running = 0
    peak = 0
    all_in = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if running == 50:
            all_in.set()
        await all_in.wait()
        response = await streams([sse_bytes(TOKEN[kind]) for _ in range(10)] + [sse_bytes(END[kind])])(
            request
        )
        running -= 1
        return response

    async with http_server(handler) as upstream:
        pool = pool_at(upstream.url, kind)
        async with provider_for(pool) as provider:
            outcomes = await asyncio.gather(*(collect(provider.stream(call_to(pool))) for _ in range(50)))
    assert peak == 50
    assert {outcome.text for outcome in outcomes} == {"tok " * 10}
    assert {outcome.finish for outcome in outcomes} == {"stop"}


async def test_more_than_a_hundred_calls_wait_for_no_connection() -> None:
    arrived = 0
    all_in = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 130:
            all_in.set()
        await all_in.wait()
        return await streams([sse_bytes(TOKEN[ProviderKind.OPENAI], END[ProviderKind.OPENAI])])(request)

    async with http_server(handler) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider, asyncio.timeout(30):
            outcomes = await asyncio.gather(*(collect(provider.stream(call_to(pool))) for _ in range(130)))
    assert all(outcome.text == "tok " for outcome in outcomes)


@KINDS
@pytest.mark.parametrize("stream", [True, False])
async def test_calls_one_after_another_share_a_connection(kind: ProviderKind, stream: bool) -> None:
    events = [TOKEN[kind], END[kind], *(["[DONE]"] if kind is ProviderKind.OPENAI else [])]
    async with http_server(streams([sse_bytes(*events)])) as upstream:
        pool = pool_at(upstream.url, kind)
        async with provider_for(pool) as provider:
            for _ in range(5):
                outcome = await collect(provider.stream(call_to(pool, stream=stream)))
                assert outcome.finish == "stop"
    assert len(upstream.connections) == 1


async def test_a_refusal_gives_its_connection_back() -> None:
    async with http_server(always(429, {"error": {"message": "slow down"}})) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            for _ in range(3):
                await collect(provider.stream(call_to(pool)))
    assert len(upstream.connections) == 1


@KINDS
async def test_closing_the_generator_in_mid_stream_hangs_up_at_once(kind: ProviderKind) -> None:
    async with http_server(streams([sse_bytes(TOKEN[kind])], hold=True)) as upstream:
        pool = pool_at(upstream.url, kind)
        async with provider_for(pool) as provider:
            async with aclosing(provider.stream(call_to(pool))) as chunks:
                assert await first_text(chunks) == "tok "
            assert await hung_up_within_turns(upstream)


@KINDS
@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_a_call_that_gets_no_answer_hangs_up_at_once(
    kind: ProviderKind, stream: bool
) -> None:
    arrived = asyncio.Event()

    async def never(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with http_server(never) as upstream:
        pool = pool_at(upstream.url, kind)
        async with provider_for(pool) as provider:
            task = asyncio.create_task(collect(provider.stream(call_to(pool, stream=stream))))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await hung_up_within_turns(upstream)


async def test_cancelled_calls_leave_no_task_and_no_connection() -> None:
    kind = ProviderKind.OPENAI
    async with http_server(streams([sse_bytes(TOKEN[kind])], hold=True)) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            tasks_before = len(asyncio.all_tasks())
            first_token = asyncio.Semaphore(0)

            async def read() -> None:
                async with aclosing(provider.stream(call_to(pool))) as chunks:
                    async for chunk in chunks:
                        if chunk.text:
                            first_token.release()

            readers = [asyncio.create_task(read()) for _ in range(20)]
            for _ in readers:
                await first_token.acquire()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            assert await hung_up_within_turns(upstream, calls=20)
            # The server's own tasks for its connections end a few turns after it saw them go.
            for _ in range(TURNS):
                if len(asyncio.all_tasks()) <= tasks_before:
                    break
                await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) <= tasks_before, asyncio.all_tasks()


async def test_a_refused_connection_is_a_network_error_that_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pool = pool_at(f"http://127.0.0.1:{port}")
    async with provider_for(pool) as provider:
        failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.NETWORK_ERROR
    assert "connection refused" in failure.message
    assert str(port) in failure.message


async def test_an_unknown_host_is_a_network_error() -> None:
    pool = pool_at("http://nowhere.invalid")
    async with provider_for(pool) as provider:
        failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.NETWORK_ERROR
    assert "nowhere.invalid" in failure.message


async def test_tls_with_a_server_that_speaks_none_is_a_network_error() -> None:
    async with http_server(always(200, {})) as upstream:
        pool = pool_at(upstream.url.replace("http://", "https://"))
        async with provider_for(pool) as provider:
            failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.NETWORK_ERROR
    assert "TLS" in failure.message


async def test_a_server_that_is_never_connected_times_out_in_the_connect_phase() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        # A backlog of one, filled, leaves the next connection without an answer.
        with socket.socket() as first, socket.socket() as second:
            for filler in (first, second):
                filler.setblocking(False)
                with suppress(BlockingIOError):
                    filler.connect(("127.0.0.1", port))
            account = AccountSpec(id="acc-1", api_key=Secret(KEY))
            pool = PoolSpec(
                name="pool",
                provider=ProviderKind.OPENAI,
                provider_id="openai",
                accounts=(account,),
                model="m",
                base_url=f"http://127.0.0.1:{port}/v1",
                timeouts=Timeouts(connect_s=0.05),
            )
            async with provider_for(pool) as provider:
                failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.TIMEOUT
    assert failure.phase is TimeoutPhase.CONNECT


async def test_a_connection_closed_before_any_answer_is_a_network_error() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with raw_server(hang_up) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.NETWORK_ERROR


async def test_a_reset_in_mid_answer_is_an_error_after_the_text() -> None:
    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        piece = sse_bytes(TOKEN[ProviderKind.OPENAI])
        writer.write(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(piece), piece)
        )
        await writer.drain()
        got_it = asyncio.Event()
        passed_on.append(got_it)
        await got_it.wait()
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    passed_on: list[asyncio.Event] = []
    async with raw_server(reset) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            chunks = provider.stream(call_to(pool))
            assert await first_text(chunks) == "tok "
            passed_on[0].set()
            outcome = await collect(chunks)
    assert outcome.text == ""
    assert outcome.failed.category is ErrorCategory.NETWORK_ERROR
    assert "reset" in outcome.failed.message
    assert outcome.finish is None


@KINDS
async def test_a_body_cut_by_the_server_is_malformed_and_never_a_clean_end(kind: ProviderKind) -> None:
    async def cut(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        piece = sse_bytes(*[TOKEN[kind]] * 40)
        writer.write(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(piece), piece)
        )
        await writer.drain()

    async with raw_server(cut) as upstream:
        pool = pool_at(upstream.url, kind)
        async with provider_for(pool) as provider:
            outcome = await collect(provider.stream(call_to(pool)))
    assert outcome.text == "tok " * 40
    assert outcome.finish is None
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


async def test_what_is_no_http_is_malformed() -> None:
    async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n\r\n")
        await writer.drain()

    async with raw_server(garbage) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.MALFORMED_RESPONSE


async def test_a_large_request_arrives_whole() -> None:
    text = "long " * 500_000
    async with http_server(
        streams([sse_bytes(TOKEN[ProviderKind.OPENAI], END[ProviderKind.OPENAI])])
    ) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            outcome = await collect(provider.stream(call_to(pool, text)))
    assert outcome.finish == "stop"
    assert upstream.seen[0].body["messages"][0]["content"] == text
    assert int(upstream.seen[0].headers["content-length"]) > len(text)


async def test_an_error_body_of_ten_megabytes_is_read_only_at_its_start() -> None:
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        for _ in range(160):
            await response.write(b"x" * 65_536)
            sent += 65_536
        return response

    outcome = await ask(flood)
    assert outcome.failed.category is ErrorCategory.API_FAILURE
    assert len(outcome.failed.message) <= 300
    assert sent < 160 * 65_536


async def test_an_error_body_that_never_ends_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_provider, "ERROR_BODY_S", 0.02)

    async def dribble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=503)
        await response.prepare(request)
        await response.write(b"still thinking")
        await asyncio.Event().wait()
        return response

    async with asyncio.timeout(10):
        failure = (await ask(dribble)).failed
    assert failure.category is ErrorCategory.TRANSIENT_ERROR
    assert failure.message == "still thinking"


async def test_a_redirect_is_not_followed_and_takes_no_key_along() -> None:
    async with http_server(always(200, {})) as elsewhere:
        failure = (await ask(always(307, "", {"location": elsewhere.url}))).failed
        assert elsewhere.seen == []
    assert failure.category is ErrorCategory.UNKNOWN
    assert "base_url" in failure.hint


async def test_no_cookie_ties_accounts_together() -> None:
    async with http_server(
        always(
            200,
            {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]},
            {"set-cookie": "id=1"},
        )
    ) as upstream:
        pool = pool_at(upstream.url)
        async with provider_for(pool) as provider:
            await collect(provider.stream(call_to(pool)))
            await collect(provider.stream(call_to(pool)))
    assert all("cookie" not in seen.headers for seen in upstream.seen)


async def test_loopback_is_reached_past_a_proxy_and_others_through_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    async with http_server(always(200, answer)) as proxy, http_server(always(200, answer)) as local:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        for url in (local.url, "http://upstream.invalid"):
            pool = pool_at(url)
            async with provider_for(pool) as provider:
                outcome = await collect(provider.stream(call_to(pool)))
            assert outcome.text == "x"
    assert len(local.seen) == 1
    assert [seen.headers["host"] for seen in proxy.seen] == ["upstream.invalid"]


@pytest.mark.parametrize("url", ["ftp://host/v1", "no address", "http://"])
async def test_a_base_url_that_cannot_be_called_is_said_plainly(url: str) -> None:
    account = AccountSpec(id="acc-1", base_url=url)
    pool = PoolSpec(
        name="pool", provider=ProviderKind.OPENAI, provider_id="openai", accounts=(account,), model="m"
    )
    async with provider_for(pool) as provider:
        failure = (await collect(provider.stream(call_to(pool)))).failed
        assert "base_url" in failure.hint
        assert "base_url" in provider.unavailable() or url == "http://"
