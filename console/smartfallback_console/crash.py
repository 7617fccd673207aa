"""What is left of a crash: a sentence for the terminal, the details in a private file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from traceback import TracebackException

from smartfallback import redact
from smartfallback_console.formatting import clean

LONGEST = 160
"""Characters of an error's own text in the sentence."""


def tell(crash: str | BaseException, folder: Path | None = None) -> str:
    """Write the details down and say in a sentence what happened and where they are.

    Args:
        crash: The error, or its story where no error is at hand.
        folder: Where to write; the user's state directory by default.
    """
    folder = folder or state_folder() / "crashes"
    what = _summary(crash)
    try:
        path = _write(_story(crash), folder)
    except OSError as error:
        return f"it stopped at an error it did not expect: {what}. The details could not be kept: {error}"
    return f"it stopped at an error it did not expect: {what}. The details are in {path}"


def state_folder() -> Path:
    """The user's folder for what is kept between runs."""
    from platformdirs import user_state_path

    return user_state_path("smartfallback")


def _summary(crash: str | BaseException) -> str:
    if isinstance(crash, str):
        lines = crash.strip().splitlines()
        text = lines[-1] if lines else "no reason was given"
    else:
        text = f"{type(crash).__name__}: {crash}" if str(crash) else type(crash).__name__
    text = clean(redact(text)).strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _story(crash: str | BaseException) -> str:
    """The traceback without local variables, since those hold requests and credentials."""
    if isinstance(crash, str):
        return redact(crash)
    return redact("".join(TracebackException.from_exception(crash, capture_locals=False).format()))


def _write(text: str, folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / time.strftime(f"console-%Y%m%d-%H%M%S-{os.getpid()}.log")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path
