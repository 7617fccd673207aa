"""Copilot's tool comes and goes while the system runs: a real program on the search path, or none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from smartfallback import (
    AccountSpec,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaStatus,
    QuotaUnit,
    RefreshQuota,
    RequestError,
    SkipReason,
    TruthLabel,
    WindowKind,
)
from smartfallback.simulation.copilot_cli import install_copilot
from smartfallback.simulation.faults import QuotaApiFault, QuotaTrouble
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import DialectName, UpstreamQuota
from support.clock import FakeClock
from support.lab_systems import chain
from support.quota_scene import OPENAI, Scene, pool_at, running, upstream, upstream_account

SEAT = upstream_account("cp-1", quota=UpstreamQuota(300, QuotaUnit.REQUESTS, WindowKind.MONTH, used=60))
NEXT = upstream_account("oa-1", quota=None)
QUOTA_PATH = "/copilot_internal/user"
LATER_S = 31.0
"""The tool is looked for again by then."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder on the search path, with the seat's login in the environment and no tool in it."""
    found = tmp_path / "bin"
    found.mkdir()
    monkeypatch.setenv("PATH", str(found))
    for name in ("COPILOT_GITHUB_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GH_TOKEN", SEAT.api_key.reveal())
    return found


@asynccontextmanager
async def system(*, api: bool = False, command: tuple[str, ...] = ()) -> AsyncIterator[Scene]:
    """A copilot account before an OpenAI-compatible one; with ``api`` it has a base URL and its own key."""
    clock = FakeClock()
    async with Lab(clock, random.Random(1), [upstream(DialectName.OPENAI, SEAT, NEXT)]) as lab:
        url = lab.base_url(OPENAI)
        copilot = PoolSpec(
            "copilot",
            ProviderKind.COPILOT,
            "copilot",
            (AccountSpec("cp-1", api_key=SEAT.api_key if api else None),),
            model="gpt-4.1",
            base_url=url if api else None,
            quota_url=url.removesuffix("/v1") + QUOTA_PATH,
            command=command,
        )
        following = pool_at(lab, OPENAI, AccountSpec("oa-1", api_key=NEXT.api_key))
        if api:
            # The deployment has no quota endpoint, so that nobody can tell.
            lab.set_fault(OPENAI, QuotaApiFault(QuotaTrouble.ABSENT))
        orchestrator = Orchestrator(chain(copilot, following), clock=clock, rng=random.Random(1))
        async with running(lab, clock, orchestrator) as s:
            yield s


async def assumed(s: Scene) -> None:
    """The source was asked in vain."""
    told = await s.heard("cp-1")
    assert (told.label, told.percent_used) == (TruthLabel.ESTIMATED, 80.0)
    assert "is not installed" in told.note
    view = s.account("cp-1")
    assert view.quota.bound is not None
    assert (view.quota.bound.percent, view.quota.bound.label) == (80.0, TruthLabel.ESTIMATED)
    assert view.quota.bound.read_at == s.clock.time()
    assert view.quota.status is QuotaStatus.WARNING
    assert "is not installed" in view.quota_note


@pytest.mark.usefixtures("folder")
async def test_without_the_tool_the_account_is_skipped_and_told_what_to_install():
    async with system() as s:
        await assumed(s)
        skip = s.account("cp-1").skip
        assert skip is not None
        assert skip.reason is SkipReason.UNAVAILABLE
        assert "npm install -g @github/copilot" in skip.detail
        assert (await s.ask()).account == "oa-1"
        with pytest.raises(RequestError) as caught:
            await s.ask(pin="cp-1")
        assert any("npm install" in words for words in caught.value.skipped)


@pytest.mark.usefixtures("folder")
async def test_without_the_tool_an_account_with_an_api_is_used_at_80_percent_estimated():
    async with system(api=True) as s:
        await assumed(s)
        assert s.account("cp-1").skip is None
        assert (await s.ask()).account == "cp-1"
        assert s.lab.counters(OPENAI, "cp-1").answered == 1
        bound = s.account("cp-1").quota.bound
        assert bound is not None
        assert (bound.percent, bound.label) == (80.0, TruthLabel.ESTIMATED)


@pytest.mark.parametrize("where", ["search path", "command"])
async def test_a_tool_that_is_installed_later_is_noticed_without_a_restart(folder: Path, where: str):
    command = (str(folder / "copilot"),) if where == "command" else ()
    async with system(command=command) as s:
        await assumed(s)
        assert (await s.ask()).account == "oa-1"
        install_copilot(folder, s.lab.base_url(OPENAI))
        s.clock.advance(LATER_S)
        told = await s.heard("cp-1")
        assert (told.label, told.percent_used, told.source) == (TruthLabel.REPORTED, 20.0, "copilot tool")
        await s.until(lambda: s.account("cp-1").skip is None)
        (window,) = s.account("cp-1").quota.windows
        assert (window.kind, window.unit, window.limit) == (WindowKind.MONTH, QuotaUnit.REQUESTS, 300)
        assert (window.used, window.label, window.read_at) == (60, TruthLabel.REPORTED, s.clock.time())
        reply = await s.ask()
        assert (reply.account, len(reply.attempts)) == ("cp-1", 1)
        assert "index" in reply.text.lower()
        bound = s.account("cp-1").quota.bound
        assert bound is not None
        assert bound.used == s.lab.used(OPENAI, "cp-1") == 61


async def test_a_tool_that_is_removed_is_missed_at_once_and_its_last_word_holds(folder: Path):
    async with system() as s:
        await assumed(s)
        tool = install_copilot(folder, s.lab.base_url(OPENAI))
        s.clock.advance(LATER_S)
        await s.heard("cp-1")
        await s.until(lambda: s.account("cp-1").skip is None)
        tool.unlink()
        reply = await s.ask()
        assert reply.account == "oa-1", "a tool that is gone answered"
        s.clock.advance(4)
        await s.until(lambda: s.account("cp-1").skip is not None)
        assert s.orchestrator.execute(RefreshQuota("cp-1")).ok
        told = await s.heard("cp-1")
        assert (told.label, told.percent_used) == (TruthLabel.REPORTED, 20.0)
        assert "is not installed" in told.note


async def test_a_chat_is_answered_while_the_tool_hangs_over_its_quota(folder: Path):
    async with system() as s:
        await assumed(s)
        s.lab.set_fault(OPENAI, QuotaApiFault(QuotaTrouble.HANG))
        install_copilot(folder, s.lab.base_url(OPENAI))
        s.clock.advance(LATER_S)
        async with asyncio.timeout(20):
            await s.lab.until(lambda: s.lab.counters(OPENAI, "cp-1").quota_reads == 1)
        await s.until(lambda: s.account("cp-1").skip is None)
        assert (await s.ask()).account == "cp-1"
        view = s.account("cp-1")
        assert view.quota.bound is not None
        assert view.quota.bound.label is TruthLabel.ESTIMATED
        s.lab.clear_faults()
        assert (await s.heard("cp-1")).label is TruthLabel.REPORTED
