"""What the exit codes of ``smartfallback`` mean. They are part of its public face."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
"""The command ran, and what it was asked for did not come about."""
MISUSED: Final = 2
"""A wrong argument or a configuration with mistakes; nothing was sent and nothing written."""
INTERRUPTED: Final = 130
"""Ctrl+C."""
AFTER_SIGNAL: Final = 128
"""Plus the signal's number, for other signals, as shells do it."""
