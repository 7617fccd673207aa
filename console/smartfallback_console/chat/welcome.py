"""What the chat says before anything was asked, and what ``/help`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from smartfallback_console.chat.commands import COMMANDS
from smartfallback_console.chat.wording import MUTED, Piece, content
from smartfallback_console.formatting import clean, fit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import ChatSession, Snapshot

READ_ONLY = "Read-only: a chat would spend quota, so nothing is sent."
TITLE_CELLS = 24
"""Of the last session's title, so that its line stays one."""
KEYS = (
    ("enter", "send"),
    ("ctrl+j", "new line"),
    ("up", "earlier prompts"),
    ("esc", "stop the answer, or leave"),
    ("ctrl+o", "what was tried"),
    ("pgup pgdn", "read back"),
)


def welcome(snapshot: Snapshot | None, *, read_only: bool, last: ChatSession | None = None) -> Content:
    """The empty state.

    Args:
        snapshot: The newest state of the system, None while there is none.
        read_only: Whether nothing is sent.
        last: The session that was kept last, None when none was.
    """
    lines = [content([Piece("Ask anything: the chain finds who answers.", "bold")])]
    if read_only:
        lines = [content([Piece(READ_ONLY, "bold")])]
    elif snapshot is not None and snapshot.simulated:
        lines.append(
            content(
                [
                    Piece("Simulated: ", "bold $accent"),
                    Piece("answers are prepared text.", MUTED),
                ]
            )
        )
    if last is not None:
        way = "C opens it" if read_only else "/open 1"
        title = fit(clean(last.title), TITLE_CELLS).rstrip()
        lines.append(content([Piece(f"last session: {title} ·", MUTED), Piece(f" {way}", "$accent")]))
    if not read_only:
        lines.append(Content(""))
        lines += _table(KEYS[:2])
        lines += _table((("/", "commands: /sessions, /pin …"), *KEYS[3:5]))
    return Content("\n").join(lines)


def help_text() -> Content:
    """All commands and keys."""
    rows = [(command.usage, command.description) for command in COMMANDS]
    head = content([Piece("Commands and keys", "bold")])
    return Content("\n").join([head, *_table(rows), Content(""), *_table(KEYS)])


def _table(rows: Iterable[tuple[str, str]]) -> list[Content]:
    return [content([Piece(f"{left:<14} ", "$accent"), Piece(right, MUTED)]) for left, right in rows]
