"""What a caller asks, and what it gets back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from smartfallback.model.outcomes import AttemptRecord


class Role(StrEnum):
    """Who speaks in a conversation."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Capability(StrEnum):
    """What a request may need of a model besides text."""

    TOOLS = "tools"
    VISION = "vision"


class Origin(StrEnum):
    """Where a request came from; shown in the feed."""

    API = "api"
    CHAT = "chat"
    TRAFFIC = "traffic"
    REHEARSAL = "rehearsal"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


class Usage(NamedTuple):
    """Tokens of one answer. ``estimated`` is true when the upstream did not report them."""

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output together, which is what token quotas count."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.estimated or other.estimated,
        )


class OnBreak(StrEnum):
    """What follows when an answer breaks off after its first token."""

    CONTINUE = "continue"
    """The next candidate goes on from the text so far; the seam is reported."""
    ERROR = "error"
    """The request ends with an error that holds what had come."""


@dataclass(frozen=True, slots=True)
class QueueTerms:
    """How a request may wait for capacity to return when nobody can serve it now.

    Attributes:
        expires_s: It fails for good after so many seconds in the queue.
        priority: Higher ones are replayed first, equal ones in their order of arrival.

    Raises:
        ValueError: ``expires_s`` is not above 0 and finite; the message names it.
    """

    expires_s: float = 3_600.0
    priority: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.expires_s < math.inf:
            raise ValueError(f"expires_s must be above 0 and finite, not {self.expires_s!r}")


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a chain.

    ``timeout_s`` is the one deadline over all attempts, back-off and streaming; None takes the
    chain's. ``pin`` names the only account that may answer, ``avoid`` those that may not. The
    engine fills ``id`` when it is empty.

    ``on_break`` None takes the chain's rule; without one, chats continue and streams of other
    origins end with an error. With ``queue`` the request waits in the queue when nobody can serve
    it now; None takes the chain's rule. Its time there is not ``timeout_s``'s, which begins anew when
    the request leaves the queue. Without ``keep_text`` neither the reply nor any event holds the
    answer's text, so that a stream of any length takes constant memory; it is then neither cached nor
    continued after a break.
    """

    messages: tuple[Message, ...]
    chain: str = "default"
    model: str | None = None
    session: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    timeout_s: float | None = None
    pin: str | None = None
    avoid: frozenset[str] = frozenset()
    requires: frozenset[Capability] = frozenset()
    stream: bool = True
    origin: Origin = Origin.API
    id: str = ""
    on_break: OnBreak | None = None
    queue: QueueTerms | None = None
    keep_text: bool = True

    @classmethod
    def ask(cls, text: str, *, chain: str = "default", origin: Origin = Origin.API) -> Request:
        """A request with a single user message."""
        return cls(messages=(Message(Role.USER, text),), chain=chain, origin=origin)


class DegradationKind(StrEnum):
    """In what way an answer is less than what was asked for."""

    FALLBACK_POOL = "fallback_pool"
    RESERVE_QUOTA = "reserve_quota"
    LOCAL_MODEL = "local_model"
    TRIMMED_HISTORY = "trimmed_history"
    SHORTER_ANSWER = "shorter_answer"
    CHEAPER_MODEL = "cheaper_model"
    CONTINUED = "continued"
    """It broke off and another candidate went on with it."""
    CACHED = "cached"
    """The same request's answer of a while ago."""


class Degradation(NamedTuple):
    """One way in which an answer is less than what was asked for, in words for the operator."""

    kind: DegradationKind
    detail: str


class Seam(NamedTuple):
    """Where an answer that broke off was taken up by another candidate.

    Attributes:
        at: Characters of the answer before the seam.
        broken: The account whose answer broke off.
        resumed: The account that went on.
        cause: Why it broke off.
        overlap: Characters that the second repeated of the first, and that were removed.
    """

    at: int
    broken: str
    resumed: str
    cause: str
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer and how it came about. ``cost`` is in US dollars, None when no price is set.

    ``account`` is the one that gave the answer's end; ``seams`` tell of others before it. With
    ``cached_age_s`` the answer is that of an equal request so many seconds ago, and ``account`` the
    one that gave it then; ``usage`` is zero. ``queued_s`` is the time that the request spent in the
    queue.
    """

    request_id: str
    text: str
    account: str
    pool: str
    provider: str
    model: str
    usage: Usage
    finish_reason: str
    attempts: tuple[AttemptRecord, ...]
    latency_s: float
    first_token_s: float | None
    cost: float | None = None
    degradations: tuple[Degradation, ...] = field(default=())
    seams: tuple[Seam, ...] = ()
    cached_age_s: float | None = None
    queued_s: float = 0.0

    @property
    def degraded(self) -> bool:
        """Whether the answer is less than what was asked for in any way."""
        return bool(self.degradations)


def characters(messages: Sequence[Message]) -> int:
    """How many characters a conversation holds, the base of every token estimate."""
    return sum(len(message.content) for message in messages)
