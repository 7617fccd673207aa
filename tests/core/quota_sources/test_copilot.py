"""Copilot's quota through a real executable, and through the user endpoint when that fails."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from smartfallback.model.quota import QuotaReading, TruthLabel, WindowKind
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
from smartfallback.quota_sources.copilot import CopilotQuotaSource
from smartfallback.quota_sources.refresher import QuotaRefresher, Watch
from smartfallback.quota_sources.registry import sources_for
from smartfallback.simulation.faults import KeyRevoked, QuotaApiFault, QuotaTrouble
from support.clock import FakeClock
from support.quota_sources import ANSWERS, runs, write_tool
from support.simulated import account, key, requests_quota, running_lab, upstream

SEAT = AccountSpec("seat")
NOWHERE = "http://127.0.0.1:9"


def pool(tool: Path, *accounts: AccountSpec, quota_url: str | None = NOWHERE) -> PoolSpec:
    return PoolSpec(
        "copilot",
        ProviderKind.COPILOT,
        "copilot",
        accounts or (SEAT,),
        command=(str(tool),),
        quota_url=quota_url,
    )


async def read(spec: PoolSpec, **options: Any) -> QuotaReading:
    source = CopilotQuotaSource(spec, FakeClock(), **options)
    try:
        return await source.read(spec.accounts[0])
    finally:
        await source.aclose()


async def fault(spec: PoolSpec, **options: Any) -> QuotaSourceError:
    with pytest.raises(QuotaSourceError) as caught:
        await read(spec, **options)
    return caught.value


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_tool_tells(tmp_path: Path) -> None:
    reading = await read(pool(write_tool(tmp_path)))
    assert (reading.percent, reading.label, reading.source) == (20.0, TruthLabel.REPORTED, "copilot tool")
    (run,) = runs(tmp_path)
    assert run["argv"] == ["--headless", "--no-auto-update", "--stdio"]
    assert not alive(run["pid"])


async def test_a_key_is_the_tools_login_and_no_argument(tmp_path: Path) -> None:
    await read(pool(write_tool(tmp_path), AccountSpec("seat", key("seat"))))
    (run,) = runs(tmp_path)
    assert run["token"] == key("seat").reveal()
    assert key("seat").reveal() not in " ".join(run["argv"])


async def test_an_older_tool_greets_otherwise(tmp_path: Path) -> None:
    answers = {"ping": {}, "account.getQuota": ANSWERS["account.getQuota"]}
    assert (await read(pool(write_tool(tmp_path, answers=answers)))).percent == 20.0


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ({"answers": ANSWERS | {"auth.getStatus": {"isAuthenticated": False}}}, QuotaFault.UNAUTHORIZED),
        ({"answers": {"connect": {}}}, QuotaFault.UNAVAILABLE),
        ({"answers": {}}, QuotaFault.UNAVAILABLE),
        (
            {
                "answers": {"connect": {}},
                "errors": {"account.getQuota": {"code": 1, "message": "Not logged in"}},
            },
            QuotaFault.UNAUTHORIZED,
        ),
        (
            {"answers": {"connect": {}}, "errors": {"account.getQuota": {"code": 1, "message": "try later"}}},
            QuotaFault.UNAVAILABLE,
        ),
        ({"answers": ANSWERS | {"account.getQuota": {"nothing": 1}}}, QuotaFault.MALFORMED),
        ({"answers": ANSWERS | {"account.getQuota": None}}, QuotaFault.MALFORMED),
        ({"exit": "error: unknown option '--headless'"}, QuotaFault.UNAVAILABLE),
        ({"exit": "You are not signed in."}, QuotaFault.UNAUTHORIZED),
        ({"raw": "Welcome to Copilot!\r\n\r\nHow can I help?"}, QuotaFault.MALFORMED),
        ({"raw": "Content-Length: 9999999\r\n\r\n"}, QuotaFault.MALFORMED),
        ({"raw": "Content-Length: 5\r\n\r\n{{{{{"}, QuotaFault.MALFORMED),
        ({"raw": ""}, QuotaFault.UNAVAILABLE),
    ],
)
async def test_a_tool_that_does_not_tell_says_why(tmp_path: Path, behaviour: Any, kind: QuotaFault) -> None:
    error = await fault(pool(write_tool(tmp_path, **behaviour)))
    assert error.kind is kind
    assert not any(alive(run["pid"]) for run in runs(tmp_path))


async def test_a_tool_that_repeats_the_key_does_not_leak_it(tmp_path: Path) -> None:
    secret = key("seat").reveal()
    error = await fault(
        pool(write_tool(tmp_path, exit=f"bad credential {secret}"), AccountSpec("seat", key("seat")))
    )
    assert secret not in str(error)


async def test_a_program_that_can_not_run(tmp_path: Path) -> None:
    tool = tmp_path / "copilot"
    tool.write_bytes(b"\x00\x01 no program")
    tool.chmod(0o700)
    assert (await fault(pool(tool))).kind is QuotaFault.UNAVAILABLE


async def test_no_tool_and_no_key_is_missing(tmp_path: Path) -> None:
    error = await fault(pool(tmp_path / "copilot"))
    assert error.kind is QuotaFault.MISSING
    assert "not installed" in str(error)


async def test_a_tool_that_hangs_is_gone_when_its_reader_gives_up(tmp_path: Path) -> None:
    spec = pool(write_tool(tmp_path, hang="account.getQuota"))
    reading = asyncio.create_task(read(spec))
    while not runs(tmp_path):  # noqa: ASYNC110 - a file of another process has no event
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    (run,) = runs(tmp_path)
    assert not alive(run["pid"])


@asynccontextmanager
async def endpoint(trouble: Any = None) -> AsyncIterator[str]:
    """The root of a simulated upstream whose account ``seat`` has used 45 of 300 requests."""
    seat = account("seat", quota=requests_quota(300))
    async with running_lab(FakeClock(), upstream("openai", seat)) as lab:
        lab.set_used("openai", "seat", 45)
        if trouble is not None:
            lab.set_fault("openai", trouble)
        yield lab.base_url("openai").removesuffix("/v1")


WITH_KEY = AccountSpec("seat", key("seat"))


async def test_without_the_tool_the_endpoint_tells(tmp_path: Path) -> None:
    async with endpoint() as url:
        reading = await read(pool(tmp_path / "copilot", WITH_KEY, quota_url=url))
    (window,) = reading.windows
    assert (window.kind, window.used, window.limit) == (WindowKind.MONTH, 45, 300)
    assert window.resets_at is not None
    assert (reading.label, reading.source) == (TruthLabel.REPORTED, "copilot user endpoint")


@pytest.mark.parametrize("behaviour", [{"exit": "broken"}, {"hang": "connect"}])
async def test_with_a_tool_that_fails_the_endpoint_tells(tmp_path: Path, behaviour: Any) -> None:
    async with endpoint() as url:
        spec = pool(write_tool(tmp_path, **behaviour), WITH_KEY, quota_url=url)
        reading = await read(spec, tool_s=0.5)
    assert (reading.percent, reading.source) == (15.0, "copilot user endpoint")


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (QuotaApiFault(QuotaTrouble.ERROR), QuotaFault.UNAVAILABLE),
        (QuotaApiFault(QuotaTrouble.HTML), QuotaFault.MALFORMED),
        (QuotaApiFault(QuotaTrouble.EMPTY), QuotaFault.MALFORMED),
        (QuotaApiFault(QuotaTrouble.ABSENT), QuotaFault.MISSING),
        (KeyRevoked(), QuotaFault.UNAUTHORIZED),
    ],
)
async def test_an_endpoint_that_does_not_tell_says_why(
    tmp_path: Path, trouble: Any, kind: QuotaFault
) -> None:
    async with endpoint(trouble) as url:
        error = await fault(pool(tmp_path / "copilot", WITH_KEY, quota_url=url))
    assert error.kind is kind
    assert key("seat").reveal() not in str(error)


@pytest.mark.parametrize(
    ("trouble", "percent", "label"),
    [
        (QuotaTrouble.STRINGS, 15.0, TruthLabel.REPORTED),
        (QuotaTrouble.FRACTIONS, 100 * 45.25 / 300, TruthLabel.REPORTED),
        (QuotaTrouble.NO_DATES, 15.0, TruthLabel.REPORTED),
        (QuotaTrouble.OVERAGE, 100 * 312.5 / 300, TruthLabel.REPORTED),
        (QuotaTrouble.NO_FRACTION, None, TruthLabel.UNKNOWN),
        (QuotaTrouble.PLACEHOLDER, None, TruthLabel.UNKNOWN),
    ],
)
async def test_each_oddity_is_read_right(
    tmp_path: Path, trouble: QuotaTrouble, percent: float | None, label: TruthLabel
) -> None:
    async with endpoint(QuotaApiFault(trouble)) as url:
        reading = await read(pool(tmp_path / "copilot", WITH_KEY, quota_url=url))
    assert reading.label is label
    assert reading.percent == (None if percent is None else pytest.approx(percent))


async def test_a_tool_that_is_installed_later_is_noticed(tmp_path: Path) -> None:
    clock = FakeClock()
    told: list[QuotaReading] = []
    watches: dict[str, Watch] = sources_for(pool(tmp_path / "copilot"), clock)
    async with QuotaRefresher(watches, clock, told.append, random.Random(1)) as refresher:
        await refresher.refresh_now("seat")
        assert (told[-1].percent, told[-1].label) == (80.0, TruthLabel.ESTIMATED)
        write_tool(tmp_path)
        clock.advance(CopilotQuotaSource.missing_retry_s)
        refresher.tick()
        await refresher.settled()
        assert (told[-1].percent, told[-1].label) == (20.0, TruthLabel.REPORTED)
