"""The chat pane."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static


class ChatPane(Vertical, can_focus=True):
    """Where the operator talks to a chain."""

    DEFAULT_CSS = """
    ChatPane {
        background: $surface;
        border: round $foreground 18%;
        border-title-color: $foreground 75%;
        padding: 0 1;
        &:focus-within { border: round $primary; border-title-color: $primary; border-title-style: bold; }
    }
    """

    def compose(self) -> ComposeResult:
        """The empty state."""
        yield Static("Press enter to ask something.", markup=False)

    def on_mount(self) -> None:
        """Name the pane."""
        self.border_title = "Chat"
