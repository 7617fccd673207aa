"""The panes by name, for terminals that have room for one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from textual import events

    from smartfallback_console.ink import Ink

PANES = (("accounts", "Accounts"), ("metrics", "Metrics"), ("routing", "Routing"), ("chat", "Chat"))
"""Ids and titles; the number key of each is its place."""
RECOVERY = "recovery"
SIMULATION = "simulation"
STORE = "store"
"""These stand among the panes, but open views of their own."""
TABS = (*PANES, (RECOVERY, "Recovery"), (SIMULATION, "Simulate"), (STORE, "Store"))
FULL_FROM = sum(len(title) + 4 for _, title in TABS)
"""Cells from which all names are written out."""
APART_FROM = FULL_FROM + len(TABS)
"""Cells from which they stand apart."""


class PaneTabs(LineView, can_focus=False):
    """One line with the panes; the shown one stands out."""

    DEFAULT_CSS = """
    PaneTabs {
        height: 1; border: none; padding: 0 1; background: $surface; overflow: hidden; display: none;
    }
    """

    class Chosen(Message):
        """The operator clicked a pane's name."""

        def __init__(self, pane: str) -> None:
            super().__init__()
            self.pane = pane

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.active = "accounts"
        self._ends: list[tuple[int, str]] = []

    def line_count(self) -> int:
        """One."""
        return 1

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:  # noqa: ARG002 - a single line
        """All names, shortened when there is little room."""
        out = LineWriter()
        self._ends.clear()
        letters = width // len(TABS) - 4
        for number, (pane, title) in enumerate(TABS, 1):
            chosen = pane == self.active
            name = title if width >= FULL_FROM else title[: max(2 if chosen else 0, letters)]
            if chosen:
                out.put(f" {number} {name} ", ink.accent_pill)
            else:
                out.put(f" {number}", ink.accent).put(f" {name} " if name else "", ink.muted)
            out.space(1 if width >= APART_FROM else 0)
            self._ends.append((out.length, pane))
        return out.line()

    def on_click(self, event: events.Click) -> None:
        """Choose the pane under the mouse."""
        inside = event.get_content_offset(self)
        if inside is None:
            return
        for end, pane in self._ends:
            if inside.x < end:
                self.post_message(self.Chosen(pane))
                return
