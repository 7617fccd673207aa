"""The chat pane: ask a chain, watch where the request goes, and see who answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from textual import on
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Markdown, Static

from smartfallback_console.chat import commands, wording
from smartfallback_console.chat.commands import CommandError
from smartfallback_console.chat.composer import LARGEST_PROMPT, Composer, Hints
from smartfallback_console.chat.conversation import Conversation, Turn
from smartfallback_console.chat.kept import to_keep, turns_of
from smartfallback_console.chat.session_commands import SessionCommands, heading
from smartfallback_console.chat.session_list import SessionList
from smartfallback_console.chat.text import Pacer
from smartfallback_console.chat.transcript import Transcript
from smartfallback_console.chat.turn_view import Notice, TurnView
from smartfallback_console.chat.welcome import help_text, welcome
from smartfallback_console.course import Outcome
from smartfallback_console.formatting import clean, span

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult
    from textual.timer import Timer
    from textual.widget import Widget

    from smartfallback import ChatSession, ChatTranscript, Snapshot
    from smartfallback_console.bridge import ChatHandle, Source

SIGN = "\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}"
LOOK_S = 0.05
"""How often a running answer is looked at: the first token appears within this time."""
GRACE_S = 0.5
"""So long after an answer's end an escape does not leave the chat."""
STATUS_S = 0.25
"""How often the status line of a running answer moves."""
ROOMY_FROM = 20
"""Lines of the pane."""
RESTORED_TURNS = 12
"""Of a session that is opened again so many turns are drawn, the newest ones."""


class ChatPane(Vertical):
    """Where the operator talks to a chain.

    Args:
        source: The core; None is for a pane that only stands there.
        read_only: Chatting spends quota, so a read-only console does not send.
        clock: Monotonic seconds.
        epoch: Seconds since the Unix epoch, for how long it is until an account is back.
        live: Whether to look at a running answer on an interval; a test may look by hand.
    """

    SCOPED_CSS = False  # the screen's class decides whether the pane has a border or a head
    DEFAULT_CSS = """
    ChatPane {
        background: $surface;
        border: round $foreground 18%;
        border-title-color: $foreground 75%;
        border-subtitle-color: $accent;
        padding: 0 1;
        &:focus-within { border: round $primary; border-title-color: $primary; border-title-style: bold; }
        & > #chat-head { height: 1; color: $foreground 62%; display: none; }
        & > #chat-entry {
            height: auto; background: $foreground 6%; padding: 0 1;
            & > #chat-sign { width: 2; color: $primary; text-style: bold; }
            &:focus-within { background: $primary 12%; }
        }
    }
    ChatPane.-roomy > #transcript { margin: 0 0 1 0; }
    .-single ChatPane > #chat-head { display: block; }
    .-single ChatPane > #transcript { margin: 1 0; }
    """

    def __init__(
        self,
        source: Source | None = None,
        *,
        read_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        live: bool = True,
        id: str | None = None,  # noqa: A002 - Textual's name
    ) -> None:
        super().__init__(id=id)
        self.conversation = Conversation()
        self._source = source
        self._read_only = read_only
        self._clock = clock
        self._epoch = epoch
        self._live = live
        self._pacer = Pacer(clock)
        self._handle: ChatHandle | None = None
        self._view: TurnView | None = None
        self._status_at = float("-inf")
        self._ended_at = float("-inf")
        self._looks: Timer | None = None
        self._welcomed: Snapshot | None = None
        self._head = ("", "")
        self._looking = False
        self.sessions = SessionCommands(self, source, epoch)

    def compose(self) -> ComposeResult:
        """Head, transcript, hints, field."""
        yield Static(id="chat-head", markup=False)
        with Transcript(id="transcript"):
            yield Static(welcome(None, read_only=self._read_only), id="welcome", markup=False)
        yield Hints()
        with Horizontal(id="chat-entry"):
            yield Static(SIGN, id="chat-sign", markup=False)
            yield Composer(self.conversation.prompts, self._hints)

    def on_mount(self) -> None:
        """Follow the end; greet as soon as the core tells what there is."""
        if self._read_only:
            self.query_one(Composer).disabled = True
            self.query_one("#chat-entry").display = False
        self.greet()
        if self._live:
            self._looks = self.set_interval(LOOK_S, self.look, name="chat", pause=True)
            self.set_interval(0.5, self.greet, name="greeting")

    @property
    def field(self) -> Widget:
        """What takes the focus: the field, or the transcript of a pane that may not send."""
        return self.query_one(Transcript) if self._read_only else self.query_one(Composer)

    def focus(self, scroll_visible: bool = True) -> ChatPane:
        """Focus the field."""
        self.field.focus(scroll_visible)
        return self

    @property
    def read_only(self) -> bool:
        """Whether nothing is sent and nothing deleted."""
        return self._read_only

    @property
    def just_ended(self) -> bool:
        """Whether an answer has only just ended, so that an escape was still meant for it."""
        return self._clock() - self._ended_at < GRACE_S

    @property
    def running(self) -> bool:
        """Whether an answer is on its way."""
        return self._handle is not None

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest state of the system, for the names that may be typed."""
        return self._source.latest() if self._source is not None else None

    # Looking

    async def look(self) -> None:
        """Take in what the running answer brought and show it when it is due."""
        handle, view = self._handle, self._view
        if handle is None or view is None or self._looking:
            return
        self._looking = True
        try:
            done = handle.done  # read first, so that the last events are not missed
            self._pacer.put(view.turn.apply(handle.drain()))
            await view.show_text(self._pacer)
            now = self._clock()
            if done and self._pacer.empty:
                view.turn.end(now, error=handle.error, cancelled=handle.cancelled)
                self._ended(view)
            elif now - self._status_at >= STATUS_S:
                self._status_at = now
                view.show_status(now, self._epoch(), place=self._place(view.turn))
            self._show_head()
        finally:
            self._looking = False

    def _place(self, turn: Turn) -> int | None:
        """Where a waiting request stands in the queue now; it moves up while it waits."""
        if turn.outcome is not Outcome.QUEUED or (snapshot := self.snapshot) is None:
            return None
        ids = [queued.request_id for queued in snapshot.queue.requests]
        return ids.index(turn.request_id) + 1 if turn.request_id in ids else None

    def _ended(self, view: TurnView) -> None:
        view.end(self._epoch())
        self._keep(view.turn)
        self._handle = None
        self._view = None
        self._ended_at = self._clock()
        self.query_one(Composer).say_running(running=False)
        if self._looks is not None:
            self._looks.pause()

    def greet(self) -> None:
        """The empty state says what there is, once that is known."""
        snapshot = self.snapshot
        if snapshot is None or self._welcomed is not None:
            return
        self._welcomed = snapshot
        self._show_welcome()
        self._show_head()
        self.run_worker(self._offer(), group="sessions")

    async def _offer(self) -> None:
        """Say in the empty state how to go on where the last session ended."""
        last = await self.sessions.last()
        if last is not None:
            self._show_welcome(last)

    def _show_welcome(self, last: ChatSession | None = None) -> None:
        for empty in self.query("#welcome").results(Static):
            empty.update(welcome(self.snapshot, read_only=self._read_only, last=last))

    def _show_head(self) -> None:
        chain = self.conversation.chain or self._default_chain()
        words = [clean(chain)]
        if self.conversation.pin:
            words.append(f"pinned to {wording.name(self.conversation.pin)}")
        if self.conversation.queue is not None:
            words.append(f"may wait {span(self.conversation.queue.expires_s)}")
        if self.conversation.on_break is not None:
            words.append(f"on a break {self.conversation.on_break.value}")
        if self._welcomed is not None and self._welcomed.simulated:
            words.append("simulated")
        transcript = self.query_one(Transcript)
        behind = transcript.max_scroll_y - max(0, transcript.scroll_offset.y)  # below 0 while all fits
        below = f"↓ {behind} lines below" if behind > 1 and self.running else ""
        head = " · ".join(words)
        if (head, below) == self._head:
            return
        self._head = (head, below)
        self.border_title = Content(f"Chat · {head}")
        self.border_subtitle = Content(below)
        self.query_one("#chat-head", Static).update(Content(f"chain {head}{'   ' + below if below else ''}"))

    def _default_chain(self) -> str:
        names = commands.chains(self.snapshot)
        return names[0] if names and "default" not in names else "default"

    # Typing

    def _hints(self, text: str) -> list[commands.Hint]:
        return commands.hints(text, self.snapshot, self.sessions.listed)

    @on(Composer.Changed)
    def typed(self, event: Composer.Changed) -> None:
        """Show what may follow a slash."""
        event.stop()
        self.query_one(Hints).show(self._hints(event.text_area.text))

    @on(Composer.Sent)
    async def sent(self, event: Composer.Sent) -> None:
        """Send a prompt or carry out a command."""
        event.stop()
        text = event.text
        composer = self.query_one(Composer)
        if commands.is_command(text):
            self.conversation.remember(text)
            composer.put("")
            try:
                await self._command(commands.parse(text))
            except CommandError as error:
                await self.say(str(error), problem=True)
        elif self.running:
            self.app.bell()
            await self.say("An answer is on its way: esc stops it, then enter sends this.", problem=True)
        elif len(text) > LARGEST_PROMPT:
            await self.say(
                f"That is {len(text):,} characters; at most {LARGEST_PROMPT:,} are sent.", problem=True
            )
        else:
            self.conversation.remember(text)
            composer.put("")
            prompt, chain = commands.literal(text), self._default_chain()
            await self._begin(self.conversation.ask(prompt, self._clock(), chain, self._epoch()))

    @on(Composer.Escaped)
    def escaped(self, event: Composer.Escaped) -> None:
        """Stop the running answer."""
        event.stop()
        self.cancel()

    @on(Composer.DetailsWanted)
    def details_wanted(self, event: Composer.DetailsWanted) -> None:
        """Open or close the story of the newest ended answer."""
        event.stop()
        for view in reversed(self.query(TurnView)):
            if view is not self._view and view.turn.has_story:
                view.toggle_details()
                return

    @on(Composer.Scrolled)
    def scrolled(self, event: Composer.Scrolled) -> None:
        """Read back."""
        event.stop()
        transcript = self.query_one(Transcript)
        if event.pages < 0:
            transcript.scroll_page_up(animate=False)
        else:
            transcript.scroll_page_down(animate=False)

    @on(Markdown.LinkClicked)
    def link_clicked(self, event: Markdown.LinkClicked) -> None:
        """A link from a model is shown, never opened."""
        event.stop()
        self.notify(clean(event.href[:500]), title="Link in the answer (not opened)", markup=False, timeout=8)

    @on(SessionList.Chosen)
    async def session_chosen(self, event: SessionList.Chosen) -> None:
        """A session of a list was clicked."""
        event.stop()
        await self.open_session(event.session)

    # Doing

    async def open_session(self, session: ChatSession) -> None:
        """Go on in a session that was kept; why not, where that can't be, is said."""
        try:
            await self.sessions.open(session)
        except CommandError as error:
            await self.say(str(error), problem=True)

    def cancel(self) -> bool:
        """Stop the running answer; returns whether there was one."""
        if self._handle is None:
            return False
        self._handle.cancel()
        return True

    async def _begin(self, turn: Turn) -> None:
        view = TurnView(turn)
        await self.add(view)
        if self._source is None:
            turn.refuse(self._clock(), "There is no core to ask.")
            view.end(self._epoch())
            return
        try:
            self._handle = self._source.start_chat(turn.request)
        except RuntimeError as error:
            turn.refuse(self._clock(), f"The request could not be sent: {clean(str(error))}.")
            view.end(self._epoch())
            self._keep(turn)
            return
        self._keep(turn)
        self._view = view
        self._status_at = self._clock()
        self._pacer = Pacer(self._clock)
        view.show_status(self._clock(), self._epoch(), spin=False)
        self.query_one(Composer).say_running(running=True)
        if self._looks is not None:
            self._looks.resume()

    async def say(self, said: Content | str, *, problem: bool = False) -> None:
        """Remark something between the turns."""
        await self.add(Notice(said, problem=problem))

    async def add(self, item: Widget) -> None:
        """Put something at the end: a remark above the running answer."""
        above = self._view if self._view is not None and not isinstance(item, TurnView) else None
        await self.query_one(Transcript).add(item, above=above, kept=self._view)

    async def _command(self, typed: commands.Typed) -> None:
        said = commands.settle(typed, self.conversation, self.snapshot)
        match typed.name:
            case _ if said is not None:
                await self.say(said)
            case "help":
                await self.say(help_text())
            case "new" | "clear":
                await self.begin_anew()
            case "sessions":
                await self.sessions.list(typed.argument)
            case "open":
                await self.sessions.open_number(typed.argument)
            case "forget":
                await self.sessions.forget(typed.argument)
            case "retry":
                await self._retry()
            case _:
                if not self.cancel():
                    await self.say("There is no answer to stop.")
        self._show_head()

    async def begin_anew(self) -> None:
        """End what runs and begin a new session."""
        self._abandon()
        self.conversation.clear()
        said = welcome(self.snapshot, read_only=self._read_only)
        await self.query_one(Transcript).begin(Static(said, id="welcome", markup=False))

    async def go_on_in(self, transcript: ChatTranscript) -> None:
        """Show a session that was kept, and go on in it."""
        self._abandon()
        turns = turns_of(transcript)
        self.conversation.resume(transcript.session.id, turns)
        await self.query_one(Transcript).begin(Notice(heading(transcript, min(len(turns), RESTORED_TURNS))))
        for turn in turns[-RESTORED_TURNS:]:
            view = TurnView(turn)
            await self.add(view)
            await view.show_whole(self._epoch())
        self._show_head()

    def _abandon(self) -> None:
        """Nobody looks at the running answer any more: end it, and keep what has come of it."""
        handle, view = self._handle, self._view
        self._handle = self._view = None
        if handle is None or view is None:
            return
        done, turn = handle.done, view.turn
        turn.apply(handle.drain())
        handle.cancel()
        turn.end(self._clock(), error=handle.error, cancelled=handle.cancelled or not done)
        self._keep(turn)
        if self.is_mounted and self.is_running:
            self.query_one(Composer).say_running(running=False)

    def _keep(self, turn: Turn) -> None:
        """Let the turn be kept as it is now."""
        if self._source is not None:
            self._source.keep_turn(to_keep(turn))

    async def _retry(self) -> None:
        if self.running:
            raise CommandError("An answer is on its way: esc stops it, then /retry asks somebody else.")
        pin = self.conversation.pin
        if pin is not None and any(turn.account == pin for turn in self.conversation.turns[-1:]):
            raise CommandError(f"Only {pin} may answer: /unpin first, so that another account can.")
        turn = self.conversation.retry(self._clock(), self._default_chain(), self._epoch())
        if turn is None:
            raise CommandError("There is nothing to retry yet.")
        await self._begin(turn)

    def on_resize(self, event: events.Resize) -> None:
        """Where there is room, a blank line stands above the field."""
        self.set_class(event.size.height >= ROOMY_FROM, "-roomy")

    def on_unmount(self) -> None:
        """A console that goes away leaves no answer running."""
        self._abandon()
