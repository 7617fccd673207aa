"""Drills for providers that run a program: its words, its pace, and whether it is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from smartfallback.clock import SystemClock
from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.base import Provider
from smartfallback.quota_sources.base import QuotaSourceError
from smartfallback.simulation.demo_model import write_demo_model
from smartfallback.simulation.drills.drill import Drill, DrillScope
from smartfallback.simulation.drills.injector import Injector
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    ConnectTimeout,
    CutStream,
    DnsFailure,
    EmptyAnswer,
    Fault,
    Garbage,
    HttpStatus,
    KeyRevoked,
    Latency,
    OverloadInStream,
    QuotaWall,
    Refused,
    ResetConnection,
    SafetyBlock,
    SlowFirstToken,
    StallMidStream,
    TlsFailure,
    ToolMissing,
)
from support.clock import FakeClock
from support.copilot_tools import copilot_pool, write_tool
from support.drills import at, system
from support.http_servers import Outcome, always, call_to, collect, http_server

C = ErrorCategory
WORDS = "one two three four five six seven eight nine ten"
TOOL = "\n".join(f"say({word + ' '!r}); time.sleep(0.01)" for word in WORDS.split())
RAN = 'open(os.path.join(os.path.dirname(sys.argv[0]), "ran"), "a").write("x")\n'


class Program:
    """An adapter of a tool, and the injector behind it."""

    def __init__(self, pool: PoolSpec) -> None:
        self.pool = pool
        self.injector = Injector(system(pool), SystemClock(), Random(1))
        self.provider: Provider = self.injector.provider_factory()(pool, SystemClock())

    def drill(self, fault: Fault, most_calls: int | None = None) -> None:
        self.injector.start(Drill(at(self.pool.name, DrillScope.POOL), fault, most_calls=most_calls))

    async def ask(self, *, stream: bool = True) -> Outcome:
        return await collect(self.provider.stream(call_to(self.pool, stream=stream)))


@pytest.fixture
async def tool(tmp_path: Path) -> AsyncIterator[Program]:
    program = Program(copilot_pool(write_tool(tmp_path, RAN + TOOL)))
    yield program
    await program.provider.aclose()


@pytest.mark.parametrize(
    ("fault", "category"),
    [
        (HttpStatus(500, "broken"), C.API_FAILURE),
        (HttpStatus(503), C.TRANSIENT_ERROR),
        (KeyRevoked(), C.AUTHENTICATION),
        (Banned(), C.AUTHENTICATION),
        (BurstLimit(4.0), C.RATE_LIMIT),
        (QuotaWall(7_200.0), C.QUOTA_EXHAUSTED),
        (QuotaWall(), C.QUOTA_EXHAUSTED),
        (SafetyBlock(), C.CONTENT_FILTERED),
        (OverloadInStream(), C.TRANSIENT_ERROR),
        (Refused(), C.NETWORK_ERROR),
        (DnsFailure(), C.NETWORK_ERROR),
        (TlsFailure(), C.NETWORK_ERROR),
        (ResetConnection(), C.NETWORK_ERROR),
        (EmptyAnswer(), C.MALFORMED_RESPONSE),
        (Garbage(), C.MALFORMED_RESPONSE),
        (CutStream(0), C.MALFORMED_RESPONSE),
    ],
    ids=repr,
)
async def test_a_tool_fails_by_the_words_of_the_tool(
    tool: Program, fault: Fault, category: ErrorCategory, tmp_path: Path
) -> None:
    tool.drill(fault, most_calls=1)
    assert (await tool.ask()).failed.category is category
    assert not (tmp_path / "ran").exists()
    answer = await tool.ask()
    assert (answer.failure, answer.text.split()) == (None, WORDS.split())
    assert tool.injector.active() == ()


async def test_a_tool_that_finds_no_connection_takes_its_time() -> None:
    pool = copilot_pool("/bin/true")
    program = Program(pool)
    program.drill(ConnectTimeout())
    asking = asyncio.create_task(program.ask())
    while not program.injector._running[0]._lift:  # noqa: ASYNC110 - what stands still sets no event
        await asyncio.sleep(0)
    program.injector.stop_all()
    assert (await asking).failed.category is C.MALFORMED_RESPONSE
    await program.provider.aclose()


@pytest.mark.parametrize(
    ("fault", "category"),
    [
        (CutStream(4), C.MALFORMED_RESPONSE),
        (Garbage(after_tokens=4), C.MALFORMED_RESPONSE),
        (OverloadInStream(4), C.TRANSIENT_ERROR),
    ],
    ids=repr,
)
async def test_a_tools_answer_is_spoiled_after_some_tokens(
    tool: Program, fault: Fault, category: ErrorCategory
) -> None:
    tool.drill(fault)
    met = await tool.ask()
    assert met.failed.category is category
    assert met.text.split()[:4] == WORDS.split()[:4]
    assert len(met.text.split()) < 10


@pytest.mark.parametrize("fault", [StallMidStream(3), SlowFirstToken(500), Latency(500)], ids=repr)
async def test_a_tool_that_stands_still_goes_on_when_the_drill_ends(tool: Program, fault: Fault) -> None:
    tool.drill(fault)
    asking = asyncio.create_task(tool.ask())
    async with asyncio.timeout(20):
        while not tool.injector._running[0]._lift:  # noqa: ASYNC110 - the tool is another process
            await asyncio.sleep(0.005)
        assert not asking.done()
        tool.injector.stop_all()
        assert (await asking).text.split() == WORDS.split()


async def test_a_missing_tool_is_not_found_by_calls_and_quota_reads(tool: Program) -> None:
    watch = tool.injector.source_factory()(tool.pool, FakeClock())["cp-1"]
    tool.drill(ToolMissing())
    assert "not there" in tool.provider.unavailable()
    assert (await tool.ask()).failed.category is C.API_FAILURE
    with pytest.raises(QuotaSourceError, match="is not installed"):
        await watch.source.inner._from_tool(tool.pool.accounts[0], 0.0)  # type: ignore[attr-defined]
    await watch.source.aclose()
    tool.injector.stop_all()
    assert tool.provider.unavailable() == ""
    assert (await tool.ask()).failure is None


async def test_without_the_tool_its_api_answers_and_meets_drills_as_http(tmp_path: Path) -> None:
    answer = {"choices": [{"message": {"content": "from the API"}, "finish_reason": "stop"}]}
    async with http_server(always(200, answer)) as upstream:
        program = Program(copilot_pool(write_tool(tmp_path, RAN + TOOL), base_url=f"{upstream.url}/v1"))
        program.drill(ToolMissing())
        assert program.provider.unavailable() == ""
        assert (await program.ask(stream=False)).text == "from the API"
        program.drill(QuotaWall(), most_calls=1)
        assert (await program.ask(stream=False)).failed.category is C.QUOTA_EXHAUSTED
        assert len(upstream.seen) == 1
        program.injector.stop_all()
        assert (await program.ask()).text.split() == WORDS.split()
        assert len(upstream.seen) == 1
        await program.provider.aclose()


async def test_a_local_model_is_missing_slow_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "demo.gguf"
    write_demo_model(path)
    program = Program(
        PoolSpec("local", ProviderKind.LOCAL, "local", (AccountSpec("gguf"),), "demo", model_path=path)
    )
    try:
        whole = await program.ask()
        assert whole.failure is None
        program.drill(ToolMissing())
        assert "drill" in program.provider.unavailable()
        assert (await program.ask()).failed.category is C.API_FAILURE
        program.injector.stop_all()
        assert program.provider.unavailable() == ""
        for fault, category in (
            (CutStream(2), C.TRANSIENT_ERROR),
            (Garbage(after_tokens=2), C.MALFORMED_RESPONSE),
            (EmptyAnswer(), C.MALFORMED_RESPONSE),
        ):
            program.drill(fault, most_calls=1)
            assert (await program.ask()).failed.category is category
        program.drill(SlowFirstToken(0.01), most_calls=1)
        again = await program.ask()
        assert (again.failure, again.finish) == (None, whole.finish)
        assert program.injector.active() == ()
    finally:
        await program.provider.aclose()
