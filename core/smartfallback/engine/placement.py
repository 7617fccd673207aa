"""Keeps every account where it belongs: in its pool's index when it may serve, parked when not.

Checks that depend on the account alone run here, when its state changes, and not for every
request; so a choice costs the same whether a pool has eight accounts or a hundred thousand.
What ends by itself (a cooldown, an open circuit, a quota window) sets an alarm.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.comebacks import Comebacks
from smartfallback.engine.resets import Resets
from smartfallback.engine.roster import AccountRuntime, PoolRuntime
from smartfallback.engine.throttling import Throttles
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState, Skip, SkipReason
from smartfallback.model.events import QuotaReset, QuotaStatusChanged
from smartfallback.model.quota import QuotaReading, QuotaStatus
from smartfallback.policy.ledger import OwnUse

_ADMIN_SKIPS = {
    AdminState.DISABLED: SkipReason.DISABLED,
    AdminState.DRAINING: SkipReason.DRAINING,
    AdminState.DRAINED: SkipReason.DRAINED,
}
_STILL_SERVING = frozenset({SkipReason.SOFT_LIMIT, SkipReason.CONCURRENCY, SkipReason.RAMP})
"""Reasons with which an account still is used, so that its use can be forecast."""
# Members of an enum cost ten times a global's look-up, and this one is read for every request.
_ACTIVE = AdminState.ACTIVE
_ALARM_SLACK_S = 0.001


class Placement:
    """Evaluates accounts in the specified order of checks and wakes them when their time comes."""

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        resets: Resets,
        comebacks: Comebacks,
        throttles: Throttles,
        on_room: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._bus = bus
        self.resets = resets
        self.comebacks = comebacks
        self.throttles = throttles
        self._on_room = on_room
        self._alarms: list[tuple[float, int, AccountRuntime]] = []
        self._alarm_number = 0
        self.changed: set[AccountRuntime] = set()
        """Accounts placed since somebody last cleared this: their state may have to be saved."""
        self.told: Callable[[AccountRuntime], None] | None = None
        """Called with each account that is placed: other instances may have to know."""

    def wake(self, now: float) -> None:
        """Place anew every account whose alarm is due. Nearly free when none is."""
        alarms = self._alarms
        while alarms and alarms[0][0] <= now:
            account = heapq.heappop(alarms)[2]
            account.circuit.tick(now)
            self.roll(account, now)

    def next_alarm(self) -> float | None:
        """The monotonic instant of the earliest alarm."""
        return self._alarms[0][0] if self._alarms else None

    def place(self, account: AccountRuntime, now: float) -> None:
        """Put the account where its state says; call after every change of that state."""
        account.view = None
        self.changed.add(account)
        if self.told is not None:
            self.told(account)
        pool = account.pool
        slot = account.slot
        ledger = account.ledger
        wall = self._clock.time()
        percent = ledger.committed_percent(wall)
        status = ledger.status(wall)
        if account.status is not status:
            self._status_changed(account, status, percent)
        skip = self._blocked(account, percent, now, wall)
        if skip is None:
            saturated = pool.saturated
            if slot in saturated:
                saturated.discard(slot)
            if pool.ramping:
                pool.ramping.discard(slot)
            soft_limit = pool.soft_limit
            # What is used never exceeds what is committed, so most accounts need one look only.
            used = ledger.used_percent(wall) if percent is not None and percent > soft_limit else None
            if used is not None and used > soft_limit:
                skip = self._skip(
                    account, SkipReason.SOFT_LIMIT, f"{used:.1f} % used", ledger.next_change_at(wall)
                )
                pool.normal.discard(slot)
                pool.reserve.put(slot, percent, account.last_used)
            else:
                pool.reserve.discard(slot)
                pool.normal.put(slot, percent, account.last_used)
                if account.parked is not None:
                    account.parked = None
                    pool.parked.pop(slot, None)
                    pool.skips = None
                    if account.forecast is not None:
                        account.forecast.resume(wall)
                    self._on_room()
                return
            if account.parked is None or account.parked.reason is not SkipReason.SOFT_LIMIT:
                self._on_room()
        else:
            pool.normal.discard(slot)
            pool.reserve.discard(slot)
            self._note_waiting(account, skip, now)
        if skip != account.parked:
            account.parked = skip
            pool.parked[slot] = skip
            pool.skips = None
            if account.forecast is not None:
                if skip.reason in _STILL_SERVING:
                    account.forecast.resume(wall)
                else:
                    account.forecast.suspend(wall)
            self._set_alarm(account, skip, now, wall)

    def _note_waiting(self, account: AccountRuntime, skip: Skip, now: float) -> None:
        """Keep apart who only waits for a running request to end, and who only for a ramp."""
        pool, watch = account.pool, account.comeback
        ramps = skip.reason is SkipReason.RAMP
        waits = skip.reason is SkipReason.CONCURRENCY
        if watch is not None and ramps and watch.canary_running(now):
            ramps, waits = False, True
        if ramps and account.slot in pool.saturated:
            # The canary is answered, so that whoever waited for it may be served ahead of turn.
            for _ in range(account.room):
                self._on_room()
        for slots, belongs in ((pool.saturated, waits), (pool.ramping, ramps)):
            if belongs:
                slots.add(account.slot)
            else:
                slots.discard(account.slot)

    def _blocked(
        self, account: AccountRuntime, percent: float | None, now: float, wall: float
    ) -> Skip | None:
        """The first check that the account fails, in the order that the product specifies."""
        if account.admin is not _ACTIVE:
            return self._skip(account, _ADMIN_SKIPS[account.admin], account.admin_reason)
        if account.attention:
            return self._skip(account, SkipReason.NEEDS_ATTENTION, account.attention)
        until = account.ledger.exhausted_until
        if until is not None:
            return self._skip(account, SkipReason.QUOTA_EXHAUSTED, "", until)
        if percent is not None and percent >= account.pool.hard_limit:
            back_at = account.ledger.next_change_at(wall)
            return self._skip(account, SkipReason.HARD_LIMIT, f"{percent:.1f} % used", back_at)
        circuit = account.circuit
        if not circuit.admits(now):
            blocked_until = circuit.blocked_until(now)
            until = None if blocked_until is None else wall + (blocked_until - now)
            return self._skip(
                account, SkipReason.CIRCUIT, _circuit_detail(circuit.state, circuit.cause), until
            )
        if account.cooldown_until is not None:
            if account.cooldown_until > now:
                until = wall + (account.cooldown_until - now)
                return self._skip(account, SkipReason.COOLDOWN, account.cooldown_reason, until)
            account.cooldown_until = None
            account.cooldown_reason = ""
        if account.throttle is not None:
            self.throttles.tick(account, now)
        if account.in_flight >= account.limit or account.in_flight >= account.slots:
            return self._skip(account, SkipReason.CONCURRENCY, _concurrency_detail(account))
        if account.comeback is not None:
            skip = self._coming_back(account, now, wall)
            if skip is not None:
                return skip
        if account.ramp is not None:
            return self._climbing(account, now, wall)
        return None

    def _coming_back(self, account: AccountRuntime, now: float, wall: float) -> Skip | None:
        """What the account's way back after a reset still holds against the next request."""
        self.resets.tick(account, now)
        watch = account.comeback
        if watch is None:
            return None
        admits_at = watch.admits_at(now)
        if admits_at <= now:
            return None
        if watch.canary_running(now):
            detail = "the request that tries whether its quota is back still runs"
        elif watch.reading_awaited(now):
            detail = "its quota source is asked whether its quota is back"
        else:
            detail = "the next request is let through in a moment"
        return self._skip(account, SkipReason.RAMP, detail, wall + (admits_at - now))

    def _climbing(self, account: AccountRuntime, now: float, wall: float) -> Skip | None:
        """What the account's ramp still holds against the next request after its circuit closed."""
        self.comebacks.tick(account, now)
        ramp = account.ramp
        if ramp is None:
            return None
        admits_at = ramp.next_at(now)
        if admits_at <= now:
            return None
        detail = "its circuit has closed; the next request is let through in a moment"
        return self._skip(account, SkipReason.RAMP, detail, wall + (admits_at - now))

    @staticmethod
    def _skip(account: AccountRuntime, reason: SkipReason, detail: str, until: float | None = None) -> Skip:
        return Skip(account.id, account.pool.name, reason, detail, until)

    def _set_alarm(self, account: AccountRuntime, skip: Skip, now: float, wall: float) -> None:
        # A window that begins anew has an alarm already (watch_reset); the soft limit needs no other.
        if skip.until is not None and skip.reason is not SkipReason.SOFT_LIMIT:
            self._alarm(account, now + max(0.0, skip.until - wall) + _ALARM_SLACK_S)

    def watch_reset(self, account: AccountRuntime, now: float) -> None:
        """Wake the account when its next quota window begins."""
        wall = self._clock.time()
        change_at = account.ledger.next_reset_at(wall)
        if change_at is None:
            # A window that slides may open with the next request; without any there is nothing to see.
            account.watched = -math.inf if account.spec.quota else math.inf
            return
        when = now + max(0.0, change_at - wall) + _ALARM_SLACK_S
        if not now < account.watched <= when:
            account.watched = when
            self._alarm(account, when)

    def wake_at(self, account: AccountRuntime, when: float) -> None:
        """Look at the account again at that monotonic instant, also when nothing happens to it before."""
        self._alarm(account, when + _ALARM_SLACK_S)

    def room(self) -> None:
        """More than an account may be free, as when another instance has closed a provider's circuit."""
        self._on_room()

    def _alarm(self, account: AccountRuntime, when: float) -> None:
        self._alarm_number += 1
        heapq.heappush(self._alarms, (when, self._alarm_number, account))

    def _status_changed(self, account: AccountRuntime, new: QuotaStatus, percent: float | None) -> None:
        old, account.status = account.status, new
        bus = self._bus
        bus.publish(QuotaStatusChanged(bus.next_seq(), self._clock.time(), account.id, old, new, percent))

    def roll(self, account: AccountRuntime, now: float) -> None:
        """Begin the quota windows whose time has come, tell of it, and set the next alarm."""
        wall = self._clock.time()
        rolled = account.ledger.roll(wall)
        for window in rolled:
            bus = self._bus
            bus.publish(QuotaReset(bus.next_seq(), wall, account.id, window.kind.value, window.used_before))
        ended_wall_s = account.ledger.ended_wall(wall)
        if rolled or ended_wall_s:
            self.resets.began_anew(account, rolled, ended_wall_s, now)
        self.resets.tick(account, now)
        self.watch_reset(account, now)
        self.place(account, now)

    def read(self, account: AccountRuntime, reading: QuotaReading, since: OwnUse | None = None) -> None:
        """Take a reading of the account's quota into account, with what it says about resets.

        ``since`` is the mark of own use from when the source was asked.
        """
        now = self._clock.monotonic()
        self.resets.read(account, reading, since, now)
        self.watch_reset(account, now)
        self.place(account, now)


def _circuit_detail(state: CircuitState, cause: str) -> str:
    if state is CircuitState.HALF_OPEN:
        return "half-open, its probe is running"
    return f"{state.value}: {cause}" if cause else state.value


def _concurrency_detail(account: AccountRuntime) -> str:
    configured = account.spec.max_concurrency
    if account.slots < account.limit:
        return f"{account.in_flight} in flight, the rest of its {configured} is for other instances"
    if account.limit < configured:
        return f"{account.limit} in flight, where {configured} may be without overload"
    return f"{account.limit} in flight"


def pool_skips(pool: PoolRuntime, most: int) -> tuple[Skip, ...]:
    """Why the pool's parked accounts are parked, by their order in the pool, at most ``most``."""
    if pool.skips is None:
        parked = pool.parked
        slots = sorted(parked) if len(parked) <= most else list(parked)[:most]
        pool.skips = tuple(parked[slot] for slot in slots)
    return pool.skips
