"""A circuit's behaviours 26 to 29: the operator's commands, modes and events."""

from __future__ import annotations

import random

import pytest

from smartfallback.model.circuits import CircuitSettings, CircuitState, RateLimitRule
from smartfallback.policy.circuit import Circuit, CircuitChange
from support.circuits import TARGET, Rig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, OBSERVE_ONLY, DISABLED = (
    CircuitState.FORCED_OPEN,
    CircuitState.OBSERVE_ONLY,
    CircuitState.DISABLED,
)


def test_26_forced_open_stays_through_time_and_results_until_an_operator_lifts_it() -> None:
    rig = Rig()
    running = [rig.acquire() for _ in range(20)]
    rig.circuit.force_open("key rotation", rig.now)
    for permit in running:
        rig.circuit.succeed(permit, rig.now)
    for _ in range(100):
        rig.wait(1e5)
        rig.circuit.tick(rig.now)
        rig.circuit.open_until(rig.now + 1.0, rig.now, "a result")
        assert rig.rejects()
    assert rig.circuit.needs_operator
    assert rig.circuit.blocked_until(rig.now) is None
    assert rig.circuit.rejection(rig.now) == (FORCED_OPEN, None, "key rotation")
    rig.circuit.reset("done", rig.now)
    rig.succeed()
    assert [(change.new, change.cause, change.by_operator) for change in rig.changes] == [
        (FORCED_OPEN, "key rotation", True),
        (CLOSED, "done", True),
    ]


def test_26_a_hold_with_an_end_probes_afterwards() -> None:
    rig = Rig()
    rig.circuit.force_open("failover", rig.now, rig.now + 60.0)
    assert not rig.circuit.needs_operator
    rig.wait(59.9)
    assert rig.rejects()
    assert rig.circuit.rejection(rig.now).retry_after_s == pytest.approx(0.1)
    rig.wait(0.1)
    rig.succeed()
    assert rig.path == [FORCED_OPEN, HALF_OPEN, CLOSED]
    assert [change.by_operator for change in rig.changes] == [True, False, False]


@pytest.mark.parametrize("until", [1000.0, 999.0, float("inf"), float("nan")])
def test_26_a_hold_needs_an_end_in_the_future(until: float) -> None:
    rig = Rig(now=1000.0)
    with pytest.raises(ValueError, match="until a time after"):
        rig.circuit.force_open("x", rig.now, until)
    assert rig.state is CLOSED


def test_26_holding_again_replaces_reason_and_end_silently() -> None:
    rig = Rig()
    rig.circuit.force_open("first", rig.now, rig.now + 10.0)
    rig.circuit.force_open("second", rig.now)
    assert (rig.circuit.cause, rig.circuit.until) == ("second", None)
    assert rig.path == [FORCED_OPEN]


def test_27_disabled_admits_all_and_records_nothing() -> None:
    rig = Rig(failure_threshold=1, slow_call_s=1.0, slow_call_rate=0.1, min_calls=1)
    rig.circuit.disable(rig.now)
    rig.fail(50, lasting=2.0)
    rig.circuit.rate_limited(rig.acquire(), rig.now)
    rig.circuit.open_until(rig.now + 10, rig.now, "x")
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.calls, statistics.failures, statistics.slow, statistics.rejected) == (0, 0, 0, 0)
    assert (statistics.admitted, statistics.settled, statistics.live) == (51, 51, 0)
    assert rig.path == [DISABLED]


def test_27_disabled_watches_no_call_that_hangs() -> None:
    rig = Rig(slow_call_s=1.0, slow_call_rate=0.1, min_calls=1)
    rig.circuit.disable(rig.now)
    rig.acquire()
    rig.wait(5.0)
    rig.circuit.tick(rig.now)
    assert rig.acquire().generation == rig.circuit.generation
    assert rig.circuit.statistics(rig.now).slow == 0
    assert rig.path == [DISABLED]


def test_27_observe_only_records_reports_once_and_rejects_nothing() -> None:
    rig = Rig(failure_threshold=3)
    rig.circuit.observe_only(rig.now)
    rig.fail(10)
    rig.circuit.open_until(rig.now + 10, rig.now, "x")
    assert rig.circuit.statistics(rig.now).failures == 10
    assert rig.circuit.statistics(rig.now).rejected == 0
    assert rig.state is OBSERVE_ONLY
    assert rig.path == [OBSERVE_ONLY, OBSERVE_ONLY]
    report = rig.changes[1]
    assert report.old is report.new
    assert report.cause == "would have opened: 3 of 3 calls failed (100%); last: 503"
    assert report.generation == rig.changes[0].generation


def test_27_observing_again_reports_again() -> None:
    rig = Rig(failure_threshold=3)
    for _ in range(2):
        rig.circuit.observe_only(rig.now)
        rig.fail(5)
        rig.circuit.close("", rig.now)
    assert rig.path == [OBSERVE_ONLY, OBSERVE_ONLY, CLOSED] * 2


def test_27_observe_only_does_not_react_to_a_429() -> None:
    rig = Rig(on_rate_limit=RateLimitRule.HALF_OPEN, initial_state=OBSERVE_ONLY)
    rig.circuit.rate_limited(rig.acquire(), rig.now)
    assert rig.state is OBSERVE_ONLY
    assert rig.changes == []


@pytest.mark.parametrize("mode", [DISABLED, OBSERVE_ONLY])
def test_27_closing_puts_it_to_work_again(mode: CircuitState) -> None:
    rig = Rig(initial_state=mode, failure_threshold=3)
    rig.fail(5)
    rig.circuit.close("", rig.now)
    rig.fail(2)
    assert rig.state is CLOSED
    rig.fail()
    assert rig.state is OPEN


def test_28_a_transition_to_the_same_state_is_silent() -> None:
    rig = Rig()
    rig.circuit.close("x", rig.now)
    rig.circuit.reset("x", rig.now)
    assert (rig.changes, rig.circuit.generation) == ([], 0)
    for command, state in (
        (rig.circuit.disable, DISABLED),
        (rig.circuit.observe_only, OBSERVE_ONLY),
    ):
        command(rig.now)
        command(rig.now)
        assert rig.path[-1] is state
    assert len(rig.changes) == 2
    rig.circuit.close("", rig.now)
    rig.circuit.half_open(rig.now)
    rig.circuit.half_open(rig.now)
    assert len(rig.changes) == 4


@pytest.mark.parametrize("mode", [DISABLED, OBSERVE_ONLY])
def test_28_an_illegal_transition_raises_and_changes_nothing(mode: CircuitState) -> None:
    rig = Rig(initial_state=mode)
    with pytest.raises(ValueError, match=f"{mode.value} can't become half_open"):
        rig.circuit.half_open(rig.now)
    assert rig.state is mode
    assert rig.circuit.generation == 0


def test_resetting_a_closed_circuit_clears_its_counts() -> None:
    rig = Rig(failure_threshold=3)
    rig.fail(2)
    rig.circuit.reset("", rig.now)
    rig.fail(2)
    assert rig.state is CLOSED


def test_an_operator_reset_clears_the_back_off() -> None:
    rig = Rig(recovery_timeout_s=100.0)
    rig.open()
    for _ in range(4):
        rig.until_probing()
        rig.fail()
    rig.circuit.reset("", rig.now)
    rig.open()
    assert rig.circuit.until == rig.now + 100.0


def test_an_operator_may_have_a_circuit_probe_at_once() -> None:
    rig = Rig()
    rig.open()
    rig.circuit.half_open(rig.now, "the vendor says it is fixed")
    rig.succeed()
    assert rig.path == [OPEN, HALF_OPEN, CLOSED]


def test_29_events_form_one_chain_of_states_and_generations() -> None:
    rig = Rig(recovery_timeout_s=10.0)
    for _ in range(5):
        rig.open()
        rig.until_probing()
        rig.fail()
        rig.until_probing()
        rig.succeed()
    assert [change.generation for change in rig.changes] == list(range(1, len(rig.changes) + 1))
    states = [CLOSED, *rig.path]
    assert [change.old for change in rig.changes] == states[:-1]
    assert all(change.target == TARGET for change in rig.changes)


def test_29_a_listener_that_raises_harms_neither_call_nor_state() -> None:
    def broken(_: CircuitChange) -> None:
        raise RuntimeError("listener")

    circuit = Circuit(
        TARGET, CircuitSettings(failure_threshold=1), rng=random.Random(1), now=0.0, on_change=broken
    )
    permit = circuit.acquire(0.0)
    assert permit is not None
    circuit.fail(permit, 0.0)
    assert circuit.state is OPEN
    assert circuit.acquire(1e6) is not None
    assert circuit.statistics(1e6).listener_errors == 2


def test_29_a_listener_may_command_the_circuit_and_events_stay_in_order() -> None:
    told: list[CircuitState] = []

    def hold_when_open(change: CircuitChange) -> None:
        if change.new is OPEN:
            circuit.force_open("held by the listener", change.at)
        told.append(change.new)

    circuit = Circuit(
        TARGET, CircuitSettings(failure_threshold=1), rng=random.Random(1), now=0.0, on_change=hold_when_open
    )
    permit = circuit.acquire(0.0)
    assert permit is not None
    circuit.fail(permit, 0.0)
    assert told == [OPEN, FORCED_OPEN]
    assert circuit.acquire(1e9) is None


def test_a_circuit_without_a_listener_works() -> None:
    circuit = Circuit(TARGET, CircuitSettings(failure_threshold=1), rng=random.Random(1), now=0.0)
    permit = circuit.acquire(0.0)
    assert permit is not None
    circuit.fail(permit, 0.0)
    assert circuit.state is OPEN


def test_a_permit_says_what_it_is() -> None:
    rig = Rig(recovery_timeout_s=30.0)
    call = rig.acquire()
    assert repr(call) == "<Permit call of generation 0, live>"
    rig.circuit.release(call, rig.now)
    assert repr(call) == "<Permit call of generation 0, ended>"
    rig.circuit.half_open(rig.now)
    assert repr(rig.acquire()) == "<Permit probe of generation 1, live>"
