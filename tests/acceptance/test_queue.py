"""Requests that nobody can serve now wait, over real HTTP: until capacity returns, and over a restart."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from smartfallback import (
    AccountSpec,
    Delta,
    ErrorCategory,
    Event,
    Orchestrator,
    QueueTerms,
    Reply,
    Request,
    RequestError,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    Secret,
    SqliteStateStore,
    SystemSpec,
)
from smartfallback.model.specs import ChainSpec, RecoverySpec
from support.clock import FakeClock
from support.http_servers import KEY, Upstream, always, http_server, pool_at, sse_bytes, streams

REST_S = 300.0
QUESTION = replace(Request.ask("Why is the sky blue?"), queue=QueueTerms(expires_s=3_600.0))
ANSWER = streams(
    [
        sse_bytes(
            {"choices": [{"delta": {"content": "Rayleigh"}}]},
            {"choices": [{"delta": {"content": " scattering"}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
            "[DONE]",
        )
    ]
)
TOO_MANY = always(
    429,
    {"error": {"message": "slow down", "code": "rate_limit_exceeded"}},
    {"retry-after": str(int(REST_S))},
)


class Weather:
    """An upstream with two accounts, both of which rest until the test lets them answer."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.walled = True
        self.server = Upstream()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await (TOO_MANY if self.walled else ANSWER)(request)

    def clears(self) -> None:
        """The rest that the upstream has stated is over."""
        self.walled = False
        self.clock.advance(REST_S + 1.0)

    def system(self, limit: int = 10, **chain: object) -> SystemSpec:
        pool = pool_at(self.server.url)
        accounts = tuple(AccountSpec(name, Secret(KEY)) for name in ("acc-1", "acc-2"))
        return SystemSpec(
            (replace(pool, accounts=accounts),),
            (ChainSpec("default", ("pool",), **chain),),  # type: ignore[arg-type]
            recovery=RecoverySpec(queue_limit=limit),
        )

    def orchestrator(self, path: Path | None = None, **settings: object) -> Orchestrator:
        store = None if path is None else SqliteStateStore(path, clock=self.clock)
        return Orchestrator(
            self.system(**settings),  # type: ignore[arg-type]
            clock=self.clock,
            rng=random.Random(5),
            store=store,
        )


@pytest.fixture
async def weather() -> AsyncIterator[Weather]:
    scene = Weather()
    async with http_server(scene.handle) as server:
        scene.server = server
        yield scene


class Caller:
    """Reads one request's events as they come."""

    def __init__(self, orchestrator: Orchestrator, request: Request) -> None:
        self.events: list[Event] = []
        self.error: RequestError | None = None
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._read(orchestrator, request))

    async def _read(self, orchestrator: Orchestrator, request: Request) -> None:
        try:
            async for event in orchestrator.stream(request):
                self.events.append(event)
                self._changed.set()
        except RequestError as error:
            self.error = error

    async def sees(self, kind: type[Event]) -> Event:
        async with asyncio.timeout(20):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                assert not self.task.done(), self.error
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def calling(orchestrator: Orchestrator, request: Request = QUESTION) -> AsyncIterator[Caller]:
    caller = Caller(orchestrator, request)
    try:
        yield caller
    finally:
        caller.task.cancel()
        await asyncio.gather(caller.task, return_exceptions=True)


async def eventually(condition: Callable[[], Awaitable[object] | object]) -> object:
    """The condition's first value that is true."""
    async with asyncio.timeout(20):
        while True:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)


async def test_a_queued_request_is_answered_in_the_same_stream_when_capacity_returns(weather):
    async with weather.orchestrator() as orchestrator, calling(orchestrator) as caller:
        queued = await caller.sees(RequestQueued)
        assert queued.place == 1
        assert queued.expires_at == weather.clock.time() + 3_600.0
        assert queued.failure.category is ErrorCategory.RATE_LIMIT
        (view,) = orchestrator.snapshot().queue.requests
        assert (view.request_id, view.restored) == (queued.request_id, False)
        asked = len(weather.server.seen)
        weather.clears()
        finished = await caller.sees(RequestFinished)
        replayed = await caller.sees(RequestReplayed)
        await caller.task
        assert orchestrator.snapshot().queue.requests == ()
    assert replayed.waited_s == pytest.approx(REST_S + 1.0, abs=5.0)
    assert finished.reply.text == "Rayleigh scattering"
    assert finished.reply.queued_s == replayed.waited_s
    assert "".join(event.text for event in caller.events if isinstance(event, Delta)) == finished.reply.text
    assert len(weather.server.seen) == asked + 1


async def test_nobody_is_asked_while_all_rest(weather):
    async with weather.orchestrator() as orchestrator, calling(orchestrator) as caller:
        await caller.sees(RequestQueued)
        asked = len(weather.server.seen)
        for _ in range(20):
            weather.clock.advance(10.0)
            orchestrator._maintenance.check(weather.clock.monotonic())
            await asyncio.sleep(0)
        assert len(weather.server.seen) == asked


async def test_a_chain_that_queues_lets_every_request_wait(weather):
    plain = Request.ask("hello")
    async with weather.orchestrator(queue_s=900.0) as orchestrator, calling(orchestrator, plain) as caller:
        queued = await caller.sees(RequestQueued)
        assert queued.expires_at == weather.clock.time() + 900.0


async def test_without_leave_to_wait_a_request_fails_at_once(weather):
    async with weather.orchestrator() as orchestrator:
        with pytest.raises(RequestError) as failed:
            await orchestrator.chat(Request.ask("hello"))
    assert failed.value.failure.category is ErrorCategory.RATE_LIMIT


async def test_who_waits_too_long_fails_for_the_original_reason(weather):
    request = replace(QUESTION, queue=QueueTerms(expires_s=100.0))
    async with weather.orchestrator() as orchestrator, calling(orchestrator, request) as caller:
        await caller.sees(RequestQueued)
        weather.clock.advance(100.0)
        async with asyncio.timeout(20):
            await caller.task
        assert caller.error is not None
        assert caller.error.failure.category is ErrorCategory.RATE_LIMIT
        assert len(caller.error.attempts) == 2
        assert orchestrator.snapshot().queue.requests == ()


async def test_a_full_queue_refuses_with_the_reason_and_what_it_means(weather):
    async with weather.orchestrator(limit=1) as orchestrator, calling(orchestrator) as caller:
        await caller.sees(RequestQueued)
        with pytest.raises(RequestError) as refused:
            await orchestrator.chat(QUESTION)
        assert refused.value.failure.category is ErrorCategory.RATE_LIMIT
        assert "queue" in refused.value.failure.hint
        assert "full" in refused.value.failure.hint


async def test_a_caller_that_goes_away_takes_its_request_along(weather, tmp_path):
    path = tmp_path / "state.db"
    async with weather.orchestrator(path) as orchestrator:
        async with calling(orchestrator) as caller:
            await caller.sees(RequestQueued)
        assert orchestrator.snapshot().queue.requests == ()
    weather.clears()
    asked = len(weather.server.seen)
    async with weather.orchestrator(path) as orchestrator:
        await asyncio.sleep(0.1)
        assert orchestrator.snapshot().queue.requests == ()
    assert len(weather.server.seen) == asked


async def test_after_a_restart_it_is_answered_without_its_caller_and_the_answer_collected_once(
    weather, tmp_path
):
    path = tmp_path / "state.db"
    async with weather.orchestrator(path) as orchestrator, contextlib.AsyncExitStack() as callers:
        caller = await callers.enter_async_context(calling(orchestrator))
        queued = await caller.sees(RequestQueued)
        await orchestrator.aclose()
        async with asyncio.timeout(5):
            await caller.task
        assert caller.error is not None
    async with weather.orchestrator(path) as orchestrator:
        (view,) = await eventually(lambda: orchestrator.snapshot().queue.requests)
        assert (view.request_id, view.restored) == (queued.request_id, True)
        assert view.expires_at == pytest.approx(queued.expires_at, abs=0.1)
        assert await orchestrator.collect(queued.request_id) is None
        weather.clears()
        await eventually(lambda: orchestrator.snapshot().queue.uncollected)
        assert orchestrator.snapshot().queue.requests == ()
    # The answer outlives a restart too, and a new request of the same number is another one.
    async with weather.orchestrator(path) as orchestrator:
        await orchestrator.chat(Request.ask("something else"))
        reply = await eventually(lambda: orchestrator.collect(queued.request_id))
        assert isinstance(reply, Reply)
        assert reply.text == "Rayleigh scattering"
        assert reply.request_id == queued.request_id
        assert await orchestrator.collect(queued.request_id) is None
        await eventually(lambda: not orchestrator.snapshot().queue.uncollected)


async def test_what_expired_while_nothing_ran_is_collected_as_its_failure(weather, tmp_path):
    path = tmp_path / "state.db"
    async with weather.orchestrator(path) as orchestrator, calling(orchestrator) as caller:
        queued = await caller.sees(RequestQueued)
        await orchestrator.aclose()
    weather.clock.advance(4_000.0)
    async with weather.orchestrator(path) as orchestrator:
        error = await eventually(lambda: orchestrator.collect(queued.request_id))
        assert isinstance(error, RequestError)
        assert error.failure.category is ErrorCategory.RATE_LIMIT


async def test_forty_that_wait_are_all_answered_once_and_in_their_order_without_a_stampede(weather):
    async with weather.orchestrator(limit=40) as orchestrator, contextlib.AsyncExitStack() as callers:
        waiting: list[Caller] = []
        for number in range(40):
            request = replace(Request.ask(f"question {number}"), queue=QUESTION.queue)
            waiting.append(await callers.enter_async_context(calling(orchestrator, request)))
            await waiting[-1].sees(RequestQueued)
        asked = len(weather.server.seen)
        weather.clears()
        for caller in waiting:
            assert (await caller.sees(RequestFinished)).reply.text == "Rayleigh scattering"
    prompts = [seen.body["messages"][-1]["content"] for seen in weather.server.seen[asked:]]
    assert sorted(prompts) == sorted(f"question {number}" for number in range(40))
    assert set(prompts[:2]) == {"question 0", "question 1"}


async def test_twenty_that_wait_for_an_upstream_that_stays_down_ask_it_ever_more_rarely(weather):
    request = replace(QUESTION, queue=QueueTerms(expires_s=1e6))
    async with weather.orchestrator(limit=40) as orchestrator, contextlib.AsyncExitStack() as callers:
        for _ in range(20):
            caller = await callers.enter_async_context(calling(orchestrator, request))
            await caller.sees(RequestQueued)
        asked = len(weather.server.seen)
        for _ in range(40):  # over three hours
            weather.clock.advance(REST_S + 1.0)
            orchestrator._maintenance.check(weather.clock.monotonic())
            for _ in range(3):
                await asyncio.sleep(0)
            await eventually(lambda: len(orchestrator.snapshot().queue.requests) == 20)
        assert 4 <= len(weather.server.seen) - asked <= 40
