"""Simulated upstreams as they are described, and what each of their accounts has left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random
from typing import NamedTuple

from smartfallback.model.quota import QuotaUnit, WindowKind
from smartfallback.model.secrets import Secret


class DialectName(StrEnum):
    """The wire formats that an upstream can speak."""

    GEMINI = "gemini"
    OPENAI = "openai"
    OPENCODE = "opencode"


@dataclass(frozen=True, slots=True)
class Latency:
    """How fast answers come.

    The time to the first token is log-normal around its median; ``spread`` is the standard deviation
    of its logarithm (0.35 puts the 95th percentile at 1.8 times the median). The speed of one answer
    is drawn from ±20 % around ``tokens_per_s``; infinite speed sends it in one go.
    """

    first_token_s: float = 0.35
    spread: float = 0.35
    tokens_per_s: float = 80.0

    def draw(self, rng: Random) -> tuple[float, float]:
        """Seconds to the first token and tokens a second of one answer."""
        wait = self.first_token_s * math.exp(rng.gauss(0.0, self.spread)) if self.first_token_s > 0 else 0.0
        return wait, self.tokens_per_s * rng.uniform(0.8, 1.2)


INSTANT = Latency(first_token_s=0.0, spread=0.0, tokens_per_s=math.inf)
"""No waiting at all, for tests."""


@dataclass(frozen=True, slots=True)
class UpstreamQuota:
    """A quota that the upstream itself enforces; resets at UTC calendar boundaries (week: Sunday)."""

    limit: float
    unit: QuotaUnit = QuotaUnit.TOKENS
    kind: WindowKind = WindowKind.WEEK
    used: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamAccount:
    """One account of an upstream. Rates of None are unlimited; a latency of None is the upstream's."""

    id: str
    api_key: Secret
    quota: UpstreamQuota | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    latency: Latency | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """One API with its accounts.

    Without ``models`` any model name is served; without ``context_tokens`` any length.
    """

    name: str
    dialect: DialectName
    accounts: tuple[UpstreamAccount, ...]
    latency: Latency = field(default_factory=Latency)
    models: tuple[str, ...] = ()
    context_tokens: int | None = None


class Counters(NamedTuple):
    """What an upstream has seen of an account, or of all its accounts together.

    ``requests`` counts every authenticated call. ``disconnects`` counts clients that went away before
    their response was complete, ``refused`` the calls answered with an error status.
    """

    requests: int = 0
    answered: int = 0
    refused: int = 0
    disconnects: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    tokens_served: int = 0
    """Output tokens that were written to the socket."""
    quota_reads: int = 0
    """Authenticated calls for the quota; they count as nothing else."""

    @classmethod
    def total(cls, parts: Sequence[Counters]) -> Counters:
        """The sum; the peak is the sum of the peaks, an upper bound of the peak of the whole."""
        return cls(*(sum(column) for column in zip(*parts, strict=True))) if parts else cls()


def window_end(now: float, kind: WindowKind) -> float:
    """The first end of a window of ``kind`` after ``now``, in epoch seconds (UTC boundaries)."""
    at = datetime.fromtimestamp(now, UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if kind is WindowKind.FIVE_HOURS:
        return (now // 18_000 + 1) * 18_000
    if kind is WindowKind.DAY:
        return (midnight + timedelta(days=1)).timestamp()
    if kind is WindowKind.WEEK:
        return (midnight + timedelta(days=7 - at.isoweekday() % 7)).timestamp()
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


class Bucket:
    """A token bucket: ``per_minute`` units that refill evenly. It may be overdrawn once it has any."""

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def level(self, now: float) -> float:
        """What is left at monotonic time ``now``; below 0 when overdrawn."""
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60.0)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Charge ``amount``."""
        self._level = self.level(now) - amount

    def wait_s(self, now: float) -> float:
        """Seconds until one unit is there."""
        return max(0.0, (1.0 - self.level(now)) * 60.0 / self.per_minute)

    def full_in_s(self, now: float) -> float:
        """Seconds until it is full again."""
        return (self.per_minute - self.level(now)) * 60.0 / self.per_minute


class AccountState:
    """The live side of an account: quota used, rate buckets and counters.

    ``changed`` is called after each change of the counters.
    """

    def __init__(
        self, spec: UpstreamAccount, now: float, now_monotonic: float, changed: Callable[[], None]
    ) -> None:
        self.spec = spec
        self._changed = changed
        self.seen = Counters()
        requests, tokens = spec.requests_per_minute, spec.tokens_per_minute
        self.requests = Bucket(requests, now_monotonic) if requests else None
        self.tokens = Bucket(tokens, now_monotonic) if tokens else None
        self._used = spec.quota.used if spec.quota else 0.0
        self._window_ends = window_end(now, spec.quota.kind) if spec.quota else math.inf

    def used(self, now: float) -> float:
        """What is used of the quota's current window at epoch time ``now``, in the quota's unit."""
        if self.spec.quota and now >= self._window_ends:
            self._window_ends = window_end(now, self.spec.quota.kind)
            self._used = 0.0
        return self._used

    def set_used(self, amount: float, now: float) -> None:
        """Set what is used of the current window."""
        self.used(now)
        self._used = amount

    @property
    def window_ends_at(self) -> float:
        """When the quota's window ends, in epoch seconds, as of the last look at what is used."""
        return self._window_ends

    def wall_ends_at(self, now: float) -> float | None:
        """When the used-up quota comes back; None while something is left."""
        quota = self.spec.quota
        return self._window_ends if quota and self.used(now) >= quota.limit else None

    def burst_wait_s(self, now_monotonic: float) -> float | None:
        """How long until the next call is within the rate limits; None when it is now."""
        waits = [b.wait_s(now_monotonic) for b in (self.requests, self.tokens) if b]
        longest = max(waits, default=0.0)
        return longest if longest > 0 else None

    def admit(self, now: float, now_monotonic: float) -> None:
        """Charge a call that will be answered to the request limits."""
        if self.requests:
            self.requests.take(1, now_monotonic)
        quota = self.spec.quota
        if quota and quota.unit is QuotaUnit.REQUESTS:
            self._used = self.used(now) + 1

    def charge(self, tokens: int, now: float, now_monotonic: float) -> None:
        """Charge an answer's tokens, input and output together."""
        if self.tokens:
            self.tokens.take(tokens, now_monotonic)
        quota = self.spec.quota
        if quota and quota.unit is QuotaUnit.TOKENS:
            self._used = self.used(now) + tokens

    def count(self, **by: int) -> None:
        """Add to the counters by name."""
        seen = self.seen
        grown = seen._replace(**{name: getattr(seen, name) + more for name, more in by.items()})
        self.seen = grown._replace(peak_in_flight=max(seen.peak_in_flight, grown.in_flight))
        self._changed()
