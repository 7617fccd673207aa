"""Drills in words: the faults that an operator can start by hand, and whom those in force touch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from smartfallback import (
    BurstLimit,
    ConnectTimeout,
    CutStream,
    DnsFailure,
    Drill,
    DrillScope,
    DrillTarget,
    EmptyAnswer,
    Flapping,
    Garbage,
    HttpStatus,
    KeyRevoked,
    Latency,
    OverloadInStream,
    QuotaWall,
    Refused,
    ResetConnection,
    SlowFirstToken,
    StallBeforeFirstToken,
    StallMidStream,
    TlsFailure,
    ToolMissing,
    playable,
)
from smartfallback_console.formatting import age, clean, countdown, parse_duration, span
from smartfallback_console.proposal import OperatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from smartfallback import DrillView, Fault, Snapshot

DRILL_SIGN = "↯"
"""Marks whatever meets an injected fault."""
USUAL_S = 60.0
"""How long a fault lasts if nobody says."""
STOP = "stop"
"""Instead of a target on the command line: end what is in force."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault that can be started by hand.

    Attributes:
        name: Its word on the command line.
        meaning: What calls meet, with a place for the number.
        build: Makes the fault of its number.
        asks: What the number is, empty where there is none.
        usual: The number if nobody says.
        seconds: Whether the number is a span of time.
    """

    name: str
    meaning: str
    build: Callable[[float], Fault]
    asks: str = ""
    usual: float = 0.0
    seconds: bool = False

    @property
    def usual_text(self) -> str:
        """The usual number as it is typed."""
        return f"{self.usual:g}{'s' if self.seconds else ''}" if self.asks else ""

    def told(self, number: str = "") -> str:
        """What calls meet, with a number or the usual one."""
        return self.meaning.replace("{}", number or self.usual_text)

    def number(self, text: str) -> float:
        """The number that was typed.

        Raises:
            OperatorError: It is none.
        """
        try:
            value = parse_duration(text) if self.seconds else float(int(text))
        except ValueError:
            value = None
        if value is None or value < 0:
            raise OperatorError(f"{self.name} takes {self.asks}, such as {self.usual_text}, not {text!r}")
        return value


KINDS: tuple[FaultKind, ...] = (
    FaultKind("status", "each call fails with status {}", lambda n: HttpStatus(int(n)), "status", 503),
    FaultKind("rate-limit", "429, come back after {}", BurstLimit, "wait", 30, seconds=True),
    FaultKind("quota-wall", "429, the quota is used up", lambda _: QuotaWall()),
    FaultKind("revoked", "the key is refused", lambda _: KeyRevoked()),
    FaultKind("refused", "nobody listens", lambda _: Refused()),
    FaultKind("reset", "the connection is reset", lambda _: ResetConnection()),
    FaultKind("dns", "the host's name is unknown", lambda _: DnsFailure()),
    FaultKind("tls", "the certificate can't be trusted", lambda _: TlsFailure()),
    FaultKind("connect-timeout", "no connection comes about", lambda _: ConnectTimeout()),
    FaultKind("latency", "each call leaves {} later", Latency, "delay", 2, seconds=True),
    FaultKind("slow", "the first token comes {} later", SlowFirstToken, "delay", 10, seconds=True),
    FaultKind("stall", "no first token ever comes", lambda _: StallBeforeFirstToken()),
    FaultKind("stall-midway", "{} tokens, then silence", lambda n: StallMidStream(int(n)), "tokens", 10),
    FaultKind("cut", "breaks off after {} tokens", lambda n: CutStream(int(n)), "tokens", 20),
    FaultKind("garbage", "200 with something unreadable", lambda _: Garbage()),
    FaultKind("empty", "200 without an answer", lambda _: EmptyAnswer()),
    FaultKind("overload", "200 whose stream says overloaded", lambda _: OverloadInStream()),
    FaultKind("flapping", "503 half of each {}", lambda n: Flapping(HttpStatus(503), n), "period", 20, True),
    FaultKind("tool-missing", "the program is not installed", lambda _: ToolMissing()),
)
"""In the order in which they are offered."""

BY_NAME = {kind.name: kind for kind in KINDS}


def in_words(fault: Fault) -> str:
    """A fault in a few words, whoever started it."""
    match fault:
        case Flapping():
            return f"{in_words(fault.fault)}, flapping each {span(fault.period_s)}"
        case HttpStatus():
            return f"status {fault.status}"
        case BurstLimit():
            return f"429, wait {span(fault.retry_after_s)}"
        case Latency() | SlowFirstToken():
            what = "latency" if isinstance(fault, Latency) else "first token"
            return f"{what} +{fault.delay_s:g}s"
        case CutStream():
            return f"cut after {fault.after_tokens} tokens"
        case StallMidStream():
            return f"stall after {fault.after_tokens} tokens"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(fault).__name__).lower()


def told(drill: Drill) -> str:
    """A drill in a line: what, of which calls, to whom."""
    part = "" if drill.share >= 1 else f" for {drill.share * 100:g}% of calls"
    return f"{in_words(drill.fault)}{part} on {clean(drill.target.name)}"


class Typed(NamedTuple):
    """What was typed behind ``fault TARGET``."""

    kind: FaultKind
    number: float
    duration_s: float
    share: float

    def drill(self, target: DrillTarget, reason: str = "by hand") -> Drill:
        """The drill that it describes.

        Raises:
            OperatorError: Its number is out of range.
        """
        try:
            fault = self.kind.build(self.number)
        except ValueError as error:
            raise OperatorError(str(error)) from None
        return Drill(target, fault, self.share, self.duration_s, reason=reason)


def parse_fault(text: str) -> Typed:
    """Read ``status 503 30s 50%``: a fault, its number, how long, which share of the calls.

    Raises:
        OperatorError: There is no such fault, or a word of it makes no sense.
    """
    name, *words = text.split()
    kind = BY_NAME.get(name)
    if kind is None:
        near = get_close_matches(name, BY_NAME, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(BY_NAME)}"
        raise OperatorError(f"there is no fault {name!r}{hint}")
    number, share, length = kind.usual, 1.0, None
    if kind.asks and words and (kind.seconds or words[0].isdecimal()) and not words[0].endswith("%"):
        number = kind.number(words.pop(0))
    for word in words:
        if word.endswith("%"):
            share = parse_share(word)
        elif length is None:
            length = parse_length(word)
        else:
            raise OperatorError(f"{word!r} is one word too many")
    return Typed(kind, number, length or USUAL_S, share)


def parse_share(text: str) -> float:
    """``50%`` as 0.5.

    Raises:
        OperatorError: Not above 0 and at most 100.
    """
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise OperatorError(f"{text!r} is no share of the calls: write 50%")
    return value


def parse_length(text: str) -> float:
    """``30s`` in seconds; nothing is the usual length.

    Raises:
        OperatorError: It is no duration.
    """
    try:
        return parse_duration(text) or USUAL_S
    except ValueError as error:
        raise OperatorError(str(error)) from None


def target_of(name: str, snapshot: Snapshot) -> DrillTarget:
    """The account, pool or provider of a name, the narrowest first.

    Raises:
        OperatorError: There is none; the message offers the nearest.
    """
    known = {pool.provider_id: DrillScope.PROVIDER for pool in snapshot.pools}
    known |= {pool.name: DrillScope.POOL for pool in snapshot.pools}
    known |= {account.id: DrillScope.ACCOUNT for pool in snapshot.pools for account in pool.accounts}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise OperatorError(f"there is no {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return DrillTarget(known[name], name)


def kinds_for(target: DrillTarget, snapshot: Snapshot) -> list[FaultKind]:
    """The faults that some call of the target can meet."""
    providers = {pool.provider for pool in snapshot.pools if _concerns(target, pool.name, pool.provider_id)}
    providers |= {
        pool.provider
        for pool in snapshot.pools
        if target.scope is DrillScope.ACCOUNT and any(view.id == target.name for view in pool.accounts)
    }
    return [
        kind for kind in KINDS if any(playable(kind.build(kind.usual), provider) for provider in providers)
    ]


def _concerns(target: DrillTarget, pool: str, provider: str) -> bool:
    return (target.scope is DrillScope.POOL and target.name == pool) or (
        target.scope is DrillScope.PROVIDER and target.name == provider
    )


class Touched(NamedTuple):
    """Whose calls meet faults now."""

    accounts: frozenset[str]
    pools: frozenset[str]
    """Those whose heading is marked, since the fault is on the whole of them."""


UNTOUCHED = Touched(frozenset(), frozenset())


def touched(drills: Iterable[DrillView], snapshot: Snapshot | None) -> Touched:
    """Whom the drills in force touch."""
    if not drills or snapshot is None:
        return UNTOUCHED
    accounts: set[str] = set()
    pools: set[str] = set()
    for view in drills:
        target = view.drill.target
        if target.scope is DrillScope.ACCOUNT:
            accounts.add(target.name)
            continue
        for pool in snapshot.pools:
            if _concerns(target, pool.name, pool.provider_id):
                pools.add(pool.name)
                accounts.update(account.id for account in pool.accounts)
    return Touched(frozenset(accounts), frozenset(pools))


def number_of(drills: int) -> str:
    """``1 fault``, ``2 faults``."""
    return "1 fault" if drills == 1 else f"{drills} faults"


def left(view: DrillView, now: float) -> str:
    """How long it still lasts."""
    return countdown(max(0.0, view.ends_at - now))


def last_left(drills: Iterable[DrillView], now: float) -> str:
    """How long until the last of them has ended."""
    return countdown(max(0.0, max((view.ends_at for view in drills), default=now) - now))


def started_ago(view: DrillView, now: float) -> str:
    """For how long it has been in force."""
    return age(max(0.0, now - view.started_at))
