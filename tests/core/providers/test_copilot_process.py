"""The tool as a process: found and lost, ended with its children, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import pytest

from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers.copilot import CopilotProvider
from smartfallback.providers.copilot_tool import FRESH_S
from support.clock import FakeClock
from support.copilot_tools import KEY, alive, copilot, copilot_pool, eventually, write_tool
from support.http_servers import always, call_to, collect, http_server

FAMILY = """
deaf = {deaf}
child = os.fork()
if child == 0:
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, f'{{os.getpid()}} ready\\n'.encode())
    while True:
        signal.pause()
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
say(f'{{os.getpid()}} ready\\n')
while True:
    signal.pause()
"""
ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "by API"}, "finish_reason": "stop", "index": 0}]
}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the adapter makes its folders, so that a test sees what is left of them."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


class Family:
    """A running tool and its child, both of which keep the answer open until they are killed."""

    def __init__(self, provider: CopilotProvider, pool: PoolSpec) -> None:
        self.chunks = provider.stream(call_to(pool))
        self.pids: list[int] = []

    async def begin(self) -> Family:
        said = ""
        while said.count("ready") < 2:
            said += (await anext(self.chunks)).text
        self.pids = [int(word) for word in said.split() if word.isdigit()]
        assert all(map(alive, self.pids))
        assert len(self.pids) == 2
        return self

    async def gone(self) -> None:
        await eventually(lambda: not any(map(alive, self.pids)))


def family_pool(tmp_path: Path, *, deaf: bool = True) -> PoolSpec:
    return copilot_pool(write_tool(tmp_path, FAMILY.format(deaf=deaf)))


@pytest.mark.parametrize("deaf", [False, True], ids=["obedient", "deaf to SIGTERM"])
async def test_an_abandoned_answer_ends_the_tool_and_its_children(
    tmp_path: Path, temporary: Path, deaf: bool
) -> None:
    pool = family_pool(tmp_path, deaf=deaf)
    async with copilot(pool, grace_s=0.2) as provider:
        family = await Family(provider, pool).begin()
        await family.chunks.aclose()
        await family.gone()
    assert left_in(temporary) == []


async def test_a_cancelled_caller_ends_the_tool_and_its_children(tmp_path: Path, temporary: Path) -> None:
    pool = family_pool(tmp_path)
    async with copilot(pool, grace_s=0.2) as provider:
        family = await Family(provider, pool).begin()
        waiting = asyncio.ensure_future(anext(family.chunks))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await family.gone()
    assert left_in(temporary) == []


@pytest.mark.parametrize("waiting", [False, True], ids=["suspended", "being read"])
async def test_closing_the_adapter_ends_what_still_runs(
    tmp_path: Path, temporary: Path, waiting: bool
) -> None:
    pool = family_pool(tmp_path)
    async with copilot(pool, grace_s=0.2) as provider:
        family = await Family(provider, pool).begin()
        reader = asyncio.create_task(collect(family.chunks)) if waiting else None
        await asyncio.sleep(0)
        await provider.aclose()
        await family.gone()
        outcome = await (reader or collect(family.chunks))
        await provider.aclose()
    assert outcome.failed.category is ErrorCategory.TRANSIENT_ERROR
    assert "SIGKILL" in outcome.failed.message
    assert left_in(temporary) == []


async def test_an_answer_that_fails_ends_the_children_too(tmp_path: Path) -> None:
    note = tmp_path / "child"
    body = f"""
child = os.fork()
if child:
    open({str(note)!r}, "w").write(str(child))
    until(lambda: say(b"\\xff"))
signal.pause()"""
    pool = copilot_pool(write_tool(tmp_path, body))
    async with copilot(pool, grace_s=0.2) as provider:
        outcome = await collect(provider.stream(call_to(pool)))
    child = int(note.read_text())
    await eventually(lambda: not alive(child))
    assert outcome.failed.category is ErrorCategory.MALFORMED_RESPONSE


async def test_a_child_left_behind_neither_holds_the_answer_open_nor_lives_on(tmp_path: Path) -> None:
    body = """
child = os.fork()
if child:
    say(f'{child}')
    os._exit(0)
signal.pause()"""
    pool = copilot_pool(write_tool(tmp_path, body))
    async with copilot(pool) as provider:
        outcome = await collect(provider.stream(call_to(pool)))
        assert outcome.finish == "stop"
        await eventually(lambda: not alive(int(outcome.text)))


async def test_a_child_that_escapes_the_group_does_not_hold_the_answer_open(tmp_path: Path) -> None:
    body = """
child = os.fork()
if child:
    say(f'{child}')
    until(lambda: os.getpgid(child) == child)
    os._exit(0)
os.setsid()
signal.alarm(20)
signal.pause()"""
    pool = copilot_pool(write_tool(tmp_path, body))
    async with copilot(pool) as provider:
        outcome = await collect(provider.stream(call_to(pool)))
    assert outcome.finish == "stop"
    os.kill(int(outcome.text), signal.SIGKILL)


async def test_a_tool_that_does_not_read_its_input_can_still_answer(tmp_path: Path) -> None:
    pool = copilot_pool(write_tool(tmp_path, "os.close(0); say('no need to ask')"))
    async with copilot(pool) as provider:
        outcome = await collect(provider.stream(call_to(pool, "long " * 100_000)))
    assert (outcome.text, outcome.finish) == ("no need to ask", "stop")


async def test_a_missing_tool_is_named_and_noticed_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"relative:{tmp_path}")
    clock, pool = FakeClock(), copilot_pool()
    async with copilot(pool, clock) as provider:
        assert "npm install -g @github/copilot" in provider.unavailable()
        failure = (await collect(provider.stream(call_to(pool)))).failed
        assert failure.category is ErrorCategory.API_FAILURE
        assert failure.message == provider.unavailable()
        tool = write_tool(tmp_path, "say('here')")
        assert provider.unavailable()
        clock.advance(FRESH_S)
        assert provider.unavailable() == ""
        assert (await collect(provider.stream(call_to(pool)))).text == "here"
        tool.unlink()
        clock.advance(FRESH_S)
        assert provider.unavailable()


async def test_a_configured_tool_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("not a program")
    for command in (tmp_path / "nowhere", tmp_path / "plain"):
        async with copilot(copilot_pool(command)) as provider:
            assert str(command) in provider.unavailable()
            assert "command of pool copilot" in provider.unavailable()


async def test_a_tool_that_goes_between_look_and_call_is_noticed_at_once(
    tmp_path: Path, temporary: Path
) -> None:
    tool = write_tool(tmp_path, "say('here')")
    pool = copilot_pool(tool)
    async with copilot(pool) as provider:
        assert provider.unavailable() == ""
        tool.unlink()
        failure = (await collect(provider.stream(call_to(pool)))).failed
        assert failure.category is ErrorCategory.API_FAILURE
        assert "npm install" in failure.hint
        assert provider.unavailable()
    assert left_in(temporary) == []


@pytest.mark.parametrize("content", ["#!/nowhere/node\n", "\x7fELF broken"], ids=["interpreter", "format"])
async def test_a_tool_that_can_t_be_run_is_told_from_one_that_fails(tmp_path: Path, content: str) -> None:
    tool = tmp_path / "copilot"
    tool.write_text(content)
    tool.chmod(0o700)
    pool = copilot_pool(tool)
    async with copilot(pool) as provider:
        failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.API_FAILURE
    assert str(tool) in failure.message


async def test_without_the_tool_a_configured_api_answers(tmp_path: Path) -> None:
    async with http_server(always(200, ANSWER)) as upstream:
        pool = copilot_pool(tmp_path / "nowhere", base_url=f"{upstream.url}/v1")
        async with copilot(pool) as provider:
            assert provider.unavailable() == ""
            outcome = await collect(provider.stream(call_to(pool)))
    assert outcome.text == "by API"
    assert upstream.seen[0].headers["authorization"] == f"Bearer {KEY}"


async def test_an_account_without_an_api_of_its_own_fails_when_the_tool_is_missing(tmp_path: Path) -> None:
    async with http_server(always(200, ANSWER)) as upstream:
        accounts = (
            AccountSpec("cp-1", Secret(KEY)),
            AccountSpec("cp-2", Secret(KEY), base_url=f"{upstream.url}/v1"),
        )
        pool = copilot_pool(tmp_path / "nowhere", accounts=accounts)
        async with copilot(pool) as provider:
            assert provider.unavailable() == ""
            alone = await collect(provider.stream(call_to(pool)))
            other = await collect(provider.stream(call_to(pool, account=accounts[1])))
    assert alone.failed.category is ErrorCategory.API_FAILURE
    assert other.text == "by API"
    assert len(upstream.seen) == 1
