"""The turns of a conversation, one below the other."""

from __future__ import annotations

from typing import ClassVar

from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from smartfallback_console.chat.composer import Composer
from smartfallback_console.chat.turn_view import TurnView


class Transcript(VerticalScroll):
    """The turns; follows the end only while the reader is there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "details", "Details", show=True),
        Binding("escape", "leave", "Back", show=False),
    ]

    DEFAULT_CSS = """
    Transcript { height: 1fr; width: 1fr; padding: 0 1 0 0; background: transparent;
        scrollbar-size: 1 1; scrollbar-background: $surface; scrollbar-background-hover: $surface;
        scrollbar-background-active: $surface; scrollbar-color: $foreground 25%;
    }
    """

    def action_details(self) -> None:
        """Open or close the story of the lowest answer in sight."""
        for view in reversed(self.query(TurnView)):
            if view.region.overlaps(self.region):
                view.toggle_details()
                return

    def action_leave(self) -> None:
        """Back to the field, or out of a pane that has none."""
        composer = self.screen.query_one(Composer)
        if composer.disabled:
            raise SkipAction
        composer.focus()
