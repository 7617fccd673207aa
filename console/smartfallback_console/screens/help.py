"""All keys and commands, made from the live bindings and the registry."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from smartfallback_console.actions import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from smartfallback_console.actions import Action

WIDTH = 100
INDENT = 13

SIGNS = (
    ("● ▲ ◆ ■ ?", "quota healthy, from 80 %, from 95 %, exhausted, unknown"),
    ("◑ ◌ ⊘", "draining, drained, disabled"),
    ("✕ ◐ ◔ !", "circuit open, half-open (probing), cooling down, needs attention"),
    ("━ ╍ ┅ ─ ┼", "quota used, held by running requests, held or leased elsewhere, free, soft limit"),
    ("= ~ ≈ !", "percentage reported by the provider, learned, estimated, stale; no sign: measured"),
    ("▽", "the answer was degraded: another pool, cheaper, trimmed, continued, cached …"),
    ("∥ ⇢ ◷", "asked beside the other (hedge), went on with a broken answer, waited in the queue"),
    ("2/4↓8", "2 requests run, 4 may at once after overload, 8 are configured"),
)


class HelpScreen(ModalScreen[None]):
    """Opened with ``?`` from anywhere."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Close"),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    DEFAULT_CSS = """
    HelpScreen {
        align: center middle; background: $background 50%;
        VerticalScroll {
            width: 100; max-width: 98%; height: auto; max-height: 96%; padding: 1 2;
            background: $surface; border: round $primary; border-title-color: $primary;
            border-title-style: bold; border-subtitle-color: $foreground 60%; scrollbar-size: 1 1;
        }
    }
    """

    def __init__(
        self,
        actions: Sequence[Action],
        keys: dict[str, str],
        focused: Sequence[tuple[str, str]],
        pane: str,
    ) -> None:
        super().__init__()
        self._actions = actions
        self._keys = keys
        self._focused = focused
        self._pane = pane

    def compose(self) -> ComposeResult:
        """The focused pane's keys, then each group, then the signs."""
        with VerticalScroll() as box:
            box.border_title = "Help"
            box.border_subtitle = "esc closes · ctrl+p palette"
            yield Static(Content("\n").join(self._lines()))

    @property
    def _width(self) -> int:
        """Cells of a line inside the box."""
        return max(24, min(WIDTH, self.app.size.width * 98 // 100) - 7)

    def _lines(self) -> list[Content]:
        lines: list[Content] = []
        if self._focused:
            lines += self._chapter(f"In this pane: {self._pane}")
            lines += [self._row(key, word, "") for key, word in self._focused]
        for group in Group:
            members = [action for action in self._actions if action.group is group]
            if members:
                lines += self._chapter(group.value)
            for action in members:
                command = "  ".join(f":{verb} {action.usage}".strip() for verb in action.verbs)
                beside = INDENT + len(action.title) + 2 + len(command) <= self._width
                lines.append(
                    self._row(self._keys.get(action.id, ""), action.title, command if beside else "")
                )
                if not beside:
                    commands = (f":{verb} {action.usage}".strip() for verb in action.verbs)
                    lines += [Content.assemble((" " * INDENT + line, "$secondary")) for line in commands]
                lines += [
                    Content.assemble((" " * INDENT + piece, "$foreground 60%"))
                    for piece in wrap(action.description, self._width - INDENT)
                ]
        lines += self._chapter("Signs")
        lines += [self._row(sign, meaning, "") for sign, meaning in SIGNS]
        return lines[1:]

    @staticmethod
    def _chapter(title: str) -> list[Content]:
        return [Content(""), Content.assemble((title, "bold $primary"))]

    @staticmethod
    def _row(key: str, title: str, command: str) -> Content:
        return Content.assemble(
            (f"  {key:<{INDENT - 3}} ", "bold $accent"),
            (title, ""),
            (f"  {command}" if command else "", "$secondary"),
        )

    def action_scroll(self, step: int) -> None:
        """Scroll by lines."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)
