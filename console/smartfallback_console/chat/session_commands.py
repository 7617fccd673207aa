"""The chat's commands on kept sessions: what is shown of them, and what is asked first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.content import Content

from smartfallback_console.chat.commands import CommandError
from smartfallback_console.chat.forget_dialog import ForgetDialog
from smartfallback_console.chat.session_desk import SessionDesk
from smartfallback_console.chat.session_list import SessionList, about
from smartfallback_console.chat.wording import MUTED, Piece, content
from smartfallback_console.dialogs.choose import ChooseDialog
from smartfallback_console.formatting import calendar_date, clean, fit

if TYPE_CHECKING:
    from smartfallback import ChatSession, ChatTranscript
    from smartfallback_console.bridge import Source
    from smartfallback_console.chat.pane import ChatPane

CHOICE_CELLS = 28
"""Of a title in the list that is opened by key."""
BUSY = "An answer is on its way: esc stops it, then this can be done."


class SessionCommands:
    """Lists, opens and forgets sessions on a pane.

    Args:
        pane: Where they are shown.
        source: The core; None is for a pane that only stands there.
        epoch: Seconds since the Unix epoch.
    """

    def __init__(self, pane: ChatPane, source: Source | None, epoch: Callable[[], float]) -> None:
        self._pane = pane
        self._desk = SessionDesk(source)
        self._epoch = epoch

    @property
    def listed(self) -> tuple[ChatSession, ...]:
        """The sessions of the latest list, by their numbers."""
        return self._desk.listed

    async def last(self) -> ChatSession | None:
        """The session that was kept last, number 1 of the list from now on; None when there is none."""
        try:
            found = await self._desk.find()
        except CommandError:  # nobody has asked yet
            return None
        return found[0] if found else None

    async def list(self, words: str) -> None:
        """Show the sessions in which these words stand, without words the newest ones.

        Raises:
            CommandError: There is none, or it can't be said now.
        """
        found = await self._desk.find(words)
        if not found:
            raise CommandError(_none(words))
        current = self._pane.conversation.session
        await self._pane.add(
            SessionList(
                found,
                words=words,
                current=current,
                now=self._epoch(),
                more=self._desk.more,
                read_only=self._pane.read_only,
            )
        )

    async def open_number(self, argument: str) -> None:
        """Go on in the session that has this number in the list.

        Raises:
            CommandError: There is none, or an answer is on its way.
        """
        await self.open(await self._desk.chosen(argument))

    async def open(self, session: ChatSession) -> None:
        """Go on in a session.

        Raises:
            CommandError: It is gone, or an answer is on its way.
        """
        if self._pane.running:
            raise CommandError(BUSY)
        await self._pane.go_on_in(await self._desk.load(session))

    async def forget(self, argument: str) -> None:
        """Ask, then delete the session that has this number, or all.

        Raises:
            CommandError: There is none, nothing may be deleted here, or an answer is on its way.
        """
        if self._pane.read_only:
            raise CommandError("Read-only: sessions can be looked at, not deleted.")
        if self._pane.running:
            raise CommandError(BUSY)
        session = await self._desk.doomed(argument)

        def answered(agreed: bool | None) -> None:
            if agreed:
                self._pane.run_worker(self._delete(session), group="sessions")

        self._pane.app.push_screen(ForgetDialog(session, self._epoch()), answered)

    async def _delete(self, session: ChatSession | None) -> None:
        pane = self._pane
        try:
            if pane.running:
                raise CommandError(BUSY)
            deleted = await self._desk.forget(session)
        except CommandError as error:
            await pane.say(str(error), problem=True)
            return
        if session is None or session.id == pane.conversation.session:
            await pane.begin_anew()
        if session is None:
            await pane.say(
                "1 session is forgotten." if deleted == 1 else f"{deleted:,} sessions are forgotten."
            )
        else:
            await pane.say(f"“{clean(session.title)}” is forgotten.")

    async def browse(self, words: str = "") -> None:
        """Let the operator choose a session from a list and open it, also where nothing can be typed."""
        pane = self._pane
        try:
            found = await self._desk.find(words)
            if not found:
                raise CommandError(_none(words))
        except CommandError as error:
            pane.notify(clean(str(error)), markup=False)
            return
        choices = [
            (f"{number:>2}  {fit(session.title, CHOICE_CELLS)}", about(session, self._epoch()))
            for number, session in enumerate(found, 1)
        ]
        current = next(
            (
                name
                for (name, _), session in zip(choices, found, strict=True)
                if session.id == pane.conversation.session
            ),
            "",
        )

        def chosen(name: str | None) -> None:
            if name is not None:
                session = found[[value for value, _ in choices].index(name)]
                pane.run_worker(pane.open_session(session), group="sessions")

        title = f"Sessions with {words}" if words else "Chat sessions"
        pane.app.push_screen(ChooseDialog(title, choices, current), chosen)


def heading(transcript: ChatTranscript, shown: int) -> Content:
    """What stands above the turns of a session that was opened again."""
    session = transcript.session
    turns = "1 turn" if session.turns == 1 else f"{session.turns} turns"
    said = f" · {turns} since {calendar_date(session.began_at)}"
    if shown < session.turns:
        said += f", the newest {shown} are shown"
    return content([Piece(f"“{clean(session.title)}”", "bold"), Piece(said, MUTED)])


def _none(words: str) -> str:
    return f"No session holds “{clean(words)}”." if words else "No session is kept yet."
