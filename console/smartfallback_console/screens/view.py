"""What the views in front of the dashboard share: header, prompt, keys, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from smartfallback_console.actions import BY_ID, bindings
from smartfallback_console.widgets.footer import KeyBar
from smartfallback_console.widgets.header import Header
from smartfallback_console.widgets.prompt import Prompt

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from smartfallback_console.feed import Tick
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


class View(ModalScreen[None]):
    """A whole screen of one matter, fed by the dashboard below it.

    Args:
        dashboard: Has looked at the core already, and carries out what is asked for here.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "operate('quit')", "Quit", show=False),
        *bindings(BY_ID[name] for name in HERE_TOO),
    ]

    DEFAULT_CSS = """
    View { background: $background; layout: vertical; }
    """

    def __init__(self, dashboard: Dashboard) -> None:
        super().__init__()
        self.dashboard = dashboard
        self.ready = False
        """Whether there is something to draw on yet."""

    def compose(self) -> ComposeResult:
        """Header, the matter, prompt, keys."""
        yield Header(id="header")
        yield from self.compose_body()
        yield Prompt(self.dashboard.complete, id="prompt")
        yield KeyBar(id="keys")

    def compose_body(self) -> ComposeResult:
        """What stands between header and prompt."""
        raise NotImplementedError

    def take_focus(self) -> None:
        """Focus what the prompt was opened from."""
        raise NotImplementedError

    def show(self, tick: Tick) -> None:
        """Draw what a look at the core brought."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Show what is known."""
        self.ready = True
        self.take_focus()
        self.look()

    def look(self) -> None:
        """Show how it stands now."""
        tick = self.dashboard.tick
        if tick is not None and self.ready:
            self.query_one(Header).show(tick, read_only=self.dashboard.READ_ONLY)
            self.query_one(KeyBar).rename(self.words(tick))
            self.show(tick)

    def words(self, tick: Tick) -> dict[str, str]:
        """Other words for keys of the bottom line."""
        return {"pause": "Go on" if tick.paused else "Pause"}

    @on(Prompt.Submitted)
    def line_entered(self, event: Prompt.Submitted) -> None:
        """Carry out a command; keep the line open as long as it is wrong."""
        event.stop()
        prompt = self.query_one(Prompt)
        if event.text.strip() and (problem := self.dashboard.operations.run_line(event.text)):
            prompt.complain(problem)
            return
        self._leave_prompt()

    @on(Prompt.Left)
    def prompt_left(self, event: Prompt.Left) -> None:
        """Escape in the prompt."""
        event.stop()
        self._leave_prompt()

    def _leave_prompt(self) -> None:
        self.take_focus()
        self.query_one(Prompt).close()

    @on(Header.StoreChosen)
    def store_chosen(self, event: Header.StoreChosen) -> None:
        """A click on the header's word for the store."""
        event.stop()
        self.dashboard.show_store()

    def action_operate(self, action_id: str) -> None:
        """Carry out an action of the registry."""
        self.dashboard.action_operate(action_id)

    @on(KeyBar.Pressed)
    async def key_clicked(self, event: KeyBar.Pressed) -> None:
        """A key of the bottom line was clicked."""
        await self.run_action(event.action)
