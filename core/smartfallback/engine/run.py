"""One request from its arrival to its answer or its error."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from smartfallback.clock import Clock
from smartfallback.engine.announcer import Announcer
from smartfallback.engine.attempt import Attempt, Diverted, Stopped
from smartfallback.engine.bus import Bus
from smartfallback.engine.capacity import Capacity, Claim
from smartfallback.engine.degradation import degradations, trimmed
from smartfallback.engine.grant import Grant
from smartfallback.engine.planner import Planner
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.engine.refusals import CLOSED, DEADLINE_PASSED, nobody_can_serve
from smartfallback.engine.roster import AccountRuntime, Chain
from smartfallback.engine.settlement import Received, Settlement
from smartfallback.engine.walk import CHARACTERS_A_TOKEN, Walk
from smartfallback.model.decisions import SkipReason
from smartfallback.model.events import (
    AttemptDiverted,
    AttemptFailed,
    AttemptStarted,
    Event,
    RequestFinished,
)
from smartfallback.model.outcomes import (
    AttemptRecord,
    AttemptResult,
    ErrorCategory,
    Failure,
    NextStep,
    ProviderError,
    RequestError,
    TimeoutPhase,
)
from smartfallback.model.quota import WindowReading
from smartfallback.model.requests import Degradation, Reply, Request, Usage
from smartfallback.policy.recovery import RULES, Recovery, SwitchScope, next_step
from smartfallback.policy.retry_budget import RetryBudget
from smartfallback.providers.base import Call, Chunk


@dataclass(frozen=True, slots=True)
class Services:
    """What a run works with; one set an orchestrator."""

    planner: Planner
    settlement: Settlement
    bus: Bus
    clock: Clock
    rng: random.Random
    budget: RetryBudget
    capacity: Capacity
    queue: QueueDesk
    learn: Callable[[AccountRuntime, Sequence[WindowReading]], None]
    check: Callable[[str], None]


class Run:
    """Yields the events of one request's life; its attempts follow each other until one answers."""

    def __init__(
        self,
        request_id: str,
        request: Request,
        chain: Chain,
        services: Services,
        pinned: AccountRuntime | None,
    ) -> None:
        self._request_id = request_id
        self._request = request
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        timeout_s = request.timeout_s if request.timeout_s is not None else chain.spec.timeout_s
        self._deadline = self._started + timeout_s
        self._chain = chain
        self._announce = Announcer(request_id, request.origin, chain.name, services.bus, services.clock)
        self._walk = Walk(request, chain, timeout_s, pinned)
        self._attempt: Attempt | None = None
        self._records: list[AttemptRecord] = []
        self._degradations: tuple[Degradation, ...] = ()
        self._retries_done = 0
        self._text: list[str] = []
        self._last_failure: Failure | None = None
        self._ended = False
        self._closing = asyncio.Event()
        self.stopped = asyncio.Event()
        """Set when nothing is held or waited for any more."""

    def close(self) -> None:
        """End the request because the orchestrator closes; nobody is blamed."""
        self._closing.set()
        if self._attempt is not None:
            self._attempt.stop()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The request's events in order, ending with RequestFinished.

        Raises:
            RequestError: Nobody could answer, or the answer broke off.
        """
        try:
            grant = await self._next_grant()
            routed, started = self._announce.routed(grant), self._begin(grant)
            yield routed
            while True:
                yield started
                first = await self._first_chunk()
                if isinstance(first, Chunk):
                    break
                event, recovery = first
                yield event
                grant = await self._recover(grant, recovery)
                started = self._begin(grant)
            self._degradations = degradations(self._request, self._walk.messages, self._chain, grant)
            for degradation in self._degradations:
                yield self._announce.degraded(degradation)
            first_token_s = self._elapsed()
            chunk: Chunk | None = first
            finish_reason: str | None = None
            while chunk is not None:
                if chunk.text:
                    self._text.append(chunk.text)
                    yield self._announce.delta(chunk.text)
                finish_reason = chunk.finish_reason or finish_reason
                chunk = await self._next_chunk(finished=finish_reason is not None)
            yield await self._finish(finish_reason, first_token_s)
        except RequestError as error:
            self._ended = True
            stopped = self._release()
            self._announce.failed(error, self._elapsed())
            if stopped is not None:
                await stopped.aclose()
            raise
        finally:
            try:
                if not self._ended:
                    await self._cancelled()
            finally:
                self.stopped.set()

    async def _next_grant(self) -> Grant:
        """The next candidate; waits while all that could serve are busy.

        Raises:
            RequestError: No account can serve the request.
        """
        services = self._services
        walk = self._walk
        while True:
            if self._closing.is_set():
                raise self._error(CLOSED)
            if self._loop.time() >= self._deadline:
                raise self._error(self._last_failure or DEADLINE_PASSED)
            grant = None if len(services.capacity) else services.planner.choose(walk)
            if grant is None and (len(services.capacity) or services.planner.has_busy(walk)):
                grant = await self._wait_in_line()
            if grant is not None:
                return grant
            if self._closing.is_set() or self._loop.time() >= self._deadline:
                continue
            if not self._trim_for_context():
                raise self._error(self._last_failure or nobody_can_serve(walk))

    async def _wait_in_line(self) -> Grant | None:
        """A place handed over by somebody who left; None when there is none for this request."""
        services = self._services
        walk = self._walk
        return await services.capacity.wait(
            Claim(
                kind=walk.kind,
                take=lambda: services.planner.choose(walk),
                hopeless=lambda: not services.planner.has_busy(walk),
                give_back=lambda grant: services.settlement.given_up(grant, Received()),
            ),
            self._deadline,
        )

    def _begin(self, grant: Grant) -> AttemptStarted:
        """Start the attempt that ``grant`` allows.

        Raises:
            RequestError: The orchestrator closes; the grant is given back.
        """
        if self._closing.is_set():
            self._services.settlement.given_up(grant, Received())
            raise self._error(CLOSED)
        request = self._request
        number = len(self._records) + 1
        self._services.check(grant.account.id)
        call = Call(
            account=grant.account.spec,
            pool=grant.pool.spec,
            model=grant.model,
            messages=self._walk.messages,
            max_output_tokens=request.max_output_tokens,
            temperature=request.temperature,
            stream=request.stream,
        )
        self._attempt = Attempt(
            grant, number, call, self._deadline, self._has_alternative, self._services.learn
        )
        grant.account.attempts.add(self._attempt)
        return self._announce.attempt_started(number, grant)

    async def _first_chunk(self) -> Chunk | tuple[Event, Recovery]:
        """The chunk that opens the answer, or the failed attempt's event and what to do next."""
        attempt = self._current()
        try:
            chunk = await attempt.first()
            if not chunk.text and chunk.finish_reason == "stop":
                raise ProviderError(Failure(ErrorCategory.MALFORMED_RESPONSE, "the answer is empty"))
        except ProviderError as error:
            return await self._attempt_failed(error.failure)
        except Diverted as diverted:
            return await self._attempt_diverted(str(diverted))
        except Stopped:
            raise self._error(CLOSED) from None
        attempt.text_received = True
        self._services.settlement.answering(attempt.grant)
        return chunk

    async def _next_chunk(self, *, finished: bool) -> Chunk | None:
        """The next piece of an answer that has begun.

        Raises:
            RequestError: The answer broke off; what was received is in ``partial``.
        """
        try:
            chunk = await self._current().next(finished=finished)
            if chunk is None and not finished:
                raise ProviderError(Failure(ErrorCategory.MALFORMED_RESPONSE, "the stream was cut off"))
        except ProviderError as error:
            if finished:
                return None
            event, _ = await self._attempt_failed(error.failure, broke_off=True)
            raise self._error(event.failure) from None
        except Stopped:
            raise self._error(CLOSED) from None
        return chunk

    async def _attempt_failed(
        self, failure: Failure, *, broke_off: bool = False
    ) -> tuple[AttemptFailed, Recovery]:
        services = self._services
        attempt = self._close_attempt()
        grant = attempt.grant
        self._last_failure = failure
        in_a_hurry = failure.phase is TimeoutPhase.TOTAL and not attempt.was_given_its_time
        services.settlement.failed(grant, failure, attempt.received, blame=not in_a_hurry)
        self._walk.tried.add(grant.account)
        recovery = (
            Recovery(NextStep.FAIL, 0.0) if broke_off else self._decide(grant, failure, attempt.latency_s)
        )
        self._record(attempt, AttemptResult.FAILED, failure)
        event = self._announce.attempt_failed(attempt, failure, recovery.step)
        await attempt.aclose()
        return event, recovery

    async def _attempt_diverted(self, reason: str) -> tuple[AttemptDiverted, Recovery]:
        services = self._services
        attempt = self._close_attempt()
        grant = attempt.grant
        services.settlement.given_up(grant, attempt.received)
        self._walk.tried.add(grant.account)
        self._record(attempt, AttemptResult.DIVERTED, None)
        event = self._announce.attempt_diverted(attempt, reason)
        await attempt.aclose()
        return event, Recovery(NextStep.SWITCH_ACCOUNT, 0.0)

    def _decide(self, grant: Grant, failure: Failure, attempt_s: float) -> Recovery:
        services = self._services
        switches_pool = RULES[failure.category].switch is SwitchScope.POOL or failure.permanent
        outside = grant.pool.provider if switches_pool else None
        planner, walk = services.planner, self._walk
        return next_step(
            failure,
            retries_done=self._retries_done,
            has_alternative=planner.has_alternative(walk, outside=outside)
            or planner.has_busy(walk, outside=outside),
            time_left_s=self._deadline - self._loop.time(),
            budget=lambda: services.budget.try_spend(services.clock.monotonic()),
            rng=services.rng,
            switch_on_content_filter=self._chain.spec.switch_on_content_filter,
            can_trim=trimmed(self._walk.messages) is not None,
            attempt_s=attempt_s,
        )

    async def _recover(self, grant: Grant, recovery: Recovery) -> Grant:
        """Wait if the recovery says so, then the candidate for the next attempt.

        Raises:
            RequestError: The recovery is to fail, or nobody is left.
        """
        failure = self._last_failure
        if recovery.step is NextStep.FAIL:
            raise self._error(failure or nobody_can_serve(self._walk))
        if recovery.wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(recovery.wait_s):
                    await self._closing.wait()
        again: Grant | None = None
        if recovery.step is NextStep.DEGRADE:
            self._trim()
            again = self._services.planner.retry(self._walk, grant.account)
        elif recovery.step is NextStep.RETRY:
            self._retries_done += 1
            again = self._retry(grant, failure)
        else:
            self._retries_done = 0
            if recovery.step is NextStep.SWITCH_POOL:
                self._walk.closed_pools.update(grant.pool.provider.pools)
        return again or await self._next_grant()

    def _retry(self, grant: Grant, failure: Failure | None) -> Grant | None:
        """The same account again; for an error of the whole API, rather one of its siblings."""
        planner = self._services.planner
        if failure is not None and RULES[failure.category].switch is SwitchScope.POOL:
            sibling = planner.choose(self._walk)
            if sibling is not None:
                return sibling
        return planner.retry(self._walk, grant.account)

    async def _finish(self, finish_reason: str | None, first_token_s: float) -> RequestFinished:
        services = self._services
        attempt = self._close_attempt()
        grant = attempt.grant
        text = "".join(self._text)
        usage = attempt.usage
        if usage is None:
            usage = Usage(self._walk.tokens_in, len(text) // CHARACTERS_A_TOKEN + 1, estimated=True)
        services.settlement.succeeded(grant, usage)
        self._record(attempt, AttemptResult.SUCCESS, None)
        price = grant.pool.spec.price
        reply = Reply(
            request_id=self._request_id,
            text=text,
            account=grant.account.id,
            pool=grant.pool.name,
            provider=grant.pool.provider.id,
            model=grant.model,
            usage=usage,
            finish_reason=finish_reason or "stop",
            attempts=tuple(self._records),
            latency_s=self._elapsed(),
            first_token_s=first_token_s,
            cost=None
            if price is None
            else (usage.input_tokens * price.input + usage.output_tokens * price.output) / 1e6,
            degradations=self._degradations,
        )
        event = self._announce.finished(reply)
        self._ended = True
        await attempt.aclose()
        return event

    async def _cancelled(self) -> None:
        """The caller went away, or the generator was closed before its end."""
        attempt = self._release()
        self._announce.cancelled(self._records, self._elapsed())
        if attempt is not None:
            await attempt.aclose()

    def _release(self) -> Attempt | None:
        """Give back what a running attempt holds, without blame; the attempt is yet to be closed."""
        attempt = self._attempt
        if attempt is not None:
            self._close_attempt()
            self._services.settlement.given_up(attempt.grant, attempt.received)
            self._record(attempt, AttemptResult.CANCELLED, None)
        return attempt

    def _current(self) -> Attempt:
        if self._attempt is None:
            raise RuntimeError("no attempt is running")
        return self._attempt

    def _close_attempt(self) -> Attempt:
        attempt = self._current()
        self._attempt = None
        attempt.grant.account.attempts.discard(attempt)
        return attempt

    def _record(self, attempt: Attempt, result: AttemptResult, failure: Failure | None) -> None:
        grant = attempt.grant
        self._records.append(
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

    def _has_alternative(self) -> bool:
        attempt = self._attempt
        if attempt is None:
            return False
        walk = self._walk
        account = attempt.grant.account
        walk.tried.add(account)
        try:
            return self._services.planner.has_alternative(walk)
        finally:
            walk.tried.discard(account)

    def _trim(self) -> bool:
        shorter = trimmed(self._walk.messages)
        if shorter is not None:
            self._walk.trim(shorter)
        return shorter is not None

    def _trim_for_context(self) -> bool:
        """Shorten the conversation if its length alone keeps every pool from serving it."""
        skips = self._walk.skips
        return any(skip.reason is SkipReason.CONTEXT for skip in skips) and self._trim()

    def _elapsed(self) -> float:
        return self._loop.time() - self._started

    def _error(self, failure: Failure) -> RequestError:
        walk = self._walk
        return RequestError(
            self._request_id,
            failure,
            self._records,
            partial="".join(self._text),
            next_available_at=self._services.planner.next_available_at(walk),
            skipped=[str(skip) for skip in walk.skips if skip.reason is not SkipReason.TRIED],
        )
