"""What a circuit makes of what other instances, which share its target, have met or been told.

Windows stay local: what is shared are changes. Each method is a message from elsewhere that has
already arrived, with times on this machine's monotonic clock (but for :meth:`~SharingCircuit.adopt_hold`).
A message that does not fit the circuit's state, or whose time has passed, changes nothing and
raises nothing. Only an operator's word moves a circuit that an operator holds, disabled or set to
observe.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from smartfallback.policy.circuit_judging import JudgingCircuit
from smartfallback.policy.circuit_machine import CLOSED, FORCED_OPEN, HALF_OPEN, OPEN
from smartfallback.policy.circuit_probes import OneTest

if TYPE_CHECKING:
    from smartfallback.model.state import CircuitRecord


class SharingCircuit(JudgingCircuit):
    """Takes part in a circuit that is shared by several instances."""

    __slots__ = ()

    def suspect(self, cause: str, now: float) -> None:
        """Another instance's circuit opened by what that instance met alone.

        A closed circuit tests with the next single request whether the same is to be seen from
        here: success closes it, failure opens it for ``recovery_timeout_s``. Any other stays as it is.
        """
        self.tick(now)
        if self._state is CLOSED:
            self._change(HALF_OPEN, now, cause, test=OneTest.SUSPICION, news=False)
            self._deliver()

    def adopt_open(
        self,
        until: float,
        cause: str,
        now: float,
        *,
        confirmed: bool = True,
        break_s: float | None = None,
    ) -> None:
        """The target can't serve until then: open without own evidence.

        An open circuit's break is extended, never shortened. The break counts for the back-off, so
        that a probe that fails afterwards waits longer.

        Args:
            until: When the other's break ends, in monotonic seconds.
            cause: Why it opened.
            now: Monotonic seconds.
            confirmed: More than one instance met it, or the target said so itself. Otherwise it is
                the failed probe of an instance whose circuit had opened alone: that is a verdict for
                those whose break is over, and a suspicion for a closed circuit. One that tests
                anyway finds out by itself.
            break_s: The other's latest break without its jitter, from which the next one grows here
                too; None makes it count as a first one.
        """
        if not now < until < math.inf:
            return
        self.tick(now)
        state = self._state
        if state is OPEN:
            if self._until is not None and until > self._until:
                self._breaks.adopt(break_s)
                self._until, self._cause = until, cause
        elif not confirmed and (state is CLOSED or self._probes.test is not None):
            self.suspect(cause, now)
        elif state is CLOSED or state is HALF_OPEN:
            self._breaks.adopt(break_s)
            self._change(OPEN, now, cause, until=until, news=False)
            self._adopted = True
            self._deliver()

    def adopt_closed(self, cause: str, now: float) -> None:
        """Another instance's probe succeeded.

        A half-open circuit closes, and so does one that is open because of others only. What was met
        here keeps its break: the target may well serve others and not this instance.
        """
        self.tick(now)
        if self._state is HALF_OPEN or self._adopted:
            self._change(CLOSED, now, cause, news=False)
            self._deliver()

    def adopt_hold(self, record: CircuitRecord, now: float, offset: float) -> None:
        """An operator told another instance's circuit to be held open, to close, or to have a mode.

        As with a command given here, one that changes nothing is silent. Commands follow each other
        in the order in which they are heard; who passes them on puts them in order.

        Args:
            record: What it is to be, with times in epoch seconds. An open one is nobody's command,
                and a hold that has ended is none.
            now: Monotonic seconds.
            offset: Epoch seconds minus monotonic ones.
        """
        new, until = record.state, None
        if new is FORCED_OPEN and record.until is not None:
            until = record.until - offset
            if not now < until < math.inf:
                return
        if new is not OPEN and self.may_become(new):
            self._operate(new, now, record.cause, until, news=False)

    @property
    def probes_at_once(self) -> int:
        """How many probes of a half-open circuit may run at once, over all instances."""
        return self._probes.at_once

    def probe_elsewhere(self, until: float, now: float) -> None:
        """Another instance probes for all: admit no probe of a half-open circuit before ``until``.

        It ends then, or with the next change of state, whatever becomes of the other instance. Of
        several such times the one told last counts. Probes that run here go on.
        """
        self.tick(now)
        if self._state is HALF_OPEN and now < until < math.inf:
            self._probes.elsewhere_until = until
