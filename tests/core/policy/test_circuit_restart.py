"""What of a circuit outlives its process, and what a record from outside may hold."""

from __future__ import annotations

import random

import pytest

from smartfallback.model.circuits import CircuitSettings, CircuitState
from smartfallback.model.state import CircuitRecord
from smartfallback.policy.circuit import Circuit
from support.circuits import TARGET, Rig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, OBSERVE_ONLY, DISABLED = (
    CircuitState.FORCED_OPEN,
    CircuitState.OBSERVE_ONLY,
    CircuitState.DISABLED,
)
OFFSET = 2.0**30
"""Epoch seconds minus monotonic ones."""


def after(rig: Rig, *, off_s: float = 0.0) -> Rig:
    """The circuit of the next process, whose monotonic clock begins at 5."""
    epoch = rig.now + OFFSET + off_s
    record = rig.circuit.record(OFFSET)
    new = Rig(now=5.0)
    new.settings = rig.settings
    new.circuit = Circuit(
        TARGET, rig.settings, rng=random.Random(1), now=new.now, on_change=new.changes.append
    )
    if record is not None:
        new.circuit.restore(record, new.now, epoch - new.now)
    return new


@pytest.mark.parametrize("off_s", [0.0, 1.0, 59.0])
def test_a_forced_open_with_an_end_is_neither_shortened_nor_prolonged(off_s: float) -> None:
    rig = Rig()
    rig.circuit.force_open("key rotation", rig.now, rig.now + 60.0)
    new = after(rig, off_s=off_s)
    assert (new.state, new.circuit.cause) == (FORCED_OPEN, "key rotation")
    assert new.circuit.until == 5.0 + 60.0 - off_s
    assert new.circuit.since == 5.0 - off_s
    new.wait(60.0 - off_s - 0.25)
    assert new.rejects()
    new.wait(0.25)
    assert new.acquire().probe


def test_a_forced_open_without_an_end_still_needs_the_operator() -> None:
    rig = Rig()
    rig.circuit.force_open("incident", rig.now)
    new = after(rig, off_s=1e7)
    assert new.circuit.needs_operator
    assert new.rejects()
    assert new.changes == [], "a restart is no change"


def test_what_is_kept_of_one_that_never_broke_has_a_length_of_a_first_break() -> None:
    rig = Rig(recovery_timeout_s=100.0)
    rig.circuit.force_open("x", rig.now)
    record = rig.circuit.record(OFFSET)
    assert record == CircuitRecord(FORCED_OPEN, "x", rig.now + OFFSET, None, 100.0, None, False)


def test_a_break_goes_on_and_the_next_one_grows_from_it() -> None:
    rig = Rig(recovery_timeout_s=100.0, recovery_jitter=0.0)
    rig.open()
    rig.until_probing()
    rig.fail()
    new = after(rig, off_s=50.0)
    assert (new.state, new.circuit.until) == (OPEN, 5.0 + 150.0)
    new.until_probing()
    new.fail()
    assert new.circuit.until == new.now + 400.0
    assert new.circuit.generation == 3


def test_a_break_that_ended_meanwhile_is_over_at_the_first_call_which_tells_so() -> None:
    rig = Rig(recovery_timeout_s=100.0)
    rig.open()
    new = after(rig, off_s=1000.0)
    assert new.acquire().probe
    (change,) = new.changes
    assert (change.old, change.new) == (OPEN, HALF_OPEN)
    assert change.cause == "the break is over; it began with: 3 of 3 calls failed (100%); last: 503"


def test_the_one_test_after_a_rate_limit_is_still_due() -> None:
    rig = Rig(on_rate_limit="half_open", half_open_max_calls=3, success_threshold=3)
    rig.circuit.rate_limited(rig.acquire(), rig.now)
    new = after(rig)
    new.acquire()
    assert new.rejects(), "one test, not three probes"


@pytest.mark.parametrize("mode", [OBSERVE_ONLY, DISABLED])
def test_a_mode_that_the_operator_set_stays(mode: CircuitState) -> None:
    rig = Rig()
    if mode is DISABLED:
        rig.circuit.disable(rig.now, "trial")
    else:
        rig.circuit.observe_only(rig.now, "trial")
    new = after(rig, off_s=1e6)
    assert (new.state, new.circuit.cause) == (mode, "trial")
    again = after(new)
    again.circuit.close("over", again.now)
    assert after(again).state is CLOSED


@pytest.mark.parametrize("initial", [CLOSED, OBSERVE_ONLY, DISABLED])
def test_what_the_configuration_says_is_not_kept(initial: CircuitState) -> None:
    assert Rig(initial_state=initial).circuit.record(OFFSET) is None


def test_closed_by_an_operator_stays_closed_where_the_configuration_observes() -> None:
    rig = Rig(initial_state=OBSERVE_ONLY)
    rig.circuit.close("", rig.now)
    new = after(rig)
    assert new.state is CLOSED
    assert after(new).state is CLOSED


def test_a_start_as_open_is_cautious_at_each_start() -> None:
    rig = Rig(initial_state=OPEN)
    rig.until_probing()
    rig.succeed()
    assert rig.circuit.record(OFFSET) is None
    assert after(rig).state is OPEN


def test_a_hold_kept_by_a_circuit_that_starts_as_open_begins_with_a_first_break() -> None:
    settings = CircuitSettings(initial_state=OPEN, recovery_timeout_s=100.0, recovery_jitter=0.0)
    circuit = Circuit(TARGET, settings, rng=random.Random(1), now=0.0)
    circuit.restore(CircuitRecord(FORCED_OPEN, "held", OFFSET, OFFSET + 1.0), 0.0, OFFSET)
    permit = circuit.acquire(1.0)
    assert permit is not None
    circuit.fail(permit, 1.0)
    assert circuit.until == 101.0


@pytest.mark.parametrize(("first", "last"), [(0.0, 50.0), (-1.0, 50.0), (50.0, 0.0), (50.0, -1.0)])
def test_breaks_that_can_not_have_been_are_not_believed(first: float, last: float) -> None:
    rig = Rig(recovery_timeout_s=100.0)
    record = CircuitRecord(OPEN, "x", OFFSET, OFFSET + rig.now, first, last)
    rig.circuit.restore(record, rig.now, OFFSET)
    rig.fail()
    assert rig.circuit.until == rig.now + 100.0


def test_small_breaks_are_believed() -> None:
    rig = Rig(recovery_jitter=0.0)
    rig.circuit.restore(CircuitRecord(OPEN, "x", OFFSET, OFFSET + rig.now, 0.5, 0.75), rig.now, OFFSET)
    rig.fail()
    assert rig.circuit.until == rig.now + 1.5


def test_an_open_record_without_an_end_probes_at_once_and_one_from_the_future_began_now() -> None:
    rig = Rig()
    rig.circuit.restore(CircuitRecord(OPEN, "x", OFFSET + rig.now + 99.0), rig.now, OFFSET)
    assert (rig.circuit.since, rig.circuit.until) == (rig.now, rig.now)
    assert rig.acquire().probe
