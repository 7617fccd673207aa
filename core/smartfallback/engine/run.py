"""One request from its arrival to its answer or its error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from smartfallback.engine.announcer import Announcer
from smartfallback.engine.answer_text import AnswerText
from smartfallback.engine.attempt import Attempt, Diverted, Stopped
from smartfallback.engine.candidates import Candidates, UnservedError
from smartfallback.engine.degradation import cached_answer, degradations, with_seams
from smartfallback.engine.grant import Grant
from smartfallback.engine.race import Ended, HedgeDue, Race
from smartfallback.engine.refusals import CLOSED, DEADLINE_PASSED, is_passing
from smartfallback.engine.roster import AccountRuntime, Chain
from smartfallback.engine.services import Services
from smartfallback.engine.settlement import Received
from smartfallback.engine.stay import Restored, Stay
from smartfallback.engine.tries import Tries, close_all
from smartfallback.engine.walk import CHARACTERS_A_TOKEN, Walk
from smartfallback.model.decisions import SkipReason
from smartfallback.model.events import AttemptStarted, Event, RequestQueued
from smartfallback.model.outcomes import (
    AttemptResult,
    ErrorCategory,
    Failure,
    NextStep,
    ProviderError,
    RequestError,
)
from smartfallback.model.requests import Degradation, OnBreak, Reply, Request, Seam
from smartfallback.policy.overlap import RestartedError
from smartfallback.policy.recovery import Recovery
from smartfallback.providers.base import Chunk

MOST_SEAMS = 3
"""An answer that broke off more often than that is given up."""

Phase = Callable[[], Awaitable[Sequence[Event]]]


class Run:
    """Yields the events of one request's life; its attempts follow each other until one answers.

    A request is in one phase at a time: it looks for a candidate, waits in the queue, waits for the
    first token, or reads the answer. Each phase waits for one thing, says what happened, and which
    phase is next.

    Args:
        request_id: Its name in all events.
        request: What is asked.
        chain: Where it is asked.
        services: What all requests share.
        pinned: The only account that may answer, None for any of the chain.
        on_break: What follows when the answer breaks off.
        restored: The time in the queue that it comes from; None for a new request.
    """

    def __init__(
        self,
        request_id: str,
        request: Request,
        chain: Chain,
        services: Services,
        pinned: AccountRuntime | None,
        *,
        on_break: OnBreak = OnBreak.ERROR,
        restored: Restored | None = None,
    ) -> None:
        self._request_id = request_id
        self._request = request
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._timeout_s = request.timeout_s if request.timeout_s is not None else chain.spec.timeout_s
        self._chain = chain
        self._goes_on = on_break is OnBreak.CONTINUE and request.keep_text
        self._announce = Announcer(request_id, request.origin, chain.name, services.bus, services.clock)
        self._walk = Walk(request, chain, self._timeout_s, pinned)
        self._tries = Tries(self._walk, services, self._announce)
        deadline = self._started + self._timeout_s
        self._candidates = Candidates(self._walk, services, deadline, self._loop.time)
        self._stay: Stay | None = None
        self._restored = restored
        self._text = AnswerText(keep=request.keep_text)
        self._degradations: tuple[Degradation, ...] = ()
        self._failed: tuple[Grant, Recovery] | None = None
        self._race: Race | None = None
        self._attempt: Attempt | None = None
        self._closing: asyncio.Task[None] | None = None
        self._finish_reason: str | None = None
        self._first_token_s: float | None = None
        self._routed = False
        self._ended = False
        self.stopped = asyncio.Event()
        """Set when nothing is held or waited for any more."""

    def close(self) -> None:
        """End the request because the orchestrator closes; nobody is blamed."""
        self._candidates.closing.set()
        for attempt in self._tries.running:
            attempt.stop()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The request's events in order, ending with RequestFinished.

        Raises:
            RequestError: Nobody could answer, or the answer broke off.
        """
        self._phase: Phase | None = self._look
        try:
            if self._restored is not None:
                yield self._queued(self._restored.failure)
            while self._phase is not None:
                for event in await self._phase():
                    yield event
        except RequestError as error:
            self._ended = True
            stopped = self._tries.give_all_up()
            error.attempts = tuple(self._tries.records)
            self._announce.failed(error, self._elapsed(), self._text.characters)
            await close_all(stopped)
            raise
        finally:
            if self._stay is not None:
                self._stay.over()
            try:
                if not self._ended:
                    # The caller went away, or the generator was closed before its end.
                    stopped = self._tries.give_all_up()
                    self._announce.cancelled(self._tries.records, self._elapsed())
                    await close_all(stopped)
            finally:
                if self._closing is not None:
                    await asyncio.wait((self._closing,))  # the closing of an attempt is bounded
                # What refers back to the run would leave a cycle for the garbage collector each time.
                self._phase = self._race = self._attempt = None
                self.stopped.set()

    # -- phases -----------------------------------------------------------------------------

    async def _look(self) -> Sequence[Event]:
        """Find the next candidate and ask it; when there is none, take what else there is."""
        failed, self._failed = self._failed, None
        candidates = self._candidates
        try:
            grant = await (candidates.first() if failed is None else candidates.recover(*failed))
        except UnservedError as error:
            failure = candidates.last_failure = error.failure
            resort = self._resort(failure)
            if resort is NextStep.CACHE:
                return self._answer_from_cache()
            if resort is NextStep.QUEUE:
                return (self._queued(failure),)
            raise self._error(failure) from None
        return self._ask(grant)

    async def _wait_for_replay(self) -> Sequence[Event]:
        """Wait in the queue until there is somebody to ask."""
        replay = await self._waiting().end()
        if replay is None:
            failure = self._candidates.last_failure
            raise self._error(CLOSED if self._candidates.closing.is_set() or failure is None else failure)
        grant, event = replay
        self._candidates.again(self._loop.time() + self._timeout_s)
        self._tries.again()
        try:
            grant = await self._candidates.admitted(grant)
        except UnservedError as error:
            raise self._error(error.failure) from None
        return (event, *self._ask(grant))

    async def _wait_for_token(self) -> Sequence[Event]:
        """Wait until an attempt answers or fails."""
        race = self._race = self._race or Race(self._tries.running, self._hedge_after_s(), self._loop.time)
        happened = await race.next()
        if isinstance(happened, HedgeDue):
            hedge = self._candidates.hedge(happened.attempt.grant.pool.provider)
            return () if hedge is None else (self._begin(hedge, hedge=True),)
        if isinstance(happened, Ended):
            return (await self._attempt_ended(happened),)
        attempt = self._attempt = happened.attempt
        self._tries.answers(attempt)
        if self._stay is not None:
            self._stay.answered()
        if self._first_token_s is None:
            self._first_token_s = self._elapsed()
        events = self._end_others(attempt)
        events += self._degraded(attempt.grant)
        self._phase = self._read
        self._finish_reason = None
        try:
            events += self._deliver(happened.chunk)
        except RestartedError:
            events.append(await self._broke_off(attempt, _restarted()))
        return events

    async def _read(self) -> Sequence[Event]:
        """Hand on the next piece of the answer, or end the request after the last one."""
        attempt = self._current()
        finished = self._finish_reason is not None
        chunk: Chunk | None = None
        try:
            chunk = await attempt.next(finished=finished)
            if chunk is None and not finished:
                raise ProviderError(Failure(ErrorCategory.MALFORMED_RESPONSE, "the stream was cut off"))
        except ProviderError as error:
            # What goes wrong after the final chunk costs nothing any more.
            if not finished:
                return (await self._broke_off(attempt, error.failure),)
        except Stopped:
            raise self._error(CLOSED) from None
        try:
            return await self._complete(attempt) if chunk is None else self._deliver(chunk)
        except RestartedError:
            return (await self._broke_off(attempt, _restarted()),)

    async def _complete(self, attempt: Attempt) -> Sequence[Event]:
        """End the request with the answer that is there.

        Raises:
            RestartedError: It does not continue what it was to continue.
        """
        rest = self._sewn(*self._text.end(attempt.grant.account.id))
        self._tries.succeeded(attempt)
        finished = self._finish(self._reply(attempt))
        await attempt.aclose()
        return [*rest, finished]

    # -- asking -----------------------------------------------------------------------------

    def _ask(self, grant: Grant) -> list[Event]:
        events: list[Event] = [] if self._routed else [self._announce.routed(grant)]
        self._routed = True
        self._phase = self._wait_for_token
        self._race = None
        return [*events, self._begin(grant)]

    def _begin(self, grant: Grant, *, hedge: bool = False) -> AttemptStarted:
        """Start the attempt that ``grant`` allows.

        Raises:
            RequestError: The orchestrator closes, or the deadline has passed; the grant is given back.
        """
        closes = self._candidates.closing.is_set()
        if closes or self._loop.time() >= self._candidates.deadline:
            self._services.settlement.given_up(grant, Received())
            raise self._error(CLOSED if closes else self._candidates.last_failure or DEADLINE_PASSED)
        return self._tries.begin(grant, self._candidates.deadline, hedge=hedge)

    def _hedge_after_s(self) -> float | None:
        local = self._tries.running[0].grant.pool.is_local
        return None if local or self._walk.pinned is not None else self._chain.spec.hedge_after_s

    def _queued(self, failure: Failure) -> RequestQueued:
        """Enter the queue.

        Raises:
            RequestError: It takes no more.
        """
        self._candidates.last_failure = failure
        entered = self._waiting().enter(failure, asked=bool(self._tries.begun))
        if isinstance(entered, Failure):
            raise self._error(entered)
        self._phase = self._wait_for_replay
        return entered

    def _resort(self, failure: Failure) -> NextStep:
        """What is left when nobody can answer: an earlier answer, the queue, or to fail."""
        if self._text.characters or self._candidates.closing.is_set():
            return NextStep.FAIL
        if self._cached(failure) is not None:
            return NextStep.CACHE
        # Who was refused first may be back before somebody has seen to the credentials of the last.
        others = (record.failure for record in self._tries.records if record.failure is not None)
        passing = is_passing(failure) or (
            failure.category is ErrorCategory.AUTHENTICATION and any(map(is_passing, others))
        )
        return NextStep.QUEUE if passing and self._waiting().possible else NextStep.FAIL

    # -- failing ----------------------------------------------------------------------------

    async def _attempt_ended(self, ended: Ended) -> Event:
        """An attempt ended without an answer; another of a hedged pair may still run."""
        attempt, error = ended.attempt, ended.error
        if isinstance(error, Stopped):
            raise self._error(CLOSED) from None
        event: Event
        if isinstance(error, Diverted):
            self._tries.given_up(attempt, AttemptResult.DIVERTED)
            recovery = Recovery(NextStep.SWITCH_ACCOUNT, 0.0)
            event = self._announce.attempt_diverted(attempt, str(error))
        else:
            failure = error.failure
            self._tries.failed(attempt, failure)
            hedged = bool(self._tries.running)
            recovery = self._candidates.decide(attempt, failure, self._tries, hedged=hedged)
            then = recovery.step
            if self._tries.running:
                then = NextStep.SWITCH_ACCOUNT
            elif then is NextStep.FAIL:
                then = self._resort(failure)
            event = self._announce.attempt_failed(attempt, failure, then)
        if not self._tries.running:
            self._failed = attempt.grant, recovery
            self._phase = self._look
        await attempt.aclose()
        return event

    async def _broke_off(self, attempt: Attempt, failure: Failure) -> Event:
        """The answer broke off: have it continued, if that is allowed and somebody can.

        Raises:
            RequestError: It ends here; what was received is in ``partial``.
        """
        self._tries.failed(attempt, failure)
        breaks = len(self._text.seams) + 1
        recovery = self._candidates.decide(attempt, failure, self._tries, breaks=breaks)
        goes_on = self._goes_on and recovery.step is not NextStep.FAIL and len(self._text.seams) < MOST_SEAMS
        then = NextStep.CONTINUE if goes_on else NextStep.FAIL
        event = self._announce.attempt_failed(attempt, failure, then)
        await attempt.aclose()
        if not goes_on:
            self._failed = attempt.grant, Recovery(NextStep.FAIL, 0.0)
        else:
            text = self._text
            text.broke_off(attempt.grant.account.id, str(failure))
            self._walk.go_on_from(str(text), text.characters // CHARACTERS_A_TOKEN)
            self._failed = attempt.grant, recovery
        self._phase = self._look
        return event

    def _end_others(self, winner: Attempt) -> list[Event]:
        """End the attempts that ``winner`` has outrun; its first token does not wait for that."""
        events: list[Event] = []
        losers = [attempt for attempt in self._tries.running if attempt is not winner]
        for loser in losers:
            self._tries.given_up(loser, AttemptResult.OUTRUN)
            events.append(self._announce.attempt_outrun(loser, winner.number))
        if losers:
            name = f"smartfallback-outrun-{self._request_id}"
            self._closing = asyncio.create_task(close_all(losers), name=name)
        return events

    # -- the answer -------------------------------------------------------------------------

    def _deliver(self, chunk: Chunk) -> Sequence[Event]:
        """What the caller gets of ``chunk``.

        Raises:
            RestartedError: It does not continue what it was to continue.
        """
        if chunk.finish_reason is not None and self._finish_reason is None:
            self._finish_reason = chunk.finish_reason
        text = chunk.text
        if not text:
            return ()
        if self._text.whole:  # as nearly every piece of every answer
            self._text.add(text)
            return (self._announce.delta(text),)
        return self._sewn(*self._text.take(text, self._current().grant.account.id))

    def _sewn(self, seam: Seam | None, text: str) -> list[Event]:
        events: list[Event] = [] if seam is None else [self._announce.resumed(seam)]
        if text:
            events.append(self._announce.delta(text))
        return events

    def _degraded(self, grant: Grant) -> list[Event]:
        """Tell in what the answer falls short, as far as that was not told before."""
        found = degradations(self._walk, self._chain, grant)
        told = self._degradations
        new = tuple(entry for entry in found if entry not in told)
        # What an answer lacks in its first part it lacks, whoever gives the rest.
        self._degradations = told + new if self._walk.continues else found
        return [self._announce.degraded(entry) for entry in new]

    def _reply(self, attempt: Attempt) -> Reply:
        grant = attempt.grant
        seams = tuple(self._text.seams)
        return Reply(
            request_id=self._request_id,
            text=str(self._text),
            account=grant.account.id,
            pool=grant.pool.name,
            provider=grant.pool.provider.id,
            model=grant.model,
            usage=self._tries.usage,
            finish_reason=self._finish_reason or "stop",
            attempts=tuple(self._tries.records),
            latency_s=self._elapsed(),
            first_token_s=self._first_token_s,
            cost=self._tries.cost,
            degradations=with_seams(self._degradations, seams),
            seams=seams,
            queued_s=self._queued_s(),
        )

    def _finish(self, reply: Reply) -> Event:
        self._ended = True
        self._phase = None
        if self._chain.spec.cache_s is not None and reply.cached_age_s is None:
            self._services.cache.put(self._request, reply, self._services.clock.monotonic())
        return self._announce.finished(reply)

    def _cached(self, failure: Failure) -> tuple[Reply, float] | None:
        """An answer to an equal request that may stand in, and its age."""
        cache_s = self._chain.spec.cache_s
        if cache_s is None or not is_passing(failure, for_all=False):
            return None
        return self._services.cache.get(self._request, self._services.clock.monotonic(), cache_s)

    def _answer_from_cache(self) -> list[Event]:
        found = self._cached(self._candidates.last_failure or CLOSED)
        if found is None:
            raise RuntimeError("an answer has left the cache within one step of the loop")
        records = tuple(self._tries.records)
        reply = cached_answer(*found, self._request_id, records, self._elapsed(), self._queued_s())
        events: list[Event] = [self._announce.degraded(entry) for entry in reply.degradations]
        return [*events, *self._sewn(*self._text.take(reply.text, reply.account)), self._finish(reply)]

    # -- the rest ---------------------------------------------------------------------------

    def _waiting(self) -> Stay:
        """The request's time in the queue, which few have."""
        if self._stay is None:
            self._stay = Stay(self._request_id, self._walk, self._services, self._announce, self._restored)
        return self._stay

    def _queued_s(self) -> float:
        return 0.0 if self._stay is None else self._stay.waited_s

    def _current(self) -> Attempt:
        if self._attempt is None:
            raise RuntimeError("no attempt has answered")
        return self._attempt

    def _elapsed(self) -> float:
        return self._loop.time() - self._started

    def _error(self, failure: Failure) -> RequestError:
        walk = self._walk
        self._candidates.last_failure = failure
        return RequestError(
            self._request_id,
            failure,
            self._tries.records,
            partial=str(self._text),
            next_available_at=self._services.planner.next_available_at(walk),
            skipped=[str(skip) for skip in walk.skips if skip.reason is not SkipReason.TRIED],
        )


def _restarted() -> Failure:
    message = "it began the answer anew instead of going on with it"
    return Failure(ErrorCategory.MALFORMED_RESPONSE, message)
