"""A conversation as data: its turns, what became of each, and the requests made from them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smartfallback import (
    AttemptDiverted,
    AttemptFailed,
    AttemptResult,
    AttemptStarted,
    Delta,
    Message,
    Origin,
    Request,
    RequestDegraded,
    RequestError,
    RequestFinished,
    RequestRouted,
    Role,
)
from smartfallback_console.chat.text import printable
from smartfallback_console.routing import Hop, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import AttemptRecord, Decision, Event, Failure, Reply

CONTEXT_TURNS = 20
"""Earlier turns sent along with a prompt, at most."""
CONTEXT_CHARACTERS = 48_000
"""Characters of earlier turns sent along, at most; whole turns are left out, the oldest first."""
KEPT_TURNS = 100
"""Turns that a conversation remembers."""


@dataclass(slots=True)
class Turn:
    """A prompt and its answer. Times are monotonic seconds of the console unless they say epoch."""

    prompt: str
    request: Request
    started_at: float
    is_retry: bool = False
    """Whether it asks the prompt of the turn before once more."""
    hops: list[Hop] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    """The model of each hop."""
    outcome: Outcome = Outcome.RUNNING
    decision: Decision | None = None
    """Why the first candidate was chosen."""
    degradations: list[str] = field(default_factory=list)
    reply: Reply | None = None
    failure: Failure | None = None
    problem: str = ""
    """What ended the answer where no upstream is to blame."""
    attempts: tuple[AttemptRecord, ...] = ()
    skipped: tuple[str, ...] = ()
    next_available_at: float | None = None
    """Epoch seconds at which an account is expected back, for a failed answer."""
    ended_at: float | None = None
    characters: int = 0
    """Length of what has been answered so far."""
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
    def account(self) -> str:
        """Who answers or answered; empty while nobody has."""
        if self.reply is not None:
            return self.reply.account
        return self.hops[-1].account if self.hops and self.has_text else ""

    def elapsed(self, now: float) -> float:
        """Seconds since the prompt was sent, up to the end of the answer."""
        return max(0.0, (self.ended_at if self.ended_at is not None else now) - self.started_at)

    def apply(self, events: Iterable[Event]) -> str:
        """Take in events of the request; returns the new text, free of control characters."""
        new: list[str] = []
        for event in events:
            match event:
                case Delta():
                    new.append(printable(event.text))
                case RequestRouted():
                    self.decision = event.decision
                case AttemptStarted():
                    self.hops.append(Hop(event.account, event.pool, event.decision))
                    self.models.append(event.model)
                case AttemptFailed():
                    hop = self._hop(event.account, event.pool)
                    hop.failure, hop.latency_s, hop.then = event.failure, event.latency_s, event.then.value
                case AttemptDiverted():
                    hop = self._hop(event.account, event.pool)
                    hop.diverted, hop.latency_s = event.reason or "moved by the operator", event.latency_s
                case RequestDegraded():
                    degradation = event.degradation
                    self.degradations.append(degradation.detail or degradation.kind.value.replace("_", " "))
                case RequestFinished():
                    self._finished(event.reply)
                case _:
                    pass
        text = "".join(new)
        self._add(text)
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
            self.attempts = error.attempts
            self.skipped = error.skipped
            self.next_available_at = error.next_available_at
            self._complete_hops()
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

    def _finished(self, reply: Reply) -> None:
        self.outcome, self.reply, self.attempts = Outcome.ANSWERED, reply, reply.attempts
        self.degradations = [
            piece.detail or piece.kind.value.replace("_", " ") for piece in reply.degradations
        ]
        self._complete_hops()

    def _add(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self.characters += len(text)

    def _complete_hops(self) -> None:
        """Attempts whose events never came are taken from the records."""
        if len(self.hops) < len(self.attempts):
            self.hops = [
                Hop(
                    record.account,
                    record.pool,
                    failure=record.failure,
                    diverted="moved by the operator" if record.result is AttemptResult.DIVERTED else "",
                )
                for record in self.attempts
            ]
            self.models = [record.model for record in self.attempts]
        for hop, record in zip(self.hops, self.attempts, strict=False):
            hop.latency_s = record.latency_s
            hop.failure = hop.failure or record.failure

    def _hop(self, account: str, pool: str) -> Hop:
        if not self.hops or self.hops[-1].account != account:
            self.hops.append(Hop(account, pool))
            self.models.append("")
        return self.hops[-1]


class Conversation:
    """The turns of one session, and where its next prompt goes."""

    def __init__(self) -> None:
        self.session = uuid.uuid4().hex
        self.chain = ""
        """The chosen chain; empty takes the first one there is."""
        self.pin: str | None = None
        self.turns: list[Turn] = []
        self.prompts: list[str] = []
        """What was typed, oldest first, for recall; survives :meth:`clear`."""

    def clear(self) -> None:
        """Forget the turns and begin a new session; chain and pin stay."""
        self.session = uuid.uuid4().hex
        self.turns.clear()

    def ask(self, prompt: str, now: float, default_chain: str) -> Turn:
        """A new turn with its request, which carries the earlier turns as context."""
        return self._turn(prompt, now, default_chain, frozenset(), self.turns)

    def retry(self, now: float, default_chain: str) -> Turn | None:
        """The last prompt once more, by none of the accounts that answered it; None without one."""
        if not self.turns:
            return None
        last = self.turns[-1]
        avoid = last.request.avoid | ({last.account} if last.account else set())
        earlier = list(self.turns)
        while earlier.pop().is_retry and earlier:
            pass
        return self._turn(last.prompt, now, default_chain, frozenset(avoid), earlier, is_retry=True)

    def _turn(
        self,
        prompt: str,
        now: float,
        default_chain: str,
        avoid: frozenset[str],
        earlier: list[Turn],
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
        )
        turn = Turn(prompt, request, now, is_retry)
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
