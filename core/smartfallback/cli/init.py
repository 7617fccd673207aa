"""``smartfallback init``."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

from smartfallback.cli import exit_codes
from smartfallback.cli.terminal import CommandError, answer
from smartfallback.config.locate import default_config_path
from smartfallback.config.mistakes import printable
from smartfallback.config.starter import STARTER


def write_starter(path: Path | None, *, force: bool) -> int:
    """Write the starter configuration, readable by the user only, and say what to do next.

    Raises:
        CommandError: The file exists and ``force`` is not given, or it can't be written.
    """
    target = default_config_path() if path is None else path
    shown = printable(str(target))
    try:
        _make_folders(target.parent)
        if force:
            _replace(target)
        else:
            _create(target)
    except FileExistsError:
        raise CommandError(
            f"{shown} exists already and is left as it is. --force replaces it, --path names another.",
            exit_codes.MISUSED,
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise CommandError(f"{shown} can't be written: {reason}.", exit_codes.MISUSED) from None
    option = "" if path is None else f" --config {shlex.quote(shown)}"
    answer(
        f"Wrote {shown}.\n"
        "Next: open it, name your accounts, set the environment variables it refers to, and run\n"
        f"  smartfallback check{option}\n"
    )
    return exit_codes.DONE


def _make_folders(folder: Path) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700, exist_ok=True)


def _create(target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(STARTER)


def _replace(target: Path) -> None:
    """Put the new file in place in one step, so that no moment has half a file."""
    # A link stays a link: what it points to is replaced.
    target = target.resolve()
    descriptor, name = tempfile.mkstemp(prefix=".config-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(STARTER)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
