"""A ledger over another: what is used counts in both, what is set shows in the upper one only.

So the lower one goes on as if nobody had corrected a count or named a wall meanwhile, and takes its
place again, use included, when the time of the upper one is over.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, final

from smartfallback.policy.ledger import AccountLedger, OwnUse
from smartfallback.policy.ledger_window import Reservation, Rolled

if TYPE_CHECKING:
    from collections.abc import Collection

    from smartfallback.model.quota import QuotaEstimate, WindowKind
    from smartfallback.policy.quota_merge import Tracked


@final
class LedgerLayer(AccountLedger):
    """Begins as a copy of ``beneath`` and hands out that one's reservations, each held in both.

    So attempts may end before, during or after the layer's time, at whichever ledger the account has
    then. There is room where the layer has room; ``beneath`` holds and counts in any case.

    Args:
        beneath: The account's own ledger; while there is a layer over it, reserve, settle and release
            there through the layer only.
        now: Epoch seconds.

    Attributes:
        used_at: When the latest reservation was made of which anything was used, in epoch seconds.
    """

    __slots__ = ("_begun", "_beneath", "_copies", "_pairs", "_told", "used_at")

    def __init__(self, beneath: AccountLedger, now: float) -> None:
        beneath.status(now)
        super().__init__((), beneath._thresholds, now=now)
        self._beneath = beneath
        self._copies = {window: copy(window) for window in beneath._windows}
        self._windows = tuple(self._copies.values())
        self._trial = tuple(self._copies[window] for window in beneath._trial)
        self._epoch = beneath._epoch
        self._exhausted_until = beneath._exhausted_until
        self._exhausted_at = beneath._exhausted_at
        self._exhausted_reason = beneath._exhausted_reason
        self._waiting = beneath._waiting
        self._inexact = beneath._inexact
        self._pairs: dict[Reservation, Reservation] = {}
        self._begun: dict[Reservation, float] = {}
        """When the reservations were made that the layer itself handed out and that have not ended."""
        for theirs, lease_ends_at in beneath._live.items():
            self._pairs[theirs] = mine = Reservation(theirs.estimate, theirs.epoch)
            self._live[mine] = lease_ends_at
        self._told: set[WindowKind] = set()
        self.used_at: float | None = None
        self._reschedule()

    @property
    def begun(self) -> Collection[Reservation]:
        """The reservations that were made here and have not ended."""
        return self._begun

    def reserve(self, estimate: QuotaEstimate, now: float, *, lease_s: float) -> Reservation | None:
        """As in any ledger; what is handed out is a reservation of the ledger beneath."""
        mine = super().reserve(estimate, now, lease_s=lease_s)
        if mine is None:
            return None
        theirs = self._beneath.hold(estimate, now, lease_s=lease_s)
        self._pairs[theirs] = mine
        self._begun[theirs] = now
        return theirs

    def settle(self, reservation: Reservation, actual: QuotaEstimate, now: float) -> bool:
        """As in any ledger, in both."""
        mine = self._pairs.pop(reservation, None)
        if mine is not None:
            super().settle(mine, actual, now)
        begun_at = self._begun.pop(reservation, None)
        if begun_at is not None:
            self.used_at = begun_at if self.used_at is None else max(begun_at, self.used_at)
        return self._beneath.settle(reservation, actual, now)

    def release(self, reservation: Reservation, now: float) -> bool:
        """As in any ledger, in both."""
        mine = self._pairs.pop(reservation, None)
        if mine is not None:
            super().release(mine, now)
        self._begun.pop(reservation, None)
        return self._beneath.release(reservation, now)

    def own_use(self, now: float) -> OwnUse:
        """A mark for both, since a reading may come when the layer is no more."""
        return {**self._beneath.own_use(now), **super().own_use(now)}

    def tracked(self, now: float, since: OwnUse | None = None) -> tuple[Tracked, ...]:
        """As in any ledger; the mark may be from before the layer."""
        if since is not None:
            known = {mine: since[theirs] for theirs, mine in self._copies.items() if theirs in since}
            since = {**known, **since}
        return super().tracked(now, since)

    def roll(self, now: float) -> list[Rolled]:
        """As in any ledger; see :meth:`untold` for what began anew beneath."""
        rolled = super().roll(now)
        self._told.update(window.kind for window in rolled)
        return rolled

    def untold(self, rolled: Collection[Rolled]) -> list[Rolled]:
        """Those windows that began anew beneath, and not here."""
        return [window for window in rolled if window.kind not in self._told]
