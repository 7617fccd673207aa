"""What of the queue survives a restart: requests that wait, and answers that nobody has fetched yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from smartfallback.model.outcomes import Failure, RequestError
from smartfallback.model.requests import QueueTerms, Reply, Request


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request in the queue; times in epoch seconds.

    Attributes:
        ticket: Its name in the file, unlike any other.
        request_id: Its name for its caller.
        request: What is asked.
        terms: How it may wait.
        failure: Why nobody could serve it when it came.
        since: When it first entered the queue.
    """

    ticket: str
    request_id: str
    request: Request
    terms: QueueTerms
    failure: Failure
    since: float

    @property
    def expires_at(self) -> float:
        """When its time is up."""
        return self.since + self.terms.expires_s


@dataclass(frozen=True, slots=True)
class KeptOutcome:
    """How a request ended whose caller is gone; ``at`` is in epoch seconds."""

    ticket: str
    request_id: str
    at: float
    outcome: Reply | RequestError


@dataclass(frozen=True, slots=True)
class QueueState:
    """All that an orchestrator has in the queue, by ticket, and the outcomes to be kept."""

    requests: Mapping[str, QueuedRequest] = field(default_factory=dict)
    outcomes: tuple[KeptOutcome, ...] = ()

    def __bool__(self) -> bool:
        """Whether it holds anything."""
        return bool(self.requests or self.outcomes)


class QueueNews(NamedTuple):
    """What the storage tells of the queue.

    Attributes:
        adopted: Requests of processes that are gone; they are this orchestrator's from now on.
        lost: Tickets that another process has taken over in the belief that this one was gone.
        uncollected: How many outcomes are kept; None when that was not looked up.
    """

    adopted: tuple[QueuedRequest, ...] = ()
    lost: frozenset[str] = frozenset()
    uncollected: int | None = None
