"""Steady background traffic with a realistic mix of requests."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, NamedTuple, Protocol

from smartfallback.clock import Clock
from smartfallback.model.outcomes import RequestError
from smartfallback.model.requests import Message, Origin, Reply, Request, Role
from smartfallback.simulation.topics import topics

MAX_IN_FLIGHT: Final = 32
_SESSIONS: Final = 8
_TURNS_KEPT: Final = 5
_LOOK_UP_S: Final = 1.0
"""How long a change of rate or a pause may go unnoticed while waiting for the next arrival."""
_LOG_LINES: Final = (
    "ERROR upstream timed out after 30.0 s (attempt 2 of 3)",
    "WARN pool exhausted, 17 callers waiting",
    "INFO retrying in 412 ms",
    "ERROR 503 from inventory, body was empty",
)
_FOLLOW_UPS: Final = (
    "Can you give an example of that?",
    "What would you do first, and why?",
    "Is there a simpler way to put it?",
    "How would you test that?",
    "And what if the load doubles?",
)


class Chats(Protocol):
    """What traffic needs of an orchestrator."""

    async def chat(self, request: Request) -> Reply:
        """The whole answer.

        Raises:
            RequestError: Nobody could answer.
        """
        ...


class TrafficCounts(NamedTuple):
    """Since the start; ``shed`` are arrivals that were dropped because too many were in flight."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    shed: int = 0


class Traffic:
    """Sends requests with exponentially distributed gaps, whatever becomes of the earlier ones.

    Use it as an async context manager: it starts with the block, and on its end cancels what is
    still running.

    Args:
        orchestrator: Answers the requests.
        clock: Times the arrivals.
        rng: Draws gaps and requests.
        rate_per_s: Mean number of requests a second.
        chains: Names of chains with their share of the requests; the shares needn't add up to 1.
        max_in_flight: Arrivals beyond so many running requests are dropped and counted.
        sleep: Waits for a number of seconds; tests hand in one that moves their clock.

    Raises:
        ValueError: A rate, share or limit is out of range.
    """

    def __init__(
        self,
        orchestrator: Chats,
        clock: Clock,
        rng: Random,
        rate_per_s: float = 3.0,
        *,
        chains: dict[str, float] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._orchestrator = orchestrator
        self._clock = clock
        self._rng = rng
        self._chains = chains if chains is not None else {"default": 1.0}
        if not self._chains or not all(share >= 0 for share in self._chains.values()):
            raise ValueError("chains must name at least one chain, with shares of at least 0")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight!r}")
        self._max_in_flight = max_in_flight
        self._sleep = sleep
        self._rate = 0.0
        self._running = asyncio.Event()
        self._rate_changed = False
        self._sessions: deque[_Session] = deque(maxlen=_SESSIONS)
        self._sessions_begun = 0
        self._arrivals: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self.counts = TrafficCounts()
        self.set_rate(rate_per_s)
        self.resume()

    async def __aenter__(self) -> Traffic:
        self._arrivals = asyncio.create_task(self._arrive(), name="smartfallback-traffic")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Send nothing more and cancel what is running. Safe to call twice."""
        tasks = [*self._requests, *([self._arrivals] if self._arrivals else [])]
        self._arrivals = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def rate_per_s(self) -> float:
        """The mean number of requests a second while not paused."""
        return self._rate

    def set_rate(self, rate_per_s: float) -> None:
        """Change the rate, from now on.

        Raises:
            ValueError: It is not above 0; use :meth:`pause` to send nothing.
        """
        if not 0 < rate_per_s < math.inf:
            raise ValueError(f"rate_per_s must be above 0 and finite, not {rate_per_s!r}")
        self._rate = rate_per_s
        self._rate_changed = True

    @property
    def paused(self) -> bool:
        """Whether no requests are sent."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Send nothing until :meth:`resume`; what is running goes on."""
        self._running.clear()

    def resume(self) -> None:
        """Send again."""
        self._running.set()

    @property
    def in_flight(self) -> int:
        """How many requests are running."""
        return len(self._requests)

    async def calm(self, most_s: float) -> None:
        """Wait until what is running now has ended, but no longer than this."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=most_s)

    def next_request(self) -> Request:
        """Draw one request of the mix."""
        rng = self._rng
        chain = rng.choices(list(self._chains), list(self._chains.values()))[0]
        if rng.random() < 0.35:
            return self._turn_of_session(chain)
        text = rng.choice(topics()).question
        if rng.random() < 0.12:
            lines = "\n".join(rng.choices(_LOG_LINES, k=rng.randint(6, 24)))
            text = f"{text}\n\nHere is what the log says:\n\n```\n{lines}\n```"
        return Request(
            messages=(Message(Role.USER, text),),
            chain=chain,
            max_output_tokens=rng.choice((None, None, None, 60, 120)),
            stream=rng.random() < 0.8,
            origin=Origin.TRAFFIC,
        )

    def _turn_of_session(self, chain: str) -> Request:
        rng = self._rng
        if len(self._sessions) < _SESSIONS or rng.random() < 0.15:
            self._sessions_begun += 1
            self._sessions.append(_Session(f"traffic-{self._sessions_begun}", chain))
            session, text = self._sessions[-1], rng.choice(topics()).question
        else:
            session, text = rng.choice(self._sessions), rng.choice(_FOLLOW_UPS)
        session.turns.append(Message(Role.USER, text))
        return Request(
            messages=session.conversation(),
            chain=session.chain,
            session=session.name,
            origin=Origin.TRAFFIC,
        )

    async def _arrive(self) -> None:
        now = self._clock.monotonic
        due = now() + self._gap()
        while True:
            if self.paused:
                await self._running.wait()
                due = now() + self._gap()
            if self._rate_changed:
                # An exponential gap has no memory, so drawing it anew from now is exact.
                self._rate_changed = False
                due = now() + self._gap()
            left = due - now()
            if left > 0:
                await self._sleep(min(left, _LOOK_UP_S))
                continue
            self._send()
            # After a stall of the whole process, what is long overdue is dropped instead of sent at once.
            due = max(due, now() - _LOOK_UP_S) + self._gap()

    def _gap(self) -> float:
        return self._rng.expovariate(self._rate)

    def _send(self) -> None:
        if len(self._requests) >= self._max_in_flight:
            self._count(shed=1)
            return
        self._count(sent=1)
        task = asyncio.create_task(self._ask(self.next_request()), name="smartfallback-traffic-request")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _ask(self, request: Request) -> None:
        try:
            reply = await self._orchestrator.chat(request)
        except RequestError:
            self._count(failed=1)
            return
        self._count(answered=1)
        for session in self._sessions:
            if session.name == request.session:
                session.turns.append(Message(Role.ASSISTANT, reply.text))

    def _count(self, **by: int) -> None:
        grown = {name: getattr(self.counts, name) + more for name, more in by.items()}
        self.counts = self.counts._replace(**grown)


class _Session:
    """A conversation that goes on over several requests, with its latest turns."""

    def __init__(self, name: str, chain: str) -> None:
        self.name = name
        self.chain = chain
        self.turns: deque[Message] = deque(maxlen=_TURNS_KEPT)

    def conversation(self) -> tuple[Message, ...]:
        """The turns from the first user's one on: APIs want the user to begin."""
        turns = list(self.turns)
        while turns[0].role is not Role.USER:
            del turns[0]
        return tuple(turns)
