"""The command ``smartfallback`` as a real process, in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    done = subprocess.run(  # noqa: S603 - the project's own command with the test's arguments
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


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that nothing was written."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }
