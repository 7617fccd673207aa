"""A product that is worse on purpose does not pass the scenario that is about it."""

from __future__ import annotations

from dataclasses import replace

from smartfallback import RunState
from smartfallback.policy.circuit_machine import CircuitMachine
from smartfallback.policy.circuit_probes import Probes
from smartfallback.simulation.scenarios.loading import built_in
from support.scenarios import hasty, offer, playing


async def failed(name):
    """The step at which it fails, and what was expected and not observed there."""
    scenario = built_in()[name]
    steps = tuple(
        replace(step, traffic=step.traffic and replace(step.traffic, timeout_s=4.0))
        for step in scenario.steps
    )
    async with playing() as running:
        offer(running, hasty(replace(scenario, steps=steps)))
        running.simulator.start(name, seed=7)
        view = await running.simulator.wait()
    assert view.state is RunState.FAILED
    step = next(each for each in view.steps if each.title == view.failed_step)
    return view.failed_step, [check.expected for check in step.checks if check.passed is False]


async def test_a_half_open_circuit_that_lets_the_herd_through(monkeypatch):
    monkeypatch.setattr(Probes, "room", lambda self, now: True)
    step, missed = await failed("thundering-herd")
    assert step == "Half-open with many callers: a few probes, and all are answered"
    assert "at most 3 attempts at antigravity" in missed


async def test_a_circuit_that_never_opens(monkeypatch):
    monkeypatch.setattr(CircuitMachine, "_open", lambda self, now, cause: None)
    step, missed = await failed("edge-2-api-down")
    assert step == "The API answers 500: its circuit opens, requests go to the second pool"
    assert "at most 5 calls meet the fault, as many as open the circuit" in missed
