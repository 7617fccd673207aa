"""A circuit's properties against a simple model, over random lives."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smartfallback.model.circuits import CircuitSettings, CircuitState, RateLimitRule
from smartfallback.policy.circuit import Circuit, CircuitChange, Permit
from support.circuits import TARGET

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN = CircuitState.FORCED_OPEN

PLAIN = CircuitSettings(
    failure_threshold=3,
    window_s=60.0,
    recovery_timeout_s=10.0,
    max_recovery_timeout_s=40.0,
    probe_lease_s=20.0,
)
VARIANTS = [
    PLAIN,
    CircuitSettings(
        failure_threshold=4,
        window_s=60.0,
        recovery_timeout_s=10.0,
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
    ),
    CircuitSettings(
        failure_threshold=3, window_calls=6, failure_rate=0.5, min_calls=4, recovery_timeout_s=10.0
    ),
]

ENDINGS: list[Callable[[Circuit, Permit, float], None]] = [
    Circuit.succeed,
    Circuit.fail,
    Circuit.timed_out,
    Circuit.rate_limited,
    Circuit.ignore,
]


class Life(RuleBasedStateMachine):
    """One circuit lives twice, from the same seed; the second is there to be compared."""

    @initialize(settings=st.sampled_from(VARIANTS), seed=st.integers(0, 2**32))
    def begin(self, settings: CircuitSettings, seed: int) -> None:
        self.now = 1000.0
        self.settings = settings
        self.changes: list[CircuitChange] = []
        self.twin_changes: list[CircuitChange] = []
        self.circuit = Circuit(
            TARGET, settings, rng=random.Random(seed), now=self.now, on_change=self.changes.append
        )
        self.twin = Circuit(
            TARGET, settings, rng=random.Random(seed), now=self.now, on_change=self.twin_changes.append
        )
        self.permits: list[tuple[Permit, Permit]] = []
        self.admitted = self.settled = self.released = self.rejected = 0
        self.failed_at: list[float] = []
        self.failed_in = 0

    def both(self, act: Callable[[Circuit], None]) -> None:
        act(self.circuit)
        act(self.twin)

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 61.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        self.both(lambda circuit: circuit.tick(self.now))

    @rule()
    def acquire(self) -> None:
        expected = self.circuit.admits(self.now)
        blocked_until = self.circuit.blocked_until(self.now)
        rejection = self.circuit.rejection(self.now)
        permit = self.circuit.acquire(self.now)
        twin = self.twin.acquire(self.now)
        assert (permit is not None) is (twin is not None) is expected
        if permit is None or twin is None:
            self.rejected += 1
            if self.circuit.needs_operator:
                assert (blocked_until, rejection.retry_after_s) == (None, None)
            else:
                assert blocked_until is not None
                assert blocked_until > self.now
                assert rejection.retry_after_s == blocked_until - self.now
            return
        assert (blocked_until, rejection.retry_after_s) == (None, 0.0)
        assert self.circuit.state not in (OPEN, FORCED_OPEN), "no call runs while it is open"
        assert permit.generation == self.circuit.generation
        assert permit.probe is (self.circuit.state is HALF_OPEN)
        self.admitted += 1
        self.permits.append((permit, twin))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), how=st.integers(0, len(ENDINGS)))
    def end(self, data: st.DataObject, how: int) -> None:
        pair = data.draw(st.sampled_from(self.permits))
        permit, twin = pair
        was_live, before = permit.live, self.circuit.generation
        counts = permit.generation == before and self.circuit.state is CLOSED and was_live
        if how == len(ENDINGS):
            self.circuit.release(permit, self.now)
            self.twin.release(twin, self.now)
            self.released += was_live
        else:
            ENDINGS[how](self.circuit, permit, self.now)
            ENDINGS[how](self.twin, twin, self.now)
            self.settled += was_live
            counted = how in (1, 2) or (how == 3 and self.settings.on_rate_limit is RateLimitRule.COUNT)
            if counts and counted:
                self._model_failure(before)
        assert not permit.live
        if not was_live or permit.generation != before:
            assert self.circuit.generation == before, "a second or a late end changes nothing"

    def _model_failure(self, generation: int) -> None:
        """The whole of the plain circuit's closed state: three failures within a minute."""
        if self.settings is not PLAIN:
            return
        if self.failed_in != generation:
            self.failed_at, self.failed_in = [], generation
        self.failed_at = [at for at in self.failed_at if self.now - at < 60.0] + [self.now]
        assert (self.circuit.state is OPEN) is (len(self.failed_at) >= 3)

    @rule(seconds=st.sampled_from([None, 1.0, 20.0]))
    def force_open(self, seconds: float | None) -> None:
        until = None if seconds is None else self.now + seconds
        self.both(lambda circuit: circuit.force_open("held", self.now, until))
        assert not self.circuit.admits(self.now)

    @rule(which=st.sampled_from(["close", "disable", "observe_only"]))
    def operate(self, which: str) -> None:
        if which == "close":
            self.both(lambda circuit: circuit.close("operator", self.now))
            self.failed_at = []
        elif which == "disable":
            self.both(lambda circuit: circuit.disable(self.now))
        else:
            self.both(lambda circuit: circuit.observe_only(self.now))
        assert self.circuit.admits(self.now)

    @rule(seconds=st.sampled_from([1.0, 25.0]))
    def open_until(self, seconds: float) -> None:
        self.both(lambda circuit: circuit.open_until(self.now + seconds, self.now, "stated"))

    @invariant()
    def permits_are_conserved(self) -> None:
        if not hasattr(self, "circuit"):
            return
        statistics = self.circuit.statistics(self.now)
        live = sum(permit.live for permit, _ in self.permits)
        assert statistics.admitted == self.admitted
        assert statistics.settled == self.settled
        assert statistics.released == self.released + statistics.expired
        assert statistics.live == live
        assert statistics.admitted == statistics.settled + statistics.released + live
        assert statistics.rejected == self.rejected

    @invariant()
    def probes_stay_within_their_cap(self) -> None:
        if hasattr(self, "circuit") and self.circuit.state is HALF_OPEN:
            running = sum(p.live and p.generation == self.circuit.generation for p, _ in self.permits)
            assert running <= self.settings.half_open_max_calls

    @invariant()
    def the_generation_grows_by_one_a_transition(self) -> None:
        if not hasattr(self, "circuit"):
            return
        moves = [change for change in self.changes if change.old is not change.new]
        assert [change.generation for change in moves] == list(range(1, self.circuit.generation + 1))
        if moves:
            assert moves[-1].new is self.circuit.state
            assert all(first.new is second.old for first, second in pairwise(moves))

    @invariant()
    def the_same_seed_gives_the_same_trace(self) -> None:
        if hasattr(self, "circuit"):
            assert self.changes == self.twin_changes

    @invariant()
    def the_window_counts_no_more_failures_than_calls(self) -> None:
        if hasattr(self, "circuit"):
            statistics = self.circuit.statistics(self.now)
            assert 0 <= statistics.failures <= statistics.calls
            assert statistics.success_rate is None or 0 <= statistics.success_rate <= 1


Life.TestCase.settings = settings(deadline=None, max_examples=120, stateful_step_count=60)
TestLife = Life.TestCase


@settings(deadline=None, max_examples=80)
@given(
    which=st.integers(0, len(VARIANTS) - 1),
    seed=st.integers(),
    life=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 7.0, 50.0]), st.integers(-1, len(ENDINGS) - 1)), max_size=80
    ),
)
def test_with_faults_healed_and_traffic_present_it_closes_in_bounded_time(
    which: int, seed: int, life: list[tuple[float, int]]
) -> None:
    chosen = VARIANTS[which]
    circuit = Circuit(TARGET, chosen, rng=random.Random(seed), now=0.0)
    now = 0.0
    for pause, how in life:
        now += pause
        permit = circuit.acquire(now)
        if permit is not None and how >= 0:  # otherwise the call never reports
            ENDINGS[how](circuit, permit, now)
    # Silent probes may hold their leases once, a slow one may cost one more break.
    bound = 2 * chosen.max_recovery_timeout_s + chosen.probe_lease_s + chosen.success_threshold + 2
    healed_at = now
    while circuit.state is not CLOSED:
        assert now - healed_at <= bound
        now += 1.0
        permit = circuit.acquire(now)
        if permit is not None:
            circuit.succeed(permit, now)
