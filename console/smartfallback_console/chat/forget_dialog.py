"""Asks before kept sessions are deleted, which can't be taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from smartfallback_console.chat.session_list import about
from smartfallback_console.formatting import clean

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from smartfallback import ChatSession


class ForgetDialog(ModalScreen[bool]):
    """Gives True when the operator agrees.

    Args:
        session: What is to be deleted; None for all sessions.
        now: Epoch seconds.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "decline", "Cancel")]

    DEFAULT_CSS = """
    ForgetDialog {
        align: center middle; background: $background 60%;
        #box {
            width: 64; max-width: 96%; height: auto; max-height: 96%; overflow-y: auto;
            background: $surface; border: round $warning; border-title-color: $warning;
            border-title-style: bold; padding: 1 2;
        }
        #box Static { height: auto; }
        #warning { color: $warning; margin-top: 1; }
        #buttons { height: 1; margin-top: 1; align-horizontal: right; }
        Button { min-width: 12; height: 1; border: none; margin-left: 1; }
    }
    """

    def __init__(self, session: ChatSession | None, now: float) -> None:
        super().__init__()
        self._session = session
        self._now = now

    def compose(self) -> ComposeResult:
        """What goes, what that means, buttons."""
        session = self._session
        with Vertical(id="box") as box:
            if session is None:
                box.border_title = "Forget all sessions?"
                yield Static("Every kept session goes, with all prompts and answers.", markup=False)
            else:
                box.border_title = "Forget this session?"
                yield Static(Content.styled(clean(session.title), "bold"), markup=False)
                yield Static(Content(about(session, self._now)), markup=False)
            yield Static("▲ It can't be taken back.", id="warning", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel  esc", id="decline", compact=True)
                yield Button("Forget  ⏎", id="agree", variant="warning", compact=True)

    def on_mount(self) -> None:
        """Enter agrees."""
        self.query_one("#agree", Button).focus()

    @on(Button.Pressed, "#agree")
    def agree(self) -> None:
        """Delete."""
        self.dismiss(result=True)

    @on(Button.Pressed, "#decline")
    def action_decline(self) -> None:
        """Delete nothing."""
        self.dismiss(result=False)
