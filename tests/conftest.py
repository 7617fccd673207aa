"""What a test has to say about its run, such as which of two ways it took, is told at the end."""

from __future__ import annotations

import os
import signal

import pytest

NOTE = "note"
"""The name under which a test records what it has to say (``record_property``)."""

# A shell's background job ignores Ctrl+C, and every process that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
