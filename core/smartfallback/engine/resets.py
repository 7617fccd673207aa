"""Brings accounts back after their quota began anew: notices it, has it validated, lets traffic climb."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.roster import AccountRuntime
from smartfallback.model.events import AccountResumed, QuotaReset, ResetOverdue, ResetValidated
from smartfallback.model.quota import QuotaReading, TruthLabel
from smartfallback.policy.ledger import OwnUse
from smartfallback.policy.ledger_readings import apply_reading
from smartfallback.policy.ledger_window import Rolled
from smartfallback.policy.ramp import steady_share
from smartfallback.policy.reset_watch import (
    LONG_WALL_S,
    SUSPECT_S,
    ResetState,
    ResetWatch,
    reset_seen,
)

Validate = Callable[[AccountRuntime], bool]
"""Asks the quota source of an account for a new reading, in the background; False if it has none.

Called on the engine's loop, also while a request is being planned: it must return at once. The
reading comes in through ``Placement.read``, and so does what a failing source makes of it.
"""

NOTICED_LATE_S = 60.0
"""A reset that was noticed so much later passed while nobody watched, so it is validated in any case."""

_HALF_USED = 50.0


class Resets:
    """Runs the watches of accounts on their way back. The caller places the account afterwards."""

    def __init__(self, clock: Clock, bus: Bus, rng: random.Random) -> None:
        self._clock = clock
        self._bus = bus
        self._rng = rng
        self.validate: Validate | None = None
        """Set by whoever runs the quota sources; without it canaries validate."""
        self.returning: dict[AccountRuntime, ResetWatch] = {}

    def began_anew(
        self, account: AccountRuntime, rolled: Sequence[Rolled], ended_wall_s: float, now: float
    ) -> None:
        """Quota windows began anew, or a wall ended that had stood for ``ended_wall_s`` seconds."""
        watch = account.comeback
        if watch is not None and watch.state is ResetState.OVERDUE and not rolled:
            return
        wall = self._clock.time()
        thresholds = account.pool.spec.thresholds
        most_used = max((each.percent_before for each in rolled), default=0.0)
        missed = any(wall - each.started_at > NOTICED_LATE_S for each in rolled) and most_used > 0
        out = most_used >= thresholds.soft_limit or ended_wall_s >= LONG_WALL_S or missed
        if self._exhausted(account, wall):
            return
        if watch is not None and (watch.state is ResetState.VALIDATING or not out):
            return
        if out:
            before = most_used if most_used >= thresholds.soft_limit else math.inf
            asked = self._ask(account)
            self._watch(account, ResetWatch(now, self._steady(account), asked=asked, before=before))
        elif most_used > 0 and len(account.pool.accounts) > 1:
            self._ask(account)
            self._watch(account, ResetWatch(now, self._steady(account), in_service=True))

    def put_back(self, account: AccountRuntime, watch: ResetWatch | None) -> None:
        """Let the account's way back be that of ``watch``, or none."""
        self._forget(account)
        if watch is not None:
            self._watch(account, watch)

    def due(self, now: float) -> list[AccountRuntime]:
        """The accounts whose way back may have come further although nobody asked for them."""
        return [
            account
            for account, watch in self.returning.items()
            if watch.state is not ResetState.RAMPING or watch.over(now)
        ]

    def tick(self, account: AccountRuntime, now: float) -> None:
        """Let time act on the account's watch, if it has one."""
        watch = account.comeback
        if watch is None:
            return
        if watch.over(now):
            self._forget(account)
            if not watch.in_service:
                bus = self._bus
                bus.publish(AccountResumed(bus.next_seq(), self._clock.time(), account.id))
            return
        out = self._exhausted(account, self._clock.time())
        if account.ledger.exhausted_until is not None:
            return
        if watch.state is ResetState.OVERDUE:
            watch.retry(now, asked=self._ask(account))
        elif out and watch.state is ResetState.VALIDATING and not watch.reading_awaited(now):
            if watch.asked:
                # What the source said last forbids a canary, so the source is asked once more.
                self._overdue(account, watch, None, "its quota source does not answer", now)
            else:
                self._forget(account)

    def answered(self, account: AccountRuntime, request: object, now: float) -> None:
        """``request`` (its reservation) is being answered, which validates if it is the canary."""
        watch = account.comeback
        if watch is not None and watch.answered(request, now):
            self._tell_validated(account, "a request")

    def wall_met(self, account: AccountRuntime, until: float | None, why: str, now: float) -> float | None:
        """The provider says that the account is exhausted.

        Args:
            account: The account.
            until: What the provider stated, in epoch seconds.
            why: What it said.
            now: Monotonic seconds.

        Returns:
            When the wall ends, in epoch seconds: what was stated, or when to try again if the reset
            did not come; None where the ledger knows best.
        """
        watch = account.comeback
        wall = self._clock.time()
        stated = until if until is not None and until > wall else None
        if watch is None:
            if stated is not None or not self._unexplained(account, wall):
                return until
            watch = ResetWatch(now, self._steady(account))
            self._watch(account, watch)
        elif watch.state is ResetState.RAMPING and stated is not None:
            self._forget(account)
            return stated
        return self._overdue(account, watch, stated, why, now)

    def read(self, account: AccountRuntime, reading: QuotaReading, since: OwnUse | None, now: float) -> None:
        """Merge ``reading`` into the account's ledger and draw from it what it says about resets."""
        wall = self._clock.time()
        ledger = account.ledger
        before = ledger.tracked(wall)
        thresholds = account.pool.spec.thresholds
        was_out = self._exhausted(account, wall) or (ledger.used_percent(wall) or 0) >= thresholds.soft_limit
        wall_until, wall_at = ledger.exhausted_until, ledger.exhausted_at
        apply_reading(ledger, reading, wall, since)
        watch = account.comeback
        if reading.label is not TruthLabel.REPORTED or reading.percent is None:
            if watch is not None and reading.label is not TruthLabel.LEARNED:
                watch.no_reading()
            return
        if any(reading.read_at < window.started_at for window in before if not window.adopted):
            return
        full = reading.percent >= thresholds.hard_limit
        if watch is not None and watch.state is not ResetState.RAMPING:
            if watch.contradicted(reading.percent, thresholds.hard_limit):
                self._overdue(
                    account, watch, None, f"{reading.source} says {reading.percent:.0f} % used", now
                )
            else:
                ledger.clear_exhausted(wall)
                watch.validated(now)
                self._tell_validated(account, reading.source)
            return
        if wall_until is None or reading.read_at > wall_at:
            early = reset_seen(before, reading, was_out=was_out, wall_until=wall_until)
            if early is not None and not full:
                self._reset_early(account, early.kind.value, early.used, reading.source, was_out, now)
                return
        known = max((100.0 * w.used / w.limit for w in before if w.limit > 0), default=100.0)
        if full and known < _HALF_USED and self._lately_begun(account, wall):
            watch = watch or ResetWatch(now, self._steady(account))
            self._watch(account, watch)
            self._overdue(account, watch, None, f"{reading.source} says {reading.percent:.0f} % used", now)

    def _reset_early(
        self, account: AccountRuntime, window: str, used: float, source: str, was_out: bool, now: float
    ) -> None:
        bus = self._bus
        account.ledger.clear_exhausted(self._clock.time())
        bus.publish(QuotaReset(bus.next_seq(), self._clock.time(), account.id, window, used))
        watch = ResetWatch(now, self._steady(account), in_service=not was_out)
        if was_out:
            watch.validated(now)
        self._watch(account, watch)
        self._tell_validated(account, source)

    def _overdue(
        self, account: AccountRuntime, watch: ResetWatch, until: float | None, why: str, now: float
    ) -> float:
        wall = self._clock.time()
        news = watch.overdue(now, self._rng, None if until is None else now + until - wall)
        retry_at = wall + watch.retry_at - now
        account.ledger.mark_exhausted(retry_at, wall, reason=why)
        if news:
            bus = self._bus
            bus.publish(ResetOverdue(bus.next_seq(), wall, account.id, watch.tries, retry_at, why))
        return retry_at

    def _watch(self, account: AccountRuntime, watch: ResetWatch) -> None:
        account.comeback = watch
        self.returning[account] = watch

    def _forget(self, account: AccountRuntime) -> None:
        account.comeback = None
        account.pool.ramping.discard(account.slot)
        self.returning.pop(account, None)

    def _ask(self, account: AccountRuntime) -> bool:
        return self.validate is not None and bool(self.validate(account))

    def _tell_validated(self, account: AccountRuntime, by: str) -> None:
        bus = self._bus
        bus.publish(ResetValidated(bus.next_seq(), self._clock.time(), account.id, by))

    @staticmethod
    def _steady(account: AccountRuntime) -> float:
        pool = account.pool
        return steady_share(pool.steady.per_s(), len(pool.accounts))

    @staticmethod
    def _exhausted(account: AccountRuntime, wall: float) -> bool:
        """Whether the quota as it is known keeps the account from serving at all."""
        ledger = account.ledger
        percent = ledger.committed_percent(wall)
        hard_limit = account.pool.spec.thresholds.hard_limit
        return ledger.exhausted_until is not None or (percent is not None and percent >= hard_limit)

    def _unexplained(self, account: AccountRuntime, wall: float) -> bool:
        """Whether a wall comes so soon after a reset, at so low a count, that the reset is in doubt."""
        percent = account.ledger.used_percent(wall)
        return percent is not None and percent < _HALF_USED and self._lately_begun(account, wall)

    @staticmethod
    def _lately_begun(account: AccountRuntime, wall: float) -> bool:
        """Whether a window that the calendar resets has begun within the last day."""
        by_calendar = {spec.kind for spec in account.spec.quota if spec.resets is not None}
        return any(
            window.kind in by_calendar and 0.0 <= wall - window.started_at < SUSPECT_S
            for window in account.ledger.tracked(wall)
        )
