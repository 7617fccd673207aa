"""Chat sessions in memory: what :class:`~smartfallback.state.session_table.SessionTable` is in a file."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from smartfallback.model.chat_sessions import (
    MOST_SESSIONS,
    MOST_TURNS,
    ChatSession,
    ChatTranscript,
    ChatTurn,
    SessionCursor,
    SessionPage,
    bounded,
    in_order,
    title_of,
)
from smartfallback.state.session_search import SessionSearch


class SessionShelf:
    """The sessions of one process, as long as it lives."""

    def __init__(self) -> None:
        self._turns: dict[str, dict[str, ChatTurn]] = {}
        self._heads: dict[str, ChatSession] = {}

    def keep(self, turns: Sequence[ChatTurn]) -> None:
        """Take in new or changed turns."""
        for turn in turns:
            kept = self._turns.setdefault(turn.session, {})
            kept[turn.id] = bounded(turn)
            for old in in_order(kept.values())[:-MOST_TURNS]:
                del kept[old.id]
            self._heads[turn.session] = self._head(turn, len(kept))
        for session in self._sorted()[MOST_SESSIONS:]:
            self.delete((session.id,))

    def page(self, words: str, limit: int, after: SessionCursor | None) -> SessionPage:
        """Sessions that fit, the last changed first."""
        search = SessionSearch(words)
        found: list[ChatSession] = []
        for session in self._sorted():
            if after is not None and (session.changed_at, session.id) >= after:
                continue
            turns = reversed(in_order(self._turns[session.id].values()))
            texts = (text for turn in turns for text in (turn.prompt, turn.answer))
            fits, snippet = search.fits(session.title, texts) if search else (True, None)
            if fits:
                found.append(
                    ChatSession(
                        session.id,
                        session.title,
                        session.began_at,
                        session.changed_at,
                        session.turns,
                        snippet,
                    )
                )
            if len(found) >= limit:
                return SessionPage(tuple(found), SessionCursor(session.changed_at, session.id))
        return SessionPage(tuple(found))

    def load(self, session: str) -> ChatTranscript | None:
        """A session with its turns; None when there is none of that id."""
        head = self._heads.get(session)
        return None if head is None else ChatTranscript(head, tuple(in_order(self._turns[session].values())))

    def delete(self, sessions: Collection[str] | None) -> int:
        """Delete sessions, None for all; returns how many there were."""
        names = [name for name in (self._heads if sessions is None else sessions) if name in self._heads]
        for name in names:
            del self._heads[name], self._turns[name]
        return len(names)

    def _head(self, turn: ChatTurn, turns: int) -> ChatSession:
        title, began_at, changed_at = title_of(turn.prompt), turn.asked_at, turn.asked_at
        known = self._heads.get(turn.session)
        if known is not None:
            title = title if began_at < known.began_at else known.title
            began_at, changed_at = min(began_at, known.began_at), max(changed_at, known.changed_at)
        return ChatSession(turn.session, title, began_at, changed_at, turns)

    def _sorted(self) -> list[ChatSession]:
        return sorted(
            self._heads.values(), key=lambda session: (session.changed_at, session.id), reverse=True
        )
