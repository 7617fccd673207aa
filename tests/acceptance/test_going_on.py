"""A broken answer goes on at another account, a silent one is hedged: on real servers and a real model."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import (
    AnswerResumed,
    AttemptResult,
    DegradationKind,
    Delta,
    Orchestrator,
    Origin,
    Request,
    RequestFinished,
    SystemSpec,
)
from smartfallback.simulation.faults import (
    CutStream,
    Fault,
    Garbage,
    GarbageKind,
    OverloadInStream,
    StallBeforeFirstToken,
    StallMidStream,
)
from smartfallback.simulation.lab import Lab
from support.lab_systems import chain, local_pool, openai_pool, pool_of
from support.llama_server import llama_server

QUESTION = Request.ask("Explain how a circuit breaker protects a service that is down.", origin=Origin.CHAT)


def hedged(system: SystemSpec, after_s: float) -> SystemSpec:
    return replace(system, chains=(replace(system.chains[0], hedge_after_s=after_s),))


@pytest.mark.parametrize(
    "fault",
    [
        CutStream(after_tokens=40),
        CutStream(after_tokens=40, clean=True),
        OverloadInStream(after_tokens=20),
        Garbage(GarbageKind.JSON, after_tokens=20),
        Garbage(GarbageKind.SSE, after_tokens=20),
        StallMidStream(after_tokens=10),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{getattr(fault, 'kind', '')}{getattr(fault, 'clean', '')}",
)
async def test_every_way_to_break_off_is_continued_with_one_seam(lab: Lab, fault: Fault):
    lab.set_fault("gemini", fault)
    first = pool_of(lab, "gemini", "antigravity")
    first = replace(first, timeouts=replace(first.timeouts, idle_s=0.2), accounts=first.accounts[:1])
    async with Orchestrator(chain(first, pool_of(lab, "copilot", "copilot"))) as orchestrator:
        events = [event async for event in orchestrator.stream(QUESTION)]
        left = orchestrator.snapshot()
    finished = events[-1]
    assert isinstance(finished, RequestFinished)
    reply = finished.reply
    resumed = [event for event in events if isinstance(event, AnswerResumed)]
    assert [event.seam for event in resumed] == list(reply.seams)
    assert (reply.seams[-1].resumed, reply.account) == ("co-1", "co-1")
    assert reply.seams[0].broken == first.accounts[0].id
    assert "".join(event.text for event in events if isinstance(event, Delta)) == reply.text
    assert len(reply.text) > reply.seams[0].at > 20
    assert DegradationKind.CONTINUED in [entry.kind for entry in reply.degradations]
    assert lab.counters("copilot").answered == 1
    broken = left.account(first.accounts[0].id)
    assert broken is not None
    assert broken.quota.windows[0].used > 0, "the account pays for what came"
    assert all(account.in_flight == 0 for pool in left.pools for account in pool.accounts)
    assert all(
        window.held == 0 for pool in left.pools for each in pool.accounts for window in each.quota.windows
    )


async def test_a_model_server_killed_in_mid_answer_is_continued_by_the_model_on_disk(demo_model: Path):
    async with llama_server(demo_model) as server:
        system = chain(openai_pool(server.base_url), local_pool(demo_model))
        async with Orchestrator(system) as orchestrator:
            received = 0
            async for event in orchestrator.stream(replace(QUESTION, max_output_tokens=400)):
                if isinstance(event, Delta):
                    received += 1
                    if received == 3:
                        await server.kill()
                if isinstance(event, RequestFinished):
                    reply = event.reply
    assert [(seam.broken, seam.resumed) for seam in reply.seams] == [("srv-1", "gguf")]
    assert len(reply.text) > reply.seams[0].at > 0


async def test_a_silent_provider_is_hedged_and_its_call_ended(lab: Lab):
    system = chain(pool_of(lab, "gemini", "antigravity"), pool_of(lab, "copilot", "copilot"))
    lab.set_fault("gemini", StallBeforeFirstToken())
    async with Orchestrator(hedged(system, 0.05)) as orchestrator:
        async with asyncio.timeout(4):
            reply = await orchestrator.chat(
                replace(QUESTION, avoid=frozenset(f"ag-{n}" for n in range(2, 9)))
            )
        assert reply.account == "co-1"
        assert [record.result for record in reply.attempts] == [AttemptResult.OUTRUN, AttemptResult.SUCCESS]
        async with asyncio.timeout(4):
            await lab.until(lambda: lab.counters("gemini").in_flight == 0)
        assert lab.counters("gemini").disconnects == 1
        snapshot = orchestrator.snapshot()
    assert all(account.in_flight == 0 for pool in snapshot.pools for account in pool.accounts)
    assert snapshot.pools[0].provider_circuit.failures == 0
