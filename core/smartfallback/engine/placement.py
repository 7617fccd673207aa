"""Keeps every account where it belongs: in its pool's index when it may serve, parked when not.

Checks that depend on the account alone run here, when its state changes, and not for every
request; so a choice costs the same whether a pool has eight accounts or a hundred thousand.
What ends by itself (a cooldown, an open circuit, a quota window) sets an alarm.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.roster import AccountRuntime, PoolRuntime
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState, Skip, SkipReason
from smartfallback.model.events import QuotaReset, QuotaStatusChanged
from smartfallback.model.quota import QuotaStatus

_ADMIN_SKIPS = {
    AdminState.DISABLED: SkipReason.DISABLED,
    AdminState.DRAINING: SkipReason.DRAINING,
    AdminState.DRAINED: SkipReason.DRAINED,
}
_ALARM_SLACK_S = 0.001


class Placement:
    """Evaluates accounts in the specified order of checks and wakes them when their time comes."""

    def __init__(self, clock: Clock, bus: Bus, on_room: Callable[[], None]) -> None:
        self._clock = clock
        self._bus = bus
        self._on_room = on_room
        self._alarms: list[tuple[float, int, AccountRuntime]] = []
        self._alarm_number = 0
        self.changed: set[AccountRuntime] = set()
        """Accounts placed since somebody last cleared this: their state may have to be saved."""

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
        pool = account.pool
        slot = account.slot
        ledger = account.ledger
        wall = self._clock.time()
        percent = ledger.committed_percent(wall)
        if account.status is not ledger.status(wall):
            self._status_changed(account, ledger.status(wall), percent)
        skip = self._blocked(account, percent, now, wall)
        if skip is None:
            saturated = pool.saturated
            if slot in saturated:
                saturated.discard(slot)
            if percent is not None and percent >= pool.spec.thresholds.soft_limit:
                skip = self._skip(
                    account, SkipReason.SOFT_LIMIT, f"{percent:.1f} % used", ledger.next_change_at(wall)
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
                    self._on_room()
                return
            if account.parked is None or account.parked.reason is not SkipReason.SOFT_LIMIT:
                self._on_room()
        else:
            pool.normal.discard(slot)
            pool.reserve.discard(slot)
            if skip.reason is SkipReason.CONCURRENCY:
                pool.saturated.add(slot)
            else:
                pool.saturated.discard(slot)
        if skip != account.parked:
            account.parked = skip
            pool.parked[slot] = skip
            pool.skips = None
            self._set_alarm(account, skip, now, wall)

    def _blocked(
        self, account: AccountRuntime, percent: float | None, now: float, wall: float
    ) -> Skip | None:
        """The first check that the account fails, in the order that the product specifies."""
        if account.admin is not AdminState.ACTIVE:
            return self._skip(account, _ADMIN_SKIPS[account.admin], account.admin_reason)
        if account.attention:
            return self._skip(account, SkipReason.NEEDS_ATTENTION, account.attention)
        if percent is not None or account.ledger.exhausted_until is not None:
            until = account.ledger.exhausted_until
            if until is not None:
                return self._skip(account, SkipReason.QUOTA_EXHAUSTED, "", until)
            if percent is not None and percent >= account.pool.spec.thresholds.hard_limit:
                return self._skip(
                    account,
                    SkipReason.HARD_LIMIT,
                    f"{percent:.1f} % used",
                    account.ledger.next_change_at(wall),
                )
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
        if account.in_flight >= account.limit:
            return self._skip(account, SkipReason.CONCURRENCY, f"{account.limit} in flight")
        return None

    @staticmethod
    def _skip(account: AccountRuntime, reason: SkipReason, detail: str, until: float | None = None) -> Skip:
        return Skip(account.id, account.pool.name, reason, detail, until)

    def _set_alarm(self, account: AccountRuntime, skip: Skip, now: float, wall: float) -> None:
        if skip.until is not None:
            self._alarm(account, now + max(0.0, skip.until - wall) + _ALARM_SLACK_S)

    def watch_reset(self, account: AccountRuntime, now: float) -> None:
        """Wake the account when its next quota window begins."""
        wall = self._clock.time()
        change_at = account.ledger.next_change_at(wall)
        if change_at is not None:
            self._alarm(account, now + max(0.0, change_at - wall) + _ALARM_SLACK_S)

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
        for rolled in account.ledger.roll(wall):
            bus = self._bus
            bus.publish(QuotaReset(bus.next_seq(), wall, account.id, rolled.kind.value, rolled.used_before))
            self.watch_reset(account, now)
        self.place(account, now)


def _circuit_detail(state: CircuitState, cause: str) -> str:
    if state is CircuitState.HALF_OPEN:
        return "half-open, its probe is running"
    return f"{state.value}: {cause}" if cause else state.value


def pool_skips(pool: PoolRuntime, most: int) -> tuple[Skip, ...]:
    """Why the pool's parked accounts are parked, by their order in the pool, at most ``most``."""
    if pool.skips is None:
        parked = pool.parked
        slots = sorted(parked) if len(parked) <= most else list(parked)[:most]
        pool.skips = tuple(parked[slot] for slot in slots)
    return pool.skips
