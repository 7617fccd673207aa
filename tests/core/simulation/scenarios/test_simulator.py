"""Starting and stopping: whatever happens to a run, all is as it was before."""

from __future__ import annotations

import asyncio
import stat
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest

from smartfallback import Caps, Drain, RunHistory, RunState, Simulator, StepState, SystemClock
from smartfallback.simulation.demo import demo
from smartfallback.simulation.drills.drill import Drill, DrillScope, DrillTarget
from smartfallback.simulation.faults import HttpStatus
from smartfallback.simulation.scenarios.loading import built_in
from support.scenarios import playing

AG_1 = DrillTarget(DrillScope.ACCOUNT, "ag-1")


def standing(running):
    """What must not be changed by a rehearsal."""
    snapshot = running.orchestrator.snapshot()
    return [
        (
            account.id,
            account.admin,
            account.attention,
            account.circuit.state,
            account.model_circuits,
            account.cooldown_until,
            account.quota.exhausted_until,
            account.quota.status,
            round(account.quota.bound.percent) if account.quota.bound else None,
            account.in_flight,
        )
        for pool in snapshot.pools
        for account in pool.accounts
    ] + [(pool.name, pool.provider_circuit.state) for pool in snapshot.pools]


async def until(condition):
    async with asyncio.timeout(20.0):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def quotas_read(running):
    def known():
        snapshot = running.orchestrator.snapshot()
        return all(snapshot.account(name).quota_source for name in ("ag-1", "ag-8", "cp-1", "cp-2"))

    await until(known)


@pytest.mark.parametrize("name", ["edge-2-api-down", "edge-5-rapid-exhaustion", "auth-revoked"])
async def test_a_run_that_is_stopped_leaves_nothing_behind(name):
    async with playing() as running:
        await quotas_read(running)
        before = standing(running)
        simulator = running.simulator
        simulator.start(name, seed=1)
        await until(lambda: running.injector.active() and running.injector.active()[0].hits)
        assert simulator.stop()
        view = await simulator.wait()
        assert view.state is RunState.STOPPED
        assert StepState.SKIPPED in {step.state for step in view.steps}
        assert view.note == "stopped"
        assert running.injector.active() == ()
        assert standing(running) == before
        assert simulator.view().history == (view,)
        assert not simulator.stop()
        assert (await simulator.wait()) == view


async def test_a_run_that_passes_leaves_nothing_behind_either():
    async with playing() as running:
        await quotas_read(running)
        running.orchestrator.execute(Drain("ag-3", "by hand"))
        before = standing(running)
        running.simulator.start("edge-1-above-soft-limit")
        view = await running.simulator.wait()
        assert view.state is RunState.PASSED
        assert "ag-3" not in view.path
        assert standing(running) == before


async def test_traffic_and_weather_rest_while_a_scenario_runs_and_go_on_after():
    async with demo(rng=Random(1), pace=20.0, rate_per_s=30.0) as running:
        await until(lambda: running.traffic.counts.answered > 3)
        running.simulator.start("edge-1-above-soft-limit")
        await asyncio.sleep(0)
        await until(lambda: running.traffic.paused)
        assert not running.weather.on
        view = await running.simulator.wait()
        assert view.state is RunState.PASSED
        assert running.weather.on
        assert not running.traffic.paused
        sent = running.traffic.counts.sent
        await until(lambda: running.traffic.counts.sent > sent)


async def test_what_can_not_begin_is_refused_in_a_sentence():
    async with playing() as running:
        simulator = running.simulator
        with pytest.raises(ValueError, match="did you mean edge-2-api-down"):
            simulator.start("edge-2-api-dwon")
        with pytest.raises(ValueError, match="a seed is from 0"):
            simulator.start("edge-2-api-down", seed=-1)
        with pytest.raises(ValueError, match="requests, and 3 are allowed"):
            simulator.start("edge-2-api-down", caps=Caps(requests=3))
        drill = simulator.start_drill(Drill(AG_1, HttpStatus(500)))
        with pytest.raises(ValueError, match="stop them first"):
            simulator.start("edge-2-api-down")
        assert simulator.stop_drill(drill.id)
        simulator.start("edge-2-api-down")
        with pytest.raises(ValueError, match="edge-2-api-down is running"):
            simulator.start("auth-revoked")
        with pytest.raises(ValueError, match="a scenario is running"):
            simulator.start_drill(Drill(AG_1, HttpStatus(500)))
        for name in [f"ag-{number}" for number in range(1, 9)]:
            running.orchestrator.execute(Drain(name))
        simulator.stop()
        await simulator.wait()
        with pytest.raises(ValueError, match="no account of antigravity is in service"):
            simulator.start("edge-2-api-down")


async def test_tokens_end_a_run_when_their_cap_is_reached():
    async with playing() as running:
        running.simulator.start("edge-1-above-soft-limit", caps=Caps(requests=100, tokens=1))
        view = await running.simulator.wait()
        assert (view.state, view.note) == (RunState.STOPPED, "the cap of 1 tokens is reached")
        assert view.requests == 1


@asynccontextmanager
async def guarded(running):
    """A simulator as it is for configured accounts."""
    simulator = Simulator(
        running.orchestrator,
        running.injector,
        SystemClock(),
        Random(1),
        scenarios=built_in(),
        confirm=True,
    )
    yield simulator
    await simulator.aclose()


async def test_configured_accounts_are_asked_after_a_confirmation_only_and_drills_are_rehearsed():
    async with playing() as running, guarded(running) as simulator:
        with pytest.raises(ValueError, match="confirm"):
            simulator.start("edge-1-above-soft-limit")
        assert simulator.view().confirm
        first = simulator.start_drill(Drill(AG_1, HttpStatus(500), duration_s=0.5))
        second = simulator.start_drill(Drill(AG_1._replace(name="ag-2"), HttpStatus(500)))
        with (
            pytest.raises(ValueError, match="part of another rehearsal"),
            running.orchestrator.rehearsal(("ag-5",)),
        ):
            pass
        await until(lambda: len(running.injector.active()) == 1)
        assert not simulator.stop_drill(first.id)
        assert simulator.stop_drill(second.id)
        with running.orchestrator.rehearsal(("ag-5",)):
            pass
        simulator.start_drill(Drill(AG_1, HttpStatus(500)))
        assert simulator.stop_all_drills() == 1
        simulator.start("edge-1-above-soft-limit", confirmed=True)
        assert (await simulator.wait()).state is RunState.PASSED


async def test_the_view_is_the_same_object_while_nothing_changes():
    async with playing() as running:
        await quotas_read(running)
        first = running.simulator.view()
        assert running.simulator.view() is first
        assert [each.name for each in first.scenarios] == list(built_in())
        assert not any(each.lacking for each in first.scenarios)
        touched = {each.name: each.touches for each in first.scenarios}
        assert touched["edge-1-above-soft-limit"] == ()
        assert set(touched["edge-2-api-down"]) == {f"ag-{number}" for number in range(1, 9)}


async def test_history_is_private_bounded_and_survives(tmp_path):
    path = tmp_path / "state" / "simulations.jsonl"
    async with playing() as running:
        running.simulator.start("edge-1-above-soft-limit", seed=4)
        run = await running.simulator.wait()
    history = RunHistory(path)
    for number in range(450):
        history.add(replace(run, id=f"run-{number}"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) <= 400
    with path.open("a") as file:
        file.write('{"version": 1, "id": 3}\nnoise\n')
    again = RunHistory(path)
    assert len(again.runs) == 200
    assert again.runs[0] == replace(run, id="run-449")
    assert again.runs == history.runs


def test_a_history_that_can_not_be_written_says_so_and_goes_on(tmp_path):
    (tmp_path / "state").write_text("no folder")
    history = RunHistory(tmp_path / "state" / "simulations.jsonl")
    assert history.runs == ()
