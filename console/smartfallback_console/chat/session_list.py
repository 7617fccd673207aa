"""Kept sessions as a numbered list between the turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from smartfallback_console.chat.wording import MUTED, Piece, content
from smartfallback_console.formatting import age, calendar_date, cell_len, clean, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events
    from textual.app import RenderResult
    from textual.geometry import Size

    from smartfallback import ChatSession, Snippet

NARROWEST_TITLE = 16
"""Cells that a title keeps; with less room what stands behind it goes."""


def about(session: ChatSession, now: float) -> str:
    """How long a session is and how old: ``3 turns · 2h ago``. ``now`` in epoch seconds."""
    turns = "1 turn" if session.turns == 1 else f"{session.turns} turns"
    return f"{turns} · {when(session.changed_at, now)}"


def when(at: float, now: float) -> str:
    """An age, and a date where that says more."""
    passed = max(0.0, now - at)
    if passed < 60:
        return "just now"
    if passed < 7 * 86_400:
        return f"{age(passed)} ago"
    return calendar_date(at)


class SessionList(Widget):
    """Sessions by the numbers that ``/open`` and ``/forget`` take; a click opens one.

    Args:
        sessions: Newest first.
        words: What was searched for.
        current: The id of the session that is open.
        now: Epoch seconds.
        more: Whether there are more than these.
        read_only: Whether none can be deleted.
    """

    DEFAULT_CSS = """
    SessionList {
        height: auto; width: 1fr; margin: 0 0 1 0; padding: 0 0 0 1; border-left: outer $accent;
        &:last-child { margin: 0; }
    }
    """

    class Chosen(Message):
        """A session was clicked."""

        def __init__(self, session: ChatSession) -> None:
            super().__init__()
            self.session = session

    def __init__(
        self,
        sessions: Sequence[ChatSession],
        *,
        words: str,
        current: str,
        now: float,
        more: bool,
        read_only: bool,
    ) -> None:
        super().__init__()
        self._sessions = tuple(sessions)
        self._words = words
        self._current = current
        self._now = now
        self._more = more
        self._read_only = read_only

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's signature
        """A line a session, one more where a snippet is shown, and those around them."""
        return len(self._rows(width))

    def render(self) -> RenderResult:
        """The list."""
        return Content("\n").join(line for line, _ in self._rows(self.content_size.width))

    def on_click(self, event: events.Click) -> None:
        """A click on a session opens it."""
        event.stop()
        at = event.get_content_offset(self)
        rows = self._rows(self.content_size.width)
        if at is not None and at.y < len(rows) and (session := rows[at.y][1]) is not None:
            self.post_message(self.Chosen(session))

    def _rows(self, width: int) -> list[tuple[Content, ChatSession | None]]:
        """Each line, and the session that it is about."""
        width = max(24, width)
        rows: list[tuple[Content, ChatSession | None]] = [(self._head(width), None)]
        for number, session in enumerate(self._sessions, 1):
            rows.append((self._line(number, session, width), session))
            if session.found is not None:
                rows.append((_found(session.found, width), session))
        rows.append((self._foot(width), None))
        return rows

    def _head(self, width: int) -> Content:
        words = clean(self._words)
        said = f"Sessions with {words}" if words else "Sessions, newest first"
        return content([Piece(fit(said, width).rstrip(), "bold")])

    def _line(self, number: int, session: ChatSession, width: int) -> Content:
        here = session.id == self._current
        sign = f"{number:>2} "
        told = "this one" if here else about(session, self._now)
        room = width - cell_len(sign) - cell_len(told) - 2
        if room < NARROWEST_TITLE:
            told, room = "", width - cell_len(sign)
        title = fit(session.title or "(no title)", room)
        return content(
            [
                Piece(sign, "bold $accent"),
                Piece(title, "bold" if here else "$foreground"),
                Piece(f"  {told}" if told else "", MUTED),
            ]
        )

    def _foot(self, width: int) -> Content:
        ways = "/open N goes on in one"
        if not self._read_only:
            ways += " · /forget N deletes it"
        if self._more:
            ways += " · there are more: /sessions WORDS"
        return content([Piece(fit(ways, width).rstrip(), MUTED)])


def _found(found: Snippet, width: int) -> Content:
    """Where the word stands; of a line that is too long what stands before the word goes first."""
    indent = "   "
    text, start, length = found
    before, word, after = text[:start], text[start : start + length], text[start + length :]
    before, word, after = clean(before), clean(word), clean(after)
    room = width - len(indent)
    word = fit(word, min(room, cell_len(word)))
    spare = room - cell_len(word)
    if cell_len(before) > spare // 2 and cell_len(before) + cell_len(after) > spare:
        keep = max(spare // 2, spare - cell_len(after))
        while before and cell_len(before) > keep - 1:
            before = before[1:]
        before = f"…{before}" if keep > 0 else ""
    after = fit(after, max(0, spare - cell_len(before))).rstrip()
    return content([Piece(indent), Piece(before, MUTED), Piece(word, "bold $warning"), Piece(after, MUTED)])
