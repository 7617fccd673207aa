"""Writing for people and programs: answers to stdout, everything about them to stderr."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Final

import typer

from smartfallback.cli import exit_codes
from smartfallback.model.secrets import redact

QUIET: Final = logging.NullHandler()
_KEPT_CONTROLS: Final = "\n\t"
_YEAR_9999: Final = 253_370_764_800.0


class CommandError(Exception):
    """Ends a command with a sentence for the operator and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def plain(text: str) -> str:
    """Text from outside without control characters, which could move the cursor or retitle a terminal."""
    return "".join(char for char in text if char in _KEPT_CONTROLS or not _is_control(char))


def one_line(text: str) -> str:
    """:func:`plain` text on one line."""
    return " ".join(plain(text).split())


def expected(at: float, now: float) -> str:
    """When something that is expected at epoch time ``at`` comes, whatever number an upstream has stated."""
    if at <= now:
        return "now"
    if not at < _YEAR_9999:
        return "not before the year 9999"
    in_seconds = f"in {at - now:.0f} s"
    try:
        return f"at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}, {in_seconds}"
    except (OverflowError, OSError, ValueError):
        # Some platforms' calendars end before the year 9999.
        return in_seconds


def answer(text: str) -> None:
    """Write to stdout now; a terminal gets no control characters from outside, a pipe gets all."""
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def answer_json(value: Mapping[str, object] | Sequence[Mapping[str, object]]) -> None:
    """Write one JSON object, or a list of them, to stdout, readable in whatever encoding stdout has."""
    utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not utf8, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Write a line about what happens to stderr."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def run_command(command: Callable[[], int]) -> None:
    """Run a command and end the process with its exit code: plain sentences, never a traceback.

    Raises:
        typer.Exit: Always.
    """
    # What the log would say is told in the command's own words; without a handler Python prints it.
    logging.getLogger("smartfallback").addHandler(QUIET)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        code = command()
        sys.stdout.flush()
    except CommandError as error:
        tell(redact(str(error)))
        code = error.exit_code
    except KeyboardInterrupt:
        tell("Cancelled.")
        code = exit_codes.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output is gone; the interpreter must not fail again at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exit_codes.FAILED
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        tell(
            f"This should not have happened: {type(error).__name__}: {one_line(redact(str(error)))} "
            f"({Path(place.filename).name}:{place.lineno}). Please report it."
        )
        code = exit_codes.FAILED
    raise typer.Exit(code)


def run_async(main: Callable[[], Coroutine[object, object, int]]) -> int:
    """Run a coroutine to its end; Ctrl+C and requests to terminate cancel it, so that it cleans up."""
    import asyncio

    received: list[int] = []

    async def supervised() -> int:
        task = asyncio.current_task()

        def stop(number: int) -> None:
            received.append(number)
            if task is not None:
                task.cancel()

        if sys.platform != "win32":
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, stop, number)
        return await main()

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        return exit_codes.AFTER_SIGNAL + (received[0] if received else signal.SIGTERM)


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f"
