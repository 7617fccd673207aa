"""The loss of the shared store: on a stand-in, on a real server, and on products that are worse."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest

from smartfallback import (
    ConfigError,
    RunState,
    SharingMode,
    SharingSpec,
    Simulator,
    StateNotice,
    StepState,
    SystemClock,
)
from smartfallback.engine.sharing.leave import Leave
from smartfallback.engine.sharing.sharing import Sharing
from smartfallback.simulation import memory_store
from smartfallback.simulation.drills.drill import SHARED_STORE, Drill
from smartfallback.simulation.drills.store import DrilledStore
from smartfallback.simulation.faults import NoAnswer, Refused
from smartfallback.simulation.scenarios.loading import built_in, load_scenario
from smartfallback.simulation.scenarios.model import Role
from smartfallback.state.redis_store.store import RedisSharedStore
from support.redis_servers import RedisServer
from support.scenarios import hasty, offer, playing
from support.waiting import until

NAME = "redis-loss"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(unix=True) as server:
        yield server


def owned() -> Counter[str]:
    """The product's own tasks; connections of simulated upstreams come and go."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return Counter(name for name in names if name.startswith("smartfallback"))


@asynccontextmanager
async def shared(server: RedisServer, mode: SharingMode = SharingMode.LEASED):
    """A demo whose state is shared through a real server, emptied."""
    server.command("FLUSHALL")
    async with playing(shared=RedisSharedStore(server.url), sharing=SharingSpec(mode, "one")) as running:
        await until(lambda: running.injector.store.status.usable)
        yield running


@pytest.mark.parametrize("mode", SharingMode)
async def test_it_passes_on_a_real_server_which_is_well_afterwards(server, mode):
    async with shared(server, mode) as running:
        events = running.orchestrator.subscribe()
        running.simulator.start(NAME, seed=7)
        view = await running.simulator.wait()
        assert (view.state, view.failed_step, view.played_on) == (RunState.PASSED, "", ""), view.steps
        assert server.url in str(view.steps[1].checks)
        assert running.injector.active() == ()
        notices = [event.message for event in events.drain()[0] if isinstance(event, StateNotice)]
        assert len(notices) == 2
        assert "can't be used (connection refused, by a drill)" in notices[0]
        assert "can be used again" in notices[1]
        seen = running.orchestrator.snapshot().store
        assert (seen.degraded_since, len(seen.instances)) == (None, 1)
        await until(lambda: not running.orchestrator.snapshot().store.unsent)


async def test_one_that_is_stopped_in_the_middle_gives_the_store_back_at_once(server):
    async with shared(server) as running:
        running.simulator.start(NAME, seed=7)
        await until(lambda: running.orchestrator.snapshot().store.degraded_since)
        running.simulator.stop()
        view = await running.simulator.wait()
        assert (view.state, view.note) == (RunState.STOPPED, "stopped")
        assert running.injector.active() == ()
        assert running.orchestrator.snapshot().store.degraded_since is None
        running.simulator.start(NAME, seed=7)
        assert (await running.simulator.wait()).state is RunState.PASSED


async def test_without_a_server_a_second_demo_is_played_on_and_ends_with_the_run():
    async with playing() as running:
        before = owned()
        running.simulator.start(NAME, seed=7)
        view = await running.simulator.wait()
        assert view.state is RunState.PASSED
        assert "stands in for Redis" in view.played_on
        assert "a store in this process that stands in for Redis is well" in str(view.steps[0].checks)
        assert running.orchestrator.snapshot().store.mode is None
        await until(lambda: not owned() - before)


async def test_the_second_demo_ends_with_a_run_that_is_stopped_too():
    async with playing() as running:
        before = owned()
        running.simulator.start(NAME, seed=7)
        await until(lambda: running.simulator.view().current.steps[1].state is not StepState.PENDING)
        running.simulator.stop()
        view = await running.simulator.wait()
        assert (view.state, view.note) == (RunState.STOPPED, "stopped")
        await until(lambda: not owned() - before)


@asynccontextmanager
async def guarded(running):
    """A simulator of accounts that count as real ones."""
    simulator = Simulator(
        running.orchestrator,
        running.injector,
        SystemClock(),
        Random(1),
        scenarios={NAME: built_in()[NAME]},
        confirm=True,
    )
    yield simulator
    await simulator.aclose()


async def test_configured_accounts_that_share_nothing_lack_a_store():
    async with playing() as running, guarded(running) as simulator:
        (known,) = simulator.view().scenarios
        assert "no store is shared with other instances" in known.lacking
        with pytest.raises(ValueError, match="redis-loss can't be run here: no store is shared"):
            simulator.start(NAME, confirmed=True)


async def test_the_store_can_be_taken_away_by_hand(server):
    async with shared(server) as running, guarded(running) as simulator:
        drill = simulator.start_drill(Drill(SHARED_STORE, Refused(), reason="by hand"))
        await until(lambda: running.orchestrator.snapshot().store.degraded_since)
        with running.orchestrator.rehearsal(("ag-5",)):
            pass  # no account is held for it
        assert simulator.stop_drill(drill.id)
        assert running.orchestrator.snapshot().store.degraded_since is None
        simulator.start_drill(Drill(SHARED_STORE, NoAnswer(), duration_s=2.5))
        await until(lambda: running.orchestrator.snapshot().store.degraded_since)
        await until(lambda: running.orchestrator.snapshot().store.degraded_since is None)
        assert simulator.stop_all_drills() == 0


# -- products that are worse --------------------------------------------------------------------


async def failed():
    """What was expected and not observed, and at which step from 0."""
    scenario = built_in()[NAME]
    steps = tuple(
        replace(step, traffic=step.traffic and replace(step.traffic, timeout_s=2.0))
        for step in scenario.steps
    )
    async with playing() as running:
        offer(running, hasty(replace(scenario, steps=steps), 1.0))
        running.simulator.start(NAME, seed=7)
        view = await running.simulator.wait()
    assert view.state is RunState.FAILED, view
    at = next(index for index, step in enumerate(view.steps) if step.state is StepState.FAILED)
    return at, {check.expected for check in view.steps[at].checks if check.passed is False}


async def test_an_engine_that_does_not_go_on_alone(monkeypatch):
    monkeypatch.setattr(Leave, "_widen", lambda self, account: None)
    at, missed = await failed()
    assert at in (1, 2)
    assert "answers come from antigravity only" in missed


async def test_a_change_that_is_told_twice(monkeypatch):
    once = Sharing._store_changed

    def twice(self, status):
        once(self, status)
        once(self, status)

    monkeypatch.setattr(Sharing, "_store_changed", twice)
    assert await failed() == (1, {"1 notice about it"})


async def test_a_change_that_nobody_is_told_of(monkeypatch):
    monkeypatch.setattr(DrilledStore, "_listen_to", lambda self, status: None)
    assert await failed() == (1, {"1 notice about it"})


async def test_a_store_that_counts_a_report_on_top_of_the_one_before(monkeypatch):
    right = memory_store._taken_in

    def on_top(window, told, instance):
        told = replace(told, spent=told.spent and told.spent + window.spent.get(instance, 0.0))
        return right(window, told, instance)

    monkeypatch.setattr(memory_store, "_taken_in", on_top)
    assert await failed() == (0, {"it has counted all that was used, and nothing twice"})


async def test_what_is_used_while_the_store_is_lost_and_never_told(monkeypatch):
    took = DrilledStore.report

    async def forgetful(self, instance, reports, *, lease_s):
        if self.counts.forgets:
            reports = [replace(each, windows=self.counts.forgets[each.account]) for each in reports]
        return await took(self, instance, reports, lease_s=lease_s)

    def lost(self, words):
        self.counts.forgets = dict(self.counts._told)
        degrade(self, words)

    degrade = DrilledStore._lose
    monkeypatch.setattr("smartfallback.simulation.drills.store.StoreCounts.forgets", None, raising=False)
    monkeypatch.setattr(DrilledStore, "report", forgetful)
    monkeypatch.setattr(DrilledStore, "_lose", lost)
    at, missed = await failed()
    assert at == 3
    assert "it has counted all that was used, and nothing twice" in missed


# -- files --------------------------------------------------------------------------------------


def written(tmp_path, drill, traffic="traffic = { requests = 5 }"):
    path = tmp_path / "mine.toml"
    path.write_text(
        f'title = "Mine"\nabout = "What I fear."\n[[steps]]\ntitle = "It is lost"\n{traffic}\n'
        f'drills = [{{ {drill} }}]\nexpect = {{ store = "lost", answered_by = ["first"] }}\n'
    )
    return path


def test_an_own_scenario_can_be_about_the_store(tmp_path):
    mine = load_scenario(written(tmp_path, 'on = "store", fault = "latency", delay_s = 0.2, after = 2'))
    assert mine.needs_store
    assert mine.roles == (Role.FIRST,)
    (drill,) = mine.drills
    assert (drill.on, drill.after) == (None, 2)


@pytest.mark.parametrize(
    ("drill", "problem"),
    [
        ('on = "store", fault = "http-status"', "the shared store can't meet http-status, only refused"),
        ('on = "first", fault = "no-answer"', "no-answer is for the shared store only"),
        ('on = "store", fault = "refused", share = 0.5', "share can't be said of a fault of the shared"),
        ('on = "first", fault = "refused", scope = "store"', 'has on = "store", and no scope'),
        ('on = "store", fault = "refused", after = 5', "would never begin"),
    ],
)
def test_what_no_fault_of_the_store_can_be_is_a_mistake(tmp_path, drill, problem):
    with pytest.raises(ConfigError) as caught:
        load_scenario(written(tmp_path, drill))
    assert problem in str(caught.value)


def test_only_those_that_are_about_the_store_need_one():
    assert [each.name for each in built_in().values() if each.needs_store] == [NAME]
