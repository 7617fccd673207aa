"""What a chat does with the sessions that are kept: lists, opens and forgets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartfallback_console.chat.commands import EVERY, CommandError, numbered
from smartfallback_console.formatting import clean

if TYPE_CHECKING:
    from smartfallback import ChatSession, ChatSessions, ChatTranscript
    from smartfallback_console.bridge import Source

SHOWN = 20
"""Sessions of one list."""


class SessionDesk:
    """Asks the core for the kept sessions, and knows which list the operator looks at.

    Args:
        source: The core; None is for a pane that only stands there.
    """

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self.listed: tuple[ChatSession, ...] = ()
        """The sessions of the latest list: number 1 is the first."""
        self.more = False
        """Whether there are more than those."""
        self._gone: set[str] = set()
        """Sessions of the list that were forgotten since; the others keep their numbers."""

    async def find(self, words: str = "") -> tuple[ChatSession, ...]:
        """Make a new list.

        Args:
            words: Each stands somewhere in the sessions that fit; empty for all sessions.

        Raises:
            CommandError: Nothing is kept, or it can't be read now.
        """

        async def search(kept: ChatSessions) -> tuple[ChatSession, ...] | None:
            return await kept.search(words, SHOWN + 1) if kept.kept else None

        try:
            found = None if self._source is None else await self._source.sessions(search)
        except RuntimeError as error:
            raise CommandError(_sentence(error)) from None
        if found is None:
            raise CommandError(self._keeps_nothing())
        self.more = len(found) > SHOWN
        self.listed = found[:SHOWN]
        self._gone.clear()
        return self.listed

    async def chosen(self, argument: str) -> ChatSession:
        """The session of the list that has this number; without a list that of the newest ones.

        Raises:
            CommandError: There is none of that number.
        """
        if not self.listed:
            await self.find()
        session = numbered(argument, self.listed)
        if session.id in self._gone:
            raise CommandError(f"Number {argument} was forgotten; /sessions lists what is left.")
        return session

    async def load(self, session: ChatSession) -> ChatTranscript:
        """A session with its turns.

        Raises:
            CommandError: It is gone, or can't be read now.
        """

        async def load(kept: ChatSessions) -> ChatTranscript | None:
            return await kept.load(session.id)

        try:
            found = None if self._source is None else await self._source.sessions(load)
        except RuntimeError as error:
            raise CommandError(_sentence(error)) from None
        if found is None:
            raise CommandError(f"“{clean(session.title)}” is not there any more; /sessions lists what is.")
        return found

    async def forget(self, session: ChatSession | None) -> int:
        """Delete a session, None for all; returns how many there were.

        Raises:
            CommandError: They could not be deleted.
        """
        ids = None if session is None else (session.id,)

        async def delete(kept: ChatSessions) -> int:
            return await kept.delete(ids)

        try:
            deleted = 0 if self._source is None else await self._source.sessions(delete)
        except RuntimeError as error:
            raise CommandError(_sentence(error)) from None
        if session is None:
            self.listed = ()
        else:
            self._gone.add(session.id)
        return deleted

    async def doomed(self, argument: str) -> ChatSession | None:
        """What ``/forget`` names: a session of the list, or None for all.

        Raises:
            CommandError: Neither a number of the list nor ``all``, or nothing is kept.
        """
        if argument.casefold() != EVERY:
            return await self.chosen(argument)
        if not self.listed and not await self.find():
            raise CommandError("No session is kept yet.")
        return None

    def _keeps_nothing(self) -> str:
        snapshot = self._source.latest() if self._source is not None else None
        if snapshot is not None and snapshot.simulated:
            return "The demo keeps nothing: its sessions end with the console."
        return "Nothing is kept here: sessions end with the console."


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
