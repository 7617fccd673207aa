"""The attempts of one request: each begins here, and is settled and recorded here exactly once."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from smartfallback.engine.announcer import Announcer
from smartfallback.engine.attempt import Attempt
from smartfallback.engine.grant import Grant
from smartfallback.engine.roster import ProviderRuntime
from smartfallback.engine.services import Services
from smartfallback.engine.walk import CHARACTERS_A_TOKEN, Walk
from smartfallback.model.events import AttemptStarted
from smartfallback.model.outcomes import AttemptRecord, AttemptResult, Failure, TimeoutPhase
from smartfallback.model.requests import Usage
from smartfallback.policy.patience import Patience
from smartfallback.policy.recovery import FAILOVER_S
from smartfallback.providers.base import Call

MOST_RECORDS = 200
"""A request that waits in the queue through a long outage keeps its latest attempts."""
LEAST_FIRST_TOKEN_S = 0.5
"""Less time is no try at all."""


_NO_USAGE = Usage()


class _Limits(NamedTuple):
    """Seconds to wait for content: while nothing has come, and once the response has begun.

    ``hurried`` ones are shorter than the pool is due.
    """

    silent_s: float
    begun_s: float
    hurried: bool = False


class Tries:
    """The attempts that run, the record of those that ended, and what they have cost.

    Attributes:
        running: One, or two of a hedged pair.
        records: How the others ended, oldest first.
        begun: How many there were.
        usage: Tokens of the answer's parts so far.
        cost: Their price in US dollars, None while no pool with a price took part.
    """

    def __init__(self, walk: Walk, services: Services, announce: Announcer) -> None:
        self._walk = walk
        self._services = services
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        self._asked: dict[ProviderRuntime, float] = {}
        self.running: list[Attempt] = []
        self.records: list[AttemptRecord] = []
        self.begun = 0
        self.usage = _NO_USAGE
        self.cost: float | None = None

    def begin(self, grant: Grant, deadline: float, *, hedge: bool = False) -> AttemptStarted:
        """Ask the grant's account."""
        services, walk = self._services, self._walk
        request = walk.request
        account = grant.account
        self.begun += 1
        (walk.tried_cheaper if grant.cheaper else walk.tried).add(account)
        services.check(account.id)
        call = Call(
            account=account.spec,
            pool=grant.pool.spec,
            model=grant.model,
            messages=walk.messages,
            max_output_tokens=walk.most_output_tokens,
            temperature=request.temperature,
            stream=request.stream,
        )
        limits = self._first_token_limits(grant, deadline)
        attempt = Attempt(
            grant,
            self.begun,
            call,
            deadline,
            limits.silent_s,
            limits.begun_s,
            self._has_alternative,
            services.learn,
        )
        attempt.hurried = limits.hurried
        self.running.append(attempt)
        account.attempts.add(attempt)
        return self._announce.attempt_started(attempt.number, grant, hedge=hedge)

    def again(self) -> None:
        """The request begins anew after a time in the queue: accounts have their whole time again."""
        self._asked.clear()

    def provider_s(self, provider: ProviderRuntime) -> float:
        """How long ago the request asked the provider first."""
        return self._since(provider)

    def leaves(self, provider: ProviderRuntime) -> bool:
        """Whether the provider had its time with this request, and others are to be asked."""
        return self._since(provider) >= FAILOVER_S - LEAST_FIRST_TOKEN_S

    def _has_alternative(self) -> bool:
        """Whether somebody else could answer what an attempt is silent about."""
        return len(self.running) > 1 or self._services.planner.alternative(self._walk) is not None

    def _since(self, asked: ProviderRuntime) -> float:
        now = self._loop.time()
        return now - self._asked.get(asked, now)

    def _first_token_limits(self, grant: Grant, deadline: float) -> _Limits:
        """How long to wait for content.

        While another provider could answer, all tries with one that is silent together get
        :data:`FAILOVER_S`; the first of them always has its full time.
        """
        now = self._loop.time()
        provider = grant.pool.provider
        first_time = provider not in self._asked
        if first_time:
            self._asked[provider] = now
        most_s = grant.pool.spec.timeouts.first_token_s
        patience = self._patience(grant)
        if not self._walk.request.stream:
            # A whole answer shows its first token with its last.
            half = max(most_s, (deadline - now) / 2)
            limit_s = half if patience is None else min(half, patience.silent_s)
            return _Limits(limit_s, limit_s)
        if patience is None:
            return _Limits(most_s, most_s)
        left = FAILOVER_S if first_time else max(LEAST_FIRST_TOKEN_S, FAILOVER_S - self._since(provider))
        if (
            first_time
            or left >= patience.silent_s
            or not self._services.planner.alternative(self._walk, outside=provider)
        ):
            return _Limits(patience.silent_s, patience.begun_s)
        return _Limits(left, min(left, patience.begun_s), hurried=True)

    def _patience(self, grant: Grant) -> Patience | None:
        return grant.pool.patience if self._walk.request.stream else grant.pool.whole_patience

    def answers(self, attempt: Attempt) -> None:
        """The attempt has brought the first content."""
        attempt.text_received = True
        grant = attempt.grant
        patience = self._patience(grant)
        if patience is not None:
            patience.answered(attempt.latency_s)
        if grant.account.failed_models:
            grant.account.failed_models.pop(grant.model, None)
        self._services.settlement.answering(grant)

    def succeeded(self, attempt: Attempt) -> None:
        """The answer, or its last part, is complete."""
        usage = self._leave(attempt, AttemptResult.SUCCESS)
        self._services.settlement.succeeded(attempt.grant, usage)

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """The attempt ended in an error; record it on the scopes that it concerns."""
        in_a_hurry = failure.phase is TimeoutPhase.TOTAL and not attempt.was_given_its_time
        if failure.phase is TimeoutPhase.FIRST_TOKEN:
            patience = self._patience(attempt.grant)
            in_a_hurry = attempt.hurried
            if patience is not None and not in_a_hurry:
                patience.cut(attempt.latency_s, begun=attempt.begun)
        self._leave(attempt, AttemptResult.FAILED, failure)
        self._services.settlement.failed(attempt.grant, failure, attempt.received, blame=not in_a_hurry)

    def given_up(self, attempt: Attempt, result: AttemptResult) -> None:
        """The attempt ended without a verdict; nobody is blamed."""
        self._leave(attempt, result)
        self._services.settlement.given_up(attempt.grant, attempt.received)

    def give_all_up(self) -> list[Attempt]:
        """Give back what running attempts hold, without blame; they are yet to be closed."""
        attempts = list(self.running)
        for attempt in attempts:
            self.given_up(attempt, AttemptResult.CANCELLED)
        return attempts

    def _leave(self, attempt: Attempt, result: AttemptResult, failure: Failure | None = None) -> Usage:
        """Take the attempt off the running ones and into the record; returns what it has cost."""
        grant = attempt.grant
        self.running.remove(attempt)
        grant.account.attempts.discard(attempt)
        records = self.records
        if len(records) >= MOST_RECORDS:
            del records[0]
        records.append(
            AttemptRecord(
                attempt.number,
                grant.account.id,
                grant.pool.name,
                grant.model,
                result,
                attempt.latency_s,
                failure,
            )
        )
        usage = attempt.usage
        if usage is None:
            tokens_out = attempt.characters // CHARACTERS_A_TOKEN + 1
            usage = Usage(self._walk.tokens_in, tokens_out, estimated=True)
        if result is AttemptResult.SUCCESS or attempt.characters:
            self._add_up(grant, usage)
        return usage

    def _add_up(self, grant: Grant, usage: Usage) -> None:
        before = self.usage
        self.usage = usage if before is _NO_USAGE else before.plus(usage)
        price = grant.pool.spec.price
        if price is not None:
            spent = (usage.input_tokens * price.input + usage.output_tokens * price.output) / 1e6
            self.cost = spent if self.cost is None else self.cost + spent


async def close_all(attempts: list[Attempt]) -> None:
    """End the upstream calls of attempts that were settled before."""
    if len(attempts) == 1:
        await attempts[0].aclose()
    elif attempts:
        await asyncio.gather(*(attempt.aclose() for attempt in attempts))
