"""The configuration file's tables, key by key, with what each may hold.

The schema checks each value for itself; :mod:`smartfallback.config.relations` checks what values
mean to each other, and secrets are read by :mod:`smartfallback.config.secret_references`.
"""

import unicodedata
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from smartfallback.config.stores import PREFIX
from smartfallback.model.circuits import (
    ACCOUNT_DEFAULT,
    PRESETS,
    PROVIDER,
    CircuitSettings,
    CircuitState,
    RateLimitRule,
)
from smartfallback.model.quota import QuotaUnit, WindowKind
from smartfallback.model.requests import Capability, OnBreak
from smartfallback.model.specs import (
    HybridSettings,
    ProviderKind,
    QuotaSourceRule,
    Recency,
    RecoverySpec,
    ReserveRule,
    Strategy,
)
from smartfallback.policy.reset_calendar import parse_reset


def refusal(problem: str, *, allowed: str = "", suggestion: str = "") -> PydanticCustomError:
    """An error whose parts go into the report as they are."""
    return PydanticCustomError(
        "refused", "{problem}", {"problem": problem, "allowed": allowed, "suggestion": suggestion}
    )


def _name(value: str) -> str:
    if not value.strip():
        raise refusal("is empty", allowed="a name")
    return value


def _account_id(value: str) -> str:
    # Circuits of one model of an account are named account/model.
    if "/" in value:
        raise refusal(
            "holds a slash, which stands between account and model in the names of circuits",
            allowed='an id without "/"',
            suggestion='write "-" instead',
        )
    if any(unicodedata.category(char) in _MOVES_LINES for char in value):
        raise refusal("holds a control character", allowed="an id on one line")
    if len(value) > LONGEST_ID:
        raise refusal(f"is {len(value)} characters long", allowed=f"at most {LONGEST_ID} characters")
    return value


def _instance_name(value: str) -> str:
    if any(unicodedata.category(char) in _MOVES_LINES for char in value):
        raise refusal("holds a control character", allowed="a name on one line")
    if len(value) > LONGEST_ID:
        raise refusal(f"is {len(value)} characters long", allowed=f"at most {LONGEST_ID} characters")
    return value


def _prefix(value: str) -> str:
    allowed = 'letters, digits and signs, such as "smartfallback"'
    if any(char in "{}" for char in value):
        raise refusal("holds a brace, which Redis Cluster reads as part of a key's place", allowed=allowed)
    if any(char.isspace() or not char.isprintable() for char in value):
        raise refusal("holds blanks or control characters", allowed=allowed)
    if len(value) > LONGEST_PREFIX:
        raise refusal(f"is {len(value)} characters long", allowed=f"at most {LONGEST_PREFIX} characters")
    return value


def _http_url(value: str) -> str:
    allowed = 'an address such as "https://host/v1" or "http://127.0.0.1:8080/v1"'
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(char.isspace() or not char.isprintable() for char in value):
        raise refusal("is not an HTTP address", allowed=allowed)
    if "@" in parts.netloc:
        raise refusal("holds credentials", allowed=allowed, suggestion="put the secret into api_key")
    if parts.query or parts.fragment:
        raise refusal("holds a query or a fragment", allowed=allowed)
    return value.rstrip("/")


def _quota_address(value: str) -> str:
    if not value.startswith("/"):
        return _http_url(value)
    if value.startswith("//") or any(
        char in "?#" or char.isspace() or not char.isprintable() for char in value
    ):
        raise refusal("is not a path", allowed='a path such as "/v1beta/quotaStatus", or a whole address')
    return value


_RUNS_COMMAND = (ProviderKind.COPILOT,)
LONGEST_ID = 200
LONGEST_PREFIX = 100
_MOVES_LINES = frozenset({"Cc", "Zl", "Zp"})
"""Unicode's control characters and separators of lines and paragraphs."""

Name = Annotated[str, AfterValidator(_name)]
AccountId = Annotated[Name, AfterValidator(_account_id)]
QuotaAddress = Annotated[str, AfterValidator(_quota_address)]
InstanceName = Annotated[Name, AfterValidator(_instance_name)]
Prefix = Annotated[Name, AfterValidator(_prefix)]
Url = Annotated[str, AfterValidator(_http_url)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
SecretReference = Any
"""Checked and resolved by :class:`smartfallback.config.secret_references.SecretReader`."""


class Table(BaseModel):
    """Base of all tables: no unknown key, no silent conversion between types."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class WindowTable(Table):
    """One entry of an account's ``quota``."""

    window: Annotated[WindowKind, Field(strict=False)]
    unit: Annotated[QuotaUnit, Field(strict=False)]
    limit: Annotated[Positive | None, Field(validate_default=True)] = None
    resets: str | None = None

    @field_validator("limit")
    @classmethod
    def _limit_unless_fraction(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("unit") not in (None, QuotaUnit.FRACTION):
            raise refusal("is missing", allowed="a number above 0: how much the window allows")
        return value

    @field_validator("resets")
    @classmethod
    def _calendar(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("window")
        if value is not None and kind is not None:
            try:
                parse_reset(kind, value)
            except ValueError as error:
                raise refusal(str(error)) from None
        return value


class AccountTable(Table):
    """One ``[[pools.NAME.accounts]]``."""

    id: AccountId
    api_key: SecretReference = None
    quota: list[WindowTable] = []
    max_concurrency: Count = 8
    base_url: Url | None = None
    project: Name | None = None


class HybridTable(Table):
    """``[pools.NAME.hybrid]``: the terms of the hybrid formula."""

    quota_weight: NotNegative = 0.6
    recency_weight: NotNegative = 0.4
    recency_horizon_s: Positive = 86_400.0
    lru_share: Share = 0.10
    top_k: Count = 3
    jitter_low: Positive = 0.95
    jitter_high: Positive = 1.05
    recency: Annotated[Recency, Field(strict=False)] = Recency.WARM

    def settings(self) -> HybridSettings:
        """The settings as the engine has them.

        Raises:
            ValueError: Values that don't fit together.
        """
        return HybridSettings(**{name: getattr(self, name) for name in type(self).model_fields})


class ThresholdsTable(Table):
    """``[pools.NAME.thresholds]``: percent used."""

    warning: Percent = 80.0
    critical: Annotated[Percent, Field(validate_default=True)] = 95.0
    soft_limit: Percent = 80.0
    hard_limit: Annotated[Percent, Field(gt=0, validate_default=True)] = 95.0

    @field_validator("critical")
    @classmethod
    def _above_warning(cls, value: float, info: ValidationInfo) -> float:
        return _at_least("warning", value, info)

    @field_validator("hard_limit")
    @classmethod
    def _above_soft_limit(cls, value: float, info: ValidationInfo) -> float:
        return _at_least("soft_limit", value, info)


def _at_least(lower: str, value: float, info: ValidationInfo) -> float:
    """Check two thresholds even when others of the table are wrong."""
    floor = info.data.get(lower)
    if floor is not None and value < floor:
        raise refusal(
            f"{info.field_name} ({value:g}) is below {lower} ({floor:g})",
            allowed=f"{lower} at most {info.field_name}",
            suggestion=f"lower {lower} or raise {info.field_name}",
        )
    return value


class TimeoutsTable(Table):
    """``[pools.NAME.timeouts]``: limits of the waits of one attempt, in seconds."""

    connect_s: Positive = 4.0
    first_token_s: Positive = 20.0
    idle_s: Positive = 30.0
    adaptive_first_token: bool = True


class PriceTable(Table):
    """``price = { input = …, output = … }``: US dollars for one million tokens."""

    input: NotNegative
    output: NotNegative


class CircuitTable(Table):
    """``[pools.NAME.account_circuit]`` or ``provider_circuit``: a preset, and what differs from it."""

    preset: Literal["rotation", "chain", "provider", "service"] | None = None
    failure_threshold: Count | None = None
    window_s: Positive | None = None
    recovery_timeout_s: Positive | None = None
    backoff_multiplier: Annotated[float, Field(ge=1)] | None = None
    max_recovery_timeout_s: Positive | None = None
    recovery_jitter: Annotated[float, Field(ge=0, lt=1)] | None = None
    half_open_max_calls: Count | None = None
    success_threshold: Count | None = None
    probe_lease_s: Positive | None = None
    failure_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    slow_call_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    slow_call_s: Positive | None = None
    min_calls: Count | None = None
    window_calls: Count | None = None
    on_rate_limit: Annotated[RateLimitRule | None, Field(strict=False)] = None
    rate_limit_recovery_s: Positive | None = None
    initial_state: Literal["closed", "open", "observe_only", "disabled"] | None = None

    def settings(self, default: CircuitSettings) -> CircuitSettings:
        """The preset (``default`` when none is named) with this table's values over it.

        Raises:
            ValueError: Values that don't fit together.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "preset"}
        given = {name: value for name, value in given.items() if value is not None}
        if self.initial_state is not None:
            given["initial_state"] = CircuitState(self.initial_state)
        return replace(PRESETS[self.preset] if self.preset else default, **given)


class PoolTable(Table):
    """``[pools.NAME]``: accounts of one provider that stand for one step of a chain."""

    provider: Annotated[ProviderKind, Field(strict=False)]
    provider_id: Name | None = None
    model: Name | None = None
    base_url: Url | None = None
    model_path: Name | None = None
    strategy: Annotated[Strategy, Field(strict=False)] = Strategy.HYBRID
    hybrid: HybridTable = HybridTable()
    thresholds: ThresholdsTable = ThresholdsTable()
    reserve: Annotated[ReserveRule, Field(strict=False)] = ReserveRule.BEFORE_LOCAL
    account_circuit: CircuitTable = CircuitTable()
    provider_circuit: CircuitTable = CircuitTable()
    timeouts: TimeoutsTable = TimeoutsTable()
    context_tokens: Count | None = None
    capabilities: list[Annotated[Capability, Field(strict=False)]] = []
    default_output_tokens: Count = 1_024
    burst_cooldown_s: Positive = 5.0
    price: PriceTable | None = None
    notice: str = ""
    quota_source: Annotated[QuotaSourceRule, Field(strict=False)] = QuotaSourceRule.AUTO
    quota_url: QuotaAddress | None = None
    quota_ttl_s: Annotated[float, Field(ge=60, le=3_600)] | None = None
    command: list[Name] = []
    cheaper_model: Name | None = None
    failed_model_s: NotNegative = 10.0
    adaptive_concurrency: bool = True
    accounts: Annotated[list[AccountTable], Field(min_length=1)]

    @field_validator("command")
    @classmethod
    def _command_is_run(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if value and info.data.get("provider") not in (None, *_RUNS_COMMAND):
            raise refusal("this provider runs no program", allowed="a command of copilot pools only")
        return value

    @field_validator("hybrid")
    @classmethod
    def _hybrid_fits(cls, value: HybridTable) -> HybridTable:
        value.settings()
        return value

    @field_validator("account_circuit")
    @classmethod
    def _account_circuit_fits(cls, value: CircuitTable) -> CircuitTable:
        value.settings(ACCOUNT_DEFAULT)
        return value

    @field_validator("provider_circuit")
    @classmethod
    def _provider_circuit_fits(cls, value: CircuitTable) -> CircuitTable:
        value.settings(PROVIDER)
        return value


class ChainTable(Table):
    """``[chains.NAME]``: an ordered list of pools."""

    pools: Annotated[list[str], Field(min_length=1)]
    timeout_s: Positive = 120.0
    switch_on_content_filter: bool = False
    on_break: Annotated[OnBreak | None, Field(strict=False)] = None
    hedge_after_s: Positive | None = None
    cache_s: Positive | None = None
    queue_s: Positive | None = None


class RecoveryTable(Table):
    """``[recovery]``: what holds for all requests."""

    retry_share: Share = 0.2
    retry_reserve: Annotated[int, Field(ge=0)] = 10
    queue_limit: Count = 100

    def settings(self) -> RecoverySpec:
        """The settings as the engine has them."""
        return RecoverySpec(**{name: getattr(self, name) for name in type(self).model_fields})


class StateTable(Table):
    """``[state]``: where state is shared between instances."""

    redis_url: SecretReference = None
    mode: Literal["leased", "strict"] = "leased"
    instance: InstanceName | None = None
    prefix: Prefix = PREFIX


class ConfigFile(Table):
    """The whole file."""

    pools: Annotated[dict[str, PoolTable], Field(min_length=1)]
    chains: Annotated[dict[str, ChainTable], Field(min_length=1)]
    recovery: RecoveryTable = RecoveryTable()
    state: StateTable | None = None
