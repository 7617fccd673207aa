"""What of a system survives a restart: plain values, with times in epoch seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.model.quota import QuotaUnit, TruthLabel, WindowKind


@dataclass(frozen=True, slots=True)
class RestState:
    """A rest that ends by itself: a cooldown, a blocked model, or a wall that a provider named."""

    until: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WallState:
    """A wall that a provider named, and when it did so."""

    until: float
    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WindowState:
    """The count of one quota window.

    ``read_at`` is the time of the reading that ``used`` rests on, None for a count of our own.
    ``adopted`` tells a window that a source reported and nobody configured; ``limit`` is then its
    only source, and for others the limit as it was configured.
    """

    kind: WindowKind
    unit: QuotaUnit
    used: float
    label: TruthLabel
    started_at: float
    ends_at: float
    changed_at: float
    read_at: float | None = None
    limit: float = 0.0
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class CircuitRecord:
    """A circuit that is not as its configuration says that it begins.

    Attributes:
        state: Its state; CLOSED where an operator closed one that is configured otherwise.
        cause: Why it is in that state.
        since: When it entered it.
        until: When an open one may probe, or a forced one ends by itself.
        first_break_s: The first break since it last closed, in seconds.
        last_break_s: The latest break, from which the next one grows; None before the first.
        rate_limit_test: It is half-open to test whether a rate limit is over.
        suspected: It is half-open to test whether what another instance met is to be seen here too.
        adopted: It is open because of what other instances met.
    """

    state: CircuitState
    cause: str
    since: float
    until: float | None = None
    first_break_s: float = 0.0
    last_break_s: float | None = None
    rate_limit_test: bool = False
    suspected: bool = False
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class HoldState:
    """What a running attempt holds of its account's quota.

    Attributes:
        tokens: Held in windows of that unit, as are ``requests`` and ``credits``.
        since: When it was reserved; a window that began later does not count it.
        until: Its request's deadline: by then it has ended, whatever became of its process.
    """

    tokens: int
    requests: int
    credits: float
    since: float
    until: float

    def ends_at(self, now: float) -> float:
        """When it ends for who takes it up at ``now``.

        One from a future, as after a step of the clock backwards, lasts no longer than it would have.
        """
        return min(self.until, now + self.until - self.since)


@dataclass(frozen=True, slots=True)
class ThrottleState:
    """How many requests an account may run at once after it has shown overload.

    Attributes:
        limit: So many.
        broke_at: So many ran when it broke; None when that was never seen.
        cut_at: When the limit was last cut; None before the first time.
        since: Since when it stands where it is, or overload was last seen.
    """

    limit: int
    broke_at: int | None
    cut_at: float | None
    since: float


@dataclass(frozen=True, slots=True)
class TieState:
    """What the sticky strategy keeps together.

    Attributes:
        session: The session; None for all traffic without one.
        reserve: It is bound in the pool's reserve, above the soft limit.
        account: Where it stays; empty when it is bound no longer.
        used_at: When it was used last, as far as known.
    """

    session: str | None
    reserve: bool
    account: str
    used_at: float


@dataclass(frozen=True, slots=True)
class AttentionState:
    """Why an account needs somebody to act.

    ``credentials`` is a short check value of the credentials that were refused: it tells that they
    were replaced meanwhile, and too short to tell anything else.
    """

    message: str
    since: float
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class AccountState:
    """One account; an instance without arguments is that of an account that never did anything.

    ``circuit`` is None while it is closed; ``throttle`` while it has shown no overload lately.
    ``holds`` are those of one process: a store hands out those of processes that are gone, or that
    run beside this one.
    """

    admin: AdminState = AdminState.ACTIVE
    admin_reason: str = ""
    admin_at: float | None = None
    attention: AttentionState | None = None
    cooldown: RestState | None = None
    wall: WallState | None = None
    windows: tuple[WindowState, ...] = ()
    circuit: CircuitRecord | None = None
    model_rests: Mapping[str, RestState] = field(default_factory=dict)
    model_circuits: Mapping[str, CircuitRecord] = field(default_factory=dict)
    last_used_at: float | None = None
    requests: int = 0
    failures: int = 0
    tokens: int = 0
    throttle: ThrottleState | None = None
    holds: tuple[HoldState, ...] = ()


MOST_TIES: Final = 2_000
"""So many ties of a pool are kept, the latest used ones."""


@dataclass(frozen=True, slots=True)
class SystemState:
    """Accounts by id, the circuits of providers by id (None for a closed one), and ties by pool.

    Ties come in the order of their use, the latest last.
    """

    accounts: Mapping[str, AccountState] = field(default_factory=dict)
    providers: Mapping[str, CircuitRecord | None] = field(default_factory=dict)
    ties: Mapping[str, tuple[TieState, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether it holds anything."""
        return bool(self.accounts or self.providers or self.ties)
