from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.policy.circuit_running import RunningCalls
from smartfallback.policy.circuit_values import Permit


def started(at: float) -> Permit:
    return Permit(0, at, None)


def test_a_call_is_taken_once_as_soon_as_it_is_slow() -> None:
    calls = RunningCalls(10.0)
    assert calls.due_at == math.inf
    first, second = started(0.0), started(5.0)
    calls.add(first)
    calls.add(second)
    assert calls.due_at == 10.0
    assert calls.take_overdue(9.9) == 0
    assert calls.overdue(10.0) == 1
    assert calls.take_overdue(10.0) == 1
    assert (first.noticed, second.noticed) == (True, False)
    assert calls.take_overdue(10.0) == 0
    assert calls.due_at == 15.0


def test_a_call_that_ended_is_not_overdue() -> None:
    calls = RunningCalls(10.0)
    call = started(0.0)
    calls.add(call)
    call.live = False
    assert calls.overdue(10.0) == 0
    assert calls.take_overdue(10.0) == 0
    assert not call.noticed
    assert calls.due_at == math.inf


@settings(deadline=None, max_examples=50)
@given(hanging=st.integers(0, 50), passing=st.integers(0, 2000))
def test_at_most_twice_the_live_calls_and_a_constant_are_kept(hanging: int, passing: int) -> None:
    calls = RunningCalls(1e6)
    for _ in range(hanging):
        calls.add(started(0.0))
    for _ in range(passing):
        call = started(1.0)
        calls.add(call)
        call.live = False
    assert len(calls) <= 2 * (hanging + 1) + 64
    assert calls.overdue(2e6) == hanging


class Counted:
    """A call that counts how often it is looked at."""

    looks = 0

    def __init__(self, at: float) -> None:
        self.started_at = at
        self.noticed = False
        self.ended = False

    @property
    def live(self) -> bool:
        Counted.looks += 1
        return not self.ended


@pytest.mark.parametrize(("hanging", "passing"), [(0, 4000), (40, 4000), (1000, 1000)])
def test_the_work_per_call_is_constant_on_average(hanging: int, passing: int) -> None:
    Counted.looks = 0
    calls = RunningCalls(10.0)
    for ends in [False] * hanging + [True] * passing:
        call = Counted(5.0)
        calls.add(call)  # type: ignore[arg-type]  # looks like a permit
        call.ended = ends
    assert Counted.looks <= 3 * (hanging + passing)


def test_a_sweep_keeps_the_time_of_the_first_that_hangs() -> None:
    calls = RunningCalls(10.0)
    ended = started(1.0)
    calls.add(ended)
    ended.live = False
    for at in range(2, 500):
        calls.add(started(float(at)))
    assert calls.due_at == 12.0
