"""The recovery view: how errors were recovered, and who waits in the queue."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container

from smartfallback_console.actions import BY_ID, bindings
from smartfallback_console.screens.view import View
from smartfallback_console.widgets.recovery import RecoveryFigures, RecoveryLog, figures

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult

    from smartfallback import Snapshot
    from smartfallback_console.feed import Tick
    from smartfallback_console.screens.dashboard import Dashboard

WIDE_FROM = 150
"""From this width on the figures have a column of their own."""
FRAMED_FROM = 14
"""Rows from which there is room for frames."""


class RecoveryScreen(View):
    """Figures, the queue and the latest recoveries."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,v,5,q", "dismiss", "Back", key_display="esc"),
        *bindings([BY_ID["simulation"], BY_ID["store"]]),
    ]

    DEFAULT_CSS = """
    RecoveryScreen {
        & > #recovery { height: 1fr; layout: vertical; }
        & > #recovery > RecoveryLog { height: 1fr; width: 1fr; }
        &.-tiny LineView { border: none; }
        &.-wide > #recovery { layout: horizontal; }
        &.-wide > #recovery > RecoveryFigures { width: 38%; height: 1fr; }
    }
    """

    def __init__(self, dashboard: Dashboard) -> None:
        super().__init__(dashboard)
        self._drawn: Snapshot | None = None

    def compose_body(self) -> ComposeResult:
        """Figures and log."""
        with Container(id="recovery"):
            yield RecoveryFigures(id="recovery-figures")
            yield RecoveryLog(id="recovery-log")

    @property
    def waiting(self) -> str:
        """The request under the cursor if it waits in the queue, else empty."""
        return self.query_one(RecoveryLog).waiting

    def take_focus(self) -> None:
        """Focus the log."""
        self.query_one(RecoveryLog).focus()

    def show(self, tick: Tick) -> None:
        """Draw a snapshot's figures, queue and recoveries."""
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
        self.dashboard.tell(event.request_id, event.ended_at)


class OperatorRecoveryScreen(RecoveryScreen):
    """The recovery view with the actions that change something."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(replace(binding, description="Drop", show=True) for binding in bindings([BY_ID["drop_queued"]])),
        *bindings([BY_ID["undo"]]),
    ]
