"""A circuit's behaviours 12 to 17: open."""

from __future__ import annotations

import pytest

from smartfallback.model.circuits import CircuitState
from support.circuits import Rig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def test_12_rejects_counts_it_and_says_when_to_retry_and_why() -> None:
    rig = Rig(recovery_timeout_s=300.0)
    rig.open()
    rig.wait(100.0)
    assert rig.rejects()
    assert rig.rejects()
    assert rig.circuit.statistics(rig.now).rejected == 2
    rejection = rig.circuit.rejection(rig.now)
    assert rejection.state is OPEN
    assert rejection.retry_after_s == 200.0
    assert rejection.cause.endswith("last: 503")
    assert rig.circuit.blocked_until(rig.now) == 1300.0


def test_12_retry_after_is_never_below_zero() -> None:
    rig = Rig()
    rig.open()
    rig.wait(1e6)
    assert rig.circuit.rejection(rig.now).retry_after_s == 0.0
    assert rig.circuit.blocked_until(rig.now) is None
    assert rig.circuit.admits(rig.now)
    assert not rig.circuit.needs_operator


def test_13_results_from_before_the_opening_neither_extend_the_break_nor_fire_again() -> None:
    rig = Rig(failure_threshold=3)
    late = [rig.acquire() for _ in range(4)]
    rig.open()
    until = rig.circuit.until
    rig.wait(10.0)
    rig.circuit.fail(late[0], rig.now)
    rig.circuit.succeed(late[1], rig.now)
    rig.circuit.timed_out(late[2], rig.now)
    rig.circuit.open_until(rig.now + 1e4, rig.now, "late", late[3])
    assert rig.circuit.until == until
    assert rig.path == [OPEN]
    assert rig.circuit.statistics(rig.now).live == 0


def test_14_waits_exactly() -> None:
    rig = Rig(recovery_timeout_s=300.0)
    rig.open()
    rig.wait(299.999)
    assert rig.rejects()
    rig.wait(0.001)
    assert rig.acquire().probe


def test_15_the_break_grows_with_each_failed_probing_up_to_its_maximum_with_jitter() -> None:
    rig = Rig(recovery_timeout_s=100.0, max_recovery_timeout_s=1000.0, recovery_jitter=0.1)
    rig.open()
    breaks = []
    for _ in range(30):
        until = rig.circuit.until
        assert until is not None
        breaks.append(until - rig.now)
        rig.until_probing()
        rig.fail()
    assert breaks[0] == pytest.approx(100.0)
    assert 200 <= breaks[1] <= 220
    assert 400 <= breaks[2] <= 440
    assert 800 <= breaks[3] <= 880
    assert all(1000 / 1.1 - 1e-6 <= wait <= 1000.0 + 1e-6 for wait in breaks[4:])
    assert len({round(wait, 3) for wait in breaks[4:]}) > 20, "the spread stays at the maximum"


def test_15_the_back_off_resets_after_closing() -> None:
    rig = Rig(recovery_timeout_s=100.0)
    rig.open()
    for _ in range(3):
        rig.until_probing()
        rig.fail()
    rig.until_probing()
    rig.succeed()
    rig.open()
    assert rig.circuit.until == rig.now + 100.0


def test_15_a_thousand_failed_probings_stay_finite() -> None:
    rig = Rig(recovery_timeout_s=1.0, backoff_multiplier=1e9, max_recovery_timeout_s=60.0)
    rig.open()
    for _ in range(1000):
        rig.until_probing()
        rig.fail()
        until = rig.circuit.until
        assert until is not None
        assert 0 < until - rig.now <= 60.0 + 1e-6


def test_15_a_break_above_the_maximum_is_not_shortened_by_it() -> None:
    rig = Rig(recovery_timeout_s=500.0, max_recovery_timeout_s=60.0)
    rig.open()
    rig.until_probing()
    rig.fail()
    assert rig.circuit.until == pytest.approx(rig.now + 500.0)


def test_15_the_same_seed_draws_the_same_breaks_and_another_one_others() -> None:
    def trace(seed: int) -> list[float]:
        rig = Rig(seed=seed)
        rig.open()
        for _ in range(5):
            rig.until_probing()
            rig.fail()
        return [change.at for change in rig.changes]

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_16_one_result_may_open_until_a_stated_time() -> None:
    rig = Rig()
    rig.circuit.open_until(rig.now + 77.0, rig.now, "maintenance until 12:00", rig.acquire())
    assert rig.state is OPEN
    assert rig.circuit.cause == "maintenance until 12:00"
    rig.wait(76.9)
    assert rig.rejects()
    rig.wait(0.1)
    rig.succeed()
    assert rig.state is CLOSED


def test_16_a_later_time_extends_an_earlier_one_never_shortens() -> None:
    rig = Rig(recovery_timeout_s=100.0)
    rig.open()
    rig.circuit.open_until(rig.now + 50.0, rig.now, "shorter")
    assert rig.circuit.until == rig.now + 100.0
    rig.circuit.open_until(rig.now + 150.0, rig.now, "longer")
    assert rig.circuit.until == rig.now + 150.0
    assert rig.path == [OPEN], "the same state is told once"


def test_16_a_probe_may_state_a_time() -> None:
    rig = Rig()
    rig.open()
    rig.until_probing()
    rig.circuit.open_until(rig.now + 9.0, rig.now, "stated", rig.acquire())
    assert rig.circuit.until == rig.now + 9.0
    rig.wait(9.0)
    rig.succeed()
    assert rig.state is CLOSED


@pytest.mark.parametrize("until", [float("inf"), float("nan")])
def test_16_a_time_that_never_comes_is_refused(until: float) -> None:
    rig = Rig()
    with pytest.raises(ValueError, match="finite"):
        rig.circuit.open_until(until, rig.now, "never")


def test_16_a_time_that_has_passed_opens_nothing() -> None:
    rig = Rig()
    rig.circuit.open_until(rig.now, rig.now, "past")
    rig.circuit.open_until(rig.now, rig.now, "past", rig.acquire())
    assert rig.state is CLOSED
    assert rig.circuit.statistics(rig.now).failures == 1, "but the call failed"


def test_16_the_result_that_states_a_time_counts_as_a_failure() -> None:
    rig = Rig(initial_state=CircuitState.OBSERVE_ONLY)
    rig.circuit.open_until(rig.now + 9.0, rig.now, "stated", rig.acquire())
    assert rig.circuit.statistics(rig.now).failures == 1
    assert rig.changes[0].cause == "would have opened: stated"


def test_17_a_cancelled_call_is_neither_success_nor_failure() -> None:
    rig = Rig(failure_threshold=1, failure_rate=0.1, min_calls=1)
    for _ in range(20):
        rig.circuit.release(rig.acquire(), rig.now)
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.calls, statistics.failures, statistics.success_rate) == (0, 0, None)
    assert (statistics.released, statistics.settled, statistics.live) == (20, 0, 0)
    assert rig.state is CLOSED
