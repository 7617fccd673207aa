"""Tells of one request: each method makes an event, publishes it and hands it back for the caller."""

from __future__ import annotations

from collections.abc import Sequence

from smartfallback.clock import Clock
from smartfallback.engine.attempt import Attempt
from smartfallback.engine.bus import Bus
from smartfallback.engine.grant import Grant
from smartfallback.model.events import (
    AnswerResumed,
    AttemptDiverted,
    AttemptFailed,
    AttemptOutrun,
    AttemptStarted,
    Delta,
    RequestCancelled,
    RequestDegraded,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
)
from smartfallback.model.outcomes import AttemptRecord, Failure, NextStep, RequestError
from smartfallback.model.requests import Degradation, Origin, Reply, Seam


class Announcer:
    """Publishes the events of one request."""

    def __init__(self, request_id: str, origin: Origin, chain: str, bus: Bus, clock: Clock) -> None:
        self._request_id = request_id
        self._origin = origin
        self._chain = chain
        self._bus = bus
        self._clock = clock

    def routed(self, grant: Grant) -> RequestRouted:
        """The first candidate is chosen."""
        event = RequestRouted(*self._head(), self._chain, self._origin, grant.decision)
        self._bus.publish(event)
        return event

    def attempt_started(self, number: int, grant: Grant, *, hedge: bool) -> AttemptStarted:
        """A candidate is being tried."""
        account = grant.account
        event = AttemptStarted(
            *self._head(),
            number,
            account.id,
            grant.pool.name,
            grant.pool.provider.id,
            grant.model,
            grant.decision,
            hedge,
        )
        self._bus.publish(event)
        return event

    def attempt_failed(self, attempt: Attempt, failure: Failure, then: NextStep) -> AttemptFailed:
        """An attempt ended in an error."""
        event = AttemptFailed(
            *self._head(),
            attempt.number,
            attempt.grant.account.id,
            attempt.grant.pool.name,
            attempt.grant.pool.provider.id,
            attempt.latency_s,
            failure,
            then,
        )
        self._bus.publish(event)
        return event

    def attempt_diverted(self, attempt: Attempt, reason: str) -> AttemptDiverted:
        """The operator moved an attempt away."""
        event = AttemptDiverted(
            *self._head(),
            attempt.number,
            attempt.grant.account.id,
            attempt.grant.pool.name,
            attempt.grant.pool.provider.id,
            attempt.latency_s,
            reason,
        )
        self._bus.publish(event)
        return event

    def attempt_outrun(self, attempt: Attempt, winner: int) -> AttemptOutrun:
        """Another attempt of the hedged pair answered first."""
        event = AttemptOutrun(
            *self._head(),
            attempt.number,
            attempt.grant.account.id,
            attempt.grant.pool.name,
            attempt.grant.pool.provider.id,
            attempt.latency_s,
            winner,
        )
        self._bus.publish(event)
        return event

    def resumed(self, seam: Seam) -> AnswerResumed:
        """A broken answer goes on."""
        event = AnswerResumed(*self._head(), seam)
        self._bus.publish(event)
        return event

    def queued(self, priority: int, place: int, expires_at: float, failure: Failure) -> RequestQueued:
        """The request waits for capacity to return."""
        event = RequestQueued(*self._head(), self._origin, self._chain, priority, place, expires_at, failure)
        self._bus.publish(event)
        return event

    def replayed(self, waited_s: float, *, restored: bool) -> RequestReplayed:
        """The request leaves the queue to be tried again."""
        event = RequestReplayed(*self._head(), self._origin, self._chain, waited_s, restored)
        self._bus.publish(event)
        return event

    def degraded(self, degradation: Degradation) -> RequestDegraded:
        """The answer is less than what was asked for."""
        event = RequestDegraded(*self._head(), degradation)
        self._bus.publish(event)
        return event

    def delta(self, text: str) -> Delta:
        """A piece of text, for the caller only; it shares the number of the event before it."""
        return Delta(self._bus.last_seq, self._clock.time(), self._request_id, text)

    def finished(self, reply: Reply) -> RequestFinished:
        """The answer is complete."""
        event = RequestFinished(*self._head(), self._origin, reply)
        self._bus.publish(event)
        return event

    def failed(self, error: RequestError, latency_s: float, partial_characters: int) -> None:
        """Nobody could answer, or the answer broke off."""
        self._bus.publish(
            RequestFailed(
                *self._head(),
                self._origin,
                self._chain,
                error.failure,
                error.attempts,
                latency_s,
                partial_characters,
                error.next_available_at,
                error.skipped,
            )
        )

    def cancelled(self, records: Sequence[AttemptRecord], latency_s: float) -> None:
        """The caller went away."""
        self._bus.publish(RequestCancelled(*self._head(), self._origin, tuple(records), latency_s))

    def _head(self) -> tuple[int, float, str]:
        return self._bus.next_seq(), self._clock.time(), self._request_id
