"""Runs the configured accounts for the console."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartfallback import Orchestrator, Simulator, StateSettings, SystemSpec


@dataclass(frozen=True, slots=True)
class ConfiguredSystem:
    """An orchestrator over the configured accounts, and what rehearses outages on them."""

    orchestrator: Orchestrator
    simulator: Simulator


@asynccontextmanager
async def configured_system(
    spec: SystemSpec, state: StateSettings | None = None
) -> AsyncIterator[ConfiguredSystem]:
    """The system of a configuration, running on what was saved of it before.

    Whatever is rehearsed has ended, and all is as before, by the time that the orchestrator ends.

    Args:
        spec: The accounts, pools and chains.
        state: Where state is shared; None keeps it on this machine.
    """
    from smartfallback import (
        RunHistory,
        Simulator,
        StateSettings,
        SystemClock,
        available_scenarios,
        default_history_path,
        open_stores,
        rehearsable,
    )

    clock = SystemClock()
    stores = open_stores(state or StateSettings())
    engine, injector = rehearsable(
        spec, clock=clock, store=stores.store, shared=stores.shared, sharing=stores.sharing
    )
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
