"""The demo as a whole, on real sockets and, in its last step, a real model."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from smartfallback.model.requests import Request
from smartfallback.model.specs import ProviderKind
from smartfallback.simulation.demo import (
    ANTIGRAVITY,
    COPILOT,
    DEMO_MODEL_NOTICE,
    GEMINI_API,
    INCIDENTS,
    INITIAL_USAGE,
    LOCAL,
    OPENCODE,
    demo,
    demo_spec,
    demo_upstreams,
)
from smartfallback.simulation.faults import HttpStatus
from smartfallback.simulation.lab import Lab
from support.clock import FakeClock

AG = tuple(f"ag-{n}" for n in range(1, 9))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


async def test_the_built_in_chain(clock: FakeClock) -> None:
    async with Lab(clock, Random(1), demo_upstreams()) as lab:
        spec = demo_spec(lab)
        assert spec.simulated
        assert {chain.name: chain.pools for chain in spec.chains} == {
            "default": (ANTIGRAVITY, COPILOT, OPENCODE, LOCAL),
            "fast": (COPILOT, ANTIGRAVITY, LOCAL),
        }
        pools = {pool.name: pool for pool in spec.pools}
        antigravity, local = pools[ANTIGRAVITY], pools[LOCAL]
        assert tuple(account.id for account in antigravity.accounts) == AG
        assert {account.quota[0].resets for account in antigravity.accounts} == {"sun 00:00 UTC"}
        assert (antigravity.provider, antigravity.provider_id) == (ProviderKind.GEMINI, GEMINI_API)
        assert pools[COPILOT].provider_id == COPILOT
        assert pools[OPENCODE].provider_id == OPENCODE
        assert [(account.id, account.max_concurrency) for account in local.accounts] == [("gguf", 1)]
        assert "demo model" in local.notice
        ids = [account.id for pool in spec.pools for account in pool.accounts]
        assert len(set(ids)) == len(ids)


async def test_an_own_model_replaces_the_demo_model_and_its_notice(clock: FakeClock) -> None:
    async with Lab(clock, Random(1), demo_upstreams()) as lab:
        local = demo_spec(lab, Path("mine.gguf"), demo_model=Path("demo.gguf")).pools[-1]
    assert (local.model_path, local.model, local.notice) == (Path("mine.gguf"), "mine", "")


async def test_keys_are_new_for_every_run_and_never_shown(clock: FakeClock) -> None:
    keys = [account.api_key for _ in range(2) for up in demo_upstreams() for account in up.accounts]
    assert len(set(keys)) == len(keys)
    async with Lab(clock, Random(1), demo_upstreams()) as lab:
        text = repr(demo_spec(lab)) + repr(lab.upstreams)
        assert all(a.api_key.reveal() not in text for up in lab.upstreams for a in up.accounts)


async def test_incidents_name_places_that_exist(clock: FakeClock) -> None:
    async with Lab(clock, Random(1), demo_upstreams()) as lab:
        for incident in INCIDENTS:
            for account in incident.accounts or (None,):
                assert lab.set_fault(incident.upstream, incident.fault, account) in lab.faults


async def test_the_demo_answers_over_http_and_both_sides_count_alike(clock: FakeClock) -> None:
    async with asyncio.timeout(30), demo(clock=clock, rng=Random(1), weather=False) as running:
        running.traffic.pause()
        snapshot = running.orchestrator.snapshot()
        assert snapshot.simulated
        for pool in snapshot.pools[:3]:
            for account in pool.accounts:
                assert account.quota.bound is not None
                assert account.quota.bound.used == INITIAL_USAGE[account.id]
                assert running.lab.used(pool.provider_id, account.id) == INITIAL_USAGE[account.id]
        reply = await running.orchestrator.chat(Request.ask("What is the CAP theorem in plain words?"))
        assert reply.pool == ANTIGRAVITY
        assert "network splits" in reply.text
        assert not reply.degraded
        spent = running.lab.used(GEMINI_API, reply.account) - INITIAL_USAGE[reply.account]
        assert spent == reply.usage.total_tokens
        after = running.orchestrator.snapshot().account(reply.account)
        assert after is not None
        assert after.quota.bound is not None
        assert after.quota.bound.used == INITIAL_USAGE[reply.account] + spent


async def test_traffic_flows_by_itself() -> None:
    async with asyncio.timeout(30), demo(rng=Random(1), rate_per_s=50, weather=False) as running:
        await running.lab.until(lambda: running.lab.counters(GEMINI_API).answered >= 5)
        assert running.traffic.counts.sent >= 5


async def test_without_its_cloud_the_demo_model_answers_and_says_what_it_is(clock: FakeClock) -> None:
    async with asyncio.timeout(60), demo(clock=clock, rng=Random(1), weather=False) as running:
        running.traffic.pause()
        for upstream in (GEMINI_API, COPILOT, OPENCODE):
            running.lab.set_fault(upstream, HttpStatus(500))
        reply = await running.orchestrator.chat(Request.ask("Is anybody there?"))
        assert (reply.pool, reply.account) == (LOCAL, "gguf")
        assert reply.text.startswith(DEMO_MODEL_NOTICE)
        assert len(reply.text) > len(DEMO_MODEL_NOTICE) + 20
        assert reply.degraded
        assert running.lab.counters(GEMINI_API).requests <= 8


@pytest.fixture
def blocked_cache(cache: Path) -> None:
    cache.write_text("in the way")


@pytest.mark.usefixtures("blocked_cache")
async def test_a_cache_that_cannot_be_written_is_no_obstacle(clock: FakeClock) -> None:
    async with asyncio.timeout(30), demo(clock=clock, rng=Random(1), weather=False) as running:
        local = running.orchestrator.spec.pools[-1]
        reply = await running.orchestrator.chat(replace(Request.ask("Hello?"), pin="gguf"))
        assert reply.text.startswith(DEMO_MODEL_NOTICE)
    assert local.model_path is not None
    assert not await asyncio.to_thread(local.model_path.exists)
