from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smartfallback import SystemClock
from smartfallback.simulation.demo_model import write_demo_model
from smartfallback.simulation.lab import Lab
from support.lab_systems import antigravity, copilot


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file that llama.cpp really runs."""
    path = tmp_path_factory.mktemp("models") / "demo.gguf"
    write_demo_model(path)
    return path


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Eight Gemini accounts and one OpenAI-compatible one, as real servers on loopback."""
    async with Lab(SystemClock(), random.Random(3), [antigravity(), copilot()]) as running:
        yield running
