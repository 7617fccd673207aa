"""Asks before faults meet real accounts: a typed word for a scenario, the particulars for one fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from smartfallback import Drill
from smartfallback_console.drill_words import Typed, parse_length, parse_share, target_of
from smartfallback_console.formatting import clean, span
from smartfallback_console.proposal import OperatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from smartfallback import ScenarioView, Snapshot

NAMES_SHOWN = 40
"""Accounts named one by one before a run; of more, their number is told."""

CSS = """
    align: center middle; background: $background 60%;
    #box {
        width: 68; max-width: 96%; height: auto; max-height: 96%; overflow-y: auto;
        background: $surface; border: round $warning; border-title-color: $warning;
        border-title-style: bold; padding: 1 2;
    }
    #warning { color: $warning; margin-top: 1; }
    #problem { color: $error; height: auto; }
    .row { height: 1; margin-top: 1; }
    .row Label { width: 10; color: $foreground 70%; }
    .hint { height: 1; padding-left: 10; color: $foreground 60%; }
    Input { width: 1fr; height: 1; border: none; padding: 0 1; background: $panel; }
    #buttons { height: 1; margin-top: 1; align-horizontal: right; }
    Button { min-width: 12; height: 1; border: none; margin-left: 1; }
"""


class RunDialog(ModalScreen[bool]):
    """Says which accounts a scenario touches and what it may cost; runs it on its typed name only.

    Args:
        scenario: What is to be run.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "decline", "Cancel"),
        # Before the field that has the focus takes it for "copy".
        Binding("ctrl+c", "decline", show=False, priority=True),
    ]
    DEFAULT_CSS = f"RunDialog {{ {CSS} }}"

    def __init__(self, scenario: ScenarioView) -> None:
        super().__init__()
        self.scenario = scenario

    def compose(self) -> ComposeResult:
        """What it does, to whom, how much; the field; buttons."""
        scenario = self.scenario
        names = [clean(name) for name in scenario.touches]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        with Vertical(id="box") as box:
            box.border_title = clean(f"Run “{scenario.title}” on real accounts?").replace("[", "\\[")
            yield Static(
                f"Touches {len(names)} account{'' if len(names) == 1 else 's'}: "
                f"{', '.join(names[:NAMES_SHOWN])}{more}.",
                id="touches",
                markup=False,
            )
            yield Static(f"Sends at most {scenario.requests} requests.", id="requests", markup=False)
            yield Static(
                "▲ While it runs, other requests to these accounts meet its faults too. "
                "At its end all is as before.",
                id="warning",
                markup=False,
            )
            with Horizontal(classes="row"):
                yield Label("Type")
                yield Static(clean(scenario.name), id="word", markup=False)
            with Horizontal(classes="row"):
                yield Label("")
                yield Input(placeholder="the name above", id="typed", compact=True)
            yield Static("", id="problem", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel  esc", id="decline", compact=True)
                yield Button("Run  ⏎", id="agree", variant="warning", compact=True)

    def on_mount(self) -> None:
        """Start in the field."""
        self.query_one("#typed", Input).focus()

    @on(Input.Submitted)
    @on(Button.Pressed, "#agree")
    def agree(self) -> None:
        """Run it if its name was typed."""
        if self.query_one("#typed", Input).value.strip() != clean(self.scenario.name).strip():
            self.query_one("#problem", Static).update(f"Type {clean(self.scenario.name)} to run it.")
            self.query_one("#typed", Input).focus()
            return
        self.dismiss(True)

    @on(Button.Pressed, "#decline")
    def action_decline(self) -> None:
        """Don't run it."""
        self.dismiss(False)


class FaultDialog(ModalScreen[Drill | None]):
    """The particulars of a fault: on whom, its number, how long, of how many calls.

    Args:
        typed: What is known already.
        target: Whom it is to be on, by name.
        snapshot: Who there is.
        wider: Wider targets that could be named instead.
        real: Whether real accounts are touched.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "decline", "Cancel"),
        # Before the field that has the focus takes it for "copy".
        Binding("ctrl+c", "decline", show=False, priority=True),
    ]
    DEFAULT_CSS = f"FaultDialog {{ {CSS} }}"

    def __init__(
        self, typed: Typed, target: str, snapshot: Snapshot, *, wider: Sequence[str] = (), real: bool = False
    ) -> None:
        super().__init__()
        self._typed = typed
        self._target = target
        self._snapshot = snapshot
        self._wider = wider
        self._real = real

    def compose(self) -> ComposeResult:
        """What calls meet; the fields; buttons."""
        kind = self._typed.kind
        meaning = kind.told("…")
        with Vertical(id="box") as box:
            box.border_title = f"Inject a fault: {kind.name}"
            yield Static(f"{meaning[:1].upper()}{meaning[1:]}.", markup=False)
            if self._real:
                yield Static(
                    "▲ These are real accounts: requests of everybody meet it.", id="warning", markup=False
                )
            with Horizontal(classes="row"):
                yield Label("On")
                yield Input(clean(self._target), id="target", compact=True)
            if self._wider:
                with Horizontal(classes="hint"):
                    yield Static("or wider: " + ", ".join(clean(name) for name in self._wider), markup=False)
            if kind.asks:
                number = span(self._typed.number) if kind.seconds else f"{self._typed.number:g}"
                with Horizontal(classes="row"):
                    yield Label(kind.asks.capitalize())
                    yield Input(number, id="number", compact=True)
            with Horizontal(classes="row"):
                yield Label("For")
                yield Input(span(self._typed.duration_s), id="duration", compact=True)
            with Horizontal(classes="row"):
                yield Label("Of calls")
                yield Input(f"{self._typed.share * 100:g}%", id="share", compact=True)
            yield Static("", id="problem", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel  esc", id="decline", compact=True)
                yield Button("Start  ⏎", id="agree", variant="warning", compact=True)

    def on_mount(self) -> None:
        """Start on the number or the duration, which are changed most."""
        fields = self.query("#number") or self.query("#duration")
        fields.first(Input).focus()

    @on(Input.Submitted)
    @on(Button.Pressed, "#agree")
    def agree(self) -> None:
        """Check the fields and give the drill."""
        kind = self._typed.kind
        name = self.query_one("#target", Input).value.strip()
        try:
            # A name that holds what can't be shown is not typed anew as long as it is left alone.
            target = target_of(self._target if name == clean(self._target).strip() else name, self._snapshot)
            number = kind.number(self.query_one("#number", Input).value) if kind.asks else kind.usual
            length = parse_length(self.query_one("#duration", Input).value)
            share = parse_share(self.query_one("#share", Input).value)
            drill = Typed(kind, number, length, share).drill(target)
        except OperatorError as error:
            self.query_one("#problem", Static).update(str(error))
            return
        self.dismiss(drill)

    @on(Button.Pressed, "#decline")
    def action_decline(self) -> None:
        """Don't start it."""
        self.dismiss(None)
