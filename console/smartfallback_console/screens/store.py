"""The store view: where state is kept and how well, and every instance that shares it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container

from smartfallback_console.actions import BY_ID, bindings
from smartfallback_console.dialogs.details import DetailsDialog
from smartfallback_console.dialogs.standing import instance_lines
from smartfallback_console.screens.view import View
from smartfallback_console.widgets.store import InstanceTable, StorePanel, store_lines

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult

    from smartfallback import Snapshot
    from smartfallback_console.dialogs.details import Piece
    from smartfallback_console.feed import Tick
    from smartfallback_console.screens.dashboard import Dashboard

FRAMED_FROM = 14
"""Rows from which there is room for frames."""


class StoreScreen(View):
    """The store, and its instances."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n,7,q", "dismiss", "Back", key_display="esc"),
        *bindings([BY_ID["recovery"], BY_ID["simulation"]]),
    ]

    DEFAULT_CSS = """
    StoreScreen {
        & > #store { height: 1fr; layout: vertical; }
        & > #store > InstanceTable { height: 1fr; width: 1fr; }
        &.-tiny LineView { border: none; }
    }
    """

    def __init__(self, dashboard: Dashboard) -> None:
        super().__init__(dashboard)
        self._drawn: Snapshot | None = None

    def compose_body(self) -> ComposeResult:
        """Store and instances."""
        with Container(id="store"):
            yield StorePanel(id="store-panel")
            yield InstanceTable(id="store-instances")

    def take_focus(self) -> None:
        """Focus the instances."""
        self.query_one(InstanceTable).focus()

    def show(self, tick: Tick) -> None:
        """Draw a snapshot's store."""
        if tick.snapshot is not self._drawn:
            self._drawn = tick.snapshot
            self.query_one(StorePanel).show(tick.snapshot)
            self.query_one(InstanceTable).show(tick.snapshot)
            self._share_out()

    def on_resize(self, event: events.Resize) -> None:  # noqa: ARG002 - Textual's signature
        """Another width breaks lines elsewhere."""
        self._share_out()

    def _share_out(self) -> None:
        """As many lines for the store as it needs, at most so many that two instances stay in sight."""
        width, height = self.app.size
        panel = self.query_one(StorePanel)
        tiny = height < FRAMED_FROM
        self.set_class(tiny, "-tiny")
        frame = 0 if tiny else 2
        most = max(1, height - 4 - frame - 3)
        inside = width - 2 - frame
        wanted = min(most, len(store_lines(self._drawn, inside, panel.ink)) + frame)
        if panel.styles.height is None or panel.styles.height.value != wanted:
            panel.styles.height = wanted

    @on(InstanceTable.Opened)
    def opened(self, event: InstanceTable.Opened) -> None:
        """All about an instance."""
        event.stop()
        chosen = event.instance.id

        def lines() -> list[list[Piece]] | None:
            snapshot = self.dashboard.snapshot
            views = snapshot.store.instances if snapshot is not None else ()
            view = next((view for view in views if view.id == chosen), None)
            return None if view is None or snapshot is None else instance_lines(view, snapshot)

        self.app.push_screen(DetailsDialog(f"Instance {event.instance.name}", lines() or [], latest=lines))
