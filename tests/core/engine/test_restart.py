"""What an operator finds again after a restart: every wait, every order given, every count."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import (
    AccountSpec,
    AdminState,
    CircuitScope,
    CircuitSettings,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    Disable,
    Drain,
    Enable,
    ErrorCategory,
    ForceFailover,
    OpenCircuit,
    Orchestrator,
    QuotaReset,
    QuotaStatus,
    QuotaUnit,
    RequestError,
    Resume,
    Secret,
    SetCircuitMode,
    SkipReason,
    SqliteStateStore,
    StateNotice,
    Strategy,
    SystemSpec,
    WindowKind,
    WindowSpec,
)
from smartfallback.providers.base import Chunk
from support.clock import EPOCH, FakeClock
from support.scripted import Pause, ScriptedUpstream, ask, failure, pool, system

WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000_000, "sun 00:00 UTC")
SLIDING = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 100_000)
A1 = CircuitTarget(CircuitScope.ACCOUNT, "a-1")
MAIN = CircuitTarget(CircuitScope.PROVIDER, "main-api")
DAY_S = 86_400.0


class Process:
    """A system that is stopped and started again on one file, each time with another monotonic clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.upstream = ScriptedUpstream()
        self.wall = EPOCH
        self.up_s = 0.0

    @asynccontextmanager
    async def run(
        self, spec: SystemSpec, *, after_s: float = 0.0
    ) -> AsyncIterator[tuple[Orchestrator, FakeClock]]:
        """Run from ``after_s`` seconds after the last run's end, on a machine that was booted anew."""
        self.up_s = (self.up_s + 12_345.0) % 20_000.0
        clock = FakeClock(self.wall + after_s - self.up_s)
        clock.advance(self.up_s)
        async with Orchestrator(
            spec,
            clock=clock,
            rng=random.Random(1),
            provider_factory=self.upstream.provider,
            store=SqliteStateStore(self.path, clock=clock),
        ) as orchestrator:
            yield orchestrator, clock
        self.wall = clock.time()


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path / "state" / "state.db")


async def provoke(
    orchestrator: Orchestrator, process: Process, account: str, category: ErrorCategory, **fields
):
    process.upstream.queue(account, [failure(category, **fields)])
    with pytest.raises(RequestError):
        await orchestrator.chat(ask(pin=account, timeout_s=1.0, model=fields.get("model")))


async def test_a_cooldown_ends_to_the_second_when_it_was_stated_to(process):
    spec = system(pool("main", "a-1", "a-2"))
    async with process.run(spec) as (orchestrator, clock):
        clock.advance(1_000.0)
        await provoke(orchestrator, process, "a-1", ErrorCategory.RATE_LIMIT, retry_after_s=300.0)
        back_at = clock.time() + 300.0
        assert orchestrator.snapshot().account("a-1").cooldown_until == back_at
    async with process.run(spec, after_s=100.0) as (orchestrator, clock):
        account = orchestrator.snapshot().account("a-1")
        assert account.cooldown_until == pytest.approx(back_at, abs=0.01)
        assert account.cooldown_reason == "rate_limit: scripted"
        clock.advance(199.0)
        with pytest.raises(RequestError) as refused:
            await orchestrator.chat(ask(pin="a-1"))
        assert refused.value.next_available_at == pytest.approx(back_at, abs=0.01)
        clock.advance(1.5)
        assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"


async def test_a_long_wall_stands_until_the_stated_time_with_its_reason(process):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK,)), "a-2"))
    back_at = EPOCH + 3 * DAY_S
    async with process.run(spec) as (orchestrator, _):
        await provoke(
            orchestrator,
            process,
            "a-1",
            ErrorCategory.QUOTA_EXHAUSTED,
            resets_at=back_at,
            message="weekly limit",
        )
    async with process.run(spec, after_s=2 * DAY_S) as (orchestrator, clock):
        account = orchestrator.snapshot().account("a-1")
        assert account.quota.status is QuotaStatus.EXHAUSTED
        assert account.quota.exhausted_until == back_at
        assert account.skip.reason is SkipReason.QUOTA_EXHAUSTED
        for _ in range(20):
            assert (await orchestrator.chat(ask())).account == "a-2"
        clock.advance(DAY_S + 1.0)
        orchestrator.execute(Drain("a-2"))
        assert (await orchestrator.chat(ask())).account == "a-1"


async def test_what_the_operator_ordered_stays_ordered(process):
    spec = system(pool("main", "a-1", "a-2", "a-3", "a-4"))
    async with process.run(spec) as (orchestrator, _):
        assert orchestrator.execute(Drain("a-1", "key rotation")).ok
        assert orchestrator.execute(Disable("a-2", "too dear")).ok
        assert orchestrator.execute(Drain("a-3")).ok
        assert orchestrator.execute(Resume("a-3")).ok
    async with process.run(spec, after_s=30 * DAY_S) as (orchestrator, _):
        snapshot = orchestrator.snapshot()
        found = [
            (snapshot.account(f"a-{n}").admin, snapshot.account(f"a-{n}").admin_reason) for n in range(1, 5)
        ]
        assert found == [
            (AdminState.DRAINED, "key rotation"),
            (AdminState.DISABLED, "too dear"),
            (AdminState.ACTIVE, ""),
            (AdminState.ACTIVE, ""),
        ]
        assert {(await orchestrator.chat(ask())).account for _ in range(30)} == {"a-3", "a-4"}
        assert orchestrator.execute(Enable("a-2")).ok
    async with process.run(spec) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-2").admin is AdminState.ACTIVE


async def test_an_account_that_was_still_draining_is_drained_after_the_restart(process):
    spec = system(pool("main", "a-1", "a-2"))
    pause = Pause()
    process.upstream.queue("a-1", [Chunk("Hello"), pause])
    async with process.run(spec) as (orchestrator, _):
        answer = orchestrator.stream(ask(pin="a-1"))
        async for event in answer:
            if type(event).__name__ == "Delta":
                break
        orchestrator.execute(Drain("a-1", "going"))
        assert orchestrator.snapshot().account("a-1").admin is AdminState.DRAINING
        # The process ends while the answer still runs: what is kept is what was.
        await orchestrator.aclose()
        await answer.aclose()
    async with process.run(spec) as (orchestrator, _):
        account = orchestrator.snapshot().account("a-1")
        assert (account.admin, account.admin_reason) == (AdminState.DRAINED, "going")
        assert account.in_flight == 0


@pytest.mark.parametrize("target", [A1, MAIN])
async def test_a_circuit_forced_open_without_end_stays_so_until_an_operator_lifts_it(process, target):
    spec = system(pool("main", "a-1"), pool("other", "b-1"))
    async with process.run(spec) as (orchestrator, _):
        assert orchestrator.execute(OpenCircuit(target, "incident 42")).ok
    for _ in range(2):
        async with process.run(spec, after_s=400 * DAY_S) as (orchestrator, _):
            view = circuit_of(orchestrator, target)
            assert (view.state, view.until, view.cause) == (CircuitState.FORCED_OPEN, None, "incident 42")
            assert view.since == pytest.approx(EPOCH, abs=0.01)
            assert (await orchestrator.chat(ask())).account == "b-1"
    async with process.run(spec) as (orchestrator, _):
        orchestrator.execute(CloseCircuit(target, "over"))
    async with process.run(spec) as (orchestrator, _):
        assert circuit_of(orchestrator, target).state is CircuitState.CLOSED
        assert (await orchestrator.chat(ask())).account == "a-1"


@pytest.mark.parametrize("mode", [CircuitState.OBSERVE_ONLY, CircuitState.DISABLED])
@pytest.mark.parametrize("target", [A1, MAIN])
async def test_the_mode_of_a_circuit_that_an_operator_set_stays_set(process, target, mode):
    spec = system(pool("main", "a-1"), pool("other", "b-1"))
    async with process.run(spec) as (orchestrator, _):
        assert orchestrator.execute(SetCircuitMode(target, mode, "trial week")).ok
    for _ in range(2):
        async with process.run(spec, after_s=400 * DAY_S) as (orchestrator, _):
            view = circuit_of(orchestrator, target)
            assert (view.state, view.cause) == (mode, "trial week")
            assert (await orchestrator.chat(ask())).account == "a-1"
    async with process.run(spec) as (orchestrator, _):
        orchestrator.execute(SetCircuitMode(target, CircuitState.CLOSED, "over"))
    async with process.run(spec) as (orchestrator, _):
        assert circuit_of(orchestrator, target).state is CircuitState.CLOSED


async def test_a_circuit_configured_to_observe_stays_closed_once_an_operator_closed_it(process):
    observing = CircuitSettings(initial_state=CircuitState.OBSERVE_ONLY)
    spec = system(pool("main", "a-1", "a-2", account_circuit=observing))
    async with process.run(spec) as (orchestrator, _):
        assert orchestrator.execute(CloseCircuit(A1, "it has proved itself")).ok
    async with process.run(spec) as (orchestrator, _):
        assert circuit_of(orchestrator, A1).state is CircuitState.CLOSED
        assert orchestrator.snapshot().account("a-2").circuit.state is CircuitState.OBSERVE_ONLY


@settings(max_examples=12, deadline=None)
@given(
    held_s=st.floats(1.0, 10 * DAY_S),
    ran_s=st.floats(0.0, DAY_S),
    offs_s=st.lists(st.floats(0.0, 3 * DAY_S), min_size=1, max_size=3),
    by_failover=st.booleans(),
)
async def test_a_restart_never_shortens_a_forced_open(tmp_path_factory, held_s, ran_s, offs_s, by_failover):
    process = Process(tmp_path_factory.mktemp("state") / "state.db")
    spec = system(pool("main", "a-1"), pool("other", "b-1"))
    command = ForceFailover if by_failover else OpenCircuit
    async with process.run(spec) as (orchestrator, clock):
        clock.advance(ran_s)
        ends_at = clock.time() + held_s
        assert orchestrator.execute(command(A1, "held", duration_s=held_s)).ok
    for off_s in offs_s:
        async with process.run(spec, after_s=off_s) as (orchestrator, clock):
            view = circuit_of(orchestrator, A1)
            # An epoch second is a float with a step of a quarter of a microsecond.
            if clock.time() < ends_at - 1e-3:
                assert view.state is CircuitState.FORCED_OPEN
                assert view.until == pytest.approx(ends_at, abs=1e-3)
                assert (await orchestrator.chat(ask())).account == "b-1"
            elif clock.time() > ends_at + 1e-3:
                assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"
                return


async def test_an_open_circuit_waits_out_its_break_and_the_next_one_is_longer(process):
    circuit = CircuitSettings(failure_threshold=1, recovery_timeout_s=100.0, recovery_jitter=0.0)
    spec = system(pool("main", "a-1", account_circuit=circuit), pool("other", "b-1"))
    async with process.run(spec) as (orchestrator, clock):
        await provoke(orchestrator, process, "a-1", ErrorCategory.MALFORMED_RESPONSE)
        clock.advance(101.0)
        await provoke(orchestrator, process, "a-1", ErrorCategory.MALFORMED_RESPONSE)
        view = circuit_of(orchestrator, A1)
        assert view.state is CircuitState.OPEN
        assert view.until == pytest.approx(clock.time() + 200.0, abs=0.01)
        until = view.until
    async with process.run(spec, after_s=150.0) as (orchestrator, clock):
        assert circuit_of(orchestrator, A1).until == pytest.approx(until, abs=0.01)
        assert (await orchestrator.chat(ask())).account == "b-1"
        clock.advance(51.0)
        await provoke(orchestrator, process, "a-1", ErrorCategory.MALFORMED_RESPONSE)
        assert circuit_of(orchestrator, A1).until == pytest.approx(clock.time() + 400.0, abs=0.01)
    async with process.run(spec, after_s=1_000.0) as (orchestrator, _):
        assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"
        assert circuit_of(orchestrator, A1).state is CircuitState.CLOSED


async def test_the_one_test_after_a_rate_limit_is_still_due_after_the_restart(process):
    spec = system(pool("main", "a-1"), pool("other", "b-1"))
    async with process.run(spec) as (orchestrator, _):
        await provoke(orchestrator, process, "a-1", ErrorCategory.RATE_LIMIT, retry_after_s=30.0)
        assert circuit_of(orchestrator, A1).state is CircuitState.HALF_OPEN
    async with process.run(spec, after_s=31.0) as (orchestrator, clock):
        await provoke(orchestrator, process, "a-1", ErrorCategory.MALFORMED_RESPONSE)
        view = circuit_of(orchestrator, A1)
        assert view.state is CircuitState.OPEN
        assert view.until == pytest.approx(clock.time() + 120.0, abs=0.01)


async def test_a_rest_of_one_model_leaves_the_others_usable_after_the_restart_too(process):
    spec = system(pool("main", "a-1"))
    async with process.run(spec) as (orchestrator, clock):
        await provoke(
            orchestrator,
            process,
            "a-1",
            ErrorCategory.QUOTA_EXHAUSTED,
            model="big",
            resets_at=clock.time() + 5_000.0,
        )
    async with process.run(spec, after_s=4_000.0) as (orchestrator, clock):
        with pytest.raises(RequestError):
            await orchestrator.chat(ask(model="big"))
        assert (await orchestrator.chat(ask(model="small"))).account == "a-1"
        clock.advance(1_001.0)
        assert (await orchestrator.chat(ask(model="big"))).model == "big"


async def test_use_goes_on_from_where_it_was_and_a_changed_limit_keeps_it(process):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK, SLIDING))))
    async with process.run(spec) as (orchestrator, clock):
        clock.advance(10.0)
        for _ in range(4):
            await orchestrator.chat(ask())
        before = orchestrator.snapshot().account("a-1")
        assert [window.used for window in before.quota.windows] == [60, 60]
    async with process.run(spec, after_s=60.0) as (orchestrator, _):
        after = orchestrator.snapshot().account("a-1")
        assert after.quota == before.quota
        assert (after.requests, after.tokens, after.last_used_at) == (4, 60, before.last_used_at)
        await orchestrator.chat(ask())
        assert [w.used for w in orchestrator.snapshot().account("a-1").quota.windows] == [75, 75]
    halved = system(pool("main", AccountSpec("a-1", quota=(replace(WEEK, limit=500_000), SLIDING))))
    async with process.run(halved) as (orchestrator, _):
        windows = orchestrator.snapshot().account("a-1").quota.windows
        assert [(window.limit, window.used) for window in windows] == [(500_000, 75), (100_000, 75)]


async def test_windows_that_ended_while_it_was_off_begin_anew_and_are_told(process):
    spec = system(pool("main", AccountSpec("a-1", quota=(WEEK, SLIDING))))
    async with process.run(spec) as (orchestrator, _):
        await orchestrator.chat(ask())
    clock = FakeClock(process.wall + 7 * DAY_S)
    orchestrator = Orchestrator(
        spec,
        clock=clock,
        provider_factory=process.upstream.provider,
        store=SqliteStateStore(process.path, clock=clock),
    )
    events = orchestrator.subscribe()
    async with orchestrator:
        windows = orchestrator.snapshot().account("a-1").quota.windows
        assert [window.used for window in windows] == [0, 0]
        assert windows[0].resets_at > clock.time()
        assert windows[1].resets_at is None
        told = [
            (event.window, event.used_before) for event in events.drain()[0] if isinstance(event, QuotaReset)
        ]
        assert told == [("week", 15), ("5h", 15)]


async def test_the_least_recently_used_account_is_the_same_after_a_restart(process):
    spec = system(pool("main", "a-1", "a-2", "a-3", strategy=Strategy.LRU))
    async with process.run(spec) as (orchestrator, clock):
        for name in ("a-2", "a-3", "a-1"):
            clock.advance(1.0)
            await orchestrator.chat(ask(pin=name))
    async with process.run(spec, after_s=5.0) as (orchestrator, clock):
        order = []
        for _ in range(3):
            clock.advance(1.0)
            order.append((await orchestrator.chat(ask())).account)
        assert order == ["a-2", "a-3", "a-1"]


def refused(key: str) -> SystemSpec:
    return system(pool("main", AccountSpec("a-1", api_key=Secret(key)), "a-2"))


async def test_refused_credentials_stay_refused_until_they_are_replaced(process):
    async with process.run(refused("first-key")) as (orchestrator, _):
        await provoke(orchestrator, process, "a-1", ErrorCategory.AUTHENTICATION, message="key revoked")
    async with process.run(refused("first-key"), after_s=60.0) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1").attention == "authentication: key revoked"
    async with process.run(refused("second-key"), after_s=60.0) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1").attention == ""
        assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"


async def test_refused_credentials_are_tried_again_at_a_restart_an_hour_later(process):
    async with process.run(refused("first-key")) as (orchestrator, _):
        await provoke(orchestrator, process, "a-1", ErrorCategory.AUTHENTICATION)
    async with process.run(refused("first-key"), after_s=3_601.0) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1").attention == ""


async def test_no_secret_is_ever_in_the_file(process):
    key = "sk-" + "Zq7" * 12
    spec = system(
        pool(
            "main", AccountSpec("a-1", api_key=Secret(key)), AccountSpec("a-2", api_key=Secret("plain-word"))
        )
    )
    async with process.run(spec) as (orchestrator, _):
        orchestrator.execute(Drain("a-1", f"rotate {key} now"))
        orchestrator.execute(OpenCircuit(MAIN, f"leaked {key}"))
        orchestrator.execute(OpenCircuit(CircuitTarget(CircuitScope.ACCOUNT, "a-2"), "leaked plain-word"))
    written = b"".join(path.read_bytes() for path in process.path.parent.iterdir())
    assert b"rotate ***" in written
    assert b"leaked ***" in written
    assert key.encode() not in written
    assert b"plain-word" not in written


async def test_state_of_accounts_that_are_not_configured_for_a_while_comes_back_with_them(process):
    both, one = system(pool("main", "a-1", "a-2")), system(pool("main", "a-2"))
    async with process.run(both) as (orchestrator, _):
        orchestrator.execute(Drain("a-1", "gone for a while"))
    async with process.run(one, after_s=60 * DAY_S) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1") is None
    async with process.run(both, after_s=20 * DAY_S) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1").admin is AdminState.DRAINED


async def test_state_of_accounts_that_nobody_configures_is_forgotten_after_ninety_days(process):
    both, one = system(pool("main", "a-1", "a-2")), system(pool("main", "a-2"))
    async with process.run(both) as (orchestrator, _):
        orchestrator.execute(Drain("a-1"))
        orchestrator.execute(Drain("a-2"))
    async with process.run(one, after_s=91 * DAY_S) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-2").admin is AdminState.DRAINED
    async with process.run(both) as (orchestrator, _):
        assert orchestrator.snapshot().account("a-1").admin is AdminState.ACTIVE
        assert orchestrator.snapshot().account("a-2").admin is AdminState.DRAINED


async def test_a_step_of_the_wall_clock_moves_what_is_saved_with_it(process):
    spec = system(pool("main", "a-1"), pool("other", "b-1"))
    async with process.run(spec) as (orchestrator, clock):
        orchestrator.execute(OpenCircuit(A1, "held", duration_s=7_200.0))
        orchestrator.execute(OpenCircuit(MAIN, "held", duration_s=7_200.0))
    async with process.run(spec) as (orchestrator, clock):
        clock.step_wall_clock(3_600.0)
        clock.advance(60.0)
    async with process.run(spec) as (orchestrator, clock):
        for target in (A1, MAIN):
            assert circuit_of(orchestrator, target).until == pytest.approx(clock.time() + 7_140.0, abs=0.01)


async def test_a_file_that_can_not_be_used_costs_nothing_but_the_memory_of_it(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    upstream = ScriptedUpstream()
    orchestrator = Orchestrator(
        system(pool("main", "a-1")),
        provider_factory=upstream.provider,
        store=SqliteStateStore(blocked / "state.db"),
    )
    events = orchestrator.subscribe()
    async with orchestrator:
        assert (await orchestrator.chat(ask())).account == "a-1"
    notices = [event.message for event in events.drain()[0] if isinstance(event, StateNotice)]
    assert len(notices) == 1
    assert "in memory only" in notices[0]
    assert blocked.read_text() == "not a folder"


async def test_without_a_store_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    async with Orchestrator(
        system(pool("main", "a-1")), provider_factory=ScriptedUpstream().provider
    ) as orchestrator:
        await orchestrator.chat(ask())
    assert list(tmp_path.iterdir()) == []


def circuit_of(orchestrator: Orchestrator, target: CircuitTarget):
    snapshot = orchestrator.snapshot()
    if target.scope is CircuitScope.PROVIDER:
        return next(p.provider_circuit for p in snapshot.pools if p.provider_id == target.name)
    return snapshot.account(target.name).circuit
