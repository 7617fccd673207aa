"""The server's clock: found to within half a round trip, through steps of either clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.state.redis_store.server_clock import ServerClock
from support.clock import FakeClock


def ask(server_clock: ServerClock, clock: FakeClock, ahead: float, out_s: float, back_s: float) -> None:
    """One round trip to a server whose clock is ``ahead`` of true time."""
    sent = clock.monotonic()
    clock.advance(out_s)
    said = clock._at + clock.monotonic() + ahead
    clock.advance(back_s)
    server_clock.heard(said, sent, clock.monotonic())


@settings(max_examples=200, deadline=None)
@given(
    ahead=st.floats(-7200, 7200),
    trips=st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=10),
)
def test_it_is_right_to_within_half_the_shortest_round_trip(ahead, trips):
    clock = FakeClock()
    server_clock = ServerClock(clock)
    for out_s, back_s in trips:
        ask(server_clock, clock, ahead, out_s, back_s)
    # A time in epoch seconds is a float with steps of some 0.25 µs.
    assert abs(server_clock.offset_s - ahead) <= min(map(sum, trips)) / 2 + 2e-6


def test_nothing_heard_is_no_offset():
    assert ServerClock(FakeClock()).offset_s == 0.0


def test_a_step_of_this_machines_clock_shows_at_once():
    clock = FakeClock()
    server_clock = ServerClock(clock)
    ask(server_clock, clock, 0.0, 0.001, 0.001)
    clock.step_wall_clock(3600)
    assert server_clock.offset_s == pytest.approx(-3600, abs=1e-3)


def test_a_step_of_the_servers_clock_shows_with_the_next_answer_however_slow():
    clock = FakeClock()
    server_clock = ServerClock(clock)
    for _ in range(5):
        ask(server_clock, clock, 0.0, 0.0001, 0.0001)
    ask(server_clock, clock, 60.0, 0.1, 0.1)
    assert server_clock.offset_s == pytest.approx(60, abs=0.1)


def test_another_servers_clock_is_another():
    clock = FakeClock()
    server_clock = ServerClock(clock)
    ask(server_clock, clock, 5.0, 0.001, 0.001)
    server_clock.forget()
    assert server_clock.offset_s == 0.0
