"""The console over a real core: a quota that is only assumed says so, and a tool installed later shows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from textual.pilot import Pilot

from smartfallback import AccountSpec, Orchestrator, PoolSpec, ProviderKind, QuotaUnit, WindowKind
from smartfallback.simulation.copilot_cli import install_copilot
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import DialectName, UpstreamQuota
from smartfallback_console.app import ConsoleApp
from smartfallback_console.bridge import CoreThread
from support.clock import FakeClock
from support.console import Console
from support.lab_systems import chain
from support.quota_scene import OPENAI, upstream, upstream_account

SEAT = upstream_account("cp-1", quota=UpstreamQuota(300, QuotaUnit.REQUESTS, WindowKind.MONTH, used=60))


@dataclass
class Running:
    """What the core's thread runs."""

    orchestrator: Orchestrator
    lab: Lab
    simulator: None = None


@dataclass
class Core:
    """A core whose one account is answered by a tool that is not installed yet."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    url: str = ""

    @asynccontextmanager
    async def system(self) -> AsyncIterator[Running]:
        async with Lab(self.clock, random.Random(1), [upstream(DialectName.OPENAI, SEAT)]) as lab:
            self.url = lab.base_url(OPENAI)
            pool = PoolSpec("seats", ProviderKind.COPILOT, "copilot", (AccountSpec("cp-1"),), model="gpt-4.1")
            async with Orchestrator(chain(pool), clock=self.clock, rng=random.Random(1)) as orchestrator:
                yield Running(orchestrator, lab)


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Core:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("COPILOT_GITHUB_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GH_TOKEN", SEAT.api_key.reveal())
    return Core(folder)


@pytest.fixture
def thread(core: Core) -> Iterator[CoreThread]:
    running = CoreThread(core.system)
    running.start()
    yield running
    assert running.stop(20)
    assert running.failure == ""


@asynccontextmanager
async def console(thread: CoreThread, size: tuple[int, int]) -> AsyncIterator[Console]:
    app = ConsoleApp(thread, live=False)
    async with app.run_test(size=size) as pilot:
        yield Console(app, pilot, thread)  # type: ignore[arg-type] - a real core in a script's place


async def shown(running: Console, *words: str, line: str = "cp-1") -> str:
    """The first line with ``line`` in it, as soon as it has all the words."""
    async with asyncio.timeout(30):
        while True:
            await running.look()
            for text in running.screen_text().splitlines():
                if line in text and all(word in text for word in words):
                    return text
            await _moment(running.pilot)


async def _moment(pilot: Pilot[None]) -> None:
    await pilot.pause(0.05)


async def test_a_missing_tool_is_80_percent_estimated_until_it_is_installed(core: Core, thread: CoreThread):
    async with console(thread, (120, 40)) as running:
        line = await shown(running, "80", "estimated")
        assert "reported" not in line
        install_copilot(core.folder, core.url)
        core.clock.advance(31)
        line = await shown(running, "20", "reported")
        assert "estimated" not in line


async def test_on_a_small_screen_the_sign_stands_for_the_word_and_the_details_say_it(
    core: Core, thread: CoreThread
):
    async with console(thread, (80, 24)) as running:
        await shown(running, "≈", "80")
        await running.press("enter")
        await shown(running, line="estimated")
        screen = running.screen_text()
        assert "80.0% used" in screen
        assert "not installed" in screen
        install_copilot(core.folder, core.url)
        core.clock.advance(31)
        await running.press("escape")
        line = await shown(running, "20")
        assert "≈" not in line
