"""Chooses the account for an attempt: walks the chain, checks, reserves quota, takes permits."""

from __future__ import annotations

from smartfallback.clock import Clock
from smartfallback.engine.placement import Placement, pool_skips
from smartfallback.engine.roster import AccountRuntime, Chain, PoolRuntime, Roster, Step
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import Decision, Rule, Skip, SkipReason, Tier
from smartfallback.model.quota import QuotaEstimate
from smartfallback.model.requests import Message, Request, characters
from smartfallback.model.specs import ReserveRule
from smartfallback.policy.circuit import Permit
from smartfallback.policy.ledger import Reservation
from smartfallback.policy.selection import Choice

MOST_SKIPS = 32
"""So many skips a decision lists; those beyond are counted."""

CHARACTERS_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4
LEASE_SLACK_S = 30.0


def estimate_tokens(messages: tuple[Message, ...]) -> int:
    """Tokens of a conversation at four characters each, the usual rule of thumb for English text."""
    return characters(messages) // CHARACTERS_A_TOKEN + _TOKENS_A_MESSAGE * len(messages)


class Grant:
    """Everything that an attempt holds while it runs: an account's slot, its quota and permits."""

    __slots__ = (
        "account",
        "decision",
        "estimate",
        "model",
        "model_permit",
        "output_estimate",
        "permit",
        "pool",
        "provider_permit",
        "reservation",
    )

    def __init__(
        self,
        account: AccountRuntime,
        model: str,
        decision: Decision,
        estimate: QuotaEstimate,
        output_estimate: int,
        reservation: Reservation,
        permit: Permit,
        provider_permit: Permit,
        model_permit: Permit | None,
    ) -> None:
        self.account = account
        self.pool = account.pool
        self.model = model
        self.decision = decision
        self.estimate = estimate
        self.output_estimate = output_estimate
        self.reservation = reservation
        self.permit = permit
        self.provider_permit = provider_permit
        self.model_permit = model_permit


class Walk:
    """One request's way through its chain: what it has tried and what it must not try."""

    __slots__ = ("chain", "closed_pools", "messages", "request", "skips", "timeout_s", "tokens_in", "tried")

    def __init__(self, request: Request, chain: Chain, timeout_s: float) -> None:
        self.request = request
        self.chain = chain
        self.timeout_s = timeout_s
        self.messages = request.messages
        self.tokens_in = estimate_tokens(request.messages)
        self.tried: set[AccountRuntime] = set()
        self.closed_pools: set[PoolRuntime] = set()
        self.skips: list[Skip] = []

    def trim(self, messages: tuple[Message, ...]) -> None:
        """Go on with a shorter conversation."""
        self.messages = messages
        self.tokens_in = estimate_tokens(messages)


class Planner:
    """Makes decisions. Everything it needs of the past stands in the roster; it keeps nothing."""

    def __init__(self, roster: Roster, placement: Placement, clock: Clock) -> None:
        self._roster = roster
        self._placement = placement
        self._clock = clock

    def choose(self, walk: Walk) -> Grant | None:
        """The next account for the request, with its quota reserved and its permits taken.

        None when no account may serve it; ``walk.skips`` then says why, pool by pool.
        """
        now = self._clock.monotonic()
        self._placement.wake(now)
        request = walk.request
        skips: list[Skip] = []
        walk.skips = skips
        if request.pin is not None:
            return self._choose_pinned(walk, request.pin, now)
        for step in walk.chain.steps:
            pool = step.pool
            if not step.in_reserve and pool.parked:
                skips.extend(pool_skips(pool, MOST_SKIPS))
            if not step.selection or not self._pool_may_serve(walk, pool, now):
                continue
            for choice in step.selection.candidates(now, request.session):
                account = pool.accounts[choice.slot]
                skip = self._check(walk, account, now)
                if skip is None:
                    grant = self._take(walk, step, account, choice, now)
                    if grant is not None:
                        return grant
                else:
                    skips.append(skip)
        return self._choose_coming_back(walk, now)

    def _choose_coming_back(self, walk: Walk, now: float) -> Grant | None:
        """When nobody else can serve, an account ahead of its turn in its ramp, longest unused first."""
        for pool in walk.chain.pools:
            if not pool.ramping or not self._pool_may_serve(walk, pool, now):
                continue
            accounts = [pool.accounts[slot] for slot in pool.ramping]
            for account in sorted(accounts, key=lambda account: (account.last_used or 0.0, account.slot)):
                if self._check(walk, account, now) is None:
                    grant = self._take_coming_back(walk, account, Rule.COMING_BACK, now)
                    if grant is not None:
                        return grant
        return None

    def _take_coming_back(self, walk: Walk, account: AccountRuntime, rule: Rule, now: float) -> Grant | None:
        spec = account.pool.spec
        percent = account.ledger.committed_percent(self._clock.time())
        in_reserve = percent is not None and percent >= spec.thresholds.soft_limit
        if in_reserve and spec.reserve is ReserveRule.NEVER:
            return None
        step = Step(account.pool, in_reserve=in_reserve)
        return self._take(walk, step, account, Choice(account.slot, rule, ()), now)

    def retry(self, walk: Walk, account: AccountRuntime) -> Grant | None:
        """The same account once more; None when it may not serve any longer."""
        now = self._clock.monotonic()
        self._placement.wake(now)
        # A rest that the upstream stated ends as the retry begins, a moment before its alarm.
        self._placement.place(account, now)
        walk.skips = []
        return self._take_this(walk, account, Rule.RETRY, now)

    def _choose_pinned(self, walk: Walk, account_id: str, now: float) -> Grant | None:
        account = self._roster.accounts[account_id]
        skip = account.parked
        if skip is None or skip.reason is SkipReason.SOFT_LIMIT or account.slot in account.pool.ramping:
            skip = self._check(walk, account, now)
        if skip is not None:
            walk.skips.append(skip)
            return None
        return self._take_this(walk, account, Rule.PINNED, now)

    def _take_this(self, walk: Walk, account: AccountRuntime, rule: Rule, now: float) -> Grant | None:
        pool = account.pool
        if not self._pool_may_serve(walk, pool, now):
            return None
        for in_reserve, selection in ((False, pool.normal), (True, pool.reserve)):
            if account.slot in selection:
                choice = Choice(account.slot, rule, ())
                return self._take(walk, Step(pool, in_reserve=in_reserve), account, choice, now)
        if account.slot in pool.ramping:
            return self._take_coming_back(walk, account, rule, now)
        return None

    def has_alternative(self, walk: Walk, *, other_pool_than: PoolRuntime | None = None) -> bool:
        """Whether any account not yet tried could serve the request now."""
        if walk.request.pin is not None:
            return False
        now = self._clock.monotonic()
        self._placement.wake(now)
        for step in walk.chain.steps:
            pool = step.pool
            if pool is other_pool_than or not step.selection or not self._pool_may_serve(walk, pool, now):
                continue
            for choice in step.selection.candidates(now):
                if self._check(walk, pool.accounts[choice.slot], now) is None:
                    return True
        return any(
            self._check(walk, pool.accounts[slot], now) is None
            for pool in walk.chain.pools
            if pool.ramping and pool is not other_pool_than and self._pool_may_serve(walk, pool, now)
            for slot in pool.ramping
        )

    def saturated(self, walk: Walk) -> bool:
        """Whether the request could be served if only an account had a free slot."""
        return any(
            pool.saturated
            and pool not in walk.closed_pools
            and pool.provider.circuit.admits(self._clock.monotonic())
            for pool in walk.chain.pools
        )

    def next_available_at(self, walk: Walk) -> float | None:
        """When the first account of the chain is expected back, in epoch seconds."""
        now = self._clock.monotonic()
        wall = self._clock.time()
        times = [
            skip.until for pool in walk.chain.pools for skip in pool.parked.values() if skip.until is not None
        ]
        for pool in walk.chain.pools:
            blocked_until = pool.provider.circuit.blocked_until(now)
            if blocked_until is not None and not pool.provider.circuit.admits(now):
                times.append(wall + blocked_until - now)
        return min(times, default=None)

    def _pool_may_serve(self, walk: Walk, pool: PoolRuntime, now: float) -> bool:
        """The checks that hold for a whole pool; a failed one is recorded once, not per account."""
        if pool in walk.closed_pools:
            return False
        skip: Skip | None = None
        spec = pool.spec
        circuit = pool.provider.circuit
        if pool.unavailable:
            skip = Skip(pool.name, pool.name, SkipReason.UNAVAILABLE, pool.unavailable)
        elif circuit.state is not CircuitState.CLOSED and not circuit.admits(now):
            blocked_until = circuit.blocked_until(now)
            until = None if blocked_until is None else self._clock.time() + blocked_until - now
            skip = Skip(pool.name, pool.name, SkipReason.PROVIDER_CIRCUIT, circuit.cause, until)
        elif spec.context_tokens is not None and walk.tokens_in > spec.context_tokens:
            detail = f"about {walk.tokens_in} tokens, the model takes {spec.context_tokens}"
            skip = Skip(pool.name, pool.name, SkipReason.CONTEXT, detail)
        elif walk.request.requires and not walk.request.requires <= spec.capabilities:
            missing = ", ".join(sorted(walk.request.requires - spec.capabilities))
            skip = Skip(pool.name, pool.name, SkipReason.CAPABILITY, missing)
        if skip is None:
            return True
        walk.skips.append(skip)
        return False

    def _check(self, walk: Walk, account: AccountRuntime, now: float) -> Skip | None:
        """The checks that depend on the request."""
        request = walk.request
        if account in walk.tried:
            return Skip(account.id, account.pool.name, SkipReason.TRIED)
        if account.id in request.avoid:
            return Skip(account.id, account.pool.name, SkipReason.EXCLUDED, "the request avoids it")
        if account.model_blocks or account.model_circuits:
            return self._check_model(walk, account, now)
        return None

    def _check_model(self, walk: Walk, account: AccountRuntime, now: float) -> Skip | None:
        model = walk.request.model or account.pool.spec.model
        circuit = account.model_circuits.get(model)
        if circuit is not None and not circuit.admits(now):
            return Skip(account.id, account.pool.name, SkipReason.MODEL_CIRCUIT, f"{model}: {circuit.cause}")
        block = account.model_blocks.get(model)
        if block is not None:
            if block.until > now:
                until = self._clock.time() + block.until - now
                return Skip(
                    account.id, account.pool.name, SkipReason.COOLDOWN, f"{model}: {block.reason}", until
                )
            del account.model_blocks[model]
        return None

    def _take(
        self, walk: Walk, step: Step, account: AccountRuntime, choice: Choice, now: float
    ) -> Grant | None:
        """Reserve quota and take the permits: all of them, or none and a recorded skip."""
        pool = account.pool
        request = walk.request
        wall = self._clock.time()
        output = request.max_output_tokens or pool.spec.default_output_tokens
        estimate = QuotaEstimate(walk.tokens_in + output)
        reservation = account.ledger.reserve(estimate, wall, lease_s=walk.timeout_s + LEASE_SLACK_S)
        if reservation is None:
            detail = account.ledger.refusal(estimate, wall)
            walk.skips.append(Skip(account.id, pool.name, SkipReason.NO_ROOM, detail))
            return None
        model = request.model or pool.spec.model
        permits = self._permits(account, model, now)
        if permits is None:
            account.ledger.release(reservation, wall)
            walk.skips.append(Skip(account.id, pool.name, SkipReason.CIRCUIT, account.circuit.cause))
            return None
        permit, provider_permit, model_permit = permits
        account.in_flight += 1
        account.last_used = now
        account.last_used_at = wall
        pool.steady.note(now)
        if account.comeback is not None:
            account.comeback.admitted(reservation, now)
        if account.watched <= now:
            self._placement.watch_reset(account, now)
        step.selection.taken(account.slot, now, request.session)
        self._placement.place(account, now)
        skips = walk.skips
        decision = Decision(
            wall,
            walk.chain.name,
            pool.name,
            account.id,
            model,
            pool.strategy,
            choice.rule,
            Tier.RESERVE if step.in_reserve else Tier.NORMAL,
            choice.considered,
            tuple(skips[:MOST_SKIPS]) if skips else (),
            self._uncounted(walk) if len(skips) >= MOST_SKIPS else 0,
        )
        return Grant(
            account, model, decision, estimate, output, reservation, permit, provider_permit, model_permit
        )

    @staticmethod
    def _permits(
        account: AccountRuntime, model: str, now: float
    ) -> tuple[Permit, Permit, Permit | None] | None:
        """The permits of all circuits that govern the call, or none of them."""
        provider = account.pool.provider.circuit
        permit = account.circuit.acquire(now)
        if permit is None:
            return None
        provider_permit = provider.acquire(now)
        if provider_permit is None:
            account.circuit.release(permit, now)
            return None
        if account.model_circuits and model in account.model_circuits:
            model_permit = account.model_circuits[model].acquire(now)
            if model_permit is None:
                account.circuit.release(permit, now)
                provider.release(provider_permit, now)
                return None
            return permit, provider_permit, model_permit
        return permit, provider_permit, None

    @staticmethod
    def _uncounted(walk: Walk) -> int:
        parked = sum(len(pool.parked) for pool in walk.chain.pools)
        return max(0, parked - MOST_SKIPS, len(walk.skips) - MOST_SKIPS)
