"""A stand-in for Copilot's command-line tool, so that the real adapter runs a real program.

The stand-in asks a simulated upstream over loopback: a fault that is put on the upstream is met
through the tool, in the tool's own words.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from smartfallback.simulation import copilot_stand_in

NAME: Final = "copilot"
_ONLY_USER: Final = 0o700
_LONGEST_SHEBANG: Final = 127
"""What every kernel reads of a program's first line."""


def install_copilot(folder: Path, lab_url: str, *, default_model: str = "gpt-4.1") -> Path:
    """Write the stand-in into a folder, replacing an earlier one in one step.

    The login that it is run with (``GH_TOKEN``) is the key with which it asks the upstream.

    Args:
        folder: A private folder, which exists; put it on ``PATH``, or the result into a pool's ``command``.
        lab_url: Base URL of an upstream in the OpenAI dialect, as :meth:`Lab.base_url` gives it.
        default_model: The model that is asked when the caller names none.

    Returns:
        The executable.

    Raises:
        OSError: The folder can't be written.
        ValueError: ``lab_url`` is no plain HTTP address.
    """
    if not lab_url.startswith("http://"):
        raise ValueError(f"lab_url must begin with http://, not {lab_url!r}")
    source = Path(copilot_stand_in.__file__).read_text("utf-8")
    # Isolated and without site-packages: that halves the start, and nothing lying about gets imported.
    start = f"{_shebang()}{source}\n\nsys.exit(main(sys.argv[1:], {lab_url!r}, {default_model!r}))\n"
    path = folder / NAME
    fresh = folder / f".{NAME}.new"
    fresh.write_text(start, "utf-8")
    fresh.chmod(_ONLY_USER)
    # A running copy keeps the file that it was started from.
    return fresh.replace(path)


def _shebang() -> str:
    line = f"#!{sys.executable} -IS\n"
    if len(line) <= _LONGEST_SHEBANG and " " not in sys.executable:
        return line
    # A shell may start any path: to it the line is a command, to Python a string.
    quoted = sys.executable.replace("'", "'\\''")
    return f"#!/bin/sh\n''':'\nexec '{quoted}' -IS \"$0\" \"$@\"\n'''\n"
