"""Chat sessions as they are kept over a restart: plain values, with times in epoch seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

from smartfallback.model.outcomes import Failure
from smartfallback.model.requests import Reply, Seam

MOST_SESSIONS: Final = 1_000
"""Sessions that are kept; the one that was left alone for longest falls out first."""
MOST_TURNS: Final = 200
"""Turns of one session that are kept; the oldest fall out first."""
MOST_TEXT: Final = 1_000_000
"""Bytes (UTF-8) of one turn's prompt and answer together; the end of a longer one is not kept."""
TITLE_LENGTH: Final = 120
SNIPPET_BEFORE: Final = 24
SNIPPET_LENGTH: Final = 120
"""Characters of a snippet: before what was found, and in all."""
LISTED: Final = 20
"""Sessions that a list holds unless more are asked for."""


class TurnState(StrEnum):
    """How a turn stands."""

    RUNNING = "running"
    """Its answer is on its way, in this process or another one."""
    BROKEN_OFF = "broken_off"
    """Its process was gone before the end of the answer could be kept."""
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ChatAttempt(NamedTuple):
    """One attempt of a turn as the chat tells it.

    Attributes:
        number: The engine's, 0 when its beginning was missed.
        latency_s: Seconds it took, None when its end was missed.
        diverted: Why the operator moved it away, empty when nobody did.
        then: What followed a failure, in words.
        hedge: It ran beside the one before it.
        outrun: The number of the attempt that answered before it, 0 for none.
    """

    number: int
    account: str
    pool: str
    model: str = ""
    latency_s: float | None = None
    failure: Failure | None = None
    diverted: str = ""
    then: str = ""
    hedge: bool = False
    outrun: int = 0


class ChatWait(NamedTuple):
    """One stay in the queue after so many attempts; ``waited_s`` is None for one that did not end."""

    after: int
    waited_s: float | None = None


class Resumption(NamedTuple):
    """A seam, and where it stands in the answer as it was shown."""

    at: int
    seam: Seam


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A prompt, its answer and how it came about.

    Attributes:
        id: Its own for ever, so that several processes can keep turns of one session.
        session: The session it belongs to.
        asked_at: When the prompt was sent; turns of a session stand in this order.
        answer: As far as it came.
        took_s: Seconds from the prompt to the end of the answer.
        request_id: The engine's name for the request.
        pin: The only account that might answer.
        avoid: The accounts that might not.
        is_retry: It asks the prompt of the turn before once more.
        sent_along: How many earlier messages went along as context.
        reply: How it was answered. Its text and attempts are empty: :attr:`answer` and
            :attr:`attempts` have them.
        failure: The error that ended it.
        problem: What ended it where no upstream is to blame, in a sentence.
        skipped: In words, why the accounts that were not tried were not.
        next_available_at: When an account was expected back.
        cut: So many characters of prompt and answer are not kept.
    """

    id: str
    session: str
    asked_at: float
    prompt: str
    answer: str = ""
    state: TurnState = TurnState.RUNNING
    took_s: float | None = None
    request_id: str = ""
    chain: str = ""
    pin: str | None = None
    avoid: frozenset[str] = frozenset()
    is_retry: bool = False
    sent_along: int = 0
    reply: Reply | None = None
    attempts: tuple[ChatAttempt, ...] = ()
    waits: tuple[ChatWait, ...] = ()
    resumptions: tuple[Resumption, ...] = ()
    failure: Failure | None = None
    problem: str = ""
    skipped: tuple[str, ...] = ()
    next_available_at: float | None = None
    cut: int = 0


class Snippet(NamedTuple):
    """A piece of a turn on one line in which a word was found, and where in it."""

    text: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class ChatSession:
    """A session in a list.

    Attributes:
        title: The beginning of its first prompt, on one line.
        began_at: When its first turn was asked.
        changed_at: When its newest turn was.
        turns: How many are kept.
        found: Where what was searched for stands in its texts; None where nothing was, or in the title.
    """

    id: str
    title: str
    began_at: float
    changed_at: float
    turns: int
    found: Snippet | None = None


@dataclass(frozen=True, slots=True)
class ChatTranscript:
    """A session with its turns, oldest first."""

    session: ChatSession
    turns: tuple[ChatTurn, ...] = field(default=())


class SessionCursor(NamedTuple):
    """Where a list goes on: behind the session of that id, which was changed then."""

    changed_at: float
    id: str


class SessionPage(NamedTuple):
    """A part of a list; ``then`` is None at its end."""

    sessions: tuple[ChatSession, ...] = ()
    then: SessionCursor | None = None


def title_of(prompt: str) -> str:
    """What a session that begins with this prompt is called."""
    words = " ".join(prompt[: TITLE_LENGTH * 4].split())
    return words if len(words) <= TITLE_LENGTH else f"{words[: TITLE_LENGTH - 1].rstrip()}…"


def bounded(turn: ChatTurn) -> ChatTurn:
    """The turn with no more text than is kept; the answer gives way before the prompt does."""
    if 4 * (len(turn.prompt) + len(turn.answer)) <= MOST_TEXT:  # no character takes more than four bytes
        return turn
    prompt, room = _cut(turn.prompt, MOST_TEXT)
    answer, _ = _cut(turn.answer, room)
    lost = len(turn.prompt) - len(prompt) + len(turn.answer) - len(answer)
    return replace(turn, prompt=prompt, answer=answer, cut=turn.cut + lost) if lost else turn


def _cut(text: str, room: int) -> tuple[str, int]:
    """As much of a text as fits into so many bytes, and how many are left."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= room:
        return text, room - len(encoded)
    kept = encoded[:room]
    while kept and encoded[len(kept)] & 0xC0 == 0x80:  # not in the middle of a character
        kept = kept[:-1]
    return kept.decode("utf-8", "surrogatepass"), 0


def in_order(turns: Iterable[ChatTurn]) -> list[ChatTurn]:
    """Turns as they were asked."""
    return sorted(turns, key=lambda turn: (turn.asked_at, turn.id))
