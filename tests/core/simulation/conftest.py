from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from smartfallback.simulation.lab import Lab
from support.clock import FakeClock
from support.simulated import running_lab


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def lab(clock: FakeClock) -> AsyncIterator[Lab]:
    async with running_lab(clock) as lab:
        yield lab
