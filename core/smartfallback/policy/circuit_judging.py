"""How a circuit judges: what results and the passing of time make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartfallback.policy.circuit_machine import (
    ADMITTING,
    CLOSED,
    FORCED_OPEN,
    HALF_OPEN,
    OBSERVE_ONLY,
    CircuitMachine,
)
from smartfallback.policy.circuit_values import CircuitChange

if TYPE_CHECKING:
    from smartfallback.policy.circuit_values import Permit


class JudgingCircuit(CircuitMachine):
    """Opens and closes by the results of calls, of probes, and by time."""

    __slots__ = ()

    # Letting time act

    def tick(self, now: float) -> None:
        """Let time act: end a break, free silent probes, count calls that hang. Takes no permit."""
        if now >= self._watch_from:
            self._catch_up(now)
            self._deliver()

    def _catch_up(self, now: float) -> None:
        state = self._state
        if state is HALF_OPEN:
            slow = self._probes.slow(now, self._slow_s)
            if slow is not None:
                self._open(now, self._slow_probe(slow, now))
                return
            for probe in self._probes.expire(now):
                probe.live = False
                self._released += 1
                self._expired += 1
        elif state in ADMITTING:
            overdue = self._running.take_overdue(now)
            self._watch_from = self._running.due_at
            for _ in range(overdue):
                self._window.notice_slow(now)
            if overdue:
                self._judge(now, "a call that still runs")
        elif self._until is not None and now >= self._until:
            ended = "the hold ended" if state is FORCED_OPEN else "the break is over"
            self._change(HALF_OPEN, now, f"{ended}; it began with: {self._cause}" if self._cause else ended)

    # Judging

    def _settle(self, permit: Permit) -> bool:
        """End a permit; False when its result changes nothing (ended before, or an older generation)."""
        if not permit.live:
            return False
        permit.live = False
        self._settled += 1
        return permit.generation == self._counted

    def _failed(self, permit: Permit, now: float, cause: str, slow: bool) -> None:
        if not self._settle(permit):
            return
        if permit.lease_until is not None:
            self._probe_ended(permit, now, cause)
            return
        self._window.record(now, True, slow, not permit.noticed)
        self._judge(now, cause)

    def _probe_ended(self, permit: Permit, now: float, failure: str) -> None:
        """Take a probe's verdict; ``failure`` is empty for a good one."""
        probes = self._probes
        probes.live.remove(permit)
        if failure:
            self._open(now, f"probe failed: {failure}")
        else:
            probes.successes += 1
            if probes.successes >= probes.needed:
                self._change(CLOSED, now, _plural(probes.successes, "probe") + " succeeded")
        self._deliver()

    def _slow_probe(self, permit: Permit, now: float) -> str:
        return f"slow, {now - permit.started_at:.1f} s where {self._slow_s:g} s are the limit"

    def _judge(self, now: float, last: str) -> None:
        reason = self._tripped(now)
        if not reason:
            return
        cause = f"{reason}; last: {last}" if last else reason
        if self._state is OBSERVE_ONLY:
            self._report(now, cause)
        else:
            self._open(now, cause)
        self._deliver()

    def _report(self, now: float, cause: str) -> None:
        if not self._reported:
            self._reported = True
            told = f"would have opened: {cause}"
            state = self._state
            self._changes.append(
                CircuitChange(self._target, state, state, told, False, None, self._generation, now)
            )

    def _tripped(self, now: float, overdue: int = 0) -> str:
        """Why the window, with ``overdue`` more slow calls, calls for opening; empty if it doesn't."""
        settings = self._settings
        window = self._window
        window.age(now)
        calls, failures = window.calls, window.failures
        if failures >= settings.failure_threshold or (
            settings.failure_rate is not None
            and calls >= settings.min_calls
            and failures / calls >= settings.failure_rate
        ):
            return f"{failures} of {_plural(calls, 'call')} failed ({failures / calls:.0%})"
        timed, slow = window.timed + overdue, window.slow + overdue
        if (
            settings.slow_call_rate is not None
            and timed >= settings.min_calls
            and slow / timed >= settings.slow_call_rate
        ):
            return f"{slow} of {_plural(timed, 'call')} slow ({slow / timed:.0%}, from {self._slow_s:g} s)"
        return ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
