"""After a circuit has closed by itself traffic returns step by step, and nobody is refused for that."""

from __future__ import annotations

import asyncio
import random

import pytest

from smartfallback import (
    AttemptStarted,
    CircuitScope,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    Decision,
    ErrorCategory,
    ForceFailover,
    OpenCircuit,
    Orchestrator,
    Rule,
    SkipReason,
    Strategy,
)
from smartfallback.model.events import AccountResumed
from smartfallback.policy.ramp import STEP_S, STEPS, STEPS_TO_STEADY
from smartfallback.state.sqlite import SqliteStateStore
from support.scripted import ANSWER, Pause, ask, failure, pool, system

MALFORMED = failure(ErrorCategory.MALFORMED_RESPONSE)
REFUSED = failure(ErrorCategory.NETWORK_ERROR)
RAMP_S = STEP_S * STEPS
EIGHT = [f"a-{n}" for n in range(1, 9)]


def account(name: str) -> CircuitTarget:
    return CircuitTarget(CircuitScope.ACCOUNT, name)


API = CircuitTarget(CircuitScope.PROVIDER, "main-api")


async def traffic(orchestrator, clock, seconds: float, per_s: float) -> list[str]:
    """Who answered, for steady requests one after the other."""
    answered = []
    for _ in range(int(seconds * per_s)):
        answered.append((await orchestrator.chat(ask())).account)
        clock.advance(1 / per_s)
        orchestrator._maintenance.check(clock.monotonic())
    return answered


def state(orchestrator, target: CircuitTarget) -> CircuitState:
    return orchestrator._roster.circuit(target).state


async def until_closed(orchestrator, clock, target: CircuitTarget, per_s: float) -> None:
    """Go on with the traffic until the circuit has closed by its probes."""
    for _ in range(10_000):
        await orchestrator.chat(ask())
        if state(orchestrator, target) is CircuitState.CLOSED:
            return
        clock.advance(1 / per_s)
        orchestrator._maintenance.check(clock.monotonic())
    raise AssertionError(f"{target} never closed")


def steps_of(answered: list[str], names: set[str], per_s: float) -> list[int]:
    """Requests of ``names`` in each step of the ramp."""
    size = int(STEP_S * per_s)
    return [sum(name in names for name in answered[at : at + size]) for at in range(0, len(answered), size)]


async def opened_account(start, upstream, clock, *pools, per_s=2.0) -> Orchestrator:
    """Minutes of traffic, then a-1 breaks: its circuit opens, and closes when it is well."""
    orchestrator = await start(system(*pools))
    await traffic(orchestrator, clock, 240, per_s)
    upstream.always("a-1", [MALFORMED])
    while state(orchestrator, account("a-1")) is CircuitState.CLOSED:
        await traffic(orchestrator, clock, 2, per_s)
    upstream.always("a-1", ANSWER)
    await until_closed(orchestrator, clock, account("a-1"), per_s)
    return orchestrator


async def test_an_account_whose_circuit_closed_comes_back_step_by_step(start, upstream, clock):
    shared = pool("main", "a-1", "a-2", strategy=Strategy.ROUND_ROBIN)
    orchestrator = await opened_account(start, upstream, clock, shared)
    events = orchestrator.subscribe()
    answered = await traffic(orchestrator, clock, RAMP_S + 60, 2.0)
    steps = steps_of(answered, {"a-1"}, 2.0)
    assert steps[:STEPS_TO_STEADY] == sorted(steps[:STEPS_TO_STEADY])
    assert steps[0] <= 1
    assert 5 <= sum(steps[:STEPS_TO_STEADY]) <= 60 / 2
    assert steps[-1] in range(9, 12), "half of the pool's again"
    resumed = [event.account for event in events.drain()[0] if isinstance(event, AccountResumed)]
    assert resumed == ["a-1"]


async def test_the_reason_is_told_while_it_climbs(start, upstream, clock):
    shared = pool("main", "a-1", "a-2", strategy=Strategy.ROUND_ROBIN)
    orchestrator = await opened_account(start, upstream, clock, shared)
    skip = orchestrator.snapshot().account("a-1").skip
    assert skip.reason is SkipReason.RAMP
    assert "circuit" in skip.detail
    assert skip.until > clock.time()
    assert not orchestrator.snapshot().chains[0].degraded


async def test_an_account_alone_is_never_refused_for_its_ramp(start, upstream, clock):
    orchestrator = await opened_account(
        start, upstream, clock, pool("main", "a-1"), pool("next", "b-1"), per_s=1.0
    )
    upstream.always("b-1", [failure(ErrorCategory.AUTHENTICATION, http_status=401)])
    events = orchestrator.subscribe()
    replies = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(8)))
    assert {reply.account for reply in replies} == {"a-1"}
    rules = [decision.rule for decision in decisions(events) if decision.account == "a-1"]
    assert Rule.COMING_BACK in rules


def decisions(events) -> list[Decision]:
    return [event.decision for event in events.drain()[0] if isinstance(event, AttemptStarted)]


async def test_a_circuit_closed_by_hand_has_no_ramp(start, upstream, clock):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    await traffic(orchestrator, clock, 60, 1.0)
    for target in (account("a-1"), API):
        assert orchestrator.execute(OpenCircuit(target, "maintenance")).ok
        assert set(await traffic(orchestrator, clock, 10, 1.0)) == {"b-1"}
        assert orchestrator.execute(CloseCircuit(target, "over")).ok
        assert {(await orchestrator.chat(ask())).account for _ in range(20)} == {"a-1"}


async def test_closing_by_hand_ends_a_ramp_that_runs(start, upstream, clock):
    for broken in (account("a-1"), API):
        orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
        await traffic(orchestrator, clock, 60, 1.0)
        assert orchestrator.execute(ForceFailover(broken, "test", 30.0)).ok
        await until_closed(orchestrator, clock, broken, 1.0)
        assert "b-1" in {(await orchestrator.chat(ask())).account for _ in range(3)}
        assert orchestrator.execute(CloseCircuit(broken, "it is well")).ok
        assert {(await orchestrator.chat(ask())).account for _ in range(20)} == {"a-1"}


async def test_a_ramp_ends_when_its_circuit_opens_again_and_the_next_one_starts_from_below(
    start, upstream, clock
):
    shared = pool("main", "a-1", "a-2", strategy=Strategy.ROUND_ROBIN)
    orchestrator = await opened_account(start, upstream, clock, shared)
    await traffic(orchestrator, clock, 90, 2.0)
    upstream.always("a-1", [MALFORMED])
    while state(orchestrator, account("a-1")) is CircuitState.CLOSED:
        await traffic(orchestrator, clock, 2, 2.0)
    assert orchestrator._roster.accounts["a-1"].ramp is None
    upstream.always("a-1", ANSWER)
    await until_closed(orchestrator, clock, account("a-1"), 2.0)
    steps = steps_of(await traffic(orchestrator, clock, 60, 2.0), {"a-1"}, 2.0)
    assert steps[0] <= 1
    assert sum(steps) <= 30


async def opened_provider(start, upstream, clock, *pools, per_s: float) -> Orchestrator:
    orchestrator = await start(system(*pools))
    await traffic(orchestrator, clock, 180, per_s)
    for name in EIGHT:
        upstream.always(name, [REFUSED])
    while state(orchestrator, API) is CircuitState.CLOSED:
        await orchestrator.chat(ask())
    before = len(upstream.calls)
    for name in EIGHT:
        upstream.always(name, ANSWER)
    await until_closed(orchestrator, clock, API, per_s)
    tried = [name for name in upstream.accounts_called()[before:] if name in EIGHT]
    assert len(tried) == 3, "nothing but its probes"
    return orchestrator


async def test_the_eight_accounts_of_a_provider_come_back_together_step_by_step(start, upstream, clock):
    orchestrator = await opened_provider(
        start, upstream, clock, pool("main", *EIGHT), pool("next", "b-1"), per_s=4.0
    )
    answered = await traffic(orchestrator, clock, RAMP_S + 30, 4.0)
    steps = steps_of(answered, set(EIGHT), 4.0)
    assert len(answered) == 600, "and every request was answered"
    assert steps[0] <= 2
    assert steps[: STEPS_TO_STEADY + 1] == sorted(steps[: STEPS_TO_STEADY + 1])
    first_minute = sum(steps[:STEPS_TO_STEADY])
    assert 60 <= first_minute <= 120, "about a third of the 240 that are usual"
    assert steps[STEPS_TO_STEADY + 1 :] == [40] * (len(steps) - STEPS_TO_STEADY - 1)
    shares = [answered.count(name) for name in EIGHT]
    assert min(shares) > 0
    assert set(answered) == {*EIGHT, "b-1"}


async def test_a_burst_after_the_provider_s_circuit_closed_goes_elsewhere(start, upstream, clock):
    orchestrator = await opened_provider(
        start, upstream, clock, pool("main", *EIGHT), pool("next", "b-1"), per_s=4.0
    )
    events = orchestrator.subscribe()
    replies = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(8)))
    assert {reply.account for reply in replies} == {"b-1"}
    skips = {(skip.name, skip.reason) for decision in decisions(events) for skip in decision.skipped}
    assert skips == {("main", SkipReason.RAMP)}


async def test_a_provider_alone_serves_everybody_ahead_of_its_ramp(start, upstream, clock):
    orchestrator = await opened_provider(
        start, upstream, clock, pool("main", *EIGHT), pool("next", "b-1"), per_s=4.0
    )
    upstream.always("b-1", [failure(ErrorCategory.AUTHENTICATION, http_status=401)])
    await orchestrator.chat(ask())
    events = orchestrator.subscribe()
    replies = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(40)))
    assert {reply.account for reply in replies} <= set(EIGHT)
    assert {decision.rule for decision in decisions(events)} == {Rule.COMING_BACK}


async def test_what_failed_elsewhere_and_what_is_pinned_is_served_ahead_of_the_ramp(start, upstream, clock):
    orchestrator = await opened_provider(
        start, upstream, clock, pool("main", *EIGHT), pool("next", "b-1"), per_s=4.0
    )
    assert (await orchestrator.chat(ask(pin="a-5"))).account == "a-5"
    upstream.queue("b-1", [failure(ErrorCategory.API_FAILURE, http_status=500)])
    reply = await orchestrator.chat(ask())
    assert reply.attempts[0].account == "b-1"
    assert reply.account in EIGHT


async def test_pools_of_one_provider_share_its_ramp(start, upstream, clock):
    pools = (
        pool("main", "a-1", provider_id="main-api"),
        pool("more", "c-1", provider_id="main-api"),
        pool("next", "b-1"),
    )
    orchestrator = await start(system(*pools))
    await traffic(orchestrator, clock, 60, 1.0)
    assert orchestrator.execute(ForceFailover(API, "test", 30.0)).ok
    await until_closed(orchestrator, clock, API, 1.0)
    answered = [(await orchestrator.chat(ask())).account for _ in range(10)]
    assert answered.count("b-1") >= 9


async def test_a_circuit_that_opened_before_a_restart_closes_into_a_ramp_too(tmp_path, upstream, clock):
    def kept() -> Orchestrator:
        return Orchestrator(
            system(pool("main", "a-1"), pool("next", "b-1")),
            clock=clock,
            rng=random.Random(1),
            provider_factory=upstream.provider,
            store=SqliteStateStore(tmp_path / "state.db", clock=clock),
        )

    async with kept() as orchestrator:
        assert orchestrator.execute(ForceFailover(API, "test", 30.0)).ok
        assert (await orchestrator.chat(ask())).account == "b-1"
    async with kept() as orchestrator:
        await until_closed(orchestrator, clock, API, 1.0)
        assert [(await orchestrator.chat(ask())).account for _ in range(5)] == ["b-1"] * 5
        clock.advance(RAMP_S)
        assert [(await orchestrator.chat(ask())).account for _ in range(5)] == ["a-1"] * 5


@pytest.mark.parametrize("rest_s", [30.0, 400.0])
async def test_the_end_of_a_stated_rest_is_one_test_and_no_burst(start, upstream, clock, rest_s):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    upstream.queue("a-1", [failure(ErrorCategory.RATE_LIMIT, http_status=429, retry_after_s=rest_s)])
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(rest_s - 0.01)
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(0.02)
    before = upstream.accounts_called().count("a-1")
    test = Pause()
    upstream.queue("a-1", [test, *ANSWER])
    callers = [asyncio.create_task(orchestrator.chat(ask())) for _ in range(8)]
    await test.reached.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    assert upstream.accounts_called().count("a-1") == before + 1
    test.go_on.set()
    accounts = sorted(reply.account for reply in await asyncio.gather(*callers))
    assert accounts == ["a-1"] + ["b-1"] * 7
    assert (await orchestrator.chat(ask())).account == "a-1", "the test that passed is all it takes"


async def test_an_account_that_was_open_because_of_other_instances_comes_back_step_by_step(
    start, upstream, clock
):
    shared = pool("main", "a-1", "a-2", strategy=Strategy.ROUND_ROBIN)
    orchestrator = await start(system(shared))
    await traffic(orchestrator, clock, 240, 2.0)
    circuit = orchestrator._roster.circuit(account("a-1"))
    circuit.adopt_open(clock.monotonic() + 60.0, "seen by worker-2", clock.monotonic())
    assert set(await traffic(orchestrator, clock, 30, 2.0)) == {"a-2"}
    circuit.adopt_closed("worker-3: 1 probe succeeded", clock.monotonic())
    counts = steps_of(await traffic(orchestrator, clock, RAMP_S, 2.0), {"a-1"}, 2.0)
    assert counts[0] <= 1
    assert counts[1:] == sorted(counts[1:])
    assert counts[-1] >= 9


@pytest.mark.parametrize("cleared", ["here", "elsewhere"])
async def test_a_suspicion_that_proves_wrong_costs_no_step_of_the_way(start, upstream, clock, cleared):
    shared = pool("main", "a-1", "a-2", strategy=Strategy.ROUND_ROBIN)
    orchestrator = await start(system(shared))
    await traffic(orchestrator, clock, 240, 2.0)
    circuit = orchestrator._roster.circuit(account("a-1"))
    circuit.suspect("seen by worker-2", clock.monotonic())
    if cleared == "elsewhere":
        circuit.adopt_closed("worker-3: 1 probe succeeded", clock.monotonic())
    else:
        await until_closed(orchestrator, clock, account("a-1"), 2.0)
    answered = await traffic(orchestrator, clock, 60, 2.0)
    assert abs(answered.count("a-1") - answered.count("a-2")) <= 1
