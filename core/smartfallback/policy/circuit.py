"""The circuit breaker: permits with generations, a sliding window, leased probes, operator modes.

A circuit is a plain synchronous object: no I/O, no clock, no threads. Every method takes ``now``
in monotonic seconds; whoever shares a circuit between threads holds a lock around each call.

    permit = circuit.acquire(now)
    if permit is None:
        raise Rejected(circuit.rejection(now))
    ...                                     # then exactly one of
    circuit.succeed(permit, now)            # or fail, rate_limited, timed_out, ignore, release

A permit carries the generation in which it was given, and each change of state starts a new one,
so a result that comes late changes nothing. The semantics follow resilience4j (windows with
partial sums, slow-call rates, modes) and gobreaker (generations).
"""

from __future__ import annotations

import math

from smartfallback.model.circuits import RateLimitRule
from smartfallback.policy.circuit_machine import (
    ADMITTING,
    CLOSED,
    DISABLED,
    FORCED_OPEN,
    HALF_OPEN,
    OBSERVE_ONLY,
    OPEN,
)
from smartfallback.policy.circuit_probes import OneTest
from smartfallback.policy.circuit_sharing import SharingCircuit
from smartfallback.policy.circuit_values import CircuitChange, CircuitStatistics, Permit, Rejection

__all__ = ["Circuit", "CircuitChange", "CircuitStatistics", "Permit", "Rejection"]


class Circuit(SharingCircuit):
    """One circuit breaker.

    Args:
        target: What it protects; copied into every change.
        settings: How it opens, waits, probes and closes.
        rng: Draws the jitter of reopenings, and nothing else.
        now: Monotonic seconds at which it is made.
        on_change: Called with each change, in order, after the circuit is in its new state; it may
            call the circuit again. It should only hand the change on: what it raises is counted
            and dropped, but the time that it takes is the caller's.
    """

    __slots__ = ()

    def statistics(self, now: float) -> CircuitStatistics:
        """The circuit in numbers; those of the window hold for ``now``."""
        window = self._window
        window.age(now)
        calls = window.calls
        return CircuitStatistics(
            calls=calls,
            failures=window.failures,
            slow=window.slow,
            success_rate=(calls - window.failures) / calls if calls else None,
            rejected=self._rejected,
            admitted=self._admitted,
            settled=self._settled,
            released=self._released,
            live=self.live,
            expired=self._expired,
            listener_errors=self._listener_errors,
        )

    # Asking

    def acquire(self, now: float) -> Permit | None:
        """Permission for one call, None (and one more rejection) when there is none."""
        if now >= self._watch_from:
            return self._acquire_watched(now)
        self._admitted += 1
        permit = Permit(self._generation, now, None)
        if self._watches:
            self._running.add(permit)
            self._watch_from = self._running.due_at
        return permit

    def admits(self, now: float) -> bool:
        """Whether :meth:`acquire` would succeed now; changes nothing."""
        if now < self._watch_from:
            return True
        state = self._state
        if state is HALF_OPEN:
            return self._probes.slow(now, self._slow_s) is None and self._probes.room(now)
        if state is CLOSED:
            return not self._tripped(now, self._running.overdue(now))
        if state in ADMITTING:
            return True
        return self._until is not None and now >= self._until

    def blocked_until(self, now: float) -> float | None:
        """The instant from which it may admit again.

        None when it admits now, and when only an operator can lift the rejection:
        :attr:`needs_operator` is true in the second case alone. While probes are running, here or
        elsewhere, it is the latest such instant, since a place is free as soon as one ends.
        """
        if self.admits(now):
            return None
        if self._state is HALF_OPEN and self._probes.slow(now, self._slow_s) is None:
            return self._probes.room_from(now)
        if self._state is HALF_OPEN or self._state is CLOSED:
            # A call that hangs will open it at the next use.
            return now + self._breaks.coming(self._base_break())
        return self._until

    def rejection(self, now: float) -> Rejection:
        """Why it would reject now; ``retry_after_s`` is 0 when it wouldn't."""
        if self.needs_operator:
            return Rejection(self._state, None, self._cause)
        until = self.blocked_until(now)
        return Rejection(self._state, 0.0 if until is None else max(0.0, until - now), self._cause)

    # Reporting

    def succeed(self, permit: Permit, now: float) -> None:
        """The call succeeded; it may still have been slow."""
        if not permit.live:
            return
        permit.live = False
        self._settled += 1
        if permit.generation != self._counted:
            return
        slow = now - permit.started_at >= self._slow_s
        if permit.lease_until is not None:
            self._probe_ended(permit, now, self._slow_probe(permit, now) if slow else "")
            return
        self._window.record(now, False, slow, not permit.noticed)
        if self._rated:
            self._judge(now, "a slow call" if slow else "")

    def fail(self, permit: Permit, now: float, cause: str = "") -> None:
        """The call failed; so did a 200 that carried an error."""
        self._failed(permit, now, cause or "failure", now - permit.started_at >= self._slow_s)

    def timed_out(self, permit: Permit, now: float, cause: str = "") -> None:
        """The call ran into a time-out: a failure that counts as slow, however short the wait was.

        It counts in both rates, and as a failure against ``failure_threshold``: without a slow-call
        rate, or below ``min_calls``, an API that only hangs would otherwise never be cut off.
        """
        self._failed(permit, now, cause or "timed out", True)

    def rate_limited(self, permit: Permit, now: float, cause: str = "") -> None:
        """The call met a 429: the rule ``on_rate_limit`` decides.

        ``half_open`` makes a closed circuit test with the next single request, whose failure opens
        it for ``rate_limit_recovery_s``; a 429 of a probe fails it. ``count`` is :meth:`fail`,
        ``ignore`` is :meth:`ignore`. An observing circuit ignores what would only have tested it.
        """
        rule = self._settings.on_rate_limit
        cause = cause or "rate limited"
        if rule is RateLimitRule.IGNORE:
            self.ignore(permit, now)
        elif rule is RateLimitRule.COUNT or permit.probe:
            self._failed(permit, now, cause, False)
        elif self._settle(permit) and self._state is CLOSED:
            self._change(HALF_OPEN, now, cause, test=OneTest.RATE_LIMIT)
            self._deliver()

    def ignore(self, permit: Permit, now: float) -> None:  # noqa: ARG002 - all results have one face
        """The call's result says nothing about the target (a caller's error): no rate changes."""
        if self._settle(permit) and permit.probe:
            self._probes.live.remove(permit)

    def release(self, permit: Permit, now: float) -> None:  # noqa: ARG002 - all results have one face
        """The call was cancelled or crashed: the permit comes back, without a verdict."""
        if not permit.live:
            return
        permit.live = False
        self._released += 1
        if permit.generation == self._counted and permit.probe:
            self._probes.live.remove(permit)

    def open_until(self, until: float, now: float, cause: str, permit: Permit | None = None) -> None:
        """A result states until when the target can't serve: open it until then.

        A later time extends an open circuit's break, an earlier one never shortens it. Held,
        disabled and observing circuits stay what they are, and a time that has passed opens nothing.
        With ``permit``, the call also counts as failed, and if the permit is from an older generation
        nothing else happens.

        Raises:
            ValueError: ``until`` is not finite.
        """
        if not math.isfinite(until):
            raise ValueError(f"a circuit opens until a finite time, not {until!r}")
        if until <= now:
            if permit is not None:
                self.fail(permit, now, cause)
            return
        if permit is not None:
            if not self._settle(permit):
                return
            if permit.probe:
                self._probes.live.remove(permit)
            else:
                slow = now - permit.started_at >= self._slow_s
                self._window.record(now, True, slow, not permit.noticed)
        if self._state is OPEN and self._until is not None:
            self._adopted = False
            if until > self._until:
                self._until = until
                self._cause = cause
        elif self._state in (CLOSED, HALF_OPEN):
            self._change(OPEN, now, cause, until=until)
        elif self._state is OBSERVE_ONLY:
            self._report(now, cause)
        self._deliver()

    # The operator

    def force_open(self, reason: str, now: float, until: float | None = None) -> None:
        """Hold it open until ``until`` (then it probes), or until an operator lifts it.

        On a circuit that is held already, reason and end are replaced, silently.

        Raises:
            ValueError: ``until`` is not in the future, or not finite.
        """
        if until is not None and not now < until < math.inf:
            raise ValueError(f"a circuit is held until a time after {now!r}, not {until!r}")
        self._operate(FORCED_OPEN, now, reason, until)

    def close(self, reason: str, now: float) -> None:
        """Close it from any state; counts and back-off start anew."""
        self._operate(CLOSED, now, reason or "closed by the operator")

    def reset(self, reason: str, now: float) -> None:
        """Back to how it began after a mishap: closed, no counts, no back-off."""
        self.close(reason or "reset by the operator", now)

    def disable(self, now: float, reason: str = "") -> None:
        """Admit everything and record nothing, until it is closed."""
        self._operate(DISABLED, now, reason or "disabled by the operator")

    def observe_only(self, now: float, reason: str = "") -> None:
        """Record, report once that it would have opened, and reject nothing, until it is closed."""
        self._operate(OBSERVE_ONLY, now, reason or "set to observe by the operator")

    def half_open(self, now: float, reason: str = "") -> None:
        """Let the next calls be probes.

        Raises:
            ValueError: It is disabled or only observes, and so would never act on a probe.
        """
        self._operate(HALF_OPEN, now, reason or "half-opened by the operator")

    # The long way to a permit

    def _acquire_watched(self, now: float) -> Permit | None:
        self._catch_up(now)
        state = self._state
        permit: Permit | None = None
        if state in ADMITTING:
            permit = Permit(self._generation, now, None)
            if self._watches:
                self._running.add(permit)
                self._watch_from = self._running.due_at
        elif state is HALF_OPEN and self._probes.room(now):
            permit = Permit(self._generation, now, now + self._settings.probe_lease_s)
            self._probes.live.append(permit)
        if permit is None:
            self._rejected += 1
        else:
            self._admitted += 1
        self._deliver()
        return permit
