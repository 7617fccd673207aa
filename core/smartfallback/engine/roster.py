"""The accounts, pools and providers as they run: mutable state that only the engine touches."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from smartfallback.model.circuits import CircuitScope, CircuitSettings, CircuitTarget
from smartfallback.model.decisions import AdminState, Skip
from smartfallback.model.quota import QuotaReading, QuotaStatus, WindowReading
from smartfallback.model.snapshot import AccountView
from smartfallback.model.specs import AccountSpec, ChainSpec, PoolSpec, ProviderKind, ReserveRule, SystemSpec
from smartfallback.policy.circuit import Circuit, CircuitChange
from smartfallback.policy.concurrency import ConcurrencyLimit
from smartfallback.policy.ledger import AccountLedger, Reservation
from smartfallback.policy.patience import WHOLE_FIRST_LIMIT_S, Patience
from smartfallback.policy.ramp import Ramp, SteadyRate
from smartfallback.policy.reset_watch import ResetWatch
from smartfallback.policy.selection import Selection

if TYPE_CHECKING:
    from smartfallback.engine.attempt import Attempt
    from smartfallback.engine.forecasting import AccountForecast
    from smartfallback.engine.kept import KeptAccount, KeptProvider
    from smartfallback.providers.base import Provider

CircuitFactory = Callable[[CircuitTarget, CircuitSettings], Circuit]


class Block:
    """A rest of one model of an account; ``until`` is monotonic."""

    __slots__ = ("reason", "until")

    def __init__(self, until: float, reason: str) -> None:
        self.until = until
        self.reason = reason


class AccountRuntime:
    """One account at run time. Monotonic instants unless the name ends in ``_at``."""

    __slots__ = (
        "admin",
        "admin_at",
        "admin_reason",
        "attempts",
        "attention",
        "circuit",
        "comeback",
        "cooldown_reason",
        "cooldown_until",
        "disowned",
        "failed_models",
        "failures",
        "forecast",
        "id",
        "in_flight",
        "kept",
        "last_used",
        "last_used_at",
        "ledger",
        "limit",
        "limits",
        "model_blocks",
        "model_circuits",
        "parked",
        "pool",
        "ramp",
        "reading",
        "requests",
        "slot",
        "slots",
        "spec",
        "status",
        "throttle",
        "tokens",
        "view",
        "watched",
    )

    def __init__(
        self, spec: AccountSpec, pool: PoolRuntime, slot: int, circuit: Circuit, now_at: float
    ) -> None:
        self.spec = spec
        self.id = spec.id
        self.pool = pool
        self.slot = slot
        self.limit = spec.max_concurrency
        """What may run at once now; ``throttle`` lowers it."""
        self.slots: float = math.inf
        """What may run here at once so that all instances together keep to the account's cap."""
        self.throttle: ConcurrencyLimit | None = None
        """None for an account that has shown no overload lately."""
        self.circuit = circuit
        self.ledger = AccountLedger(spec.quota, pool.spec.thresholds, now=now_at)
        self.limits: tuple[WindowReading, ...] = ()
        """What the rate-limit headers of the last answer said."""
        self.reading: QuotaReading | None = None
        """What the account's quota source said last."""
        self.model_circuits: dict[str, Circuit] = {}
        self.model_blocks: dict[str, Block] = {}
        self.failed_models: dict[str, Block] = {}
        """Models that were given up a moment ago, and are passed over while others can serve."""
        self.admin = AdminState.ACTIVE
        self.admin_reason = ""
        self.admin_at: float | None = None
        """When an operator last changed that; of two instances' words the later one holds."""
        self.attention = ""
        self.cooldown_until: float | None = None
        self.cooldown_reason = ""
        self.in_flight = 0
        self.attempts: set[Attempt] = set()
        self.last_used: float | None = None
        self.last_used_at: float | None = None
        self.requests = 0
        self.failures = 0
        self.tokens = 0
        self.status = QuotaStatus.UNKNOWN
        self.parked: Skip | None = None
        self.comeback: ResetWatch | None = None
        """Its way back after a reset; None for an account that is on none."""
        self.ramp: Ramp | None = None
        """Its way back after its circuit closed; None for an account that is on none."""
        self.watched = -math.inf
        """When it is looked at next for a quota window that begins anew."""
        self.forecast: AccountForecast | None = None
        self.kept: KeptAccount | None = None
        """What stands for it while a rehearsal lasts: saved instead, and put back at its end."""
        self.disowned: Mapping[Reservation, Mapping[str, Circuit]] = {}
        """The attempts of past rehearsals that still run, with the circuits of models as they knew them."""
        self.view: AccountView | None = None

    @property
    def room(self) -> int:
        """How many more requests may run on it now."""
        return max(0, int(min(self.limit, self.slots)) - self.in_flight)


class ProviderRuntime:
    """One API that accounts share, with its circuit, and a ramp for a while after that has closed."""

    __slots__ = ("circuit", "id", "kept", "pools", "ramp")

    def __init__(self, provider_id: str, circuit: Circuit) -> None:
        self.id = provider_id
        self.circuit = circuit
        self.pools: list[PoolRuntime] = []
        self.ramp: Ramp | None = None
        self.kept: KeptProvider | None = None
        """As with an account."""


class PoolRuntime:
    """One pool at run time.

    ``normal`` and ``reserve`` index the accounts that may serve now, by tier. ``parked`` holds why
    each other account (and, in the normal tier's eyes, each account above the soft limit) may not.
    ``ramping`` are those that only their ramp holds back, ``saturated`` those that wait
    for a running request to end. ``steady`` counts the requests that the pool took. ``patience``
    limits the wait for first tokens and ``whole_patience`` that for answers in one piece; they are
    None where the limit is as configured.
    """

    __slots__ = (
        "accounts",
        "adapter",
        "hard_limit",
        "is_local",
        "name",
        "normal",
        "parked",
        "patience",
        "provider",
        "ramping",
        "reserve",
        "saturated",
        "skips",
        "soft_limit",
        "spec",
        "steady",
        "strategy",
        "unavailable",
        "whole_patience",
    )

    def __init__(
        self, spec: PoolSpec, provider: ProviderRuntime, adapter: Provider, rng: random.Random
    ) -> None:
        names = [account.id for account in spec.accounts]
        self.spec = spec
        self.name = spec.name
        self.provider = provider
        self.adapter = adapter
        self.is_local = spec.provider is ProviderKind.LOCAL
        self.strategy = spec.strategy
        self.normal = Selection(names, spec.strategy, spec.hybrid, rng)
        self.reserve = Selection(names, spec.strategy, spec.hybrid, rng)
        self.accounts: list[AccountRuntime] = []
        self.soft_limit = spec.thresholds.soft_limit
        self.hard_limit = spec.thresholds.hard_limit
        self.parked: dict[int, Skip] = {}
        self.saturated: set[int] = set()
        self.ramping: set[int] = set()
        self.steady = SteadyRate()
        self.skips: tuple[Skip, ...] | None = ()
        self.unavailable = ""
        timeouts = spec.timeouts
        adapts = timeouts.adaptive_first_token and not self.is_local
        self.patience = Patience(timeouts.first_token_s) if adapts else None
        self.whole_patience = Patience(math.inf, first_s=WHOLE_FIRST_LIMIT_S) if adapts else None


class Roster:
    """Every account, pool, provider and chain, by name."""

    def __init__(
        self,
        spec: SystemSpec,
        *,
        adapters: Callable[[PoolSpec], Provider],
        make_circuit: CircuitFactory,
        rng: random.Random,
        now_at: float,
    ) -> None:
        self.pools: dict[str, PoolRuntime] = {}
        self.providers: dict[str, ProviderRuntime] = {}
        self.accounts: dict[str, AccountRuntime] = {}
        self.projects: dict[str, list[AccountRuntime]] = {}
        for pool_spec in spec.pools:
            provider = self._provider(pool_spec, make_circuit)
            pool = PoolRuntime(pool_spec, provider, adapters(pool_spec), rng)
            provider.pools.append(pool)
            self.pools[pool.name] = pool
            for slot, account_spec in enumerate(pool_spec.accounts):
                target = CircuitTarget(CircuitScope.ACCOUNT, account_spec.id)
                circuit = make_circuit(target, pool_spec.account_circuit)
                account = AccountRuntime(account_spec, pool, slot, circuit, now_at)
                pool.accounts.append(account)
                self.accounts[account.id] = account
                if account_spec.project:
                    self.projects.setdefault(account_spec.project, []).append(account)
        self.chains = {
            chain.name: Chain(chain, [self.pools[name] for name in chain.pools]) for chain in spec.chains
        }

    def _provider(self, pool: PoolSpec, make_circuit: CircuitFactory) -> ProviderRuntime:
        known = self.providers.get(pool.provider_id)
        if known is None:
            target = CircuitTarget(CircuitScope.PROVIDER, pool.provider_id)
            known = ProviderRuntime(pool.provider_id, make_circuit(target, pool.provider_circuit))
            self.providers[pool.provider_id] = known
        return known

    def circuit(self, target: CircuitTarget) -> Circuit | None:
        """The circuit of that target, None when there is none."""
        if target.scope is CircuitScope.PROVIDER:
            provider = self.providers.get(target.name)
            return provider.circuit if provider else None
        if target.scope is CircuitScope.ACCOUNT:
            account = self.accounts.get(target.name)
            return account.circuit if account else None
        name, _, model = target.name.partition("/")
        account = self.accounts.get(name)
        return account.model_circuits.get(model) if account else None

    def accounts_of(self, target: CircuitTarget) -> list[AccountRuntime]:
        """The accounts whose traffic the target's circuit governs."""
        if target.scope is CircuitScope.PROVIDER:
            provider = self.providers.get(target.name)
            return [account for pool in provider.pools for account in pool.accounts] if provider else []
        of_model = target.scope is CircuitScope.MODEL
        account = self.accounts.get(target.name.partition("/")[0] if of_model else target.name)
        return [account] if account else []


class Step:
    """One step of a walk through a chain: a pool, the tier of quota to spend there, and on which model."""

    __slots__ = ("cheaper", "in_reserve", "pool", "selection")

    def __init__(self, pool: PoolRuntime, *, in_reserve: bool, cheaper: bool = False) -> None:
        self.pool = pool
        self.in_reserve = in_reserve
        self.cheaper = cheaper
        self.selection = pool.reserve if in_reserve else pool.normal


class Chain:
    """A chain with the steps in which it is walked.

    All pools below the soft limit come first; then, where a pool allows it, the reserve between
    the soft and the hard limit; then the same with the cheaper model of each pool that has one; the
    local pools that end the chain come last.
    """

    def __init__(self, spec: ChainSpec, pools: Sequence[PoolRuntime]) -> None:
        self.spec = spec
        self.name = spec.name
        self.pools = tuple(pools)
        trailing = len(pools)
        while trailing and pools[trailing - 1].is_local:
            trailing -= 1
        reserves = [
            Step(pool, in_reserve=True) for pool in pools if pool.spec.reserve is ReserveRule.BEFORE_LOCAL
        ]
        first = [Step(pool, in_reserve=False) for pool in pools[:trailing]]
        first += [step for step in reserves if step.pool in pools[:trailing]]
        self.steps = (
            *first,
            *(
                Step(step.pool, in_reserve=step.in_reserve, cheaper=True)
                for step in first
                if step.pool.spec.cheaper_model
            ),
            *(Step(pool, in_reserve=False) for pool in pools[trailing:]),
            *(step for step in reserves if step.pool in pools[trailing:]),
        )
        self.degraded = ""


def circuit_factory(
    rng: random.Random, now: Callable[[], float], on_change: Callable[[CircuitChange], None]
) -> CircuitFactory:
    """Circuits that report every change to ``on_change``."""

    def make(target: CircuitTarget, settings: CircuitSettings) -> Circuit:
        return Circuit(target, settings, rng=rng, now=now(), on_change=on_change)

    return make
