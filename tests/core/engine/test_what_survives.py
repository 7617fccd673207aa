"""What a killed process leaves to the next: what it held, had learnt, kept together, and had done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from smartfallback import (
    AccountSpec,
    CircuitScope,
    CircuitTarget,
    Disable,
    Drain,
    Ending,
    ErrorCategory,
    MemoryStateStore,
    OpenCircuit,
    Orchestrator,
    Origin,
    PastRequest,
    QuotaUnit,
    RequestError,
    RequestFinished,
    SetStrategy,
    SqliteStateStore,
    Strategy,
    SystemSpec,
    WindowKind,
    WindowSpec,
)
from smartfallback.engine.historian import RESTORED_S
from smartfallback.model.outcomes import AttemptResult
from smartfallback.model.state import SystemState
from smartfallback.providers.base import Chunk
from smartfallback.state.base import StateStore
from support.clock import EPOCH, FakeClock
from support.scripted import Pause, ScriptedUpstream, ask, failure, pool, system

WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 10_000, "sun 00:00 UTC")
SLIDING = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 10_000)
HOUR_S = 3_600.0


class Machine:
    """Processes that follow each other on one store, each with a monotonic clock of its own."""

    def __init__(self, store: StateStore) -> None:
        self.store = store
        self.upstream = ScriptedUpstream()
        self.wall = EPOCH

    @asynccontextmanager
    async def run(
        self, spec: SystemSpec, *, after_s: float = 0.0, killed: bool = False
    ) -> AsyncIterator[tuple[Orchestrator, FakeClock]]:
        clock = FakeClock(self.wall + after_s)
        store = self._store(clock)
        orchestrator = Orchestrator(
            spec,
            clock=clock,
            rng=random.Random(1),
            provider_factory=self.upstream.provider,
            store=store,
        )
        await orchestrator.__aenter__()
        try:
            yield orchestrator, clock
            if killed:
                await written(orchestrator)
                await die(orchestrator)
        finally:
            await orchestrator.aclose()
            self.wall = clock.time()

    def _store(self, clock: FakeClock) -> SqliteStateStore:
        assert isinstance(self.store, SqliteStateStore)
        return SqliteStateStore(self.store.path, clock=clock)


async def quietly(*_: object) -> bool:
    return True


async def written(orchestrator: Orchestrator) -> None:
    persistence = orchestrator._persistence
    assert persistence is not None
    await persistence._save_changes()
    await persistence._historian.exchange()


async def die(orchestrator: Orchestrator) -> None:
    """From now on nothing more is written: the process counts as killed at this moment."""
    store = orchestrator._persistence._store
    await store._worker.do(store._let_go)
    store.save = store.keep_history = quietly
    store._close = lambda: None


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(SqliteStateStore(tmp_path / "state.db"))


@asynccontextmanager
async def under_way(
    orchestrator: Orchestrator, machine: Machine, account: str, **fields: object
) -> AsyncIterator[None]:
    """A request that runs, and is given up at the end."""
    pause = Pause()
    machine.upstream.queue(account, [pause])
    task = asyncio.create_task(orchestrator.chat(ask(pin=account, **fields)))
    await pause.reached.wait()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def held(orchestrator: Orchestrator, account: str = "a-1") -> list[float]:
    view = orchestrator.snapshot().account(account)
    assert view is not None
    return [window.held for window in view.quota.windows]


# -- holds -----------------------------------------------------------------------------------


async def test_what_a_killed_process_held_is_held_until_the_deadline_of_its_request(machine):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK, SLIDING)), "a-2"))
    async with (
        machine.run(spec) as (orchestrator, clock),
        under_way(orchestrator, machine, "a-1", timeout_s=100.0),
    ):
        before = held(orchestrator)
        assert min(before) > 0
        await written(orchestrator)
        await die(orchestrator)
    for after_s in (10.0, 0.0):
        async with machine.run(spec, after_s=after_s) as (orchestrator, clock):
            assert held(orchestrator) == before
            view = orchestrator.snapshot().account("a-1")
            assert (view.in_flight, view.quota.windows[0].used) == (0, 0)
    async with machine.run(spec, after_s=80.0) as (orchestrator, clock):
        assert held(orchestrator) == before
        clock.advance(11.0)
        orchestrator._maintenance.check(clock.monotonic())
        assert held(orchestrator) == [0, 0]
        assert orchestrator.snapshot().account("a-1").quota.windows[0].used == 0
    async with machine.run(spec) as (orchestrator, _):
        assert held(orchestrator) == [0, 0]


async def test_a_clean_end_leaves_no_hold(machine):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK,))))
    async with machine.run(spec) as (orchestrator, _), under_way(orchestrator, machine, "a-1"):
        assert held(orchestrator) != [0]
        await written(orchestrator)
    async with machine.run(spec) as (orchestrator, _):
        assert held(orchestrator) == [0]


async def test_a_hold_keeps_others_out_until_it_ends_and_lets_them_in_by_itself(machine):
    small = replace(WEEK, limit=1_088)
    spec = system(pool("main", AccountSpec("a-1", quota=(small,))))
    async with (
        machine.run(spec) as (orchestrator, _),
        under_way(orchestrator, machine, "a-1", timeout_s=50.0),
    ):
        await written(orchestrator)
        await die(orchestrator)
    async with machine.run(spec) as (orchestrator, clock):
        with pytest.raises(RequestError):
            await orchestrator.chat(ask())
        clock.advance(51.0)
        orchestrator._maintenance.check(clock.monotonic())
        assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_hold_counts_in_no_window_that_began_after_it(machine):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK, replace(SLIDING, resets=None)))))
    six_hours = 6 * HOUR_S
    async with (
        machine.run(spec) as (orchestrator, clock),
        under_way(orchestrator, machine, "a-1", timeout_s=10 * HOUR_S),
    ):
        week, five_hours = held(orchestrator)
        assert week == five_hours > 0
        clock.advance(six_hours)  # the five hours are over; the week goes on
        orchestrator._maintenance.check(clock.monotonic())
        await orchestrator.chat(ask(pin="a-1"))  # opens the next five hours
        assert held(orchestrator) == [week, 0]
        await written(orchestrator)
        await die(orchestrator)
    async with machine.run(spec) as (orchestrator, _):
        assert held(orchestrator) == [week, 0]


async def test_a_clock_that_was_set_back_does_not_hold_for_longer(machine):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK,))))
    async with (
        machine.run(spec) as (orchestrator, _),
        under_way(orchestrator, machine, "a-1", timeout_s=60.0),
    ):
        await written(orchestrator)
        await die(orchestrator)
    async with machine.run(spec, after_s=-10 * HOUR_S) as (orchestrator, clock):
        assert held(orchestrator) != [0]
        clock.advance(62.0)
        orchestrator._maintenance.check(clock.monotonic())
        assert held(orchestrator) == [0]


# -- learned limits --------------------------------------------------------------------------


async def overload(orchestrator: Orchestrator, machine: Machine, at_once: int) -> None:
    busy = failure(ErrorCategory.TRANSIENT_ERROR, http_status=529)
    pauses = [Pause() for _ in range(at_once)]
    machine.upstream.queue("a-1", *([pause, busy] for pause in pauses))
    calls = [asyncio.create_task(orchestrator.chat(ask(pin="a-1", timeout_s=1.0))) for _ in pauses]
    for pause in pauses:
        await pause.reached.wait()
    for pause in pauses:
        pause.go_on.set()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_limit_lowered_by_overload_is_found_again_and_rises_on_as_time_goes_by(machine):
    spec = system(pool("main", AccountSpec("a-1", max_concurrency=16)))
    async with machine.run(spec) as (orchestrator, _):
        await overload(orchestrator, machine, 16)
        lowered = orchestrator.snapshot().account("a-1").max_concurrency
        assert lowered < 16
    async with machine.run(spec, after_s=5.0) as (orchestrator, clock):
        account = orchestrator.snapshot().account("a-1")
        assert (account.max_concurrency, account.configured_concurrency) == (lowered, 16)
        clock.advance(70.0)
        orchestrator._maintenance.check(clock.monotonic())
        risen = orchestrator.snapshot().account("a-1").max_concurrency
        assert lowered < risen < 16
    async with machine.run(spec, after_s=24 * HOUR_S) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1").max_concurrency == 16


async def test_a_lowered_limit_is_never_above_what_is_configured_now(machine):
    async with machine.run(system(pool("main", AccountSpec("a-1", max_concurrency=16)))) as (
        orchestrator,
        _,
    ):
        await overload(orchestrator, machine, 16)
    async with machine.run(system(pool("main", AccountSpec("a-1", max_concurrency=3)))) as (
        orchestrator,
        _,
    ):
        assert orchestrator.snapshot().account("a-1").max_concurrency == 3
    fixed = system(pool("main", AccountSpec("a-1", max_concurrency=16), adaptive_concurrency=False))
    async with machine.run(fixed) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1").max_concurrency == 16


# -- what is sticky --------------------------------------------------------------------------

STICKY = system(pool("main", *(f"a-{n}" for n in range(1, 6)), strategy=Strategy.STICKY))


async def asked(orchestrator: Orchestrator, session: str | None) -> str:
    return (await orchestrator.chat(ask(session=session))).account


async def test_each_session_stays_where_it_was(machine):
    sessions = [None, *(f"s-{number}" for number in range(40))]
    async with machine.run(STICKY, killed=True) as (orchestrator, _):
        where = {session: await asked(orchestrator, session) for session in sessions}
        assert len(set(where.values())) == 5
    for _ in range(2):
        async with machine.run(STICKY, killed=True) as (orchestrator, _):
            random.Random(3).shuffle(sessions)
            assert {session: await asked(orchestrator, session) for session in sessions} == where


async def test_a_drain_moves_sessions_for_good(machine):
    async with machine.run(STICKY) as (orchestrator, _):
        was = await asked(orchestrator, "s")
        orchestrator.execute(Drain(was, "maintenance"))
        now_at = await asked(orchestrator, "s")
        assert now_at != was
    async with machine.run(STICKY) as (orchestrator, _):
        assert await asked(orchestrator, "s") == now_at
        orchestrator.execute(Disable(now_at, "too dear"))
    async with machine.run(STICKY) as (orchestrator, _):
        assert await asked(orchestrator, "s") not in (was, now_at)


async def test_sessions_of_a_pool_that_is_not_sticky_any_more_are_let_go(machine):
    async with machine.run(STICKY) as (orchestrator, _):
        await asked(orchestrator, "s")
        await written(orchestrator)
        orchestrator.execute(SetStrategy("main", Strategy.LRU))
    found = await SqliteStateStore(machine.store.path).load((), ())
    assert found == SystemState(found.accounts, found.providers, {})


async def test_what_a_rehearsal_binds_is_not_kept(machine):
    async with machine.run(STICKY, killed=True) as (orchestrator, _):
        was = await asked(orchestrator, "s")
        await written(orchestrator)
        with orchestrator.rehearsal([was]) as rehearsal:
            rehearsal.execute(OpenCircuit(CircuitTarget(CircuitScope.ACCOUNT, was), "drill"))
            assert await asked(orchestrator, "s") != was
            await written(orchestrator)
            await die(orchestrator)
    async with machine.run(STICKY) as (orchestrator, _):
        assert await asked(orchestrator, "s") == was


# -- history ---------------------------------------------------------------------------------

PAIR = system(pool("main", "a-1", "a-2"), pool("other", "b-1"))


async def test_history_tells_of_each_request_what_became_of_it_over_restarts(machine):
    async with machine.run(PAIR, killed=True) as (orchestrator, clock):
        assert await orchestrator.history() == ()
        for account in ("a-1", "a-2"):
            machine.upstream.always(account, [failure(ErrorCategory.API_FAILURE, http_status=500)])
        first = await orchestrator.chat(ask("secret question", id="one", origin=Origin.CHAT))
        clock.advance(1.0)
        secret = "sk-" + "x" * 40
        machine.upstream.queue("a-1", [failure(ErrorCategory.INVALID_REQUEST, message=f"no {secret}")])
        with pytest.raises(RequestError):
            await orchestrator.chat(ask(pin="a-1", id="two"))
        clock.advance(1.0)
        machine.upstream.defaults.clear()
        async with under_way(orchestrator, machine, "a-2", id="three"):
            pass
    async with machine.run(PAIR) as (orchestrator, _):
        three, two, one = await orchestrator.history()
        assert (one.request_id, one.chain, one.origin) == ("one", "default", Origin.CHAT)
        assert (one.ending, one.account, one.pool, one.at) == (Ending.ANSWERED, "b-1", "other", EPOCH)
        assert [attempt.account for attempt in one.attempts] == [a.account for a in first.attempts]
        assert one.attempts[0].category is ErrorCategory.API_FAILURE
        assert one.attempts[-1].result is AttemptResult.SUCCESS
        assert (one.input_tokens, one.output_tokens, one.latency_s) == (10, 5, first.latency_s)
        assert one.recovery is not None
        assert one.recovery.final_account == "b-1"
        assert (two.ending, two.account, two.at) == (Ending.FAILED, "", EPOCH + 1.0)
        assert "invalid_request" in two.error
        assert secret not in two.error
        assert (three.ending, three.chain, three.recovery) == (Ending.CANCELLED, "default", None)
        assert three.attempts[0].result is AttemptResult.CANCELLED
        assert await orchestrator.history(1) == (three,)
        assert await orchestrator.history(since=EPOCH + 1.0) == (three, two)
        assert "secret question" not in repr((one, two, three))


async def test_what_has_just_ended_is_in_the_history_also_while_nothing_can_be_written(machine):
    machine.store.path.mkdir(parents=True)
    async with machine.run(PAIR) as (orchestrator, clock):
        for number in range(3):
            await orchestrator.chat(ask(id=f"r{number}"))
            clock.advance(1.0)
        assert [past.request_id for past in await orchestrator.history()] == ["r2", "r1", "r0"]
        assert [past.request_id for past in await orchestrator.history(1)] == ["r2"]


async def test_without_a_store_there_is_no_history(machine):
    async with Orchestrator(PAIR, provider_factory=machine.upstream.provider) as orchestrator:
        await orchestrator.chat(ask())
        assert await orchestrator.history() == ()


async def test_figures_go_on_from_the_last_hour(machine):
    async with machine.run(PAIR, killed=True) as (orchestrator, clock):
        for number in range(12):
            if number % 3 == 0:
                machine.upstream.queue("a-1", [failure(ErrorCategory.API_FAILURE, http_status=500)])
                machine.upstream.queue("a-2", [failure(ErrorCategory.API_FAILURE, http_status=500)])
            await orchestrator.chat(ask(timeout_s=1.0))
            clock.advance(2.0)
        machine.upstream.queue("b-1", [failure(ErrorCategory.INVALID_REQUEST)])
        with pytest.raises(RequestError):
            await orchestrator.chat(ask(pin="b-1"))
        before = orchestrator.snapshot()
        assert before.recovery.overall.recoveries
    async with machine.run(PAIR, after_s=1.0) as (orchestrator, clock):
        after = orchestrator.snapshot()
        assert after.recovery == before.recovery
        assert after.latency.counts == before.latency.counts
        assert after.first_token.counts == before.first_token.counts
        assert after.traffic.total_requests == before.traffic.total_requests == 13
        assert after.traffic.total_failed == before.traffic.total_failed == 1
        assert (after.traffic.success_rate, after.traffic.in_flight) == (before.traffic.success_rate, 0)
        assert after.traffic.fallback_rate == before.traffic.fallback_rate
        assert sum(after.traffic.requests_series) == 13
        for name in ("main", "other"):
            assert _pool(after, name).fairness == _pool(before, name).fairness
        clock.advance(HOUR_S + 60.0)
        await orchestrator.chat(ask())
        assert sum(orchestrator.snapshot().latency.counts) == 1
    async with machine.run(PAIR, after_s=RESTORED_S + 1.0) as (orchestrator, _):
        fresh = orchestrator.snapshot()
        assert fresh.traffic.total_requests == 0
        assert fresh.recovery.overall.recoveries == 0
        assert len(await orchestrator.history()) == 14


def _pool(snapshot, name: str):
    return next(pool for pool in snapshot.pools if pool.name == name)


async def test_history_from_a_clock_that_ran_ahead_is_no_figure_of_now(machine):
    store = SqliteStateStore(machine.store.path, clock=FakeClock(EPOCH + 9e6))
    ahead = PastRequest("p", EPOCH + 9e6, "r", "", Origin.API, Ending.FAILED, (), 1.0)
    await store.keep_history((ahead,))
    await store.aclose()
    async with machine.run(PAIR) as (orchestrator, _):
        assert orchestrator.snapshot().traffic.total_requests == 0
        assert await orchestrator.history() == (ahead,)


async def test_a_memory_store_carries_all_of_it_from_one_orchestrator_to_the_next():
    upstream, clock = ScriptedUpstream(), FakeClock()
    store = MemoryStateStore(clock=clock)
    for number in range(3):
        orchestrator = Orchestrator(STICKY, clock=clock, provider_factory=upstream.provider, store=store)
        async with orchestrator:
            assert orchestrator.snapshot().traffic.total_requests == number
            assert len(await orchestrator.history()) == number
            await orchestrator.chat(ask(session="s"))
            other = "a-5" if upstream.accounts_called()[0] != "a-5" else "a-4"
            orchestrator.execute(Drain(other, "maintenance"))
        clock.advance(1.0)
    assert len(set(upstream.accounts_called())) == 1


async def test_a_change_right_before_an_interrupted_look_is_not_lost(machine):
    spec = system(pool("main", *(f"a-{number}" for number in range(200))))
    async with machine.run(spec) as (orchestrator, _):
        for number in range(200):
            orchestrator.execute(Drain(f"a-{number}", "maintenance"))
        look = asyncio.create_task(orchestrator._persistence._save_changes())
        await asyncio.sleep(0)
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
    async with machine.run(spec) as (orchestrator, _):
        reasons = {account.admin_reason for account in orchestrator.snapshot().pools[0].accounts}
        assert reasons == {"maintenance"}


async def test_a_stream_left_standing_by_its_reader_holds_nothing_after_the_end(machine):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK,))))
    pause = Pause()
    machine.upstream.queue("a-1", [Chunk("Hello"), pause])
    async with machine.run(spec) as (orchestrator, _):
        answer = orchestrator.stream(ask(pin="a-1"))
        async for event in answer:
            assert not isinstance(event, RequestFinished)
            if type(event).__name__ == "Delta":
                break
        await written(orchestrator)
        await orchestrator.aclose()
        await answer.aclose()
    async with machine.run(spec) as (orchestrator, _):
        assert held(orchestrator) == [0]
