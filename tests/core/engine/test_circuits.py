"""Circuits as requests and operators meet them: whole behaviours of the engine around the circuit."""

from __future__ import annotations

import asyncio

import pytest

from smartfallback import (
    AccountSpec,
    Actor,
    CircuitChanged,
    CircuitScope,
    CircuitSettings,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    ErrorCategory,
    OpenCircuit,
    RequestCancelled,
    RequestError,
    ResetCircuit,
    SetCircuitMode,
)
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

A1, A2 = (CircuitTarget(CircuitScope.ACCOUNT, name) for name in ("a-1", "a-2"))
MAIN, NEXT = (CircuitTarget(CircuitScope.PROVIDER, name) for name in ("main-api", "next-api"))
NOBODY = CircuitTarget(CircuitScope.ACCOUNT, "ag-9")
BROKEN = failure(ErrorCategory.MALFORMED_RESPONSE)
SERVER_ERROR = failure(ErrorCategory.API_FAILURE, http_status=500)
FRAGILE = CircuitSettings(failure_threshold=1, recovery_timeout_s=100.0, recovery_jitter=0.0)


def states(orchestrator, *names: str) -> list[CircuitState]:
    snapshot = orchestrator.snapshot()
    return [snapshot.account(name).circuit.state for name in names]


def changes(events) -> list[tuple[CircuitTarget, CircuitState, CircuitState]]:
    return [(e.target, e.old, e.new) for e in events.drain()[0] if isinstance(e, CircuitChanged)]


async def test_an_open_circuit_rejects_without_calling_and_says_why_and_until_when(start, upstream, clock):
    upstream.always("a-1", [BROKEN])
    orchestrator = await start(system(pool("main", "a-1", account_circuit=FRAGILE), pool("next", "b-1")))
    for _ in range(20):
        assert (await orchestrator.chat(ask())).account == "b-1"
    assert states(orchestrator, "a-1") == [CircuitState.OPEN]
    assert upstream.accounts_called().count("a-1") <= 2, "the failure, and at most its one retry"
    with pytest.raises(RequestError) as refused:
        await orchestrator.chat(ask(pin="a-1"))
    assert "scripted" in refused.value.skipped[0], "it says what the last cause was"
    assert refused.value.next_available_at == pytest.approx(clock.time() + 100.0)


async def test_fifty_concurrent_failures_open_it_with_one_event(start, upstream):
    gate = Pause()
    upstream.always("a-1", [gate, SERVER_ERROR])
    settings = CircuitSettings(failure_threshold=3)
    main = pool("main", AccountSpec("a-1", max_concurrency=50), account_circuit=settings)
    orchestrator = await start(system(main, pool("next", "b-1")))
    events = orchestrator.subscribe()
    callers = [asyncio.create_task(orchestrator.chat(ask())) for _ in range(50)]
    for _ in range(500):  # turns of the loop, many more than it takes
        await asyncio.sleep(0)
    assert len(upstream.calls) == 50
    gate.go_on.set()
    assert {reply.account for reply in await asyncio.gather(*callers)} == {"b-1"}
    opened = [event for event in events.drain()[0] if isinstance(event, CircuitChanged)]
    assert len([event for event in opened if event.target == A1]) == 1
    assert len(opened) == len({event.target for event in opened})
    assert all("failed (100%); last: " in event.cause and event.actor is Actor.SYSTEM for event in opened)


async def test_an_error_inside_a_200_counts_as_a_failure(start, upstream):
    inside = failure(ErrorCategory.TRANSIENT_ERROR, http_status=200, message="server_is_overloaded")
    upstream.always("a-1", [Chunk("", None), inside])
    orchestrator = await start(system(pool("main", "a-1", account_circuit=FRAGILE), pool("next", "b-1")))
    assert (await orchestrator.chat(ask())).account == "b-1"
    view = orchestrator.snapshot().account("a-1").circuit
    assert view.state is CircuitState.OPEN
    assert "server_is_overloaded" in view.cause


@pytest.mark.parametrize("step_s", [3_600.0, -3_600.0])
async def test_a_step_of_the_wall_clock_neither_ends_nor_prolongs_a_break(start, upstream, clock, step_s):
    upstream.always("a-1", [BROKEN])
    orchestrator = await start(system(pool("main", "a-1", account_circuit=FRAGILE), pool("next", "b-1")))
    await orchestrator.chat(ask())
    upstream.always("a-1", ANSWER)
    clock.step_wall_clock(step_s)
    clock.advance(99.0)
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(1.5)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_of_a_hundred_callers_one_probes_a_half_open_account(start, upstream, clock):
    upstream.always("a-1", [BROKEN])
    main = pool("main", AccountSpec("a-1", max_concurrency=100), account_circuit=FRAGILE)
    orchestrator = await start(system(main, pool("next", "b-1")))
    await orchestrator.chat(ask())
    before = upstream.accounts_called().count("a-1")
    gate = Pause()
    upstream.always("a-1", [gate, *ANSWER])
    clock.advance(101.0)
    callers = [asyncio.create_task(orchestrator.chat(ask())) for _ in range(100)]
    await gate.reached.wait()
    for _ in range(1000):  # turns of the loop, many more than it takes
        await asyncio.sleep(0)
    done = [caller for caller in callers if caller.done()]
    (probing,) = set(callers) - set(done)
    assert upstream.accounts_called().count("a-1") - before == 1
    assert {task.result().account for task in done} == {"b-1"}
    gate.go_on.set()
    assert (await probing).account == "a-1"
    assert states(orchestrator, "a-1") == [CircuitState.CLOSED]


async def test_a_cancelled_probe_is_told_cancelled_and_leaves_the_place_to_the_next(start, upstream, clock):
    upstream.always("a-1", [BROKEN])
    orchestrator = await start(system(pool("main", "a-1", account_circuit=FRAGILE), pool("next", "b-1")))
    await orchestrator.chat(ask())
    events = orchestrator.subscribe()
    clock.advance(101.0)
    for _ in range(3):
        gate = Pause()
        upstream.always("a-1", [gate, *ANSWER])
        probing = asyncio.create_task(orchestrator.chat(ask()))
        await gate.reached.wait()
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
        assert states(orchestrator, "a-1") == [CircuitState.HALF_OPEN]
    told = events.drain()[0]
    assert len([event for event in told if isinstance(event, RequestCancelled)]) == 3
    upstream.always("a-1", ANSWER)
    assert (await orchestrator.chat(ask())).account == "a-1"
    assert states(orchestrator, "a-1") == [CircuitState.CLOSED]


async def test_calls_that_never_end_open_the_circuit_of_their_provider(start, upstream, clock):
    hangs = CircuitSettings(failure_threshold=99, slow_call_s=60.0, slow_call_rate=0.5, min_calls=2)
    gates = Pause(), Pause()
    upstream.queue("a-1", [gates[0]])
    upstream.queue("a-2", [gates[1]])
    main = pool("main", "a-1", "a-2", provider_circuit=hangs)
    orchestrator = await start(system(main, pool("next", "b-1")))
    events = orchestrator.subscribe()
    callers = [
        asyncio.create_task(orchestrator.chat(ask(pin=name, timeout_s=9_999.0))) for name in ("a-1", "a-2")
    ]
    for gate in gates:
        await gate.reached.wait()
    assert changes(events) == []
    clock.advance(60.0)
    assert (await orchestrator.chat(ask())).account == "b-1"
    assert changes(events) == [(MAIN, CircuitState.CLOSED, CircuitState.OPEN)]
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)


async def test_the_provider_of_several_accounts_has_one_circuit_and_each_account_its_own(start, upstream):
    upstream.always("a-1", [SERVER_ERROR])
    orchestrator = await start(
        system(pool("main", "a-1", "a-2", account_circuit=FRAGILE), pool("next", "b-1"))
    )
    with pytest.raises(RequestError):
        await orchestrator.chat(ask(pin="a-1"))
    assert states(orchestrator, "a-1", "a-2") == [CircuitState.OPEN, CircuitState.CLOSED]
    assert (await orchestrator.chat(ask(pin="a-2"))).account == "a-2"
    assert orchestrator.execute(OpenCircuit(MAIN, "outage")).ok
    assert (await orchestrator.chat(ask())).account == "b-1"
    assert states(orchestrator, "a-2") == [CircuitState.CLOSED]


async def test_who_never_reads_his_events_holds_up_neither_calls_nor_circuits(start, upstream):
    upstream.always("a-1", [BROKEN])
    orchestrator = await start(system(pool("main", "a-1", account_circuit=FRAGILE), pool("next", "b-1")))
    idle, reader = orchestrator.subscribe(backlog=5), orchestrator.subscribe()
    for _ in range(10):
        assert (await orchestrator.chat(ask())).account == "b-1"
    assert changes(reader) == [(A1, CircuitState.CLOSED, CircuitState.OPEN)]
    kept, dropped = idle.drain()
    assert len(kept) == 5
    assert dropped > 0


async def test_one_command_holds_many_circuits(start):
    orchestrator = await start(system(pool("main", "a-1", "a-2"), pool("next", "b-1"), pool("last", "c-1")))
    events = orchestrator.subscribe()
    result = orchestrator.execute(OpenCircuit(A1, "incident 42", also=(A2, NEXT)))
    assert result.ok
    assert result.message == "3 circuits are forced open: account a-1, account a-2, provider next-api"
    assert (await orchestrator.chat(ask())).account == "c-1"
    assert orchestrator.execute(ResetCircuit(A2, also=(A1,))).ok
    assert (await orchestrator.chat(ask())).pool == "main"
    assert orchestrator.execute(CloseCircuit(NEXT, "over", also=(A1, A2))).ok
    held, closed = CircuitState.FORCED_OPEN, CircuitState.CLOSED
    assert changes(events) == [
        (A1, closed, held),
        (A2, closed, held),
        (NEXT, closed, held),
        (A2, held, closed),
        (A1, held, closed),
        (NEXT, held, closed),
    ]


@pytest.mark.parametrize(
    "command",
    [
        OpenCircuit(A1, "x", also=(MAIN, NOBODY)),
        OpenCircuit(A1, "x", duration_s=float("inf"), also=(MAIN,)),
        CloseCircuit(A2, "x", also=(NOBODY,)),
        ResetCircuit(A2, also=(NOBODY,)),
        SetCircuitMode(A1, CircuitState.DISABLED, also=(NOBODY,)),
        SetCircuitMode(A1, CircuitState.FORCED_OPEN),
        SetCircuitMode(A1, CircuitState.OPEN),
    ],
)
async def test_a_command_that_can_not_hold_all_holds_none(start, command):
    orchestrator = await start(system(pool("main", "a-1", "a-2")))
    orchestrator.execute(OpenCircuit(A2, "held before"))
    events = orchestrator.subscribe()
    result = orchestrator.execute(command)
    assert not result.ok
    assert changes(events) == []
    assert states(orchestrator, "a-1", "a-2") == [CircuitState.CLOSED, CircuitState.FORCED_OPEN]


async def test_set_to_observe_it_tells_what_it_would_have_done_and_rejects_nothing(start, upstream):
    orchestrator = await start(
        system(pool("main", "a-1", account_circuit=FRAGILE, failed_model_s=0.0), pool("next", "b-1"))
    )
    result = orchestrator.execute(SetCircuitMode(A1, CircuitState.OBSERVE_ONLY, "new thresholds"))
    assert (result.ok, result.message) == (True, "the circuit of account a-1 is observing")
    events = orchestrator.subscribe()
    upstream.always("a-1", [BROKEN])
    for _ in range(3):
        await orchestrator.chat(ask())
    assert upstream.accounts_called().count("a-1") >= 3
    observing = CircuitState.OBSERVE_ONLY
    assert changes(events) == [(A1, observing, observing)], "told once"
    assert orchestrator.execute(SetCircuitMode(A1, CircuitState.CLOSED, "as before")).ok
    await orchestrator.chat(ask())
    assert states(orchestrator, "a-1") == [CircuitState.OPEN]


async def test_disabled_it_admits_all_and_records_nothing(start, upstream):
    orchestrator = await start(
        system(pool("main", "a-1", account_circuit=FRAGILE, failed_model_s=0.0), pool("next", "b-1"))
    )
    assert orchestrator.execute(SetCircuitMode(A1, CircuitState.DISABLED, "no breaking here")).ok
    upstream.always("a-1", [BROKEN])
    for _ in range(5):
        await orchestrator.chat(ask())
    view = orchestrator.snapshot().account("a-1").circuit
    assert (view.state, view.failures, view.calls) == (CircuitState.DISABLED, 0, 0)
    assert view.cause == "no breaking here"
    assert upstream.accounts_called().count("a-1") >= 5


async def test_told_to_probe_now_an_open_circuit_does_not_wait_for_its_time(start, upstream):
    upstream.always("a-1", [BROKEN])
    orchestrator = await start(
        system(pool("main", "a-1", account_circuit=FRAGILE, failed_model_s=0.0), pool("next", "b-1"))
    )
    await orchestrator.chat(ask())
    upstream.always("a-1", ANSWER)
    assert orchestrator.execute(SetCircuitMode(A1, CircuitState.HALF_OPEN, "it is mended")).ok
    assert (await orchestrator.chat(ask())).account == "a-1"
    assert states(orchestrator, "a-1") == [CircuitState.CLOSED]


async def test_one_that_does_not_work_can_not_be_told_to_probe_nor_can_the_others_of_that_command(start):
    orchestrator = await start(system(pool("main", "a-1", "a-2")))
    orchestrator.execute(SetCircuitMode(A2, CircuitState.DISABLED))
    result = orchestrator.execute(SetCircuitMode(A1, CircuitState.HALF_OPEN, also=(A2,)))
    assert not result.ok
    assert result.message == ("the circuit of account a-2 is disabled and can't be half_open; close it first")
    assert states(orchestrator, "a-1", "a-2") == [CircuitState.CLOSED, CircuitState.DISABLED]


async def test_a_mode_on_the_circuit_of_a_provider_governs_all_its_accounts(start, upstream):
    fragile = CircuitSettings(failure_threshold=1)
    main = pool("main", "a-1", "a-2", provider_circuit=fragile)
    orchestrator = await start(system(main, pool("next", "b-1")))
    assert orchestrator.execute(SetCircuitMode(MAIN, CircuitState.OBSERVE_ONLY)).ok
    upstream.queue("a-1", [SERVER_ERROR], [SERVER_ERROR], [SERVER_ERROR])
    with pytest.raises(RequestError):
        await orchestrator.chat(ask(pin="a-1"))
    assert (await orchestrator.chat(ask(pin="a-2"))).account == "a-2"
