"""Chooses the account for an attempt: walks the chain, checks, reserves quota, takes permits."""

from __future__ import annotations

from smartfallback.clock import Clock
from smartfallback.engine.checks import Checks
from smartfallback.engine.comebacks import held_until
from smartfallback.engine.grant import Grant
from smartfallback.engine.placement import Placement, pool_skips
from smartfallback.engine.roster import AccountRuntime, Block, PoolRuntime, ProviderRuntime, Step
from smartfallback.engine.walk import Walk
from smartfallback.model.decisions import Decision, Rule, Skip, SkipReason, Tier
from smartfallback.model.specs import ReserveRule
from smartfallback.policy.circuit import Permit
from smartfallback.policy.selection import Choice

# Members of an enum cost ten times a global's look-up, and these are read for every request.
_NORMAL, _RESERVE = Tier.NORMAL, Tier.RESERVE

MOST_SKIPS = 32
"""So many skips a decision lists; those beyond are counted."""

LEASE_SLACK_S = 6 * 3600.0
"""An attempt always ends its hold itself. Leases run on the calendar's clock, so this one outlasts
every step of it (an hour for a wrong time zone or DST) and frees only what was truly forgotten."""


class Planner:
    """Makes decisions. Everything it needs of the past stands with the accounts; it keeps nothing."""

    def __init__(self, placement: Placement, clock: Clock) -> None:
        self._placement = placement
        self._clock = clock
        self._checks = Checks(clock)

    def choose(self, walk: Walk) -> Grant | None:
        """The next account for the request, with its quota reserved and its permits taken.

        None when no account may serve it; ``walk.skips`` then says why, pool by pool.
        """
        now = self._clock.monotonic()
        self._placement.wake(now)
        request = walk.request
        skips: list[Skip] = []
        walk.skips = skips
        if walk.pinned is not None:
            return self._choose_pinned(walk, walk.pinned, now)
        for step in walk.chain.steps:
            pool = step.pool
            if not step.in_reserve and not step.cheaper and pool.parked:
                skips.extend(pool_skips(pool, MOST_SKIPS))
            if not step.selection or not self._pool_may_serve(walk, pool, now) or not walk.may_take(step):
                continue
            if pool.provider.ramp is not None and self._holds_back(walk, pool, now):
                continue
            for choice in step.selection.candidates(now, request.session):
                account = pool.accounts[choice.slot]
                skip = self._checks.account(walk, account, now, cheaper=step.cheaper)
                if skip is None:
                    grant = self._take(walk, step, account, choice, now)
                    if grant is not None:
                        return grant
                else:
                    skips.append(skip)
        return (
            self._choose_held_back(walk, now)
            or self._choose_coming_back(walk, now)
            or self._choose_just_failed(walk, now)
        )

    def _choose_just_failed(self, walk: Walk, now: float) -> Grant | None:
        """When nobody else can serve, one whose model failed a moment ago; the oldest failure first."""
        if walk.last_resort or not any(skip.reason is SkipReason.JUST_FAILED for skip in walk.skips):
            return None
        walk.last_resort = True
        try:
            found = sorted(self._checks.just_failed(walk, now), key=lambda each: each[0])
            for _, step, slot in found:
                choice = Choice(slot, Rule.JUST_FAILED, ())
                grant = self._take(walk, step, step.pool.accounts[slot], choice, now)
                if grant is not None:
                    return grant
        finally:
            walk.last_resort = False
        return None

    def _holds_back(self, walk: Walk, pool: PoolRuntime, now: float) -> bool:
        """Whether the pool's share of traffic after its provider's circuit closed is used up for now."""
        until = held_until(pool.provider, now)
        if until is None:
            return False
        detail = "its provider's circuit has closed; the next request is let through in a moment"
        at = self._clock.time() + until - now
        walk.skips.append(Skip(pool.name, pool.name, SkipReason.RAMP, detail, at))
        return True

    def _choose_held_back(self, walk: Walk, now: float) -> Grant | None:
        """When nobody else can serve, an account of a provider ahead of its turn in its ramp."""
        for step in walk.chain.steps:
            pool = step.pool
            if held_until(pool.provider, now) is None or not step.selection or not walk.may_take(step):
                continue
            if pool in walk.closed_pools or self._checks.pool(walk, pool, now) is not None:
                continue
            for choice in step.selection.candidates(now, walk.request.session):
                account = pool.accounts[choice.slot]
                if self._checks.account(walk, account, now, cheaper=step.cheaper) is None:
                    ahead = Choice(choice.slot, Rule.COMING_BACK, choice.considered)
                    grant = self._take(walk, step, account, ahead, now)
                    if grant is not None:
                        return grant
        return None

    def _choose_coming_back(self, walk: Walk, now: float) -> Grant | None:
        """When nobody else can serve, an account ahead of its turn in its ramp, longest unused first."""
        for pool in walk.chain.pools:
            if not pool.ramping or not self._pool_may_serve(walk, pool, now):
                continue
            accounts = [pool.accounts[slot] for slot in pool.ramping]
            for account in sorted(accounts, key=lambda account: (account.last_used or 0.0, account.slot)):
                if self._checks.account(walk, account, now) is None:
                    grant = self._take_coming_back(walk, account, Rule.COMING_BACK, now)
                    if grant is not None:
                        return grant
        return None

    def _take_coming_back(self, walk: Walk, account: AccountRuntime, rule: Rule, now: float) -> Grant | None:
        spec = account.pool.spec
        percent = account.ledger.used_percent(self._clock.time())
        in_reserve = percent is not None and percent > spec.thresholds.soft_limit
        if in_reserve and spec.reserve is ReserveRule.NEVER:
            return None
        step = Step(account.pool, in_reserve=in_reserve)
        return self._take(walk, step, account, Choice(account.slot, rule, ()), now)

    def retry(self, walk: Walk, grant: Grant) -> Grant | None:
        """The account and model of ``grant`` once more; None when it may not serve any longer."""
        now = self._clock.monotonic()
        self._placement.wake(now)
        # A rest that the upstream stated ends as the retry begins, a moment before its alarm.
        self._placement.place(grant.account, now)
        skip = self._checks.model(walk, grant.account, now, grant.cheaper)
        walk.skips = [] if skip is None else [skip]
        if skip is not None:
            return None
        return self._take_this(walk, grant.account, Rule.RETRY, now, cheaper=grant.cheaper)

    def _choose_pinned(self, walk: Walk, account: AccountRuntime, now: float) -> Grant | None:
        skip = account.parked
        if skip is None or skip.reason is SkipReason.SOFT_LIMIT or account.slot in account.pool.ramping:
            skip = self._checks.account(walk, account, now)
        if skip is not None:
            walk.skips.append(skip)
            return None
        return self._take_this(walk, account, Rule.PINNED, now)

    def _take_this(
        self, walk: Walk, account: AccountRuntime, rule: Rule, now: float, *, cheaper: bool = False
    ) -> Grant | None:
        pool = account.pool
        if not self._pool_may_serve(walk, pool, now):
            return None
        for in_reserve, selection in ((False, pool.normal), (True, pool.reserve)):
            if account.slot in selection:
                choice = Choice(account.slot, rule, ())
                step = Step(pool, in_reserve=in_reserve, cheaper=cheaper)
                return self._take(walk, step, account, choice, now)
        if account.slot in pool.ramping and not cheaper:
            return self._take_coming_back(walk, account, rule, now)
        return None

    def given_up(self, grant: Grant, reason: str) -> None:
        """Let others pass over the grant's model of its account for a moment: it has just failed."""
        rest = grant.pool.spec.failed_model_s
        if rest > 0 and not grant.disowned:
            grant.account.failed_models[grant.model] = Block(self._clock.monotonic() + rest, reason)

    def alternative(self, walk: Walk, *, outside: ProviderRuntime | None = None) -> Step | None:
        """The step at which an account not yet tried could take the request now; ``outside`` a provider."""
        now = self._clock.monotonic()
        self._placement.wake(now)
        return next(self._checks.free(walk, now, outside=outside), None)

    def has_last_resort(self, walk: Walk, *, outside: ProviderRuntime | None = None) -> bool:
        """Whether only accounts that failed a moment ago are left, and one of them could be asked."""
        walk.last_resort = True
        try:
            return self.alternative(walk, outside=outside) is not None
        finally:
            walk.last_resort = walk.pinned is not None

    def has_busy(self, walk: Walk, *, outside: ProviderRuntime | None = None) -> bool:
        """Whether an account not yet tried could take the request if only it had a free slot."""
        return any(True for _ in self._checks.busy(walk, self._clock.monotonic(), outside=outside))

    def is_busy(self, walk: Walk, grant: Grant) -> bool:
        """Whether only its running requests keep the account of ``grant`` from serving once more."""
        account = grant.account
        pool, now = account.pool, self._clock.monotonic()
        if account.slot not in pool.saturated or pool in walk.closed_pools:
            return False
        return self._checks.pool(walk, pool, now) is None

    def next_available_at(self, walk: Walk) -> float | None:
        """When the first account of the chain is expected back, in epoch seconds."""
        now = self._clock.monotonic()
        wall = self._clock.time()
        model = walk.request.model
        times = []
        for pool in walk.chain.pools:
            times += [skip.until for skip in pool.parked.values() if skip.until is not None]
            blocks = [account.model_blocks.get(model or pool.spec.model) for account in pool.accounts]
            times += [wall + block.until - now for block in blocks if block is not None]
            circuit = pool.provider.circuit
            blocked_until = circuit.blocked_until(now)
            if blocked_until is not None and not circuit.admits(now):
                times.append(wall + blocked_until - now)
        return min(times, default=None)

    def _pool_may_serve(self, walk: Walk, pool: PoolRuntime, now: float) -> bool:
        """The checks that hold for a whole pool; a failed one is recorded once, not per account."""
        if pool in walk.closed_pools:
            return False
        skip = self._checks.pool(walk, pool, now)
        if skip is not None:
            walk.skips.append(skip)
        return skip is None

    def _take(
        self, walk: Walk, step: Step, account: AccountRuntime, choice: Choice, now: float
    ) -> Grant | None:
        """Reserve quota and take the permits: all of them, or none and a recorded skip."""
        pool = account.pool
        request = walk.request
        wall = self._clock.time()
        estimate, output = walk.expected(pool)
        reservation = account.ledger.reserve(estimate, wall, lease_s=walk.timeout_s + LEASE_SLACK_S)
        if reservation is None:
            detail = account.ledger.refusal(estimate, wall)
            walk.skips.append(Skip(account.id, pool.name, SkipReason.NO_ROOM, detail))
            return None
        model = walk.model_for(step)
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
        if account.ramp is not None:
            account.ramp.admitted(now)
        if pool.provider.ramp is not None:
            pool.provider.ramp.admitted(now)
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
            _RESERVE if step.in_reserve else _NORMAL,
            choice.considered,
            tuple(skips[:MOST_SKIPS]) if skips else (),
            self._uncounted(walk) if len(skips) >= MOST_SKIPS else 0,
        )
        return Grant(
            account,
            model,
            decision,
            estimate,
            output,
            reservation,
            permit,
            provider_permit,
            model_permit,
            cheaper=step.cheaper,
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
