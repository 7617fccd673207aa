"""Closing a provider: whoever waits on one of its connections is told at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from aiohttp import web

from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.specs import ProviderKind
from smartfallback.providers.base import Chunk
from smartfallback.providers.registry import build_provider
from support.clock import FakeClock
from support.http_servers import (
    Upstream,
    call_to,
    collect,
    first_text,
    http_server,
    pool_at,
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
TURNS = 2_000
"""Turns of the loop within which a server on it must see a hang-up: a few milliseconds."""


async def hung_up_within_turns(upstream: Upstream, calls: int = 1) -> bool:
    for _ in range(TURNS):
        if upstream.hung_up == calls:
            return True
        await asyncio.sleep(0)
    return False


async def test_closing_the_provider_ends_running_calls_and_may_be_repeated() -> None:
    kind = ProviderKind.OPENAI
    async with http_server(streams([sse_bytes(TOKEN[kind])], hold=True)) as upstream:
        pool = pool_at(upstream.url, kind)
        provider = build_provider(pool, FakeClock())
        chunks = provider.stream(call_to(pool))
        assert await first_text(chunks) == "tok "
        await provider.aclose()
        await provider.aclose()
        async with asyncio.timeout(5):
            cut = await collect(chunks)
        after = await collect(provider.stream(call_to(pool)))
    assert cut.failed.category is ErrorCategory.NETWORK_ERROR
    assert after.failed.category is ErrorCategory.NETWORK_ERROR


@KINDS
@pytest.mark.parametrize("begun", [False, True])
async def test_closing_the_provider_ends_a_call_that_waits_for_its_server(
    kind: ProviderKind, begun: bool
) -> None:
    arrived = asyncio.Event()

    async def stuck(request: web.Request) -> web.StreamResponse:
        arrived.set()
        return await streams([sse_bytes(TOKEN[kind])] if begun else [], hold=True)(request)

    async def never(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with http_server(stuck if begun else never) as upstream:
        pool = pool_at(upstream.url, kind)
        provider = build_provider(pool, FakeClock())
        chunks = provider.stream(call_to(pool))
        if begun:
            assert await first_text(chunks) == "tok "
        waiting = asyncio.create_task(collect(chunks))
        await arrived.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        await provider.aclose()
        for _ in range(20):
            await asyncio.sleep(0)
        assert waiting.done()
        assert await hung_up_within_turns(upstream)
    failure = waiting.result().failed
    assert (failure.category, failure.message) == (ErrorCategory.NETWORK_ERROR, "the provider is shut down")


async def test_an_answer_that_was_whole_survives_the_closing() -> None:
    kind = ProviderKind.GEMINI
    async with http_server(streams([sse_bytes(TOKEN[kind], END[kind])], hold=True)) as upstream:
        pool = pool_at(upstream.url, kind)
        provider = build_provider(pool, FakeClock())
        chunks = provider.stream(call_to(pool))
        assert await first_text(chunks) == "tok "
        waiting = asyncio.create_task(collect(chunks))
        for _ in range(20):
            await asyncio.sleep(0)
        await provider.aclose()
        async with asyncio.timeout(5):
            outcome = await waiting
    assert (outcome.finish, outcome.failure) == ("stop", None)


async def test_a_caller_that_is_cancelled_while_the_provider_closes_stays_cancelled() -> None:
    kind = ProviderKind.OPENAI
    async with http_server(streams([sse_bytes(TOKEN[kind])], hold=True)) as upstream:
        pool = pool_at(upstream.url, kind)
        provider = build_provider(pool, FakeClock())
        chunks = provider.stream(call_to(pool))
        assert await first_text(chunks) == "tok "
        waiting = asyncio.create_task(collect(chunks))
        for _ in range(20):
            await asyncio.sleep(0)
        closing = asyncio.create_task(provider.aclose())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await closing


async def test_a_caller_that_goes_on_after_the_closing_is_not_cancelled_later() -> None:
    kind = ProviderKind.OPENAI

    async def read_and_go_on(chunks: AsyncGenerator[Chunk, None]) -> str:
        assert (await collect(chunks)).failed.category is ErrorCategory.NETWORK_ERROR
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return f"cancelled {task.cancelling()} times"

    async with http_server(streams([sse_bytes(TOKEN[kind])], hold=True)) as upstream:
        pool = pool_at(upstream.url, kind)
        provider = build_provider(pool, FakeClock())
        chunks = provider.stream(call_to(pool))
        assert await first_text(chunks) == "tok "
        waiting = asyncio.create_task(read_and_go_on(chunks))
        for _ in range(20):
            await asyncio.sleep(0)
        await provider.aclose()
        async with asyncio.timeout(5):
            assert await waiting == "cancelled 0 times"
