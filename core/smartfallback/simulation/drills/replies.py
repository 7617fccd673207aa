"""Whole responses that take the place of an upstream's, in the dialect of the account's provider."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

import httpx

from smartfallback.model.specs import ProviderKind
from smartfallback.providers.http_client import Attempt
from smartfallback.simulation.delivery import junk_of
from smartfallback.simulation.dialects import Dialect, Problem, ProblemKind, Question, Wire
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    EmptyAnswer,
    Garbage,
    GarbageKind,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    PlainFault,
    QuotaWall,
    RawResponse,
    SafetyBlock,
    WaitForm,
)
from smartfallback.simulation.gemini_wire import GeminiWire
from smartfallback.simulation.openai_wire import OpenAiWire

CALL_ID: Final = "drill"
_DIALECTS: Final[dict[ProviderKind, Dialect]] = {
    ProviderKind.GEMINI: GeminiWire(),
    ProviderKind.OPENAI: OpenAiWire(),
    ProviderKind.COPILOT: OpenAiWire(),
}
_STREAM: Final = {"Content-Type": "text/event-stream"}
_JSON: Final = {"Content-Type": "application/json"}
_HTML: Final = {"Content-Type": "text/html"}
_HIDDEN: Final = re.compile(r"[^\x20-\x7e]")


class Body(httpx.AsyncByteStream):
    """Bytes that are there already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._content:
            yield self._content


def dialect_of(kind: ProviderKind) -> Dialect:
    """How the HTTP calls of a provider of this kind are worded.

    Raises:
        KeyError: Its calls are no single requests over HTTP.
    """
    return _DIALECTS[kind]


def asked(attempt: Attempt) -> Question:
    """What an attempt asks, as far as answers to it depend on it."""
    return Question(attempt.model, (), 0, None, attempt.stream, include_usage=True)


def reply(fault: PlainFault, kind: ProviderKind, attempt: Attempt, now: float) -> Wire | None:
    """The response in place of the upstream's; None if the upstream is to answer itself.

    Args:
        fault: What the call meets.
        kind: Whose dialect is spoken.
        attempt: What is asked.
        now: Epoch seconds, for stated dates.
    """
    dialect, question = dialect_of(kind), asked(attempt)
    if isinstance(fault, RawResponse):
        return Wire(fault.status, dict(fault.headers), fault.body.encode())
    if (problem := problem_of(fault, attempt, now)) is not None:
        return dialect.refusal(problem, now)
    kind_of_body = _STREAM if attempt.stream else _JSON
    if isinstance(fault, SafetyBlock):
        return Wire(200, kind_of_body, dialect.blocked(CALL_ID, question))
    if isinstance(fault, EmptyAnswer):
        return Wire(200, kind_of_body, b"")
    if isinstance(fault, OverloadInStream) and not fault.after_tokens:
        return Wire(200, kind_of_body, dialect.overload())
    if isinstance(fault, Garbage) and not fault.after_tokens:
        headers = _HTML if fault.kind is GarbageKind.HTML else kind_of_body
        return Wire(200, headers, junk_of(fault.kind, question))
    return None


def last_words(fault: PlainFault, kind: ProviderKind, attempt: Attempt) -> bytes:
    """What comes in place of the rest of an answer that has begun."""
    if isinstance(fault, Garbage):
        return junk_of(fault.kind, asked(attempt))
    return dialect_of(kind).overload()


def problem_of(fault: PlainFault, attempt: Attempt, now: float) -> Problem | None:
    """The refusal behind ``fault``, before it is worded; None if it refuses nothing."""
    match fault:
        case HttpStatus(status, message, code, wait_s):
            return Problem(ProblemKind.STATUS, status, message, code, wait_s=wait_s)
        case KeyRevoked():
            return Problem(ProblemKind.BAD_KEY, 401)
        case Banned():
            return Problem(ProblemKind.BANNED, 403)
        case BurstLimit(wait_s, form, details, _):
            stated = None if form is WaitForm.NONE else wait_s
            return Problem(
                ProblemKind.BURST, 429, wait_s=stated, form=form, model=attempt.model, details=details
            )
        case QuotaWall(resets_in_s):
            resets_at = None if resets_in_s is None else now + resets_in_s
            return Problem(ProblemKind.WALL, 429, resets_at=resets_at, model=attempt.model)
        case OverloadInStream() if not attempt.stream:
            return Problem(ProblemKind.STATUS, 503)
        case _:
            return None


def to_response(wire: Wire, request: httpx.Request) -> httpx.Response:
    """``wire`` as the transport gives it."""
    return httpx.Response(
        wire.status,
        headers=[(name, _HIDDEN.sub("?", value)) for name, value in wire.headers.items()],
        stream=Body(wire.body),
        request=request,
        extensions={"http_version": b"HTTP/1.1"},
    )
