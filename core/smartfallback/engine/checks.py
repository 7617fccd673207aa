"""The checks of an account that depend on the request. They only answer; recording is the planner's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smartfallback.clock import Clock
from smartfallback.engine.roster import AccountRuntime, Block, PoolRuntime, ProviderRuntime, Step
from smartfallback.engine.walk import Walk
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import Skip, SkipReason

# Members of an enum cost ten times a global's look-up, and this one is read for every request.
_CLOSED = CircuitState.CLOSED


class Checks:
    """Why a pool, or an account of it, can't take a request; None when it can."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def pool(self, walk: Walk, pool: PoolRuntime, now: float) -> Skip | None:
        """What keeps the whole pool from serving."""
        spec = pool.spec
        circuit = pool.provider.circuit
        request = walk.request
        if pool.unavailable:
            return Skip(pool.name, pool.name, SkipReason.UNAVAILABLE, pool.unavailable)
        if circuit.state is not _CLOSED and not circuit.admits(now):
            blocked_until = circuit.blocked_until(now)
            until = None if blocked_until is None else self._clock.time() + blocked_until - now
            return Skip(pool.name, pool.name, SkipReason.PROVIDER_CIRCUIT, circuit.cause, until)
        if spec.context_tokens is not None and walk.tokens_in > spec.context_tokens:
            detail = f"about {walk.tokens_in} tokens, the model takes {spec.context_tokens}"
            return Skip(pool.name, pool.name, SkipReason.CONTEXT, detail)
        if request.requires and not request.requires <= spec.capabilities:
            missing = ", ".join(sorted(request.requires - spec.capabilities))
            return Skip(pool.name, pool.name, SkipReason.CAPABILITY, missing)
        return None

    def account(
        self, walk: Walk, account: AccountRuntime, now: float, *, cheaper: bool = False
    ) -> Skip | None:
        """What keeps an account that serves others from serving this request, by its pool's cheaper model."""
        if account in (walk.tried_cheaper if cheaper else walk.tried):
            return Skip(account.id, account.pool.name, SkipReason.TRIED)
        if account in walk.turned_away:
            return walk.turned_away[account]
        if account.id in walk.request.avoid:
            return Skip(account.id, account.pool.name, SkipReason.EXCLUDED, "the request avoids it")
        if account.model_blocks or account.model_circuits or account.failed_models:
            return self.model(walk, account, now, cheaper) or self._just_failed(walk, account, now, cheaper)
        return None

    def free(self, walk: Walk, now: float, *, outside: ProviderRuntime | None = None) -> Iterator[Step]:
        """The steps at which an account not tried yet could take the request now, outside a provider.

        Each is given once for each such account.
        """
        for step in walk.chain.steps:
            if step.selection and walk.may_take(step) and self._open(walk, step.pool, outside, now):
                for choice in step.selection.candidates(now):
                    account = step.pool.accounts[choice.slot]
                    if self._suits(walk, account, now, cheaper=step.cheaper):
                        yield step
        for pool in walk.chain.pools:
            if pool.ramping and self._open(walk, pool, outside, now):
                for _ in self._suiting(walk, pool, pool.ramping, now):
                    yield Step(pool, in_reserve=False)

    def just_failed(self, walk: Walk, now: float) -> Iterator[tuple[float, Step, int]]:
        """The places of accounts that are passed over for a failure a moment ago, by when that ends."""
        for step in walk.chain.steps:
            if step.selection and walk.may_take(step) and self._open(walk, step.pool, None, now):
                for choice in step.selection.candidates(now):
                    account = step.pool.accounts[choice.slot]
                    failed = account.failed_models.get(walk.model_for(step))
                    if failed is not None and self._suits(walk, account, now, cheaper=step.cheaper):
                        yield failed.until, step, choice.slot

    def busy(
        self, walk: Walk, now: float, *, outside: ProviderRuntime | None = None
    ) -> Iterator[AccountRuntime]:
        """Those that could take it if only one of their running requests had ended."""
        for pool in walk.pools:
            if pool.saturated and self._open(walk, pool, outside, now):
                yield from self._suiting(walk, pool, pool.saturated, now)

    def _open(self, walk: Walk, pool: PoolRuntime, outside: ProviderRuntime | None, now: float) -> bool:
        if pool in walk.closed_pools or pool.provider is outside:
            return False
        return self.pool(walk, pool, now) is None

    def _suiting(
        self, walk: Walk, pool: PoolRuntime, slots: Iterable[int], now: float
    ) -> Iterator[AccountRuntime]:
        for slot in slots:
            if self._suits(walk, pool.accounts[slot], now):
                yield pool.accounts[slot]

    def _suits(self, walk: Walk, account: AccountRuntime, now: float, *, cheaper: bool = False) -> bool:
        pin = walk.request.pin
        if pin is not None and account.id != pin:
            return False
        if self.account(walk, account, now, cheaper=cheaper) is not None:
            return False
        estimate, _ = walk.expected(account.pool)
        return not account.ledger.refusal(estimate, self._clock.time())

    def model(self, walk: Walk, account: AccountRuntime, now: float, cheaper: bool) -> Skip | None:
        """What keeps the account's model for this request from serving anybody, tried before or not."""
        model = self._name(walk, account, cheaper)
        circuit = account.model_circuits.get(model)
        if circuit is not None and not circuit.admits(now):
            return Skip(account.id, account.pool.name, SkipReason.MODEL_CIRCUIT, f"{model}: {circuit.cause}")
        return self._rests(account, account.model_blocks, model, SkipReason.COOLDOWN, now)

    def _just_failed(self, walk: Walk, account: AccountRuntime, now: float, cheaper: bool) -> Skip | None:
        if walk.last_resort:
            return None
        model = self._name(walk, account, cheaper)
        return self._rests(account, account.failed_models, model, SkipReason.JUST_FAILED, now)

    @staticmethod
    def _name(walk: Walk, account: AccountRuntime, cheaper: bool) -> str:
        spec = account.pool.spec
        return spec.cheaper_model if cheaper else walk.request.model or spec.model

    def _rests(
        self, account: AccountRuntime, blocks: dict[str, Block], model: str, reason: SkipReason, now: float
    ) -> Skip | None:
        block = blocks.get(model)
        if block is None:
            return None
        if block.until <= now:
            del blocks[model]
            return None
        until = self._clock.time() + block.until - now
        return Skip(account.id, account.pool.name, reason, f"{model}: {block.reason}", until)
