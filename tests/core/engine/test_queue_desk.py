"""Waiting for capacity: order, fairness to a weak upstream, and clean ends."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest

from smartfallback.engine.grant import Grant
from smartfallback.engine.queue_desk import QueueDesk, Waiting
from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.requests import QueueTerms, Request
from smartfallback.model.specs import ChainSpec
from support.clock import EPOCH, FakeClock

WALLED = Failure(ErrorCategory.QUOTA_EXHAUSTED, "weekly limit")


class Scene:
    """A desk in front of accounts with some places, and callers whose answers a test decides on."""

    def __init__(self, limit: int = 100, places: int = 0) -> None:
        self.clock = FakeClock()
        self.line = 0
        self.places = places
        self.takes: list[str] = []
        self.returned = 0
        self.replayed: list[str] = []
        self.failed: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.desk = QueueDesk(limit, self.clock, random.Random(1), lambda: self.line)

    def waiting(self, name: str, *, rounds: int = 0, since: float | None = None, **fields) -> Waiting:
        terms = QueueTerms(fields.pop("expires_s", 60.0), fields.pop("priority", 0))
        asked = fields.pop("asked", False)
        request = Request.ask("hello", chain=fields.pop("chain", "default"))
        since = self.clock.monotonic() if since is None else since
        return Waiting(
            name,
            request,
            request.chain,
            terms,
            WALLED,
            since,
            rounds,
            lambda: self.take(name),
            self.give_back,
            asked,
        )

    def take(self, name: str) -> Grant | None:
        self.takes.append(name)
        if not self.places:
            return None
        self.places -= 1
        return cast(Grant, object())

    def give_back(self, grant: Grant) -> None:
        self.places += 1
        self.returned += 1

    def enter(self, name: str, **fields) -> int | None:
        place = self.desk.place(self.waiting(name, **fields))
        if place is not None:
            self.tasks[name] = asyncio.create_task(self.caller(name))
        return place

    async def caller(self, name: str) -> None:
        grant = await self.desk.wait(name)
        (self.failed if grant is None else self.replayed).append(name)

    async def room(self, places: int) -> None:
        self.places += places
        self.desk.freed()
        await settle()

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.desk.tick(self.clock.monotonic())
        await settle()

    def answer(self, name: str) -> None:
        """The replay is answered, and its place free again."""
        self.places += 1
        self.desk.answered(name)
        self.desk.ended(name)


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def test_a_higher_priority_goes_first_and_equal_ones_in_their_order_of_arrival():
    scene = Scene()
    places = [scene.enter(name, priority=priority) for name, priority in (("a", 0), ("b", 0), ("c", 5))]
    assert places == [1, 2, 1]
    assert [view.request_id for view in scene.desk.view().requests] == ["c", "a", "b"]
    for expected in (["c"], ["c", "a"], ["c", "a", "b"]):
        await scene.room(1)
        assert scene.replayed == expected
        scene.desk.answered(expected[-1])
    assert len(scene.desk) == 0


async def test_live_callers_in_the_line_come_first():
    scene = Scene()
    scene.enter("a")
    scene.line = 1
    await scene.room(1)
    await scene.passes(1.0)
    assert scene.takes == []
    scene.line = 0
    await scene.room(0)
    assert scene.replayed == ["a"]


async def test_of_a_hundred_with_room_for_one_each_is_served_once_and_never_two_at_once():
    scene = Scene()
    names = [f"r{number}" for number in range(100)]
    for name in names:
        scene.enter(name)
    await scene.room(1)
    for done in range(100):
        assert len(scene.replayed) == done + 1
        assert scene.places == 0
        scene.answer(scene.replayed[-1])
        await settle()
    assert scene.replayed == names
    assert scene.places == 1


async def test_at_most_two_replays_run_until_one_succeeds():
    scene = Scene(places=50)
    for number in range(20):
        scene.enter(f"r{number}")
    await settle()
    await scene.passes(1.0)
    assert scene.replayed == ["r0", "r1"]
    scene.desk.answered("r0")
    await settle()
    assert len(scene.replayed) == 4
    for name in scene.replayed[1:]:
        scene.desk.answered(name)
    await settle()
    assert len(scene.replayed) == 4 + 6


async def test_what_has_just_failed_with_everybody_is_not_asked_again_at_once():
    scene = Scene(places=1)
    scene.enter("tried", asked=True)
    await scene.passes(0.4)
    assert scene.takes == []
    await scene.passes(0.6)
    assert scene.replayed == ["tried"]


async def test_a_dead_upstream_is_asked_ever_more_rarely_whoever_waits():
    scene = Scene(places=1)
    for number in range(100):
        scene.enter(f"r{number}", expires_s=3_600.0)
    rounds = dict.fromkeys((f"r{number}" for number in range(100)), 0)
    tries = 0
    for _ in range(1_200):  # ten minutes
        await scene.passes(0.5)
        for name in scene.replayed:
            tries += 1
            rounds[name] += 1
            scene.places += 1
            scene.enter(name, rounds=rounds[name], since=0.0, expires_s=3_600.0)
        scene.replayed.clear()
    assert 8 <= tries <= 60
    assert len(scene.desk) == 100
    assert scene.failed == []


async def test_one_chain_that_fails_does_not_hold_up_another():
    scene = Scene(places=4)
    scene.enter("dead", chain="dead")
    await settle()
    scene.enter("dead", chain="dead", rounds=1)
    scene.enter("next", chain="dead")
    scene.enter("alive", chain="alive")
    await settle()
    assert scene.replayed == ["dead", "alive"]


async def test_one_that_failed_again_has_its_old_place_when_its_break_is_over():
    scene = Scene(places=1)
    scene.enter("first")
    scene.clock.advance(0.1)
    await settle()
    assert scene.replayed == ["first"]
    scene.enter("second")
    assert scene.enter("first", rounds=1, since=0.0) == 1
    assert [view.request_id for view in scene.desk.view().requests] == ["first", "second"]
    scene.places = 1
    await settle()
    await scene.passes(0.5)
    assert scene.replayed == ["first"]
    await scene.passes(0.6)
    assert scene.replayed == ["first", "first"]


async def test_a_caller_that_goes_away_leaves_no_entry_and_keeps_nobody_waiting():
    scene = Scene()
    scene.enter("a")
    scene.enter("b")
    await settle()
    scene.tasks["a"].cancel()
    await settle()
    assert [view.request_id for view in scene.desk.view().requests] == ["b"]
    await scene.room(1)
    assert scene.replayed == ["b"]


async def test_a_caller_that_goes_away_as_its_turn_comes_gives_the_place_to_the_next():
    scene = Scene()
    scene.enter("a")
    scene.enter("b")
    await settle()
    scene.places = 1
    scene.desk.tick(scene.clock.monotonic())
    scene.tasks["a"].cancel()
    await settle()
    assert scene.returned == 1
    assert scene.replayed == ["b"]
    scene.answer("b")
    assert scene.places == 1


async def test_one_whose_caller_does_not_listen_yet_does_not_hold_up_the_others():
    scene = Scene()
    scene.desk.place(scene.waiting("slow reader"))
    scene.enter("b")
    await settle()
    await scene.room(1)
    assert scene.replayed == ["b"]
    scene.desk.answered("b")
    scene.tasks["slow reader"] = asyncio.create_task(scene.caller("slow reader"))
    await settle()
    await scene.room(1)
    assert scene.replayed == ["b", "slow reader"]


async def test_who_waits_too_long_is_told_to_the_second():
    scene = Scene()
    scene.enter("a", expires_s=10.0)
    scene.enter("b", expires_s=11.0)
    assert scene.desk.expires_at("a") == EPOCH + 10.0
    await scene.passes(9.9)
    assert scene.failed == []
    await scene.passes(0.1)
    assert scene.failed == ["a"]
    await scene.room(1)
    assert scene.replayed == ["b"]


async def test_time_that_runs_out_during_a_replay_ends_it_when_that_was_in_vain():
    scene = Scene(places=1)
    scene.enter("a", expires_s=10.0)
    await settle()
    assert scene.replayed == ["a"]
    scene.clock.advance(10.0)
    assert scene.enter("a", rounds=1, since=0.0, expires_s=10.0) is None


async def test_a_full_queue_refuses_equals_and_gives_way_to_what_is_more_urgent():
    scene = Scene(limit=2)
    assert scene.enter("a") == 1
    assert scene.enter("b") == 2
    await settle()
    assert scene.enter("c") is None
    assert scene.enter("urgent", priority=1) == 1
    await settle()
    assert scene.failed == ["b"]
    assert [view.request_id for view in scene.desk.view().requests] == ["urgent", "a"]


async def test_those_being_replayed_keep_their_place_in_a_full_queue():
    scene = Scene(limit=2, places=1)
    scene.enter("a")
    scene.clock.advance(0.1)
    scene.enter("b")
    await settle()
    assert scene.replayed == ["a"]
    assert scene.desk.room == 0
    assert scene.enter("c") is None
    assert scene.enter("a", rounds=1, since=0.0) == 1
    assert scene.failed == []


async def test_a_queue_for_nobody_takes_nobody():
    assert Scene(limit=0).enter("a") is None


async def test_closing_tells_all_and_takes_nobody_any_more():
    scene = Scene(places=1)
    for name in ("a", "b", "c"):
        scene.enter(name)
    await settle()
    scene.desk.close()
    await settle()
    assert scene.replayed == ["a"]
    assert scene.failed == ["b", "c"]
    assert scene.enter("d") is None
    assert scene.desk.terms(Request.ask("hi"), ChainSpec("default", (), queue_s=5.0)) is None
    assert scene.desk.room == 0


async def test_a_name_that_waits_already_is_not_taken_again_and_an_unknown_one_waits_for_nothing():
    scene = Scene()
    scene.enter("a")
    assert scene.desk.place(scene.waiting("a")) is None
    assert scene.desk.holds("a")
    scene.desk.ended("unknown")
    assert await scene.desk.wait("unknown") is None


@pytest.mark.parametrize(
    ("own", "of_the_chain", "expected"),
    [
        (None, None, None),
        (None, 30.0, QueueTerms(30.0)),
        (QueueTerms(5.0, 3), None, QueueTerms(5.0, 3)),
        (QueueTerms(5.0, 3), 30.0, QueueTerms(5.0, 3)),
    ],
)
async def test_the_terms_are_the_requests_own_or_else_the_chains(own, of_the_chain, expected):
    chain = ChainSpec("default", (), queue_s=of_the_chain)
    request = Request(Request.ask("hi").messages, queue=own)
    assert Scene().desk.terms(request, chain) == expected
