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
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from smartfallback.model.quota import QuotaEstimate, QuotaUnit, TruthLabel, WindowSpec
from smartfallback.model.state import WallState
from smartfallback.policy.ledger_sharing import SharedLedger
from smartfallback.policy.ledger_window import (
    LedgerWindow,
    Reservation,
    Rolled,
)
from smartfallback.policy.quota_merge import Tracked

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from smartfallback.model.quota import WindowKind
    from smartfallback.model.state import HoldState, WindowState

__all__ = ["WALL_FALLBACK_S", "AccountLedger", "OwnUse", "Reservation", "Rolled"]

OwnUse = dict[LedgerWindow, tuple[int, float]]
"""A mark of own use: each window with its epoch and what was settled in it."""

WALL_FALLBACK_S: Final = 3600.0
"""How long an account is taken for exhausted when neither provider nor window says until when."""

_SAME_TIME_S: Final = 1.0
"""A reservation and the beginning of the window that it opened are told by two readings of the clock."""

# Members of an enum cost ten times a global's look-up, and these are read for each request.
_UNKNOWN: Final = TruthLabel.UNKNOWN
_ESTIMATED: Final = TruthLabel.ESTIMATED


class AccountLedger(SharedLedger):
    """One account's quota with all that is learnt of it from outside, and what outlives a restart.

    Takes the arguments of :class:`~smartfallback.policy.ledger_counts.CountingLedger`.
    """

    __slots__ = ()

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
        self._rebased(window, read=read_at is not None)
        self._dirty = True

    def own_use(self, now: float) -> OwnUse:
        """A mark of the own use so far. Take it when a source is asked: see :meth:`tracked`."""
        self._apply(now)
        self._asked_of = self._mirrored
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
        if self._instance:
            window.ceiling = 0.0
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

    def hold(self, estimate: QuotaEstimate, now: float, *, lease_s: float) -> Reservation:
        """Hold ``estimate`` whether or not there is room for it: its attempt runs in any case."""
        self._apply(now)
        return self._hold(estimate, now, lease_s)

    # -- over a restart ----------------------------------------------------------------------

    def states(self) -> tuple[WindowState, ...]:
        """The counts to keep over a restart, as of the last call that was given the time."""
        return tuple(state for window in self._windows if (state := window.state()) is not None)

    def wall(self) -> WallState | None:
        """The wall to keep over a restart, as of the last call that was given the time."""
        if self._exhausted_until is None:
            return None
        return WallState(self._exhausted_until, self._exhausted_at, self._exhausted_reason)

    def restore(
        self,
        windows: Sequence[WindowState],
        wall: WallState | None,
        now: float,
        holds: Sequence[HoldState] = (),
    ) -> None:
        """Go on with counts and a wall from before a restart; call before the first reservation.

        Saved windows belong to those of the same kind and unit, in order; a limit may have changed.
        One that a source had reported is taken up again, one that nobody configures any longer is not.
        What ended meanwhile ends now: a window begins anew and is told by :meth:`roll`, a wall falls.
        Holds of attempts that have died with their process hold until their request's deadline, since
        nobody knows what became of them upstream; then they are freed.
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
                self._windows[-1].epoch = 0  # holds from before the restart count there
        if wall is not None:
            self._exhausted_until = wall.until
            self._exhausted_at = wall.since
            self._exhausted_reason = wall.reason
        self._waiting = any(window.closed for window in self._windows)
        self._dirty = True
        self._reschedule()
        self._apply(now)
        self._restore_holds([hold for hold in holds if hold.until > now], now)

    def _restore_holds(self, holds: Sequence[HoldState], now: float) -> None:
        """Hold again what was held, in the windows that had begun by then and still run."""
        # Epochs up to 0 tell in which order the windows began that have not done so since the restart.
        running = [window for window in self._windows if window.epoch <= 0]
        starts = sorted(window.started_at for window in running)
        for window in running:
            window.epoch = bisect_right(starts, window.started_at) - len(starts)
        for hold in holds:
            estimate = QuotaEstimate(hold.tokens, hold.requests, hold.credits)
            epoch = bisect_right(starts, hold.since + _SAME_TIME_S) - len(starts)
            counting = [
                window for window in running if window.epoch <= epoch and window.amount_of(estimate) > 0
            ]
            if not counting:
                continue
            for window in counting:
                window.held += window.amount_of(estimate)
            self._live[Reservation(estimate, epoch)] = hold.ends_at(now)
        self._dirty = True
        self._reschedule()


def _settled_since(window: LedgerWindow, since: OwnUse | None) -> float:
    if since is None:
        return 0.0
    epoch, settled = since.get(window, (window.epoch, 0.0))
    return window.settled - settled if epoch == window.epoch else window.settled


def _is_share(window: LedgerWindow) -> bool:
    return window.spec.unit is QuotaUnit.FRACTION
