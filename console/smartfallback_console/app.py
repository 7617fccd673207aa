"""The application: themes, palette and the dashboard over one source."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from textual import events
from textual.app import App, SystemCommand
from textual.theme import BUILTIN_THEMES
from textual.widgets import Input, TextArea

from smartfallback_console import themes
from smartfallback_console.palette import ActionProvider
from smartfallback_console.screens.dashboard import Dashboard, OperatorDashboard

if TYPE_CHECKING:
    from rich.console import RenderableType
    from textual.binding import BindingType
    from textual.command import Provider
    from textual.screen import Screen

    from smartfallback_console.bridge import Source


class ConsoleApp(App[None]):
    """The console.

    Args:
        source: The core, or a script of one.
        theme: Name of the theme to start with.
        theme_folder: Where the user's themes are.
        read_only: Without the actions that change how requests are answered.
        clock: Monotonic seconds, for the age of what is shown.
        live: Whether to look at the source on an interval.
    """

    TITLE = "SmartFallback"
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {ActionProvider}
    BINDINGS: ClassVar[list[BindingType]] = []
    ENABLE_COMMAND_PALETTE = True

    CSS = """
    Toast { max-width: 72; background: $panel; }
    CommandPalette > Vertical { max-width: 90; }
    """

    def __init__(
        self,
        source: Source,
        *,
        theme: str | None = None,
        theme_folder: Path | None = None,
        read_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
        live: bool = True,
    ) -> None:
        super().__init__()
        self.source = source
        self.crash: str | Exception | None = None
        """The first error that nothing caught; it ended the app."""
        self.leaving = False
        """Whether the app was told to end; a terminal that is gone is no crash then."""
        self._passed_on: deque[events.Key] = deque(maxlen=64)
        self.own_themes: tuple[str, ...] = ()
        self._wanted_theme = theme
        self._theme_folder = theme_folder
        self._dashboard_type = Dashboard if read_only else OperatorDashboard
        self._clock = clock
        self._live = live
        self._theme_problems = self._load_themes()

    def _load_themes(self) -> list[str]:
        built_in = themes.built_in()
        own = themes.from_folder(self._theme_folder) if self._theme_folder else themes.ThemeSet(())
        problems = [*built_in.problems, *own.problems]
        for theme in (*built_in.themes, *own.themes):
            self.register_theme(theme)
        for name in BUILTIN_THEMES:
            self.unregister_theme(name)
        names = {theme.name for theme in (*built_in.themes, *own.themes)}
        self.own_themes = tuple(sorted(names))
        wanted = self._wanted_theme
        if wanted is not None and wanted not in names:
            problems.append(f"There is no theme {wanted!r}; t lists those there are.")
        self.theme = wanted if wanted in names else themes.DEFAULT
        return problems

    def on_mount(self) -> None:
        """Open the dashboard."""
        self.push_screen(self._dashboard_type(self.source, clock=self._clock, live=self._live))
        for problem in self._theme_problems:
            self.notify(problem, title="Theme", severity="warning", markup=False, timeout=10)

    def on_key(self, event: events.Key) -> None:
        """Give a key to the field that was opened after it was typed.

        A key comes by here when nothing kept it, or when it went to what had the focus before the field.
        It is therefore offered to the field once more, in its turn; without that, a command line typed in
        one go would lose its first letters, or be entered before they are in it.
        """
        field = self.focused
        if any(event is passed for passed in self._passed_on) or not isinstance(field, Input | TextArea):
            return
        event.prevent_default()
        again = events.Key(event.key, event.character)
        self._passed_on.append(again)
        field._forward_event(again)

    def panic(self, *renderables: RenderableType) -> None:
        """End on an error that is known only as a picture of it, such as one of the input thread."""
        if self.crash is None:
            page = io.StringIO()
            Console(file=page, width=110, color_system=None).print(*renderables)
            self.crash = page.getvalue()
        self._close_messages_no_wait()

    def _handle_exception(self, error: Exception) -> None:
        """Keep the error for whoever started the app."""
        if self.crash is None:
            self.crash = error
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        """End without Textual's traceback, whose local variables may hold prompts and credentials."""
        self._close_messages_no_wait()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:  # noqa: ARG002 - Textual's signature
        """The palette holds the registry's actions only."""
        return ()
