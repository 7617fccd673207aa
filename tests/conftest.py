"""How the suite runs: what its workers and processes share, and what tests have to say at the end."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

NOTE = "note"
"""The name under which a test records what it has to say (``record_property``)."""

# A shell's background job ignores Ctrl+C, and every process that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without compiled files each worker, and each process that a test starts, would compile all modules anew.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False

TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Let each worker begin with other files: what one has compiled, the others only read."""
    worker = getattr(config, "workerinput", None)
    if worker is not None and [Path(each).resolve() for each in config.args] == [TESTS]:
        files = sorted(map(str, TESTS.rglob("test_*.py")))
        first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        config.args = files[first:] + files[:first]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # All workers must have the same tests in the same order.
    items.sort(key=lambda item: item.path)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are collected, nor later among what was made then: nearly all stays.

    Consoles make many objects at once: at the usual thresholds the search takes a fifth of their tests' time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(50_000, 10, 10)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Properties travel with the reports, so this also works where workers run the tests.
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    notes = {str(value) for report in reports for name, value in report.user_properties if name == NOTE}
    if notes:
        terminalreporter.section("notes")
        for note in sorted(notes):
            terminalreporter.write_line(note)


def pytest_xdist_auto_num_workers() -> int:
    """Two workers a core: much of the suite waits for servers, processes and limits."""
    return 2 * (os.cpu_count() or 1)
