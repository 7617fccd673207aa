"""A circuit's properties over random lives, against a model that counts everything anew."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from smartfallback.model.circuits import CircuitSettings, CircuitState, RateLimitRule
from smartfallback.model.state import CircuitRecord
from smartfallback.policy.circuit import Circuit, CircuitChange, Permit
from support.circuit_model import TRANSITIONS, Call, CircuitModel, Illegal
from support.circuits import TARGET

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN = CircuitState.FORCED_OPEN

PLAIN = CircuitSettings(
    failure_threshold=3,
    window_s=60.0,
    recovery_timeout_s=10.0,
    max_recovery_timeout_s=40.0,
    recovery_jitter=0.25,
    probe_lease_s=20.0,
)
VARIANTS = [
    PLAIN,
    CircuitSettings(
        failure_threshold=4,
        window_s=60.0,
        recovery_timeout_s=10.0,
        recovery_jitter=0.0,
        half_open_max_calls=2,
        success_threshold=3,
        probe_lease_s=15.0,
        on_rate_limit=RateLimitRule.HALF_OPEN,
        rate_limit_recovery_s=7.0,
    ),
    CircuitSettings(
        failure_threshold=50,
        window_s=60.0,
        recovery_timeout_s=5.0,
        slow_call_s=5.0,
        slow_call_rate=0.5,
        failure_rate=0.5,
        min_calls=4,
        half_open_max_calls=3,
        success_threshold=2,
        probe_lease_s=9.0,
        on_rate_limit=RateLimitRule.IGNORE,
    ),
    CircuitSettings(
        failure_threshold=3, window_calls=6, failure_rate=0.5, min_calls=4, recovery_timeout_s=10.0
    ),
    CircuitSettings(
        failure_threshold=6,
        window_calls=8,
        slow_call_s=5.0,
        slow_call_rate=0.75,
        min_calls=4,
        recovery_timeout_s=8.0,
        probe_lease_s=4.0,
        initial_state=CircuitState.OBSERVE_ONLY,
    ),
    CircuitSettings(
        failure_threshold=2,
        window_s=30.0,
        slow_call_s=10.0,
        recovery_timeout_s=50.0,
        max_recovery_timeout_s=20.0,
        initial_state=OPEN,
    ),
]

STATED = ("", "503", "overloaded")
WAITS = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 61.0, 1000.0)

Step = Callable[["Life", Permit, Call, str], None]


def _succeed(life: Life, permit: Permit, call: Call, cause: str) -> None:
    life.circuit.succeed(permit, life.now)
    life.model.succeed(call)


def _fail(life: Life, permit: Permit, call: Call, cause: str) -> None:
    life.circuit.fail(permit, life.now, *filter(None, [cause]))
    life.model.fail(call, cause or "failure")


def _time_out(life: Life, permit: Permit, call: Call, cause: str) -> None:
    life.circuit.timed_out(permit, life.now, *filter(None, [cause]))
    life.model.fail(call, cause or "timed out", slow=True)


def _rate_limit(life: Life, permit: Permit, call: Call, cause: str) -> None:
    life.circuit.rate_limited(permit, life.now, *filter(None, [cause]))
    life.model.rate_limited(call, cause or "rate limited")


def _ignore(life: Life, permit: Permit, call: Call, cause: str) -> None:
    life.circuit.ignore(permit, life.now)
    life.model.settle(call)


def _release(life: Life, permit: Permit, call: Call, cause: str) -> None:
    life.circuit.release(permit, life.now)
    life.model.settle(call, "released")


ENDINGS: tuple[Step, ...] = (_succeed, _fail, _time_out, _rate_limit, _ignore, _release)


class Life(RuleBasedStateMachine):
    """One circuit and its model live the same life.

    Looking is a rule too: were it an invariant, each look would age the window before the next call.
    """

    steps = 0
    visited: ClassVar[Counter[tuple[CircuitState, CircuitState]]] = Counter()

    @initialize(settings=st.sampled_from(VARIANTS), seed=st.integers(0, 2**32), calm=st.booleans())
    def begin(self, settings: CircuitSettings, seed: int, calm: bool) -> None:
        self.now = 1000.0
        self.offset = 2.0**30
        """Epoch seconds minus monotonic ones, all of them sums of quarters so that none is rounded."""
        self.calm = calm
        """Nobody intervenes, so that windows grow old."""
        self.settings = settings
        self.rng = random.Random(seed)
        self.changes: list[CircuitChange] = []
        self.circuit = self.made()
        self.model = CircuitModel(settings, self.now)
        self.pairs: list[tuple[Permit, Call]] = []

    def made(self) -> Circuit:
        return Circuit(TARGET, self.settings, rng=self.rng, now=self.now, on_change=self.changes.append)

    @rule(seconds=st.sampled_from(WAITS))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.model.now = self.now

    @rule()
    def tick(self) -> None:
        self.circuit.tick(self.now)
        self.model.catch_up()

    @rule(callers=st.integers(1, 4), looks=st.booleans())
    def acquire(self, callers: int, looks: bool) -> None:
        for _ in range(callers):
            if looks:
                self.ask()
            permit, call = self.circuit.acquire(self.now), self.model.acquire()
            self.compare()
            assert (permit is None) is (call is None)
            if permit is None or call is None:
                continue
            assert self.circuit.state not in (OPEN, FORCED_OPEN), "no call runs while it is open"
            assert (permit.generation, permit.started_at, permit.lease_until) == (
                call.generation,
                call.started,
                call.lease,
            )
            assert permit.probe is (self.circuit.state is HALF_OPEN)
            self.pairs.append((permit, call))

    @rule()
    def ask(self) -> None:
        """What it says of itself is so, and asking changes nothing."""
        model, circuit = self.model, self.circuit
        before = circuit.statistics(self.now)
        assert circuit.admits(self.now) is model.admits()
        until = model.blocked_until()
        assert circuit.blocked_until(self.now) == until
        held = model.state is FORCED_OPEN and model.until is None
        assert circuit.needs_operator is held
        retry_after_s = None if held else 0.0 if until is None else until - self.now
        assert circuit.rejection(self.now) == (model.state, retry_after_s, model.cause)
        assert circuit.statistics(self.now) == before

    @rule()
    def look(self) -> None:
        """The totals are those of the lists, and permits are conserved."""
        statistics, fates = self.circuit.statistics(self.now), self.model.fates()
        calls, failures, _, slow = self.model.counts()
        assert (statistics.calls, statistics.failures, statistics.slow) == (calls, failures, slow)
        assert statistics.success_rate == ((calls - failures) / calls if calls else None)
        assert statistics.admitted == len(self.model.calls)
        assert statistics.admitted == statistics.settled + statistics.released + statistics.live
        assert statistics.live == fates["live"]
        assert statistics.settled == fates["settled"]
        assert statistics.released == fates["released"] + fates["expired"]
        assert statistics.expired == fates["expired"]
        assert statistics.rejected == self.model.rejected

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), ending=st.sampled_from(ENDINGS), cause=st.sampled_from(STATED))
    def end(self, data: st.DataObject, ending: Step, cause: str) -> None:
        """Any permit may be ended at any time, also one that ended before."""
        permit, call = data.draw(st.sampled_from(self.pairs))
        ending(self, permit, call, cause)
        assert permit.live is (call.fate == "live")

    @rule(calls=st.integers(1, 6), lasting=st.sampled_from((0.0, 1.0, 5.0)), ending=st.sampled_from(ENDINGS))
    def burst(self, calls: int, lasting: float, ending: Step) -> None:
        for _ in range(calls):
            permit, call = self.circuit.acquire(self.now), self.model.acquire()
            self.compare()
            if permit is None or call is None:
                return
            self.wait(lasting)
            ending(self, permit, call, "")
            self.compare()

    @precondition(lambda self: not self.calm)
    @rule(
        data=st.data(),
        seconds=st.sampled_from((-1.0, 0.0, 1.0, 25.0)),
        by_result=st.booleans(),
    )
    def open_until(self, data: st.DataObject, seconds: float, by_result: bool) -> None:
        pair = data.draw(st.sampled_from(self.pairs)) if by_result and self.pairs else (None, None)
        self.circuit.open_until(self.now + seconds, self.now, "stated", pair[0])
        self.model.open_until(self.now + seconds, "stated", pair[1])

    @precondition(lambda self: not self.calm)
    @rule(seconds=st.sampled_from([None, 1.0, 20.0]), reason=st.sampled_from(("held", "held again")))
    def force_open(self, seconds: float | None, reason: str) -> None:
        until = None if seconds is None else self.now + seconds
        self.circuit.force_open(reason, self.now, until)
        self.model.operate(FORCED_OPEN, reason, until)

    @precondition(lambda self: not self.calm)
    @rule(
        which=st.sampled_from(["close", "reset", "disable", "observe_only"]), reason=st.sampled_from(STATED)
    )
    def operate(self, which: str, reason: str) -> None:
        circuit, now = self.circuit, self.now
        if which == "close":
            circuit.close(reason, now)
            self.model.operate(CLOSED, reason or "closed by the operator")
        elif which == "reset":
            circuit.reset(reason, now)
            self.model.operate(CLOSED, reason or "reset by the operator")
        elif which == "disable":
            circuit.disable(now, *filter(None, [reason]))
            self.model.operate(CircuitState.DISABLED, reason or "disabled by the operator")
        else:
            circuit.observe_only(now, *filter(None, [reason]))
            self.model.operate(CircuitState.OBSERVE_ONLY, reason or "set to observe by the operator")

    @precondition(lambda self: not self.calm)
    @rule(reason=st.sampled_from(STATED))
    def probe_now(self, reason: str) -> None:
        legal = self.circuit.may_become(HALF_OPEN)
        try:
            self.model.operate(HALF_OPEN, reason or "half-opened by the operator")
        except Illegal:
            assert not legal
            with pytest.raises(ValueError, match="can't become half_open; close it first"):
                self.circuit.half_open(self.now, reason)
        else:
            assert legal
            self.circuit.half_open(self.now, *filter(None, [reason]))

    @precondition(lambda self: not self.calm)
    @rule(transitions=st.permutations(sorted(TRANSITIONS)))
    def go_through(self, transitions: list[tuple[CircuitState, CircuitState]]) -> None:
        """Each transition in its turn, since chance alone seldom comes by some of them."""
        for transition in transitions[:6]:
            self.operate("close", "")
            self.compare()
            for state in transition:
                if state is OPEN or state is self.circuit.state is CircuitState.OBSERVE_ONLY:
                    self.circuit.open_until(self.now + 5.0, self.now, "stated")
                    self.model.open_until(self.now + 5.0, "stated", None)
                elif state is HALF_OPEN:
                    self.probe_now("")
                elif state is FORCED_OPEN:
                    self.force_open(None, "held")
                else:
                    names = {CLOSED: "close", CircuitState.DISABLED: "disable"}
                    self.operate(names.get(state, "observe_only"), "")
                self.compare()

    @precondition(lambda self: not self.calm)
    @rule(
        cause=st.sampled_from(STATED),
        closed=st.booleans(),
        ending=st.one_of(st.none(), st.sampled_from(ENDINGS)),
    )
    def suspect(self, cause: str, closed: bool, ending: Step | None) -> None:
        """Another instance's circuit opened; the next call may be the test."""
        if closed:
            self.operate("close", "")
        self.circuit.suspect(cause, self.now)
        self.model.suspect(cause)
        if ending is not None:
            self.burst(2, 1.0, ending)

    @precondition(lambda self: not self.calm)
    @rule(
        seconds=st.sampled_from((-1.0, 0.0, 1.0, 25.0, math.inf, math.nan)),
        cause=st.sampled_from(STATED),
        confirmed=st.booleans(),
        break_s=st.sampled_from((None, -1.0, 0.5, 12.0, 30.0, 1e9, math.inf, math.nan)),
    )
    def adopt_open(self, seconds: float, cause: str, confirmed: bool, break_s: float | None) -> None:
        until = self.now + seconds
        self.circuit.adopt_open(until, cause, self.now, confirmed=confirmed, break_s=break_s)
        self.model.adopt_open(until, cause, confirmed, break_s)

    @precondition(lambda self: not self.calm)
    @rule(cause=st.sampled_from(STATED))
    def adopt_closed(self, cause: str) -> None:
        self.circuit.adopt_closed(cause, self.now)
        self.model.adopt_closed(cause)

    @precondition(lambda self: not self.calm)
    @rule(
        state=st.sampled_from(CircuitState),
        reason=st.sampled_from(STATED),
        seconds=st.sampled_from((None, -1.0, 0.0, 20.0, math.inf, math.nan)),
    )
    def adopt_hold(self, state: CircuitState, reason: str, seconds: float | None) -> None:
        until = None if seconds is None else self.now + seconds
        record = CircuitRecord(state, reason, self.now + self.offset, until and until + self.offset)
        self.circuit.adopt_hold(record, self.now, self.offset)
        self.model.adopt_hold(state, reason, until)

    @precondition(lambda self: not self.calm)
    @rule(seconds=st.sampled_from((-1.0, 0.0, 1.0, 30.0, math.inf, math.nan)), half_open=st.booleans())
    def probe_elsewhere(self, seconds: float, half_open: bool) -> None:
        if half_open and self.circuit.may_become(HALF_OPEN):
            self.probe_now("")
        self.circuit.probe_elsewhere(self.now + seconds, self.now)
        self.model.probe_elsewhere(self.now + seconds)

    @precondition(lambda self: not self.calm)
    @rule(off_s=st.sampled_from((0.0, 3.0, 50.0)), booted_s=st.sampled_from((0.0, 1.0, 4096.0)))
    def restart(self, off_s: float, booted_s: float) -> None:
        """Another process goes on after ``off_s``, by a clock that began anew; what ran has died."""
        self.compare()
        record = self.circuit.record(self.offset)
        epoch = self.now + self.offset + off_s
        moved = booted_s - (epoch - self.offset)
        self.now, self.offset = booted_s, epoch - booted_s
        self.teardown()
        self.changes.clear()
        self.circuit, self.model = self.made(), self.model.restarted(self.now, moved)
        if record is not None:
            self.circuit.restore(record, self.now, self.offset)
            if record.until is not None:
                until = record.until - self.offset  # of a break with jitter, epoch seconds keep less
                assert self.model.until == pytest.approx(until, abs=1e-6)
                self.model.until = until
        self.pairs = []

    @invariant()
    def compare(self) -> None:
        if not hasattr(self, "circuit"):
            return
        model, circuit = self.model, self.circuit
        assert len(self.changes) == len(model.told)
        if model.told and (spread := model.told[-1].spread) is not None and model.state is OPEN:
            told = self.changes[-1].until
            assert told is not None
            assert spread[0] - 1e-6 <= told <= spread[1] + 1e-6
            if model.until == model.told[-1].until:
                model.learn(told)
        assert [change[1:] for change in self.changes] == [
            (
                told.old,
                told.new,
                told.cause,
                told.by_operator,
                told.until,
                told.generation,
                told.at,
                told.suspicion,
                told.news,
            )
            for told in model.told
        ]
        assert all(change.target == TARGET for change in self.changes)
        assert (circuit.state, circuit.cause, circuit.until, circuit.since, circuit.generation) == (
            model.state,
            model.cause,
            model.until,
            model.since,
            model.generation,
        )
        assert (circuit.suspected, circuit.adopted) == (model.test == "suspicion", model.adopted)

    @invariant()
    def the_generation_grows_by_one_a_transition(self) -> None:
        moves = [change for change in getattr(self, "changes", ()) if change.old is not change.new]
        assert all(
            second.generation == first.generation + 1 and first.new is second.old
            for first, second in pairwise(moves)
        )

    @invariant()
    def a_step_was_made(self) -> None:
        Life.steps += 1

    def teardown(self) -> None:
        Life.visited.update((change.old, change.new) for change in getattr(self, "changes", ()))


def test_10_000_steps_of_random_lives_are_the_models_and_reach_every_state_and_transition() -> None:
    Life.steps, Life.visited = 0, Counter()
    run_state_machine_as_test(
        Life, settings=settings(deadline=None, max_examples=300, stateful_step_count=50)
    )
    assert Life.steps >= 10_000
    assert set(Life.visited) == TRANSITIONS
    assert {state for transition in Life.visited for state in transition} == set(CircuitState)


@settings(deadline=None, max_examples=60)
@given(
    which=st.integers(0, len(VARIANTS) - 1),
    seed=st.integers(),
    life=st.lists(st.tuples(st.sampled_from(WAITS), st.integers(-1, 4)), max_size=80),
)
def test_with_faults_healed_and_traffic_present_it_closes_in_bounded_time(
    which: int, seed: int, life: list[tuple[float, int]]
) -> None:
    chosen = VARIANTS[which]
    circuit, now = Circuit(TARGET, chosen, rng=random.Random(seed), now=0.0), 0.0
    now = live(circuit, life)
    if circuit.state is CircuitState.OBSERVE_ONLY:
        return  # it never rejects
    # Silent probes may hold their leases once, a slow one may cost one more break.
    longest = max(chosen.max_recovery_timeout_s, chosen.recovery_timeout_s)
    bound = 2 * longest + chosen.probe_lease_s + chosen.success_threshold + 2
    healed_at = now
    while circuit.state is not CLOSED:
        assert now - healed_at <= bound
        now += 1.0
        permit = circuit.acquire(now)
        if permit is not None:
            circuit.succeed(permit, now)


@settings(deadline=None, max_examples=40)
@given(
    which=st.integers(0, len(VARIANTS) - 1),
    seed=st.integers(),
    life=st.lists(st.tuples(st.sampled_from(WAITS), st.integers(-1, 4)), max_size=80),
)
def test_the_same_seed_gives_the_same_trace(which: int, seed: int, life: list[tuple[float, int]]) -> None:
    traces: list[list[CircuitChange]] = [[], []]
    for trace in traces:
        live(Circuit(TARGET, VARIANTS[which], rng=random.Random(seed), now=0.0, on_change=trace.append), life)
    assert traces[0] == traces[1]


def live(circuit: Circuit, life: list[tuple[float, int]]) -> float:
    """Calls with pauses before them, each with its end; returns when the last one was made."""
    endings = (Circuit.succeed, Circuit.fail, Circuit.timed_out, Circuit.rate_limited, Circuit.ignore)
    now = 0.0
    for pause, how in life:
        now += pause
        permit = circuit.acquire(now)
        if permit is not None and how >= 0:  # otherwise the call never reports
            endings[how](circuit, permit, now)
    return now
