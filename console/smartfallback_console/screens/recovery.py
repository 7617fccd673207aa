"""The recovery view: how errors were recovered, and who waits in the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import ModalScreen

from smartfallback_console.widgets.footer import KeyBar
from smartfallback_console.widgets.header import Header
from smartfallback_console.widgets.recovery import RecoveryFigures, RecoveryLog, figures

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult

    from smartfallback import Snapshot
    from smartfallback_console.feed import Tick

WIDE_FROM = 150
"""From this width on the figures have a column of their own."""


class RecoveryScreen(ModalScreen[None]):
    """Figures, the queue and the latest recoveries, fed by the dashboard below it.

    Args:
        latest: What the dashboard has seen last.
        tell: Shows the whole story of a request.
        read_only: Whether the console is.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,v,5,q", "dismiss", "Back", key_display="esc"),
    ]

    DEFAULT_CSS = """
    RecoveryScreen {
        background: $background; layout: vertical;
        & > #recovery { height: 1fr; layout: vertical; }
        & > #recovery > RecoveryLog { height: 1fr; width: 1fr; }
        &.-wide > #recovery { layout: horizontal; }
        &.-wide > #recovery > RecoveryFigures { width: 38%; height: 1fr; }
    }
    """

    def __init__(
        self, latest: Callable[[], Tick | None], tell: Callable[[str], None], *, read_only: bool
    ) -> None:
        super().__init__()
        self._latest = latest
        self._tell = tell
        self._read_only = read_only
        self._drawn: Snapshot | None = None

    def compose(self) -> ComposeResult:
        """Header, figures, log, keys."""
        yield Header(id="header")
        with Container(id="recovery"):
            yield RecoveryFigures(id="recovery-figures")
            yield RecoveryLog(id="recovery-log")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Show what is known."""
        self.query_one(RecoveryLog).focus()
        self.look()

    def look(self) -> None:
        """Show how it stands now."""
        tick = self._latest()
        if tick is None:
            return
        self.query_one(Header).show(tick, read_only=self._read_only)
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
        lines = len(figures(self._drawn, width - 4, panel.ink)) + 2
        wanted = max(5, min(lines, (height - 4) // 2))
        if panel.styles.height is None or panel.styles.height.value != wanted:
            panel.styles.height = wanted

    @on(RecoveryLog.Opened)
    def opened(self, event: RecoveryLog.Opened) -> None:
        """The whole story of a request."""
        event.stop()
        self._tell(event.request_id)

    @on(KeyBar.Pressed)
    async def key_clicked(self, event: KeyBar.Pressed) -> None:
        """A key of the bottom line was clicked."""
        await self.run_action(event.action)
