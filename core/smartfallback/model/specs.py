"""The configured system: accounts, pools, chains. What configuration yields and the engine runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from smartfallback.model.circuits import ACCOUNT_DEFAULT, PROVIDER, CircuitSettings
from smartfallback.model.quota import QuotaThresholds, WindowSpec
from smartfallback.model.requests import Capability, OnBreak
from smartfallback.model.secrets import Secret


class ProviderKind(StrEnum):
    """The adapters there are."""

    GEMINI = "gemini"
    OPENAI = "openai"
    COPILOT = "copilot"
    OPENCODE = "opencode"
    LOCAL = "local"


class Strategy(StrEnum):
    """How a pool orders its accounts."""

    GREEDY = "greedy"
    ROUND_ROBIN = "round_robin"
    STICKY = "sticky"
    LRU = "lru"
    HYBRID = "hybrid"


class Recency(StrEnum):
    """Which way round the recency term of ``hybrid`` counts."""

    WARM = "warm"
    RESTED = "rested"


class ReserveRule(StrEnum):
    """When quota between the soft and the hard limit is spent."""

    BEFORE_LOCAL = "before_local"
    NEVER = "never"


class QuotaSourceRule(StrEnum):
    """Whether a pool's provider is asked for the quota of its accounts."""

    AUTO = "auto"
    """Where this version knows a way to ask."""
    NONE = "none"
    """Never; the own count stands alone."""


@dataclass(frozen=True, slots=True)
class HybridSettings:
    """The terms of the hybrid formula.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    quota_weight: float = 0.6
    recency_weight: float = 0.4
    recency_horizon_s: float = 86_400.0
    lru_share: float = 0.10
    top_k: int = 3
    jitter_low: float = 0.95
    jitter_high: float = 1.05
    recency: Recency = Recency.WARM

    def __post_init__(self) -> None:
        if self.quota_weight < 0 or self.recency_weight < 0:
            raise ValueError("quota_weight and recency_weight must not be negative")
        if not self.recency_horizon_s > 0:
            raise ValueError(f"recency_horizon_s must be above 0, not {self.recency_horizon_s!r}")
        if not 0 <= self.lru_share <= 1:
            raise ValueError(f"lru_share must be from 0 to 1, not {self.lru_share!r}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k!r}")
        if not 0 < self.jitter_low <= self.jitter_high:
            raise ValueError("jitter_low must be above 0 and at most jitter_high")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for one million tokens."""

    input: float
    output: float


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of the waits of one attempt, in seconds.

    With ``adaptive_first_token`` the wait for a first token is shorter than ``first_token_s`` as long
    as the pool's latest answers began sooner, and at its very first request.
    """

    connect_s: float = 4.0
    first_token_s: float = 20.0
    idle_s: float = 30.0
    adaptive_first_token: bool = True


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """One identity with a provider."""

    id: str
    api_key: Secret | None = None
    quota: tuple[WindowSpec, ...] = ()
    max_concurrency: int = 8
    base_url: str | None = None
    project: str | None = None


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Accounts of one provider that stand for the same step of a chain.

    ``provider_id`` names the API that the accounts share, for its circuit and for screens; pools
    with one ``provider_id`` share one circuit. ``notice`` is put before each answer of the pool.
    ``quota_url`` replaces the address that is asked for quota: a URL, or a path (from ``/``) on the
    account's base URL; None is the provider's usual one. ``quota_ttl_s`` None is the source's own.
    ``command`` is the program of a provider that runs one, with the arguments that go before all
    others; empty takes the one of the usual name on the search path. ``cheaper_model`` is asked when
    no cloud account is left for the usual one; empty for none. A model of an account that has just
    failed is passed over for ``failed_model_s`` seconds while others can serve; 0 for never. With
    ``adaptive_concurrency`` an account that shows overload runs fewer requests at once for a time.
    """

    name: str
    provider: ProviderKind
    provider_id: str
    accounts: tuple[AccountSpec, ...]
    model: str = ""
    base_url: str | None = None
    model_path: Path | None = None
    strategy: Strategy = Strategy.HYBRID
    hybrid: HybridSettings = field(default_factory=HybridSettings)
    thresholds: QuotaThresholds = field(default_factory=QuotaThresholds)
    reserve: ReserveRule = ReserveRule.BEFORE_LOCAL
    account_circuit: CircuitSettings = ACCOUNT_DEFAULT
    provider_circuit: CircuitSettings = PROVIDER
    timeouts: Timeouts = field(default_factory=Timeouts)
    context_tokens: int | None = None
    capabilities: frozenset[Capability] = frozenset()
    default_output_tokens: int = 1_024
    burst_cooldown_s: float = 5.0
    price: Price | None = None
    notice: str = ""
    quota_source: QuotaSourceRule = QuotaSourceRule.AUTO
    quota_url: str | None = None
    quota_ttl_s: float | None = None
    command: tuple[str, ...] = ()
    cheaper_model: str = ""
    failed_model_s: float = 10.0
    adaptive_concurrency: bool = True


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """An ordered list of pools, by name.

    Attributes:
        timeout_s: The deadline of a request that names none.
        switch_on_content_filter: Let another pool answer what one has blocked.
        on_break: What follows when an answer breaks off; None lets chats continue and ends others.
        hedge_after_s: A second candidate is asked too when the first has given no token for so long,
            as far as the retry budget allows; None for never.
        cache_s: When nobody can answer, an equal request's answer up to so old is given, labelled;
            None for never.
        queue_s: Requests without queue terms of their own wait in the queue for so long when nobody
            can serve them now; None for not at all.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    name: str
    pools: tuple[str, ...]
    timeout_s: float = 120.0
    switch_on_content_filter: bool = False
    on_break: OnBreak | None = None
    hedge_after_s: float | None = None
    cache_s: float | None = None
    queue_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("hedge_after_s", "cache_s", "queue_s"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {seconds!r}")


@dataclass(frozen=True, slots=True)
class RecoverySpec:
    """What holds for the recovery of all requests.

    Attributes:
        retry_share: Retries and hedges together, as a share of the requests of the last ten seconds.
        retry_reserve: So many of them are always allowed, so that thin traffic can retry at all.
        queue_limit: So many requests may wait in the queue.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    retry_share: float = 0.2
    retry_reserve: int = 10
    queue_limit: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.retry_share <= 1:
            raise ValueError(f"retry_share must be from 0 to 1, not {self.retry_share!r}")
        if self.retry_reserve < 0:
            raise ValueError(f"retry_reserve must not be negative, not {self.retry_reserve!r}")
        if self.queue_limit < 1:
            raise ValueError(f"queue_limit must be at least 1, not {self.queue_limit!r}")


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """Everything that an orchestrator is built from."""

    pools: tuple[PoolSpec, ...]
    chains: tuple[ChainSpec, ...]
    simulated: bool = False
    recovery: RecoverySpec = field(default_factory=RecoverySpec)
