"""The operator's commands: drain, disable, force failover, circuits, strategy."""

from __future__ import annotations

import asyncio

import pytest

from smartfallback import (
    AdminChanged,
    AdminState,
    AttemptDiverted,
    CircuitChanged,
    CircuitScope,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    Disable,
    Drain,
    Enable,
    ErrorCategory,
    ForceFailover,
    OpenCircuit,
    RequestError,
    RequestFinished,
    ResetCircuit,
    Resume,
    SetStrategy,
    SkipReason,
    Strategy,
)
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

A1 = CircuitTarget(CircuitScope.ACCOUNT, "a-1")
MAIN = CircuitTarget(CircuitScope.PROVIDER, "main-api")


async def test_a_drained_account_finishes_its_answer_and_gets_nothing_more(start, upstream):
    pause = Pause()
    upstream.queue("a-1", [Chunk("Hello"), pause, Chunk(" world"), Chunk("", "stop")])
    orchestrator = await start(system(pool("main", "a-1", "a-2")))
    task = asyncio.create_task(orchestrator.chat(ask(pin="a-1")))
    await pause.reached.wait()
    assert orchestrator.execute(Drain("a-1", "maintenance")).ok
    assert orchestrator.snapshot().account("a-1").admin is AdminState.DRAINING
    for _ in range(30):
        assert (await orchestrator.chat(ask())).account == "a-2"
    pause.go_on.set()
    assert (await task).text == "Hello world"
    assert orchestrator.snapshot().account("a-1").admin is AdminState.DRAINED
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask(pin="a-1"))
    assert caught.value.skipped == ("a-1: drained (maintenance)",)


@pytest.mark.parametrize("strategy", list(Strategy))
async def test_a_drained_account_is_never_picked_by_any_strategy(start, upstream, strategy):
    orchestrator = await start(system(pool("main", "a-1", "a-2", strategy=strategy)))
    first = await orchestrator.chat(ask(session="s"))
    orchestrator.execute(Drain(first.account))
    for session in ("s", "other", None):
        assert (await orchestrator.chat(ask(session=session))).account != first.account


async def test_resume_brings_a_drained_account_back(start):
    orchestrator = await start(system(pool("main", "a-1")))
    events = orchestrator.subscribe()
    orchestrator.execute(Drain("a-1"))
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())
    assert orchestrator.execute(Resume("a-1")).ok
    assert (await orchestrator.chat(ask())).account == "a-1"
    changes = [event.new for event in events.drain()[0] if isinstance(event, AdminChanged)]
    assert changes == [AdminState.DRAINED, AdminState.ACTIVE]


async def test_disable_and_enable(start):
    orchestrator = await start(system(pool("main", "a-1", "a-2")))
    orchestrator.execute(Disable("a-1", "broken"))
    assert {(await orchestrator.chat(ask())).account for _ in range(10)} == {"a-2"}
    assert orchestrator.snapshot().account("a-1").skip.reason is SkipReason.DISABLED
    assert orchestrator.execute(Enable("a-1")).ok
    assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"


async def test_enable_clears_what_needed_attention(start, upstream):
    upstream.queue("a-1", [failure(ErrorCategory.AUTHENTICATION, http_status=401)])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    assert (await orchestrator.chat(ask())).account == "b-1"
    assert orchestrator.execute(Enable("a-1")).ok
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_failover_forced_on_an_account_moves_waiting_requests(start, upstream):
    pause = Pause()
    upstream.always("a-1", [pause, *ANSWER])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    events = orchestrator.subscribe()
    task = asyncio.create_task(orchestrator.chat(ask()))
    await pause.reached.wait()
    result = orchestrator.execute(ForceFailover(A1, "it hangs"))
    assert result.ok
    assert "1 waiting" in result.message
    reply = await task
    assert reply.account == "b-1"
    diverted = [event for event in events.drain()[0] if isinstance(event, AttemptDiverted)]
    assert [event.reason for event in diverted] == ["it hangs"]
    account = orchestrator.snapshot().account("a-1")
    assert (account.failures, account.in_flight) == (0, 0)
    assert account.circuit.state is CircuitState.FORCED_OPEN


async def test_a_failover_forced_on_a_provider_lets_flowing_answers_finish(start, upstream):
    flowing, waiting = Pause(), Pause()
    upstream.queue("a-1", [Chunk("Hello"), flowing, Chunk("", "stop")])
    upstream.queue("a-2", [waiting, *ANSWER])
    orchestrator = await start(system(pool("main", "a-1", "a-2"), pool("next", "b-1")))
    first = asyncio.create_task(orchestrator.chat(ask(pin="a-1")))
    await flowing.reached.wait()
    second = asyncio.create_task(orchestrator.chat(ask(avoid=frozenset({"a-1"}))))
    await waiting.reached.wait()
    assert orchestrator.execute(ForceFailover(MAIN, "outage")).ok
    assert (await second).account == "b-1"
    flowing.go_on.set()
    assert (await first).account == "a-1"
    assert (await orchestrator.chat(ask())).account == "b-1"
    orchestrator.execute(ResetCircuit(MAIN))
    assert (await orchestrator.chat(ask())).pool == "main"


async def test_a_forced_open_circuit_ends_at_its_stated_time(start, clock):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    orchestrator.execute(OpenCircuit(A1, "rest", duration_s=30))
    clock.advance(29)
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(2)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_forced_open_circuit_without_an_end_outlasts_time_until_an_operator_closes_it(start, clock):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    events = orchestrator.subscribe()
    orchestrator.execute(OpenCircuit(A1, "rest"))
    clock.advance(100_000)
    assert (await orchestrator.chat(ask())).account == "b-1"
    orchestrator.execute(CloseCircuit(A1, "rested"))
    assert (await orchestrator.chat(ask())).account == "a-1"
    changes = [(e.old, e.new, e.cause) for e in events.drain()[0] if isinstance(e, CircuitChanged)]
    assert changes == [
        (CircuitState.CLOSED, CircuitState.FORCED_OPEN, "rest"),
        (CircuitState.FORCED_OPEN, CircuitState.CLOSED, "rested"),
    ]


async def test_reset_lifts_a_cooldown(start, upstream):
    upstream.queue("a-1", [failure(ErrorCategory.RATE_LIMIT, http_status=429, retry_after_s=7_999.0)])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    assert (await orchestrator.chat(ask())).account == "b-1"
    assert orchestrator.execute(ResetCircuit(A1)).ok
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_the_strategy_changes_live(start):
    orchestrator = await start(system(pool("main", "a-1", "a-2", "a-3")))
    assert orchestrator.execute(SetStrategy("main", Strategy.ROUND_ROBIN)).ok
    answered = [(await orchestrator.chat(ask())).account for _ in range(6)]
    assert sorted(answered[:3]) == ["a-1", "a-2", "a-3"]
    assert answered[:3] == answered[3:]
    assert orchestrator.snapshot().pools[0].strategy is Strategy.ROUND_ROBIN


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (Drain("ag-9"), "there is no account 'ag-9'; the accounts are a-1"),
        (Resume("a-1"), "a-1 is active, not drained"),
        (OpenCircuit(CircuitTarget(CircuitScope.PROVIDER, "x"), "why"), "no circuit of provider x"),
        (SetStrategy("x", Strategy.LRU), "there is no pool 'x'; the pools are main"),
        (OpenCircuit(A1, "why", duration_s=-1), "must be above 0 seconds"),
    ],
)
async def test_a_refusal_says_why_and_changes_nothing(start, command, says):
    orchestrator = await start(system(pool("main", "a-1")))
    events = orchestrator.subscribe()
    result = orchestrator.execute(command)
    assert not result.ok
    assert says in result.message
    assert events.drain() == ((), 0)
    assert isinstance([e async for e in orchestrator.stream(ask())][-1], RequestFinished)
