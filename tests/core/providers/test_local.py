"""The local provider's answers, with real llama.cpp in a real child process."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smartfallback.clock import SystemClock
from smartfallback.model.outcomes import ErrorCategory, ProviderError
from smartfallback.providers.local import LocalProvider
from smartfallback.providers.local_process import ModelProcess
from smartfallback.simulation.chain_model import END, START, write_chain_model
from smartfallback.simulation.demo_model import write_demo_model
from support.local_models import (
    WORDS,
    answer,
    collect,
    gone_within,
    local_call,
    local_pool,
    write_byte_models,
    write_endless_model,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from smartfallback.providers.local_protocol import Settings


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "demo.gguf"
    write_demo_model(path)
    return path


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_model(tmp_path_factory.mktemp("models") / "endless.gguf")


@pytest.fixture
async def provider(endless: Path) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(local_pool(endless, context_tokens=8192), SystemClock())
    yield provider
    await provider.aclose()


async def test_demo_model_streams_an_answer_that_says_what_it_is(demo: Path) -> None:
    provider = LocalProvider(local_pool(demo), SystemClock())
    assert provider.unavailable() == ""
    chunks = await collect(provider.stream(local_call("Who are you?")))
    await provider.aclose()
    text = "".join(chunk.text for chunk in chunks)
    assert "demo model" in text
    assert len([chunk for chunk in chunks if chunk.text]) > 10
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    usage = chunks[-1].usage
    assert usage is not None
    assert not usage.estimated
    assert 5 < usage.input_tokens < 20
    assert usage.output_tokens > 20


async def test_processes_do_not_all_draw_the_same_answers(demo: Path) -> None:
    series = []
    for _ in range(2):
        provider = LocalProvider(local_pool(demo), SystemClock())
        series.append([await answer(provider) for _ in range(6)])
        await provider.aclose()
    assert series[0] != series[1]


async def test_answer_ends_at_its_limit_and_counts_exactly(provider: LocalProvider) -> None:
    chunks = await collect(provider.stream(local_call(max_tokens=7)))
    assert "".join(chunk.text for chunk in chunks) == "one two three four fiveone two"
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.output_tokens == 7


async def test_without_streaming_the_answer_comes_in_one_piece(provider: LocalProvider) -> None:
    chunks = await collect(provider.stream(local_call(max_tokens=5, stream=False)))
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("".join(WORDS), "length")]


@pytest.mark.parametrize("stream", [True, False])
async def test_notice_stands_before_the_answer(endless: Path, stream: bool) -> None:
    provider = LocalProvider(local_pool(endless, notice="Local model."), SystemClock())
    chunks = await collect(provider.stream(local_call(max_tokens=2, stream=stream)))
    await provider.aclose()
    assert "".join(chunk.text for chunk in chunks) == "Local model.\n\none two"


async def test_notice_of_an_empty_answer_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    write_chain_model(tmp_path / "mute.gguf", {START: [(END, 1.0)]}, name="mute")
    provider = LocalProvider(local_pool(tmp_path / "mute.gguf", notice="Local model."), SystemClock())
    for stream in (True, False):
        chunks = await collect(provider.stream(local_call(stream=stream)))
        assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("", "stop")]
    await provider.aclose()


async def test_characters_split_over_tokens_arrive_whole(tmp_path: Path) -> None:
    for path, expected in write_byte_models(tmp_path):
        provider = LocalProvider(local_pool(path), SystemClock())
        assert await answer(provider) == expected
        await provider.aclose()


async def test_callers_are_answered_one_after_the_other_in_order(provider: LocalProvider) -> None:
    first = provider.stream(local_call())
    await anext(first)
    order: list[str] = []

    async def ask(name: str) -> None:
        assert await answer(provider, max_tokens=3) == "one two three"
        order.append(name)

    async with asyncio.TaskGroup() as group:
        for name in ("second", "third", "fourth"):
            group.create_task(ask(name))
        for _ in range(20):
            await anext(first)
        assert order == []
        await first.aclose()
    assert order == ["second", "third", "fourth"]


async def test_a_caller_that_gives_up_waiting_leaves_the_queue(provider: LocalProvider) -> None:
    first = provider.stream(local_call())
    await anext(first)
    waiting = asyncio.create_task(answer(provider, max_tokens=3))
    behind = asyncio.create_task(answer(provider, max_tokens=2))
    await anext(first)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await first.aclose()
    assert await behind == "one two"


@pytest.mark.parametrize("way", ["close the generator", "cancel the task"])
async def test_cancelled_answer_stops_and_the_model_stays_loaded(provider: LocalProvider, way: str) -> None:
    chunks = provider.stream(local_call())
    await anext(chunks)
    pid = provider.pid
    if way == "close the generator":
        await chunks.aclose()
    else:
        reader = asyncio.create_task(collect(chunks))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert await answer(provider, max_tokens=3) == "one two three"
    assert provider.pid == pid


async def test_caller_that_leaves_while_the_model_loads_does_not_stop_the_load(
    endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = 0
    started = asyncio.Event()
    start = ModelProcess.start

    async def counting_start(settings: Settings) -> ModelProcess:
        nonlocal starts
        starts += 1
        started.set()
        return await start(settings)

    monkeypatch.setattr(ModelProcess, "start", counting_start)
    provider = LocalProvider(local_pool(endless), SystemClock())
    impatient = asyncio.create_task(answer(provider))
    await started.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert await answer(provider, max_tokens=1) == "one"
    assert starts == 1
    await provider.aclose()


async def test_conversation_beyond_the_context_is_refused_as_such(endless: Path) -> None:
    provider = LocalProvider(local_pool(endless, context_tokens=512), SystemClock())
    with pytest.raises(ProviderError) as raised:
        await answer(provider, "x" * 100_000)
    assert raised.value.failure.category is ErrorCategory.INVALID_REQUEST
    assert raised.value.failure.context_overflow
    pid = provider.pid
    assert await answer(provider, max_tokens=2) == "one two"
    assert provider.pid == pid
    await provider.aclose()


async def test_context_that_fills_up_ends_the_answer_as_cut_by_length(endless: Path) -> None:
    provider = LocalProvider(local_pool(endless, context_tokens=256), SystemClock())
    chunks = await collect(provider.stream(local_call()))
    await provider.aclose()
    usage = chunks[-1].usage
    assert chunks[-1].finish_reason == "length"
    assert usage is not None
    assert usage.total_tokens == 256


async def test_conversation_that_the_template_refuses_is_the_callers_mistake(tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    write_chain_model(tmp_path / "strict.gguf", {START: [(END, 1.0)]}, name="strict", chat_template=template)
    provider = LocalProvider(local_pool(tmp_path / "strict.gguf"), SystemClock())
    with pytest.raises(ProviderError) as raised:
        await answer(provider)
    await provider.aclose()
    assert raised.value.failure.category is ErrorCategory.INVALID_REQUEST
    assert not raised.value.failure.context_overflow
    assert "roles must alternate" in raised.value.failure.message


async def test_close_leaves_no_process_and_can_be_repeated(provider: LocalProvider) -> None:
    await answer(provider, max_tokens=1)
    pid = provider.pid
    assert pid is not None
    await provider.aclose()
    await provider.aclose()
    assert gone_within(pid, 0)
    with pytest.raises(ProviderError, match="closed"):
        await answer(provider)


async def test_close_in_mid_answer_ends_the_answer_with_an_error(provider: LocalProvider) -> None:
    chunks = provider.stream(local_call())
    await anext(chunks)
    pid = provider.pid
    assert pid is not None
    async with aclosing(chunks):
        closing = asyncio.create_task(provider.aclose())
        with pytest.raises(ProviderError):
            await collect(chunks)
        await closing
    assert gone_within(pid, 0)


async def test_close_while_the_model_loads_ends_the_waiting_call(endless: Path) -> None:
    provider = LocalProvider(local_pool(endless), SystemClock())
    waiting = asyncio.create_task(answer(provider))
    await asyncio.sleep(0)
    await provider.aclose()
    with pytest.raises(ProviderError, match="closed"):
        await waiting


async def test_closed_before_any_call_no_process_was_ever_started(
    endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_start(_: Settings) -> ModelProcess:
        raise AssertionError("started without a call")

    monkeypatch.setattr(ModelProcess, "start", no_start)
    provider = LocalProvider(local_pool(endless), SystemClock())
    assert provider.unavailable() == ""
    await provider.aclose()
