from __future__ import annotations

import asyncio
from random import Random

import pytest

from smartfallback.model.outcomes import ErrorCategory, Failure, RequestError
from smartfallback.model.requests import Origin, Reply, Request, Role, Usage
from smartfallback.simulation.traffic import Traffic, TrafficCounts
from support.clock import FakeClock


class Stand:
    """An orchestrator that answers at once, refuses, or holds requests until it is let go."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refuse = False
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = 0

    async def chat(self, request: Request) -> Reply:
        self.requests.append(request)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.refuse:
            raise RequestError("r", Failure(ErrorCategory.UNKNOWN, "no"))
        return Reply("r", "An answer.", "a", "p", "p", "m", Usage(), "stop", (), 0.1, 0.1)


class Time:
    """Runs the clock to a moment: sleeps end when it is reached, and only then does time go on."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self._limit = 0.0
        self._more = asyncio.Event()
        self.reached = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        while until > self._limit:
            self.clock.advance(max(0.0, self._limit - self.clock.monotonic()))
            self._more.clear()
            self.reached.set()
            await self._more.wait()
        self.clock.advance(until - self.clock.monotonic())
        # The sleeper's requests get their turn before the next moment comes.
        for _ in range(5):
            await asyncio.sleep(0)

    async def run(self, seconds: float) -> None:
        self._limit += seconds
        self.reached.clear()
        self._more.set()
        async with asyncio.timeout(20):
            await self.reached.wait()

    async def pass_unwatched(self, seconds: float) -> None:
        """Let time go on although nobody sleeps until its end."""
        self._limit += seconds
        self._more.set()
        for _ in range(50):
            await asyncio.sleep(0)
        self.clock.advance(self._limit - self.clock.monotonic())


@pytest.fixture
def stand() -> Stand:
    return Stand()


@pytest.fixture
def time(clock: FakeClock) -> Time:
    return Time(clock)


def traffic(stand: Stand, time: Time, rate: float = 3.0, **settings: int) -> Traffic:
    chains = {"default": 0.8, "fast": 0.2}
    return Traffic(stand, time.clock, Random(1), rate, chains=chains, sleep=time.sleep, **settings)


async def test_arrivals_keep_the_rate_and_scatter_like_a_poisson_process(stand: Stand, time: Time) -> None:
    async with traffic(stand, time):
        counts = []
        for _ in range(200):
            before = len(stand.requests)
            await time.run(1)
            counts.append(len(stand.requests) - before)
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    assert mean == pytest.approx(3, rel=0.15)
    assert variance == pytest.approx(3, rel=0.35)


async def test_the_mix_has_sessions_lengths_chains_and_both_ways_of_answering(
    stand: Stand, time: Time
) -> None:
    async with traffic(stand, time):
        await time.run(200)
    requests = stand.requests
    assert all(request.origin is Origin.TRAFFIC for request in requests)
    assert 0.1 < sum(request.chain == "fast" for request in requests) / len(requests) < 0.3
    assert 0.2 < sum(request.session is not None for request in requests) / len(requests) < 0.5
    assert {request.stream for request in requests} == {True, False}
    assert max(len(request.messages[-1].content) for request in requests) > 500
    assert max(len(request.messages) for request in requests) > 2
    assert all(request.messages[0].role is Role.USER for request in requests)
    by_session: dict[str, set[str]] = {}
    for request in requests:
        if request.session:
            by_session.setdefault(request.session, set()).add(request.chain)
    assert all(len(chains) == 1 for chains in by_session.values())


async def test_failing_requests_are_counted_and_traffic_goes_on(stand: Stand, time: Time) -> None:
    stand.refuse = True
    async with traffic(stand, time) as running:
        await time.run(20)
        assert running.counts.failed == running.counts.sent > 20
        stand.refuse = False
        await time.run(20)
        assert running.counts.answered > 20


async def test_concurrency_is_bounded_and_what_is_beyond_is_counted(stand: Stand, time: Time) -> None:
    stand.go.clear()
    async with traffic(stand, time, max_in_flight=5) as running:
        await time.run(20)
        assert running.in_flight == len(stand.requests) == running.counts.sent == 5
        assert running.counts.shed > 20
        stand.go.set()
        await time.run(5)
        assert running.counts.answered > 5


async def test_paused_traffic_sends_nothing_and_does_not_catch_up(stand: Stand, time: Time) -> None:
    async with traffic(stand, time) as running:
        await time.run(10)
        running.pause()
        assert running.paused
        before = len(stand.requests)
        await time.pass_unwatched(1_000)
        assert len(stand.requests) == before
        running.resume()
        await time.run(10)
        assert 15 < len(stand.requests) - before < 50


async def test_a_new_rate_holds_at_once(stand: Stand, time: Time) -> None:
    async with traffic(stand, time, rate=0.001) as running:
        await time.run(30)
        before = len(stand.requests)
        running.set_rate(20)
        assert running.rate_per_s == 20
        await time.run(30)
        assert 450 < len(stand.requests) - before < 750


async def test_stopping_cancels_what_runs(stand: Stand, time: Time) -> None:
    stand.go.clear()
    async with traffic(stand, time) as running:
        await time.run(5)
        in_flight = running.in_flight
        assert in_flight > 3
    assert stand.cancelled == in_flight
    assert running.in_flight == 0
    await running.stop()


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
async def test_an_impossible_rate_is_refused(stand: Stand, time: Time, rate: float) -> None:
    running = traffic(stand, time)
    with pytest.raises(ValueError, match="rate_per_s"):
        running.set_rate(rate)
    assert running.rate_per_s == 3
    assert running.counts == TrafficCounts()
