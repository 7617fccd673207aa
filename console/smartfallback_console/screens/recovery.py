"""The recovery view: how errors were recovered, and who waits in the queue."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import ModalScreen

from smartfallback_console.actions import BY_ID, bindings
from smartfallback_console.widgets.footer import KeyBar
from smartfallback_console.widgets.header import Header
from smartfallback_console.widgets.prompt import Prompt
from smartfallback_console.widgets.recovery import RecoveryFigures, RecoveryLog, figures

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult

    from smartfallback import Snapshot
    from smartfallback_console.screens.dashboard import Dashboard

HERE_TOO = (
    "pause",
    "pane_accounts",
    "pane_metrics",
    "pane_routing",
    "pane_chat",
    "theme",
    "command",
    "screenshot",
    "help",
)
"""Actions whose keys work here as they do on the dashboard."""
WIDE_FROM = 150
"""From this width on the figures have a column of their own."""
FRAMED_FROM = 14
"""Rows from which there is room for frames."""


class RecoveryScreen(ModalScreen[None]):
    """Figures, the queue and the latest recoveries, fed by the dashboard below it.

    Args:
        dashboard: Has looked at the core already, and carries out what is asked for here.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,v,5,q", "dismiss", "Back", key_display="esc"),
        Binding("ctrl+c", "operate('quit')", "Quit", show=False),
        *bindings(BY_ID[name] for name in HERE_TOO),
    ]

    DEFAULT_CSS = """
    RecoveryScreen {
        background: $background; layout: vertical;
        & > #recovery { height: 1fr; layout: vertical; }
        & > #recovery > RecoveryLog { height: 1fr; width: 1fr; }
        &.-tiny LineView { border: none; }
        &.-wide > #recovery { layout: horizontal; }
        &.-wide > #recovery > RecoveryFigures { width: 38%; height: 1fr; }
    }
    """

    def __init__(self, dashboard: Dashboard) -> None:
        super().__init__()
        self._dashboard = dashboard
        self._drawn: Snapshot | None = None

    def compose(self) -> ComposeResult:
        """Header, figures, log, keys."""
        yield Header(id="header")
        with Container(id="recovery"):
            yield RecoveryFigures(id="recovery-figures")
            yield RecoveryLog(id="recovery-log")
        yield Prompt(self._dashboard.complete, id="prompt")
        yield KeyBar(id="keys")

    @property
    def waiting(self) -> str:
        """The request under the cursor if it waits in the queue, else empty."""
        return self.query_one(RecoveryLog).waiting

    def on_mount(self) -> None:
        """Show what is known."""
        self.query_one(RecoveryLog).focus()
        self.look()

    def look(self) -> None:
        """Show how it stands now."""
        tick = self._dashboard.tick
        if tick is None:
            return
        self.query_one(Header).show(tick, read_only=self._dashboard.READ_ONLY)
        self.query_one(KeyBar).rename({"pause": "Go on" if tick.paused else "Pause"})
        if tick.snapshot is not self._drawn:
            self._drawn = tick.snapshot
            self.query_one(RecoveryFigures).show(tick.snapshot)
            self.query_one(RecoveryLog).show(tick.snapshot)
            self._share_out()

    def on_resize(self, event: events.Resize) -> None:
        """Side by side where there is room."""
        self.set_class(event.size.width >= WIDE_FROM, "-wide")
        self._share_out()

    def _share_out(self) -> None:
        """As many lines for the figures as they need, at most half of them."""
        width, height = self.app.size
        panel = self.query_one(RecoveryFigures)
        if width >= WIDE_FROM:
            panel.styles.height = "1fr"
            return
        tiny = height < FRAMED_FROM
        self.set_class(tiny, "-tiny")
        frame = 0 if tiny else 2
        most = (height - 2) // 2
        wanted = min(most, len(figures(self._drawn, width - 4, panel.ink, most - frame)) + frame)
        if panel.styles.height is None or panel.styles.height.value != wanted:
            panel.styles.height = wanted

    @on(RecoveryLog.Opened)
    def opened(self, event: RecoveryLog.Opened) -> None:
        """The whole story of a request."""
        event.stop()
        self._dashboard.tell(event.request_id)

    @on(Prompt.Submitted)
    def line_entered(self, event: Prompt.Submitted) -> None:
        """Carry out a command; keep the line open as long as it is wrong."""
        event.stop()
        prompt = self.query_one(Prompt)
        if event.text.strip() and (problem := self._dashboard.operations.run_line(event.text)):
            prompt.complain(problem)
            return
        self._leave_prompt()

    @on(Prompt.Left)
    def prompt_left(self, event: Prompt.Left) -> None:
        """Escape in the prompt."""
        event.stop()
        self._leave_prompt()

    def _leave_prompt(self) -> None:
        self.query_one(RecoveryLog).focus()
        self.query_one(Prompt).close()

    def action_operate(self, action_id: str) -> None:
        """Carry out an action of the registry."""
        self._dashboard.action_operate(action_id)

    @on(KeyBar.Pressed)
    async def key_clicked(self, event: KeyBar.Pressed) -> None:
        """A key of the bottom line was clicked."""
        await self.run_action(event.action)


class OperatorRecoveryScreen(RecoveryScreen):
    """The recovery view with the actions that change something."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(replace(binding, description="Drop", show=True) for binding in bindings([BY_ID["drop_queued"]])),
        *bindings([BY_ID["undo"]]),
    ]
