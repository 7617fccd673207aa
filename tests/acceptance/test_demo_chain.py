"""The demo's chain, step by step downwards: each step is its true adapter at something real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from smartfallback import AttemptResult, Delta, ErrorCategory, Reply, Request, RequestFinished, TruthLabel
from smartfallback.simulation.demo import COPILOT, GEMINI_API, OPENCODE, Demo, demo
from smartfallback.simulation.faults import BurstLimit, HttpStatus, QuotaWall, StallBeforeFirstToken
from support.clock import FakeClock
from support.copilot_tools import alive, eventually

QUESTION = Request.ask("How do database indexes work?")


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Demo]:
    """The demo without its traffic and weather."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    async with asyncio.timeout(60), demo(clock=FakeClock(), rng=Random(1), weather=False) as begun:
        begun.traffic.pause()
        await begun.lab.idle()
        yield begun


@pytest.fixture
async def started(running: Demo, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[str, ...]]]:
    """Every program that is started from now on: its process id and its arguments."""
    seen: list[tuple[int, tuple[str, ...]]] = []
    loop = asyncio.get_running_loop()
    start = loop.subprocess_exec

    async def noted(factory: Any, *arguments: str, **options: Any) -> Any:
        transport, protocol = await start(factory, *arguments, **options)
        seen.append((transport.get_pid(), arguments))
        return transport, protocol

    monkeypatch.setattr(loop, "subprocess_exec", noted)
    return seen


def down(running: Demo, *upstreams: str) -> None:
    for upstream in upstreams:
        running.lab.set_fault(upstream, HttpStatus(500))


async def streamed(running: Demo) -> tuple[list[str], Reply]:
    """The pieces of an answer as they came, and the whole."""
    pieces: list[str] = []
    async for event in running.orchestrator.stream(QUESTION):
        if isinstance(event, Delta):
            pieces.append(event.text)
        if isinstance(event, RequestFinished):
            return pieces, event.reply
    raise AssertionError("the stream ended without a result")


def tries(reply: Reply) -> list[tuple[str, AttemptResult]]:
    return [(attempt.pool, attempt.result) for attempt in reply.attempts]


async def test_with_gemini_down_a_started_program_answers_as_copilot(
    running: Demo, started: list[tuple[int, tuple[str, ...]]]
):
    down(running, GEMINI_API)
    pieces, reply = await streamed(running)
    assert tries(reply)[-1] == (COPILOT, AttemptResult.SUCCESS)
    assert {pool for pool, _ in tries(reply)[:-1]} == {"antigravity"}
    assert "".join(pieces) == reply.text
    assert len(pieces) > 3, "the program's output came in one piece"
    assert "index" in reply.text.lower()
    ((process, arguments),) = [entry for entry in started if "-p" in entry[1]]
    assert Path(arguments[0]).name == "copilot"
    assert QUESTION.messages[0].content in arguments
    await eventually(lambda: not alive(process))
    assert running.lab.counters(COPILOT, reply.account).answered == 1
    assert running.lab.counters(OPENCODE).requests == 0


async def test_with_copilot_down_too_an_opencode_session_answers(running: Demo):
    down(running, GEMINI_API, COPILOT)
    pieces, reply = await streamed(running)
    assert tries(reply)[-1] == (OPENCODE, AttemptResult.SUCCESS)
    assert [pool for pool, _ in tries(reply)].count(COPILOT) >= 1
    assert "".join(pieces) == reply.text
    assert len(pieces) > 3
    assert running.lab.counters(OPENCODE, "oc-1").answered == 1
    assert not reply.usage.estimated
    async with asyncio.timeout(20):
        await running.lab.until(lambda: running.lab.open_sessions(OPENCODE, "oc-1") == ())


async def test_with_all_upstreams_off_the_network_the_model_file_answers(running: Demo):
    for upstream in (GEMINI_API, COPILOT, OPENCODE):
        await running.lab.take_down(upstream)
    pieces, reply = await streamed(running)
    assert tries(reply)[-1] == ("local", AttemptResult.SUCCESS)
    assert {pool for pool, _ in tries(reply)} == {"antigravity", COPILOT, OPENCODE, "local"}
    failures = {attempt.pool: attempt.failure for attempt in reply.attempts if attempt.failure is not None}
    assert {failure.category for failure in failures.values()} == {ErrorCategory.NETWORK_ERROR}
    assert reply.account == "gguf"
    assert "".join(pieces) == reply.text
    assert reply.degraded


async def test_walls_and_bursts_on_the_way_down_cascade_without_an_error_to_the_caller(running: Demo):
    running.lab.set_fault(GEMINI_API, QuotaWall(86_400.0))
    running.lab.set_fault(COPILOT, BurstLimit(60.0))
    _, reply = await streamed(running)
    assert tries(reply)[-1] == (OPENCODE, AttemptResult.SUCCESS)
    categories = {attempt.pool: attempt.failure.category for attempt in reply.attempts if attempt.failure}
    assert categories == {
        "antigravity": ErrorCategory.QUOTA_EXHAUSTED,
        COPILOT: ErrorCategory.RATE_LIMIT,
    }


async def test_a_chat_that_is_given_up_ends_the_program_that_answered(
    running: Demo, started: list[tuple[int, tuple[str, ...]]]
):
    down(running, GEMINI_API)
    running.lab.set_fault(COPILOT, StallBeforeFirstToken())
    chat = asyncio.create_task(running.orchestrator.chat(QUESTION))
    await running.lab.until(lambda: running.lab.counters(COPILOT).in_flight == 1)
    chat.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chat
    ((process, _),) = [entry for entry in started if "-p" in entry[1]]
    await eventually(lambda: not alive(process))
    await running.lab.until(lambda: running.lab.counters(COPILOT).in_flight == 0)
    for name in ("cp-1", "cp-2"):
        account = running.orchestrator.snapshot().account(name)
        assert account is not None
        assert (account.in_flight, account.failures) == (0, 0)


async def test_the_demo_s_quotas_are_reported_by_its_upstreams_and_copilot_s_by_the_tool(running: Demo):
    def sources() -> dict[str, str]:
        pools = running.orchestrator.snapshot().pools
        return {account.id: account.quota_source for pool in pools for account in pool.accounts}

    await eventually(lambda: all(sources()[name] for name in ("ag-1", "ag-8", "cp-1", "cp-2")))
    assert {sources()[name] for name in ("cp-1", "cp-2")} == {"copilot tool"}
    assert {sources()[f"ag-{n}"] for n in range(1, 9)} == {"quota endpoint"}
    for pool in running.orchestrator.snapshot().pools[:2]:
        for account in pool.accounts:
            bound = account.quota.bound
            assert bound is not None
            assert bound.label is TruthLabel.REPORTED
            assert bound.used == running.lab.used(pool.provider_id, account.id)
    assert running.orchestrator.snapshot().pools[2].accounts[0].quota_source == ""
