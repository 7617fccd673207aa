"""The stand-in for Copilot's tool: a real program whose troubles are those of the simulated upstream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.quota import QuotaReading, TruthLabel, WindowKind
from smartfallback.model.requests import Message, Role
from smartfallback.model.specs import AccountSpec
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
from smartfallback.quota_sources.copilot import CopilotQuotaSource
from smartfallback.simulation.copilot_cli import install_copilot
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    CutStream,
    EmptyAnswer,
    Fault,
    Garbage,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    QuotaApiFault,
    QuotaTrouble,
    QuotaWall,
    ResetConnection,
    SafetyBlock,
    StallMidStream,
)
from smartfallback.simulation.lab import Lab
from support.clock import EPOCH, FakeClock
from support.copilot_tools import copilot, copilot_pool
from support.http_servers import Outcome, call_to, collect
from support.simulated import MODEL, QUESTION, key, running_lab, upstream

C = ErrorCategory
NAME, ACCOUNT = "openai", "openai-1"


@pytest.fixture
async def lab(clock: FakeClock) -> AsyncIterator[Lab]:
    async with running_lab(clock, upstream(NAME)) as lab:
        yield lab


@pytest.fixture
def tool(lab: Lab, tmp_path: Path) -> Path:
    return install_copilot(tmp_path, lab.base_url(NAME), default_model=MODEL)


async def ask(tool: Path, clock: FakeClock, **changes: Any) -> Outcome:
    pool = copilot_pool(tool, key=changes.pop("key", key(ACCOUNT).reveal()), model=MODEL)
    async with copilot(pool, clock) as provider:
        return await collect(provider.stream(call_to(pool, QUESTION, **changes)))


async def test_the_adapter_gets_the_upstream_s_answer(lab: Lab, tool: Path, clock: FakeClock) -> None:
    outcome = await ask(tool, clock)
    assert "index" in outcome.text.lower()
    assert outcome.text == outcome.text.strip()
    assert outcome.finish == "stop"
    seen = lab.counters(NAME, ACCOUNT)
    assert (seen.requests, seen.answered) == (1, 1)


async def test_a_whole_conversation_and_the_default_model_are_understood(
    lab: Lab, tool: Path, clock: FakeClock
) -> None:
    turns = (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "x " * 50_000),
        Message(Role.USER, QUESTION),
    )
    assert (await ask(tool, clock, messages=turns, model="")).finish == "stop"
    assert lab.used(NAME, ACCOUNT) > 20_000


@pytest.mark.parametrize(
    ("fault", "category", "wait"),
    [
        (HttpStatus(402), C.QUOTA_EXHAUSTED, None),
        (QuotaWall(), C.QUOTA_EXHAUSTED, None),
        (QuotaWall(35_040.0), C.QUOTA_EXHAUSTED, 35_040.0),
        (BurstLimit(7.0), C.RATE_LIMIT, 7.0),
        (KeyRevoked(), C.AUTHENTICATION, None),
        (Banned(), C.AUTHENTICATION, None),
        (HttpStatus(404), C.INVALID_REQUEST, None),
        (HttpStatus(500), C.API_FAILURE, None),
        (HttpStatus(503), C.TRANSIENT_ERROR, None),
        (OverloadInStream(), C.TRANSIENT_ERROR, None),
        (CutStream(10), C.MALFORMED_RESPONSE, None),
        (CutStream(10, clean=True), C.MALFORMED_RESPONSE, None),
        (Garbage(), C.MALFORMED_RESPONSE, None),
        (EmptyAnswer(), C.MALFORMED_RESPONSE, None),
        (SafetyBlock(), C.CONTENT_FILTERED, None),
        (ResetConnection(), C.NETWORK_ERROR, None),
    ],
    ids=str,
)
async def test_a_fault_of_the_upstream_shows_through_the_tool(
    lab: Lab, tool: Path, clock: FakeClock, fault: Fault, category: ErrorCategory, wait: float | None
) -> None:
    lab.set_fault(NAME, fault)
    failure = (await ask(tool, clock)).failed
    assert (failure.category, failure.retry_after_s) == (category, wait)
    if wait is not None and category is C.QUOTA_EXHAUSTED:
        assert failure.resets_at == EPOCH + wait
    assert failure.permanent is isinstance(fault, Banned)


async def test_an_upstream_that_is_down_is_a_network_error(lab: Lab, tool: Path, clock: FakeClock) -> None:
    await lab.take_down(NAME)
    assert (await ask(tool, clock)).failed.category is C.NETWORK_ERROR


async def test_an_unknown_key_is_refused(tool: Path, clock: FakeClock) -> None:
    assert (await ask(tool, clock, key="of-nobody")).failed.category is C.AUTHENTICATION


async def test_an_abandoned_answer_hangs_up_on_the_upstream(lab: Lab, tool: Path, clock: FakeClock) -> None:
    lab.set_fault(NAME, StallMidStream(8))
    pool = copilot_pool(tool, key=key(ACCOUNT).reveal(), model=MODEL)
    async with copilot(pool, clock) as provider:
        chunks = provider.stream(call_to(pool, QUESTION))
        assert (await anext(chunks)).text
        await chunks.aclose()
        async with asyncio.timeout(20):
            await lab.until(lambda: lab.counters(NAME).disconnects == 1)


async def told(tool: Path, clock: FakeClock) -> QuotaReading:
    """The quota of whoever is logged in to the tool, with no other way to ask for it."""
    source = CopilotQuotaSource(copilot_pool(tool, key=None), clock)
    try:
        return await source.read(AccountSpec("seat"))
    finally:
        await source.aclose()


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COPILOT_GITHUB_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GH_TOKEN", key(ACCOUNT).reveal())


@pytest.mark.usefixtures("logged_in")
@pytest.mark.parametrize(
    ("trouble", "percent"),
    [
        (None, 25.0),
        (QuotaTrouble.STRINGS, 25.0),
        (QuotaTrouble.FRACTIONS, 25.00025),
        (QuotaTrouble.NO_DATES, 25.0),
        (QuotaTrouble.OVERAGE, 100.0125),
        (QuotaTrouble.NO_FRACTION, None),
        (QuotaTrouble.PLACEHOLDER, None),
        (QuotaTrouble.EMPTY, None),
    ],
)
async def test_the_quota_is_told_by_the_tool_s_own_protocol(
    lab: Lab, tool: Path, clock: FakeClock, trouble: QuotaTrouble | None, percent: float | None
) -> None:
    lab.set_used(NAME, ACCOUNT, 25_000)
    if trouble is not None:
        lab.set_fault(NAME, QuotaApiFault(trouble))
    reading = await told(tool, clock)
    assert reading.source == "copilot tool"
    assert reading.percent == (percent if percent is None else pytest.approx(percent))
    assert reading.label is (TruthLabel.UNKNOWN if percent is None else TruthLabel.REPORTED)
    assert lab.counters(NAME, ACCOUNT).quota_reads == 1
    assert lab.counters(NAME).requests == 0
    if trouble is None:
        (window,) = reading.windows
        assert (window.kind, window.limit) == (WindowKind.MONTH, 100_000)
        assert window.resets_at is not None


@pytest.mark.usefixtures("logged_in")
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (QuotaApiFault(QuotaTrouble.ERROR), QuotaFault.UNAVAILABLE),
        (QuotaApiFault(QuotaTrouble.HTML), QuotaFault.UNAVAILABLE),
        (QuotaApiFault(QuotaTrouble.ABSENT), QuotaFault.UNAVAILABLE),
        (ResetConnection(), QuotaFault.UNAVAILABLE),
        (KeyRevoked(), QuotaFault.UNAUTHORIZED),
    ],
    ids=str,
)
async def test_a_quota_that_the_service_does_not_tell_is_no_quota(
    lab: Lab, tool: Path, clock: FakeClock, fault: Fault, kind: QuotaFault
) -> None:
    lab.set_fault(NAME, fault)
    with pytest.raises(QuotaSourceError) as refused:
        await told(tool, clock)
    assert refused.value.kind is kind


async def test_without_a_login_the_tool_tells_no_quota(
    tool: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(QuotaSourceError, match="nobody is logged in") as refused:
        await told(tool, clock)
    assert refused.value.kind is QuotaFault.UNAUTHORIZED


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--version",), 0, "GitHub Copilot CLI"),
        (("-p", "hi", "-s"), 1, "No authentication information found"),
        (("-s",), 1, "No prompt provided"),
        (("--allow-none",), 1, "unknown option"),
        (("-p",), 1, "argument missing"),
    ],
)
def test_the_stand_in_has_the_tool_s_face(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    tool = install_copilot(tmp_path, "http://127.0.0.1:1/v1")
    done = subprocess.run(
        [tool, *arguments],
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert said in (done.stderr if code else done.stdout)


def test_an_interpreter_in_a_folder_with_spaces_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "it's a folder"
    odd.mkdir()
    link = odd / "python"
    link.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(link))
    tool = install_copilot(tmp_path, "http://127.0.0.1:1/v1")
    done = subprocess.run([tool, "--version"], env={}, capture_output=True, text=True, timeout=60, check=True)
    assert "simulated" in done.stdout


def test_only_plain_http_is_spoken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="http://"):
        install_copilot(tmp_path, "https://127.0.0.1/v1")
