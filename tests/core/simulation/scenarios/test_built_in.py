"""Every scenario that comes along passes, and every one of its expectations is able to fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smartfallback import RunState, StepState
from smartfallback.simulation.scenarios import runner
from smartfallback.simulation.scenarios.evidence import Evidence
from smartfallback.simulation.scenarios.judging import judge
from smartfallback.simulation.scenarios.loading import built_in
from smartfallback.simulation.scenarios.model import Expected, Scenario
from support.broken_scenarios import contraries
from support.scenarios import hasty, offer, playing

SCENARIOS = built_in()
SPECIFIED = {
    "sunday-reset",
    "slow-first-token",
    "cut-stream",
    "malformed-stream",
    "flapping-provider",
    "auth-revoked",
    "thundering-herd",
    "slow-local-model",
    "redis-loss",
}


def test_all_that_are_specified_come_along():
    assert [each.edge_case for each in SCENARIOS.values()][:6] == [1, 2, 3, 4, 5, 6]
    assert {each.name for each in SCENARIOS.values() if each.edge_case is None} == SPECIFIED
    titles = [[step.title for step in each.steps] for each in SCENARIOS.values()]
    assert all(len(set(each)) == len(each) for each in titles)


async def played(scenario: Scenario):
    async with playing() as running:
        offer(running, scenario)
        running.simulator.start(scenario.name, seed=7)
        view = await running.simulator.wait()
        assert running.injector.active() == ()
        return view


@pytest.mark.parametrize("name", SCENARIOS)
async def test_it_passes_and_each_expectation_can_fail(name, monkeypatch):
    seen: dict[int, tuple[Expected, Evidence]] = {}

    def recorded(expected, evidence):
        seen[id(expected)] = expected, evidence
        return judge(expected, evidence)

    monkeypatch.setattr(runner, "judge", recorded)
    scenario = SCENARIOS[name]
    view = await played(scenario)
    assert (view.state, view.failed_step) == (RunState.PASSED, ""), view.steps
    assert {step.state for step in view.steps} == {StepState.PASSED}
    for step in scenario.steps:
        expected, evidence = seen[id(step.expect)]
        assert all(check.passed for check in judge(expected, evidence))
        broken = list(contraries(expected, evidence))
        assert broken
        for field, contrary, changed in broken:
            checks = judge(contrary, changed)
            assert any(check.passed is False for check in checks), (step.title, field, checks)


def with_expectation_broken(scenario: Scenario, at: int) -> Scenario:
    """The scenario with one step that expects that more calls fail than are made."""
    step = scenario.steps[at]
    broken = Expected(least_tries=((step.expect and next(iter(scenario.roles)), 10_000),))
    steps = (*scenario.steps[:at], replace(step, expect=broken), *scenario.steps[at + 1 :])
    return hasty(replace(scenario, steps=steps))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_run_fails_at_the_step_that_is_broken_and_goes_no_further(name):
    scenario = SCENARIOS[name]
    at = len(scenario.steps) // 2 if name != "malformed-stream" else 1
    view = await played(with_expectation_broken(scenario, at))
    assert (view.state, view.failed_step) == (RunState.FAILED, scenario.steps[at].title)
    states = [step.state for step in view.steps]
    assert states[at] is StepState.FAILED
    assert set(states[:at]) <= {StepState.PASSED}
    assert set(states[at + 1 :]) <= {StepState.SKIPPED}


@pytest.mark.parametrize("name", [name for name, each in SCENARIOS.items() if each.drills])
async def test_without_its_faults_a_scenario_fails_at_the_step_that_needs_them(name):
    scenario = SCENARIOS[name]
    at = next(index for index, step in enumerate(scenario.steps) if step.drills)
    steps = tuple(replace(step, drills=()) for step in scenario.steps)
    view = await asyncio.wait_for(played(hasty(replace(scenario, steps=steps))), 30.0)
    assert (view.state, view.failed_step) == (RunState.FAILED, scenario.steps[at].title)
