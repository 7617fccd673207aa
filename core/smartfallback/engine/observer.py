"""Builds the snapshot: views are kept until what they show has changed."""

from __future__ import annotations

from collections.abc import Callable

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.forecasting import ForecastBudget
from smartfallback.engine.meters import Meters
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.engine.roster import AccountRuntime, Block, PoolRuntime, Roster
from smartfallback.model.decisions import Skip, SkipReason
from smartfallback.model.sharing import StoreView
from smartfallback.model.snapshot import AccountView, ChainView, CircuitView, PoolView, Snapshot
from smartfallback.policy.circuit import Circuit
from smartfallback.policy.retry_budget import RetryBudget
from smartfallback.telemetry.recoveries import RecoveryLog


class Observer:
    """Reads the roster, the meters, the queue and the recovery log into frozen trees."""

    def __init__(
        self,
        roster: Roster,
        meters: Meters,
        recoveries: RecoveryLog,
        budget: RetryBudget,
        clock: Clock,
        bus: Bus,
        queue: QueueDesk,
        *,
        simulated: bool,
        store: Callable[[], StoreView],
    ) -> None:
        self._roster = roster
        self._meters = meters
        self._recoveries = recoveries
        self._budget = budget
        self._clock = clock
        self._bus = bus
        self._queue = queue
        self._simulated = simulated
        self.store = store
        """Says where state is kept, and how well."""
        self._forecasts = ForecastBudget()

    def snapshot(self) -> Snapshot:
        """The state of everything now."""
        now = self._clock.monotonic()
        at = self._clock.time()
        meters = self._meters
        self._forecasts.next_snapshot()
        return Snapshot(
            version=self._bus.last_seq,
            at=at,
            simulated=self._simulated,
            chains=tuple(
                ChainView(chain.name, tuple(pool.name for pool in chain.pools), chain.degraded)
                for chain in self._roster.chains.values()
            ),
            pools=tuple(self._pool(pool, now, at) for pool in self._roster.pools.values()),
            latency=meters.latency.view(now),
            first_token=meters.first_token.view(now),
            traffic=meters.traffic.view(now),
            fairness_series=tuple((name, tuple(series)) for name, series in meters.fairness_series.items()),
            recovery=self._recoveries.view(),
            queue=self._queue.view(),
            retry_budget_left=self._budget.left(now),
            store=self.store(),
        )

    def _pool(self, pool: PoolRuntime, now: float, at: float) -> PoolView:
        spec = pool.spec
        return PoolView(
            name=pool.name,
            provider=spec.provider,
            provider_id=pool.provider.id,
            model=spec.model,
            strategy=pool.strategy,
            accounts=tuple(self._account(account, now, at) for account in pool.accounts),
            provider_circuit=_circuit_view(pool.provider.circuit, now, at),
            fairness=self._meters.fairness(pool.name, now),
            unavailable=pool.unavailable,
        )

    def _account(self, account: AccountRuntime, now: float, at: float) -> AccountView:
        forecast = account.forecast
        if forecast is not None and self._forecasts.grant(forecast, at):
            forecast.refresh(account.ledger.view(at), at)
            account.view = None
        if account.view is not None:
            return account.view
        spec = account.pool.spec
        cooldown = account.cooldown_until
        cooldown_reason = account.cooldown_reason
        skip = _pool_skip(account.pool) or account.parked
        block = account.model_blocks.get(spec.model)
        if block is not None and block.until > now and cooldown is None:
            cooldown, cooldown_reason = block.until, block.reason
            skip = skip or _model_skip(account, block, at - now)
        quota = account.ledger.view(at)
        view = AccountView(
            id=account.id,
            pool=account.pool.name,
            provider=spec.provider,
            provider_id=account.pool.provider.id,
            model=spec.model,
            admin=account.admin,
            admin_reason=account.admin_reason,
            attention=account.attention,
            quota=quota if forecast is None else forecast.shown_in(quota),
            circuit=_circuit_view(account.circuit, now, at),
            model_circuits=tuple(
                _circuit_view(circuit, now, at) for circuit in account.model_circuits.values()
            ),
            cooldown_until=None if cooldown is None else at + cooldown - now,
            cooldown_reason=cooldown_reason,
            in_flight=account.in_flight,
            max_concurrency=account.limit,
            last_used_at=account.last_used_at,
            requests=account.requests,
            failures=account.failures,
            tokens=account.tokens,
            skip=skip,
            quota_source="" if account.reading is None else account.reading.source,
            quota_note="" if account.reading is None else account.reading.note,
            limits=account.limits,
            configured_concurrency=account.spec.max_concurrency,
        )
        account.view = view
        return view


def _pool_skip(pool: PoolRuntime) -> Skip | None:
    if pool.unavailable:
        return Skip(pool.name, pool.name, SkipReason.UNAVAILABLE, pool.unavailable)
    return None


def _model_skip(account: AccountRuntime, block: Block, wall_offset: float) -> Skip:
    """The pool's own model rests, although the account as such could serve."""
    until = block.until + wall_offset
    return Skip(account.id, account.pool.name, SkipReason.COOLDOWN, block.reason, until)


def _circuit_view(circuit: Circuit, now: float, at: float) -> CircuitView:
    statistics = circuit.statistics(now)
    return CircuitView(
        target=circuit.target,
        state=circuit.state,
        since=at + circuit.since - now,
        until=None if circuit.until is None else at + circuit.until - now,
        cause=circuit.cause,
        failures=statistics.failures,
        calls=statistics.calls,
        success_rate=statistics.success_rate,
        rejected=statistics.rejected,
        generation=circuit.generation,
    )
