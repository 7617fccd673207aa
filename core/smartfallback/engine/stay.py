"""A request's time in the queue, over all its replays."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from smartfallback.engine.announcer import Announcer
from smartfallback.engine.grant import Grant
from smartfallback.engine.queue_desk import Waiting
from smartfallback.engine.services import Services
from smartfallback.engine.settlement import Received
from smartfallback.engine.walk import Reduced, Walk
from smartfallback.model.events import RequestQueued, RequestReplayed
from smartfallback.model.outcomes import Failure
from smartfallback.model.requests import QueueTerms


class Restored(NamedTuple):
    """What is known of a request that waited when the last process ended; ``since`` is monotonic."""

    terms: QueueTerms
    failure: Failure
    since: float


class Stay:
    """Lets one request wait for capacity to return, as often as its terms allow.

    Args:
        request_id: The request's name.
        walk: Its way through its chain; begun anew with each replay.
        services: What all requests share.
        announce: Tells of it.
        restored: Where it comes from; None for a new request.
    """

    def __init__(
        self,
        request_id: str,
        walk: Walk,
        services: Services,
        announce: Announcer,
        restored: Restored | None,
    ) -> None:
        self._request_id = request_id
        self._walk = walk
        self._services = services
        self._announce = announce
        self._restored = restored
        self._since = services.clock.monotonic() if restored is None else restored.since
        self._rounds = 0
        self._entered = False
        self._lesser: Reduced | None = None
        self.waited_s = 0.0
        """Seconds since it first came into the queue, as of its latest replay."""

    @property
    def possible(self) -> bool:
        """Whether the request may wait for what keeps it from being answered to pass."""
        return self._terms() is not None

    def enter(self, failure: Failure, *, asked: bool) -> RequestQueued | Failure:
        """Come into the queue; if it takes no more, the failure that says so too."""
        terms, walk, services = self._terms(), self._walk, self._services
        if terms is None:
            return failure
        if not self._rounds and self._restored is None:
            self._since = services.clock.monotonic()
        self._lesser = walk.reduced or self._lesser
        walk.renew()
        desk = services.queue
        place = desk.place(
            Waiting(
                request_id=self._request_id,
                request=walk.request,
                chain=walk.chain.name,
                terms=terms,
                failure=failure,
                since=self._since,
                rounds=self._rounds,
                take=self._take,
                give_back=lambda grant: services.settlement.given_up(grant, Received()),
                asked=asked,
            )
        )
        expires_at = desk.expires_at(self._request_id)
        if place is None or expires_at is None:
            return replace(failure, hint="the queue takes no more: it is full, or the time to wait is up")
        self._entered = True
        return self._announce.queued(terms.priority, place, expires_at, failure)

    async def end(self) -> tuple[Grant, RequestReplayed] | None:
        """Wait for the replay; None when the request's time ran out, or it was pushed out."""
        grant = await self._services.queue.wait(self._request_id)
        if grant is None:
            return None
        self._rounds += 1
        self.waited_s = self._services.clock.monotonic() - self._since
        return grant, self._announce.replayed(self.waited_s, restored=self._restored is not None)

    def answered(self) -> None:
        """The replay has brought the first token."""
        if self._entered:
            self._services.queue.answered(self._request_id)

    def over(self) -> None:
        """The request is over, however it ended."""
        if self._entered:
            self._services.queue.ended(self._request_id)

    def _take(self) -> Grant | None:
        """Who can take the request as it was asked; else who can take what had to do before it waited."""
        planner, walk = self._services.planner, self._walk
        grant = planner.choose(walk)
        if grant is None and self._lesser is not None:
            walk.reduce(self._lesser)
            grant = planner.choose(walk)
            if grant is None:
                walk.reduce(None)
        return grant

    def _terms(self) -> QueueTerms | None:
        if self._restored is not None:
            return self._restored.terms
        return self._services.queue.terms(self._walk.request, self._walk.chain.spec)
