"""The requests of a step: sent as planned, and followed from their first attempt to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smartfallback.model.events import (
    AttemptDiverted,
    AttemptFailed,
    AttemptOutrun,
    AttemptStarted,
    Event,
    RequestFinished,
)
from smartfallback.model.outcomes import ErrorCategory, Failure, RequestError
from smartfallback.model.requests import Message, Origin, QueueTerms, Reply, Request
from smartfallback.model.requests import Role as Speaker

if TYPE_CHECKING:
    from random import Random

    from smartfallback.simulation.scenarios.model import Role, TrafficPlan
    from smartfallback.simulation.scenarios.stage import Stage

Changed = Callable[[], None]


@dataclass(slots=True)
class Try:
    """One attempt of a request."""

    account: str
    role: Role | None
    failure: Failure | None = None


@dataclass(slots=True)
class Asked:
    """One request of a run; ``ended_at`` None while it runs. Times are the loop's."""

    id: str
    began_at: float
    tries: list[Try] = field(default_factory=list)
    running: dict[int, Try] = field(default_factory=dict)
    ended_at: float | None = None
    reply: Reply | None = None
    error: RequestError | None = None

    @property
    def category(self) -> ErrorCategory | None:
        """Why it failed, None if it did not."""
        return None if self.error is None else self.error.failure.category


@dataclass(slots=True)
class Asking:
    """The requests of one step as they come about; ``most_at_once`` is per role."""

    asked: list[Asked] = field(default_factory=list)
    most_at_once: dict[Role | None, int] = field(default_factory=dict)
    roles: list[Role | None] = field(default_factory=list)
    """The roles whose accounts were asked, in the order of the first time."""
    accounts: list[str] = field(default_factory=list)
    """The accounts that were asked, in the order of the first time."""

    @property
    def tries(self) -> Iterator[Try]:
        """All attempts of all requests."""
        return (each for asked in self.asked for each in asked.tries)

    @property
    def replies(self) -> list[Reply]:
        """All answers."""
        return [asked.reply for asked in self.asked if asked.reply is not None]

    def note(self, asked: Asked, event: Event, role_of: Callable[[str], Role | None]) -> bool:
        """Take up what an event says; whether it is of interest."""
        match event:
            case AttemptStarted():
                role = role_of(event.pool)
                started = Try(event.account, role)
                asked.tries.append(started)
                asked.running[event.attempt] = started
                at_once = sum(each.role is role for one in self.asked for each in one.running.values())
                self.most_at_once[role] = max(at_once, self.most_at_once.get(role, 0))
                if role not in self.roles:
                    self.roles.append(role)
                if event.account not in self.accounts:
                    self.accounts.append(event.account)
            case AttemptFailed():
                asked.running.pop(event.attempt).failure = event.failure
            case AttemptDiverted() | AttemptOutrun():
                asked.running.pop(event.attempt, None)
            case RequestFinished():
                asked.reply = event.reply
            case _:
                return False
        return True


class Asker:
    """Sends the requests of a run.

    Args:
        stage: Where to.
        run_id: The beginning of each request's id.
        rng: Varies what is asked.
        changed: Called when there is something new to see.
    """

    def __init__(self, stage: Stage, run_id: str, rng: Random, changed: Changed) -> None:
        self._stage = stage
        self._run_id = run_id
        self._rng = rng
        self._changed = changed
        self._numbers = 0
        chain = next(each for each in stage.orchestrator.spec.chains if each.name == stage.chain)
        self._queue_s = chain.queue_s

    async def ask(
        self, plan: TrafficPlan, asking: Asking, enough: Callable[[], bool], before: Callable[[], None]
    ) -> None:
        """Send the requests of ``plan`` and wait for their ends.

        Args:
            plan: How many, and how.
            asking: Takes what comes of them.
            enough: Whether no more need be sent; asked before each.
            before: Called before each.
        """
        left = iter(range(plan.requests))
        gate = asyncio.Lock()
        loop = asyncio.get_running_loop()
        next_at = loop.time()

        async def work() -> None:
            nonlocal next_at
            while True:
                async with gate:
                    await asyncio.sleep(max(0.0, next_at - loop.time()))
                    if enough() or next(left, None) is None:
                        return
                    next_at = max(next_at, loop.time()) + plan.every_s
                    before()
                    request = self._request(plan)
                    asked = Asked(request.id, loop.time())
                    asking.asked.append(asked)
                    self._changed()
                await self._follow(request, asked, asking)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(plan.concurrency, plan.requests)):
                group.create_task(work(), name=f"smartfallback-{self._run_id}")

    def _request(self, plan: TrafficPlan) -> Request:
        self._numbers += 1
        # No two questions are alike, so no earlier answer can stand in for one that fails.
        text = f"{plan.prompt} (No. {self._numbers}-{self._rng.randrange(10**6):06})"
        queue = None if self._queue_s is None else QueueTerms(min(self._queue_s, plan.timeout_s))
        return Request(
            (Message(Speaker.USER, text),),
            chain=self._stage.chain,
            session=self._run_id if plan.session else None,
            max_output_tokens=plan.max_output_tokens,
            timeout_s=plan.timeout_s,
            stream=plan.stream,
            origin=Origin.REHEARSAL,
            id=f"{self._run_id}-{self._numbers}",
            on_break=plan.on_break,
            queue=queue,
        )

    async def _follow(self, request: Request, asked: Asked, asking: Asking) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with aclosing(self._stage.orchestrator.stream(request)) as events:
                async for event in events:
                    if asking.note(asked, event, self._stage.role_of):
                        self._changed()
        except RequestError as error:
            asked.error = error
        finally:
            asked.ended_at = loop.time()
            asked.running.clear()
            self._changed()
