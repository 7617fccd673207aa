"""What a caller asks, and what it gets back."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a chain.

    ``timeout_s`` is the one deadline over all attempts, back-off and streaming; None takes the
    chain's. ``pin`` names the only account that may answer, ``avoid`` those that may not. The
    engine fills ``id`` when it is empty.
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


class Degradation(NamedTuple):
    """One way in which an answer is less than what was asked for, in words for the operator."""

    kind: DegradationKind
    detail: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer and how it came about. ``cost`` is in US dollars, None when no price is set."""

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

    @property
    def degraded(self) -> bool:
        """Whether the answer is less than what was asked for in any way."""
        return bool(self.degradations)


def characters(messages: Sequence[Message]) -> int:
    """How many characters a conversation holds, the base of every token estimate."""
    return sum(len(message.content) for message in messages)
