"""How providers that run a program fail under a drill: by the words of their program, read as ever."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.providers.base import Call
from smartfallback.providers.copilot_errors import Ending
from smartfallback.providers.local_supervisor import failed
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    ConnectTimeout,
    CutStream,
    DnsFailure,
    EmptyAnswer,
    Garbage,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    PlainFault,
    QuotaWall,
    Refused,
    ResetConnection,
    SafetyBlock,
    TlsFailure,
    ToolMissing,
)

MODEL_MISSING: Final = "llama-cpp-python is missing by a drill: stop the drill, there is nothing to install"
_OVERLOADED: Final = "503 The server is overloaded or not ready yet."


class _Complaint(NamedTuple):
    """What the tool writes to standard error, and the exit code with which it ends."""

    words: str
    code: int = 1


_COMPLAINTS: Final[dict[type[PlainFault], _Complaint]] = {
    KeyRevoked: _Complaint("Error: 401 Bad credentials"),
    Banned: _Complaint("403 Your account was suspended for a violation of our terms of service."),
    SafetyBlock: _Complaint("Execution failed: the response was blocked by content filter"),
    OverloadInStream: _Complaint(f"Execution failed: Last error: {_OVERLOADED}"),
    Refused: _Complaint("Error: fetch failed: connect ECONNREFUSED"),
    DnsFailure: _Complaint("Error: fetch failed: getaddrinfo ENOTFOUND"),
    TlsFailure: _Complaint("Error: fetch failed: self-signed certificate in certificate chain"),
    ResetConnection: _Complaint("Error: socket hang up: read ECONNRESET"),
    ConnectTimeout: _Complaint("Error: the connection timed out"),
    CutStream: _Complaint("Error: error decoding response body: unexpected EOF"),
    Garbage: _Complaint("Error: unexpected token in JSON: invalid JSON"),
    EmptyAnswer: _Complaint("", 0),
}


def tool_failure(fault: PlainFault, call: Call, characters: int, now: float) -> Failure | None:
    """The failure of a run of Copilot's tool that meets ``fault``; None if the run goes on.

    Args:
        fault: What the run meets.
        call: What is asked.
        characters: How much of an answer it has printed.
        now: Epoch seconds.
    """
    complaint = _COMPLAINTS.get(type(fault))
    match fault:
        case HttpStatus(status, message):
            complaint = _Complaint(f"Execution failed: Last error: {status} {message}".rstrip())
        case BurstLimit(wait_s):
            complaint = _Complaint(f"429 Too many requests (rate_limited). Please try again in {wait_s:g}s.")
        case QuotaWall(resets_in_s):
            reset = "" if resets_in_s is None else f". It will reset on {_local(now + resets_in_s)}"
            complaint = _Complaint(f"402 You have no quota{reset}")
    if complaint is None:
        return None
    ending = Ending(complaint.code, complaint.words, characters, call.account, call.model, (), now)
    return ending.failure()


def model_failure(fault: PlainFault, call: Call, characters: int, now: float) -> Failure | None:  # noqa: ARG001 - like tool_failure
    """The failure of a local model that meets ``fault``; None if it goes on."""
    match fault:
        case ToolMissing():
            return failed(ErrorCategory.API_FAILURE, MODEL_MISSING).failure
        case CutStream():
            words = f"the model process ended after {characters} characters"
            return failed(ErrorCategory.TRANSIENT_ERROR, words).failure
        case Garbage():
            words = "the model process wrote something that is no report"
            return failed(ErrorCategory.MALFORMED_RESPONSE, words).failure
        case EmptyAnswer():
            return failed(ErrorCategory.MALFORMED_RESPONSE, "the model answered without any text").failure
        case _:
            return None


def _local(at: float) -> str:
    # The tool states this machine's time.
    return datetime.fromtimestamp(at).strftime("%B %d, %Y at %I:%M %p")
