"""A circuit's behaviours 18 to 25: half-open."""

from __future__ import annotations

import pytest

from smartfallback.model.circuits import CircuitState
from support.circuits import Rig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def probing(**settings: object) -> Rig:
    """A rig whose break is over."""
    rig = Rig(**settings)  # type: ignore[arg-type]  # passed on to CircuitSettings
    rig.open()
    rig.until_probing()
    return rig


@pytest.mark.parametrize(("at_once", "needed"), [(1, 1), (3, 3), (3, 1), (1, 3), (2, 5)])
def test_18_the_cap_on_concurrent_probes_holds_under_100_callers(at_once: int, needed: int) -> None:
    rig = probing(half_open_max_calls=at_once, success_threshold=needed)
    permits = [rig.circuit.acquire(rig.now) for _ in range(100)]
    assert sum(permit is not None for permit in permits) == at_once
    assert rig.circuit.statistics(rig.now).rejected == 100 - at_once


@pytest.mark.parametrize(("at_once", "needed"), [(3, 3), (1, 3), (2, 5)])
def test_18_the_cap_on_all_probes_holds_under_100_callers(at_once: int, needed: int) -> None:
    rig = probing(half_open_max_calls=at_once, success_threshold=needed)
    probes = 0
    running = [rig.acquire()]
    while rig.state is HALF_OPEN:
        for _ in range(100):
            permit = rig.circuit.acquire(rig.now)
            if permit is not None:
                running.append(permit)
        assert len(running) <= at_once
        probes += 1
        rig.circuit.succeed(running.pop(0), rig.now)
    assert probes == needed
    assert not running, "no more probes than successes that are needed"


def test_19_a_result_from_an_older_generation_changes_neither_counts_nor_state() -> None:
    rig = Rig(failure_threshold=3, success_threshold=2)
    late = [rig.acquire() for _ in range(6)]
    rig.open()
    rig.until_probing()
    old_probe = rig.acquire()
    rig.circuit.succeed(late[0], rig.now)
    rig.circuit.fail(late[1], rig.now)
    rig.circuit.release(late[2], rig.now)
    assert rig.state is HALF_OPEN
    assert rig.rejects(), "the probe still holds its place"
    rig.circuit.succeed(old_probe, rig.now)
    rig.succeed()
    assert rig.path == [OPEN, HALF_OPEN, CLOSED]
    for permit in late[3:]:
        rig.circuit.fail(permit, rig.now)
    assert rig.state is CLOSED
    assert rig.circuit.statistics(rig.now).calls == 0


def test_19_a_probe_of_an_earlier_probing_changes_nothing_in_a_later_one() -> None:
    rig = probing(half_open_max_calls=2, success_threshold=2)
    early = rig.acquire()
    rig.fail()
    rig.until_probing()
    rig.circuit.succeed(early, rig.now)
    rig.succeed()
    assert rig.state is HALF_OPEN, "one success of two"


def test_20_a_cancelled_probe_gives_its_permit_back_and_no_verdict() -> None:
    rig = probing()
    for _ in range(10):
        probe = rig.acquire()
        assert rig.rejects()
        rig.circuit.release(probe, rig.now)
        assert rig.state is HALF_OPEN
    rig.succeed()
    assert rig.state is CLOSED


def test_21_a_silent_probe_loses_its_place_after_its_own_lease() -> None:
    rig = probing(probe_lease_s=120.0)
    silent = rig.acquire()
    for _ in range(119):
        rig.wait(1.0)
        assert rig.rejects(), "and a refusal does not prolong the lease"
    assert rig.circuit.blocked_until(rig.now) == silent.lease_until
    rig.wait(1.0)
    assert rig.circuit.admits(rig.now)
    successor = rig.acquire()
    assert not silent.live
    rig.circuit.fail(silent, rig.now)
    assert rig.state is HALF_OPEN, "what it reports afterwards changes nothing"
    rig.circuit.succeed(successor, rig.now)
    assert rig.state is CLOSED
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.expired, statistics.live) == (1, 0)


def test_21_each_probe_has_its_own_lease() -> None:
    rig = probing(probe_lease_s=100.0, half_open_max_calls=2, success_threshold=2)
    rig.acquire()
    rig.wait(60.0)
    rig.acquire()
    rig.wait(40.0)
    rig.acquire()
    assert rig.rejects(), "one place came back, not two"


def test_21_probes_that_fall_silent_together_are_all_counted() -> None:
    rig = probing(half_open_max_calls=2, success_threshold=2, probe_lease_s=10.0)
    rig.circuit.release(rig.acquire(), rig.now)
    for _ in range(2):
        rig.acquire()
        rig.acquire()
        rig.wait(10.0)
        rig.circuit.tick(rig.now)
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.expired, statistics.released, statistics.live) == (4, 5, 0)


def test_22_successes_close_with_a_fresh_window() -> None:
    rig = probing(failure_threshold=3, success_threshold=3, recovery_timeout_s=1.0, window_s=300.0)
    rig.succeed(2)
    assert rig.state is HALF_OPEN
    rig.succeed()
    assert rig.state is CLOSED
    rig.fail(2)
    assert rig.state is CLOSED, "the failures from before the opening are gone"


def test_22_a_failure_reopens_and_restarts_the_wait() -> None:
    rig = probing(success_threshold=3, recovery_timeout_s=100.0)
    rig.succeed(2)
    rig.fail(cause="502")
    assert rig.state is OPEN
    assert rig.circuit.cause == "probe failed: 502"
    rig.wait(199.0)
    assert rig.rejects()
    rig.until_probing()
    rig.succeed(2)
    assert rig.state is HALF_OPEN, "successes are counted anew"


def test_23_a_slow_probe_is_bad() -> None:
    rig = probing(slow_call_s=10.0)
    rig.succeed(lasting=10.0)
    assert rig.state is OPEN
    assert "slow" in rig.circuit.cause


def test_23_a_probe_that_hangs_is_bad_as_soon_as_it_is_slow() -> None:
    rig = probing(slow_call_s=10.0, half_open_max_calls=2, success_threshold=2)
    hanging = rig.acquire()
    rig.wait(10.0)
    assert not rig.circuit.admits(rig.now)
    blocked_until = rig.circuit.blocked_until(rig.now)
    assert blocked_until is not None
    assert blocked_until > rig.now
    rig.circuit.tick(rig.now)
    assert rig.state is OPEN
    rig.circuit.succeed(hanging, rig.now)
    assert rig.state is OPEN


def test_23_a_probe_that_is_slow_at_the_very_end_of_its_lease_is_bad() -> None:
    rig = probing(slow_call_s=10.0, probe_lease_s=10.0)
    rig.acquire()
    rig.wait(10.0)
    rig.circuit.tick(rig.now)
    assert rig.state is OPEN


def test_23_a_timed_out_probe_reopens() -> None:
    rig = probing()
    rig.circuit.timed_out(rig.acquire(), rig.now)
    assert rig.state is OPEN


def test_24_ignored_results_keep_the_place_open_any_number_of_times() -> None:
    rig = probing(half_open_max_calls=2, success_threshold=2)
    for _ in range(100):
        rig.circuit.ignore(rig.acquire(), rig.now)
    assert rig.state is HALF_OPEN
    rig.succeed(2)
    assert rig.state is CLOSED


def test_25_a_tick_moves_open_to_half_open_and_takes_no_permit() -> None:
    rig = Rig(recovery_timeout_s=30.0)
    rig.open()
    rig.wait(29.9)
    rig.circuit.tick(rig.now)
    assert rig.state is OPEN
    rig.wait(0.1)
    admitted = rig.circuit.statistics(rig.now).admitted
    rig.circuit.tick(rig.now)
    rig.circuit.tick(rig.now)
    assert rig.path == [OPEN, HALF_OPEN]
    assert rig.circuit.statistics(rig.now).admitted == admitted
    assert rig.acquire().probe


def test_25_any_transition_cancels_the_timer() -> None:
    rig = Rig(recovery_timeout_s=30.0)
    rig.open()
    rig.circuit.close("fixed", rig.now)
    rig.wait(30.0)
    rig.circuit.tick(rig.now)
    assert rig.path == [OPEN, CLOSED]
    rig.open()
    rig.circuit.force_open("hold", rig.now)
    rig.wait(30.0)
    rig.circuit.tick(rig.now)
    assert rig.state is CircuitState.FORCED_OPEN


def test_asking_whether_it_admits_changes_nothing() -> None:
    rig = Rig(recovery_timeout_s=30.0)
    rig.open()
    rig.wait(30.0)
    before = rig.circuit.statistics(rig.now)
    for _ in range(5):
        assert rig.circuit.admits(rig.now)
        assert rig.circuit.blocked_until(rig.now) is None
    assert rig.state is OPEN
    assert rig.circuit.statistics(rig.now) == before


def test_a_probe_whose_lease_ends_before_it_is_slow_gives_no_verdict() -> None:
    rig = probing(probe_lease_s=10.0, slow_call_s=60.0)
    rig.acquire()
    rig.wait(1000.0)
    assert rig.circuit.admits(rig.now)
    rig.circuit.tick(rig.now)
    assert rig.state is HALF_OPEN
    assert rig.circuit.statistics(rig.now).expired == 1
