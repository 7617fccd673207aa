"""Accounts behind a provider whose circuit is open are not called usable, anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartfallback import CircuitState, Snapshot
from smartfallback_console.dialogs.confirm import ConfirmDialog
from smartfallback_console.widgets.accounts import AccountsTable
from support.console import Opener
from support.console_data import NOW, snapshot
from support.console_source import ScriptedSource
from support.recovery_data import recovering, stories


def shut(left_s: float, state: CircuitState = CircuitState.OPEN, base: Snapshot | None = None) -> Snapshot:
    view = base or snapshot()
    first = view.pools[0]
    circuit = replace(first.provider_circuit, state=state, until=NOW + left_s, cause="5 failures")
    return replace(view, pools=(replace(first, provider_circuit=circuit), *view.pools[1:]))


@pytest.mark.parametrize("state", [CircuitState.OPEN, CircuitState.FORCED_OPEN])
async def test_nobody_is_usable_behind_a_provider_that_is_shut(console: Opener, state: CircuitState) -> None:
    async with console(ScriptedSource(shut(50.0, state))) as running:
        text = running.screen_text()
        assert "antigravity 0/8" in text
        assert "0/8 usable" in text
        row = next(line for line in text.splitlines() if " ag-1 " in line)
        assert "provider circuit" in row
        assert "ready" not in row
        running.dashboard.query_one(AccountsTable).select_account("ag-1")
        await running.press("enter")
        assert "the provider's circuit is open" in running.screen_text()


async def test_the_first_request_after_the_wait_may_pass(console: Opener) -> None:
    async with console(ScriptedSource(shut(-1.0))) as running:
        assert "antigravity 0/8" not in running.screen_text()


async def test_the_question_before_a_failover_knows_that_the_next_pool_is_shut(console: Opener) -> None:
    view = snapshot()
    second = view.pools[1]
    circuit = replace(second.provider_circuit, state=CircuitState.OPEN, until=NOW + 50.0)
    pools = (view.pools[0], replace(second, provider_circuit=circuit), *view.pools[2:])
    async with console(ScriptedSource(replace(view, pools=pools))) as running:
        await running.press("F")
        dialog = running.app.screen
        assert isinstance(dialog, ConfirmDialog)
        assert "Requests will go to opencode." in dialog.proposal.warning


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=str)
async def test_the_recovery_view_names_what_is_open_now(console: Opener, size: tuple[int, int]) -> None:
    async with console(ScriptedSource(shut(50.0, base=recovering()), stories()), size=size) as running:
        await running.press("v")
        text = running.screen_text()
        assert "open now  gemini API 0:50 · ag-6" in text
        assert "scaled down  ag-1 4↓8" in text


async def test_figures_take_no_more_lines_than_they_fill(console: Opener) -> None:
    view = recovering()
    recovery = replace(view.recovery, by_category=view.recovery.by_category[:2])
    async with console(ScriptedSource(replace(view, recovery=recovery), stories()), size=(80, 24)) as running:
        await running.press("v")
        lines = running.screen_text().splitlines()
        end = next(place for place, line in enumerate(lines) if line.startswith("╰"))
        assert "rate limit" in lines[end - 1]


async def test_causes_that_cost_answers_stand_first_and_what_is_cut_is_said(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(80, 24)) as running:
        await running.press("v")
        text = running.screen_text()
        assert text.index("timeout  ") < text.index("api failure  ") < text.index("rate limit  ")
        assert "… 2 more" in text
        assert "cach…" not in text


async def test_the_smallest_terminal_shows_figures_and_log(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(20, 8)) as running:
        await running.press("v")
        text = running.screen_text()
        assert "97.2%" in text
        assert "2 open or slowed" in text
        assert "Queue" in text
