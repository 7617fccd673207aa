"""The console in tests: no animations, and the time of day in one zone."""

from __future__ import annotations

import os
import time

os.environ["TEXTUAL_ANIMATIONS"] = "none"
os.environ["TZ"] = "UTC"
time.tzset()

import pytest  # noqa: E402 - textual reads the environment when it is imported

from support.console import Opener, open_console  # noqa: E402 - as above


@pytest.fixture
def console() -> Opener:
    return open_console
