"""The command: options, mistakes, and its end in a real terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from smartfallback_console.main import EXIT_CONFIGURATION, run


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


class Terminal:
    """The console in a terminal of its own."""

    def __init__(self, home: Path) -> None:
        environment = {
            **os.environ,
            "TERM": "xterm-256color",
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "COLUMNS": "120",
            "LINES": "40",
        }
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            code = "from smartfallback_console.main import main; main(['--demo'])"
            os.execve(sys.executable, [sys.executable, "-c", code], environment)  # noqa: S606 - this very interpreter
        self.seen = b""

    def until(self, text: bytes) -> None:
        end = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < end, self.seen[-2_000:]
            assert b"has stopped" not in self.seen, "the core did not start"
            self._read()

    def _read(self) -> None:
        if select.select([self.fd], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.fd, 65_536)

    def wait(self) -> int:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            self._read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("the console did not end")


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
    end = time.monotonic() + 10
    while group_lives(terminal.pid):
        assert time.monotonic() < end, "a child outlived the console"
        time.sleep(0.05)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
