"""Circuits of several instances for one target: what they cost together, and that none is left behind."""

from __future__ import annotations

from itertools import cycle, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.circuits import CircuitSettings, CircuitState
from support.circuit_instances import Instances, Running

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN = CircuitState.FORCED_OPEN

SETTINGS = CircuitSettings(
    failure_threshold=3,
    window_s=60.0,
    recovery_timeout_s=10.0,
    max_recovery_timeout_s=40.0,
    recovery_jitter=0.0,
    probe_lease_s=20.0,
)
COUNTS = st.sampled_from((2, 4))


def broken(count: int, down: set[int]) -> Instances:
    """The first instance in ``down`` has opened its circuit by itself, and the others have heard of it."""
    instances = Instances(count, SETTINGS)
    instances.down = down
    for _ in range(SETTINGS.failure_threshold):
        instances.call(min(down))
    return instances


@settings(deadline=None, max_examples=80)
@given(count=COUNTS, order=st.lists(st.integers(0, 3), max_size=30))
def test_down_for_all_costs_the_first_its_threshold_and_all_others_together_one_test(
    count: int, order: list[int]
) -> None:
    """Whatever the order of calls: what others had met alone before is all that comes on top."""
    instances = Instances(count, SETTINGS)
    instances.down = set(range(count))
    threshold = SETTINGS.failure_threshold
    before: int | None = None
    for caller in [number % count for number in order] + list(islice(cycle(range(count)), count * 4)):
        instances.call(caller)
        if before is None and OPEN in instances.states:
            before = sum(instances.failed.values())
    assert before is not None
    assert before <= threshold + (count - 1) * (threshold - 1)
    assert sum(instances.failed.values()) == before + 1
    assert instances.all_are(OPEN)
    assert len({circuit.until for circuit in instances.circuits}) == 1


@pytest.mark.parametrize("count", [2, 4])
def test_down_for_all_costs_threshold_and_one_where_only_one_has_met_it(count: int) -> None:
    instances = broken(count, set(range(count)))
    for caller in islice(cycle(reversed(range(count))), 100):
        instances.call(caller)
    assert sum(instances.failed.values()) == SETTINGS.failure_threshold + 1
    assert instances.all_are(OPEN)
    assert [circuit.adopted for circuit in instances.circuits].count(False) == 2, "the first and the tester"


@settings(deadline=None, max_examples=80)
@given(count=COUNTS, calls=st.lists(st.tuples(st.integers(1, 3), st.floats(0.0, 6.0)), max_size=60))
def test_down_for_one_alone_costs_the_others_no_failure_and_they_serve_on(
    count: int, calls: list[tuple[int, float]]
) -> None:
    instances = Instances(count, SETTINGS)
    instances.down = {0}
    for caller, pause in calls:
        instances.now += pause
        instances.call(0)
        assert instances.call(1 + caller % (count - 1)), "one call at a time is never turned away"
    assert instances.failed.keys() <= {0}
    assert not any(OPEN is change.new for number in range(1, count) for change in instances.changes[number])
    instances.down.clear()
    instances.until_probing()
    for number in range(count):
        assert instances.call(number)
    assert instances.all_are(CLOSED)


def test_the_test_of_one_clears_all_others_and_the_first_keeps_its_break() -> None:
    instances = broken(4, {0})
    assert instances.states == [OPEN, HALF_OPEN, HALF_OPEN, HALF_OPEN]
    until = instances.circuits[0].until
    tests = [instances.begin(number) for number in (1, 2, 3) for _ in range(25)]
    (test,) = filter(None, tests)
    instances.end(test)
    assert instances.states == [OPEN, CLOSED, CLOSED, CLOSED]
    assert instances.circuits[0].until == until
    assert all(instances.call(number) for number in (1, 2, 3))


@settings(deadline=None, max_examples=60)
@given(calls=st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 6.0), st.booleans()), max_size=60))
def test_others_lose_at_most_one_call_each_to_a_suspicion(calls: list[tuple[int, float, bool]]) -> None:
    """Also where their tests fail by mishap, and then all rest."""
    instances = Instances(4, SETTINGS)
    instances.down = {0}
    for caller, pause, mishap in calls:
        instances.now += pause
        suspected = instances.circuits[caller].suspected
        instances.call(caller, fails=True if caller == 0 else suspected and mishap)
    for number in (1, 2, 3):
        assert instances.failed[number] <= instances.suspicions[number]
    assert instances.most_probes <= 1


@pytest.mark.parametrize("good", [True, False])
def test_at_the_end_of_the_break_one_probe_decides_for_all_under_load(good: bool) -> None:
    instances = broken(4, {0, 1, 2, 3})
    instances.call(2)
    assert instances.all_are(OPEN)
    instances.until_probing()
    assert instances.all_are(HALF_OPEN)
    began = [instances.begin(caller) for caller in islice(cycle((3, 1, 0, 2)), 100)]
    (probe,) = filter(None, began)
    assert probe.instance == 3
    instances.end(probe, fails=not good)
    assert instances.all_are(CLOSED if good else OPEN)
    assert sum(instances.call(number) for number in range(4)) == (4 if good else 0)


def test_breaks_grow_whoever_probes() -> None:
    instances = broken(4, {0, 1, 2, 3})
    instances.call(1)
    for prober, length in ((2, 20.0), (3, 40.0), (0, 40.0)):
        instances.until_probing()
        assert instances.call(prober)
        assert {circuit.until for circuit in instances.circuits} == {instances.now + length}
    instances.down.clear()
    instances.until_probing()
    instances.call(1)
    instances.down = {0, 1, 2, 3}
    for _ in range(3):
        instances.call(2)
    assert instances.circuits[2].until == instances.now + 10.0, "closing starts over, for all"


def test_an_instance_that_dies_while_it_probes_keeps_the_others_waiting_for_its_lease_only() -> None:
    instances = broken(4, {0, 1, 2, 3})
    instances.call(1)
    instances.down.clear()
    instances.until_probing()
    assert instances.begin(3) is not None
    for number in (0, 1, 2):
        instances.now += 5.0
        assert not instances.call(number)
    instances.now += 5.0
    assert instances.call(0)
    assert instances.all_are(CLOSED)


def test_one_command_holds_it_everywhere_and_probes_and_breaks_of_others_do_not_lift_it() -> None:
    instances = broken(4, {0, 1, 2, 3})
    instances.circuits[2].force_open("incident", instances.now)
    assert instances.all_are(FORCED_OPEN)
    assert all(circuit.needs_operator for circuit in instances.circuits)
    instances.now += 1e6
    assert not any(instances.call(number) for number in range(4))
    instances.circuits[0].close("over", instances.now)
    assert instances.all_are(CLOSED)


@pytest.mark.parametrize("count", [2, 4])
def test_probes_that_several_have_to_succeed_close_it_in_few_whoever_made_them(count: int) -> None:
    chosen = CircuitSettings(failure_threshold=3, half_open_max_calls=3, success_threshold=3)
    instances = Instances(count, chosen)
    instances.down = set(range(count))
    for number in (0, 0, 0, 1):
        instances.call(number)
    instances.down.clear()
    instances.until_probing()
    began = [instances.begin(caller) for caller in islice(cycle(range(count)), 100)]
    probes = [running for running in began if running is not None]
    assert len(probes) == instances.most_probes == 3
    for probe in probes:
        instances.end(probe)
    needed, made = count * (chosen.success_threshold - 1) + 1, len(probes)
    for caller in islice(cycle(range(count)), needed * count):
        if not instances.all_are(CLOSED):
            instances.now += 1.0
            made += instances.call(caller)
    assert instances.all_are(CLOSED)
    assert made <= needed


@settings(deadline=None, max_examples=100)
@given(
    count=COUNTS,
    seed=st.integers(0, 2**32),
    steps=st.lists(
        st.tuples(
            st.sampled_from(("call", "begin", "end", "deliver", "again", "lose", "wait", "flip")),
            st.integers(0, 50),
        ),
        max_size=150,
    ),
    hears_on=st.booleans(),
)
def test_late_doubled_and_lost_messages_leave_none_behind(
    count: int, seed: int, steps: list[tuple[str, int]], hears_on: bool
) -> None:
    instances = Instances(count, SETTINGS, seed=seed, late=True)
    running: list[Running] = []
    for step, number in steps:
        if step == "wait":
            instances.now += number / 4
        elif step == "flip":
            instances.down ^= {number % count}
        elif step == "call":
            instances.call(number % count)
        elif step == "begin":
            begun = instances.begin(number % count)
            running += [] if begun is None else [begun]
        elif step == "end":
            if running:
                instances.end(running.pop(number % len(running)))
        elif instances.posted:
            index = number % len(instances.posted)
            if step == "lose":
                instances.posted.pop(index)
            else:
                instances.deliver(index, keep=step == "again")
        assert instances.most_probes <= 1
    instances.down.clear()
    if hears_on:
        instances.late = False
        while instances.posted:
            instances.deliver(0)
    else:
        instances.posted.clear()
    # A break, the lease of a probe that fell silent, and once more what an unheard failure had begun.
    bound, healed_at = 2 * 40.0 + 2 * 20.0 + 2.0, instances.now
    while not instances.all_are(CLOSED):
        assert instances.now - healed_at <= bound
        instances.now += 0.5
        for number in range(count):
            instances.call(number)
    for changes in instances.changes.values():
        generations = [change.generation for change in changes]
        assert generations == list(range(1, len(changes) + 1))
