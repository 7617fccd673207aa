"""The recovery log: which requests met an error, what was done about it, and whether it helped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from smartfallback.clock import Clock
from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.events import (
    Actor,
    AttemptFailed,
    AttemptStarted,
    CircuitChanged,
    ConcurrencyChanged,
    Event,
    RequestCancelled,
    RequestDegraded,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestRouted,
)
from smartfallback.model.outcomes import ErrorCategory, NextStep
from smartfallback.model.recoveries import (
    RecoveryAction,
    RecoveryRecord,
    RecoveryStatistics,
    RecoveryView,
)
from smartfallback.model.requests import DegradationKind
from smartfallback.policy.recovery import RULES, SwitchScope

RECENT: Final = 100
"""So many recoveries are listed one by one."""

MOST_OPEN: Final = 10_000
"""So many requests are followed at once; beyond, the oldest are forgotten."""

_ACTION_OF_STEP: Final = {
    NextStep.RETRY: RecoveryAction.RETRY,
    NextStep.SWITCH_ACCOUNT: RecoveryAction.SWITCH_PROVIDER,
    NextStep.SWITCH_POOL: RecoveryAction.SWITCH_PROVIDER,
    NextStep.CONTINUE: RecoveryAction.SWITCH_PROVIDER,
    NextStep.DEGRADE: RecoveryAction.DEGRADE_SERVICE,
}
"""Queue and cache are told by what follows, for the queue may be full and the cache empty."""

_LESSER: Final = frozenset(
    {DegradationKind.TRIMMED_HISTORY, DegradationKind.SHORTER_ANSWER, DegradationKind.CHEAPER_MODEL}
)


@dataclass(slots=True)
class _Recovery:
    """One that has not ended. ``actions`` is a set that keeps its order."""

    category: ErrorCategory
    account: str
    began: float
    failed: int = 0
    actions: dict[RecoveryAction, None] = field(default_factory=dict)


@dataclass(slots=True)
class _Tally:
    recoveries: int = 0
    succeeded: int = 0
    seconds: float = 0.0

    def add(self, record: RecoveryRecord) -> None:
        self.recoveries += 1
        if record.success:
            self.succeeded += 1
            self.seconds += record.total_s

    def statistics(self) -> RecoveryStatistics:
        mean_s = self.seconds / self.succeeded if self.succeeded else None
        return RecoveryStatistics(self.recoveries, self.succeeded, mean_s)


class RecoveryLog:
    """A projection of events. Each takes constant time, and the memory is bounded.

    A recovery begins with a request's first failed attempt, or when no account could even be asked
    and it was queued or answered from the cache. It ends with the request; one whose caller goes
    away is forgotten. A request that fails at once for a reason of its own (its rule moves nowhere:
    it is invalid, or was filtered) met nothing that could be recovered and is not counted, so the
    success rate is the share of errors that callers were spared: SPEC section 8's automatic recovery.

    What an attempt's failure did to its account (a circuit opened, fewer requests at once) is told
    right before that failure, and is put down to its request.

    Args:
        clock: Measures how long recoveries take.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._chains: dict[str, str] = {}
        self._open: dict[str, _Recovery] = {}
        self._effects: list[tuple[CircuitTarget, RecoveryAction]] = []
        self._recent: deque[RecoveryRecord] = deque(maxlen=RECENT)
        self._overall = _Tally()
        self._by_category: dict[ErrorCategory, _Tally] = {}
        self._by_action: dict[RecoveryAction, int] = {}
        self._view: RecoveryView | None = RecoveryView()
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            RequestRouted: self._routed,
            AttemptStarted: self._started,
            AttemptFailed: self._failed,
            RequestDegraded: self._degraded,
            RequestQueued: self._queued,
            RequestFinished: self._finished,
            RequestFailed: self._given_up,
            RequestCancelled: self._cancelled,
            CircuitChanged: self._circuit_changed,
            ConcurrencyChanged: self._concurrency_changed,
        }

    def on_event(self, event: Event) -> None:
        """Take one event into account."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    @property
    def latest(self) -> RecoveryRecord | None:
        """The recovery that ended last."""
        return self._recent[0] if self._recent else None

    def restore(self, records: Iterable[RecoveryRecord]) -> None:
        """Count recoveries from before a restart, given in the order in which they ended."""
        for record in records:
            self._count(record)

    def view(self) -> RecoveryView:
        """The log now; the same object as before while no recovery has ended."""
        view = self._view
        if view is None:
            view = self._view = RecoveryView(
                recent=tuple(self._recent),
                overall=self._overall.statistics(),
                by_category=tuple(
                    (category, self._by_category[category].statistics())
                    for category in ErrorCategory
                    if category in self._by_category
                ),
                by_action=tuple(
                    (action, self._by_action[action])
                    for action in RecoveryAction
                    if action in self._by_action
                ),
            )
        return view

    def _routed(self, event: RequestRouted) -> None:
        self._effects.clear()
        self._remember_chain(event.request_id, event.chain)

    def _started(self, _event: AttemptStarted) -> None:
        self._effects.clear()

    def _failed(self, event: AttemptFailed) -> None:
        recovery = self._open.get(event.request_id)
        if recovery is None:
            category = event.failure.category
            if event.then is NextStep.FAIL and RULES[category].switch is SwitchScope.NONE:
                self._effects.clear()
                return
            recovery = self._begin(event.request_id, category, event.account)
        elif not recovery.account:
            recovery.account = event.account
        recovery.failed += 1
        for target, effect in self._effects:
            if _concerns(target, event):
                recovery.actions[effect] = None
        self._effects.clear()
        action = _ACTION_OF_STEP.get(event.then)
        if action is not None:
            recovery.actions[action] = None

    def _degraded(self, event: RequestDegraded) -> None:
        recovery = self._open.get(event.request_id)
        if recovery is not None and event.degradation.kind in _LESSER:
            recovery.actions[RecoveryAction.DEGRADE_SERVICE] = None

    def _queued(self, event: RequestQueued) -> None:
        self._remember_chain(event.request_id, event.chain)
        recovery = self._open.get(event.request_id)
        if recovery is None:
            recovery = self._begin(event.request_id, event.failure.category, "")
        recovery.actions[RecoveryAction.QUEUE_REQUEST] = None

    def _finished(self, event: RequestFinished) -> None:
        self._effects.clear()
        request_id = event.request_id
        chain = self._chains.pop(request_id, "")
        recovery = self._open.pop(request_id, None)
        reply = event.reply
        cached = reply.cached_age_s is not None
        if recovery is None:
            if not cached:
                return
            # Nobody could be asked, and no event tells in which category that falls.
            recovery = _Recovery(ErrorCategory.UNKNOWN, "", self._clock.monotonic())
        if cached:
            recovery.actions[RecoveryAction.USE_CACHE] = None
        for degradation in reply.degradations:
            if degradation.kind in _LESSER:
                recovery.actions[RecoveryAction.DEGRADE_SERVICE] = None
        attempts = max(len(reply.attempts), recovery.failed + (not cached))
        self._end(event, chain, recovery, attempts, None if cached else reply.account, success=True)

    def _given_up(self, event: RequestFailed) -> None:
        self._effects.clear()
        self._chains.pop(event.request_id, None)
        recovery = self._open.pop(event.request_id, None)
        if recovery is not None:
            attempts = max(len(event.attempts), recovery.failed)
            self._end(event, event.chain, recovery, attempts, None, success=False)

    def _cancelled(self, event: RequestCancelled) -> None:
        self._effects.clear()
        self._chains.pop(event.request_id, None)
        self._open.pop(event.request_id, None)

    def _circuit_changed(self, event: CircuitChanged) -> None:
        if event.new is CircuitState.OPEN and event.actor is Actor.SYSTEM:
            self._affect(event.target, RecoveryAction.CIRCUIT_BREAK)

    def _concurrency_changed(self, event: ConcurrencyChanged) -> None:
        if event.new < event.old:
            target = CircuitTarget(CircuitScope.ACCOUNT, event.account)
            self._affect(target, RecoveryAction.SCALE_DOWN)

    def _affect(self, target: CircuitTarget, action: RecoveryAction) -> None:
        # One failure has an effect or two; a burst without any request in between is no failure's.
        if len(self._effects) < RECENT:
            self._effects.append((target, action))

    def _remember_chain(self, request_id: str, chain: str) -> None:
        chains = self._chains
        if len(chains) >= MOST_OPEN and request_id not in chains:
            del chains[next(iter(chains))]
        chains[request_id] = chain

    def _begin(self, request_id: str, category: ErrorCategory, account: str) -> _Recovery:
        if len(self._open) >= MOST_OPEN:
            del self._open[next(iter(self._open))]
        recovery = self._open[request_id] = _Recovery(category, account, self._clock.monotonic())
        return recovery

    def _end(
        self,
        event: RequestEvent,
        chain: str,
        recovery: _Recovery,
        attempts: int,
        final_account: str | None,
        *,
        success: bool,
    ) -> None:
        record = RecoveryRecord(
            request_id=event.request_id,
            at=event.at,
            chain=chain,
            category=recovery.category,
            original_account=recovery.account,
            final_account=final_account,
            actions=tuple(recovery.actions),
            attempts=attempts,
            total_s=self._clock.monotonic() - recovery.began,
            success=success,
        )
        self._count(record)

    def _count(self, record: RecoveryRecord) -> None:
        self._recent.appendleft(record)
        self._overall.add(record)
        self._by_category.setdefault(record.category, _Tally()).add(record)
        for action in record.actions:
            self._by_action[action] = self._by_action.get(action, 0) + 1
        self._view = None


def _concerns(target: CircuitTarget, event: AttemptFailed) -> bool:
    """Whether the circuit is the account's, one of its models', or its provider's."""
    if target.scope is CircuitScope.PROVIDER:
        return target.name == event.provider
    if target.scope is CircuitScope.ACCOUNT:
        return target.name == event.account
    return target.name.startswith(f"{event.account}/")
