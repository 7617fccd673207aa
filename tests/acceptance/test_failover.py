"""The main job on real parts: HTTP over loopback, llama.cpp in a child process, a real model server."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import (
    AdminState,
    AttemptResult,
    CircuitScope,
    CircuitState,
    CircuitTarget,
    Delta,
    Drain,
    ErrorCategory,
    ForceFailover,
    OnBreak,
    Orchestrator,
    ProviderNotice,
    Request,
    RequestError,
    RequestFinished,
)
from smartfallback.simulation.faults import CutStream, HttpStatus
from smartfallback.simulation.lab import Lab
from support.lab_systems import STEADY, antigravity, chain, copilot, local_pool, openai_pool, pool_of
from support.llama_server import llama_server

QUESTION = Request.ask("Explain how a circuit breaker protects a service that is down.")


async def text_of(orchestrator: Orchestrator, request: Request) -> tuple[str, RequestFinished]:
    deltas = []
    async for event in orchestrator.stream(request):
        if isinstance(event, Delta):
            deltas.append(event.text)
        if isinstance(event, RequestFinished):
            return "".join(deltas), event
    raise AssertionError("the stream ended without a result")


async def in_flight(orchestrator: Orchestrator, account_id: str) -> None:
    """Wait until a request has been sent to the account."""
    while True:
        account = orchestrator.snapshot().account(account_id)
        if account is not None and account.in_flight:
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("upstream", "name"), [("gemini", "antigravity"), ("copilot", "copilot")])
async def test_a_chat_is_answered_over_http(lab: Lab, upstream: str, name: str, stream: bool):
    async with Orchestrator(chain(pool_of(lab, upstream, name))) as orchestrator:
        text, finished = await text_of(orchestrator, replace(QUESTION, stream=stream))
    reply = finished.reply
    assert len(text) > 80
    assert text == reply.text
    assert reply.pool == name
    assert not reply.usage.estimated
    assert reply.usage.total_tokens > 20
    assert lab.counters(upstream).answered == 1


async def test_a_chat_is_answered_by_a_real_gguf(demo_model: Path):
    async with Orchestrator(chain(local_pool(demo_model))) as orchestrator:
        text, finished = await text_of(orchestrator, replace(QUESTION, max_output_tokens=80))
    assert "demo model" in text
    assert finished.reply.account == "gguf"
    assert finished.reply.usage.output_tokens > 5


async def test_a_chat_is_answered_by_the_model_server_of_llama_cpp(demo_model: Path):
    async with (
        llama_server(demo_model) as server,
        Orchestrator(chain(openai_pool(server.base_url))) as orchestrator,
    ):
        text, finished = await text_of(orchestrator, replace(QUESTION, max_output_tokens=80))
    assert "demo model" in text
    assert finished.reply.provider == "server"


async def test_a_server_killed_in_mid_answer_ends_as_an_explicit_error(demo_model: Path):
    async with llama_server(demo_model) as server:
        system = chain(openai_pool(server.base_url), local_pool(demo_model))
        async with Orchestrator(system) as orchestrator:
            received: list[str] = []

            async def read_and_kill() -> None:
                async for event in orchestrator.stream(replace(QUESTION, max_output_tokens=1_500)):
                    if isinstance(event, Delta):
                        received.append(event.text)
                        if len(received) == 3:
                            await server.kill()

            with pytest.raises(RequestError) as caught:
                await read_and_kill()
            error = caught.value
            assert error.failure.category in (
                ErrorCategory.MALFORMED_RESPONSE,
                ErrorCategory.NETWORK_ERROR,
            )
            assert error.partial == "".join(received)
            assert len(received) >= 3
            assert [record.account for record in error.attempts] == ["srv-1"]


async def test_a_server_killed_before_the_first_token_costs_the_caller_nothing(demo_model: Path):
    async with llama_server(demo_model) as server:
        system = chain(openai_pool(server.base_url), local_pool(demo_model))
        async with Orchestrator(system) as orchestrator:
            server.freeze()
            request = replace(QUESTION, max_output_tokens=60)
            answer = asyncio.create_task(text_of(orchestrator, request))
            async with asyncio.timeout(10):
                await in_flight(orchestrator, "srv-1")
            await server.kill()
            text, finished = await answer
    reply = finished.reply
    assert text == reply.text
    assert text.count("demo model") >= 1
    assert [(r.account, r.result) for r in reply.attempts] == [
        ("srv-1", AttemptResult.FAILED),
        ("gguf", AttemptResult.SUCCESS),
    ]


async def test_an_account_drained_in_mid_stream_finishes_and_gets_nothing_more(clock_lab: Lab):
    pool = pool_of(clock_lab, "gemini", "antigravity")
    async with Orchestrator(chain(pool, pool_of(clock_lab, "copilot", "copilot"))) as orchestrator:
        parts = []
        result: RequestFinished | None = None
        async for event in orchestrator.stream(replace(QUESTION, pin="ag-3")):
            if isinstance(event, Delta):
                parts.append(event.text)
                if len(parts) == 2:
                    assert orchestrator.execute(Drain("ag-3", "maintenance")).ok
                    before = clock_lab.counters("gemini", "ag-3").requests
                    await asyncio.gather(*(orchestrator.chat(QUESTION) for _ in range(20)))
                    assert clock_lab.counters("gemini", "ag-3").requests == before
            if isinstance(event, RequestFinished):
                result = event
        assert result is not None
        assert result.reply.text == "".join(parts)
        account = orchestrator.snapshot().account("ag-3")
        assert account is not None
        assert account.admin is AdminState.DRAINED


async def test_a_dead_api_costs_its_threshold_then_copilot_answers(lab: Lab):
    lab.set_fault("gemini", HttpStatus(500))
    pools = pool_of(lab, "gemini", "antigravity"), pool_of(lab, "copilot", "copilot")
    async with Orchestrator(chain(*pools)) as orchestrator:
        for _ in range(30):
            reply = await orchestrator.chat(QUESTION)
            assert reply.pool == "copilot"
            assert reply.degraded
        assert lab.counters("gemini").requests == pools[0].provider_circuit.failure_threshold
        circuit = orchestrator.snapshot().pools[0].provider_circuit
        assert circuit.state is CircuitState.OPEN


async def test_a_cut_stream_is_an_error_with_what_was_received(lab: Lab):
    lab.set_fault("gemini", CutStream(after_tokens=40))
    pools = pool_of(lab, "gemini", "antigravity"), pool_of(lab, "copilot", "copilot")
    async with Orchestrator(chain(*pools)) as orchestrator:
        with pytest.raises(RequestError) as caught:
            await orchestrator.chat(replace(QUESTION, on_break=OnBreak.ERROR))
    assert caught.value.partial
    assert len(caught.value.attempts) == 1
    assert lab.counters("copilot").requests == 0


async def test_a_failover_forced_on_the_provider_moves_everything_away(lab: Lab):
    pools = pool_of(lab, "gemini", "antigravity"), pool_of(lab, "copilot", "copilot")
    async with Orchestrator(chain(*pools)) as orchestrator:
        assert (await orchestrator.chat(QUESTION)).pool == "antigravity"
        target = CircuitTarget(CircuitScope.PROVIDER, "gemini")
        assert orchestrator.execute(ForceFailover(target, "rehearsal", duration_s=60)).ok
        seen = lab.counters("gemini").requests
        assert {(await orchestrator.chat(QUESTION)).pool for _ in range(10)} == {"copilot"}
        assert lab.counters("gemini").requests == seen


async def test_a_hundred_concurrent_callers_are_all_answered_at_the_first_try(lab: Lab):
    pool = pool_of(lab, "gemini", "antigravity")
    async with Orchestrator(chain(pool)) as orchestrator:
        replies = await asyncio.gather(*(orchestrator.chat(QUESTION) for _ in range(100)))
        accounts = orchestrator.snapshot().pools[0].accounts
    assert all(len(reply.attempts) == 1 for reply in replies)
    assert sum(account.requests for account in accounts) == 100
    assert all(account.in_flight == 0 for account in accounts)


async def test_a_caller_that_goes_away_ends_the_upstream_call(clock_lab: Lab):
    async with Orchestrator(chain(pool_of(clock_lab, "gemini", "antigravity"))) as orchestrator:
        stream = orchestrator.stream(replace(QUESTION, pin="ag-1"))
        async for event in stream:
            if isinstance(event, Delta):
                break
        await stream.aclose()
        async with asyncio.timeout(2):
            await clock_lab.idle()
        assert clock_lab.counters("gemini", "ag-1").disconnects == 1
        account = orchestrator.snapshot().account("ag-1")
        assert account is not None
        assert (account.in_flight, account.failures) == (0, 0)
        assert account.quota.windows[0].held == 0


@pytest.fixture
async def clock_lab():
    """A lab whose answers take long enough to act in the middle of one."""
    import random

    from smartfallback import SystemClock

    upstreams = [antigravity(STEADY), copilot()]
    async with Lab(SystemClock(), random.Random(5), upstreams) as running:
        yield running


async def test_a_local_model_that_dies_is_restarted_and_the_operator_is_told(demo_model: Path):
    async with Orchestrator(chain(local_pool(demo_model))) as orchestrator:
        events = orchestrator.subscribe()
        request = replace(QUESTION, max_output_tokens=40)
        assert (await orchestrator.chat(request)).account == "gguf"
        adapter = orchestrator._roster.pools["local"].adapter
        os.kill(adapter.pid, signal.SIGKILL)
        assert (await orchestrator.chat(request)).account == "gguf"
        notices = [event for event in events.drain()[0] if isinstance(event, ProviderNotice)]
    assert [notice.pool for notice in notices] == ["local", "local"]  # lost, and replaced
