"""The state of everything at one moment, as a frozen tree that any thread may read."""

from __future__ import annotations

from dataclasses import dataclass, field

from smartfallback.model.circuits import CircuitState, CircuitTarget
from smartfallback.model.decisions import AdminState, Skip
from smartfallback.model.quota import QuotaStatus, QuotaUnit, TruthLabel, WindowKind, WindowReading
from smartfallback.model.recoveries import QueueView, RecoveryView
from smartfallback.model.sharing import StoreView
from smartfallback.model.specs import ProviderKind, Strategy


@dataclass(frozen=True, slots=True)
class WindowView:
    """One quota window. ``percent`` (used, without what is held) is None when nobody knows.

    ``elsewhere`` is what other instances hold, or have leased and not spent yet.
    """

    kind: WindowKind
    unit: QuotaUnit
    limit: float
    used: float
    held: float
    percent: float | None
    held_percent: float
    label: TruthLabel
    read_at: float | None
    resets_at: float | None
    elsewhere: float = 0.0


@dataclass(frozen=True, slots=True)
class ForecastView:
    """When an account's quota is expected to run out.

    It is about the window that runs out first, the binding one when none does. A quota has run out
    when its use reaches the hard limit, since it is never used further. Times are None when they lie
    beyond the reset; four of five times the truth should lie from ``earliest_at`` to ``latest_at``.

    Attributes:
        window: Index of the window.
        burn_rate_per_h: Its units an hour, over about the last two hours; None when not known.
        exhausted_at: Epoch seconds.
        earliest_at: Epoch seconds; may be known although ``exhausted_at`` lies beyond the reset.
        latest_at: Epoch seconds.
        lasts: Whether the quota lasts until the reset; None when that is not clear.
    """

    window: int
    burn_rate_per_h: float | None
    exhausted_at: float | None
    earliest_at: float | None
    latest_at: float | None
    lasts: bool | None


@dataclass(frozen=True, slots=True)
class QuotaView:
    """An account's quota; ``binding`` is the index of the window with the highest percentage.

    ``forecast`` is None while too little was observed for one.
    """

    windows: tuple[WindowView, ...]
    binding: int | None
    status: QuotaStatus
    exhausted_until: float | None = None
    forecast: ForecastView | None = None

    @property
    def bound(self) -> WindowView | None:
        """The binding window."""
        return None if self.binding is None else self.windows[self.binding]


@dataclass(frozen=True, slots=True)
class CircuitView:
    """One circuit. ``until`` is when an open one may probe, or a forced one ends by itself."""

    target: CircuitTarget
    state: CircuitState
    since: float
    until: float | None
    cause: str
    failures: int
    calls: int
    success_rate: float | None
    rejected: int
    generation: int


@dataclass(frozen=True, slots=True)
class AccountView:
    """One account as the operator sees it. ``skip`` says why it would not be chosen now."""

    id: str
    pool: str
    provider: ProviderKind
    provider_id: str
    model: str
    admin: AdminState
    admin_reason: str
    attention: str
    quota: QuotaView
    circuit: CircuitView
    model_circuits: tuple[CircuitView, ...]
    cooldown_until: float | None
    cooldown_reason: str
    in_flight: int
    max_concurrency: int
    last_used_at: float | None
    requests: int
    failures: int
    tokens: int
    skip: Skip | None
    quota_source: str = ""
    """Who is asked for the quota, in words; empty for accounts on the own count."""
    quota_note: str = ""
    """What the operator should know of the last reading, such as why it is an estimate."""
    limits: tuple[WindowReading, ...] = ()
    """What the rate-limit headers of the last answer said; never binding."""
    configured_concurrency: int = 0
    """What ``max_concurrency`` is without overload."""


@dataclass(frozen=True, slots=True)
class FairnessView:
    """Gini coefficients of a pool; 0 is perfectly even, None below two accounts.

    ``requests`` and ``tokens`` count the last hour; ``share_of_limit`` is over what each account
    has used of its limit since its reset.
    """

    requests: float | None
    tokens: float | None
    share_of_limit: float | None
    alarm: bool


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool with its accounts. ``unavailable`` says why the provider can't run here."""

    name: str
    provider: ProviderKind
    provider_id: str
    model: str
    strategy: Strategy
    accounts: tuple[AccountView, ...]
    provider_circuit: CircuitView
    fairness: FairnessView
    unavailable: str


@dataclass(frozen=True, slots=True)
class ChainView:
    """One chain; ``degraded`` says why its first pool can't serve, empty when it can."""

    name: str
    pools: tuple[str, ...]
    degraded: str


@dataclass(frozen=True, slots=True)
class LatencyView:
    """Seconds; ``counts[i]`` holds samples up to ``bounds[i]``, the last those beyond all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class TrafficView:
    """Requests over the last minute: rates a second, shares from 0 to 1, series oldest first."""

    in_flight: int
    requests_per_s: float
    tokens_per_s: float
    success_rate: float | None
    fallback_rate: float | None
    total_requests: int
    total_failed: int
    requests_series: tuple[float, ...]
    failed_series: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the console draws. ``fairness_series`` is per pool, a value a minute, oldest first."""

    version: int
    at: float
    simulated: bool
    chains: tuple[ChainView, ...]
    pools: tuple[PoolView, ...]
    latency: LatencyView
    first_token: LatencyView
    traffic: TrafficView
    fairness_series: tuple[tuple[str, tuple[float, ...]], ...]
    recovery: RecoveryView = field(default_factory=RecoveryView)
    queue: QueueView = field(default_factory=QueueView)
    retry_budget_left: float | None = None
    """Retries and hedges that the budget would allow now."""
    store: StoreView = field(default_factory=StoreView)

    def account(self, account_id: str) -> AccountView | None:
        """The account of that id, None if there is none."""
        for pool in self.pools:
            for account in pool.accounts:
                if account.id == account_id:
                    return account
        return None
