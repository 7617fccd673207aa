"""The ``openai`` adapter against llama-cpp-python's own server, which runs a real model."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from smartfallback.clock import SystemClock
from smartfallback.model.outcomes import ErrorCategory, ProviderError
from smartfallback.model.requests import Message, Role
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.base import Call, Chunk
from smartfallback.providers.openai import OpenAIProvider
from smartfallback.simulation.demo_model import write_demo_model
from support.llama_server import llama_server
from support.local_models import collect, write_endless_model

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNT = AccountSpec("llama-server")


def pool_at(base_url: str) -> PoolSpec:
    return PoolSpec("server", ProviderKind.OPENAI, "llama-server", (ACCOUNT,), "any", base_url=base_url)


def call_on(pool: PoolSpec, *, stream: bool, max_tokens: int | None = None) -> Call:
    return Call(ACCOUNT, pool, pool.model, (Message(Role.USER, "Who are you?"),), max_tokens, None, stream)


async def test_real_server_answers_streaming_and_not(tmp_path: Path) -> None:
    write_demo_model(tmp_path / "demo.gguf")
    async with llama_server(tmp_path / "demo.gguf") as server:
        pool = pool_at(server.base_url)
        provider = OpenAIProvider(pool, SystemClock())
        for stream in (True, False):
            chunks = await collect(provider.stream(call_on(pool, stream=stream)))
            assert "demo model" in "".join(chunk.text for chunk in chunks)
            assert (len([chunk for chunk in chunks if chunk.text]) > 5) is stream
            assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
        await provider.aclose()


async def test_server_killed_in_mid_answer_and_before_an_answer(tmp_path: Path) -> None:
    model = write_endless_model(tmp_path / "endless.gguf")
    async with llama_server(model, context_tokens=8192) as server:
        pool = pool_at(server.base_url)
        provider = OpenAIProvider(pool, SystemClock())
        received: list[Chunk] = []

        async def read_and_kill() -> None:
            async with aclosing(provider.stream(call_on(pool, stream=True))) as chunks:
                async for chunk in chunks:
                    received.append(chunk)
                    if len([piece for piece in received if piece.text]) == 3:
                        await server.kill()

        with pytest.raises(ProviderError) as cut:
            await read_and_kill()
        assert "".join(chunk.text for chunk in received).startswith("one two three")
        assert not any(chunk.finish_reason for chunk in received)
        assert cut.value.failure.category in (ErrorCategory.NETWORK_ERROR, ErrorCategory.MALFORMED_RESPONSE)
        with pytest.raises(ProviderError) as refused:
            await collect(provider.stream(call_on(pool, stream=True)))
        assert refused.value.failure.category is ErrorCategory.NETWORK_ERROR
        await provider.aclose()
