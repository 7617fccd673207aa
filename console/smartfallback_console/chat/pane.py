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

    from smartfallback import Snapshot
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
SHOWN_ITEMS = 30
"""Turns and notices on the screen; older ones are remembered but no longer drawn."""


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
        for empty in self.query("#welcome").results(Static):
            empty.update(welcome(snapshot, read_only=self._read_only))
        self._show_head()

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
        return commands.hints(text, self.snapshot)

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
                await self._say(str(error), problem=True)
        elif self.running:
            self.app.bell()
            await self._say("An answer is on its way: esc stops it, then enter sends this.", problem=True)
        elif len(text) > LARGEST_PROMPT:
            await self._say(
                f"That is {len(text):,} characters; at most {LARGEST_PROMPT:,} are sent.", problem=True
            )
        else:
            self.conversation.remember(text)
            composer.put("")
            turn = self.conversation.ask(commands.literal(text), self._clock(), self._default_chain())
            await self._begin(turn)

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

    # Doing

    def cancel(self) -> bool:
        """Stop the running answer; returns whether there was one."""
        if self._handle is None:
            return False
        self._handle.cancel()
        return True

    async def _begin(self, turn: Turn) -> None:
        view = TurnView(turn)
        await self._add(view)
        if self._source is None:
            turn.refuse(self._clock(), "There is no core to ask.")
            view.end(self._epoch())
            return
        try:
            self._handle = self._source.start_chat(turn.request)
        except RuntimeError as error:
            turn.refuse(self._clock(), f"The request could not be sent: {clean(str(error))}.")
            view.end(self._epoch())
            return
        self._view = view
        self._status_at = self._clock()
        self._pacer = Pacer(self._clock)
        view.show_status(self._clock(), self._epoch(), spin=False)
        self.query_one(Composer).say_running(running=True)
        if self._looks is not None:
            self._looks.resume()

    async def _say(self, said: Content | str, *, problem: bool = False) -> None:
        await self._add(Notice(said, problem=problem))

    async def _add(self, item: Widget) -> None:
        """Put something at the end, go there, and take the oldest off the screen."""
        transcript = self.query_one(Transcript)
        await transcript.query("#welcome").remove()
        before = self._view if self._view is not None and not isinstance(item, TurnView) else None
        await transcript.mount(item, before=before)
        items = [child for child in transcript.children if child is not self._view]
        if len(items) > SHOWN_ITEMS:
            await transcript.remove_children(items[: len(items) - SHOWN_ITEMS])
        transcript.anchor()

    async def _command(self, typed: commands.Typed) -> None:
        match typed.name:
            case "help":
                await self._say(help_text())
            case "clear":
                await self._clear()
            case "chain":
                chain = commands.choose(typed.argument, commands.chains(self.snapshot), "chain")
                self.conversation.chain = chain
                await self._say(f"From now on the chain {chain} is asked.")
            case "pin":
                account = commands.choose(typed.argument, commands.accounts(self.snapshot), "account")
                self.conversation.pin = account
                await self._say(f"Only {account} may answer now; /unpin ends that.")
            case "unpin":
                said = "The chain chooses again." if self.conversation.pin else "No account is pinned."
                self.conversation.pin = None
                await self._say(said)
            case "queue":
                self.conversation.queue = commands.queue_terms(typed.argument)
                await self._say(commands.said_of_queue(self.conversation.queue))
            case "break":
                self.conversation.on_break = commands.break_rule(typed.argument)
                await self._say(commands.said_of_break(self.conversation.on_break))
            case "retry":
                await self._retry()
            case _:
                if not self.cancel():
                    await self._say("There is no answer to stop.")
        self._show_head()

    async def _clear(self) -> None:
        self.cancel()
        self._handle = self._view = None
        self.query_one(Composer).say_running(running=False)
        self.conversation.clear()
        transcript = self.query_one(Transcript)
        transcript.anchor(False)
        await transcript.remove_children()
        said = welcome(self.snapshot, read_only=self._read_only)
        await transcript.mount(Static(said, id="welcome", markup=False))

    async def _retry(self) -> None:
        if self.running:
            raise CommandError("An answer is on its way: esc stops it, then /retry asks somebody else.")
        pin = self.conversation.pin
        if pin is not None and any(turn.account == pin for turn in self.conversation.turns[-1:]):
            raise CommandError(f"Only {pin} may answer: /unpin first, so that another account can.")
        turn = self.conversation.retry(self._clock(), self._default_chain())
        if turn is None:
            raise CommandError("There is nothing to retry yet.")
        await self._begin(turn)

    def on_resize(self, event: events.Resize) -> None:
        """Where there is room, a blank line stands above the field."""
        self.set_class(event.size.height >= ROOMY_FROM, "-roomy")

    def on_unmount(self) -> None:
        """A console that goes away leaves no answer running."""
        self.cancel()
