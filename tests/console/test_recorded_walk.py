"""From the overview to a verdict with real keys, on the real demo."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from smartfallback import RunState, demo
from smartfallback_console.app import ConsoleApp
from smartfallback_console.bridge import CoreThread
from smartfallback_console.screens.dashboard import Dashboard
from smartfallback_console.system import System
from support.console import press, settle

PATIENCE_S = 60.0
"""So long a machine may be too busy; no test takes it."""


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CoreThread]:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))

    def calm() -> AbstractAsyncContextManager[System]:
        return demo(rng=random.Random(5), weather=False, pace=8.0)

    thread = CoreThread(calm)
    thread.start()
    yield thread
    assert thread.stop(20)
    assert thread.failure == ""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the core's thread, with a bound."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(0.02)


class Walk:
    """A console in front of the running demo."""

    def __init__(self, app: ConsoleApp, core: CoreThread, pilot: object) -> None:
        self.app = app
        self.core = core
        self.press = partial(press, pilot)  # type: ignore[arg-type]  # Pilot of this app
        self._pilot = pilot

    def text(self) -> str:
        lines = self.app.screen._compositor.render_strips(self.app.size)
        return "\n".join(line.text for line in lines)

    async def see(self, *texts: str) -> str:
        """Wait until one of them stands on the screen."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(text in self.text() for text in texts):
                await asyncio.sleep(0.02)
                await settle(self._pilot)  # type: ignore[arg-type]  # Pilot of this app
        return self.text()


@asynccontextmanager
async def walk(core: CoreThread, size: tuple[int, int]) -> AsyncIterator[Walk]:
    await until(lambda: core.latest() is not None)
    app = ConsoleApp(core)
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        walking = Walk(app, core, pilot)
        await walking.see("ag-8")
        yield walking


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_two_keys_from_the_overview_to_the_verdict_of_edge_case_1(
    core: CoreThread, size: tuple[int, int]
) -> None:
    async with walk(core, size) as walking:
        await walking.press("w")
        await walking.see("edge case 1")
        await walking.press("enter")
        text = await walking.see("✓ PASSED", "✗ FAILED", "■ STOPPED")
        assert "✓ PASSED" in text
        text = await walking.see("✓ 1 ")  # the list of steps may be drawn a frame after the head
        view = core.simulation()
        assert view is not None
        (run,) = view.history
        assert run.state is RunState.PASSED
        assert next(one for one in view.scenarios if one.name == run.scenario).edge_case == 1
        assert view.drills == ()


async def test_a_run_is_stopped_and_all_goes_on(core: CoreThread) -> None:
    async with walk(core, (120, 40)) as walking:
        await walking.press("w", "down", "enter")
        await walking.see("▶ RUNNING")
        await walking.press("X")
        await walking.see("■ STOPPED")
        await until(lambda: (view := core.simulation()) is not None and bool(view.history))
        view = core.simulation()
        assert view is not None
        assert view.history[0].state is RunState.STOPPED
        assert view.drills == ()


async def test_a_fault_by_hand_is_met_by_real_calls_and_ends(core: CoreThread) -> None:
    async with walk(core, (120, 40)) as walking:
        await walking.press("home", "b", "enter", "enter")
        await walking.see("↯ 1 fault active")
        assert "▾↯antigravity" in walking.text()

        def hit() -> bool:
            view = core.simulation()
            return view is not None and any(drill.hits for drill in view.drills)

        await until(hit)
        await walking.press("u")
        await until(lambda: (view := core.simulation()) is not None and not view.drills)
        dashboard = next(screen for screen in walking.app.screen_stack if isinstance(screen, Dashboard))
        dashboard.look()
        await settle(walking._pilot)  # type: ignore[arg-type]  # Pilot of this app
        assert "▾↯" not in walking.text()
