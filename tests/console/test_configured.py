"""Configured accounts in the console: rehearsed on only when that was typed, and as before afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.widgets import Input

from smartfallback import (
    AccountSpec,
    ChainSpec,
    Drill,
    DrillScope,
    DrillTarget,
    HttpStatus,
    PoolSpec,
    ProviderKind,
    QuotaUnit,
    Request,
    RequestError,
    SystemSpec,
    WindowKind,
    WindowSpec,
)
from smartfallback.clock import SystemClock
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import DialectName
from smartfallback_console.app import ConsoleApp
from smartfallback_console.bridge import CoreThread, SourceState
from smartfallback_console.configured import configured_system
from smartfallback_console.dialogs.rehearse import RunDialog
from smartfallback_console.screens.dashboard import Dashboard
from support.console import press, settle
from support.quota_scene import OPENAI, upstream, upstream_account

SEATS = tuple(upstream_account(f"seat-{number}") for number in (1, 2))
WEEK = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000_000, "sun 00:00 UTC"),)
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def upstreams() -> Lab:
    return Lab(SystemClock(), random.Random(1), [upstream(DialectName.OPENAI, *SEATS)])


def spec(url: str) -> SystemSpec:
    pools = tuple(
        PoolSpec(
            name,
            ProviderKind.OPENAI,
            name,
            (AccountSpec(seat.id, seat.api_key, WEEK),),
            model="gpt-4.1",
            base_url=url,
        )
        for name, seat in zip(("one", "two"), SEATS, strict=True)
    )
    return SystemSpec(pools, (ChainSpec("default", ("one", "two")),))


async def test_faults_reach_the_configured_accounts_and_leave_nothing() -> None:
    async with upstreams() as lab:
        async with configured_system(spec(lab.base_url(OPENAI))) as system:
            orchestrator, simulator = system.orchestrator, system.simulator
            assert (await orchestrator.chat(Request.ask("hello"))).account == "seat-1"
            before = orchestrator.snapshot().pools[0].accounts[0].circuit
            assert simulator.view().confirm
            with pytest.raises(ValueError, match="confirm"):
                simulator.start(simulator.view().scenarios[0].name)
            for name in ("one", "two"):
                simulator.start_drill(Drill(DrillTarget(DrillScope.POOL, name), HttpStatus(400)))
            with pytest.raises(RequestError):
                await orchestrator.chat(Request.ask("hello"))
            assert sum(drill.hits for drill in simulator.view().drills) >= 1
            assert simulator.stop_all_drills() == 2
            assert orchestrator.snapshot().pools[0].accounts[0].circuit.state is before.state
            simulator.start_drill(Drill(DrillTarget(DrillScope.POOL, "one"), HttpStatus(401)))
        assert simulator.view().drills == ()
        async with configured_system(spec(lab.base_url(OPENAI))) as system:
            assert system.orchestrator.snapshot().pools[0].accounts[0].attention == ""
            assert (await system.orchestrator.chat(Request.ask("hello"))).account == "seat-1"


async def test_the_user_s_scenarios_and_their_mistakes_come_along(tmp_path: Path) -> None:
    folder = tmp_path / "XDG_CONFIG_HOME" / "smartfallback" / "scenarios"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text('title = "Mine"\nabotu = "x"\n')
    async with upstreams() as lab, configured_system(spec(lab.base_url(OPENAI))) as system:
        (mistake, *_) = system.simulator.view().mistakes
        assert "mine.toml" in mistake
        assert "abotu" in " ".join(system.simulator.view().mistakes)


@pytest.fixture
def core() -> Iterator[Callable[[str], CoreThread]]:
    threads: list[CoreThread] = []

    def start(url: str) -> CoreThread:
        thread = CoreThread(lambda: configured_system(spec(url)))
        thread.start()
        threads.append(thread)
        return thread

    yield start
    for thread in threads:
        assert thread.stop(20)
        assert thread.failure == ""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(0.02)


async def test_the_typed_name_runs_edge_case_1_on_configured_accounts(
    core: Callable[[str], CoreThread],
) -> None:
    async with upstreams() as lab:
        thread = core(lab.base_url(OPENAI))
        await until(lambda: thread.state is SourceState.RUNNING)
        app = ConsoleApp(thread, live=False)
        async with app.run_test(size=(120, 40)) as pilot:
            await settle(pilot)
            dashboard = next(screen for screen in app.screen_stack if isinstance(screen, Dashboard))
            dashboard.look()
            await press(pilot, "w", "enter")
            dialog = app.screen
            assert isinstance(dialog, RunDialog)
            dialog.query_one(Input).value = dialog.scenario.name
            await press(pilot, "enter")

            def over() -> bool:
                view = thread.simulation()
                return view is not None and bool(view.history)

            await until(over)
            dashboard.look()
            await settle(pilot)
            lines = app.screen._compositor.render_strips(app.size)
            assert any("✓ PASSED" in line.text for line in lines)
        view = thread.simulation()
        assert view is not None
        assert view.history[0].requests <= dialog.scenario.requests
        assert view.drills == ()
