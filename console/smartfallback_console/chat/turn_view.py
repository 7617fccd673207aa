"""One turn on the screen: the prompt, the answer, and below it how it came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from smartfallback_console.chat import wording
from smartfallback_console.chat.answer_text import AnswerText
from smartfallback_console.chat.text import printable
from smartfallback_console.course import Outcome

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult, RenderResult
    from textual.geometry import Size

    from smartfallback_console.chat.conversation import Turn
    from smartfallback_console.chat.text import Pacer

PROMPT_CHARACTERS = 2_000
PROMPT_LINES = 24
"""Of a long prompt so much is shown."""
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def shortened(prompt: str) -> str:
    """A prompt as it is shown."""
    text = printable(prompt)
    lines = text[:PROMPT_CHARACTERS].split("\n")
    shown = "\n".join(lines[:PROMPT_LINES])
    left = len(text) - len(shown)
    return f"{shown} … {left:,} more characters" if left else shown


class Footer(Widget):
    """Who answered and what was tried, in as few lines as fit; a click opens the details."""

    DEFAULT_CSS = """
    Footer { height: auto; width: 1fr; display: none; &:hover { background: $foreground 5%; } }
    """

    def __init__(self) -> None:
        super().__init__()
        self._turn: Turn | None = None
        self._opened = False

    def show(self, turn: Turn, *, opened: bool) -> None:
        """Say how the turn came about."""
        self._turn, self._opened = turn, opened
        self.display = True
        self.refresh(layout=True)

    def _lines(self, width: int) -> list[list[wording.Piece]]:
        if self._turn is None:
            return []
        lead = wording.Piece("▾ " if self._opened else "▸ ", "$primary")
        width = max(8, width)
        return wording.flow(wording.summary(self._turn, width - len(lead.text)), width, lead)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's signature
        """As many lines as the groups fill."""
        return len(self._lines(width))

    def render(self) -> RenderResult:
        """The lines."""
        lines = [wording.content(line) for line in self._lines(self.content_size.width)]
        return Content("\n").join(lines)


class TurnView(Vertical):
    """One turn."""

    DEFAULT_CSS = """
    TurnView {
        height: auto; width: 1fr; margin: 0 0 1 0;
        & > .prompt { color: $foreground; text-style: bold; padding: 0 1; margin: 0 0 1 0;
            background: $primary 12%; border-left: outer $primary; height: auto; }
        & > .status, & > .ending, & > .details { height: auto; display: none; }
        & > .ending { margin: 0 0 1 0; padding: 0 0 0 1; border-left: outer $error; }
        & > .ending.-cancelled { border-left: outer $foreground 40%; }
        & > .details { padding: 0 0 0 2; }
        & > .-shown { display: block; }
        &:last-child { margin: 0; }
    }
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn
        self.opened = False
        """Whether every attempt is told."""
        self.answer = AnswerText()
        self._prompt = Static(Content(shortened(turn.prompt)), classes="prompt", markup=False)
        self._status = Static(classes="status", markup=False)
        self._ending = Static(classes="ending", markup=False)
        self._footer = Footer()
        self._details = Static(classes="details", markup=False)
        self._spin = 0
        self._shown = 0
        self._marked = 0

    def compose(self) -> ComposeResult:
        """Prompt, answer, status while it runs; ending, footer and details afterwards."""
        yield self._prompt
        yield self.answer
        yield self._status
        yield self._ending
        yield self._footer
        yield self._details

    async def show_text(self, pacer: Pacer) -> None:
        """Show the next portion of the answer, with the marks that stand before, in and after it."""
        await self._mark()
        if pacer.due:
            await self._append(pacer.take(self._room))
            pacer.shown()

    async def show_whole(self, epoch: float) -> None:
        """Show a turn that has ended, all at once. ``epoch`` in epoch seconds."""
        await self._mark()
        text = self.turn.text
        while self._shown < len(text):
            await self._append(text[self._shown : self._shown + self._room])
        self.end(epoch)

    @property
    def _room(self) -> int:
        """How many characters are best added at once: none beyond the next mark."""
        marks, room = self.turn.marks, self.answer.portion
        return min(room, marks[self._marked][0] - self._shown) if self._marked < len(marks) else room

    async def _append(self, text: str) -> None:
        self._shown += len(text)
        await self.answer.append(text)
        await self._mark()

    async def _mark(self) -> None:
        """Say where the answer broke off and who went on, as far as the text has come."""
        marks = self.turn.marks
        while self._marked < len(marks) and marks[self._marked][0] <= self._shown:
            at, seam = marks[self._marked]
            self._marked += 1
            await self.answer.mark(wording.seam(seam), self.turn.text[:at])

    def show_status(self, now: float, epoch: float, *, place: int | None = None, spin: bool = True) -> None:
        """Where the request is.

        Args:
            now: Monotonic seconds.
            epoch: Epoch seconds.
            place: Its place in the queue, if it waits there.
            spin: Whether the sign moves on.
        """
        if spin:
            self._spin += 1
        spinner = SPINNER[self._spin % len(SPINNER)]
        said = wording.status(self.turn, now, spinner, epoch=epoch, place=place)
        self._status.add_class("-shown")
        self._status.update(said)

    def end(self, epoch: float) -> None:
        """The turn has ended: say how. ``epoch`` in epoch seconds."""
        self._status.remove_class("-shown")
        said = wording.ending(self.turn, epoch)
        if said is not None:
            quiet = self.turn.outcome is Outcome.CANCELLED or bool(self.turn.unfinished)
            self._ending.set_class(quiet, "-cancelled")
            self._ending.add_class("-shown")
            self._ending.update(said)
        if self.turn.has_story:
            self._footer.show(self.turn, opened=False)

    def toggle_details(self) -> None:
        """Open or close the story of every attempt."""
        if self.turn.outcome in (Outcome.RUNNING, Outcome.QUEUED) or not self.turn.has_story:
            return
        self.opened = not self.opened
        if self.opened:
            self._details.update(wording.details(self.turn))
        self._details.set_class(self.opened, "-shown")
        self._footer.show(self.turn, opened=self.opened)

    def on_click(self, event: events.Click) -> None:
        """A click on the footer opens or closes the details."""
        if isinstance(event.widget, Footer):
            event.stop()
            self.toggle_details()


class Notice(Static):
    """A remark of the console between the turns."""

    DEFAULT_CSS = """
    Notice {
        height: auto; color: $foreground 70%; margin: 0 0 1 0; padding: 0 0 0 1;
        border-left: outer $accent;
        &.-problem { border-left: outer $warning; color: $foreground; }
    }
    """

    def __init__(self, said: Content | str, *, problem: bool = False) -> None:
        text = said if isinstance(said, Content) else Content(printable(said))
        super().__init__(text, markup=False, classes="-problem" if problem else "")
