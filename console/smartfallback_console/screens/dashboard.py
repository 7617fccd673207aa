"""The dashboard: all panes, fed once a tick."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.screen import Screen

from smartfallback_console.actions import ACTIONS, bindings
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.feed import INTERVAL_S, Feed, Tick
from smartfallback_console.routing import RoutingLog
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.footer import KeyBar
from smartfallback_console.widgets.header import Header
from smartfallback_console.widgets.metrics import FairnessPanel, LatencyPanel, TrafficPanel
from smartfallback_console.widgets.pane_layout import PaneArea
from smartfallback_console.widgets.routing_feed import RoutingFeed
from smartfallback_console.widgets.tabs import PaneTabs

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual import events
    from textual.app import ComposeResult
    from smartfallback import Snapshot
    from smartfallback_console.bridge import Source

METRICS_EVERY_S = 1.0


class Dashboard(Screen[None]):
    """Everything at a glance, without the power to change anything."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(action for action in ACTIONS if not action.dangerous),
        Binding("escape", "back", "Back", show=False),
    ]

    DEFAULT_CSS = """
    Dashboard { background: $background; layout: vertical; }
    Dashboard.-single PaneTabs { display: block; }
    Dashboard.-single PaneArea > * { border: none; padding: 0 1; }
    """

    def __init__(self, source: Source, *, clock: Callable[[], float] = time.monotonic, live: bool = True) -> None:
        super().__init__()
        self.source = source
        self.feed = Feed(source, clock=clock)
        self.log_ = RoutingLog()
        self.last: Tick | None = None
        self._clock = clock
        self._live = live
        self._metrics_at = -1.0
        self._drawn: Snapshot | None = None

    def compose(self) -> ComposeResult:
        yield Header(id="header")
        yield PaneTabs(id="tabs")
        with PaneArea(id="area"):
            yield AccountsTable(id="accounts")
            yield FairnessPanel(id="fairness")
            yield LatencyPanel(id="latency")
            yield TrafficPanel(id="traffic")
            yield RoutingFeed(self.log_, id="routing")
            yield ChatPane(id="chat")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        self.feed.open()
        self.query_one(AccountsTable).focus()
        self.call_after_refresh(self.look)
        self.set_interval(INTERVAL_S, self.look, pause=not self._live)

    def look(self) -> None:
        tick = self.feed.tick()
        self.last = tick
        self.query_one(Header).show(tick)
        if tick.events:
            self.log_.apply(tick.events)
        self.log_.dropped = tick.dropped
        if tick.snapshot is not None and tick.snapshot is not self._drawn:
            self._drawn = tick.snapshot
            self.query_one(AccountsTable).show(tick.snapshot)
            self.query_one(PaneArea).account_lines = self.query_one(AccountsTable).line_count() + 2
            for panel in (FairnessPanel, LatencyPanel, TrafficPanel):
                self.query_one(panel).show(tick.snapshot)
        if tick.events:
            self.query_one(RoutingFeed).show()

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self._mode)

    def _mode(self) -> None:
        self.set_class(self.query_one(PaneArea).single, "-single")
