"""What can be made to go wrong with a simulated upstream.

Each fault is a frozen value that :meth:`~smartfallback.simulation.lab.Lab.set_fault` puts on an
upstream or on one of its accounts. The upstream then misbehaves on the wire, so that a client meets
the fault where it would meet the real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WaitForm(StrEnum):
    """Where a 429 states how long to wait."""

    SECONDS = "seconds"
    """``Retry-After`` in whole seconds."""
    DATE = "date"
    """``Retry-After`` as an HTTP date."""
    BODY = "body"
    """In the body only: RetryInfo, or a sentence in the message."""
    NONE = "none"
    """Nowhere."""


class GarbageKind(StrEnum):
    """What arrives instead of an answer."""

    JSON = "json"
    """JSON that breaks off."""
    HTML = "html"
    """A gateway's error page with status 200."""
    SSE = "sse"
    """An event stream whose lines are noise. A call without streaming gets noise as its body."""


class QuotaTrouble(StrEnum):
    """What is wrong with a quota endpoint."""

    HANG = "hang"
    """No answer until the client goes or the fault is lifted."""
    ERROR = "error"
    """Status 503."""
    ABSENT = "absent"
    """Status 404, as where the endpoint does not exist."""
    HTML = "html"
    """A gateway's page with status 200."""
    EMPTY = "empty"
    """A JSON object that names no quota."""
    STRINGS = "strings"
    """Every number is written as a string."""
    FRACTIONS = "fractions"
    """Amounts that are no whole numbers."""
    NO_FRACTION = "no fraction"
    """Limits without what is used or left of them."""
    NO_DATES = "no dates"
    """No reset is named."""
    OVERAGE = "overage"
    """More is used than there was: what is left is negative."""
    PLACEHOLDER = "placeholder"
    """Nothing granted, and all of it left."""


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """Answer every call with this status and an error body of the dialect.

    Raises:
        ValueError: The status is no refusal, or the wait is negative.
    """

    status: int = 500
    message: str = ""
    code: str = ""
    """The error's name in the body; empty takes the one that goes with the status."""
    retry_after_s: float | None = None
    """Stated as a ``Retry-After`` header, None for none."""

    def __post_init__(self) -> None:
        if not 300 <= self.status <= 599:
            raise ValueError(f"status must be from 300 to 599, not {self.status!r}")
        if self.retry_after_s is not None and not self.retry_after_s >= 0:
            raise ValueError(f"retry_after_s must not be negative, not {self.retry_after_s!r}")


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """The account's key is refused (401; Gemini: 400 with reason API_KEY_INVALID)."""


@dataclass(frozen=True, slots=True)
class Banned:
    """The account is shut out for good: a 403 that speaks of the terms of service."""


@dataclass(frozen=True, slots=True)
class BurstLimit:
    """A 429 for too many calls at once.

    With ``details`` off, Gemini answers the bare sentence "Resource has been exhausted"; ``model``
    limits the fault to calls for that model.
    """

    retry_after_s: float = 5.0
    form: WaitForm = WaitForm.SECONDS
    details: bool = True
    model: str | None = None


@dataclass(frozen=True, slots=True)
class QuotaWall:
    """A 429 that names a quota used up.

    Without ``resets_in_s`` it is a daily wall with a misleadingly short stated delay (31 s).
    """

    resets_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class ResetConnection:
    """The connection is reset before a byte of the response."""


@dataclass(frozen=True, slots=True)
class StallBeforeFirstToken:
    """The response begins and then nothing comes, until the client goes or the fault is lifted."""


@dataclass(frozen=True, slots=True)
class SlowFirstToken:
    """The first token comes this many seconds later than it would."""

    delay_s: float = 10.0


@dataclass(frozen=True, slots=True)
class CutStream:
    """The answer ends after this many tokens.

    With ``clean`` the HTTP response ends properly and only the final events are missing; without, the
    connection closes in mid-body.
    """

    after_tokens: int = 40
    clean: bool = False


@dataclass(frozen=True, slots=True)
class StallMidStream:
    """After this many tokens nothing more comes, until the client goes or the fault is lifted."""

    after_tokens: int = 10


@dataclass(frozen=True, slots=True)
class SignsOfLife:
    """After this many tokens only comment lines come, until the client goes or the fault is lifted.

    Without streaming, and where the protocol's own events are its signs of life, nothing comes.

    Raises:
        ValueError: The pause between two of them is not above 0.
    """

    after_tokens: int = 0
    every_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise ValueError(f"every_s must be above 0, not {self.every_s!r}")


@dataclass(frozen=True, slots=True)
class DoubledEnd:
    """Whatever ends a stream is sent twice. Without streaming, and with OpenCode, nothing is wrong."""


@dataclass(frozen=True, slots=True)
class NoUsage:
    """Answers come without token counts. OpenCode is not concerned, whose protocol always has them."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A 200 with something that is no answer; with ``after_tokens``, in the middle of one."""

    kind: GarbageKind = GarbageKind.JSON
    after_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EmptyAnswer:
    """A 200 without content."""


@dataclass(frozen=True, slots=True)
class OverloadInStream:
    """A 200 whose stream brings an overload error, first or after some tokens."""

    after_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SafetyBlock:
    """The prompt is refused by a content filter."""


@dataclass(frozen=True, slots=True)
class QuotaApiFault:
    """The quota endpoint misbehaves; calls for answers are served as ever."""

    trouble: QuotaTrouble = QuotaTrouble.HANG


@dataclass(frozen=True, slots=True)
class SilentEvents:
    """An OpenCode server's event stream opens and then tells nothing; its other calls work.

    Upstreams without an event stream of their own are not concerned.
    """


@dataclass(frozen=True, slots=True)
class RawResponse:
    """Exactly this response. Only drills play it and the faults below: they happen before a server.

    Raises:
        ValueError: The status is none of an HTTP response, or a header can't be one.
    """

    status: int = 500
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"status must be from 200 to 599, not {self.status!r}")
        for name, value in self.headers:
            if not name or not (name + value).isascii() or not (name + value).isprintable():
                raise ValueError(f"{name!r} with {value!r} is no header")


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody listens at the address: the connection is refused."""


@dataclass(frozen=True, slots=True)
class DnsFailure:
    """The name of the host can't be resolved."""


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """The server's certificate can't be trusted."""


@dataclass(frozen=True, slots=True)
class ConnectTimeout:
    """No connection comes about until the limit for that is over."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The call leaves this many seconds late.

    Raises:
        ValueError: The delay is not above 0.
    """

    delay_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.delay_s > 0:
            raise ValueError(f"delay_s must be above 0, not {self.delay_s!r}")


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """What is asked is taken in and never answered: whoever asks gives up at a limit of its own."""


@dataclass(frozen=True, slots=True)
class ToolMissing:
    """The program that the provider runs is not installed."""


PlainFault = (
    HttpStatus
    | KeyRevoked
    | Banned
    | BurstLimit
    | QuotaWall
    | ResetConnection
    | StallBeforeFirstToken
    | SlowFirstToken
    | CutStream
    | StallMidStream
    | SignsOfLife
    | DoubledEnd
    | NoUsage
    | Garbage
    | EmptyAnswer
    | OverloadInStream
    | SafetyBlock
    | SilentEvents
    | QuotaApiFault
    | RawResponse
    | Refused
    | DnsFailure
    | TlsFailure
    | ConnectTimeout
    | Latency
    | NoAnswer
    | ToolMissing
)


@dataclass(frozen=True, slots=True)
class Flapping:
    """Another fault that comes and goes: present for the first ``down_share`` of each period.

    Raises:
        ValueError: The period is not above 0, or the share is not from 0 to 1.
    """

    fault: PlainFault = HttpStatus(503)
    period_s: float = 20.0
    down_share: float = 0.5

    def __post_init__(self) -> None:
        if not self.period_s > 0:
            raise ValueError(f"period_s must be above 0, not {self.period_s!r}")
        if not 0 <= self.down_share <= 1:
            raise ValueError(f"down_share must be from 0 to 1, not {self.down_share!r}")


Fault = PlainFault | Flapping


@dataclass(frozen=True, slots=True, eq=False)
class ActiveFault:
    """A fault that is in force. ``account`` None means the whole upstream.

    Two settings of an equal fault are two different active faults, so whoever set one can lift
    exactly that one.
    """

    upstream: str
    account: str | None
    fault: Fault
    since: float
    """Monotonic time at which it was set."""

    def present(self, now: float) -> PlainFault | None:
        """The fault that a call at monotonic time ``now`` meets."""
        fault = self.fault
        if not isinstance(fault, Flapping):
            return fault
        phase = (now - self.since) % fault.period_s
        return fault.fault if phase < fault.period_s * fault.down_share else None
