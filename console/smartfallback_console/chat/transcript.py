"""The turns of a conversation, one below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from smartfallback_console.chat.composer import Composer
from smartfallback_console.chat.turn_view import TurnView

if TYPE_CHECKING:
    from textual.widget import Widget

SHOWN_ITEMS = 30
"""Turns and notices on the screen; older ones are remembered but no longer drawn."""


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

    async def add(self, item: Widget, *, above: Widget | None, kept: Widget | None) -> None:
        """Put something at the end, go there, and take the oldest off the screen.

        Args:
            item: A turn or a remark.
            above: What it is to stand above; None for the end.
            kept: What stays on the screen however old it is.
        """
        await self.query("#welcome").remove()
        await self.mount(item, before=above)
        items = [child for child in self.children if child is not kept]
        if len(items) > SHOWN_ITEMS:
            await self.remove_children(items[: len(items) - SHOWN_ITEMS])
        self.anchor()

    async def begin(self, first: Widget) -> None:
        """Empty it, and begin anew with this."""
        self.anchor(False)
        await self.remove_children()
        await self.mount(first)

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
