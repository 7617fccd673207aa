"""A search for a provider's program that a drill can make fail."""

from __future__ import annotations

from collections.abc import Callable

from smartfallback.clock import Clock
from smartfallback.providers.copilot_tool import ToolLocator


class HidingLocator(ToolLocator):
    """Finds the program unless it is missing by a drill.

    Args:
        command: See :class:`ToolLocator`.
        clock: See :class:`ToolLocator`.
        missing: Whether it is.
    """

    def __init__(self, command: tuple[str, ...], clock: Clock, missing: Callable[[], bool]) -> None:
        super().__init__(command, clock)
        self._missing = missing

    def find(self) -> tuple[str, ...] | None:
        """See :meth:`ToolLocator.find`."""
        return None if self._missing() else super().find()
