"""The queue's order, bound and end against a sorted list; the pace of replays."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smartfallback.policy.request_queue import (
    FIRST_REPLAYS,
    REPLAY_BACKOFF,
    ReplayPace,
    RequestQueue,
    wait_before,
)

LIMIT = 5


class Known(NamedTuple):
    name: str
    priority: int
    since: float
    expires: float


class QueueAgainstAList(RuleBasedStateMachine):
    """The model keeps a list in order of arrival at the queue, and sorts it each time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RequestQueue(LIMIT)
        self.model: list[Known] = []
        self.now = 0.0
        self.count = 0

    def ordered(self) -> list[Known]:
        return sorted(self.model, key=lambda known: (-known.priority, known.since))

    @rule(
        priority=st.integers(-2, 2),
        age=st.sampled_from([0.0, 0.0, 1.0, 5.0]),
        expires_in=st.sampled_from([0.5, 3.0, 50.0]),
        held=st.integers(0, 2),
    )
    def enter(self, priority: int, age: float, expires_in: float, held: int) -> None:
        self.count += 1
        known = Known(f"r{self.count}", priority, self.now - age, self.now + expires_in)
        admission = self.queue.enter(
            known.name, priority=priority, since=known.since, expires=known.expires, held=held
        )
        before = self.ordered()
        full = len(before) + held >= LIMIT
        last = before[-1] if before else None
        if full and (last is None or (-last.priority, last.since) <= (-priority, known.since)):
            assert admission is None
            return
        if full and last is not None:
            self.model.remove(last)
        self.model.append(known)
        assert admission is not None
        assert admission.pushed_out == (last.name if full and last is not None else None)
        assert admission.place == self.ordered().index(known) + 1

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.model))
        self.model.remove(known)
        assert self.queue.leave(known.name)
        assert not self.queue.leave(known.name)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """Replayed in vain: it has its old place again, also in a queue that has no room left."""
        known = data.draw(st.sampled_from(self.model))
        place = self.ordered().index(known) + 1
        ahead = [other for other in self.ordered() if other.since == known.since]
        self.queue.leave(known.name)
        admission = self.queue.enter(
            known.name, priority=known.priority, since=known.since, expires=known.expires
        )
        self.model.remove(known)
        self.model.append(known)
        assert admission is not None
        assert admission.pushed_out is None
        if len(ahead) == 1:
            assert admission.place == place

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        gone = [known for known in self.model if known.expires <= self.now]
        self.model = [known for known in self.model if known.expires > self.now]
        expired = self.queue.expire(self.now)
        assert sorted(expired) == sorted(known.name for known in gone)

    @invariant()
    def they_agree(self) -> None:
        assert list(self.queue) == [known.name for known in self.ordered()]
        assert len(self.queue) == len(self.model) <= LIMIT
        assert all(known.name in self.queue for known in self.model)


QueueAgainstAList.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueAgainstAList = QueueAgainstAList.TestCase


def test_a_name_is_in_the_queue_once():
    queue = RequestQueue(3)
    queue.enter("r1", priority=0, since=0.0, expires=9.0)
    with pytest.raises(ValueError, match="'r1' is in the queue already"):
        queue.enter("r1", priority=0, since=0.0, expires=9.0)


def test_a_queue_without_room_lets_nobody_in_and_a_negative_limit_is_refused():
    assert RequestQueue(0).enter("r1", priority=9, since=0.0, expires=9.0) is None
    with pytest.raises(ValueError, match="limit must not be negative, not -1"):
        RequestQueue(-1)


def test_those_that_come_and_go_leave_nothing_behind():
    queue = RequestQueue(10)
    for number in range(5_000):
        queue.enter(f"r{number}", priority=0, since=float(number), expires=1e9)
        queue.leave(f"r{number}")
    assert len(queue._ending) < 50


@given(
    outcomes=st.lists(st.tuples(st.sampled_from("sva"), st.floats(0.0, 30.0)), max_size=60),
    seed=st.integers(0, 100),
)
@settings(max_examples=150, deadline=None)
def test_pace_never_runs_more_than_it_has_earned(outcomes: list[tuple[str, float]], seed: int):
    pace = ReplayPace(random.Random(seed))
    now = 0.0
    earned = FIRST_REPLAYS
    in_vain_at = None
    for outcome, seconds in outcomes:
        now += seconds
        while pace.admits(now):
            pace.began()
            assert pace.running <= earned
        if in_vain_at is not None and now - in_vain_at < REPLAY_BACKOFF.base_delay:
            assert not pace.admits(now)
        if not pace.running:
            continue
        if outcome == "s":
            pace.succeeded()
            earned += 1
            in_vain_at = None
        elif outcome == "v":
            pace.failed(now)
            earned = FIRST_REPLAYS
            in_vain_at = now
        elif outcome == "a":
            pace.abandoned()
        assert pace.running >= 0


def test_pace_starts_slowly_speeds_up_with_success_and_starts_anew_after_one_in_vain():
    pace = ReplayPace(random.Random(1))

    def begin_all(now: float) -> int:
        began = 0
        while pace.admits(now):
            pace.began()
            began += 1
        return began

    assert begin_all(0.0) == 2
    pace.succeeded()
    pace.succeeded()
    assert begin_all(0.0) == 4
    for _ in range(4):
        pace.succeeded()
    assert begin_all(0.0) == 8
    for _ in range(8):
        pace.failed(0.0)
    assert begin_all(0.9) == 0
    assert begin_all(61.0) == 2


def test_breaks_grow_while_replays_are_in_vain_and_are_never_below_a_second():
    rng = random.Random(7)
    for rounds, ceiling in ((1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (500, 60.0)):
        waits = [wait_before(rounds, rng) for _ in range(300)]
        assert min(waits) >= 1.0
        assert max(waits) <= ceiling
        assert max(waits) > 0.9 * ceiling
