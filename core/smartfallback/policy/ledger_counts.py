"""The counting side of an account's quota: windows, what is used and held of them, and how time acts.

Every method takes ``now`` in epoch seconds and first applies what time has changed since the last
call: windows that began anew, leases and walls that ended.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from smartfallback.model.quota import QuotaStatus, QuotaUnit, TruthLabel, WindowSpec
from smartfallback.model.snapshot import QuotaView
from smartfallback.policy.ledger_window import (
    ENDED,
    LAPSED,
    LIVE,
    LedgerWindow,
    Reservation,
    Rolled,
    utc_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smartfallback.model.quota import QuotaEstimate, QuotaThresholds

# Members of an enum cost ten times a global's look-up, and these are read for each request.
_UNKNOWN: Final = TruthLabel.UNKNOWN
_EXHAUSTED: Final = QuotaStatus.EXHAUSTED


class CountingLedger:
    """Counts, holds and walls of one account. For one thread; cheap enough for each request.

    The hard limit counts what is used and what is held, so that any number of concurrent callers
    crosses it by no more than the error of their estimates.

    A sliding window starts at its first reservation. If that one is released and nothing else was
    reserved meanwhile, the window waits again: an attempt that never reached the provider started
    nothing there either. A hold belongs to the windows in which it was made: once a window begins
    anew it counts there no more, nor does what its attempt turns out to have used.

    Args:
        windows: What is limited; without any the account is unlimited and its status UNKNOWN.
        thresholds: Percentages of status and of the hard limit.
        now: Epoch seconds.

    Raises:
        ValueError: A window's limit or ``resets`` is invalid; the message says why.
    """

    __slots__ = (
        "_committed",
        "_dirty",
        "_due",
        "_ended_wall_s",
        "_epoch",
        "_exhausted_at",
        "_exhausted_reason",
        "_exhausted_until",
        "_inexact",
        "_lapsed",
        "_live",
        "_rolled",
        "_status",
        "_thresholds",
        "_trial",
        "_used",
        "_view",
        "_waiting",
        "_windows",
    )

    def __init__(self, windows: Sequence[WindowSpec], thresholds: QuotaThresholds, *, now: float) -> None:
        self._thresholds = thresholds
        self._windows = tuple(LedgerWindow(spec, thresholds.hard_limit, now) for spec in windows)
        self._live: dict[Reservation, float] = {}
        """Reservations that hold quota, with the ends of their leases."""
        self._epoch = 0
        self._rolled: list[Rolled] = []
        self._lapsed = 0
        self._exhausted_until: float | None = None
        self._exhausted_at = 0.0
        self._exhausted_reason = ""
        self._ended_wall_s = 0.0
        self._waiting = any(window.closed for window in self._windows)
        """A sliding window waits for its first use."""
        self._trial: tuple[LedgerWindow, ...] = ()
        """Windows opened by reservations of which none has been used, as far as is known."""
        self._inexact = any(spec.unit is QuotaUnit.CREDITS for spec in windows)
        """Amounts may be fractions, whose sums and differences leave rounding errors."""
        self._due: float
        """Nothing changes by itself before; may lie before the next change, never after it."""
        self._dirty = True
        # A look at a dirty ledger sets these first.
        self._used: float | None
        self._committed: float | None
        self._status: QuotaStatus
        self._view: QuotaView | None
        self._reschedule()

    # -- reservations ------------------------------------------------------------------------

    def reserve(self, estimate: QuotaEstimate, now: float, *, lease_s: float) -> Reservation | None:
        """Hold ``estimate`` in all windows, or in none.

        Args:
            estimate: What the attempt is expected to spend.
            now: Epoch seconds.
            lease_s: Seconds after which the hold is freed if nobody ends it.

        Returns:
            None, with nothing written, if used + held + estimate would exceed the hard limit of a
            window or has reached it, or while exhausted; :meth:`refusal` says which.

        Raises:
            ValueError: ``lease_s`` is not above 0.
        """
        if now >= self._due:
            self._catch_up(now)
        if self._exhausted_until is not None:
            return None
        if not lease_s > 0:
            raise ValueError(f"lease_s must be above 0, not {lease_s!r}")
        for window in self._windows:
            before = window.used + window.held
            # So put, an amount that is negative or no number is refused too.
            if not before <= before + window.amount_of(estimate) <= window.cap or before == window.cap:
                return None
        return self._hold(estimate, now, lease_s)

    def _hold(self, estimate: QuotaEstimate, now: float, lease_s: float) -> Reservation:
        for window in self._windows:
            window.held += window.amount_of(estimate)
        if self._waiting:
            self._open(now)
        lease_ends_at = now + lease_s
        if lease_ends_at < self._due:
            self._due = lease_ends_at
        reservation = Reservation(estimate, self._epoch)
        self._live[reservation] = lease_ends_at
        self._dirty = True
        return reservation

    def refusal(self, estimate: QuotaEstimate, now: float) -> str:
        """Why :meth:`reserve` would refuse ``estimate`` now: windows and numbers; empty if it would not."""
        self._apply(now)
        if self._exhausted_until is not None:
            reason = f": {self._exhausted_reason}" if self._exhausted_reason else ""
            return f"exhausted until {utc_text(self._exhausted_until)}{reason}"
        reasons = (window.refusal(window.amount_of(estimate)) for window in self._windows)
        return "; ".join(reason for reason in reasons if reason)

    def settle(self, reservation: Reservation, actual: QuotaEstimate, now: float) -> bool:
        """End a reservation with what was really spent, however much that is.

        Windows that began anew since it was made stay as they are. A lapsed lease does not matter:
        what was used is counted.

        Returns:
            False, with nothing changed, if the reservation had ended before.

        Raises:
            ValueError: The reservation is another account's.
        """
        if now >= self._due:
            self._catch_up(now)
        state = reservation.state
        if state == ENDED:
            return False
        if state == LIVE:
            self._unhold(reservation)
        reservation.state = ENDED
        epoch = reservation.epoch
        for window in self._windows:
            if window.epoch <= epoch:
                amount = window.amount_of(actual)
                if 0 < amount < math.inf:
                    window.used += amount
                    window.settled += amount
                window.changed_at = now
        self._trial = ()
        self._dirty = True
        return True

    def release(self, reservation: Reservation, now: float) -> bool:
        """End a reservation of which nothing was spent.

        Returns:
            False, with nothing changed, if the reservation had ended before.

        Raises:
            ValueError: The reservation is another account's.
        """
        self._apply(now)
        state = reservation.state
        if state == ENDED:
            return False
        if state == LIVE:
            self._unhold(reservation)
            if self._trial and not self._live:
                for window in self._trial:
                    window.close()
                self._trial = ()
                self._waiting = True
        reservation.state = ENDED
        self._dirty = True
        return True

    def expire(self, now: float) -> int:
        """Free the holds whose lease has ended.

        Returns:
            How many were freed since the last call, by this one or on the way of another method.
        """
        self._apply(now)
        lapsed, self._lapsed = self._lapsed, 0
        return lapsed

    # -- what selection and screens read -----------------------------------------------------

    @property
    def live(self) -> int:
        """How many reservations hold quota; as of the last call that was given the time."""
        return len(self._live)

    @property
    def exhausted_until(self) -> float | None:
        """When the wall that the provider named ends; as of the last call that was given the time."""
        return self._exhausted_until

    @property
    def exhausted_at(self) -> float:
        """When the provider named the wall that stands now, in epoch seconds; without one of no meaning."""
        return self._exhausted_at

    @property
    def exhausted_reason(self) -> str:
        """What the provider said about its wall, empty without one."""
        return self._exhausted_reason

    def used_percent(self, now: float) -> float | None:
        """Percent used of the binding window, None when no window's use is known."""
        if now >= self._due:
            self._catch_up(now)
        if self._dirty:
            self._refresh()
        return self._used

    def committed_percent(self, now: float) -> float | None:
        """Percent used or held of the window where that is highest, None when none is known."""
        if now >= self._due:
            self._catch_up(now)
        if self._dirty:
            self._refresh()
        return self._committed

    def status(self, now: float) -> QuotaStatus:
        """EXHAUSTED behind a wall, otherwise by percent used."""
        if now >= self._due:
            self._catch_up(now)
        if self._dirty:
            self._refresh()
        return self._status

    def view(self, now: float) -> QuotaView:
        """The quota as the operator sees it; the same object until something changes."""
        status = self.status(now)
        if self._view is None:
            wall_read_at = None if self._exhausted_until is None else self._exhausted_at
            self._view = QuotaView(
                windows=tuple(window.view(wall_read_at) for window in self._windows),
                binding=self._binding(),
                status=status,
                exhausted_until=self._exhausted_until,
            )
        return self._view

    # -- time --------------------------------------------------------------------------------

    def next_change_at(self, now: float) -> float | None:
        """When a window, a wall or a lease ends next; None while nothing changes by itself."""
        self._apply(now)
        self._reschedule()
        return None if self._due == math.inf else self._due

    def next_reset_at(self, now: float) -> float | None:
        """When a window or a wall ends next; None while none is set to."""
        self._apply(now)
        ends_at = min((window.ends_at for window in self._windows), default=math.inf)
        if self._exhausted_until is not None:
            ends_at = min(ends_at, self._exhausted_until)
        return None if ends_at == math.inf else ends_at

    def roll(self, now: float) -> list[Rolled]:
        """Windows that began anew since the last call, in the order in which that was noticed."""
        self._apply(now)
        rolled, self._rolled = self._rolled, []
        return rolled

    def ended_wall(self, now: float) -> float:
        """For how many seconds the wall stood that ended since the last call; 0 when none did."""
        self._apply(now)
        stood_s, self._ended_wall_s = self._ended_wall_s, 0.0
        return stood_s

    # -- inside ------------------------------------------------------------------------------

    def _apply(self, now: float) -> None:
        if now >= self._due:
            self._catch_up(now)

    def _catch_up(self, now: float) -> None:
        for window in self._windows:
            if now >= window.ends_at:
                self._epoch += 1
                self._rolled.append(window.roll(now, self._epoch))
                self._waiting = self._waiting or window.closed
        if self._exhausted_until is not None and now >= self._exhausted_until:
            self._ended_wall_s = self._exhausted_until - self._exhausted_at
            self._exhausted_until = None
            self._exhausted_reason = ""
        lapsed = [reservation for reservation, end in self._live.items() if now >= end]
        for reservation in lapsed:
            self._unhold(reservation)
            reservation.state = LAPSED
        if lapsed:
            # Whether these attempts reached the provider is not known, so the windows stay open.
            self._trial = ()
            self._lapsed += len(lapsed)
        self._reschedule()
        self._dirty = True

    def _reschedule(self) -> None:
        due = min(self._live.values(), default=math.inf)
        for window in self._windows:
            due = min(due, window.ends_at)
        self._due = due if self._exhausted_until is None else min(due, self._exhausted_until)

    def _open(self, now: float) -> None:
        closed = tuple(window for window in self._windows if window.closed)
        for window in closed:
            window.open(now)
        self._trial += closed
        self._waiting = False
        self._reschedule()

    def _unhold(self, reservation: Reservation) -> None:
        live = self._live
        if live.pop(reservation, None) is None:
            raise ValueError("the reservation belongs to another account")
        epoch, estimate = reservation.epoch, reservation.estimate
        for window in self._windows:
            if window.epoch <= epoch:
                window.held -= window.amount_of(estimate)
        if self._inexact and not live:
            for window in self._windows:
                window.held = 0

    def _binding(self) -> int | None:
        """Index of the window with the highest percentage used, the first of equals."""
        known = [
            (window.percent(window.used), -index)
            for index, window in enumerate(self._windows)
            if window.label is not _UNKNOWN
        ]
        return -max(known)[1] if known else None

    def _refresh(self) -> None:
        used = committed = None
        for window in self._windows:
            if window.label is _UNKNOWN:
                continue
            percent = window.percent(window.used)
            if used is None or percent > used:
                used = percent
            if window.held:
                percent = window.percent(window.used + window.held)
            if committed is None or percent > committed:
                committed = percent
        self._used = used
        self._committed = committed
        exhausted = self._exhausted_until is not None
        self._status = _EXHAUSTED if exhausted else self._thresholds.status(used)
        self._view = None
        self._dirty = False
