"""Runs the configured accounts for the console."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartfallback import Orchestrator, Simulator, SystemSpec


@dataclass(frozen=True, slots=True)
class ConfiguredSystem:
    """An orchestrator over the configured accounts, and what rehearses outages on them."""

    orchestrator: Orchestrator
    simulator: Simulator


@asynccontextmanager
async def configured_system(spec: SystemSpec) -> AsyncIterator[ConfiguredSystem]:
    """The system of a configuration, running on what was saved of it before.

    Whatever is rehearsed has ended, and all is as before, by the time that the orchestrator ends.
    """
    from smartfallback import (
        RunHistory,
        Simulator,
        SqliteStateStore,
        SystemClock,
        available_scenarios,
        default_history_path,
        rehearsable,
    )

    clock = SystemClock()
    engine, injector = rehearsable(spec, clock=clock, store=SqliteStateStore())
    async with engine as orchestrator:
        scenarios = await asyncio.to_thread(available_scenarios)
        history = await asyncio.to_thread(RunHistory, default_history_path())
        simulator = Simulator(
            orchestrator,
            injector,
            clock,
            Random(),
            scenarios=scenarios.scenarios,
            history=history,
            confirm=True,
            mistakes=scenarios.mistakes,
        )
        try:
            yield ConfiguredSystem(orchestrator, simulator)
        finally:
            await simulator.aclose()
