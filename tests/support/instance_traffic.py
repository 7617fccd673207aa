"""What an instance's callers do: a burst that spends a quota as fast as it can, or a steady load."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from smartfallback import ErrorCategory, Orchestrator, Request, RequestError
from smartfallback.engine.walk import estimate_tokens
from smartfallback.model.quota import QuotaEstimate
from smartfallback.policy.ledger_counts import CountingLedger
from smartfallback.policy.ledger_window import Reservation
from support.instance_upstream import PLAN, Plan

QUESTION = Request.ask("Why is the sky blue then?")
_LATENESS_EVERY_S = 0.005


def asking(reserve: int, pin: str | None = None) -> Request:
    """A request for which ``reserve`` units are held while it runs."""
    output = reserve - estimate_tokens(QUESTION.messages)
    if output < 1:
        raise ValueError(f"a question alone takes more than {reserve} units")
    return replace(QUESTION, max_output_tokens=output, pin=pin, keep_text=False)


def reason(error: RequestError) -> str:
    """Why a request failed, without its figures, so that like ones count together."""
    return re.sub(r"\d[\d,.]*", "#", str(error))


class SettledTwice:
    """Settles a share of all reservations a second time, as a result that is told twice would."""

    def __init__(self, share: float, rng: random.Random) -> None:
        self._share, self._rng = share, rng
        self.tried = self.counted = 0

    def __enter__(self) -> SettledTwice:
        self._once = once = CountingLedger.settle

        def twice(
            ledger: CountingLedger, reservation: Reservation, actual: QuotaEstimate, now: float
        ) -> bool:
            ended = once(ledger, reservation, actual, now)
            if self._rng.random() < self._share:
                self.tried += 1
                self.counted += once(ledger, reservation, actual, now)
            return ended

        CountingLedger.settle = twice  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        CountingLedger.settle = self._once  # type: ignore[method-assign]


@dataclass
class Burst:
    """Callers that ask until a quota is spent.

    Attributes:
        callers: How many ask side by side.
        seconds: For how long at most.
        reserve: What is held for a request.
        least_units: What an answer costs at least; at most ``reserve``.
        answer_s: The longest time that an answer takes.
        cancel_share: So many of the requests are given up by their callers at a random moment.
        settle_twice_share: So many of the settlements are made twice.
        refusals: A caller ends after so many refusals in a row.
        pause_s: It waits so long after one.
    """

    callers: int = 100
    seconds: float = 10.0
    reserve: int = 25
    least_units: int = 5
    answer_s: float = 0.03
    cancel_share: float = 0.0
    settle_twice_share: float = 0.0
    refusals: int = 5
    pause_s: float = 0.1
    pin: str | None = None
    seed: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    async def run(self, orchestrator: Orchestrator) -> dict[str, Any]:
        """Let all of them ask until each has ended."""
        rng = random.Random(self.seed)
        request = asking(self.reserve, self.pin)
        ends_at = time.monotonic() + self.seconds
        with SettledTwice(self.settle_twice_share, rng) as settled:
            await asyncio.gather(
                *(self._caller(orchestrator, request, rng, ends_at) for _ in range(self.callers))
            )
        return {
            **self.counts,
            "reasons": dict(self.reasons),
            "settled twice": settled.tried,
            "counted twice": settled.counted,
        }

    async def _caller(
        self, orchestrator: Orchestrator, request: Request, rng: random.Random, ends_at: float
    ) -> None:
        refused = 0
        while refused < self.refusals and time.monotonic() < ends_at:
            answer_s = rng.random() * self.answer_s
            split = rng.random()
            plan = Plan(rng.randint(self.least_units, self.reserve), answer_s * split, answer_s * (1 - split))
            gives_up = rng.random() < self.cancel_share
            how = await self._one(orchestrator, request, plan, rng.random() * answer_s if gives_up else None)
            self.counts[how] += 1
            refused = refused + 1 if how == "refused" else 0
            if refused:
                await asyncio.sleep(self.pause_s * rng.random())

    async def _one(
        self, orchestrator: Orchestrator, request: Request, plan: Plan, gives_up_s: float | None
    ) -> str:
        PLAN.set(plan)
        asking_task = asyncio.ensure_future(orchestrator.chat(request))
        if gives_up_s is not None:
            await asyncio.wait((asking_task,), timeout=gives_up_s)
            asking_task.cancel()
        try:
            await asking_task
        except RequestError as error:
            self.reasons[reason(error)] += 1
            if error.failure.category is ErrorCategory.TIMEOUT:
                return "overdue"
            return "failed" if error.attempts else "refused"
        except asyncio.CancelledError:
            return "cancelled"
        return "answered"


@dataclass
class Load:
    """Requests at a steady rate, whatever becomes of them, until it is stopped.

    Attributes:
        rate: Requests a second.
        reserve: What is held for one.
        units: What it costs.
        answer_s: How long its answer takes.
    """

    rate: float = 100.0
    reserve: int = 25
    units: int = 15
    answer_s: float = 0.005
    pin: str | None = None
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    dispatched: list[tuple[float, float]] = field(default_factory=list)
    late: list[tuple[float, float]] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, orchestrator: Orchestrator) -> dict[str, Any]:
        """Ask until :attr:`stopped` is set, and wait for the last answers.

        Returns:
            Counts; ``dispatched``, for each request when it was made and the seconds until the
            upstream was asked; ``late``, when and by how many seconds the process itself was late.
        """
        request = asking(self.reserve, self.pin)
        tasks: set[asyncio.Task[None]] = set()
        lateness = asyncio.ensure_future(self._watch_lateness())
        begun, number = time.monotonic(), 0
        while not self.stopped.is_set():
            task = asyncio.ensure_future(self._one(orchestrator, request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            wait_s = begun + number / self.rate - time.monotonic()
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self.stopped.wait()
            else:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        lateness.cancel()
        return {
            **self.counts,
            "reasons": dict(self.reasons),
            "dispatched": self.dispatched,
            "late": self.late,
        }

    async def _one(self, orchestrator: Orchestrator, request: Request) -> None:
        plan = Plan(self.units, self.answer_s)
        PLAN.set(plan)
        made_at, begun = time.monotonic(), time.perf_counter()
        try:
            await orchestrator.chat(request)
        except RequestError as error:
            self.counts["failed"] += 1
            self.reasons[reason(error)] += 1
        else:
            self.counts["answered"] += 1
        if plan.asked_at is not None:
            self.dispatched.append((round(made_at, 4), round(plan.asked_at - begun, 6)))

    async def _watch_lateness(self) -> None:
        while True:
            due = time.monotonic() + _LATENESS_EVERY_S
            await asyncio.sleep(_LATENESS_EVERY_S)
            self.late.append((round(due, 4), round(max(0.0, time.monotonic() - due), 6)))
