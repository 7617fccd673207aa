"""Asks before something that changes how requests are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from smartfallback_console.formatting import clean, duration, parse_duration

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from smartfallback_console.proposal import Proposal


class Answer(NamedTuple):
    """What the operator entered on agreeing."""

    reason: str
    duration_s: float | None


class ConfirmDialog(ModalScreen[Answer | None]):
    """Says what will happen, takes a reason, and gives None when the operator declines."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "decline", "Cancel"),
        # Before the field that has the focus takes it for "copy".
        Binding("ctrl+c", "decline", show=False, priority=True),
    ]

    DEFAULT_CSS = """
    ConfirmDialog {
        align: center middle; background: $background 60%;
        #box {
            width: 64; max-width: 96%; height: auto; max-height: 96%; overflow-y: auto;
            background: $surface; border: round $warning; border-title-color: $warning;
            border-title-style: bold; padding: 1 2;
        }
        #warning { color: $warning; margin-top: 1; }
        #problem { color: $error; height: auto; }
        .row { height: 1; margin-top: 1; }
        .row Label { width: 10; color: $foreground 70%; }
        Input {
            width: 1fr; height: 1; border: none; padding: 0 1; background: $panel;
        }
        #buttons { height: 1; margin-top: 1; align-horizontal: right; }
        Button { min-width: 12; height: 1; border: none; margin-left: 1; }
    }
    """

    def __init__(self, proposal: Proposal, *, reason: str = "", duration_s: float | None = None) -> None:
        super().__init__()
        self.proposal = proposal
        self._reason = reason
        self._duration_s = duration_s

    def compose(self) -> ComposeResult:
        """Question, consequence, warning, fields, buttons."""
        proposal = self.proposal
        with Vertical(id="box") as box:
            box.border_title = clean(proposal.title).replace("[", "\\[")
            yield Static(clean(proposal.consequence), markup=False)
            if proposal.warning:
                yield Static(f"▲ {clean(proposal.warning)}", id="warning", markup=False)
            if proposal.takes_reason:
                with Horizontal(classes="row"):
                    yield Label("Reason")
                    yield Input(
                        self._reason, placeholder="optional; shown to everyone", id="reason", compact=True
                    )
            if proposal.takes_duration:
                with Horizontal(classes="row"):
                    yield Label("For")
                    text = "" if self._duration_s is None else duration(self._duration_s).split(" ")[0]
                    yield Input(
                        text, placeholder="90s, 10m, 2h; empty: until reset", id="duration", compact=True
                    )
            yield Static("", id="problem", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel  esc", id="decline", compact=True)
                yield Button(f"{proposal.verb}  ⏎", id="agree", variant="warning", compact=True)

    def on_mount(self) -> None:
        """Start in the first field, or on the button."""
        fields = self.query(Input)
        (fields.first() if fields else self.query_one("#agree", Button)).focus()

    @on(Input.Submitted)
    @on(Button.Pressed, "#agree")
    def agree(self) -> None:
        """Check the fields and give the answer."""
        length = None
        if self.proposal.takes_duration:
            try:
                length = parse_duration(self.query_one("#duration", Input).value)
            except ValueError as error:
                self.query_one("#problem", Static).update(str(error))
                self.query_one("#duration", Input).focus()
                return
        reason = self.query_one("#reason", Input).value.strip() if self.proposal.takes_reason else ""
        self.dismiss(Answer(reason, length))

    @on(Button.Pressed, "#decline")
    def action_decline(self) -> None:
        """Do nothing."""
        self.dismiss(None)
