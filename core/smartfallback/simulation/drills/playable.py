"""Which fault can be played to the calls of which kind of provider."""

from __future__ import annotations

from typing import Final

from smartfallback.model.specs import ProviderKind
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    ConnectTimeout,
    CutStream,
    DnsFailure,
    EmptyAnswer,
    Fault,
    Flapping,
    Garbage,
    HttpStatus,
    KeyRevoked,
    Latency,
    NoAnswer,
    OverloadInStream,
    PlainFault,
    QuotaApiFault,
    QuotaWall,
    RawResponse,
    Refused,
    ResetConnection,
    SafetyBlock,
    SlowFirstToken,
    StallBeforeFirstToken,
    StallMidStream,
    TlsFailure,
    ToolMissing,
)

_PACE: Final = (Latency, SlowFirstToken, StallBeforeFirstToken, StallMidStream)
_ANSWERS: Final = (CutStream, Garbage, EmptyAnswer)
_REFUSALS: Final = (HttpStatus, KeyRevoked, Banned, BurstLimit, QuotaWall, OverloadInStream, SafetyBlock)
_CONNECTIONS: Final = (Refused, DnsFailure, TlsFailure, ConnectTimeout, ResetConnection)

OVER_HTTP: Final[tuple[type[PlainFault], ...]] = (
    *_PACE,
    *_ANSWERS,
    *_REFUSALS,
    *_CONNECTIONS,
    RawResponse,
)
BY_TOOL: Final[tuple[type[PlainFault], ...]] = (*_PACE, *_ANSWERS, *_REFUSALS, *_CONNECTIONS, ToolMissing)
BY_MODEL: Final[tuple[type[PlainFault], ...]] = (*_PACE, *_ANSWERS, ToolMissing)
BY_STORE: Final[tuple[type[PlainFault], ...]] = (Refused, NoAnswer, Latency)
"""Those that the exchange with the store which instances share can meet."""

_PLAYABLE: Final[dict[ProviderKind, tuple[type[PlainFault], ...]]] = {
    ProviderKind.GEMINI: (*OVER_HTTP, QuotaApiFault),
    ProviderKind.OPENAI: OVER_HTTP,
    ProviderKind.OPENCODE: OVER_HTTP,
    ProviderKind.COPILOT: (*BY_TOOL, RawResponse, QuotaApiFault),
    ProviderKind.LOCAL: BY_MODEL,
}


def plain(fault: Fault) -> PlainFault:
    """The fault itself, without its coming and going."""
    return fault.fault if isinstance(fault, Flapping) else fault


def playable(fault: Fault, kind: ProviderKind) -> bool:
    """Whether calls of a provider of this kind can meet ``fault``."""
    return isinstance(plain(fault), _PLAYABLE[kind])
