"""What a simulated upstream's wire format has to offer, whichever it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from smartfallback.simulation.faults import WaitForm
from smartfallback.simulation.upstreams import AccountState


class ProblemKind(StrEnum):
    """Why a call is refused."""

    STATUS = "status"
    BAD_KEY = "bad key"
    BANNED = "banned"
    BURST = "burst"
    WALL = "wall"
    UNKNOWN_PATH = "unknown path"
    UNKNOWN_MODEL = "unknown model"
    INVALID = "invalid"
    TOO_LONG = "too long"


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal, before it is worded in a dialect.

    ``wait_s`` is a stated wait; ``resets_at`` the epoch time at which a used-up quota comes back.
    ``details`` off asks for the barest wording that the API is known to use.
    """

    kind: ProblemKind
    status: int
    message: str = ""
    code: str = ""
    wait_s: float | None = None
    form: WaitForm = WaitForm.NONE
    resets_at: float | None = None
    model: str = ""
    details: bool = True


class Refused(Exception):
    """A call that the upstream answers with an error."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.kind.value)
        self.problem = problem


class Question(NamedTuple):
    """What a call asks, as far as the simulation cares.

    ``prompts`` are the user's messages, oldest first; empty when the user said nothing.
    """

    model: str
    prompts: tuple[str, ...]
    input_tokens: int
    max_output_tokens: int | None
    stream: bool
    include_usage: bool


class Finish(NamedTuple):
    """How an answer ends. ``truncated`` means that the token limit cut it short.

    Unless it is ``counted``, its tokens are not told.
    """

    input_tokens: int
    output_tokens: int
    truncated: bool = False
    counted: bool = True


class Wire(NamedTuple):
    """A complete HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Dialect(Protocol):
    """Wording of calls and answers on one kind of API."""

    base_path: str
    """What follows ``http://host:port`` in the base URL that clients are configured with."""

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """The API key of a call, empty when there is none."""
        ...

    def lists_models(self, method: str, path: str) -> bool:
        """Whether the call asks for the list of models."""
        ...

    def models(self, names: tuple[str, ...]) -> bytes:
        """The list of models."""
        ...

    def question(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Question:
        """Understand a call.

        Raises:
            Refused: The path, the model or the body is not one that the API takes.
        """
        ...

    def refusal(self, problem: Problem, now: float) -> Wire:
        """An error response; ``now`` in epoch seconds."""
        ...

    def limits(self, state: AccountState, now_monotonic: float) -> dict[str, str]:
        """Rate-limit headers of a successful response."""
        ...

    def head(self, call_id: str, question: Question) -> bytes:
        """The stream's events before the first content, empty if there are none."""
        ...

    def piece(self, call_id: str, question: Question, text: str) -> bytes:
        """One event with a piece of the answer."""
        ...

    def tail(self, call_id: str, question: Question, finish: Finish) -> bytes:
        """The stream's last events."""
        ...

    def whole(self, call_id: str, question: Question, text: str, finish: Finish) -> bytes:
        """The body of an answer without streaming."""
        ...

    def overload(self) -> bytes:
        """The event by which a running stream reports an overload."""
        ...

    def blocked(self, call_id: str, question: Question) -> bytes:
        """The body, or the only event, of an answer withheld by a content filter."""
        ...


HTML_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>"
    b"<body><center><h1>502 Bad Gateway</h1></center><hr></body></html>\n"
)
"""What a proxy in front of an API says when it has nothing to say."""

NOISE = b"\x00\xff\xfe event ][ garbage\n\ndata: not json at all\n\ndata: \xc3\x28\n\n"
"""Lines that an event-stream reader can split but nobody can read."""


def compact(value: object) -> bytes:
    """``value`` as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``.

    Raises:
        Refused: It holds none.
    """
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(Problem(ProblemKind.INVALID, 400, "The request body is not a JSON object."))
    return value


def positive(value: object) -> int | None:
    """``value`` if it is a positive integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def tokens_of(characters: int) -> int:
    """About how many tokens so many characters of prompt are (four characters a token)."""
    return max(1, characters // 4)
