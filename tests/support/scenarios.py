"""Demos for scenarios, and scenarios made for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import asynccontextmanager
from random import Random

from smartfallback.simulation.demo import Demo, demo
from smartfallback.simulation.scenarios.model import Scenario


@asynccontextmanager
async def playing(**options):
    """A demo that answers fast, with nothing going on in it."""
    async with demo(rng=Random(1), weather=False, traffic=False, pace=20.0, **options) as running:
        yield running


def offer(running: Demo, scenario: Scenario) -> None:
    """Let the demo's simulator know one more scenario."""
    known: Mapping[str, Scenario] = running.simulator._scenarios
    running.simulator._scenarios = {**known, scenario.name: scenario}


def hasty(scenario: Scenario, within_s: float = 0.4) -> Scenario:
    """The scenario, but states have to be there soon: for one that is to fail."""
    steps = tuple(dataclasses.replace(step, within_s=within_s) for step in scenario.steps)
    return dataclasses.replace(scenario, steps=steps)
