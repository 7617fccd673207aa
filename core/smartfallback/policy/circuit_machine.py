"""The state machine under a circuit: its states, generations, breaks and changes.

What results mean and when to open is decided in :mod:`smartfallback.policy.circuit_judging`.
"""

from __future__ import annotations

import math
from collections import deque
from copy import copy, deepcopy
from random import Random
from typing import TYPE_CHECKING, Final

from smartfallback.model.circuits import CircuitSettings, CircuitState, CircuitTarget
from smartfallback.model.state import CircuitRecord
from smartfallback.policy.circuit_breaks import Breaks
from smartfallback.policy.circuit_probes import OneTest, Probes
from smartfallback.policy.circuit_running import RunningCalls
from smartfallback.policy.circuit_values import CircuitChange
from smartfallback.policy.circuit_window import window_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

CLOSED: Final = CircuitState.CLOSED
OPEN: Final = CircuitState.OPEN
HALF_OPEN: Final = CircuitState.HALF_OPEN
FORCED_OPEN: Final = CircuitState.FORCED_OPEN
OBSERVE_ONLY: Final = CircuitState.OBSERVE_ONLY
DISABLED: Final = CircuitState.DISABLED

ADMITTING: Final = frozenset({CLOSED, OBSERVE_ONLY, DISABLED})
"""States that reject nothing."""

NO_GENERATION: Final = -1

_MODES: Final = frozenset({CLOSED, FORCED_OPEN, OBSERVE_ONLY, DISABLED})
_LEGAL: Final = {
    CLOSED: _MODES | {OPEN, HALF_OPEN},
    OPEN: _MODES | {HALF_OPEN},
    HALF_OPEN: _MODES | {OPEN},
    FORCED_OPEN: _MODES | {HALF_OPEN},
    OBSERVE_ONLY: _MODES,
    DISABLED: _MODES,
}


class CircuitMachine:
    """State, generation, probes and pending changes of one circuit; `Circuit` tells the arguments."""

    __slots__ = (
        "_admitted",
        "_adopted",
        "_breaks",
        "_cause",
        "_changes",
        "_counted",
        "_delivering",
        "_expired",
        "_generation",
        "_listener_errors",
        "_on_change",
        "_probes",
        "_rated",
        "_rejected",
        "_released",
        "_reported",
        "_running",
        "_settings",
        "_settled",
        "_since",
        "_slow_s",
        "_state",
        "_target",
        "_until",
        "_watch_from",
        "_watches",
        "_window",
    )

    def __init__(
        self,
        target: CircuitTarget,
        settings: CircuitSettings,
        *,
        rng: Random,
        now: float,
        on_change: Callable[[CircuitChange], None] | None = None,
    ) -> None:
        self._target = target
        self._settings = settings
        self._breaks = Breaks(settings, rng)
        self._on_change = on_change
        self._changes: deque[CircuitChange] = deque()
        self._delivering = False
        self._listener_errors = 0
        self._admitted = self._settled = self._released = self._expired = self._rejected = 0
        self._window = window_of(settings)
        self._slow_s = math.inf if settings.slow_call_s is None else settings.slow_call_s
        self._running = RunningCalls(self._slow_s)
        self._rated = settings.failure_rate is not None or settings.slow_call_rate is not None
        self._generation = NO_GENERATION
        self._state = settings.initial_state
        self._reported = False
        self._until: float | None
        self._watch_from: float
        self._watches: bool
        self._adopted: bool
        self._probes: Probes
        until = now + self._breaks.take(settings.recovery_timeout_s) if self._state is OPEN else None
        self._enter(self._state, now, "" if self._state is CLOSED else "configured to start so", until)

    # What it is

    @property
    def target(self) -> CircuitTarget:
        """What it protects."""
        return self._target

    @property
    def settings(self) -> CircuitSettings:
        """How it opens, waits, probes and closes."""
        return self._settings

    @property
    def state(self) -> CircuitState:
        """The state as of the last call; time alone changes it at the next :meth:`tick` or use."""
        return self._state

    @property
    def generation(self) -> int:
        """Grows by one with each change of state."""
        return self._generation

    @property
    def since(self) -> float:
        """When it entered its state."""
        return self._since

    @property
    def until(self) -> float | None:
        """When an open circuit may probe, or a forced one ends by itself; None otherwise."""
        return self._until

    @property
    def cause(self) -> str:
        """Why it is in its state; empty for a circuit that never changed."""
        return self._cause

    @property
    def live(self) -> int:
        """Permits that were given and have not ended."""
        return self._admitted - self._settled - self._released

    @property
    def needs_operator(self) -> bool:
        """Whether only an operator can make it admit again."""
        return self._state is FORCED_OPEN and self._until is None

    @property
    def suspected(self) -> bool:
        """Whether it tests, with one request, if it should open as another instance's circuit did."""
        return self._probes.test is OneTest.SUSPICION

    @property
    def adopted(self) -> bool:
        """Whether it is open because of what other instances met, and of nothing that was met here."""
        return self._adopted

    def may_become(self, new: CircuitState) -> bool:
        """Whether it can be told to be ``new``: what it is already changes nothing, and so may be."""
        return new is self._state or new in _LEGAL[self._state]

    # Over a restart

    def record(self, offset: float) -> CircuitRecord | None:
        """What of it survives a restart; None when its settings alone say how it begins.

        A circuit that starts as open asks for caution at each start, also when it was closed before;
        what an operator made of one that is configured to observe, or not to work, stands.

        Args:
            offset: Epoch seconds minus monotonic ones.
        """
        initial = self._settings.initial_state
        if self._state is (CLOSED if initial is OPEN else initial) and self._state in ADMITTING:
            return None
        return CircuitRecord(
            state=self._state,
            cause=self._cause,
            since=self._since + offset,
            until=None if self._until is None else self._until + offset,
            first_break_s=self._breaks.first,
            last_break_s=self._breaks.latest,
            rate_limit_test=self._probes.test is OneTest.RATE_LIMIT,
            suspected=self.suspected,
            adopted=self._adopted,
        )

    def restore(self, record: CircuitRecord, now: float, offset: float) -> None:
        """Go on from before a restart, without a change to tell of; call before the first permit.

        A break or hold that ended meanwhile ends at the next call or :meth:`tick`, with its change.
        """
        until = None if record.until is None else record.until - offset
        if record.state is OPEN and until is None:
            until = now
        self._breaks.restore(record.first_break_s, record.last_break_s)
        test = None
        if record.state is HALF_OPEN and (record.rate_limit_test or record.suspected):
            test = OneTest.RATE_LIMIT if record.rate_limit_test else OneTest.SUSPICION
        self._enter(record.state, now, record.cause, until, test)
        self._adopted = record.adopted and record.state is OPEN
        self._since = min(now, record.since - offset)

    # Over a time that does not count

    def apart(self) -> Self:
        """A circuit of its own in the same state and with the same counts; it tells nobody of changes.

        It has none of the permits that were given: what comes of them is no business of its own.
        """
        other = copy(self)
        other._on_change = None
        other._changes = deque()
        other._window = deepcopy(self._window)
        other._breaks = copy(self._breaks)
        other._probes = copy(self._probes)
        other._probes.live = []
        other._running = RunningCalls(self._slow_s)
        return other

    def anew(self, now: float) -> Self:
        """A circuit of its own as this one was made, but for an initial break."""
        return type(self)(self._target, self._settings, rng=Random(0), now=now)

    def put_back(self, kept: Self, now: float, cause: str) -> None:
        """Be again what ``kept`` is, which :meth:`apart` gave and which is used up by this.

        State, cause, break and the window's counts are taken over. It is a new generation, so that
        permits which are still out can be given back and count no more. ``cause`` is told with the
        change, if the state is another.

        Args:
            kept: The circuit as it is to be.
            now: Monotonic seconds.
            cause: Why, for the listener; the circuit's own cause is that of ``kept``.
        """
        old = self._state
        self._enter(kept._state, now, kept._cause, kept._until)
        self._since = kept._since
        self._reported = kept._reported
        self._adopted = kept._adopted
        self._window = kept._window
        self._breaks = kept._breaks
        self._probes = kept._probes
        if old is not self._state:
            change = CircuitChange(
                self._target, old, self._state, cause, False, self._until, self._generation, now, news=False
            )
            self._changes.append(change)
        self._deliver()

    # Changing state

    def _operate(
        self, new: CircuitState, now: float, reason: str, until: float | None = None, *, news: bool = True
    ) -> None:
        """Do what an operator said, here or, for no ``news``, elsewhere."""
        if new is CLOSED:
            self._window.clear()
        if new is not self._state:
            self._change(new, now, reason, by_operator=True, until=until, news=news)
            self._deliver()
        elif new is FORCED_OPEN:
            self._cause, self._until = reason, until

    def _change(
        self,
        new: CircuitState,
        now: float,
        cause: str,
        *,
        by_operator: bool = False,
        until: float | None = None,
        test: OneTest | None = None,
        news: bool = True,
    ) -> None:
        old, suspicion = self._state, self.suspected or test is OneTest.SUSPICION
        if new not in _LEGAL[old]:
            raise ValueError(f"{self._target}: {old.value} can't become {new.value}; close it first")
        self._enter(new, now, cause, until, test)
        change = CircuitChange(
            self._target, old, new, cause, by_operator, until, self._generation, now, suspicion, news
        )
        self._changes.append(change)

    def _enter(
        self,
        state: CircuitState,
        now: float,
        cause: str,
        until: float | None,
        test: OneTest | None = None,
    ) -> None:
        settings = self._settings
        self._state = state
        self._since = now
        self._until = until
        self._cause = cause
        self._generation += 1
        self._counted = NO_GENERATION if state is DISABLED else self._generation
        self._reported = self._adopted = False
        if test is None:
            self._probes = Probes(settings.half_open_max_calls, settings.success_threshold)
        else:
            self._probes = Probes(1, 1, test)
        if state in ADMITTING:
            self._window.clear()
            self._breaks.reset()
        self._watches = state in (CLOSED, OBSERVE_ONLY) and self._slow_s < math.inf
        self._running.clear()
        # From this instant on, acquire leaves its short path: there is something to look at first.
        self._watch_from = math.inf if state in ADMITTING else -math.inf

    def _deliver(self) -> None:
        """Tell the listener, outside all changes and in order even when it calls the circuit."""
        changes = self._changes
        if not changes or self._delivering:
            return
        if self._on_change is None:
            changes.clear()
            return
        self._delivering = True
        try:
            while changes:
                try:
                    self._on_change(changes.popleft())
                except Exception:
                    self._listener_errors += 1
        finally:
            self._delivering = False

    def _base_break(self) -> float:
        settings = self._settings
        if self._probes.test is OneTest.RATE_LIMIT:
            return settings.rate_limit_recovery_s
        return settings.recovery_timeout_s

    def _open(self, now: float, cause: str) -> None:
        self._change(OPEN, now, cause, until=now + self._breaks.take(self._base_break()))
