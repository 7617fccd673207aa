"""Finds who is asked next: at first, after a failure, after a time in the queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from smartfallback.engine.capacity import Claim
from smartfallback.engine.degradation import trimmed
from smartfallback.engine.grant import Grant
from smartfallback.engine.refusals import CLOSED, DEADLINE_PASSED, nobody_can_serve
from smartfallback.engine.roster import ProviderRuntime, Step
from smartfallback.engine.services import Services
from smartfallback.engine.settlement import Received
from smartfallback.engine.walk import Walk
from smartfallback.model.decisions import SkipReason, Tier
from smartfallback.model.outcomes import ErrorCategory, Failure, NextStep
from smartfallback.policy.recovery import RULES, Recovery, SwitchScope, next_step

_NOT_THE_MODEL = frozenset(
    {
        ErrorCategory.RATE_LIMIT,
        ErrorCategory.QUOTA_EXHAUSTED,
        ErrorCategory.AUTHENTICATION,
        ErrorCategory.API_FAILURE,
        ErrorCategory.NETWORK_ERROR,
        ErrorCategory.INVALID_REQUEST,
        ErrorCategory.CONTENT_FILTERED,
    }
)
"""Failures that have a rest of their own, or say nothing about the model of the account."""


_MOST_ASKED = 500
"""So often a request asks for a place that another instance takes first."""


class UnservedError(Exception):
    """Nobody can serve the request, for the reason in ``failure``."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Ended(Protocol):
    """What has to be known of an attempt that ended."""

    grant: Grant

    @property
    def latency_s(self) -> float:
        """Seconds since it began."""
        ...


class Asked(Protocol):
    """What has to be known of a request's attempts so far."""

    def provider_s(self, provider: ProviderRuntime) -> float:
        """How long ago the request asked the provider first."""
        ...

    def leaves(self, provider: ProviderRuntime) -> bool:
        """Whether the provider had its time with this request, and others are to be asked."""
        ...


class Candidates:
    """Walks one request through its chain, failure by failure.

    Args:
        walk: The request's way so far.
        services: What all requests share.
        deadline: The request's deadline, in the time of ``now``.
        now: The time of waits and deadlines: the loop's.

    Attributes:
        deadline: The request's deadline.
        last_failure: Why the latest attempt failed, None before any has.
        closing: Set when the orchestrator closes.
    """

    def __init__(
        self,
        walk: Walk,
        services: Services,
        deadline: float,
        now: Callable[[], float],
    ) -> None:
        self._walk = walk
        self._services = services
        self._now = now
        self._retries_done = 0
        self._leaves_pool = False
        self.deadline = deadline
        self.last_failure: Failure | None = None
        self.closing = asyncio.Event()

    async def first(self) -> Grant:
        """The next candidate; waits while all that could serve are busy.

        Raises:
            UnservedError: No account can serve the request.
        """
        return await self.admitted(await self._first())

    async def admitted(self, grant: Grant) -> Grant:
        """``grant``, or another one if other instances leave it no room.

        Raises:
            UnservedError: No account can serve the request.
        """
        services, walk = self._services, self._walk
        admission = services.admission
        asked = 0
        while admission is not None and not admission.admits(grant):
            try:
                refusal = await admission.ask(grant, max(0.0, self.deadline - self._now()))
            except BaseException:
                services.settlement.given_up(grant, Received())
                raise
            if refusal is None:
                break
            services.settlement.given_up(grant, Received())
            asked += 1
            # Whose places are all taken elsewhere is busy: the request waits in line for it, as for any.
            if refusal.reason is not SkipReason.CONCURRENCY or asked > _MOST_ASKED:
                walk.turned_away[grant.account] = refusal
            grant = await self._first()
        return grant

    async def _first(self) -> Grant:
        services, walk = self._services, self._walk
        while True:
            if self.closing.is_set():
                raise UnservedError(CLOSED)
            if self._now() >= self.deadline:
                raise UnservedError(self.last_failure or DEADLINE_PASSED)
            grant = None if len(services.capacity) else services.planner.choose(walk)
            if grant is None and (len(services.capacity) or services.planner.has_busy(walk)):
                grant = await self._wait_in_line()
            if grant is not None:
                return grant
            if self.closing.is_set() or self._now() >= self.deadline:
                continue
            if not self.ask_for_less():
                raise UnservedError(self.last_failure or nobody_can_serve(walk))

    def again(self, deadline: float) -> None:
        """The request begins anew after a time in the queue."""
        self._retries_done = 0
        self.deadline = deadline

    def hedge(self, provider: ProviderRuntime) -> Grant | None:
        """A second candidate beside a silent one of ``provider``; None without one, or without budget.

        The local model is none: it takes its time and shares this machine with the caller. Nor is a
        lesser model, or an account whose quota is a reserve for when all others have failed.
        """
        services, walk = self._services, self._walk
        others = services.planner.alternative(walk, outside=provider)
        step = others if _hedges(others) else services.planner.alternative(walk)
        if not _hedges(step) or len(services.capacity):
            return None
        now = services.clock.monotonic()
        if services.budget.left(now) < 1 or self._now() >= self.deadline:
            return None
        # What is silent may be the whole API, so one of its other accounts is the last to ask.
        closed = set(walk.closed_pools)
        if step is others:
            walk.closed_pools.update(provider.pools)
        try:
            grant = services.planner.choose(walk)
        finally:
            walk.closed_pools = closed
        if grant is None:
            return None
        if services.admission is not None and not services.admission.admits(grant):
            services.settlement.given_up(grant, Received())
            return None
        # An alternative that its ramp holds back yields to whoever comes after it in the chain.
        if grant.pool.is_local or grant.cheaper or grant.decision.tier is Tier.RESERVE:
            services.settlement.given_up(grant, Received())
            return None
        services.budget.try_spend(now)
        return grant

    def decide(
        self, attempt: Ended, failure: Failure, tries: Asked, *, breaks: int = 0, hedged: bool = False
    ) -> Recovery:
        """What follows the failure of ``attempt``, which was settled already.

        With ``breaks`` it failed in the middle of an answer that has broken off so often. Then another
        account is better placed to go on than the same, and after the second time another pool.
        ``hedged`` says that the other of a pair still runs: then the account is not asked again.
        """
        services, walk, grant = self._services, self._walk, attempt.grant
        self.last_failure = failure
        planner = services.planner
        rule = RULES[failure.category]
        outside = grant.pool.provider if rule.switch is SwitchScope.POOL or failure.permanent else None
        provider = grant.pool.provider
        if (breaks > 1 or tries.leaves(provider)) and planner.alternative(walk, outside=provider) is not None:
            outside = provider
        self._leaves_pool = outside is not None
        step = planner.alternative(walk, outside=outside)
        time_left_s = self.deadline - self._now()
        recovery = next_step(
            failure,
            retries_done=rule.retries if breaks and step is not None else self._retries_done,
            has_alternative=step is not None or planner.has_busy(walk, outside=outside),
            time_left_s=time_left_s,
            budget=lambda: not hedged and services.budget.try_spend(services.clock.monotonic()),
            rng=services.rng,
            switch_on_content_filter=walk.chain.spec.switch_on_content_filter,
            can_trim=not breaks and not walk.continues and trimmed(walk.conversation) is not None,
            attempt_s=attempt.latency_s,
            provider_s=tries.provider_s(provider),
        )
        if recovery.step is NextStep.FAIL and time_left_s > 0 and _moves(failure):
            # Those that failed a moment ago are nobody to leave a candidate for, but better than nobody.
            if planner.has_last_resort(walk, outside=outside):
                recovery = Recovery(NextStep.SWITCH_ACCOUNT, 0.0)
        elif recovery.step in (NextStep.SWITCH_ACCOUNT, NextStep.SWITCH_POOL):
            if step is not None and step.cheaper:
                recovery = Recovery(NextStep.DEGRADE, 0.0)
            elif outside is not None:
                recovery = Recovery(NextStep.SWITCH_POOL, 0.0)
        if recovery.step is not NextStep.RETRY and failure.category not in _NOT_THE_MODEL:
            planner.given_up(grant, str(failure))
        return recovery

    async def recover(self, grant: Grant, recovery: Recovery) -> Grant:
        """Wait if the recovery says so, then the candidate for the next attempt.

        Raises:
            UnservedError: The recovery is to fail, or nobody is left.
        """
        if recovery.step is NextStep.FAIL:
            raise UnservedError(self.last_failure or nobody_can_serve(self._walk))
        if recovery.wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(recovery.wait_s):
                    await self.closing.wait()
        if self._now() >= self.deadline:
            raise UnservedError(self.last_failure or nobody_can_serve(self._walk))
        again = self.follow(grant, recovery)
        again = again or await self._place_again(grant, recovery) or await self._first()
        return await self.admitted(again)

    def follow(self, grant: Grant, recovery: Recovery) -> Grant | None:
        """Do what the recovery says, its wait being over; None when the next candidate is to be found."""
        failure = self.last_failure or nobody_can_serve(self._walk)
        again: Grant | None = None
        if failure.context_overflow and recovery.step is NextStep.DEGRADE:
            self._trim()
            again = self._services.planner.retry(self._walk, grant)
        elif recovery.step is NextStep.RETRY:
            self._retries_done += 1
            again = self._retry(grant, failure)
        else:
            self._retries_done = 0
            if recovery.step is NextStep.SWITCH_POOL or self._leaves_pool:
                self._walk.closed_pools.update(grant.pool.provider.pools)
        return again

    async def _place_again(self, grant: Grant, recovery: Recovery) -> Grant | None:
        """Whoever is free first, where others took the account's places while it was to be asked again."""
        planner, walk, failure = self._services.planner, self._walk, self.last_failure
        overflow = failure is not None and failure.context_overflow and recovery.step is NextStep.DEGRADE
        if not (overflow or recovery.step is NextStep.RETRY) or not planner.is_busy(walk, grant):
            return None
        return planner.choose(walk) or await self._wait_in_line(grant)

    def _retry(self, grant: Grant, failure: Failure) -> Grant | None:
        """The same account again; for an error of the whole API, rather one of its siblings."""
        planner = self._services.planner
        if RULES[failure.category].switch is SwitchScope.POOL:
            sibling = planner.choose(self._walk)
            if sibling is not None:
                return sibling
        return planner.retry(self._walk, grant)

    async def _wait_in_line(self, retried: Grant | None = None) -> Grant | None:
        """A place handed over by somebody who left; None when there is none for this request.

        It may be one of the account of ``retried``, which was asked before.
        """
        services, walk = self._services, self._walk
        planner = services.planner

        def take() -> Grant | None:
            again = None if retried is None else planner.retry(walk, retried)
            return again or planner.choose(walk)

        def hopeless() -> bool:
            waits = retried is not None and planner.is_busy(walk, retried)
            return not waits and not planner.has_busy(walk)

        account = None if retried is None else (retried.account.id, retried.cheaper)
        return await services.capacity.wait(
            Claim(
                kind=(*walk.kind, account),
                take=take,
                hopeless=hopeless,
                give_back=lambda grant: services.settlement.given_up(grant, Received()),
            ),
            self.deadline,
        )

    def ask_for_less(self) -> bool:
        """Ask for a shorter answer, or send less, where that alone keeps accounts from serving."""
        walk = self._walk
        reasons = {skip.reason for skip in walk.skips}
        if SkipReason.NO_ROOM in reasons and walk.shorten():
            return True
        return not reasons.isdisjoint((SkipReason.CONTEXT, SkipReason.NO_ROOM)) and self._trim()

    def _trim(self) -> bool:
        walk = self._walk
        shorter = None if walk.continues else trimmed(walk.conversation)
        if shorter is not None:
            walk.trim(shorter)
        return shorter is not None


def _hedges(step: Step | None) -> bool:
    return step is not None and not (step.pool.is_local or step.cheaper or step.in_reserve)


def _moves(failure: Failure) -> bool:
    """Whether another candidate could answer what failed here."""
    return RULES[failure.category].switch is not SwitchScope.NONE
