"""What a circuit makes of what other instances have met or been told."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.circuits import CircuitSettings, CircuitState, RateLimitRule
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

Message = Callable[[Circuit, float], None]

FROM_INSTANCES: dict[str, Message] = {
    "suspect": lambda circuit, now: circuit.suspect("elsewhere", now),
    "adopt_open": lambda circuit, now: circuit.adopt_open(now + 30.0, "elsewhere", now),
    "unconfirmed": lambda circuit, now: circuit.adopt_open(now + 30.0, "elsewhere", now, confirmed=False),
    "adopt_closed": lambda circuit, now: circuit.adopt_closed("elsewhere", now),
    "probe_elsewhere": lambda circuit, now: circuit.probe_elsewhere(now + 30.0, now),
}
"""All that is no operator's word."""


def word(state: CircuitState, reason: str = "incident", until: float | None = None) -> CircuitRecord:
    """What an operator said elsewhere; ``until`` in monotonic seconds."""
    return CircuitRecord(state, reason, OFFSET, None if until is None else until + OFFSET)


def hear(rig: Rig, record: CircuitRecord) -> None:
    rig.circuit.adopt_hold(record, rig.now, OFFSET)


def opened(**how: Any) -> Rig:
    """A rig that is open by its own failures."""
    rig = Rig(**how)
    rig.open()
    return rig


# -- suspicion


def test_a_suspicion_makes_the_next_request_the_one_test_and_its_success_closes() -> None:
    rig = Rig(half_open_max_calls=3, success_threshold=3)
    rig.circuit.suspect("opened at worker-2: 3 of 3 calls failed", rig.now)
    assert rig.circuit.suspected
    test = rig.acquire()
    assert test.probe
    assert all(rig.rejects() for _ in range(100))
    rig.circuit.succeed(test, rig.now)
    assert (rig.state, rig.circuit.suspected) == (CLOSED, False)
    assert [change[1:8] for change in rig.changes] == [
        (CLOSED, HALF_OPEN, "opened at worker-2: 3 of 3 calls failed", False, None, 1, rig.now),
        (HALF_OPEN, CLOSED, "1 probe succeeded", False, None, 2, rig.now),
    ]
    assert [(change.suspicion, change.news) for change in rig.changes] == [(True, False), (True, True)]


def test_a_suspicion_that_proves_right_opens_on_own_evidence_for_a_first_break() -> None:
    rig = Rig(recovery_timeout_s=100.0, rate_limit_recovery_s=7.0, recovery_jitter=0.0)
    rig.circuit.suspect("elsewhere", rig.now)
    rig.fail()
    assert (rig.state, rig.circuit.until, rig.circuit.adopted) == (OPEN, rig.now + 100.0, False)
    assert rig.circuit.cause == "probe failed: 503"
    assert (rig.changes[-1].suspicion, rig.changes[-1].news) == (True, True), "the others are to know"
    rig.until_probing()
    assert rig.acquire().probe
    assert not rig.circuit.suspected
    assert not rig.changes[-1].suspicion


def test_a_suspicion_outdates_the_calls_that_run() -> None:
    rig = Rig(failure_threshold=2)
    running = [rig.acquire() for _ in range(10)]
    rig.circuit.suspect("elsewhere", rig.now)
    for permit in running:
        rig.circuit.fail(permit, rig.now)
    assert rig.state is HALF_OPEN
    rig.succeed()
    assert rig.circuit.statistics(rig.now)[:3] == (0, 0, 0)


def test_a_suspected_circuit_whose_test_falls_silent_tests_again() -> None:
    rig = Rig(probe_lease_s=20.0)
    rig.circuit.suspect("elsewhere", rig.now)
    rig.acquire()
    rig.wait(20.0)
    rig.succeed()
    assert rig.state is CLOSED


@pytest.mark.parametrize("kind", ["open", "half_open", "rate_limit", "suspected"])
def test_a_suspicion_of_what_does_not_work_normally_changes_nothing(kind: str) -> None:
    rig = Rig(on_rate_limit=RateLimitRule.HALF_OPEN)
    if kind == "rate_limit":
        rig.circuit.rate_limited(rig.acquire(), rig.now)
    elif kind == "suspected":
        rig.circuit.suspect("first", rig.now)
    else:
        rig.open()
        if kind == "half_open":
            rig.until_probing()
    before = rig.circuit.record(0.0)
    rig.changes.clear()
    rig.circuit.suspect("again", rig.now)
    assert rig.circuit.record(0.0) == before
    assert not rig.changes


# -- opened elsewhere


@pytest.mark.parametrize("kind", ["closed", "half_open", "rate_limit", "suspected"])
def test_what_is_certain_opens_it_until_then_without_own_evidence(kind: str) -> None:
    rig = Rig(on_rate_limit=RateLimitRule.HALF_OPEN)
    if kind == "half_open":
        rig.open()
        rig.until_probing()
    elif kind == "rate_limit":
        rig.circuit.rate_limited(rig.acquire(), rig.now)
    elif kind == "suspected":
        rig.circuit.suspect("x", rig.now)
    running = rig.acquire()
    rig.circuit.adopt_open(rig.now + 40.0, "weekly wall", rig.now)
    assert (rig.state, rig.circuit.cause, rig.circuit.until) == (OPEN, "weekly wall", rig.now + 40.0)
    assert rig.circuit.adopted
    assert (rig.changes[-1].by_operator, rig.changes[-1].news) == (False, False)
    rig.circuit.succeed(running, rig.now)
    assert rig.state is OPEN, "a call of an earlier generation has no say"
    assert rig.circuit.statistics(rig.now).live == 0
    rig.wait(40.0)
    assert rig.acquire().probe
    assert not rig.circuit.adopted


def test_a_break_taken_over_extends_and_never_shortens() -> None:
    rig = opened(recovery_timeout_s=60.0)
    until, cause = rig.circuit.until, rig.circuit.cause
    for seconds in (59.0, 60.0):
        rig.circuit.adopt_open(rig.now + seconds, "no longer", rig.now)
        assert (rig.circuit.until, rig.circuit.cause) == (until, cause)
    rig.changes.clear()
    rig.circuit.adopt_open(rig.now + 90.0, "longer", rig.now)
    assert (rig.circuit.until, rig.circuit.cause) == (rig.now + 90.0, "longer")
    assert not rig.changes, "it was open before"
    assert not rig.circuit.adopted, "it had its own reasons"


def test_a_probe_that_fails_after_a_break_taken_over_waits_longer_than_a_first_break() -> None:
    rig = Rig(recovery_timeout_s=60.0, recovery_jitter=0.0)
    rig.circuit.adopt_open(rig.now + 5.0, "elsewhere", rig.now)
    for expected in (120.0, 240.0):
        rig.until_probing()
        rig.fail()
        assert rig.circuit.until == rig.now + expected
    rig.until_probing()
    rig.succeed()
    rig.open()
    assert rig.circuit.until == rig.now + 60.0, "closing starts over"


def test_back_off_goes_on_from_the_others_break_however_often_it_is_heard() -> None:
    rig = Rig(recovery_timeout_s=60.0, recovery_jitter=0.0)
    rig.circuit.adopt_open(rig.now + 60.0, "elsewhere", rig.now, break_s=60.0)
    for _ in range(5):
        rig.circuit.adopt_open(rig.now + 240.0, "elsewhere", rig.now, break_s=240.0)
        rig.circuit.adopt_open(rig.now + 241.0, "elsewhere", rig.now, break_s=240.0)
    rig.until_probing()
    rig.circuit.adopt_open(rig.now + 60.0, "of another's first break", rig.now, break_s=60.0)
    rig.until_probing()
    rig.fail()
    assert rig.circuit.until == rig.now + 480.0


@pytest.mark.parametrize("break_s", [None, 0.0, -1.0, math.inf, math.nan])
def test_a_break_that_can_not_have_been_counts_as_a_first_one(break_s: float | None) -> None:
    rig = Rig(recovery_timeout_s=60.0, recovery_jitter=0.0)
    rig.circuit.adopt_open(rig.now + 5.0, "elsewhere", rig.now, break_s=break_s)
    rig.until_probing()
    rig.fail()
    assert rig.circuit.until == rig.now + 120.0


def test_no_break_of_others_makes_ours_longer_than_the_settings_allow() -> None:
    rig = Rig(recovery_timeout_s=60.0, max_recovery_timeout_s=600.0)
    rig.circuit.adopt_open(rig.now + 5.0, "elsewhere", rig.now, break_s=1e9)
    rig.until_probing()
    rig.fail()
    assert rig.circuit.until is not None
    assert rig.circuit.until <= rig.now + 600.0


def test_a_first_break_above_the_maximum_is_the_maximum_also_when_taken_over() -> None:
    rig = Rig(recovery_timeout_s=50.0, max_recovery_timeout_s=20.0, recovery_jitter=0.0)
    rig.circuit.adopt_open(rig.now + 5.0, "elsewhere", rig.now)
    rig.until_probing()
    rig.fail()
    assert rig.circuit.until == rig.now + 50.0


def test_no_break_of_others_makes_ours_shorter_than_a_first_one_can_be() -> None:
    rig = Rig(recovery_timeout_s=60.0, rate_limit_recovery_s=20.0, recovery_jitter=0.0)
    rig.circuit.adopt_open(rig.now + 5.0, "elsewhere", rig.now, break_s=0.001)
    rig.until_probing()
    rig.fail()
    assert rig.circuit.until == rig.now + 40.0


def test_a_probe_that_failed_for_one_alone_is_a_verdict_after_a_break_and_else_a_suspicion() -> None:
    after = opened()
    after.until_probing()
    after.circuit.adopt_open(after.now + 40.0, "worker-2's probe failed", after.now, confirmed=False)
    assert (after.state, after.circuit.until) == (OPEN, after.now + 40.0)
    closed = Rig()
    closed.circuit.adopt_open(closed.now + 40.0, "worker-2's probe failed", closed.now, confirmed=False)
    assert (closed.state, closed.circuit.suspected) == (HALF_OPEN, True)
    closed.circuit.adopt_open(closed.now + 40.0, "and again", closed.now, confirmed=False)
    assert closed.circuit.suspected, "its own test will tell"
    closed.succeed()
    assert closed.state is CLOSED


# -- closed elsewhere


def test_anothers_good_probe_closes_what_was_open_because_of_others_and_starts_back_off_over() -> None:
    rig = Rig(recovery_timeout_s=60.0)
    rig.circuit.adopt_open(rig.now + 40.0, "elsewhere", rig.now)
    rig.circuit.adopt_closed("worker-2: 1 probe succeeded", rig.now)
    assert rig.changes[-1][1:4] == (OPEN, CLOSED, "worker-2: 1 probe succeeded")
    assert (rig.changes[-1].by_operator, rig.changes[-1].news) == (False, False)
    assert not rig.circuit.adopted
    rig.open()
    assert rig.circuit.until == rig.now + 60.0


def test_what_was_met_here_keeps_its_break() -> None:
    rig = opened()
    rig.circuit.adopt_closed("elsewhere", rig.now)
    assert rig.state is OPEN
    until = rig.circuit.until
    assert until is not None
    rig.now = until
    rig.circuit.adopt_closed("elsewhere", rig.now)
    assert rig.path == [OPEN, HALF_OPEN, CLOSED], "after the break another's probe is as good as ours"


def test_a_time_that_the_target_stated_here_is_own_evidence() -> None:
    rig = Rig()
    rig.circuit.adopt_open(rig.now + 40.0, "elsewhere", rig.now)
    rig.circuit.open_until(rig.now + 20.0, rig.now, "stated")
    assert (rig.circuit.adopted, rig.circuit.until) == (False, rig.now + 40.0)
    rig.circuit.adopt_closed("elsewhere", rig.now)
    assert rig.state is OPEN


def test_a_suspicion_that_another_has_cleared_needs_no_test() -> None:
    rig = Rig()
    rig.circuit.suspect("elsewhere", rig.now)
    test = rig.acquire()
    rig.circuit.adopt_closed("cleared by worker-3", rig.now)
    assert (rig.state, rig.changes[-1].suspicion, rig.changes[-1].news) == (CLOSED, True, False)
    rig.circuit.fail(test, rig.now)
    assert rig.circuit.statistics(rig.now).failures == 0


def test_one_that_is_closed_keeps_its_counts_when_another_closes() -> None:
    rig = Rig(failure_threshold=3)
    rig.fail(2)
    rig.circuit.adopt_closed("elsewhere", rig.now)
    rig.fail()
    assert rig.path == [OPEN]


# -- probes elsewhere


def test_while_another_probes_none_is_admitted_and_afterwards_one() -> None:
    rig = opened()
    rig.until_probing()
    rig.circuit.probe_elsewhere(rig.now + 20.0, rig.now)
    assert not rig.circuit.admits(rig.now)
    assert rig.circuit.blocked_until(rig.now) == rig.now + 20.0
    assert rig.circuit.rejection(rig.now).retry_after_s == 20.0
    assert all(rig.rejects() for _ in range(100))
    rig.wait(20.0)
    assert rig.acquire().probe
    assert rig.rejects()


def test_rejections_do_not_prolong_a_probe_elsewhere_and_its_own_word_does() -> None:
    rig = opened()
    rig.until_probing()
    rig.circuit.probe_elsewhere(rig.now + 20.0, rig.now)
    rig.wait(10.0)
    assert rig.rejects()
    rig.circuit.probe_elsewhere(rig.now + 20.0, rig.now)
    rig.wait(19.0)
    assert rig.rejects()
    rig.circuit.probe_elsewhere(rig.now + 0.5, rig.now)
    rig.wait(0.5)
    assert rig.acquire().probe


@pytest.mark.parametrize("until", [-1.0, 0.0, math.inf, math.nan])
def test_a_probe_elsewhere_that_is_over_or_never_ends_keeps_nobody_out(until: float) -> None:
    rig = opened()
    rig.until_probing()
    rig.circuit.probe_elsewhere(rig.now + until, rig.now)
    assert rig.acquire().probe


def test_a_change_of_state_ends_what_is_known_of_a_probe_elsewhere() -> None:
    rig = Rig(recovery_timeout_s=10.0)
    rig.open()
    rig.until_probing()
    rig.circuit.probe_elsewhere(rig.now + 1000.0, rig.now)
    rig.circuit.adopt_open(rig.now + 5.0, "it failed", rig.now)
    rig.wait(5.0)
    assert rig.acquire().probe


def test_only_a_half_open_circuit_cares_who_probes() -> None:
    rig = Rig()
    rig.circuit.probe_elsewhere(rig.now + 20.0, rig.now)
    rig.circuit.suspect("x", rig.now)
    assert rig.acquire().probe


def test_probes_that_run_here_go_on_while_others_probe() -> None:
    rig = opened(half_open_max_calls=3, success_threshold=1, probe_lease_s=50.0)
    rig.until_probing()
    mine = rig.acquire()
    rig.circuit.probe_elsewhere(rig.now + 20.0, rig.now)
    assert rig.circuit.blocked_until(rig.now) == rig.now + 20.0, "there are free places here"
    rig.circuit.succeed(mine, rig.now)
    assert rig.state is CLOSED


@pytest.mark.parametrize(("elsewhere_s", "expected"), [(20.0, 50.0), (70.0, 70.0)])
def test_without_a_place_here_it_is_blocked_for_the_longer_of_both(
    elsewhere_s: float, expected: float
) -> None:
    rig = opened(probe_lease_s=50.0)
    rig.until_probing()
    rig.acquire()
    rig.circuit.probe_elsewhere(rig.now + elsewhere_s, rig.now)
    assert rig.circuit.blocked_until(rig.now) == rig.now + expected
    rig.wait(expected - 0.25)
    assert rig.rejects()
    rig.wait(0.25)
    assert rig.acquire().probe


# -- the operator


@pytest.mark.parametrize("new", [FORCED_OPEN, OBSERVE_ONLY, DISABLED, HALF_OPEN])
def test_an_operators_word_given_elsewhere_is_done_here_in_his_name(new: CircuitState) -> None:
    rig = Rig()
    hear(rig, word(new))
    assert rig.changes[0][1:6] == (CLOSED, new, "incident", True, None)
    assert not rig.changes[0].news
    assert (rig.circuit.needs_operator, rig.circuit.adopted) == (new is FORCED_OPEN, False)
    hear(rig, word(CLOSED, "over"))
    assert (rig.state, rig.changes[-1].by_operator, rig.circuit.cause) == (CLOSED, True, "over")


def test_a_hold_ends_when_the_operator_said_elsewhere() -> None:
    rig = Rig()
    hear(rig, word(FORCED_OPEN, until=rig.now + 60.0))
    rig.wait(59.0)
    assert rig.circuit.rejection(rig.now).retry_after_s == 1.0
    hear(rig, word(FORCED_OPEN, "prolonged", until=rig.now + 10.0))
    rig.wait(9.0)
    assert rig.rejects()
    assert rig.path == [FORCED_OPEN], "held again, silently"
    rig.wait(1.0)
    assert rig.acquire().probe


@pytest.mark.parametrize("until", [999.0, 1000.0, math.inf, math.nan])
def test_a_hold_that_has_ended_or_can_not_end_is_none(until: float) -> None:
    rig = Rig(now=1000.0)
    hear(rig, word(FORCED_OPEN, until=until))
    assert (rig.state, rig.changes) == (CLOSED, [])


def test_open_is_no_operators_word() -> None:
    rig = Rig()
    hear(rig, word(OPEN, until=rig.now + 10.0))
    assert rig.state is CLOSED


@pytest.mark.parametrize("mode", [OBSERVE_ONLY, DISABLED])
def test_what_can_not_be_here_raises_nothing_and_changes_nothing(mode: CircuitState) -> None:
    rig = Rig()
    hear(rig, word(mode))
    hear(rig, word(HALF_OPEN))
    assert rig.path == [mode]


def test_closing_elsewhere_forgets_what_was_counted_here() -> None:
    rig = Rig(failure_threshold=3)
    rig.fail(2)
    hear(rig, word(CLOSED))
    assert (rig.circuit.statistics(rig.now).failures, rig.changes) == (0, [])


@settings(deadline=None, max_examples=60)
@given(
    held=st.sampled_from((FORCED_OPEN, OBSERVE_ONLY, DISABLED)),
    here=st.booleans(),
    ends=st.booleans(),
    messages=st.lists(st.tuples(st.sampled_from(sorted(FROM_INSTANCES)), st.floats(0.0, 50.0)), max_size=20),
)
def test_an_operators_hold_beats_every_message_but_another_operators(
    held: CircuitState, here: bool, ends: bool, messages: list[tuple[str, float]]
) -> None:
    rig = Rig()
    until = rig.now + 10_000.0 if ends and held is FORCED_OPEN else None
    if not here:
        hear(rig, word(held, until=until))
    elif held is FORCED_OPEN:
        rig.circuit.force_open("incident", rig.now, until)
    elif held is DISABLED:
        rig.circuit.disable(rig.now, "incident")
    else:
        rig.circuit.observe_only(rig.now, "incident")
    before = rig.circuit.record(0.0)
    for name, pause in messages:
        rig.wait(pause)
        FROM_INSTANCES[name](rig.circuit, rig.now)
        assert rig.circuit.record(0.0) == before
    assert len(rig.changes) == 1
    hear(rig, word(CLOSED, "another operator"))
    assert rig.state is CLOSED


# -- what does not fit


@pytest.mark.parametrize("until", [-5.0, 0.0, math.inf, -math.inf, math.nan])
def test_a_break_that_is_over_or_never_ends_is_not_taken_over(until: float) -> None:
    for rig in (Rig(), opened()):
        before = rig.circuit.record(0.0)
        rig.circuit.adopt_open(rig.now + until, "stale", rig.now)
        rig.circuit.adopt_open(rig.now + until, "stale", rig.now, confirmed=False)
        assert rig.circuit.record(0.0) == before


def test_time_acts_before_a_message_does() -> None:
    rig = opened()
    until = rig.circuit.until
    assert until is not None
    rig.now = until
    rig.circuit.adopt_open(rig.now + 40.0, "elsewhere", rig.now)
    assert rig.path == [OPEN, HALF_OPEN, OPEN], "the break was over before the next one began"
    assert rig.circuit.adopted
    over = opened()
    until = over.circuit.until
    assert until is not None
    over.now = until
    over.circuit.probe_elsewhere(over.now + 20.0, over.now)
    assert over.rejects(), "its break is over, and another probes"
    hanging = Rig(slow_call_s=5.0, slow_call_rate=0.5, min_calls=1)
    hanging.acquire()
    hanging.wait(5.0)
    hanging.circuit.suspect("elsewhere", hanging.now)
    assert hanging.path == [OPEN], "it had seen enough itself"


# -- what outlives


def after_restart(rig: Rig) -> Rig:
    record = rig.circuit.record(OFFSET)
    assert record is not None
    new = Rig(now=5.0)
    new.settings = rig.settings
    new.circuit = Circuit(
        TARGET, rig.settings, rng=random.Random(1), now=new.now, on_change=new.changes.append
    )
    new.circuit.restore(record, new.now, OFFSET + rig.now - new.now)
    return new


def test_a_restart_keeps_apart_what_was_met_here_and_what_was_taken_over() -> None:
    rig = Rig(recovery_timeout_s=60.0, recovery_jitter=0.0)
    rig.circuit.adopt_open(rig.now + 40.0, "elsewhere", rig.now)
    new = after_restart(rig)
    assert (new.circuit.adopted, new.circuit.until) == (True, new.now + 40.0)
    new.circuit.adopt_closed("elsewhere", new.now)
    assert new.state is CLOSED
    own = after_restart(opened())
    own.circuit.adopt_closed("elsewhere", own.now)
    assert own.state is OPEN


def test_the_one_test_of_a_suspicion_is_still_due_after_a_restart() -> None:
    rig = Rig(half_open_max_calls=3, success_threshold=3)
    rig.circuit.suspect("elsewhere", rig.now)
    new = after_restart(rig)
    assert new.circuit.suspected
    test = new.acquire()
    assert new.rejects()
    new.circuit.succeed(test, new.now)
    assert (new.state, new.changes[-1].suspicion) == (CLOSED, True)


def test_a_record_that_contradicts_itself_is_taken_by_its_state() -> None:
    rig = Rig(half_open_max_calls=3)
    record = CircuitRecord(HALF_OPEN, "x", OFFSET, rate_limit_test=True, suspected=True, adopted=True)
    rig.circuit.restore(record, rig.now, OFFSET)
    assert (rig.circuit.suspected, rig.circuit.adopted) == (False, False)
    rig.circuit.restore(CircuitRecord(CLOSED, "x", OFFSET, suspected=True, adopted=True), rig.now, OFFSET)
    assert (rig.circuit.suspected, rig.circuit.adopted) == (False, False)


def test_a_circuit_kept_apart_hears_for_the_one_that_is_rehearsed_with() -> None:
    rig = Rig()
    kept = rig.circuit.apart()
    kept.adopt_open(rig.now + 40.0, "elsewhere", rig.now)
    assert (rig.state, rig.changes) == (CLOSED, [])
    rig.circuit.put_back(kept, rig.now, "the rehearsal is over")
    assert (rig.state, rig.circuit.adopted, rig.circuit.until) == (OPEN, True, rig.now + 40.0)
    assert not rig.changes[0].news, "the others know, or never knew of the rehearsal"
    tested = rig.circuit.apart()
    tested.adopt_closed("elsewhere", rig.now)
    tested.suspect("elsewhere", rig.now)
    tested.probe_elsewhere(rig.now + 10.0, rig.now)
    rig.circuit.put_back(tested, rig.now, "over")
    assert rig.circuit.suspected
    assert rig.circuit.blocked_until(rig.now) == rig.now + 10.0


def test_what_comes_about_here_is_news() -> None:
    rig = Rig(recovery_timeout_s=60.0)
    rig.open()
    rig.until_probing()
    rig.succeed()
    rig.circuit.force_open("x", rig.now)
    rig.circuit.close("", rig.now)
    assert [change.news for change in rig.changes] == [True] * 5
    assert not any(change.suspicion for change in rig.changes)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(),
    life=st.lists(
        st.tuples(
            st.floats(0.0, 20.0), st.sampled_from([*sorted(FROM_INSTANCES), "succeed", "fail", "silent"])
        ),
        max_size=60,
    ),
)
def test_once_healed_and_left_alone_it_closes_in_bounded_time(
    seed: int, life: list[tuple[float, str]]
) -> None:
    chosen = CircuitSettings(
        recovery_timeout_s=10.0, max_recovery_timeout_s=40.0, probe_lease_s=20.0, half_open_max_calls=2
    )
    circuit, now = Circuit(TARGET, chosen, rng=random.Random(seed), now=0.0), 0.0
    for pause, step in life:
        now += pause
        if step in FROM_INSTANCES:
            FROM_INSTANCES[step](circuit, now)
            continue
        permit = circuit.acquire(now)
        if permit is not None and step != "silent":
            (circuit.succeed if step == "succeed" else circuit.fail)(permit, now)
    # A break, then a silent probe's lease or the end of one elsewhere.
    bound, healed_at = 40.0 + 30.0 + 1.0, now
    while circuit.state is not CLOSED:
        assert now - healed_at <= bound
        now += 0.5
        permit = circuit.acquire(now)
        if permit is not None:
            circuit.succeed(permit, now)
