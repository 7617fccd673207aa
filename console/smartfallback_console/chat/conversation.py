"""A conversation as data: its turns, what became of each, and the requests made from them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smartfallback import (
    AnswerResumed,
    Delta,
    Message,
    OnBreak,
    Origin,
    QueueTerms,
    Request,
    RequestError,
    RequestEvent,
    RequestFinished,
    Role,
)
from smartfallback_console.chat.text import printable
from smartfallback_console.course import Course, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import Event, Failure, Reply, Seam

CONTEXT_TURNS = 20
"""Earlier turns sent along with a prompt, at most."""
CONTEXT_CHARACTERS = 48_000
"""Characters of earlier turns sent along, at most; whole turns are left out, the oldest first."""
KEPT_TURNS = 100
"""Turns that a conversation remembers."""

LEAST_APART_S = 0.001


@dataclass(slots=True)
class Turn(Course):
    """A prompt and its answer. Times are monotonic seconds of the console unless they say epoch."""

    prompt: str
    request: Request
    started_at: float
    is_retry: bool = False
    """Whether it asks the prompt of the turn before once more."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Its own for ever: it is kept under it."""
    asked_at: float = 0.0
    """Epoch seconds at which the prompt was sent."""
    sent_along: int = 0
    """How many earlier messages went along as context."""
    request_id: str = ""
    """The engine's name for it, once it is known."""
    marks: list[tuple[int, Seam]] = field(default_factory=list)
    """Where in :attr:`text` the answer broke off and was taken up by another account."""
    reply: Reply | None = None
    failure: Failure | None = None
    problem: str = ""
    """What ended the answer where no upstream is to blame."""
    skipped: tuple[str, ...] = ()
    next_available_at: float | None = None
    """Epoch seconds at which an account is expected back, for a failed answer."""
    ended_at: float | None = None
    characters: int = 0
    """Length of what has been answered so far."""
    cut: int = 0
    """So many characters of a turn that was kept are lost, because it was too long."""
    unfinished: str = ""
    """For a turn that was kept while it ran: why its answer is not here, in a sentence."""
    _pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What has been answered so far, free of control characters."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return "".join(self._pieces)

    @property
    def has_text(self) -> bool:
        """Whether a part of the answer has come."""
        return self.characters > 0

    @property
    def has_story(self) -> bool:
        """Whether there is more to tell than how it ended."""
        return bool(self.hops or self.waits or self.reply)

    @property
    def account(self) -> str:
        """Who answers or answered; empty while nobody has, and for an answer from the cache."""
        if self.reply is not None:
            return "" if self.cached_age_s is not None else self.reply.account
        return self.hops[-1].account if self.hops and self.has_text else ""

    def elapsed(self, now: float) -> float:
        """Seconds since the prompt was sent, up to the end of the answer."""
        return max(0.0, (self.ended_at if self.ended_at is not None else now) - self.started_at)

    def apply(self, events: Iterable[Event]) -> str:
        """Take in events of the request; returns the new text, free of control characters."""
        new: list[str] = []
        come = self.characters
        for event in events:
            match event:
                case Delta():
                    text = printable(event.text)
                    new.append(text)
                    come += len(text)
                case RequestFinished():
                    self.reply = event.reply
                    self.answered(event.reply)
                case RequestEvent():
                    self.request_id = event.request_id
                    if isinstance(event, AnswerResumed):
                        self.marks.append((come, event.seam))
                    self.take(event)
                case _:
                    pass
        text = "".join(new)
        self.put(text)
        return text

    def end(self, now: float, *, error: Exception | None, cancelled: bool) -> None:
        """Nothing more will come: decide how the turn ended."""
        self.ended_at = now
        if self.outcome is Outcome.ANSWERED:
            return
        if cancelled:
            self.outcome = Outcome.CANCELLED
            return
        self.outcome = Outcome.FAILED
        if isinstance(error, RequestError):
            self.failure = error.failure
            self.skipped = error.skipped
            self.next_available_at = error.next_available_at
            self.complete(error.attempts)
        elif error is not None:
            # The text of an unexpected error may hold anything, a credential among it.
            self.problem = f"The console could not finish this request ({type(error).__name__})."
        else:
            self.problem = "The core ended before the answer was complete."

    def refuse(self, now: float, problem: str) -> None:
        """End the turn because the request could not even be sent."""
        self.ended_at, self.outcome, self.problem = now, Outcome.FAILED, problem

    def messages(self) -> tuple[Message, ...]:
        """The turn as context for later ones; nothing when there was no answer."""
        if not self.has_text:
            return ()
        return (Message(Role.USER, self.prompt), Message(Role.ASSISTANT, self.text))

    def put(self, text: str) -> None:
        """Add to the answer; the text must be free of control characters."""
        if text:
            self._pieces.append(text)
            self.characters += len(text)


class Conversation:
    """The turns of one session, and where its next prompt goes."""

    def __init__(self) -> None:
        self.session = uuid.uuid4().hex
        self.chain = ""
        """The chosen chain; empty takes the first one there is."""
        self.pin: str | None = None
        self.queue: QueueTerms | None = None
        """How the next prompts may wait for capacity; None leaves that to the chain."""
        self.on_break: OnBreak | None = None
        """What follows when an answer breaks off; None leaves that to the chain."""
        self.turns: list[Turn] = []
        self.prompts: list[str] = []
        """What was typed, oldest first, for recall; survives :meth:`clear`."""

    def clear(self) -> None:
        """Forget the turns and begin a new session; what was set for the next prompts stays."""
        self.session = uuid.uuid4().hex
        self.turns.clear()

    def resume(self, session: str, turns: list[Turn]) -> None:
        """Go on in a session that was kept; what was set for the next prompts stays."""
        self.session = session
        self.turns[:] = turns[-KEPT_TURNS:]
        for turn in turns:
            self.remember(turn.prompt)

    def ask(self, prompt: str, now: float, default_chain: str, at: float = 0.0) -> Turn:
        """A new turn with its request, which carries the earlier turns as context.

        Args:
            prompt: What is asked.
            now: Monotonic seconds.
            default_chain: The chain that is asked unless another one was chosen.
            at: Epoch seconds.
        """
        return self._turn(prompt, now, default_chain, frozenset(), self.turns, at)

    def retry(self, now: float, default_chain: str, at: float = 0.0) -> Turn | None:
        """The last prompt once more, by none of the accounts that answered it; None without one."""
        if not self.turns:
            return None
        last = self.turns[-1]
        avoid = last.request.avoid | ({last.account} if last.account else set())
        earlier = list(self.turns)
        while earlier.pop().is_retry and earlier:
            pass
        return self._turn(last.prompt, now, default_chain, frozenset(avoid), earlier, at, is_retry=True)

    def _turn(
        self,
        prompt: str,
        now: float,
        default_chain: str,
        avoid: frozenset[str],
        earlier: list[Turn],
        at: float,
        *,
        is_retry: bool = False,
    ) -> Turn:
        request = Request(
            messages=(*context(earlier), Message(Role.USER, prompt)),
            chain=self.chain or default_chain,
            session=self.session,
            pin=self.pin,
            avoid=avoid,
            origin=Origin.CHAT,
            on_break=self.on_break,
            queue=self.queue,
        )
        if self.turns:  # kept turns stand in the order of their times, and a clock may be set back
            at = max(at, self.turns[-1].asked_at + LEAST_APART_S)
        turn = Turn(prompt, request, now, is_retry, asked_at=at, sent_along=len(request.messages) - 1)
        self.turns.append(turn)
        del self.turns[:-KEPT_TURNS]
        return turn

    def remember(self, prompt: str) -> None:
        """Keep what was typed for recall."""
        if not self.prompts or self.prompts[-1] != prompt:
            self.prompts.append(prompt)
            del self.prompts[:-KEPT_TURNS]


def context(turns: list[Turn]) -> tuple[Message, ...]:
    """The newest answered turns as messages, oldest first, within the bounds of what is sent along."""
    kept: list[tuple[Message, ...]] = []
    room = CONTEXT_CHARACTERS
    superseded = False  # an answered retry stands for the turns that it repeats
    for turn in reversed(turns):
        if superseded:
            superseded = turn.is_retry
            continue
        messages = turn.messages()
        if not messages:
            continue
        superseded = turn.is_retry
        room -= sum(len(message.content) for message in messages)
        if room < 0 or len(kept) == CONTEXT_TURNS:
            break
        kept.append(messages)
    return tuple(message for messages in reversed(kept) for message in messages)
