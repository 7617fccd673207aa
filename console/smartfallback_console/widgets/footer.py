"""The bottom line: keys that work right now, made from the live bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message
from textual.widgets import Input, TextArea

from smartfallback_console.actions import ACTIONS
from smartfallback_console.formatting import cell_len, fit
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from textual import events
    from textual.screen import Screen

    from smartfallback_console.ink import Ink

Item = tuple[str, str, str]
"""Key as written, word, and the action to run on a click."""

KEPT_TO_THE_END = ("pane_chat", "recovery", "simulation", "store", "command", "help", "quit")
"""These stay visible however narrow the terminal is."""
TABBED_BELOW = 100
"""Below this width the tabs name the views."""
IN_TABS = ("operate('recovery')", "operate('simulation')", "operate('store')")


_ORDER = {action.id: place for place, action in enumerate(ACTIONS)}


class KeyBar(LineView, can_focus=False):
    """Keys and words; each can be clicked."""

    DEFAULT_CSS = """
    KeyBar { height: 1; border: none; padding: 0 1; background: $panel; overflow: hidden; }
    """

    class Pressed(Message):
        """The operator clicked a key."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._items: list[Item] = []
        self._tail: list[Item] = []
        self._hits: list[tuple[int, int, str]] = []
        self._words: dict[str, str] = {}

    def on_mount(self) -> None:
        """Follow the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._collect)
        self.call_after_refresh(self._collect, self.screen)

    def rename(self, words: dict[str, str]) -> None:
        """Other words for toggles, by action id."""
        if words != self._words:
            self._words = words
            self._collect(self.screen)

    def _collect(self, screen: Screen[object]) -> None:
        if not screen.is_current:
            return
        self._items, self._tail = [], []
        seen: set[str] = set()
        typing = isinstance(screen.focused, Input | TextArea)
        live = sorted(
            screen.active_bindings.values(), key=lambda active: _ORDER.get(active.binding.id or "", -1)
        )
        for active in live:
            binding = active.binding
            if not binding.show or not active.enabled or binding.action in seen:
                continue
            if typing and active.node is screen and binding.id in _ORDER:
                continue  # the line being typed takes these keys
            seen.add(binding.action)
            key = binding.key_display or self.app.get_key_display(binding)
            word = self._words.get(binding.id or "", binding.description)
            if binding.id in KEPT_TO_THE_END:
                self._tail.append((key, word, binding.action))
            else:
                self._items.append((key, word, binding.action))
        self.redraw()

    def line_count(self) -> int:
        """One."""
        return 1

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:  # noqa: ARG002 - a single line
        """As many items as fit; the tail always."""
        self._hits.clear()
        out = LineWriter()
        gap = 2 if width >= 110 else 1
        tail = [item for item in self._tail if width >= TABBED_BELOW or item[2] not in IN_TABS]
        while tail and _length(tail, gap) > width:
            tail = tail[1:]
        room = width - _length(tail, gap)
        for item in self._items:
            if out.length + _length([item], gap) > room:
                break
            self._put(out, item, gap, ink)
        out.space(width - out.length - _length(tail, gap) + (gap if tail else 0))
        for item in tail:
            self._put(out, item, gap, ink)
        return out.line()

    def _put(self, out: LineWriter, item: Item, gap: int, ink: Ink) -> None:
        key, word, action = item
        start = out.length
        out.put(key, ink.accent).put(" " + fit(word, cell_len(word)), ink.muted)
        self._hits.append((start, out.length, action))
        out.space(gap)

    def on_click(self, event: events.Click) -> None:
        """Press the key under the mouse."""
        inside = event.get_content_offset(self)
        if inside is None:
            return
        for start, end, action in self._hits:
            if start <= inside.x < end:
                self.post_message(self.Pressed(action))
                return


def _length(items: list[Item], gap: int) -> int:
    return sum(cell_len(key) + 1 + cell_len(word) + gap for key, word, _ in items)
