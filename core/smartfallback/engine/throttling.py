"""Scaling down: an account that shows overload runs fewer requests at once, until it bears more again."""

from __future__ import annotations

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.roster import AccountRuntime
from smartfallback.model.events import ConcurrencyChanged
from smartfallback.model.outcomes import Failure
from smartfallback.model.state import ThrottleState
from smartfallback.policy.concurrency import ConcurrencyLimit, shows_overload


class Throttles:
    """Moves the limits of accounts and tells of it. The caller places the account afterwards."""

    def __init__(self, clock: Clock, bus: Bus) -> None:
        self._clock = clock
        self._bus = bus
        self.lowered: dict[AccountRuntime, None] = {}
        """The accounts that have shown overload lately, in that order."""

    def overloaded(self, account: AccountRuntime, started_at: float, failure: Failure, now: float) -> None:
        """``failure`` ended a call that began at ``started_at`` and still counts as in flight."""
        if not account.pool.spec.adaptive_concurrency or not shows_overload(failure):
            return
        self.tick(account, now)
        throttle = account.throttle
        if throttle is None:
            if account.in_flight < 2:
                return
            throttle = account.throttle = ConcurrencyLimit(account.spec.max_concurrency)
            self.lowered[account] = None
        if throttle.overloaded(account.in_flight, started_at, now):
            self._tell(account, throttle, str(failure))

    def succeeded(self, account: AccountRuntime, started_at: float, now: float) -> None:
        """A call that began at ``started_at`` and still counts as in flight was answered."""
        throttle = account.throttle
        if throttle is not None and throttle.succeeded(account.in_flight, started_at, now):
            self._tell(account, throttle, "a full load was answered without overload")

    def tick(self, account: AccountRuntime, now: float) -> None:
        """Let time act on the account's limit, if it is lowered."""
        throttle = account.throttle
        if throttle is None:
            return
        if throttle.passed(now):
            self._tell(account, throttle, "no overload for some time")
        elif throttle.spent(now):
            account.throttle = None
            self.lowered.pop(account, None)

    def due(self, now: float) -> list[AccountRuntime]:
        """The accounts whose limit time has just raised although nobody asked for them."""
        risen = []
        for account in tuple(self.lowered):
            limit = account.limit
            self.tick(account, now)
            if account.limit != limit:
                risen.append(account)
        return risen

    def lift(self, account: AccountRuntime, cause: str) -> None:
        """Forget that the account has shown overload."""
        if account.throttle is not None:
            if account.limit < account.spec.max_concurrency:
                self._tell(account, ConcurrencyLimit(account.spec.max_concurrency), cause)
            account.throttle = None
            self.lowered.pop(account, None)

    def put_back(self, account: AccountRuntime, throttle: ConcurrencyLimit | None, cause: str) -> None:
        """Let the account's limit be that of ``throttle``, or as configured without one."""
        account.throttle = throttle
        if throttle is None:
            self.lowered.pop(account, None)
        else:
            self.lowered[account] = None
        limit = throttle or ConcurrencyLimit(account.spec.max_concurrency)
        if account.limit != limit.limit:
            self._tell(account, limit, cause)

    def restore(self, account: AccountRuntime, saved: ThrottleState, now: float, offset: float) -> None:
        """Go on from before a restart, and let the time act that has passed since; nothing is told."""
        if not account.pool.spec.adaptive_concurrency:
            return
        throttle = ConcurrencyLimit(account.spec.max_concurrency)
        throttle.restore(saved, now, offset)
        throttle.passed(now)
        if not throttle.spent(now):
            account.throttle = throttle
            account.limit = throttle.limit
            self.lowered[account] = None

    def _tell(self, account: AccountRuntime, throttle: ConcurrencyLimit, cause: str) -> None:
        old, account.limit = account.limit, throttle.limit
        bus = self._bus
        bus.publish(
            ConcurrencyChanged(
                bus.next_seq(),
                self._clock.time(),
                account.id,
                old,
                throttle.limit,
                throttle.configured,
                cause,
            )
        )
