"""What a circuit says of itself, word by word: the operator reads it in events and on the screen."""

from __future__ import annotations

import pytest

from smartfallback.model.circuits import CircuitState, RateLimitRule
from support.circuits import TARGET, Rig

OBSERVE_ONLY = CircuitState.OBSERVE_ONLY


def probing(**settings: object) -> Rig:
    rig = Rig(**settings)  # type: ignore[arg-type]  # passed on to CircuitSettings
    rig.open()
    rig.until_probing()
    return rig


@pytest.mark.parametrize(
    ("how", "last"), [("fail", "failure"), ("timed_out", "timed out"), ("rate_limited", "rate limited")]
)
def test_a_failure_without_a_cause_is_called_by_its_kind(how: str, last: str) -> None:
    rig = Rig(failure_threshold=1)
    getattr(rig.circuit, how)(rig.acquire(), rig.now)
    assert rig.circuit.cause == f"1 of 1 call failed (100%); last: {last}"
    stated = Rig(failure_threshold=1)
    getattr(stated.circuit, how)(stated.acquire(), stated.now, "as stated")
    assert stated.circuit.cause == "1 of 1 call failed (100%); last: as stated"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("disable", "disabled by the operator"),
        ("observe_only", "set to observe by the operator"),
        ("half_open", "half-opened by the operator"),
    ],
)
def test_a_command_without_a_reason_names_the_operator(command: str, says: str) -> None:
    rig = Rig()
    getattr(rig.circuit, command)(rig.now)
    assert (rig.circuit.cause, rig.changes[-1].at) == (says, rig.now)
    stated = Rig()
    getattr(stated.circuit, command)(stated.now, "as stated")
    assert stated.circuit.cause == "as stated"


def test_closing_and_resetting_without_a_reason_name_the_operator() -> None:
    for command, says in (("close", "closed by the operator"), ("reset", "reset by the operator")):
        rig = Rig()
        rig.circuit.force_open("x", rig.now)
        getattr(rig.circuit, command)("", rig.now)
        assert (rig.circuit.cause, rig.changes[-1].at) == (says, rig.now)


def test_a_break_and_a_hold_end_by_different_words_with_how_they_began() -> None:
    rig = Rig(failure_threshold=1)
    rig.open()
    rig.until_probing()
    assert rig.circuit.cause == "the break is over; it began with: 1 of 1 call failed (100%); last: 503"
    held = Rig()
    held.circuit.force_open("failover", held.now, held.now + 1.0)
    held.until_probing()
    assert held.circuit.cause == "the hold ended; it began with: failover"
    silent = Rig()
    silent.circuit.force_open("", silent.now, silent.now + 1.0)
    silent.until_probing()
    assert silent.circuit.cause == "the hold ended"
    assert [change.at for change in silent.changes] == [1000.0, 1001.0]


def test_probes_close_it_by_their_number() -> None:
    for needed, says in ((1, "1 probe succeeded"), (2, "2 probes succeeded")):
        rig = probing(success_threshold=needed)
        rig.succeed(needed)
        assert (rig.circuit.cause, rig.changes[-1].at) == (says, rig.now)


def test_a_slow_probe_says_how_slow() -> None:
    rig = probing(slow_call_s=10.0)
    rig.succeed(lasting=12.0)
    assert rig.circuit.cause == "probe failed: slow, 12.0 s where 10 s are the limit"
    hanging = probing(slow_call_s=10.0)
    hanging.acquire()
    hanging.wait(10.5)
    hanging.circuit.tick(hanging.now)
    assert hanging.circuit.cause == "slow, 10.5 s where 10 s are the limit"


@pytest.mark.parametrize(("lasting", "last"), [(0.0, ""), (9.0, "; last: a slow call")])
def test_a_rate_reached_by_a_success_says_whether_that_was_slow(lasting: float, last: str) -> None:
    rig = Rig(failure_threshold=99, failure_rate=0.5, min_calls=2, slow_call_s=9.0)
    rig.fail()
    rig.succeed(lasting=lasting)
    assert rig.circuit.cause == "1 of 2 calls failed (50%)" + last


def test_calls_that_hang_say_so() -> None:
    rig = Rig(slow_call_s=9.0, slow_call_rate=0.5, min_calls=1)
    rig.acquire()
    rig.wait(9.0)
    rig.circuit.tick(rig.now)
    assert rig.circuit.cause == "1 of 1 call slow (100%, from 9 s); last: a call that still runs"


def test_a_report_of_one_that_observes_is_whole() -> None:
    rig = Rig(initial_state=OBSERVE_ONLY, failure_threshold=1)
    rig.fail()
    told = "would have opened: 1 of 1 call failed (100%); last: 503"
    assert rig.changes == [(TARGET, OBSERVE_ONLY, OBSERVE_ONLY, told, False, None, 0, rig.now, False, True)]
    stated = Rig(initial_state=OBSERVE_ONLY)
    stated.circuit.open_until(stated.now + 1.0, stated.now, "maintenance")
    told = "would have opened: maintenance"
    assert stated.changes == [
        (TARGET, OBSERVE_ONLY, OBSERVE_ONLY, told, False, None, 0, stated.now, False, True)
    ]


def test_a_stated_time_is_told_whole_and_a_later_one_replaces_its_words() -> None:
    rig = Rig()
    rig.circuit.open_until(rig.now + 5.0, rig.now, "maintenance")
    assert rig.changes[-1][3:8] == ("maintenance", False, rig.now + 5.0, 1, rig.now)
    rig.circuit.open_until(rig.now + 5.0, rig.now, "the same time")
    assert rig.circuit.cause == "maintenance"
    rig.circuit.open_until(rig.now + 6.0, rig.now, "longer")
    assert rig.circuit.cause == "longer"


def test_a_result_that_states_a_time_that_has_passed_keeps_its_words() -> None:
    rig = Rig(failure_threshold=1)
    rig.circuit.open_until(rig.now, rig.now, "over", rig.acquire())
    assert rig.circuit.cause == "1 of 1 call failed (100%); last: over"


@pytest.mark.parametrize("noticed", [True, False])
@pytest.mark.parametrize(("lasting", "slow"), [(8.75, 0), (9.0, 1)])
def test_a_result_that_states_a_time_may_be_slow_and_is_counted_once(
    lasting: float, slow: int, noticed: bool
) -> None:
    rig = Rig(initial_state=OBSERVE_ONLY, slow_call_s=9.0)
    permit = rig.acquire()
    rig.wait(lasting)
    if noticed:
        rig.circuit.tick(rig.now)
    rig.circuit.open_until(rig.now + 5.0, rig.now, "stated", permit)
    assert rig.circuit.statistics(rig.now)[:3] == (1, 1, slow)


def test_a_429_that_only_counts_is_not_slow_and_one_that_tests_is_told_whole() -> None:
    rig = Rig(slow_call_s=9.0)
    rig.circuit.rate_limited(rig.acquire(), rig.now)
    assert rig.circuit.statistics(rig.now)[:3] == (1, 1, 0)
    testing = Rig(on_rate_limit=RateLimitRule.HALF_OPEN)
    testing.circuit.rate_limited(testing.acquire(), testing.now, "burst")
    assert testing.changes[-1][3:8] == ("burst", False, None, 1, testing.now)


def test_a_failure_is_slow_only_when_it_lasted() -> None:
    rig = Rig(slow_call_s=9.0)
    rig.fail(lasting=8.75)
    assert rig.circuit.statistics(rig.now).slow == 0
