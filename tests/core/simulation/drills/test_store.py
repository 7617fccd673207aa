"""What drills make of the exchange with a shared store, and that it then behaves as one that fails does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable
from random import Random

import pytest

from smartfallback.model.circuits import CircuitScope, CircuitTarget
from smartfallback.model.sharing import AccountReport, Change, HoldRequest, WindowReport
from smartfallback.model.specs import ProviderKind
from smartfallback.simulation.drills.drill import SHARED_STORE, Drill, DrillScope, DrillTarget
from smartfallback.simulation.drills.injector import Injector
from smartfallback.simulation.drills.store import DrilledStore
from smartfallback.simulation.faults import Fault, Flapping, HttpStatus, Latency, NoAnswer, Refused
from smartfallback.simulation.memory_store import MemorySharedStore
from smartfallback.state.shared import StoreLostError, StoreStatus
from support.drills import pool, system
from support.jumping_loop import LoopClock, run
from support.leftovers import tasks

SPEC = system(pool(ProviderKind.GEMINI, "first", "ag-1"))
WINDOW = WindowReport("week.tokens.0", 0.0, 4e9, 100.0, 0.0)
SLOTS = WindowReport("slots", 0.0, math.inf, 5.0, 0.0)
HOLD = HoldRequest("h-1", "ag-1", {"week.tokens.0": 5.0, "slots": 1.0}, (WINDOW, SLOTS), 30.0, 5)
CIRCUIT = CircuitTarget(CircuitScope.ACCOUNT, "ag-1")
WELL, SLOW, LOST = (True, True), (False, True), (False, False)


class Ill(MemorySharedStore):
    """A store that can fail by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.own = super().status
        self.told = []

    @property
    def status(self) -> StoreStatus:
        return self.own

    def on_change(self, listener):
        self.told.append(listener)

    def become(self, usable: bool, reachable: bool) -> None:
        self.own = StoreStatus(usable, reachable, None if usable else 1.0, "" if usable else "its own", 0.0)
        for listener in self.told:
            listener(self.own)


class Scene:
    """A drilled store and all that it has told."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.injector = Injector(SPEC, self.clock, Random(5))
        self.inner = Ill()
        store = self.injector.around(self.inner)
        assert isinstance(store, DrilledStore)
        self.store = store
        self.told: list[tuple[bool, bool]] = []
        store.on_change(lambda status: self.told.append((status.usable, status.reachable)))

    def drill(self, fault: Fault, duration_s: float = 60.0) -> str:
        return self.injector.start(Drill(SHARED_STORE, fault, duration_s=duration_s)).id

    async def timed(self, call: Awaitable[object]) -> tuple[float, bool]:
        """How long a call took, and whether it was answered."""
        began = self.clock.monotonic()
        answered = False
        with contextlib.suppress(StoreLostError):
            await call
            answered = True
        return round(self.clock.monotonic() - began, 6), answered

    async def request(self) -> tuple[float, bool]:
        return await self.timed(self.store.reserve("me", HOLD))

    async def report(self) -> tuple[float, bool]:
        return await self.timed(self.store.report("me", [AccountReport("ag-1", (WINDOW,))], lease_s=10.0))


def played(play):
    """Run ``play`` on a scene that has begun; nothing of it is left."""

    async def whole() -> None:
        scene = Scene()
        before = tasks()
        await scene.store.start()
        try:
            await play(scene)
        finally:
            await scene.store.aclose()
            await scene.store.aclose()
        assert tasks() == before

    run(whole())


def test_without_a_drill_all_goes_straight_through():
    async def play(scene):
        assert await scene.request() == (0.0, True)
        assert await scene.report() == (0.0, True)
        assert (scene.store.kind, scene.store.place) == (scene.inner.kind, scene.inner.place)
        assert scene.store.status is scene.inner.status
        scene.inner.become(*LOST)
        scene.inner.become(*WELL)
        assert scene.told == [LOST, WELL]

    played(play)


def test_one_that_refuses_is_lost_at_once_and_told_of_once(caplog):
    async def play(scene):
        drill = scene.drill(Refused())
        await asyncio.sleep(0)
        assert scene.told == [LOST]
        for _ in range(5):
            assert await scene.request() == (0.0, False)
            assert await scene.report() == (0.0, False)
        await asyncio.sleep(20.0)
        status = scene.store.status
        assert (status.trouble, status.degraded_since) == (
            "connection refused, by a drill",
            scene.clock.time() - 20.0,
        )
        assert scene.told == [LOST]
        assert scene.injector.stop(drill)
        assert scene.told == [LOST, WELL]
        assert scene.store.status is scene.inner.status
        assert await scene.request() == (0.0, True)

    with caplog.at_level(logging.INFO, "smartfallback.state"):
        played(play)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "can't be used (connection refused, by a drill)" in lines[0]
    assert "in use again after 20.0 s" in lines[1]


def test_one_that_is_silent_keeps_a_request_for_the_budget_and_then_nobody():
    async def play(scene):
        await asyncio.sleep(0.3)
        drill = scene.drill(NoAnswer())
        waits = await asyncio.gather(*(scene.request() for _ in range(20)))
        assert set(waits) == {(0.05, False)}
        assert await scene.request() == (0.0, False)
        assert (await scene.report())[1] is False
        await asyncio.sleep(5.0)
        assert scene.told == [SLOW, LOST]
        assert await scene.report() == (0.0, False)
        scene.injector.stop(drill)
        assert scene.told == [SLOW, LOST, WELL]

    played(play)


def test_silence_is_found_out_although_nobody_asks():
    async def play(scene):
        scene.drill(NoAnswer())
        await asyncio.sleep(1.5)
        assert scene.told == [SLOW, LOST]
        assert scene.store.status.trouble == "no answer within 1 s, by a drill"

    played(play)


def test_whoever_waits_in_the_background_does_so_for_a_second():
    async def play(scene):
        await asyncio.sleep(0)
        scene.drill(NoAnswer())
        assert await scene.report() == (1.0, False)

    played(play)


def test_a_slow_one_is_used_in_the_background_and_by_no_request():
    async def play(scene):
        drill = scene.drill(Latency(0.2))
        assert await scene.request() == (0.05, False)
        assert await scene.request() == (0.0, False)
        assert await scene.timed(scene.store.take_probe("me", CIRCUIT, "p-1", at_once=1, lease_s=5.0)) == (
            0.0,
            False,
        )
        for _ in range(10):
            assert await scene.report() == (0.2, True)
        assert scene.told == [SLOW]
        await asyncio.sleep(2.0)
        assert (scene.store.status.lag_s, scene.told) == (0.2, [SLOW])
        scene.injector.stop(drill)
        assert scene.told == [SLOW, WELL]

    played(play)


def test_one_that_answers_within_the_budget_is_well():
    async def play(scene):
        scene.drill(Latency(0.02))
        assert await scene.request() == (0.02, True)
        await asyncio.sleep(3.0)
        assert scene.told == []

    played(play)


def test_whoever_waits_when_a_drill_is_stopped_is_answered():
    async def play(scene):
        drill = scene.drill(NoAnswer())
        waiting = asyncio.ensure_future(scene.report())
        await asyncio.sleep(0.3)
        scene.injector.stop(drill)
        assert await waiting == (0.3, True)
        assert scene.told == [SLOW, WELL]

    played(play)


def test_a_drill_ends_by_itself_and_that_is_told():
    async def play(scene):
        scene.drill(Refused(), duration_s=3.0)
        await asyncio.sleep(2.9)
        assert scene.told == [LOST]
        await asyncio.sleep(2.2)
        assert scene.told == [LOST, WELL]
        assert scene.injector.active() == ()

    played(play)


def test_silence_in_place_of_refusal_is_no_news():
    async def play(scene):
        scene.drill(Refused())
        await asyncio.sleep(1.0)
        scene.drill(NoAnswer())
        await asyncio.sleep(4.0)
        assert scene.store.status.trouble == "no answer within 1 s, by a drill"
        assert scene.told == [LOST]
        assert [view.hits > 0 for view in scene.injector.active()] == [True, True]
        scene.injector.stop_all()
        assert scene.told == [LOST, WELL]

    played(play)


def test_one_that_comes_and_goes_is_told_of_each_time():
    async def play(scene):
        scene.drill(Flapping(Refused(), period_s=20.0, down_share=0.5))
        await asyncio.sleep(15.0)
        assert scene.told == [LOST, WELL]
        assert await scene.request() == (0.0, True)
        await asyncio.sleep(8.0)
        assert scene.told == [LOST, WELL, LOST]

    played(play)


def test_the_real_store_s_own_trouble_is_neither_hidden_nor_told_twice():
    async def play(scene):
        drill = scene.drill(Refused())
        await asyncio.sleep(0.5)
        scene.inner.become(*LOST)
        assert scene.told == [LOST]
        scene.injector.stop(drill)
        assert scene.told == [LOST]
        assert scene.store.status.trouble == "its own"
        scene.inner.become(*WELL)
        assert scene.told == [LOST, WELL]

    played(play)


def test_hints_that_were_kept_away_are_made_up_for():
    async def play(scene):
        heard: list[tuple[float, Change]] = []

        async def listen() -> None:
            async for change in scene.store.changes():
                heard.append((round(scene.clock.monotonic() - began, 6), change))

        began = scene.clock.monotonic()
        listening = asyncio.create_task(listen())
        await asyncio.sleep(1.0)
        assert heard == [(0.0, Change(""))]
        drill = scene.drill(Refused())
        await asyncio.sleep(1.0)
        scene.inner._hints.put_nowait(Change("account:ag-1", "other"))
        await asyncio.sleep(1.0)
        assert len(heard) == 1
        scene.injector.stop(drill)
        await asyncio.sleep(1.0)
        assert heard[1:] == [(3.0, Change(""))]
        scene.drill(Latency(0.2))
        await asyncio.sleep(1.0)
        for name in ("a", "b"):
            scene.inner._hints.put_nowait(Change(name, "other"))
        await asyncio.sleep(1.0)
        assert heard[2:] == [(5.2, Change("a", "other")), (5.2, Change("b", "other"))]
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    played(play)


def test_a_call_that_is_cancelled_leaves_the_drill_alone():
    async def play(scene):
        drill = scene.drill(NoAnswer())
        waiting = asyncio.ensure_future(scene.report())
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert scene.injector.stop(drill)
        assert await scene.report() == (0.0, True)

    played(play)


def test_what_was_told_and_what_is_held_is_followed():
    async def play(scene):
        async def told(spent: float) -> None:
            window = WindowReport("week.tokens.0", 0.0, 4e9, 100.0, spent)
            await scene.timed(scene.store.report("me", [AccountReport("ag-1", (window, SLOTS))], lease_s=9.0))

        await told(5.0)
        (count,) = scene.store.counts.all()
        assert (count.account, count.told, count.held) == ("ag-1", 5.0, 5.0)
        drill = scene.drill(Refused())
        await told(8.0)
        (count,) = scene.store.counts.all()
        assert (count.told, count.held) == (8.0, 5.0)
        scene.injector.stop(drill)
        await told(8.0)
        (count,) = scene.store.counts.all()
        assert (count.told, count.held) == (8.0, 8.0)

    played(play)


@pytest.mark.parametrize(
    ("drill", "words"),
    [
        (Drill(SHARED_STORE, HttpStatus(500)), "HttpStatus can't be played to the shared store"),
        (Drill(SHARED_STORE, Refused(), share=0.5), "for all calls or for none"),
        (Drill(SHARED_STORE, Refused(), most_calls=3), "for all calls or for none"),
        (Drill(DrillTarget(DrillScope.STORE, "redis"), Refused()), "is called 'store', not 'redis'"),
        (Drill(DrillTarget(DrillScope.ACCOUNT, "ag-1"), NoAnswer()), "NoAnswer can't be played"),
    ],
)
def test_what_no_drill_of_a_store_can_be_is_refused_in_a_sentence(drill, words):
    async def play(scene):
        with pytest.raises(ValueError, match=words):
            scene.injector.start(drill)
        assert scene.injector.active() == ()
        assert scene.told == []

    played(play)


def test_where_nothing_is_shared_that_is_said():
    async def play(scene):
        alone = Injector(SPEC, scene.clock, Random(1))
        with pytest.raises(ValueError, match="nothing is shared here: it takes a Redis server"):
            alone.start(Drill(SHARED_STORE, Refused()))

    played(play)


def test_accounts_meet_nothing_of_it():
    async def play(scene):
        scene.drill(Refused())
        assert scene.injector.draw("ag-1", "first") is None
        assert not scene.injector.lacks_tool("first")
        assert scene.injector.quota_trouble("ag-1", "first") is None

    played(play)
