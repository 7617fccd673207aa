"""The quota of one account: windows, reservations, and walls that its provider named.

Every method takes ``now`` in epoch seconds and first applies what time has changed since the last
call: windows that began anew, leases and walls that ended. No caller sees a stale window, and
:meth:`AccountLedger.roll` and :meth:`AccountLedger.expire` still report what was applied before.

Time only moves forward here. After a step of the wall clock backwards nothing that ended comes
back: a window that began anew stays the current one, and the next sliding one starts no earlier
than the end of the last. Leases and walls then end when the clock gets there. A step forward ends
them early; what their attempts use is still counted when they settle.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, final

from smartfallback.model.quota import QuotaStatus, QuotaUnit, TruthLabel, WindowSpec
from smartfallback.model.snapshot import QuotaView
from smartfallback.model.state import WallState
from smartfallback.policy.ledger_window import (
    ENDED,
    LAPSED,
    LIVE,
    LedgerWindow,
    Reservation,
    Rolled,
    utc_text,
)
from smartfallback.policy.quota_merge import Tracked

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from smartfallback.model.quota import QuotaEstimate, QuotaThresholds, WindowKind
    from smartfallback.model.state import WindowState

__all__ = ["WALL_FALLBACK_S", "AccountLedger", "OwnUse", "Reservation", "Rolled"]

OwnUse = dict[LedgerWindow, tuple[int, float]]
"""A mark of own use: each window with its epoch and what was settled in it."""

WALL_FALLBACK_S: Final = 3600.0
"""How long an account is taken for exhausted when neither provider nor window says until when."""

# Members of an enum cost ten times a global's look-up, and these are read for each request.
_UNKNOWN: Final = TruthLabel.UNKNOWN
_ESTIMATED: Final = TruthLabel.ESTIMATED
_EXHAUSTED: Final = QuotaStatus.EXHAUSTED


@final
class AccountLedger:
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
        self._due = math.inf
        """Nothing changes by itself before; may lie before the next change, never after it."""
        self._dirty = True
        self._used: float | None = None
        self._committed: float | None = None
        self._status = QuotaStatus.UNKNOWN
        self._view: QuotaView | None = None
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
        for window in self._windows:
            window.held += window.amount_of(estimate)
        if self._waiting:
            self._open(now)
        lease_ends_at = now + lease_s
        if lease_ends_at < self._due:
            self._due = lease_ends_at
        reservation = Reservation(estimate, lease_ends_at, self._epoch)
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

    # -- what the provider and the operator say ----------------------------------------------

    def mark_exhausted(self, until: float | None, now: float, *, reason: str) -> None:
        """The provider named a wall: nothing is reserved before it ends.

        Args:
            until: Epoch seconds. None, or a number that is not finite: until the binding window
                begins anew, or for :data:`WALL_FALLBACK_S` where that is not known. An end that
                has passed, or lies before that of a wall already known, changes nothing.
            now: Epoch seconds.
            reason: What the provider said.
        """
        self._apply(now)
        if until is None or not math.isfinite(until):
            binding = self._binding()
            resets_at = math.inf if binding is None else self._windows[binding].ends_at
            until = resets_at if resets_at < math.inf else now + WALL_FALLBACK_S
        if until <= now or (self._exhausted_until is not None and until <= self._exhausted_until):
            return
        self._exhausted_until = until
        self._exhausted_at = now
        self._exhausted_reason = reason
        self._due = min(self._due, until)
        self._dirty = True

    def clear_exhausted(self, now: float) -> None:
        """The operator knows better: take the wall away. Counts stay."""
        self._apply(now)
        self._exhausted_until = None
        self._exhausted_reason = ""
        self._dirty = True

    def set_used(
        self,
        window_index: int,
        used: float,
        now: float,
        label: TruthLabel,
        *,
        read_at: float | None = None,
    ) -> None:
        """Replace a window's count by a reading or a correction; what is held stays held.

        Own use is added to it by later settlements; label and age stay those of the reading until
        the next one, or until the window begins anew. ``read_at`` is the reading's own time in epoch
        seconds, ``now`` by default.

        Raises:
            ValueError: ``used`` is negative or not finite, or the label is UNKNOWN.
            IndexError: There is no such window.
        """
        if not 0 <= used < math.inf:
            raise ValueError(f"used must be a finite number from 0, not {used!r}")
        if label is TruthLabel.UNKNOWN:
            raise ValueError("a count that nobody knows is no reading")
        self._apply(now)
        window = self._windows[window_index]
        window.used = used
        window.label = label
        window.read_at = None if label is TruthLabel.MEASURED else now if read_at is None else read_at
        window.changed_at = now
        if used > 0:
            self._trial = tuple(other for other in self._trial if other is not window)
            if window.closed:
                window.open(now if read_at is None else min(now, read_at))
                self._waiting = any(other.closed for other in self._windows)
                self._reschedule()
        self._dirty = True

    def own_use(self, now: float) -> OwnUse:
        """A mark of the own use so far. Take it when a source is asked: see :meth:`tracked`."""
        self._apply(now)
        return {window: (window.epoch, window.settled) for window in self._windows}

    def tracked(self, now: float, since: OwnUse | None = None) -> tuple[Tracked, ...]:
        """The windows as a reading is merged with them.

        Args:
            now: Epoch seconds.
            since: The mark from when the source was asked; what was settled after it counts as
                unknown to the source. None: nothing was.
        """
        self._apply(now)
        return tuple(
            Tracked(
                window.spec.kind,
                window.spec.unit,
                window.limit,
                window.used,
                window.label,
                window.read_at,
                window.started_at,
                window.epoch > 0 and not window.adopted,
                _settled_since(window, since),
                window.adopted,
            )
            for window in self._windows
        )

    def adopt(self, spec: WindowSpec, now: float, *, ends_at: float | None = None) -> int:
        """Take up a window that a source reports and nobody configured; its use is not known yet.

        It takes the place of one adopted before of which only a share was known. Attempts that run
        now hold nothing in it and are not counted there when they settle.

        Args:
            spec: The window. It slides, as far as ``ends_at`` does not say when it begins anew.
            now: Epoch seconds.
            ends_at: Epoch seconds.

        Returns:
            Its index.

        Raises:
            ValueError: The limit or ``resets`` is invalid.
        """
        self._apply(now)
        window = LedgerWindow(spec, self._thresholds.hard_limit, now)
        self._epoch += 1
        window.epoch = self._epoch
        window.adopted = True
        window.label = _UNKNOWN
        kept = [w for w in self._windows if not (w.adopted and w.spec.kind is spec.kind and _is_share(w))]
        self._windows = (*kept, window)
        self._trial = tuple(other for other in self._trial if other in kept)
        self._inexact = self._inexact or spec.unit is QuotaUnit.CREDITS
        self.set_end(len(kept), ends_at, now)
        self._waiting = any(other.closed for other in self._windows)
        return len(kept)

    def drop_assumed(self, reported: Collection[WindowKind], now: float) -> bool:
        """Give up windows that were only assumed, now that the source reports others.

        Args:
            reported: The kinds of window that the source reports; an assumed one of such a kind stays
                to take up the reported figure.
            now: Epoch seconds.

        Returns:
            Whether there were any.
        """
        self._apply(now)
        kept = tuple(
            window
            for window in self._windows
            if not (window.adopted and window.label is _ESTIMATED and window.spec.kind not in reported)
        )
        if len(kept) == len(self._windows):
            return False
        self._windows = kept
        self._trial = tuple(other for other in self._trial if other in kept)
        self._waiting = any(window.closed for window in kept)
        self._reschedule()
        self._dirty = True
        return True

    def set_end(self, window_index: int, ends_at: float | None, now: float) -> None:
        """A source says when a sliding window begins anew; calendar windows keep their own rule.

        None, or a moment that has passed, changes nothing.

        Raises:
            IndexError: There is no such window.
        """
        self._apply(now)
        window = self._windows[window_index]
        if ends_at is not None and window.rule.slides and now < ends_at < math.inf:
            window.ends_at = ends_at
            self._trial = tuple(other for other in self._trial if other is not window)
            self._waiting = any(other.closed for other in self._windows)
        self._reschedule()
        self._dirty = True

    # -- over a restart ----------------------------------------------------------------------

    def states(self) -> tuple[WindowState, ...]:
        """The counts to keep over a restart, as of the last call that was given the time."""
        return tuple(state for window in self._windows if (state := window.state()) is not None)

    def wall(self) -> WallState | None:
        """The wall to keep over a restart, as of the last call that was given the time."""
        if self._exhausted_until is None:
            return None
        return WallState(self._exhausted_until, self._exhausted_at, self._exhausted_reason)

    def restore(self, windows: Sequence[WindowState], wall: WallState | None, now: float) -> None:
        """Go on with counts and a wall from before a restart; call before the first reservation.

        Saved windows belong to those of the same kind and unit, in order; a limit may have changed.
        One that a source had reported is taken up again, one that nobody configures any longer is not.
        What ended meanwhile ends now: a window begins anew and is told by :meth:`roll`, a wall falls.
        Holds are not restored: the attempts that they were for have died.
        """
        saved = list(windows)
        for window in self._windows:
            for state in saved:
                if (state.kind, state.unit) == (window.spec.kind, window.spec.unit):
                    saved.remove(state)
                    window.restore(state, now)
                    break
        for state in saved:
            if state.adopted and state.ends_at > now:
                self.adopt(WindowSpec(state.kind, state.unit, state.limit), now)
                self._windows[-1].restore(state, now)
        if wall is not None:
            self._exhausted_until = wall.until
            self._exhausted_at = wall.since
            self._exhausted_reason = wall.reason
        self._waiting = any(window.closed for window in self._windows)
        self._dirty = True
        self._reschedule()
        self._apply(now)

    # -- what selection and screens read -----------------------------------------------------

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


def _settled_since(window: LedgerWindow, since: OwnUse | None) -> float:
    if since is None:
        return 0.0
    epoch, settled = since.get(window, (window.epoch, 0.0))
    return window.settled - settled if epoch == window.epoch else window.settled


def _is_share(window: LedgerWindow) -> bool:
    return window.spec.unit is QuotaUnit.FRACTION
