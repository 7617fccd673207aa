"""A circuit's behaviours 1 to 11: closed, and its window."""

from __future__ import annotations

import pytest

from smartfallback.model.circuits import CircuitSettings, CircuitState, RateLimitRule
from support.circuits import Rig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def test_1_starts_closed_with_zero_counts() -> None:
    rig = Rig()
    assert rig.state is CLOSED
    assert rig.circuit.generation == 0
    assert rig.circuit.cause == ""
    statistics = rig.circuit.statistics(rig.now)
    assert statistics.success_rate is None
    assert set(statistics) == {0, None}
    assert rig.changes == []


@pytest.mark.parametrize(
    ("initial", "admits"),
    [(OPEN, False), (CircuitState.OBSERVE_ONLY, True), (CircuitState.DISABLED, True), (CLOSED, True)],
)
def test_1_a_configured_start_is_honoured(initial: CircuitState, admits: bool) -> None:
    rig = Rig(initial_state=initial)
    assert rig.state is initial
    assert rig.circuit.admits(rig.now) is admits
    assert rig.changes == []


def test_1_a_start_as_open_ends_like_any_break() -> None:
    rig = Rig(initial_state=OPEN, recovery_timeout_s=30.0)
    assert rig.circuit.until == 1030.0
    rig.wait(30.0)
    rig.succeed()
    assert rig.path == [HALF_OPEN, CLOSED]


def test_2_below_the_minimum_calls_a_slow_rate_never_opens() -> None:
    rig = Rig(failure_threshold=1000, slow_call_s=5.0, slow_call_rate=0.5, min_calls=10)
    rig.succeed(9, lasting=5.0)
    assert rig.state is CLOSED
    rig.succeed(lasting=5.0)
    assert rig.state is OPEN


def test_2_below_the_minimum_calls_a_rate_never_opens() -> None:
    rig = Rig(failure_threshold=1000, failure_rate=0.5, min_calls=10)
    rig.fail(9)
    assert rig.state is CLOSED
    rig.fail()
    assert rig.state is OPEN


def test_3_the_threshold_is_inclusive() -> None:
    rig = Rig(failure_threshold=3)
    rig.fail(2)
    assert rig.state is CLOSED
    rig.fail()
    assert rig.state is OPEN


@pytest.mark.parametrize("failures", [1, 3, 7, 9])
def test_3_rates_are_inclusive(failures: int) -> None:
    rate = failures / 10
    rig = Rig(failure_threshold=1000, failure_rate=rate, min_calls=10)
    rig.succeed(10 - failures)
    rig.fail(failures)
    assert rig.state is OPEN
    below = Rig(failure_threshold=1000, failure_rate=rate, min_calls=10)
    below.succeed(11 - failures)
    below.fail(failures - 1)
    assert below.state is CLOSED


def test_4_rates_are_judged_at_a_success_too() -> None:
    rig = Rig(failure_threshold=1000, failure_rate=0.5, min_calls=10)
    rig.fail(9)
    rig.succeed()
    assert rig.state is OPEN


def test_successes_do_not_hide_a_failing_majority() -> None:
    rig = Rig(failure_threshold=1000, failure_rate=0.6, min_calls=12)
    for _ in range(4):
        assert rig.state is CLOSED
        rig.fail(2)
        rig.succeed()
    assert rig.state is OPEN


def test_old_failures_leave_the_window_exactly_at_its_length() -> None:
    rig = Rig(failure_threshold=3, window_s=300.0)
    rig.fail(2)
    rig.wait(300.0)
    rig.fail()
    assert rig.state is CLOSED
    kept = Rig(failure_threshold=3, window_s=300.0)
    kept.fail(2)
    kept.wait(299.9)
    kept.fail()
    assert kept.state is OPEN


def test_5_statistics_age_with_no_new_calls() -> None:
    rig = Rig(window_s=60.0)
    rig.fail()
    rig.succeed(3)
    assert rig.circuit.statistics(rig.now + 59.9).success_rate == 0.75
    assert rig.circuit.statistics(rig.now + 60.0).success_rate is None


def test_5_a_window_of_calls_forgets_by_calls_and_not_by_time() -> None:
    rig = Rig(failure_threshold=3, window_calls=5)
    rig.fail(2)
    rig.wait(1e6)
    assert rig.circuit.statistics(rig.now).failures == 2
    rig.succeed(4)
    rig.fail()
    assert rig.state is CLOSED, "the first failure was the sixth last"
    rig.fail(2)
    assert rig.state is OPEN


def test_6_failures_of_neighbouring_buckets_add_up() -> None:
    rig = Rig(failure_threshold=3, window_s=60.0)
    for _ in range(3):
        rig.fail()
        rig.wait(15.0)
    assert rig.state is OPEN


def test_7_a_long_idle_jump_clears_everything() -> None:
    rig = Rig(failure_threshold=3, window_s=60.0)
    rig.fail(2)
    rig.wait(1e7)
    rig.fail(2)
    assert rig.state is CLOSED


def test_8_slow_successes_alone_open_at_the_slow_rate() -> None:
    rig = Rig(slow_call_s=10.0, slow_call_rate=0.5, min_calls=4)
    rig.succeed(2, lasting=1.0)
    rig.succeed(1, lasting=10.0)
    assert rig.state is CLOSED
    rig.succeed(1, lasting=12.0)
    assert rig.state is OPEN
    assert "2 of 4 calls slow (50%, from 10 s)" in rig.circuit.cause


def test_8_slow_failures_count_in_both_rates() -> None:
    slow = Rig(failure_threshold=1000, slow_call_s=10.0, slow_call_rate=1.0, min_calls=4)
    slow.fail(4, lasting=10.0)
    assert slow.state is OPEN
    failing = Rig(failure_threshold=1000, slow_call_s=10.0, slow_call_rate=1.0, failure_rate=0.5, min_calls=4)
    failing.succeed(2)
    failing.fail(2, lasting=10.0)
    assert failing.state is OPEN
    statistics = failing.circuit.statistics(failing.now)
    assert (statistics.calls, statistics.failures, statistics.slow) == (4, 2, 2)


def test_a_slow_limit_without_a_slow_rate_only_counts() -> None:
    rig = Rig(slow_call_s=10.0, min_calls=1)
    rig.succeed(20, lasting=11.0)
    assert rig.state is CLOSED
    assert rig.circuit.statistics(rig.now).slow == 20


def test_a_time_out_counts_as_slow_and_as_a_failure() -> None:
    rig = Rig(failure_threshold=5, slow_call_s=60.0, slow_call_rate=0.5, min_calls=10)
    for _ in range(5):
        permit = rig.acquire()
        rig.wait(20.0)
        assert rig.state is CLOSED
        rig.circuit.timed_out(permit, rig.now, "first token")
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.failures, statistics.slow) == (5, 5)
    assert rig.state is OPEN, "an API that only hangs is cut off at the threshold"
    assert "first token" in rig.circuit.cause


def test_a_time_out_opens_at_the_slow_rate_before_the_threshold() -> None:
    rig = Rig(failure_threshold=1000, slow_call_s=60.0, slow_call_rate=0.5, min_calls=4)
    rig.succeed(2)
    for _ in range(2):
        rig.circuit.timed_out(rig.acquire(), rig.now)
    assert rig.state is OPEN


def test_calls_that_never_end_are_counted_as_slow_at_the_next_call() -> None:
    rig = Rig(slow_call_s=60.0, slow_call_rate=0.5, min_calls=10)
    for _ in range(10):
        rig.acquire()
    rig.wait(59.9)
    assert rig.circuit.admits(rig.now)
    rig.wait(0.1)
    assert not rig.circuit.admits(rig.now)
    assert rig.circuit.blocked_until(rig.now) == rig.now + rig.settings.recovery_timeout_s
    assert rig.state is CLOSED, "asking changes nothing"
    assert rig.rejects()
    assert rig.state is OPEN
    assert "10 of 10 calls slow" in rig.circuit.cause


def test_calls_that_hang_are_judged_with_those_that_ended() -> None:
    rig = Rig(slow_call_s=10.0, slow_call_rate=0.5, min_calls=4)
    rig.succeed(2)
    rig.acquire()
    rig.wait(5.0)
    rig.acquire()
    rig.wait(5.0)
    assert rig.circuit.admits(rig.now), "one of three"
    rig.wait(5.0)
    assert not rig.circuit.admits(rig.now), "two of four"


def test_calls_that_never_end_are_counted_by_a_tick() -> None:
    rig = Rig(slow_call_s=60.0, slow_call_rate=0.5, min_calls=10)
    for _ in range(10):
        rig.acquire()
        rig.wait(1.0)
    rig.wait(58.0)
    rig.circuit.tick(rig.now)
    assert rig.state is CLOSED
    assert rig.circuit.statistics(rig.now).slow == 9
    rig.wait(1.0)
    rig.circuit.tick(rig.now)
    assert rig.state is OPEN


def test_a_call_noticed_as_slow_while_it_ran_is_not_counted_twice() -> None:
    rig = Rig(slow_call_s=10.0, slow_call_rate=1.0, min_calls=5)
    permit = rig.acquire()
    rig.wait(11.0)
    rig.circuit.tick(rig.now)
    rig.circuit.tick(rig.now)
    assert rig.circuit.statistics(rig.now)[:3] == (0, 0, 1)
    rig.circuit.fail(permit, rig.now)
    assert rig.circuit.statistics(rig.now)[:3] == (1, 1, 1)


def test_calls_that_ended_are_not_counted_as_hanging() -> None:
    rig = Rig(slow_call_s=10.0, slow_call_rate=0.1, min_calls=1)
    rig.acquire()
    rig.succeed(300)
    hanging = rig.acquire()
    rig.circuit.release(hanging, rig.now)
    rig.wait(10.0)
    rig.circuit.tick(rig.now)
    assert rig.circuit.statistics(rig.now).slow == 1


def test_9_ignored_results_change_no_rate_and_give_the_permit_back() -> None:
    rig = Rig(failure_threshold=1, failure_rate=0.1, min_calls=1)
    for _ in range(50):
        rig.circuit.ignore(rig.acquire(), rig.now)
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.calls, statistics.failures) == (0, 0)
    assert (statistics.admitted, statistics.settled, statistics.live) == (50, 50, 0)


def test_9_counting_as_success_is_a_different_class() -> None:
    rig = Rig()
    rig.circuit.ignore(rig.acquire(), rig.now)
    rig.succeed()
    assert rig.circuit.statistics(rig.now).success_rate == 1.0
    assert rig.circuit.statistics(rig.now).calls == 1


def test_10_a_200_with_an_error_inside_counts_as_a_failure() -> None:
    rig = Rig(failure_threshold=1)
    rig.circuit.fail(rig.acquire(), rig.now, "200 with server_is_overloaded inside")
    assert rig.state is OPEN


def test_11_opening_fires_exactly_one_event_with_rate_and_cause_among_100_concurrent_failures() -> None:
    rig = Rig(failure_threshold=3)
    permits = [rig.acquire() for _ in range(100)]
    for permit in permits:
        rig.circuit.fail(permit, rig.now, "503 overloaded")
    (change,) = rig.changes
    assert (change.old, change.new) == (CLOSED, OPEN)
    assert change.cause == "3 of 3 calls failed (100%); last: 503 overloaded"
    assert change.until == rig.now + rig.settings.recovery_timeout_s
    assert (change.generation, change.at, change.by_operator) == (1, rig.now, False)
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.admitted, statistics.settled, statistics.live) == (100, 100, 0)


def test_a_permit_ends_exactly_once() -> None:
    rig = Rig(failure_threshold=2)
    permit = rig.acquire()
    rig.circuit.succeed(permit, rig.now)
    rig.circuit.fail(permit, rig.now)
    rig.circuit.timed_out(permit, rig.now)
    rig.circuit.rate_limited(permit, rig.now)
    rig.circuit.ignore(permit, rig.now)
    rig.circuit.release(permit, rig.now)
    rig.circuit.open_until(rig.now + 5, rig.now, "late", permit)
    statistics = rig.circuit.statistics(rig.now)
    assert (statistics.calls, statistics.failures, statistics.settled, statistics.released) == (1, 0, 1, 0)
    assert rig.changes == []


def test_a_429_makes_the_next_request_the_one_test() -> None:
    rig = Rig(on_rate_limit=RateLimitRule.HALF_OPEN, half_open_max_calls=5, success_threshold=5)
    rig.circuit.rate_limited(rig.acquire(), rig.now)
    assert rig.state is HALF_OPEN
    rig.wait(0.1)
    probe = rig.acquire()
    assert probe.probe
    assert rig.rejects()
    rig.circuit.succeed(probe, rig.now)
    assert rig.path == [HALF_OPEN, CLOSED]


def test_a_429_whose_test_fails_opens_for_exactly_its_own_time() -> None:
    rig = Rig(on_rate_limit=RateLimitRule.HALF_OPEN, rate_limit_recovery_s=120.0, recovery_timeout_s=300.0)
    rig.circuit.rate_limited(rig.acquire(), rig.now)
    rig.circuit.rate_limited(rig.acquire(), rig.now)
    assert rig.state is OPEN
    assert rig.circuit.until == rig.now + 120.0
    rig.wait(119.999)
    assert rig.rejects()
    rig.wait(0.001)
    rig.succeed()
    assert rig.state is CLOSED


def test_fifty_parallel_429s_escalate_once() -> None:
    rig = Rig(on_rate_limit=RateLimitRule.HALF_OPEN)
    permits = [rig.acquire() for _ in range(50)]
    for permit in permits:
        rig.circuit.rate_limited(permit, rig.now)
    assert rig.path == [HALF_OPEN]


def test_a_429_counts_or_is_ignored_when_so_configured() -> None:
    counting = Rig(on_rate_limit=RateLimitRule.COUNT, failure_threshold=2)
    for _ in range(2):
        counting.circuit.rate_limited(counting.acquire(), counting.now)
    assert counting.state is OPEN
    ignoring = Rig(on_rate_limit=RateLimitRule.IGNORE, failure_threshold=1)
    for _ in range(9):
        ignoring.circuit.rate_limited(ignoring.acquire(), ignoring.now)
    assert ignoring.state is CLOSED
    assert ignoring.circuit.statistics(ignoring.now).calls == 0


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"failure_threshold": 0}, "failure_threshold"),
        ({"window_s": float("nan")}, "window_s"),
        ({"recovery_timeout_s": float("inf")}, "recovery_timeout_s"),
        ({"max_recovery_timeout_s": float("inf")}, "max_recovery_timeout_s"),
        ({"backoff_multiplier": 0.5}, "backoff_multiplier"),
        ({"backoff_multiplier": float("inf")}, "backoff_multiplier"),
        ({"recovery_jitter": 1.0}, "recovery_jitter"),
        ({"failure_rate": 1.5}, "failure_rate"),
        ({"slow_call_rate": 0.5}, "slow_call_s"),
        ({"slow_call_s": -1.0}, "slow_call_s"),
        ({"window_calls": 2}, "window_calls"),
        ({"window_calls": 5, "failure_rate": 0.5}, "window_calls"),
        ({"initial_state": HALF_OPEN}, "initial_state"),
    ],
)
def test_30_a_bad_configuration_is_refused_when_built_naming_the_value(
    bad: dict[str, float], named: str
) -> None:
    with pytest.raises(ValueError, match=named) as refused:
        CircuitSettings(**bad)  # type: ignore[arg-type]  # wrong values are the point
    if named in bad:
        found = bad[named]
        shown = found.value if isinstance(found, CircuitState) else found
        assert repr(shown) in str(refused.value), "what was found is told too"


def test_a_call_noticed_as_slow_that_succeeds_later_is_slow_once() -> None:
    rig = Rig(slow_call_s=10.0, slow_call_rate=1.0, min_calls=5)
    permit = rig.acquire()
    rig.wait(11.0)
    rig.circuit.tick(rig.now)
    rig.circuit.succeed(permit, rig.now)
    assert rig.circuit.statistics(rig.now)[:3] == (1, 0, 1)


def test_calls_that_hang_from_before_an_opening_are_not_counted_after_closing() -> None:
    rig = Rig(slow_call_s=60.0, slow_call_rate=0.1, min_calls=1)
    for _ in range(5):
        rig.acquire()
    rig.circuit.force_open("x", rig.now)
    rig.circuit.close("y", rig.now)
    rig.wait(1.0)
    rig.acquire()
    rig.wait(59.0)
    rig.circuit.tick(rig.now)
    assert rig.state is CLOSED
    assert rig.circuit.statistics(rig.now).slow == 0
