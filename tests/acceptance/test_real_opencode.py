"""A chat through the ``opencode`` provider with the real OpenCode program, as an operator would run it.

Where npm can't give the program, the events recorded from it are replayed instead, and the run's
summary says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from smartfallback import SystemClock
from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.requests import Usage
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.base import Provider
from smartfallback.providers.opencode import OpenCodeProvider
from smartfallback.simulation.faults import BurstLimit, StallMidStream
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import DialectName, Latency, Upstream, UpstreamAccount
from support.http_servers import call_to, collect
from support.opencode_program import PASSWORD, PROVIDER, Absent, installed_program, opencode_serve
from support.opencode_script import scripted_opencode

RECORDING: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "support" / "opencode_recording.json").read_text(encoding="utf-8")
)
MODEL = "m-1"
BEHIND = "behind"
# The first prompt lets the program load its parts, which takes seconds on a busy machine.
SILENCE_S = 60.0
LIMIT_S = 60.0


async def test_the_real_program_answers_streams_and_is_aborted(
    record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    try:
        program = await installed_program()
    except Absent as absent:
        record_property("note", f"OpenCode: {RECORDING['program']} was replayed from its recording: {absent}")
        await replay_answer()
        await replay_abort()
        return
    record_property("note", f"OpenCode: the real program answered ({RECORDING['program']})")
    account = UpstreamAccount("key-1", Secret("test-key-behind"))
    latency = Latency(first_token_s=0.0, spread=0.0, tokens_per_s=60.0)
    behind = Upstream(BEHIND, DialectName.OPENAI, (account,), latency)
    async with (
        Lab(SystemClock(), Random(5), [behind]) as lab,
        opencode_serve(
            program, tmp_path, upstream=lab.base_url(BEHIND), key=account.api_key.reveal(), model=MODEL
        ) as url,
        asyncio.timeout(LIMIT_S),
    ):
        pool = pool_at(url)
        provider = OpenCodeProvider(pool, SystemClock(), silence_s=SILENCE_S)
        try:
            await it_streams(provider, pool, lab)
            await it_keeps_answers_apart(provider, pool)
            await it_is_aborted(provider, pool, lab)
            await it_tells_of_a_burst_limit(provider, pool, lab)
        finally:
            await provider.aclose()
        await it_refuses_a_wrong_password(url)


async def test_the_recorded_program_answers_and_is_aborted() -> None:
    await replay_answer()
    await replay_abort()


def pool_at(url: str, password: str = PASSWORD) -> PoolSpec:
    account = AccountSpec("oc-1", Secret(password))
    return PoolSpec(
        "opencode", ProviderKind.OPENCODE, "opencode", (account,), model=f"{PROVIDER}/{MODEL}", base_url=url
    )


async def it_streams(provider: Provider, pool: PoolSpec, lab: Lab) -> None:
    chunks = [chunk async for chunk in provider.stream(call_to(pool, "How do database indexes work?"))]
    texts = [chunk.text for chunk in chunks if chunk.text]
    assert len(texts) > 1
    assert "index" in "".join(texts)
    assert chunks[-1].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.output_tokens == lab.counters(BEHIND).tokens_served
    assert lab.counters(BEHIND).requests == 1


async def it_keeps_answers_apart(provider: Provider, pool: PoolSpec) -> None:
    questions = ("How do database indexes work?", "What is a circuit breaker?")
    indexes, circuits = await asyncio.gather(
        *(collect(provider.stream(call_to(pool, question))) for question in questions)
    )
    assert "index" in indexes.text
    assert "circuit" in circuits.text
    assert "circuit" not in indexes.text


async def it_is_aborted(provider: Provider, pool: PoolSpec, lab: Lab) -> None:
    before = lab.counters(BEHIND)
    lab.set_fault(BEHIND, StallMidStream(6))
    stream = provider.stream(call_to(pool, "How do database indexes work?"))
    while not (await anext(stream)).text:
        pass
    await stream.aclose()
    await lab.until(lambda: lab.counters(BEHIND).disconnects == before.disconnects + 1)
    await lab.idle()
    lab.clear_faults()


async def it_tells_of_a_burst_limit(provider: Provider, pool: PoolSpec, lab: Lab) -> None:
    lab.set_fault(BEHIND, BurstLimit(retry_after_s=30))
    failure = (await collect(provider.stream(call_to(pool)))).failed
    lab.clear_faults()
    assert failure.category is ErrorCategory.RATE_LIMIT
    assert failure.retry_after_s is not None
    assert 20 < failure.retry_after_s <= 31


async def it_refuses_a_wrong_password(url: str) -> None:
    pool = pool_at(url, "wrong")
    provider = OpenCodeProvider(pool, SystemClock(), silence_s=SILENCE_S)
    try:
        failure = (await collect(provider.stream(call_to(pool)))).failed
    finally:
        await provider.aclose()
    assert failure.category is ErrorCategory.AUTHENTICATION


async def replay_answer() -> None:
    recorded = RECORDING["answered"]
    async with scripted_opencode(*recorded["events"]) as server:
        pool = pool_at(server.url)
        provider = OpenCodeProvider(pool, SystemClock())
        chunks = [chunk async for chunk in provider.stream(call_to(pool, "Say hello."))]
        await provider.aclose()
    texts = [chunk.text for chunk in chunks if chunk.text]
    assert len(texts) > 1
    assert "".join(texts) == recorded["text"]
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == Usage(11, 7)
    assert server.seen("DELETE /session/_")


async def replay_abort() -> None:
    recorded = RECORDING["aborted"]
    async with scripted_opencode(*recorded["events"], on_abort=recorded["after_abort"]) as server:
        pool = pool_at(server.url)
        provider = OpenCodeProvider(pool, SystemClock())
        stream = provider.stream(call_to(pool))
        while not (await anext(stream)).text:
            pass
        await stream.aclose()
        await provider.aclose()
        assert [call.method for call in server.calls][-2:] == ["POST", "DELETE"]
        assert server.seen("POST /session/_/abort")
