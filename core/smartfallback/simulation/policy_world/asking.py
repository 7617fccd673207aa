"""One request's life without a loop: each wait is an event, each decision the engine's own.

It goes the way of ``engine.run``: what is decided comes from the planner, from ``Candidates`` (which
asks ``policy.recovery``) and from the settlement; only the waiting is done otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, cast

from smartfallback.engine.candidates import Candidates
from smartfallback.engine.grant import Grant
from smartfallback.engine.refusals import DEADLINE_PASSED, nobody_can_serve
from smartfallback.engine.roster import ProviderRuntime
from smartfallback.engine.settlement import Received
from smartfallback.engine.walk import CHARACTERS_A_TOKEN, Walk
from smartfallback.model.outcomes import ErrorCategory, Failure, NextStep, TimeoutPhase
from smartfallback.model.requests import Request
from smartfallback.policy.recovery import FAILOVER_S, Recovery
from smartfallback.simulation.policy_world.tries import Try

if TYPE_CHECKING:
    from smartfallback.engine.attempt import Attempt
    from smartfallback.simulation.policy_world.world import World

MOST_SEAMS: Final = 3
_RECHECK_S: Final = 1.0
_LEAST_FIRST_TOKEN_S: Final = 0.5
_NO_TOKEN: Final = Failure(ErrorCategory.TIMEOUT, "no first token", phase=TimeoutPhase.FIRST_TOKEN)
_DEADLINE: Final = Failure(ErrorCategory.TIMEOUT, "the request's deadline passed", phase=TimeoutPhase.TOTAL)


class Asking:
    """One request, from its arrival to its end.

    Attributes:
        world: Where it happens.
        walk: Its way through the chain.
        running: One attempt, or two of a hedged pair.
        over: How it ended, empty before.
    """

    def __init__(self, world: World, number: int, request: Request, timeout_s: float) -> None:
        self.world = world
        self.number = number
        chain = world.chain
        pinned = None if request.pin is None else world.roster.accounts[request.pin]
        self.walk = Walk(request, chain, timeout_s, pinned)
        clock = world.clock
        self._deadline = clock.now + timeout_s
        self._candidates = Candidates(self.walk, world.services, self._deadline, clock.monotonic)
        self._asked: dict[ProviderRuntime, float] = {}
        self._begun = 0
        self._breaks = 0
        self._text = 0
        self._waits = False
        self._retried: Grant | None = None
        self._failure: Failure | None = None
        self.running: list[Try] = []
        self.over = ""

    # -- looking for a candidate -------------------------------------------------------------

    def look(self) -> None:
        """Find the next candidate; wait in line while all that could serve are busy."""
        world, walk = self.world, self.walk
        planner, line = world.services.planner, world.line
        while not self.over:
            if world.clock.now >= self._deadline:
                self._end("failed", self._failure or DEADLINE_PASSED)
                return
            grant = None if len(line) else planner.choose(walk)
            if grant is not None:
                self._begin(grant)
                return
            if len(line) or planner.has_busy(walk):
                self._wait()
                return
            if not self._asks_for_less():
                return

    def _wait(self, retried: Grant | None = None) -> None:
        """Wait in line; with ``retried`` also for a place of the account that was asked before."""
        self._waits = True
        self._retried = retried
        self.world.line.enter(self)
        self.world.at(self._deadline, self._waited_long)

    def _asks_for_less(self) -> bool:
        if self._candidates.ask_for_less():
            return True
        self._end("failed", self._failure or nobody_can_serve(self.walk))
        return False

    def _waited_long(self) -> None:
        if self._waits and not self.over and self.world.clock.now >= self._deadline:
            self.world.line.leave(self)
            self._waits = False
            self.look()

    @property
    def kind(self) -> Hashable:
        """See :class:`~smartfallback.simulation.policy_world.line.Caller`."""
        retried = self._retried
        return (*self.walk.kind, None if retried is None else (retried.account.id, retried.cheaper))

    def take(self) -> Grant | None:
        """Take a place if there is one that suits."""
        planner, retried = self.world.services.planner, self._retried
        again = None if retried is None else planner.retry(self.walk, retried)
        return again or planner.choose(self.walk)

    def hopeless(self) -> bool:
        """Whether no place can come free that would suit."""
        planner, retried = self.world.services.planner, self._retried
        waits = retried is not None and planner.is_busy(self.walk, retried)
        return not waits and not planner.has_busy(self.walk)

    def served(self, grant: Grant | None) -> None:
        """The wait in line is over."""
        self._waits = False
        retried, self._retried = self._retried, None
        if grant is not None:
            self._begin(grant)
        elif retried is not None or self._asks_for_less():
            self.look()

    # -- attempts ----------------------------------------------------------------------------

    def _begin(self, grant: Grant, *, hedge: bool = False) -> None:
        world, walk = self.world, self.walk
        now = world.clock.now
        if now >= self._deadline:
            world.services.settlement.given_up(grant, Received())
            self._end("failed", self._failure or DEADLINE_PASSED)
            return
        self._begun += 1
        (walk.tried_cheaper if grant.cheaper else walk.tried).add(grant.account)
        course = world.upstreams.course(grant, now, world.clock.time())
        attempt = Try(self, grant, self._begun, now, course)
        attempt.limit_s, attempt.hurried = self._first_token_limit(grant)
        self.running.append(attempt)
        # The operator moves attempts away; that is all that anybody asks of them.
        grant.account.attempts.add(cast("Attempt", attempt))
        decision = grant.decision
        kind = "hedges with" if hedge else "asks"
        world.trace.say(
            f"r{self.number} {kind} {grant.account.id} {grant.model} {decision.tier} by {decision.rule}"
        )
        world.guard.admitted(attempt, self.running)
        due_s = min(course.first_s, course.end_s, attempt.limit_s)
        world.at(min(now + due_s, self._deadline), lambda: self._due(attempt))
        hedge_s = walk.chain.spec.hedge_after_s
        if not hedge and hedge_s is not None and walk.pinned is None and not grant.pool.is_local:
            world.at(now + hedge_s, lambda: self._hedge(attempt))

    def _first_token_limit(self, grant: Grant) -> tuple[float, bool]:
        """Seconds to wait for content, and whether that is less than the pool is due."""
        now = self.world.clock.now
        provider = grant.pool.provider
        asked = self._asked.setdefault(provider, now)
        limit_s = grant.pool.spec.timeouts.first_token_s
        if asked == now:
            return limit_s, False
        left = max(_LEAST_FIRST_TOKEN_S, FAILOVER_S - (now - asked))
        if left >= limit_s or not self.world.services.planner.alternative(self.walk, outside=provider):
            return limit_s, False
        return left, True

    def _has_alternative(self) -> bool:
        return len(self.running) > 1 or self.world.services.planner.alternative(self.walk) is not None

    def _due(self, attempt: Try) -> None:
        """The attempt's next event: its first token, its end, or a limit."""
        if attempt.over or attempt.diverted:
            return
        now, course = self.world.clock.now, attempt.course
        if attempt.begun:
            if now < attempt.started + course.end_s:
                self._broke_off(attempt, _DEADLINE)
            elif course.failure is not None:
                self._broke_off(attempt, course.failure)
            else:
                self._succeeded(attempt)
        elif now >= attempt.started + min(course.first_s, course.end_s):
            if course.first_s < math.inf:
                self._answers(attempt)
            elif course.failure is not None:
                self._failed(attempt, course.failure)
        elif now >= self._deadline:
            self._failed(attempt, _DEADLINE)
        elif self._has_alternative():
            self._failed(attempt, _NO_TOKEN)
        else:
            coming = min(now + _RECHECK_S, attempt.started + min(course.first_s, course.end_s))
            self.world.at(min(coming, self._deadline), lambda: self._due(attempt))

    def _hedge(self, first: Try) -> None:
        if first.over or first.begun or first.diverted or len(self.running) > 1:
            return
        grant = self._candidates.hedge(first.grant.pool.provider)
        if grant is not None:
            self._begin(grant, hedge=True)

    def _answers(self, attempt: Try) -> None:
        world, grant = self.world, attempt.grant
        attempt.begun = True
        if grant.account.failed_models:
            grant.account.failed_models.pop(grant.model, None)
        world.services.settlement.answering(grant)
        for loser in [other for other in self.running if other is not attempt]:
            self._give_up(loser, "outrun")
        world.at(min(attempt.started + attempt.course.end_s, self._deadline), lambda: self._due(attempt))

    # -- ends --------------------------------------------------------------------------------

    def _leave(self, attempt: Try, how: str) -> None:
        account = attempt.grant.account
        self.running.remove(attempt)
        account.attempts.discard(cast("Attempt", attempt))
        attempt.over = True
        self.world.trace.say(f"r{self.number} {how} {account.id}")

    def _succeeded(self, attempt: Try) -> None:
        world, usage = self.world, attempt.course.usage
        self._leave(attempt, "answered by")
        with world.guard.ending(attempt, usage.total_tokens):
            world.services.settlement.succeeded(attempt.grant, usage)
        self._end("answered")

    def _give_up(self, attempt: Try, how: str) -> None:
        world = self.world
        received = self._received(attempt)
        self._leave(attempt, how)
        with world.guard.ending(attempt, _spent(attempt.grant, received)):
            world.services.settlement.given_up(attempt.grant, received)

    def _settle_failed(self, attempt: Try, failure: Failure) -> None:
        world = self.world
        received = self._received(attempt)
        self._leave(attempt, f"failed by {failure.category} at")
        hurried = attempt.hurried
        if failure.phase is TimeoutPhase.TOTAL:
            hurried = attempt.begun or attempt.latency_s < attempt.limit_s
        with world.guard.ending(attempt, _spent(attempt.grant, received)):
            world.services.settlement.failed(attempt.grant, failure, received, blame=not hurried)
        world.guard.failed(attempt.grant, failure, blame=not hurried)

    @staticmethod
    def _received(attempt: Try) -> Received:
        if not attempt.begun:
            return Received()
        course = attempt.course
        characters = course.characters or CHARACTERS_A_TOKEN * course.usage.output_tokens // 2
        return Received(characters)

    def _failed(self, attempt: Try, failure: Failure) -> None:
        """An attempt ended without an answer; another of a hedged pair may still run."""
        self._settle_failed(attempt, failure)
        recovery = self._candidates.decide(attempt, failure, self, hedged=bool(self.running))
        if not self.running:
            self._failure = failure
            self._recover(attempt.grant, recovery)

    def moved(self, attempt: Try) -> None:
        """The operator moved the attempt away."""
        if attempt.over:
            return
        self._give_up(attempt, "moved away from")
        if not self.running:
            self._recover(attempt.grant, Recovery(NextStep.SWITCH_ACCOUNT, 0.0))

    def _broke_off(self, attempt: Try, failure: Failure) -> None:
        """The answer broke off: have it continued, if somebody can."""
        self._settle_failed(attempt, failure)
        self._failure = failure
        self._breaks += 1
        recovery = self._candidates.decide(attempt, failure, self, breaks=self._breaks)
        if recovery.step is NextStep.FAIL or self._breaks > MOST_SEAMS:
            self._end("broken off", failure)
            return
        self._text += self._received(attempt).characters
        self.walk.go_on_from("x" * self._text, self._text // CHARACTERS_A_TOKEN)
        self._recover(attempt.grant, recovery)

    def _recover(self, grant: Grant, recovery: Recovery) -> None:
        if recovery.step is NextStep.FAIL:
            self._end("failed", self._failure)
        elif recovery.wait_s > 0:
            now = self.world.clock.now
            self.world.at(now + recovery.wait_s, lambda: self._follow(grant, recovery))
        else:
            self._follow(grant, recovery)

    def _follow(self, grant: Grant, recovery: Recovery) -> None:
        if self.over:
            return
        if self.world.clock.now >= self._deadline:
            self._end("failed", self._failure)
            return
        again = self._candidates.follow(grant, recovery)
        if again is None and self._place_taken(grant, recovery):
            again = self.world.services.planner.choose(self.walk)
            if again is None:
                self._wait(grant)
                return
        if again is None:
            self.look()
        else:
            self._begin(again)

    def _place_taken(self, grant: Grant, recovery: Recovery) -> bool:
        """Whether others took the account's places while it was to be asked again."""
        failure = self._failure
        overflow = failure is not None and failure.context_overflow and recovery.step is NextStep.DEGRADE
        retries = overflow or recovery.step is NextStep.RETRY
        return retries and self.world.services.planner.is_busy(self.walk, grant)

    def cancel(self) -> None:
        """The caller goes away."""
        if self.over:
            return
        for attempt in tuple(self.running):
            self._give_up(attempt, "cancelled at")
        self.world.line.leave(self)
        self._waits = False
        self._end("cancelled")

    def _end(self, how: str, failure: Failure | None = None) -> None:
        self.over = how
        self.world.trace.say(f"r{self.number} {how}{f' with {failure.category}' if failure else ''}")
        self.world.ended(self)

    # -- what decisions ask of the request ---------------------------------------------------

    def provider_s(self, provider: ProviderRuntime) -> float:
        """How long ago the request asked the provider first."""
        return self._since(provider)

    def leaves(self, provider: ProviderRuntime) -> bool:
        """Whether the provider had its time with this request."""
        return self._since(provider) >= FAILOVER_S - _LEAST_FIRST_TOKEN_S

    def _since(self, asked: ProviderRuntime) -> float:
        now = self.world.clock.now
        return now - self._asked.get(asked, now)


def _spent(grant: Grant, received: Received) -> int:
    """What the settlement takes a broken answer to have cost."""
    if not received.characters:
        return 0
    return grant.estimate.tokens - grant.output_estimate + received.characters // CHARACTERS_A_TOKEN
