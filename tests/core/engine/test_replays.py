"""Requests that outlive their process: replayed without a caller, their outcome kept."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from smartfallback import (
    ErrorCategory,
    Orchestrator,
    QueueTerms,
    Reply,
    Request,
    RequestError,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    SqliteStateStore,
    SystemSpec,
)
from smartfallback.model.history import PastRequest
from smartfallback.model.queueing import KeptOutcome, QueueNews, QueueState
from smartfallback.model.sharing import StoreView
from smartfallback.model.state import SystemState
from support.clock import FakeClock
from support.scripted import ANSWER, Pause, ScriptedUpstream, ask, failure, pool, system

WALLED = [failure(ErrorCategory.QUOTA_EXHAUSTED, resets_at=None)]
WAITS = QueueTerms(expires_s=1e6)
LATER_S = 90_000.0
"""Longer than an account without a stated reset stays walled."""


class Process:
    """One after another, on one file, in front of one upstream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.upstream = ScriptedUpstream()
        self.clock = FakeClock()

    @asynccontextmanager
    async def run(self, spec: SystemSpec, *, later: bool = True) -> AsyncIterator[Orchestrator]:
        if later:
            self.clock.advance(LATER_S)
        async with Orchestrator(
            spec,
            clock=self.clock,
            rng=random.Random(1),
            provider_factory=self.upstream.provider,
            store=SqliteStateStore(self.path, clock=self.clock),
        ) as orchestrator:
            yield orchestrator

    async def leave_behind(self, spec: SystemSpec, request: Request) -> str:
        """Queue a request, and end the process; its name."""
        async with self.run(spec) as orchestrator:
            events = orchestrator.stream(request)
            async for event in events:
                if isinstance(event, RequestQueued):
                    break
            await orchestrator.aclose()
            await events.aclose()
            return event.request_id


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path / "state.db")


@pytest.fixture
def spec() -> SystemSpec:
    return system(pool("main", "a-1", "a-2"))


def wall(process: Process, *accounts: str) -> None:
    for account in accounts:
        process.upstream.queue(account, WALLED)


async def eventually(condition: Callable[[], Awaitable[object] | object]) -> object:
    async with asyncio.timeout(20):
        while True:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.01)


async def test_a_replay_says_where_it_comes_from_and_keeps_what_the_request_demanded(process, spec):
    wall(process, "a-2")
    name = await process.leave_behind(spec, ask(pin="a-2", queue=WAITS, temperature=0.25))
    async with process.run(spec) as orchestrator:
        seen = orchestrator.subscribe()
        reply = await eventually(lambda: orchestrator.collect(name))
        events, _ = seen.drain()
    assert isinstance(reply, Reply)
    assert (reply.account, reply.text, reply.request_id) == ("a-2", "Hello world", name)
    assert reply.queued_s == pytest.approx(LATER_S, abs=5.0)
    assert process.upstream.calls[-1].temperature == 0.25
    (replayed,) = [event for event in events if isinstance(event, RequestReplayed)]
    assert replayed.restored
    assert [event for event in events if isinstance(event, RequestFailed)] == []


async def test_one_that_was_answered_before_the_end_is_not_asked_again(process, spec):
    wall(process, "a-1", "a-2")
    async with process.run(spec) as orchestrator:
        events = orchestrator.stream(ask(queue=WAITS))
        async for event in events:
            if isinstance(event, RequestQueued):
                await asyncio.to_thread(wait_for_file, process.path)
                process.clock.advance(LATER_S)
            if isinstance(event, RequestFinished):
                break
        calls = len(process.upstream.calls)
    async with process.run(spec) as orchestrator:
        assert await orchestrator.collect(event.request_id) is None
        assert orchestrator.snapshot().queue.requests == ()
    assert len(process.upstream.calls) == calls


def wait_for_file(path: Path) -> None:
    """Until what waits was written, so that it is the deletion that is put to the test."""
    for _ in range(1_000):
        connection = sqlite3.connect(path)
        written = connection.execute("SELECT count(*) FROM queue").fetchone()[0]
        connection.close()
        if written:
            return
        time.sleep(0.01)
    raise AssertionError("nothing was written")


async def test_a_replay_cut_off_by_the_end_is_done_again_by_the_next_process(process, spec):
    wall(process, "a-1", "a-2")
    name = await process.leave_behind(spec, ask(queue=WAITS))
    pause = Pause()
    for account in ("a-1", "a-2"):
        process.upstream.always(account, [pause, *ANSWER])
    async with process.run(spec) as orchestrator:
        async with asyncio.timeout(20):
            await pause.reached.wait()
    for account in ("a-1", "a-2"):
        process.upstream.always(account, ANSWER)
    async with process.run(spec) as orchestrator:
        reply = await eventually(lambda: orchestrator.collect(name))
    assert isinstance(reply, Reply)


async def test_what_can_no_longer_be_asked_is_collected_as_an_error_that_says_why(process, spec):
    wall(process, "a-2")
    name = await process.leave_behind(spec, ask(pin="a-2", queue=WAITS))
    async with process.run(system(pool("main", "a-1"))) as orchestrator:
        error = await eventually(lambda: orchestrator.collect(name))
    assert isinstance(error, RequestError)
    assert error.failure.category is ErrorCategory.INVALID_REQUEST
    assert "a-2" in error.failure.message
    assert error.request_id == name


async def test_a_name_that_waits_is_refused_to_others_and_the_engines_own_names_differ_over_restarts(
    process, spec
):
    names = set()
    for _ in range(2):
        wall(process, "a-1", "a-2")
        names.add(await process.leave_behind(spec, ask(queue=WAITS)))
    assert len(names) == 2
    process.path.unlink()
    wall(process, "a-1", "a-2")
    assert await process.leave_behind(spec, ask(id="mine", queue=WAITS)) == "mine"
    process.upstream.missing = "not here"
    async with process.run(spec) as orchestrator:
        await eventually(lambda: orchestrator.snapshot().queue.requests)
        with pytest.raises(RequestError, match="'mine' waits in the queue already"):
            await orchestrator.chat(ask(id="mine"))


async def test_a_request_whose_text_is_not_to_be_kept_ends_with_its_process(process, spec):
    wall(process, "a-1", "a-2")
    await process.leave_behind(spec, ask(queue=WAITS, keep_text=False))
    calls = len(process.upstream.calls)
    async with process.run(spec) as orchestrator:
        await orchestrator.chat(ask())
        assert orchestrator.snapshot().queue.requests == ()
    assert len(process.upstream.calls) == calls + 1


async def test_without_a_store_there_is_nothing_to_collect(spec):
    async with Orchestrator(spec, provider_factory=ScriptedUpstream().provider) as orchestrator:
        assert await orchestrator.collect("r1") is None


class SlowStore:
    """A storage that hands out an outcome only when it is let."""

    def __init__(self, kept: KeptOutcome) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.kept: list[KeptOutcome] = [kept]

    async def load(self, accounts: object, providers: object) -> SystemState:
        return SystemState()

    async def save(self, changes: SystemState) -> None:
        pass

    def view(self) -> StoreView:
        return StoreView()

    async def exchange_queue(self, state: QueueState, room: int) -> QueueNews:
        self.kept += state.outcomes
        return QueueNews(uncollected=len(self.kept))

    async def collect_outcome(self, request_id: str) -> KeptOutcome | None:
        self.asked.set()
        await self.go_on.wait()
        return self.kept.pop() if self.kept else None

    async def keep_history(self, ended: object) -> bool:
        return True

    async def history(self, limit: int, since: float | None = None) -> tuple[PastRequest, ...]:
        return ()

    def take_notices(self) -> tuple[str, ...]:
        return ()

    async def aclose(self) -> None:
        pass


async def test_an_outcome_whose_collector_goes_away_waits_for_the_next(spec):
    error = RequestError("r1", failure(ErrorCategory.TIMEOUT))
    store = SlowStore(KeptOutcome("t", "r1", 0.0, error))
    upstream = ScriptedUpstream()
    async with Orchestrator(spec, provider_factory=upstream.provider, store=store) as orchestrator:
        gone = asyncio.create_task(orchestrator.collect("r1"))
        await store.asked.wait()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        store.go_on.set()
        assert await eventually(lambda: orchestrator.collect("r1")) is error
        assert await orchestrator.collect("r1") is None
