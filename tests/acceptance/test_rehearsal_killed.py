"""A process that is killed in the middle of a rehearsal starts as it was before."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import AdminState, CircuitState, Orchestrator, SqliteStateStore
from smartfallback.model.state import SystemState
from support.rehearsing import HELD, SPEC
from support.scripted import ScriptedUpstream, ask

TESTS = Path(__file__).parent.parent
LIMIT_S = 30.0


async def load(path: Path) -> SystemState:
    store = SqliteStateStore(path)
    try:
        return await store.load(HELD, ("main-api",))
    finally:
        await store.aclose()


async def said(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        assert (await process.stdout.readline()).decode().strip() == word


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
async def test_a_process_ended_in_the_middle_starts_as_it_was_before(tmp_path, by):
    path = tmp_path / "state.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.rehearsing",
        str(path),
        stdin=PIPE,
        stdout=PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    try:
        await said(process, "before")
        before = await load(path)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await process.stdin.drain()
        await said(process, "inside")
    finally:
        process.send_signal(by)
        await process.wait()
    after = await load(path)
    for name in ("a-1", "a-2", "a-3"):
        assert after.accounts[name] == before.accounts[name]
    # What was ordered by hand inside is kept, and nothing else of that account is new.
    drained = replace(
        before.accounts["a-4"],
        admin=AdminState.DRAINED,
        admin_reason="by hand, inside",
        admin_at=after.accounts["a-4"].admin_at,
    )
    assert after.accounts["a-4"] == drained
    assert after.accounts["b-1"].requests == 1
    assert after.providers.get("main-api") is None
    store = SqliteStateStore(path)
    async with Orchestrator(SPEC, provider_factory=ScriptedUpstream().provider, store=store) as orchestrator:
        one, two, three, four = (orchestrator.snapshot().account(name) for name in HELD)
        assert (one.attention, one.circuit.state, one.tokens) == ("", CircuitState.CLOSED, 15)
        assert two.cooldown_until == pytest.approx(before.accounts["a-2"].cooldown.until, abs=0.1)
        assert (three.admin, three.admin_reason) == (AdminState.DRAINED, "by hand, before")
        assert three.quota.windows[0].used == 0
        assert (four.admin, four.quota.exhausted_until) == (AdminState.DRAINED, None)
        assert (await orchestrator.chat(ask())).account == "a-1"
