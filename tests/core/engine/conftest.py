from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from smartfallback import Orchestrator, SystemClock, SystemSpec
from support.clock import FakeClock
from support.scripted import ScriptedUpstream

Start = Callable[[SystemSpec], "object"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def upstream() -> ScriptedUpstream:
    return ScriptedUpstream()


@pytest.fixture
async def start(clock: FakeClock, upstream: ScriptedUpstream) -> AsyncIterator[Callable[..., object]]:
    """Starts orchestrators that are closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def begin(spec: SystemSpec, seed: int = 1, *, real_time: bool = False) -> Orchestrator:
            return await stack.enter_async_context(
                Orchestrator(
                    spec,
                    clock=SystemClock() if real_time else clock,
                    rng=random.Random(seed),
                    provider_factory=upstream.provider,
                )
            )

        yield begin
