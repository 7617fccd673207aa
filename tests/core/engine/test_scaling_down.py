"""Adaptive concurrency through the public face: overload lowers what runs at once, and it climbs back."""

from __future__ import annotations

import asyncio

from smartfallback import (
    AccountSpec,
    CircuitScope,
    CircuitTarget,
    ConcurrencyChanged,
    ErrorCategory,
    Orchestrator,
    ResetCircuit,
    SkipReason,
    TimeoutPhase,
)
from smartfallback.policy.concurrency import MEMORY_S, STEP_S
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

BURST = failure(ErrorCategory.RATE_LIMIT, http_status=429, retry_after_s=5.0)
STALLED = failure(ErrorCategory.TIMEOUT, phase=TimeoutPhase.FIRST_TOKEN)


def changes(events) -> list[ConcurrencyChanged]:
    return [event for event in events.drain()[0] if isinstance(event, ConcurrencyChanged)]


def main(most: int = 8, **settings):
    return pool("main", AccountSpec("a-1", max_concurrency=most), **settings)


NEXT = pool("next", AccountSpec("b-1", max_concurrency=100))


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def limits(orchestrator: Orchestrator) -> tuple[int, int]:
    view = orchestrator.snapshot().account("a-1")
    return view.max_concurrency, view.configured_concurrency


async def run_into(orchestrator, upstream, answers) -> list:
    """As many callers at once as there are answers of a-1; they come once all callers are there."""
    gates = [Pause() for _ in answers]
    upstream.queue("a-1", *((gate, *answer) for gate, answer in zip(gates, answers, strict=True)))
    callers = [asyncio.create_task(orchestrator.chat(ask())) for _ in answers]
    for gate in gates:
        await gate.reached.wait()
    for gate in gates:
        gate.go_on.set()
    return await asyncio.gather(*callers)


async def test_a_burst_of_429s_halves_what_runs_at_once_and_tells_of_it_once(start, upstream):
    orchestrator = await start(system(main(), NEXT))
    events = orchestrator.subscribe()
    replies = await run_into(orchestrator, upstream, [[BURST]] * 8)
    assert [reply.account for reply in replies] == ["b-1"] * 8
    (change,) = changes(events)
    assert (change.account, change.old, change.new, change.configured) == ("a-1", 8, 4, 8)
    assert "429" in change.cause
    assert limits(orchestrator) == (4, 8)


async def test_a_lone_429_lowers_nothing(start, upstream):
    orchestrator = await start(system(main(), NEXT))
    events = orchestrator.subscribe()
    upstream.queue("a-1", [BURST])
    await orchestrator.chat(ask())
    assert changes(events) == []
    assert limits(orchestrator) == (8, 8)


async def test_it_can_be_switched_off(start, upstream):
    orchestrator = await start(system(main(adaptive_concurrency=False), NEXT))
    events = orchestrator.subscribe()
    await run_into(orchestrator, upstream, [[BURST]] * 8)
    assert changes(events) == []
    assert limits(orchestrator) == (8, 8)


async def test_a_wall_of_quota_lowers_nothing(start, upstream):
    wall = failure(ErrorCategory.QUOTA_EXHAUSTED, http_status=429, retry_after_s=100.0)
    orchestrator = await start(system(main(), NEXT))
    await run_into(orchestrator, upstream, [[wall]] * 8)
    assert limits(orchestrator) == (8, 8)


async def test_a_rate_limit_on_another_model_lowers_nothing(start, upstream):
    other = failure(ErrorCategory.RATE_LIMIT, http_status=429, model="big")
    orchestrator = await start(system(main(), NEXT))
    gate = Pause()
    upstream.queue("a-1", [gate, *ANSWER], [other])
    running = asyncio.create_task(orchestrator.chat(ask()))
    await gate.reached.wait()
    await orchestrator.chat(ask(model="big"))
    gate.go_on.set()
    await running
    assert limits(orchestrator) == (8, 8)


async def test_keys_of_one_project_are_lowered_together(start, upstream):
    shared = failure(ErrorCategory.RATE_LIMIT, http_status=429, project_wide=True)
    accounts = [AccountSpec(name, max_concurrency=8, project="p") for name in ("a-1", "a-2")]
    orchestrator = await start(system(pool("main", *accounts), NEXT))
    gates = [Pause() for _ in range(4)]
    upstream.queue("a-1", (gates[0], shared), (gates[1], *ANSWER))
    upstream.queue("a-2", (gates[2], *ANSWER), (gates[3], *ANSWER))
    callers = [asyncio.create_task(orchestrator.chat(ask(pin=pin))) for pin in ("a-1", "a-1", "a-2", "a-2")]
    for gate in gates:
        await gate.reached.wait()
    gates[0].go_on.set()
    await asyncio.gather(callers[0], return_exceptions=True)
    snapshot = orchestrator.snapshot()
    assert [snapshot.account(name).max_concurrency for name in ("a-1", "a-2")] == [1, 1]
    for gate in gates:
        gate.go_on.set()
    await asyncio.gather(*callers, return_exceptions=True)


async def test_time_outs_lower_it_too_and_only_as_many_run_as_are_left(start, upstream, clock):
    orchestrator = await start(system(main(most=4), NEXT))
    await run_into(orchestrator, upstream, [[STALLED], *[ANSWER] * 3])
    assert limits(orchestrator)[0] == 2
    gates = [Pause() for _ in range(2)]
    upstream.queue("a-1", *((gate, *ANSWER) for gate in gates))
    running = [asyncio.create_task(orchestrator.chat(ask())) for _ in range(2)]
    for gate in gates:
        await gate.reached.wait()
    reply = await orchestrator.chat(ask())
    assert reply.account == "b-1"
    skip = orchestrator.snapshot().account("a-1").skip
    assert (skip.reason, skip.detail) == (
        SkipReason.CONCURRENCY,
        "2 in flight, where 4 may be without overload",
    )
    for gate in gates:
        gate.go_on.set()
    await asyncio.gather(*running)


async def lowered(start, upstream, clock, most: int = 8) -> Orchestrator:
    """An orchestrator with one account, whose limit was halved; nothing rests any more."""
    orchestrator = await start(system(main(most), NEXT))
    await run_into(orchestrator, upstream, [[BURST], *[ANSWER] * (most - 1)])
    clock.advance(6)
    assert (await orchestrator.chat(ask())).account == "a-1"
    assert limits(orchestrator)[0] == most // 2
    return orchestrator


async def test_callers_who_wait_get_their_places_and_full_loads_raise_the_limit(start, upstream, clock):
    orchestrator = await lowered(start, upstream, clock)
    events = orchestrator.subscribe()
    most_at_once = 0
    for _ in range(12):
        gates = [Pause() for _ in range(12)]
        upstream.queue("a-1", *((gate, *ANSWER) for gate in gates))
        callers = [asyncio.create_task(orchestrator.chat(ask(pin="a-1", timeout_s=30))) for _ in range(12)]
        await turns()
        running = sum(gate.reached.is_set() for gate in gates)
        assert running == limits(orchestrator)[0]
        most_at_once = max(most_at_once, running)
        clock.advance(1.5)
        for gate in gates:
            gate.go_on.set()
        assert [reply.account for reply in await asyncio.gather(*callers)] == ["a-1"] * 12
    steps = changes(events)
    assert [(step.old, step.new) for step in steps] == [(4, 5), (5, 6), (6, 7), (7, 8)]
    assert {step.cause for step in steps} == {"a full load was answered without overload"}
    assert most_at_once == 8


async def test_a_limit_that_time_raises_serves_those_who_wait_although_nobody_left(start, upstream, clock):
    orchestrator = await lowered(start, upstream, clock)
    gates = [Pause() for _ in range(6)]
    upstream.queue("a-1", *((gate, *ANSWER) for gate in gates))
    callers = [asyncio.create_task(orchestrator.chat(ask(pin="a-1", timeout_s=30))) for _ in range(6)]
    await turns()
    assert [gate.reached.is_set() for gate in gates] == [True] * 4 + [False] * 2
    clock.advance(STEP_S)
    orchestrator._maintenance.check(clock.monotonic())
    await turns()
    assert [gate.reached.is_set() for gate in gates] == [True] * 5 + [False]
    for gate in gates:
        gate.go_on.set()
    assert len(await asyncio.gather(*callers)) == 6


async def test_an_idle_account_comes_back_by_time_and_at_its_next_use(start, upstream, clock):
    orchestrator = await lowered(start, upstream, clock)
    events = orchestrator.subscribe()
    clock.advance(MEMORY_S)
    assert (await orchestrator.chat(ask())).account == "a-1"
    assert limits(orchestrator) == (8, 8)
    (change,) = changes(events)
    assert (change.old, change.new) == (4, 8)
    orchestrator._maintenance.check(clock.monotonic())
    assert orchestrator._roster.accounts["a-1"].throttle is None, "nothing is left to look at"


async def test_a_reset_by_the_operator_lifts_it_at_once(start, upstream, clock):
    orchestrator = await lowered(start, upstream, clock)
    events = orchestrator.subscribe()
    assert orchestrator.execute(ResetCircuit(CircuitTarget(CircuitScope.ACCOUNT, "a-1"))).ok
    assert limits(orchestrator) == (8, 8)
    assert [(event.new, event.cause) for event in changes(events)] == [(8, "reset by the operator")]


async def test_a_late_time_out_of_before_the_cut_does_not_cut_again(start, upstream, clock):
    orchestrator = await start(system(main(), NEXT))
    events = orchestrator.subscribe()
    gates = [Pause() for _ in range(8)]
    upstream.queue("a-1", *((gate, BURST if n == 0 else STALLED) for n, gate in enumerate(gates)))
    callers = [asyncio.create_task(orchestrator.chat(ask())) for _ in gates]
    for gate in gates:
        await gate.reached.wait()
    for gate in gates:
        gate.go_on.set()
        clock.advance(0.5)
        await turns(10)
    await asyncio.gather(*callers)
    assert [(event.old, event.new) for event in changes(events)] == [(8, 4)]


async def test_text_that_streams_counts_as_running(start, upstream, clock):
    orchestrator = await start(system(main(most=4), NEXT))
    gates = [Pause() for _ in range(3)]
    upstream.queue("a-1", *((Chunk("Hel"), gate, *ANSWER) for gate in gates), [BURST])
    running = [asyncio.create_task(orchestrator.chat(ask())) for _ in gates]
    for gate in gates:
        await gate.reached.wait()
    assert (await orchestrator.chat(ask())).account == "b-1"
    assert limits(orchestrator)[0] == 2
    for gate in gates:
        gate.go_on.set()
    assert {reply.account for reply in await asyncio.gather(*running)} == {"a-1"}
