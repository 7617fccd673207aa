"""Drills on a real server that knows nothing of them, through the public face of the library."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import (
    Delta,
    ErrorCategory,
    OnBreak,
    Orchestrator,
    Request,
    RequestError,
    SystemClock,
    SystemSpec,
)
from smartfallback.simulation.drills.drill import Drill, DrillScope, DrillTarget
from smartfallback.simulation.drills.injector import Injector
from smartfallback.simulation.faults import (
    CutStream,
    DnsFailure,
    Fault,
    HttpStatus,
    QuotaWall,
    StallMidStream,
)
from smartfallback.simulation.lab import Lab
from support.lab_systems import chain, openai_pool, pool_of
from support.leftovers import held, open_sockets
from support.llama_server import llama_server

SERVER = DrillTarget(DrillScope.ACCOUNT, "srv-1")
QUESTION = replace(Request.ask("How do indexes work?"), max_output_tokens=24, on_break=OnBreak.ERROR)
CLOCK = SystemClock()


def drilled(spec: SystemSpec, seed: int = 1) -> tuple[Injector, Orchestrator]:
    injector = Injector(spec, CLOCK, random.Random(seed))
    return injector, Orchestrator(spec, provider_factory=injector.provider_factory())


async def test_a_real_server_is_drilled_and_as_before_afterwards(lab: Lab, demo_model: Path) -> None:
    met: dict[Fault, ErrorCategory | None] = {
        HttpStatus(500): ErrorCategory.API_FAILURE,
        QuotaWall(): ErrorCategory.QUOTA_EXHAUSTED,
        DnsFailure(): ErrorCategory.NETWORK_ERROR,
    }
    async with llama_server(demo_model) as server:
        spec = chain(openai_pool(server.base_url), pool_of(lab, "copilot", "backup"))
        for fault, category in met.items():
            injector, orchestrator = drilled(spec)
            async with orchestrator:
                assert (await orchestrator.chat(QUESTION)).account == "srv-1"
                injector.start(Drill(SERVER, fault))
                reply = await orchestrator.chat(QUESTION)
                failures = {r.account: r.failure.category for r in reply.attempts if r.failure is not None}
                assert (reply.account, failures) == ("co-1", {"srv-1": category})
                assert injector.stop_all() == 1
                assert held(orchestrator, CLOCK.monotonic()) == {}
            async with Orchestrator(spec) as plain:
                assert (await plain.chat(QUESTION)).account == "srv-1"


async def test_a_real_answer_is_cut_or_held_up_after_some_of_its_tokens(demo_model: Path) -> None:
    async with llama_server(demo_model) as server:
        spec = chain(openai_pool(server.base_url))
        injector, orchestrator = drilled(spec)
        async with orchestrator:
            whole = await orchestrator.chat(QUESTION)
            before = len(open_sockets())
            injector.start(Drill(SERVER, CutStream(5), most_calls=1))
            with pytest.raises(RequestError) as caught:
                await orchestrator.chat(replace(QUESTION, stream=True))
            assert caught.value.failure.category is ErrorCategory.MALFORMED_RESPONSE
            assert injector.active() == ()

            drill = injector.start(Drill(SERVER, StallMidStream(5)))
            text = ""
            async with asyncio.timeout(20):
                async for event in orchestrator.stream(QUESTION):
                    if isinstance(event, Delta):
                        text += event.text
                        if len(text.split()) >= 5:
                            injector.stop(drill.id)
            assert len(text) >= len(whole.text) // 2
            assert held(orchestrator, CLOCK.monotonic()) == {}
            assert len(open_sockets()) <= before + 1


async def test_a_share_of_the_calls_fails_over_and_the_same_ones_for_the_same_seed(lab: Lab) -> None:
    async def served(seed: int) -> list[str]:
        spec = chain(pool_of(lab, "copilot", "first"), pool_of(lab, "gemini", "second"))
        injector, orchestrator = drilled(spec, seed)
        target = DrillTarget(DrillScope.PROVIDER, "copilot")
        async with orchestrator:
            injector.start(Drill(target, HttpStatus(422, "drill"), share=0.5))
            outcomes = []
            for _ in range(20):
                try:
                    outcomes.append((await orchestrator.chat(QUESTION)).account)
                except RequestError as error:
                    outcomes.append(error.failure.category.value)
            (view,) = injector.active()
            assert view.hits == outcomes.count(ErrorCategory.INVALID_REQUEST.value)
            return outcomes

    first = await served(1)
    assert first == await served(1)
    assert 4 <= first.count(ErrorCategory.INVALID_REQUEST.value) <= 16
    assert first.count("co-1") == 20 - first.count(ErrorCategory.INVALID_REQUEST.value)
