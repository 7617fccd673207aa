"""A circuit as simply as it can be said: lists of all that happened, counted anew at each question.

It shares no code with the circuit. Instants are monotonic seconds; a break that jitter spreads is
known as the bounds it must lie in until the real one is told (:meth:`CircuitModel.learn`).
"""

from __future__ import annotations

import math
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

from smartfallback.model.circuits import CircuitSettings, CircuitState, RateLimitRule

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN = CircuitState.FORCED_OPEN
OBSERVE_ONLY, DISABLED = CircuitState.OBSERVE_ONLY, CircuitState.DISABLED
ADMITTING = (CLOSED, OBSERVE_ONLY, DISABLED)

BY_OPERATOR = {
    (old, new) for old in CircuitState for new in CircuitState if old is not new and new is not OPEN
} - {
    (OBSERVE_ONLY, HALF_OPEN),
    (DISABLED, HALF_OPEN),
}
TRANSITIONS = BY_OPERATOR | {(CLOSED, OPEN), (HALF_OPEN, OPEN), (OBSERVE_ONLY, OBSERVE_ONLY)}
"""Every transition there is; one that observes tells so by "changing" into itself."""


OneTest = Literal["rate limit", "suspicion"]
"""What the one request of a circuit that has not opened is to show."""


class Illegal(Exception):
    """The operator asked for what can't be."""


@dataclass
class Call:
    """One permit: what became of it is ``live``, ``settled``, ``released`` or ``expired``."""

    generation: int
    started: float
    lease: float | None
    noticed: bool = False
    fate: str = "live"


@dataclass(frozen=True)
class Result:
    """What the window keeps of a call that ended, or that was seen to hang."""

    at: float
    ended: bool
    failed: bool
    timed: bool
    slow: bool


@dataclass(frozen=True)
class Told:
    """A change as its listener should hear it; ``spread`` are the bounds of ``until`` under jitter."""

    old: CircuitState
    new: CircuitState
    cause: str
    by_operator: bool
    until: float | None
    generation: int
    at: float
    suspicion: bool = False
    news: bool = True
    spread: tuple[float, float] | None = None


class CircuitModel:
    def __init__(self, settings: CircuitSettings, now: float) -> None:
        self.settings = settings
        self.now = now
        self.slow_s = math.inf if settings.slow_call_s is None else settings.slow_call_s
        self.calls: list[Call] = []
        self.results: list[Result] = []
        self.told: list[Told] = []
        self.rejected = 0
        self.generation = -1
        self.breaks: list[float] = []
        state = settings.initial_state
        if state is OPEN:
            self.breaks.append(settings.recovery_timeout_s)
        self.enter(
            state,
            "" if state is CLOSED else "configured to start so",
            now + settings.recovery_timeout_s if state is OPEN else None,
        )

    def enter(
        self, state: CircuitState, cause: str, until: float | None, test: OneTest | None = None
    ) -> None:
        self.state, self.cause, self.until, self.since = state, cause, until, self.now
        self.test = test
        self.adopted = False
        self.elsewhere = -math.inf
        self.generation += 1
        self.successes = 0
        self.reported = False
        if state in ADMITTING:
            self.results = []
            self.breaks = []

    def change(
        self,
        new: CircuitState,
        cause: str,
        until: float | None = None,
        *,
        by_operator: bool = False,
        test: OneTest | None = None,
        spread: tuple[float, float] | None = None,
        news: bool = True,
    ) -> None:
        old, suspicion = self.state, "suspicion" in (self.test, test)
        self.enter(new, cause, until, test)
        told = Told(old, new, cause, by_operator, until, self.generation, self.now, suspicion, news, spread)
        self.told.append(told)

    def learn(self, until: float | None) -> None:
        """The real end of the break that was told last, which lies within its bounds."""
        self.until = until
        self.told[-1] = replace(self.told[-1], until=until)

    # Counting

    def window(self) -> list[Result]:
        settings = self.settings
        if settings.window_calls is not None:
            return self.results[-settings.window_calls :]
        kept, start = [], -math.inf
        for result in self.results:
            if result.at >= start + settings.window_s / 60:
                start = result.at
            if self.now < start + settings.window_s:
                kept.append(result)
        return kept

    def counts(self) -> tuple[int, int, int, int]:
        """Calls, failures, timed and slow."""
        kept = self.window()
        return (
            sum(result.ended for result in kept),
            sum(result.failed for result in kept),
            sum(result.timed for result in kept),
            sum(result.slow for result in kept),
        )

    def fates(self) -> dict[str, int]:
        fates = ("live", "settled", "released", "expired")
        return {fate: sum(call.fate == fate for call in self.calls) for fate in fates}

    def own(self, *, probes: bool) -> list[Call]:
        """Live calls of this generation."""
        return [
            call
            for call in self.calls
            if call.fate == "live"
            and call.generation == self.generation
            and (call.lease is not None) is probes
        ]

    def trip(self) -> str:
        settings = self.settings
        calls, failures, timed, slow = self.counts()
        rate, slow_rate = settings.failure_rate, settings.slow_call_rate
        if failures >= settings.failure_threshold or (
            rate is not None and calls >= settings.min_calls and failures / calls >= rate
        ):
            return f"{failures} of {plural(calls, 'call')} failed ({failures / calls:.0%})"
        if slow_rate is not None and timed >= settings.min_calls and slow / timed >= slow_rate:
            return f"{slow} of {plural(timed, 'call')} slow ({slow / timed:.0%}, from {self.slow_s:g} s)"
        return ""

    def judge(self, last: str) -> None:
        reason = self.trip()
        if not reason:
            return
        cause = f"{reason}; last: {last}" if last else reason
        if self.state is OBSERVE_ONLY:
            self.report(cause)
        else:
            self.open(cause)

    def report(self, cause: str) -> None:
        if not self.reported:
            self.reported = True
            state, told = self.state, f"would have opened: {cause}"
            self.told.append(Told(state, state, told, False, None, self.generation, self.now))

    # Breaks

    def base(self) -> float:
        limited = self.test == "rate limit"
        return self.settings.rate_limit_recovery_s if limited else self.settings.recovery_timeout_s

    def next_break(self) -> float:
        """Without jitter."""
        if not self.breaks:
            return self.base()
        longest = max(self.settings.max_recovery_timeout_s, self.breaks[0])
        return min(self.breaks[-1] * self.settings.backoff_multiplier, longest)

    def open(self, cause: str) -> None:
        length, first = self.next_break(), not self.breaks
        self.breaks.append(length)
        if first or not self.settings.recovery_jitter:
            self.change(OPEN, cause, self.now + length)
            return
        spread = 1 + self.settings.recovery_jitter
        high = min(length * spread, max(self.settings.max_recovery_timeout_s, self.breaks[0]))
        low = max(self.breaks[0], high / spread)
        self.change(OPEN, cause, self.now + high, spread=(self.now + low, self.now + high))

    # Time and asking

    def catch_up(self) -> None:
        if self.state is HALF_OPEN:
            for call in self.own(probes=True):
                slow_at = call.started + self.slow_s
                if call.lease is not None and self.now >= slow_at and slow_at <= call.lease:
                    self.open(self.slow_text(call))
                    return
            for call in self.own(probes=True):
                if call.lease is not None and self.now >= call.lease:
                    call.fate = "expired"
        elif self.state in (CLOSED, OBSERVE_ONLY):
            hanging = [
                call
                for call in self.own(probes=False)
                if not call.noticed and self.now >= call.started + self.slow_s
            ]
            for call in hanging:
                call.noticed = True
                self.results.append(Result(self.now, False, False, True, True))
            if hanging:
                self.judge("a call that still runs")
        elif self.until is not None and self.now >= self.until:
            ended = "the hold ended" if self.state is FORCED_OPEN else "the break is over"
            self.change(HALF_OPEN, f"{ended}; it began with: {self.cause}" if self.cause else ended)

    def acquire(self) -> Call | None:
        self.catch_up()
        lease = None
        if self.state is HALF_OPEN:
            settings = self.settings
            at_once = 1 if self.test else settings.half_open_max_calls
            running = len(self.own(probes=True))
            full = running >= at_once or running + self.successes >= max(at_once, self.needed())
            if full or self.now < self.elsewhere:
                self.rejected += 1
                return None
            lease = self.now + settings.probe_lease_s
        elif self.state not in ADMITTING:
            self.rejected += 1
            return None
        call = Call(self.generation, self.now, lease)
        self.calls.append(call)
        return call

    def needed(self) -> int:
        return 1 if self.test else self.settings.success_threshold

    def twin(self) -> CircuitModel:
        """The same again, to try out what would become of it."""
        twin = copy(self)
        twin.calls = [copy(call) for call in self.calls]
        twin.results, twin.told, twin.breaks = list(self.results), list(self.told), list(self.breaks)
        return twin

    def admits(self) -> bool:
        return self.twin().acquire() is not None

    def blocked_until(self) -> float | None:
        if self.admits():
            return None
        later = self.twin()
        before = later.generation
        later.catch_up()
        if self.state in (CLOSED, HALF_OPEN):
            if later.generation != before:  # a call that hangs is about to open it
                return self.now + self.next_break()
            # Of all the times at which something ends by itself, the first after which it admits.
            ends = {call.lease for call in self.own(probes=True) if call.lease is not None}
            for end in sorted(ends | {self.elsewhere}):
                later = self.twin()
                later.slow_s, later.now = math.inf, end  # a probe that hangs would not end by itself
                if end > self.now and later.admits():
                    return end
            raise AssertionError("it never admits")
        return self.until

    # Results

    def settle(self, call: Call, fate: str = "settled") -> bool:
        """Whether the result counts for anything."""
        if call.fate != "live":
            return False
        call.fate = fate
        return call.generation == self.generation and self.state is not DISABLED

    def lasted(self, call: Call) -> bool:
        return self.now - call.started >= self.slow_s

    def slow_text(self, call: Call) -> str:
        return f"slow, {self.now - call.started:.1f} s where {self.slow_s:g} s are the limit"

    def keep(self, call: Call, failed: bool, slow: bool) -> None:
        timed = not call.noticed
        self.results.append(Result(self.now, True, failed, timed, slow and timed))

    def succeed(self, call: Call) -> None:
        if not self.settle(call):
            return
        slow = self.lasted(call)
        if call.lease is None:
            self.keep(call, False, slow)
            if self.settings.failure_rate is not None or self.settings.slow_call_rate is not None:
                self.judge("a slow call" if slow else "")
        elif slow:
            self.open(f"probe failed: {self.slow_text(call)}")
        else:
            self.successes += 1
            if self.successes >= self.needed():
                self.change(CLOSED, f"{plural(self.successes, 'probe')} succeeded")

    def fail(self, call: Call, cause: str, *, slow: bool | None = None) -> None:
        if not self.settle(call):
            return
        if call.lease is not None:
            self.open(f"probe failed: {cause}")
            return
        self.keep(call, True, self.lasted(call) if slow is None else slow)
        self.judge(cause)

    def rate_limited(self, call: Call, cause: str) -> None:
        rule = self.settings.on_rate_limit
        if rule is RateLimitRule.IGNORE:
            self.settle(call)
        elif rule is RateLimitRule.COUNT or call.lease is not None:
            self.fail(call, cause, slow=False)
        elif self.settle(call) and self.state is CLOSED:
            self.change(HALF_OPEN, cause, test="rate limit")

    def open_until(self, until: float, cause: str, call: Call | None) -> None:
        if until <= self.now:
            if call is not None:
                self.fail(call, cause)
            return
        if call is not None:
            if not self.settle(call):
                return
            if call.lease is None:
                self.keep(call, True, self.lasted(call))
        if self.state in (CLOSED, HALF_OPEN):
            self.change(OPEN, cause, until)
        elif self.state is OBSERVE_ONLY:
            self.report(cause)
        elif self.state is OPEN and self.until is not None:
            self.adopted = False
            if until > self.until:
                self.until, self.cause = until, cause

    # Other instances

    def suspect(self, cause: str) -> None:
        self.catch_up()
        if self.state is CLOSED:
            self.change(HALF_OPEN, cause, test="suspicion", news=False)

    def adopt_open(self, until: float, cause: str, confirmed: bool, break_s: float | None) -> None:
        if not self.now < until < math.inf:
            return
        self.catch_up()
        if self.state is OPEN:
            if self.until is not None and until > self.until:
                self.until, self.cause = until, cause
                self.count_break(break_s)
        elif self.state is CLOSED and not confirmed:
            self.suspect(cause)
        elif self.state is CLOSED or (self.state is HALF_OPEN and (confirmed or not self.test)):
            self.count_break(break_s)
            self.change(OPEN, cause, until, news=False)
            self.adopted = True

    def count_break(self, length: float | None) -> None:
        settings = self.settings
        first = settings.recovery_timeout_s
        if length is None or not 0 < length < math.inf:
            length = first
        if not self.breaks:
            length = max(length, min(first, settings.rate_limit_recovery_s))
            self.breaks = [min(length, max(settings.max_recovery_timeout_s, first))]
        else:
            self.breaks.append(max(self.breaks[-1], length))

    def adopt_closed(self, cause: str) -> None:
        self.catch_up()
        if self.state is HALF_OPEN or (self.state is OPEN and self.adopted):
            self.change(CLOSED, cause, news=False)

    def adopt_hold(self, state: CircuitState, cause: str, until: float | None) -> None:
        if state is FORCED_OPEN:
            if until is not None and not self.now < until < math.inf:
                return
        else:
            until = None
        if state is OPEN:
            return
        with suppress(Illegal):
            self.operate(state, cause, until, news=False)

    def probe_elsewhere(self, until: float) -> None:
        self.catch_up()
        if self.state is HALF_OPEN and self.now < until < math.inf:
            self.elsewhere = until

    # The operator, and a restart

    def operate(
        self, new: CircuitState, reason: str, until: float | None = None, *, news: bool = True
    ) -> None:
        if new is CLOSED:
            self.results = []
        if new is self.state:
            if new is FORCED_OPEN:
                self.cause, self.until = reason, until
            return
        if (self.state, new) not in BY_OPERATOR:
            raise Illegal
        self.change(new, reason, until, by_operator=True, news=news)

    def restarted(self, now: float, moved: float) -> CircuitModel:
        """What a new process makes of it, whose clock shows ``moved`` more than this one's would."""
        new = CircuitModel(self.settings, now)
        initial = self.settings.initial_state
        if self.state in ADMITTING and self.state is (CLOSED if initial is OPEN else initial):
            return new
        until = None if self.until is None else self.until + moved
        breaks = list(self.breaks)
        new.enter(self.state, self.cause, until, self.test)
        new.adopted = self.adopted
        new.since = min(now, self.since + moved)
        new.breaks = [] if self.state in ADMITTING else breaks
        return new


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
