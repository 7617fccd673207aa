"""States, words and waits of a server that comes and goes."""

from __future__ import annotations

import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.state.redis_store.health import CHECK_EVERY_S, Health
from support.clock import FakeClock

NAME = "smartfallback.state"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def health(clock):
    return Health("redis://db:6379", clock, random.Random(1))


def test_each_change_of_state_is_one_line_and_nothing_else_is(health, clock, caplog):
    caplog.set_level(logging.INFO, NAME)
    for _ in range(3):
        health.well(0.001)
    for words in ("connection refused", "it does not answer", "its memory is full"):
        clock.advance(1)
        health.lost(words)
    for _ in range(3):
        health.slow("an answer took 200 ms", 0.2)
    clock.advance(0.5)
    for _ in range(3):
        health.well(0.001)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "shared store redis://db:6379: in use"),
        (
            "WARNING",
            "shared store redis://db:6379 can't be used (connection refused): going on from memory, "
            "trying again",
        ),
        (
            "WARNING",
            "shared store redis://db:6379 is slow (an answer took 200 ms): requests go on from memory, "
            "all else is still shared",
        ),
        ("INFO", "shared store redis://db:6379: in use again after 2.5 s"),
    ]


def test_the_status_says_since_when_and_why(health, clock):
    assert not health.status.usable
    assert not health.status.reachable
    assert health.status.degraded_since is None
    health.lost("connection refused")
    since = clock.time()
    clock.advance(3)
    clock.step_wall_clock(1000)
    health.slow("an answer took 200 ms", 0.2)
    status = health.status
    assert (status.usable, status.reachable, status.degraded_since) == (False, True, since)
    assert (status.trouble, status.lag_s) == ("an answer took 200 ms", 0.2)
    health.well(0.001)
    status = health.status
    assert (status.usable, status.reachable, status.degraded_since) == (True, True, None)
    assert (status.trouble, status.lag_s) == ("", 0.001)


def test_listeners_hear_of_changes_only_and_one_that_fails_harms_nobody(health, caplog):
    heard = []

    def failing(status):
        raise RuntimeError("listener")

    health.on_change(failing)
    health.on_change(heard.append)
    health.well(0.001)
    health.well(0.002)
    health.lost("gone")
    health.lost("still gone")
    assert [(status.usable, status.trouble) for status in heard] == [(True, ""), (False, "gone")]
    assert "a listener to the shared store failed" in caplog.text


def test_waits_grow_to_two_seconds_and_are_spread(health):
    health.lost("gone")
    waits = [health.next_wait_s() for _ in range(20)]
    full = [min(0.05 * 2**number, 2.0) for number in range(20)]
    assert all(whole / 2 <= wait <= whole for wait, whole in zip(waits, full, strict=True))
    assert len(set(waits)) == len(waits)


def test_a_server_that_is_well_is_asked_evenly(health):
    health.well(0.001)
    assert {health.next_wait_s() for _ in range(5)} == {CHECK_EVERY_S}


def test_a_flapping_server_is_left_alone_longer_each_time_and_forgiven_later(health, clock):
    waits = []
    for _ in range(10):
        health.well(0.001)
        clock.advance(0.1)
        health.slow("no answer within 50 ms")
        waits.append(health.next_wait_s())
    assert waits[-1] >= 1.0
    health.well(0.001)
    clock.advance(10)
    health.slow("no answer within 50 ms")
    assert health.next_wait_s() <= 0.05


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["well", "slow", "lost"]), st.floats(0, 5)), max_size=30))
def test_lines_and_calls_are_as_many_as_changes(steps):
    clock = FakeClock()
    health = Health("redis://db", clock, random.Random(1))
    heard = []
    health.on_change(heard.append)
    changes, last = 0, ""
    for step, pause_s in steps:
        clock.advance(pause_s)
        if step == "well":
            health.well(0.001)
        else:
            getattr(health, step)("why")
        changes += step != last
        last = step
        assert health.status.usable == (step == "well")
        assert health.status.reachable == (step != "lost")
        assert 0 < health.next_wait_s() <= 2.0
    assert len(heard) == changes
