"""Circuits: their states, scopes and settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class CircuitState(StrEnum):
    """CLOSED admits, OPEN rejects for a time, HALF_OPEN probes; the others are the operator's."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    """Held open by an operator; only an operator lifts it."""
    OBSERVE_ONLY = "observe_only"
    """Records, and reports once that it would have opened; rejects nothing."""
    DISABLED = "disabled"
    """Admits everything and records nothing."""


class CircuitScope(StrEnum):
    """What a circuit protects."""

    ACCOUNT = "account"
    MODEL = "model"
    """One model of one account."""
    PROVIDER = "provider"
    """All accounts behind one API."""


class CircuitTarget(NamedTuple):
    """Names one circuit: ``ag-3``, ``ag-3/gemini-2.5-pro`` or ``gemini``."""

    scope: CircuitScope
    name: str

    def __str__(self) -> str:
        return f"{self.scope.value} {self.name}"


class RateLimitRule(StrEnum):
    """What a 429 does to a closed circuit."""

    HALF_OPEN = "half_open"
    """The next request is the one test."""
    COUNT = "count"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class CircuitSettings:
    """How a circuit opens, waits, probes and closes.

    ``window_calls`` judges the last so many calls instead of those of the last ``window_s``
    seconds. ``slow_call_s`` also makes a slow probe a bad one.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    failure_threshold: int = 3
    window_s: float = 300.0
    recovery_timeout_s: float = 300.0
    backoff_multiplier: float = 2.0
    max_recovery_timeout_s: float = 3600.0
    recovery_jitter: float = 0.1
    half_open_max_calls: int = 1
    success_threshold: int = 1
    probe_lease_s: float = 120.0
    failure_rate: float | None = None
    slow_call_rate: float | None = None
    slow_call_s: float | None = None
    min_calls: int = 10
    on_rate_limit: RateLimitRule = RateLimitRule.COUNT
    rate_limit_recovery_s: float = 120.0
    initial_state: CircuitState = CircuitState.CLOSED
    window_calls: int | None = None

    def __post_init__(self) -> None:
        positive = (
            "failure_threshold",
            "window_s",
            "recovery_timeout_s",
            "max_recovery_timeout_s",
            "half_open_max_calls",
            "success_threshold",
            "probe_lease_s",
            "min_calls",
            "rate_limit_recovery_s",
        )
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {getattr(self, name)!r}")
        if not 1 <= self.backoff_multiplier < math.inf:
            raise ValueError(
                f"backoff_multiplier must be at least 1 and finite, not {self.backoff_multiplier!r}"
            )
        if not 0 <= self.recovery_jitter < 1:
            raise ValueError(f"recovery_jitter must be from 0 to below 1, not {self.recovery_jitter!r}")
        for name in ("failure_rate", "slow_call_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {rate!r}")
        if self.slow_call_rate is not None and self.slow_call_s is None:
            raise ValueError("slow_call_rate needs slow_call_s, the duration from which a call is slow")
        if self.slow_call_s is not None and not 0 < self.slow_call_s < math.inf:
            raise ValueError(f"slow_call_s must be above 0 and finite, not {self.slow_call_s!r}")
        if self.window_calls is not None:
            rated = self.failure_rate is not None or self.slow_call_rate is not None
            least = self.min_calls if rated else self.failure_threshold
            if not self.window_calls >= least:
                name = "min_calls" if rated else "failure_threshold"
                raise ValueError(
                    f"window_calls must be at least {name} ({least}) for the circuit to open, "
                    f"not {self.window_calls!r}"
                )
        if self.initial_state in (CircuitState.HALF_OPEN, CircuitState.FORCED_OPEN):
            raise ValueError(f"initial_state can't be {self.initial_state.value!r}")


ROTATION = CircuitSettings(
    failure_threshold=3,
    recovery_timeout_s=120.0,
    on_rate_limit=RateLimitRule.HALF_OPEN,
    rate_limit_recovery_s=120.0,
)
"""For accounts that take turns: a 429 makes the next request the one test."""

CHAIN = CircuitSettings(failure_threshold=3, recovery_timeout_s=300.0)
"""For the steps of a chain."""

PROVIDER = CircuitSettings(
    failure_threshold=5,
    window_s=300.0,
    slow_call_s=60.0,
    slow_call_rate=0.5,
    recovery_timeout_s=60.0,
    half_open_max_calls=3,
    success_threshold=3,
    on_rate_limit=RateLimitRule.IGNORE,
)
"""For an API that several accounts share."""

SERVICE = CircuitSettings(failure_threshold=5, recovery_timeout_s=60.0)
"""For any function, through the decorator."""

ACCOUNT_DEFAULT = CircuitSettings(
    failure_threshold=CHAIN.failure_threshold,
    recovery_timeout_s=CHAIN.recovery_timeout_s,
    on_rate_limit=ROTATION.on_rate_limit,
    rate_limit_recovery_s=ROTATION.rate_limit_recovery_s,
)
"""``rotation`` with the limits of ``chain``: what an account has unless it is configured."""

PRESETS = {"rotation": ROTATION, "chain": CHAIN, "provider": PROVIDER, "service": SERVICE}
