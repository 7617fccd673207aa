"""Where prompts are typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from smartfallback_console.chat.commands import Hint, completion
from smartfallback_console.formatting import fit
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from textual import events

    from smartfallback_console.ink import Ink

PLACEHOLDER = "Ask the chain · / for commands"
LARGEST_PROMPT = 200_000
"""Characters; no chain's model would take more, and a paste of a whole disk should not be sent."""


class Composer(TextArea):
    """A text field that grows with its text, sends on enter and recalls what was sent before."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", key_display="enter"),
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", key_display="ctrl+j"),
        Binding("escape", "stop", "Stop", key_display="esc"),
        Binding("escape", "leave", "Leave", key_display="esc"),
        Binding("ctrl+o", "details", "Details", key_display="ctrl+o"),
        Binding("tab", "complete", "Complete", show=False, priority=True),
        Binding("up", "earlier", "Earlier prompt", show=False),
        Binding("down", "later", "Later prompt", show=False),
        Binding("pageup", "scroll_transcript(-1)", "Page up", show=False),
        Binding("pagedown", "scroll_transcript(1)", "Page down", show=False),
    ]

    DEFAULT_CSS = """
    Composer, Composer:focus {
        border: none; padding: 0; height: auto; max-height: 6; width: 1fr; background: transparent;
        scrollbar-size: 1 1;
        & .text-area--placeholder { color: $foreground 55%; }
        & .text-area--cursor-line { background: transparent; }
    }
    """

    class Sent(Message):
        """Enter was pressed on a text."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Escaped(Message):
        """Escape was pressed while an answer runs."""

    class DetailsWanted(Message):
        """The story of the newest answer is to be opened or closed."""

    class Scrolled(Message):
        """The transcript is to scroll by so many pages."""

        def __init__(self, pages: int) -> None:
            super().__init__()
            self.pages = pages

    def __init__(self, recall: list[str], hints: Callable[[str], list[Hint]]) -> None:
        super().__init__(
            compact=True,
            highlight_cursor_line=False,
            placeholder=PLACEHOLDER,
            id="composer",
        )
        self.running = False
        self._recall = recall
        self._hints = hints
        self._recalled: int | None = None

    def on_key(self, event: events.Key) -> None:
        """Enter sends, in its turn: the letters typed before it are in the text by then."""
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.action_send()

    def put(self, text: str) -> None:
        """Replace what is typed, with the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def action_send(self) -> None:
        """Hand over what was typed."""
        if self.text.strip() and not self.read_only:
            self._recalled = None
            self.post_message(self.Sent(self.text.strip()))

    def action_newline(self) -> None:
        """Begin a new line."""
        if not self.read_only:
            self._replace_via_keyboard("\n", *self.selection)

    def say_running(self, *, running: bool) -> None:
        """Whether escape has an answer to stop."""
        self.running = running
        self.placeholder = "esc stops the answer" if running else PLACEHOLDER
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - Textual's signature
        """Escape stops a running answer, and leaves without one."""
        if action in ("stop", "leave"):
            return self.running == (action == "stop")
        return True

    def action_stop(self) -> None:
        """Stop the running answer."""
        self.post_message(self.Escaped())

    def action_leave(self) -> None:
        """Let the screen leave the pane."""
        raise SkipAction

    def action_details(self) -> None:
        """Open or close the story of the newest answer."""
        self.post_message(self.DetailsWanted())

    def action_complete(self) -> None:
        """Complete a command; otherwise tab goes to the next pane."""
        found = self._hints(self.text)
        if not found:
            raise SkipAction
        self.put(completion(self.text, found))

    def action_scroll_transcript(self, pages: int) -> None:
        """Read back without leaving the field."""
        self.post_message(self.Scrolled(pages))

    def action_earlier(self) -> None:
        """On an empty field, or on a prompt just recalled: the prompt before."""
        if not self._recalling or not self._recall:
            self.action_cursor_up()
            return
        at = len(self._recall) if self._recalled is None else self._recalled
        self._recalled = max(0, at - 1)
        self.put(self._recall[self._recalled])

    def action_later(self) -> None:
        """The prompt after the one recalled, and after the last an empty field."""
        if self._recalled is None or not self._recalling:
            self.action_cursor_down()
            return
        self._recalled += 1
        if self._recalled >= len(self._recall):
            self._recalled = None
            self.put("")
        else:
            self.put(self._recall[self._recalled])

    @property
    def _recalling(self) -> bool:
        if self._recalled is not None and self._recalled < len(self._recall):
            return self.text in ("", self._recall[self._recalled])
        return not self.text


class Hints(LineView, can_focus=False):
    """What may follow a slash, while one is typed."""

    DEFAULT_CSS = """
    Hints {
        height: auto; max-height: 10; border: none; padding: 0; background: $panel; overflow: hidden;
        display: none;
        &.-shown { display: block; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="hints")
        self._found: list[Hint] = []

    def show(self, found: list[Hint]) -> None:
        """Draw the hints; none hides the list."""
        if found != self._found:
            self._found = found
            self.set_class(bool(found), "-shown")
            self.styles.height = len(found)
            self.redraw()

    def line_count(self) -> int:
        """One line a hint."""
        return len(self._found)

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """A command and what it does."""
        if index >= len(self._found):
            return ()
        hint = self._found[index]
        name_width = min(26, max(len(found.line) for found in self._found) + 2)
        out = LineWriter().space(2).put(fit(hint.line, name_width), ink.accent)
        out.put(fit(hint.detail, max(0, width - out.length - 6)), ink.muted)
        if index == 0:
            out.put("tab".rjust(max(0, width - out.length - 1)), ink.muted)
        return out.line()
