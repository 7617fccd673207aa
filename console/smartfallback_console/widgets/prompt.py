"""The line at the bottom in which commands and filters are typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import Input, Static

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

Mode = Literal["command", "filter"]


class _Completer(Suggester):
    def __init__(self, complete: Callable[[str], str | None]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._complete = complete

    async def get_suggestion(self, value: str) -> str | None:
        """The rest of the line, in grey."""
        return self._complete(value)


class Prompt(Horizontal):
    """Hidden until it is needed; remembers earlier commands."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel"),
        Binding("tab", "complete", "Complete", show=False, priority=True),
        Binding("up", "recall(-1)", "Earlier command", show=False),
        Binding("down", "recall(1)", "Later command", show=False),
    ]

    DEFAULT_CSS = """
    Prompt {
        height: 1; background: $panel; display: none; padding: 0 1;
        &.-open { display: block; }
        #sign { width: 2; color: $accent; text-style: bold; }
        Input { width: 1fr; height: 1; border: none; padding: 0; background: $panel; }
        #problem { width: auto; max-width: 60%; color: $error; }
    }
    """

    class Submitted(Message):
        """A line was entered."""

        def __init__(self, mode: Mode, text: str) -> None:
            super().__init__()
            self.mode: Mode = mode
            self.text = text

    class Edited(Message):
        """A filter is being typed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """The operator is done with the prompt."""

        def __init__(self, mode: Mode, *, cancelled: bool) -> None:
            super().__init__()
            self.mode: Mode = mode
            self.cancelled = cancelled

    def __init__(self, complete: Callable[[str], str | None], *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.mode: Mode = "command"
        self._complete = complete
        self._history: list[str] = []
        self._recalled = 0

    def compose(self) -> ComposeResult:
        """Sign, input, problem."""
        yield Static(":", id="sign", markup=False)
        yield Input(compact=True, select_on_focus=False)
        yield Static("", id="problem", markup=False)

    @property
    def is_open(self) -> bool:
        """Whether something is being typed."""
        return self.has_class("-open")

    def open(self, mode: Mode, text: str = "") -> None:
        """Show the line and take the focus."""
        self.mode = mode
        self.query_one("#sign", Static).update(":" if mode == "command" else "/")
        self.complain("")
        line = self.query_one(Input)
        line.suggester = _Completer(self._complete) if mode == "command" else None
        line.value = text
        line.cursor_position = len(text)
        self._recalled = len(self._history)
        self.add_class("-open")
        self.screen.set_focus(line)  # at once: keys typed ahead belong to the line

    def close(self) -> None:
        """Hide the line."""
        self.remove_class("-open")

    def complain(self, problem: str) -> None:
        """Say beside the line what is wrong with it."""
        self.query_one("#problem", Static).update(problem)

    @on(Input.Changed)
    def edited(self, event: Input.Changed) -> None:
        """Filters work while they are typed."""
        event.stop()
        self.complain("")
        if self.mode == "filter" and self.is_open:
            self.post_message(self.Edited(event.value))

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Pass on the line."""
        event.stop()
        if self.mode == "command" and event.value.strip():
            self._history.append(event.value)
        self.post_message(self.Submitted(self.mode, event.value))

    def action_leave(self) -> None:
        """Close without doing anything."""
        self.post_message(self.Left(self.mode, cancelled=True))

    def action_complete(self) -> None:
        """Take the suggestion."""
        line = self.query_one(Input)
        if (text := self._complete(line.value)) is not None and self.mode == "command":
            line.value = text
            line.cursor_position = len(text)

    def action_recall(self, step: int) -> None:
        """Walk through earlier commands."""
        if self.mode == "command" and self._history:
            self._recalled = max(0, min(len(self._history), self._recalled + step))
            line = self.query_one(Input)
            line.value = self._history[self._recalled] if self._recalled < len(self._history) else ""
            line.cursor_position = len(line.value)
