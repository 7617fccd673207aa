"""Keeps what became of requests, and takes up the latest of it after a restart.

An event that ends a request is only noted; rows are made of it when the store is brought up to date,
a few in one turn of the loop. So no request waits for its own history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from smartfallback.clock import Clock
from smartfallback.engine.meters import Meters
from smartfallback.model.events import (
    Event,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestRouted,
)
from smartfallback.model.history import Ending, PastAttempt, PastRequest
from smartfallback.model.outcomes import AttemptRecord
from smartfallback.model.recoveries import RecoveryRecord
from smartfallback.model.secrets import redact
from smartfallback.state.base import StateStore
from smartfallback.telemetry.recoveries import RecoveryLog

RESTORED_S: Final = 3_600.0
RESTORED: Final = 10_000
"""From so long before a start, and of so many requests at most, figures go on."""
MOST_UNWRITTEN: Final = 20_000
"""So many ended requests wait for a store that can't be written; of more the oldest are let go."""
MOST_RUNNING: Final = 100_000
"""So many requests are followed at once; of more the oldest lose the name of their chain."""
READ_WAIT_S: Final = 3.0
LONGEST_ERROR: Final = 300

_AT_ONCE: Final = 50
"""Rows made in one turn of the loop."""

_End = RequestFinished | RequestFailed | RequestCancelled


class _Noted(NamedTuple):
    event: _End
    chain: str
    recovery: RecoveryRecord | None


class Historian:
    """A projection of events into a store. It has to hear each event after ``recoveries`` has.

    Args:
        store: Where it is kept.
        clock: The time.
        meters: What goes on from the latest history after a restart, as does ``recoveries``.
        recoveries: Says how a request was recovered.
    """

    def __init__(self, store: StateStore, clock: Clock, meters: Meters, recoveries: RecoveryLog) -> None:
        self._store = store
        self._clock = clock
        self._meters = meters
        self._recoveries = recoveries
        self._chains: dict[str, str] = {}
        self._noted: deque[_Noted] = deque(maxlen=MOST_UNWRITTEN)
        self._unwritten: dict[str, PastRequest] = {}
        self._lost = 0
        self._writing = asyncio.Lock()
        self._process = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            RequestRouted: self._begun,
            RequestQueued: self._begun,
            RequestFinished: self._ended,
            RequestFailed: self._ended,
            RequestCancelled: self._ended,
        }

    def on_event(self, event: Event) -> None:
        """Take one event into account."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _ended(self, event: _End) -> None:
        recovery = self._recoveries.latest
        # Of the recovery that ended last, the very same event has told.
        if recovery is not None and (recovery.request_id, recovery.at) != (event.request_id, event.at):
            recovery = None
        if len(self._noted) == MOST_UNWRITTEN:
            self._lost += 1
        self._noted.append(_Noted(event, self._chains.pop(event.request_id, ""), recovery))

    def _begun(self, event: RequestRouted | RequestQueued) -> None:
        chains = self._chains
        if len(chains) >= MOST_RUNNING and event.request_id not in chains:
            del chains[next(iter(chains))]
        chains[event.request_id] = event.chain

    async def exchange(self) -> None:
        """Write what has been noted. What can't be written now waits, within bounds."""
        async with self._writing:
            await self._write_up()
            if self._unwritten and await self._store.keep_history(tuple(self._unwritten.values())):
                self._unwritten.clear()

    async def latest(self, limit: int, since: float | None = None) -> tuple[PastRequest, ...]:
        """The requests that ended last, the newest first, also those that are not written yet.

        Args:
            limit: How many at most.
            since: Only those that ended then or later, in epoch seconds.
        """
        stored: tuple[PastRequest, ...] = ()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_WAIT_S):
                await self.exchange()
                stored = await self._store.history(limit, since)
        waiting = [
            past for past in reversed(tuple(self._unwritten.values())) if since is None or past.at >= since
        ]
        if not waiting:
            return stored
        found = {past.id: past for past in (*waiting, *stored)}
        return tuple(sorted(found.values(), key=lambda past: past.at, reverse=True)[: max(0, limit)])

    async def restore(self) -> None:
        """Let meters and the recovery log go on from the latest history. Call before the first request."""
        wall, now = self._clock.time(), self._clock.monotonic()
        latest = await self._store.history(RESTORED, wall - RESTORED_S)
        # What lies ahead was told by a clock that has been set back since.
        past = [ended for ended in reversed(latest) if ended.at <= wall]
        self._meters.restore(past, now - wall, now)
        self._recoveries.restore(ended.recovery for ended in past if ended.recovery is not None)

    def take_notice(self) -> str:
        """What the operator should know of history that was lost; empty most of the time."""
        if not self._lost or self._unwritten:
            return ""
        lost, self._lost = self._lost, 0
        return f"{lost:,} ended requests are missing in the history: it could not be written for too long."

    async def _write_up(self) -> None:
        count = 0
        while self._noted:
            noted = self._noted.popleft()
            past = _past(noted, f"{self._process}-{next(self._numbers)}")
            self._unwritten[past.id] = past
            count += 1
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)
        excess = len(self._unwritten) - MOST_UNWRITTEN
        for name in list(itertools.islice(self._unwritten, max(0, excess))):
            del self._unwritten[name]
            self._lost += 1


def _past(noted: _Noted, name: str) -> PastRequest:
    event = noted.event
    if isinstance(event, RequestFinished):
        reply = event.reply
        cached = reply.cached_age_s is not None
        return PastRequest(
            id=name,
            at=event.at,
            request_id=event.request_id,
            chain=noted.chain,
            origin=event.origin,
            ending=Ending.ANSWERED,
            attempts=_attempts(reply.attempts),
            latency_s=reply.latency_s,
            account=reply.account,
            pool=reply.pool,
            provider=reply.provider,
            model=reply.model,
            first_token_s=None if cached else reply.first_token_s,
            input_tokens=max(0, reply.usage.input_tokens),
            output_tokens=max(0, reply.usage.output_tokens),
            tokens_estimated=reply.usage.estimated,
            cost=reply.cost,
            degraded=reply.degraded,
            cached_age_s=reply.cached_age_s,
            queued_s=reply.queued_s,
            recovery=noted.recovery,
        )
    failed = isinstance(event, RequestFailed)
    return PastRequest(
        id=name,
        at=event.at,
        request_id=event.request_id,
        chain=event.chain if isinstance(event, RequestFailed) else noted.chain,
        origin=event.origin,
        ending=Ending.FAILED if failed else Ending.CANCELLED,
        attempts=_attempts(event.attempts),
        latency_s=event.latency_s,
        error=redact(str(event.failure))[:LONGEST_ERROR] if isinstance(event, RequestFailed) else "",
        recovery=noted.recovery if failed else None,
    )


def _attempts(records: tuple[AttemptRecord, ...]) -> tuple[PastAttempt, ...]:
    return tuple(
        PastAttempt(
            record.account,
            record.pool,
            record.model,
            record.result,
            record.latency_s,
            None if record.failure is None else record.failure.category,
        )
        for record in records
    )
