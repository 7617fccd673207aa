"""Where requests wait that nobody can serve now, until capacity returns.

A request that is replayed leaves the queue with all that its attempt needs already taken. When the
replay is in vain it comes back with its old place, after a break. Callers in the line of
:mod:`~smartfallback.engine.capacity` wait for a running request to end and come first.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

from smartfallback.clock import Clock
from smartfallback.engine.grant import Grant
from smartfallback.engine.queue_archive import QueueArchive
from smartfallback.model.outcomes import Failure
from smartfallback.model.recoveries import QueuedView, QueueView
from smartfallback.model.requests import QueueTerms, Request, characters
from smartfallback.model.specs import ChainSpec
from smartfallback.policy.request_queue import ReplayPace, RequestQueue, wait_before

FIRST_WAIT_S: Final = (0.5, 1.0)
"""What has just failed with everybody is not tried again before so long; drawn evenly."""


class Waiting(NamedTuple):
    """What a run hands over.

    Attributes:
        request_id: The request's name in the queue.
        request: What is asked.
        chain: Where it is asked.
        terms: How it may wait.
        failure: Why nobody could serve it.
        since: When it first entered the queue, in monotonic seconds; kept over several rounds.
        rounds: How often it was replayed in vain: 0 the first time.
        take: Takes an account's place, if there is one now, with all that an attempt needs.
        give_back: Ends what was taken for a request whose caller has just gone away.
        asked: Whether any account was asked before it came here. One that met only accounts that
            can't serve goes on as soon as one can.
    """

    request_id: str
    request: Request
    chain: str
    terms: QueueTerms
    failure: Failure
    since: float
    rounds: int
    take: Callable[[], Grant | None]
    give_back: Callable[[Grant], None]
    asked: bool = True


class _Entry:
    """A request in the queue, or one that is being replayed."""

    __slots__ = ("attended", "grant", "kind", "pace", "ready", "view", "waiting")

    def __init__(self, waiting: Waiting, pace: ReplayPace, ready: float, view: QueuedView) -> None:
        self.waiting = waiting
        self.pace = pace
        self.ready = ready
        self.view = view
        self.kind = _kind(waiting)
        self.grant: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()
        self.attended = False
        """Its run waits for the place, and not on a caller that reads slowly."""


class QueueDesk:
    """The queue of one orchestrator.

    Args:
        limit: So many requests may wait; those being replayed keep their place.
        clock: The time.
        rng: For the breaks between replays.
        line: How many callers wait for a running request to end.
        archive: What is to survive a restart; None when nothing can.
    """

    def __init__(
        self,
        limit: int,
        clock: Clock,
        rng: random.Random,
        line: Callable[[], int],
        archive: QueueArchive | None = None,
    ) -> None:
        self._queue = RequestQueue(limit)
        self._clock = clock
        self._rng = rng
        self._line = line
        self._archive = archive
        self._entries: dict[str, _Entry] = {}
        self._replaying: dict[str, _Entry] = {}
        self._paces: dict[Hashable, ReplayPace] = {}
        self._views: tuple[QueuedView, ...] | None = ()
        self._handing_over = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def room(self) -> int:
        """So many more requests could come in now."""
        return 0 if self._closed else max(0, self._queue.limit - len(self._entries) - len(self._replaying))

    def holds(self, request_id: str) -> bool:
        """Whether a request of that name waits or is being replayed."""
        return request_id in self._entries or request_id in self._replaying

    def terms(self, request: Request, chain: ChainSpec) -> QueueTerms | None:
        """How ``request`` may wait: its own terms, else the chain's; None when it must not."""
        if self._closed:
            return None
        if request.queue is not None:
            return request.queue
        return None if chain.queue_s is None else QueueTerms(expires_s=chain.queue_s)

    def place(self, waiting: Waiting) -> int | None:
        """Let a request into the queue; :meth:`wait` is to be called next.

        Returns:
            Its place, from 1; None when the queue is full of requests that come before it, when its
            time is up, when another of its name waits, or when the desk is closed. When it comes
            before the last one of a full queue, that one is pushed out.
        """
        now = self._clock.monotonic()
        name = waiting.request_id
        before = self._replaying.pop(name, None)
        if before is not None:
            before.pace.failed(now)
        expires = waiting.since + waiting.terms.expires_s
        if self._closed or name in self._entries or expires <= now:
            return None
        admission = self._queue.enter(
            name,
            priority=waiting.terms.priority,
            since=waiting.since,
            expires=expires,
            held=len(self._replaying),
        )
        if admission is None:
            return None
        if admission.pushed_out is not None:
            self._end_waiting(admission.pushed_out)
        self._entries[name] = _Entry(
            waiting, self._pace(waiting), now + self._break(waiting), self._view(waiting, expires, now)
        )
        self._views = None
        return admission.place

    def _view(self, waiting: Waiting, expires: float, now: float) -> QueuedView:
        name, archive = waiting.request_id, self._archive
        wall = self._clock.time()
        since = wall + waiting.since - now
        if archive is not None:
            archive.note(name, waiting.request, waiting.terms, waiting.failure, since)
        return QueuedView(
            request_id=name,
            chain=waiting.chain,
            origin=waiting.request.origin,
            priority=waiting.terms.priority,
            since=since,
            expires_at=wall + expires - now,
            restored=archive is not None and archive.is_restored(name),
        )

    async def wait(self, request_id: str) -> Grant | None:
        """Wait for the replay of a request that was let in.

        A caller that goes away while it waits takes its request out of the queue.

        Returns:
            The place that came free; None when the request expired, was pushed out, or the desk was
            closed. After a grant, either :meth:`place` or :meth:`ended` must follow.
        """
        entry = self._entries.get(request_id)
        if entry is None:
            return None
        entry.attended = True
        self.freed()
        try:
            return await asyncio.shield(entry.grant)
        except asyncio.CancelledError:
            grant = entry.grant.result() if entry.grant.done() else None
            if grant is not None:
                entry.waiting.give_back(grant)
            self.ended(request_id)
            raise

    def answered(self, request_id: str) -> None:
        """A replay has brought the answer's first token, so the others may come faster."""
        entry = self._replaying.get(request_id)
        if entry is not None:
            del self._replaying[request_id]
            entry.pace.succeeded()
            if self._archive is not None:
                self._archive.delivered(request_id)
            self.freed()

    def ended(self, request_id: str) -> None:
        """The request is over, however it ended. Nothing happens when it is not known here."""
        entry = self._replaying.pop(request_id, None)
        if entry is not None:
            entry.pace.abandoned()
            self.freed()
        self._end_waiting(request_id)
        if self._archive is not None:
            self._archive.forget(request_id)

    def drop(self, request_id: str) -> bool:
        """End the wait of a request, as if its time were up; False when it does not wait."""
        waits = request_id in self._entries
        self._end_waiting(request_id)
        return waits

    def expires_at(self, request_id: str) -> float | None:
        """When a request that waits expires, in epoch seconds; None when it does not wait."""
        entry = self._entries.get(request_id)
        return None if entry is None else entry.view.expires_at

    def freed(self) -> None:
        """An account may have room: hand it over once the current step is done."""
        if self._entries and not self._handing_over:
            self._handing_over = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def tick(self, now: float) -> None:
        """End what has expired and replay what is due. Nearly free when nothing waits."""
        if not self._entries:
            return
        for name in self._queue.expire(now):
            self._end_waiting(name)
        if not self._handing_over:
            self._hand_over()

    def view(self) -> QueueView:
        """The queue for the snapshot."""
        if self._views is None:
            self._views = tuple(self._entries[name].view for name in self._queue)
        uncollected = 0 if self._archive is None else self._archive.uncollected
        return QueueView(self._queue.limit, self._views, uncollected)

    def close(self) -> None:
        """Nobody is replayed any more; all who wait are told so."""
        self._closed = True
        if self._archive is not None:
            self._archive.close()
        for name in tuple(self._entries):
            self._end_waiting(name)

    def _hand_over(self) -> None:
        """Replay those whose turn it is, as far as there is room for them."""
        self._handing_over = False
        if self._line():
            return
        now = self._clock.monotonic()
        fruitless: set[Hashable] = set()
        replayed: list[tuple[_Entry, Grant]] = []
        for name in self._queue:
            entry = self._entries[name]
            if not entry.attended or entry.ready > now or not entry.pace.admits(now):
                continue
            if entry.kind in fruitless:
                continue
            grant = entry.waiting.take()
            if grant is None:
                fruitless.add(entry.kind)
            else:
                entry.pace.began()
                replayed.append((entry, grant))
        for entry, grant in replayed:
            name = entry.waiting.request_id
            self._queue.leave(name)
            del self._entries[name]
            self._views = None
            self._replaying[name] = entry
            entry.grant.set_result(grant)

    def _end_waiting(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        self._queue.leave(name)
        self._views = None
        if self._archive is not None:
            self._archive.forget(name)
        if not entry.grant.done():
            entry.grant.set_result(None)
        if not self._entries and not self._replaying:
            self._paces = {way: pace for way, pace in self._paces.items() if not pace.pristine}

    def _pace(self, waiting: Waiting) -> ReplayPace:
        """The pace of all who are asked where this one is."""
        return self._paces.setdefault((waiting.chain, waiting.request.pin), ReplayPace(self._rng))

    def _break(self, waiting: Waiting) -> float:
        if waiting.rounds:
            return wait_before(waiting.rounds, self._rng)
        return self._rng.uniform(*FIRST_WAIT_S) if waiting.asked else -math.inf


def _kind(waiting: Waiting) -> Hashable:
    """Requests of one kind can be served by the same accounts, as far as their sizes are alike."""
    request = waiting.request
    return (
        waiting.chain,
        request.pin,
        request.avoid,
        request.requires,
        request.model,
        request.max_output_tokens,
        characters(request.messages).bit_length(),
    )
