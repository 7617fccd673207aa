"""Runs the configured accounts for the console."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartfallback import Orchestrator, SystemSpec


@dataclass(frozen=True, slots=True)
class ConfiguredSystem:
    """An orchestrator over the configured accounts."""

    orchestrator: Orchestrator


@asynccontextmanager
async def configured_system(spec: SystemSpec) -> AsyncIterator[ConfiguredSystem]:
    """The system of a configuration, running on what was saved of it before."""
    from smartfallback import Orchestrator, SqliteStateStore

    async with Orchestrator(spec, store=SqliteStateStore()) as orchestrator:
        yield ConfiguredSystem(orchestrator)
