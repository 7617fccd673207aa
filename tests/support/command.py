"""The command ``smartfallback`` in a home of its own: as a process, or within the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smartfallback.cli import main

COMMAND = (sys.executable, "-m", "smartfallback.cli")


def environment(home: Path, **variables: str) -> dict[str, str]:
    """This process's environment, but with another home and no keys or proxies of ours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith(("_PROXY", "_KEY", "_TOKEN")) and not name.startswith("XDG_")
    }
    return {**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), **variables}


def run(
    home: Path,
    *arguments: str | Path,
    stdin: bytes = b"",
    command: tuple[str, ...] = COMMAND,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; its output comes as text."""
    done = subprocess.run(
        [*command, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(home, **variables),
        cwd=home,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    )


class Inside:
    """Runs the command within the test's process, which saves the half second that a new one takes."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._home = home
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        with self._monkeypatch.context() as patch:
            for name, value in environment(self._home, **variables).items():
                patch.setenv(name, value)
            patch.chdir(self._home)
            patch.setattr(sys, "argv", ["smartfallback", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        said = self._capsys.readouterr()
        code = ended.value.code
        return subprocess.CompletedProcess(
            arguments, code if isinstance(code, int) else bool(code), said.out, said.err
        )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that nothing was written."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }
