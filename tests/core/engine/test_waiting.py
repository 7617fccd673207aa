"""Callers who wait for a busy account, what counts as an alternative, and closing in the middle of it."""

from __future__ import annotations

import asyncio

import pytest

from smartfallback import (
    AccountSpec,
    AttemptFailed,
    ChainSpec,
    CircuitState,
    Disable,
    Drain,
    Enable,
    ErrorCategory,
    QuotaUnit,
    RequestCancelled,
    RequestError,
    SystemSpec,
    Timeouts,
    WindowKind,
    WindowSpec,
)
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

WEEKLY_TOKENS = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000_000, "sun 00:00 UTC")
SERVER_ERROR = failure(ErrorCategory.API_FAILURE, http_status=500)


def single(name: str) -> AccountSpec:
    return AccountSpec(name, max_concurrency=1)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_caller_of_another_chain_is_not_held_up_by_those_who_wait(start, upstream):
    busy = Pause()
    upstream.always("a-1", [busy, *ANSWER])
    pools = pool("a", single("a-1")), pool("b", single("b-1"))
    chains = ChainSpec("default", ("a",)), ChainSpec("other", ("b",))
    orchestrator = await start(SystemSpec(pools=pools, chains=chains))
    waiting = [asyncio.create_task(orchestrator.chat(ask(timeout_s=5))) for _ in range(4)]
    await busy.reached.wait()
    async with asyncio.timeout(2):
        assert (await orchestrator.chat(ask(chain="other"))).account == "b-1"
    busy.go_on.set()
    await asyncio.gather(*waiting)


async def test_first_come_first_served(start, upstream):
    busy = Pause()
    upstream.queue("a-1", [busy, *ANSWER])
    orchestrator = await start(system(pool("main", single("a-1"))))
    served: list[int] = []

    async def caller(number: int) -> None:
        await orchestrator.chat(ask(timeout_s=5))
        served.append(number)

    first = asyncio.create_task(caller(0))
    await busy.reached.wait()
    line = [asyncio.create_task(caller(number)) for number in range(1, 5)]
    await turns()
    busy.go_on.set()
    newcomer = asyncio.create_task(caller(5))
    await asyncio.gather(first, *line, newcomer)
    assert served == [0, 1, 2, 3, 4, 5]


async def test_many_places_at_once_serve_many_callers(start, upstream):
    pauses = [Pause() for _ in range(5)]
    upstream.queue("a-1", *([pause, *ANSWER] for pause in pauses))
    orchestrator = await start(
        system(pool("main", AccountSpec("a-1", max_concurrency=10)), pool("b", single("b-1")))
    )
    busy = Pause()
    upstream.queue("b-1", [busy, *ANSWER])
    orchestrator.execute(Disable("a-1"))
    tasks = [asyncio.create_task(orchestrator.chat(ask(timeout_s=5))) for _ in range(6)]
    await busy.reached.wait()
    await turns()
    orchestrator.execute(Enable("a-1"))
    async with asyncio.timeout(2):
        for pause in pauses:
            await pause.reached.wait()
    for pause in (*pauses, busy):
        pause.go_on.set()
    replies = await asyncio.gather(*tasks)
    assert sorted(reply.account for reply in replies) == ["a-1"] * 5 + ["b-1"]


async def test_a_pinned_request_does_not_wait_for_an_account_that_can_not_come_free(start, upstream):
    busy = Pause()
    upstream.queue("a-1", [busy, *ANSWER])
    orchestrator = await start(system(pool("main", single("a-1"), single("a-2"))))
    orchestrator.execute(Drain("a-2"))
    task = asyncio.create_task(orchestrator.chat(ask()))
    await busy.reached.wait()
    async with asyncio.timeout(1):
        with pytest.raises(RequestError):
            await orchestrator.chat(ask(pin="a-2", timeout_s=30))
    busy.go_on.set()
    await task


async def test_a_busy_alternative_is_waited_for(start, upstream):
    busy = Pause()
    upstream.queue("b-1", [busy, *ANSWER])
    upstream.always("a-1", [failure(ErrorCategory.AUTHENTICATION, http_status=401)])
    orchestrator = await start(system(pool("main", single("a-1")), pool("next", single("b-1"))))
    first = asyncio.create_task(orchestrator.chat(ask(pin="b-1")))
    await busy.reached.wait()
    second = asyncio.create_task(orchestrator.chat(ask(timeout_s=5)))
    await turns()
    assert not second.done()
    busy.go_on.set()
    assert (await second).account == "b-1"
    await first


async def test_an_account_without_room_is_no_alternative(start, upstream):
    small = AccountSpec("b-1", quota=(WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 500),))
    slow = Pause()
    upstream.queue("a-1", [slow, *ANSWER])
    orchestrator = await start(
        system(pool("main", "a-1", timeouts=Timeouts(first_token_s=0.01)), pool("next", small))
    )
    task = asyncio.create_task(orchestrator.chat(ask()))
    await slow.reached.wait()
    await asyncio.sleep(0.05)
    slow.go_on.set()
    reply = await task
    assert [record.account for record in reply.attempts] == ["a-1"]


async def test_on_the_last_candidate_a_server_error_uses_its_retries(start, upstream):
    small = AccountSpec("b-1", quota=(WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 500),))
    upstream.queue("a-1", [SERVER_ERROR], [SERVER_ERROR])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", small)))
    reply = await orchestrator.chat(ask())
    assert [record.account for record in reply.attempts] == ["a-1", "a-1", "a-1"]


async def test_two_pools_of_one_provider_are_no_alternative_to_each_other(start, upstream):
    upstream.queue("a-1", [SERVER_ERROR])
    upstream.queue("b-1", [SERVER_ERROR])
    pools = pool("main", "a-1", provider_id="api"), pool("next", "b-1", provider_id="api")
    orchestrator = await start(system(*pools))
    assert (await orchestrator.chat(ask())).text == "Hello world"


async def test_a_caller_in_a_hurry_opens_no_circuit(start, upstream):
    upstream.always("a-1", [Pause()])
    orchestrator = await start(system(pool("main", "a-1")))
    for _ in range(6):
        with pytest.raises(RequestError):
            await orchestrator.chat(ask(timeout_s=0.01))
    snapshot = orchestrator.snapshot()
    assert snapshot.pools[0].provider_circuit.state is CircuitState.CLOSED
    assert snapshot.account("a-1").circuit.state is CircuitState.CLOSED
    upstream.always("a-1", ANSWER)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_closing_ends_what_runs_and_blames_nobody(start, upstream):
    pauses = [Pause() for _ in range(8)]
    upstream.queue("a-1", *([Chunk("Hel"), pause, *ANSWER] for pause in pauses))
    account = AccountSpec("a-1", max_concurrency=8)
    orchestrator = await start(system(pool("main", account)))
    events = orchestrator.subscribe()
    tasks = [asyncio.create_task(orchestrator.chat(ask())) for _ in range(8)]
    for pause in pauses:
        await pause.reached.wait()
    waiting = asyncio.create_task(orchestrator.chat(ask()))
    await turns()
    await orchestrator.aclose()
    ended = await asyncio.gather(*tasks, waiting, return_exceptions=True)
    assert all(isinstance(error, RequestError) for error in ended)
    assert all("closed" in str(error) for error in ended)
    assert {error.partial for error in ended[:-1]} == {"Hel"}
    view = orchestrator.snapshot().account("a-1")
    assert (view.in_flight, view.failures, view.circuit.failures) == (0, 0, 0)
    assert len(upstream.calls) == 8
    assert not [e for e in events.drain()[0] if isinstance(e, AttemptFailed | RequestCancelled)]


async def test_closing_during_a_retry_wait_starts_nothing_more(start, upstream):
    overloaded = failure(ErrorCategory.TRANSIENT_ERROR, http_status=503, retry_after_s=0.3)
    upstream.always("a-1", [overloaded])
    orchestrator = await start(system(pool("main", "a-1")))
    task = asyncio.create_task(orchestrator.chat(ask()))
    await turns(60)
    assert upstream.closed == ["a-1"]
    await orchestrator.aclose()
    with pytest.raises(RequestError, match="closed"):
        await task
    view = orchestrator.snapshot().account("a-1")
    assert (len(upstream.calls), view.failures, view.in_flight) == (1, 1, 0)


async def test_closing_takes_back_a_place_that_was_just_handed_over(start, upstream):
    busy = Pause()
    upstream.queue("a-1", [busy, *ANSWER])
    account = AccountSpec("a-1", max_concurrency=1, quota=(WEEKLY_TOKENS,))
    orchestrator = await start(system(pool("main", account)))
    first = asyncio.create_task(orchestrator.chat(ask()))
    await busy.reached.wait()
    second = asyncio.create_task(orchestrator.chat(ask(timeout_s=5)))
    await turns()
    busy.go_on.set()
    await first
    await orchestrator.aclose()
    ended = await asyncio.gather(second, return_exceptions=True)
    view = orchestrator.snapshot().account("a-1")
    assert (view.in_flight, view.quota.windows[0].held) == (0, 0)
    if isinstance(ended[0], RequestError):
        assert "closed" in str(ended[0])
        assert len(upstream.calls) == 1
    else:
        assert ended[0].account == "a-1"


async def test_alarms_do_not_pile_up_above_the_soft_limit(start, clock):
    account = AccountSpec("a-1", quota=(WEEKLY_TOKENS,))
    orchestrator = await start(system(pool("main", account)))
    orchestrator.preload_usage({"a-1": 85_000_000})
    before = len(orchestrator._placement._alarms)
    for _ in range(200):
        await orchestrator.chat(ask())
        clock.advance(1)
    assert orchestrator.snapshot().account("a-1").skip is not None
    assert len(orchestrator._placement._alarms) - before <= 2


async def test_a_hold_outlives_a_step_of_the_wall_clock(start, upstream, clock):
    pauses = [Pause() for _ in range(10)]
    upstream.queue("a-1", *([pause, *ANSWER] for pause in pauses))
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.REQUESTS, 10.5, "sun 00:00 UTC"),)
    account = AccountSpec("a-1", quota=quota, max_concurrency=100)
    orchestrator = await start(system(pool("main", account)))
    tasks = [asyncio.create_task(orchestrator.chat(ask())) for _ in range(9)]
    for pause in pauses[:9]:
        await pause.reached.wait()
    clock.step_wall_clock(3600)
    late = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(error, RequestError) for error in late)
    for pause in pauses:
        pause.go_on.set()
    await asyncio.gather(*tasks)
    assert orchestrator.snapshot().account("a-1").quota.windows[0].used == 9


async def test_a_limit_that_names_the_model_by_another_name_rests_what_was_asked_for(start, upstream, clock):
    limited = failure(ErrorCategory.RATE_LIMIT, http_status=429, model="flash-001", retry_after_s=60.0)
    upstream.always("a-1", [limited])
    orchestrator = await start(system(pool("main", "a-1", model="flash-latest"), pool("next", "b-1")))
    for _ in range(6):
        assert (await orchestrator.chat(ask())).account == "b-1"
    assert upstream.accounts_called().count("a-1") == 1


async def test_a_rested_model_says_when_it_is_back(start, upstream, clock):
    limited = failure(ErrorCategory.RATE_LIMIT, http_status=429, model="main-model", retry_after_s=60.0)
    upstream.always("a-1", [limited])
    orchestrator = await start(system(pool("main", "a-1")))
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert caught.value.next_available_at == pytest.approx(clock.time() + 60, abs=1)


async def test_a_stated_wait_of_an_overloaded_server_is_a_floor(start, upstream, clock):
    overloaded = failure(ErrorCategory.TRANSIENT_ERROR, http_status=503, retry_after_s=60.0)
    upstream.queue("a-1", [overloaded])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    for _ in range(5):
        assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(61)
    assert (await orchestrator.chat(ask())).account == "a-1"
