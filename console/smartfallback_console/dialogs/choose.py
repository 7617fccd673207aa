"""Picks one of a short list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from smartfallback_console.formatting import cell_len, clean, fit

if TYPE_CHECKING:
    from textual.app import ComposeResult


class ChooseDialog(ModalScreen[str | None]):
    """A list with the current choice marked; ``preview`` is told of each highlighted entry.

    Args:
        title: What is chosen.
        choices: (value, what it means) of each entry.
        current: The value that holds now.
        preview: Called while moving through the list, and with ``current`` when the operator declines.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "decline", "Cancel"),
        Binding("ctrl+c", "decline", show=False, priority=True),
        Binding("j", "next(1)", "Down", show=False),
        Binding("k", "next(-1)", "Up", show=False),
    ]

    DEFAULT_CSS = """
    ChooseDialog {
        align: center middle; background: transparent;
        OptionList {
            width: 60; max-width: 96%; height: auto; max-height: 80%;
            background: $surface; border: round $primary; border-title-color: $primary;
            border-title-style: bold; border-subtitle-color: $foreground 60%; padding: 0 1;
            &:focus { border: round $primary; }
        }
    }
    """

    def __init__(
        self,
        title: str,
        choices: Sequence[tuple[str, str]],
        current: str,
        preview: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._choices = list(choices)
        self._current = current
        self._preview = preview

    def compose(self) -> ComposeResult:
        """The list."""
        widest = max((cell_len(clean(value)) for value, _ in self._choices), default=0)
        options = [
            Option(
                Content.assemble(
                    "● " if value == self._current else "  ",
                    (fit(value, widest + 2), "bold"),
                    clean(meaning),
                ),
                id=str(index),
            )
            for index, (value, meaning) in enumerate(self._choices)
        ]
        yield OptionList(*options)

    def on_mount(self) -> None:
        """Start on the current choice."""
        options = self.query_one(OptionList)
        options.border_title = clean(self._title).replace("[", "\\[")
        options.border_subtitle = "⏎ choose · esc back"
        values = [value for value, _ in self._choices]
        options.highlighted = values.index(self._current) if self._current in values else 0
        options.focus()

    @on(OptionList.OptionHighlighted)
    def show_preview(self, event: OptionList.OptionHighlighted) -> None:
        """Show what the entry would look like."""
        if self._preview is not None:
            self._preview(self._choices[event.option_index][0])

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        """Give the chosen value."""
        self.dismiss(self._choices[event.option_index][0])

    def action_next(self, step: int) -> None:
        """Move through the list."""
        options = self.query_one(OptionList)
        options.action_cursor_down() if step > 0 else options.action_cursor_up()

    def action_decline(self) -> None:
        """Leave it as it was."""
        if self._preview is not None:
            self._preview(self._current)
        self.dismiss(None)
