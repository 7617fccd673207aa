"""The command: options, mistakes, and its end in a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from aiohttp import web

from smartfallback_console.crash import tell
from smartfallback_console.main import EXIT_CONFIGURATION, EXIT_CRASH, run
from support.http_servers import KEY, http_server


def test_a_bad_configuration_is_one_report_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[pools.a]\nprovidr = "gemini"\n[chains.default]\npools = ["b"]\n')
    assert run(["--config", str(path)]) == EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert "providr" in error
    assert "Traceback" not in error


def test_a_configuration_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--config", str(tmp_path / "none.toml")]) == EXIT_CONFIGURATION
    assert "none.toml" in capsys.readouterr().err


@pytest.mark.parametrize("how", [["--demo", "--redis-url"], ["--redis-urll"]])
def test_an_address_that_cannot_be_used_is_told_without_its_password(
    how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run([*how, "redis://:pa55word-of-the-store@h:0"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert "--redis-url" in error
    assert "pa55word" not in error


START = "from smartfallback_console.main import main; main(['--demo'])"
CRASH = f"""
from smartfallback_console.screens.dashboard import Dashboard
def look(self):
    local = "a prompt nobody else may read"
    raise RuntimeError("the key sk-{"1" * 20} is in the text of an error")
Dashboard.look = look
{START}
"""


NOTHING: Mapping[str, str] = MappingProxyType({})


class Terminal:
    """The console in a terminal of its own."""

    def __init__(self, home: Path, code: str = START, variables: Mapping[str, str] = NOTHING) -> None:
        environment = {
            **os.environ,
            **variables,
            "TERM": "xterm-256color",
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "COLUMNS": "120",
            "LINES": "40",
        }
        self.seen = b""
        self.end = time.monotonic() + PATIENCE_S
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-c", code], environment)  # noqa: S606 - this very interpreter

    def until(self, text: bytes) -> None:
        while text not in self.seen:
            assert b"has stopped" not in self.seen, "the core did not start"
            assert self._read(), self.seen[-2_000:]

    def _read(self) -> bool:
        """Take what is written, waiting for it; False once the program has ended."""
        if not select.select([self.fd], [], [], max(0.0, self.end - time.monotonic()))[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"no end within {PATIENCE_S} s; last {self.seen[-2_000:]!r}")
        try:
            read = os.read(self.fd, 65_536)
        except OSError:  # the program has closed its end
            return False
        self.seen += read
        return bool(read)

    def wait(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


PATIENCE_S = 60
"""So long a machine may be too busy; no test takes it."""


@pytest.mark.parametrize("how", ["q", "hangup"])
def test_it_runs_in_a_terminal_and_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    terminal = Terminal(tmp_path)
    terminal.until(b"ag-1")
    if how == "q":
        os.write(terminal.fd, b"q")
    else:
        os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.wait() == 0
    assert b"Traceback" not in terminal.seen
    assert RESTORED in terminal.seen
    assert not list(tmp_path.rglob("*.log"))
    assert children_end(terminal.pid), "a child outlived the console"


RESTORED = b"\x1b[?1049l"
"""The terminal's own screen comes back."""


def test_a_crash_restores_the_terminal_and_tells_in_a_sentence_where_the_details_are(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, CRASH)
    assert terminal.wait() == EXIT_CRASH
    _, restored, after = terminal.seen.rpartition(RESTORED)
    assert restored
    (log,) = tmp_path.rglob("*.log")
    sentence = after.decode()
    assert "RuntimeError: the key *** is in the text" in sentence
    assert str(log) in sentence.replace("\r\n", "")
    assert "Traceback" not in sentence
    story = log.read_text()
    assert "in look" in story
    for text in (terminal.seen.decode(errors="replace"), story):
        assert "nobody else" not in text
        assert "1111111111" not in text
    assert log.stat().st_mode & 0o077 == 0
    assert log.parent.stat().st_mode & 0o077 == 0


def test_a_crash_whose_details_cannot_be_kept_is_told_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sentence = tell(ValueError("no\nroom\x1b[2J"), tmp_path / "file" / "crashes")
    assert "ValueError: no room" in sentence
    assert "could not be kept" in sentence
    assert "\x1b" not in sentence


CONFIG = """
[pools.orchard]
provider = "openai"
model = "pomona-1"
base_url = "{url}/v1"
[[pools.orchard.accounts]]
id = "tree-7"
api_key = {{ env = "ORCHARD_KEY" }}
[chains.default]
pools = ["orchard"]
"""


async def answer_in_pears(request: web.Request) -> web.StreamResponse:
    """One answer as an OpenAI-compatible server streams it."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for delta, finish in (
        ({"role": "assistant"}, None),
        ({"content": "conference-pears"}, None),
        ({}, "stop"),
    ):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        await response.write(f"data: {json.dumps({'id': 'a', 'choices': [choice]})}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


async def test_a_configured_account_answers_a_chat_end_to_end(tmp_path: Path) -> None:
    async with http_server(answer_in_pears) as server:
        path = tmp_path / "config.toml"
        path.write_text(CONFIG.format(url=server.url))
        code = f"from smartfallback_console.main import main; main(['--config', {str(path)!r}])"
        terminal = Terminal(tmp_path, code, {"ORCHARD_KEY": KEY})
        await asyncio.to_thread(terminal.until, b"tree-7")
        os.write(terminal.fd, b"iwhich fruit?\r")
        await asyncio.to_thread(terminal.until, b"conference-pears")
        await asyncio.to_thread(terminal.until, "✓".encode())
        os.write(terminal.fd, b"\x03")
        assert await asyncio.to_thread(terminal.wait) == 0
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body["messages"][-1]["content"] == "which fruit?"
    assert b"SIMULATED" not in terminal.seen
    assert KEY.encode() not in terminal.seen


def children_end(group: int) -> bool:
    """Whether no process of the group is left, within a long while."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


HANGING = """
import time
from smartfallback_console import app, main
class Stuck(app.ConsoleApp):
    async def _shutdown(self):
        time.sleep(60)
main.EXIT_LIMIT_S = 0.5
app.ConsoleApp = Stuck
main.main(["--demo"])
"""


def test_an_interface_that_does_not_end_is_ended_and_leaves_nothing_behind(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, HANGING)
    terminal.until(b"ag-1")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.wait() == 128 + signal.SIGTERM
    assert children_end(terminal.pid), "a child outlived the console"
