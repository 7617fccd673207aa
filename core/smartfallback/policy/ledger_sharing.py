"""The side of an account's quota that other instances have a part in.

A ledger that is shared counts as ever, at once and in memory. Now and then it learns what all
instances have used together (:meth:`SharedLedger.mirror`), and tells what was used here
(:meth:`SharedLedger.reports`). How far it may go by itself is each window's ceiling, counted like
``settled``: in what was settled here since the window began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from smartfallback.model.quota import TruthLabel
from smartfallback.model.sharing import CountBase, SharedWindow, WindowReport
from smartfallback.policy.ledger_counts import CountingLedger
from smartfallback.policy.ledger_window import LedgerWindow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from smartfallback.model.quota import QuotaEstimate, QuotaThresholds, WindowSpec


class _Widened(NamedTuple):
    """What a window that goes on by a local share had when that began, and what was left of its quota."""

    epoch: int
    begun: float
    left: float


_NOTHING: Final[Mapping[str, SharedWindow]] = {}
# Shared by all ledgers that share nothing, and never written to.
_NO_BASES: Final[dict[str, CountBase]] = {}
_NOTHING_HELD: Final[Mapping[str, float]] = {}
_NO_SHARES: Final[dict[LedgerWindow, _Widened]] = {}

_NO_WINDOW: Final = SharedWindow(0.0, 0.0)

_ROUNDING: Final = 1e-6
"""Sums of fractional credits differ by less, depending on their order."""


class Appetite(NamedTuple):
    """How much of a window an instance would like to lease, and the least that would be of use."""

    want: float
    need: float


class SharedLedger(CountingLedger):
    """What a ledger does where its quota may be shared; costs nothing where it isn't."""

    __slots__ = ("_asked_of", "_bases", "_instance", "_mirrored", "_rebased_at", "_widened")

    def __init__(self, windows: Sequence[WindowSpec], thresholds: QuotaThresholds, *, now: float) -> None:
        super().__init__(windows, thresholds, now=now)
        self._instance = ""
        """This instance's id; empty where nothing is shared."""
        self._mirrored: Mapping[str, SharedWindow] = _NOTHING
        """What the shared store last said, by the window's key."""
        self._asked_of: Mapping[str, SharedWindow] = _NOTHING
        """The same, from when the account's source was last asked."""
        self._bases: dict[str, CountBase] = _NO_BASES
        """Counts that were set here and that the shared store may not have yet."""
        self._rebased_at = 0.0
        self._widened: dict[LedgerWindow, _Widened] = _NO_SHARES
        """The windows that go on by a local share."""

    def share(self, instance: str) -> None:
        """From now on other instances spend the same quota; ``instance`` is this one's id."""
        self._instance = instance
        self._bases, self._widened = {}, {}
        for window in self._windows:
            window.ceiling = 0.0

    @property
    def overdrawn(self) -> bool:
        """Whether more is settled and held here than this instance may spend without asking."""
        for window in self._windows:  # noqa: SIM110 - on each request's way, and a generator costs as much again
            if window.settled + window.held > window.ceiling + _ROUNDING:
                return True
        return False

    def covers(self, amounts: Mapping[str, float], asking: Mapping[str, float]) -> bool:
        """Whether one of those who wait for leave can go on now, whatever becomes of the others.

        Args:
            amounts: What it holds, by key.
            asking: What all of them hold, by key.
        """
        return all(
            window.settled + window.held - asking.get(key, 0.0) + amounts.get(key, 0.0)
            <= window.ceiling + _ROUNDING
            for key, window in self._keyed()
        )

    def spent(self) -> dict[str, float]:
        """What was settled here in each window, by key; as of the last call that was given the time."""
        return {key: window.settled for key, window in self._keyed() if not window.closed}

    def held(self, asking: Mapping[str, float]) -> dict[str, float]:
        """What is held here in each window but for what waits for leave, by key."""
        return {key: max(0.0, window.held - asking.get(key, 0.0)) for key, window in self._keyed()}

    def amounts(self, estimate: QuotaEstimate) -> dict[str, float]:
        """What ``estimate`` holds, by key of the window; windows that it doesn't touch are left out."""
        return {
            key: amount
            for key, window in self._keyed()
            if not window.closed and (amount := window.amount_of(estimate)) > 0
        }

    def reports(
        self, now: float, wants: Mapping[str, Appetite], held: Mapping[str, float] | None = None
    ) -> tuple[WindowReport, ...]:
        """This instance's side of all windows that have begun.

        Args:
            now: Epoch seconds.
            wants: What it would like to lease beyond what it holds, by key; of others it wants nothing.
            held: What it holds without having asked for it, by key; by default all that is held.
        """
        self._apply(now)
        return tuple(
            WindowReport(
                key=key,
                started_at=window.started_at,
                ends_at=window.ends_at,
                cap=window.cap,
                spent=window.settled,
                held=window.held if held is None else held.get(key, 0.0),
                want=wants[key].want if key in wants else 0.0,
                need=wants[key].need if key in wants else 0.0,
                base=self._base(key, window),
            )
            for key, window in self._keyed()
            if not window.closed
        )

    def keep(
        self,
        reports: Sequence[WindowReport],
        wants: Mapping[str, Appetite],
        asking: Mapping[str, float],
        *,
        widened: bool = False,
    ) -> tuple[WindowReport, ...]:
        """Keep to what ``reports`` are about to ask for, until :meth:`mirror` has the reply.

        What is given up by asking for less may be another instance's by then, so it isn't spent any
        more; what is kept is told, so that it is nobody else's.

        Args:
            reports: What :meth:`reports` has made just now.
            wants: What they were made with.
            asking: What of that which is held here waits for leave, by key.
            widened: Whether a local share is kept to that extent too, so that nobody has to wait for the
                first reply of a store that is back.
        """
        windows = dict(self._keyed())
        kept = []
        for report in reports:
            window = windows[report.key]
            taken = window.settled + window.held - asking.get(report.key, 0.0)
            slack = self._slack(report, window, taken, wants.get(report.key), widened=widened)
            window.ceiling = min(window.ceiling, taken + slack)
            kept.append(replace(report, keeps=report.spent + report.held + slack))
        return tuple(kept)

    def _slack(
        self,
        report: WindowReport,
        window: LedgerWindow,
        taken: float,
        appetite: Appetite | None,
        *,
        widened: bool,
    ) -> float:
        if appetite is None:
            return 0.0
        # Slices shrink near the limit, as they do in the store.
        ceilings = self._mirrored.get(report.key, _NO_WINDOW).ceilings
        instances = len(ceilings.keys() | {self._instance})
        free = window.cap - window.used - (taken - window.settled) - window.elsewhere
        fair = max(free / (2 * instances), min(appetite.need, free))
        slack = max(0.0, min(window.ceiling - taken, appetite.want, fair))
        wide = self._widened.get(window)
        if wide is not None and wide.epoch == window.epoch:
            return slack if widened else 0.0
        # Never more than the store has leased, of which reservations that it knows are no part.
        return min(slack, max(0.0, ceilings.get(self._instance, 0.0) - report.spent - report.held))

    @property
    def not_begun(self) -> tuple[str, ...]:
        """Keys of the windows that wait for their first use here; others may have begun them."""
        return tuple(key for key, window in self._keyed() if window.closed)

    def mirror(self, windows: Mapping[str, SharedWindow], now: float) -> bool:
        """Take over what all instances have used together, and how much of it may be spent here.

        What was settled here since the store was told is added. A window that the store knows and that
        has ended, or one that began later here than there, is left as it is.

        Returns:
            Whether a count or a span has changed.
        """
        self._apply(now)
        changed = False
        self._mirrored = windows
        for key, window in self._keyed():
            theirs = windows.get(key)
            if theirs is None or theirs.ends_at <= now or theirs.started_at >= window.ends_at:
                continue
            if not window.closed and window.started_at >= theirs.ends_at:
                continue
            changed = self._take_over(key, window, theirs) or changed
        self._waiting = any(window.closed for window in self._windows)
        self._reschedule()
        self._dirty = True
        return changed

    def _take_over(self, key: str, window: LedgerWindow, theirs: SharedWindow) -> bool:
        me = self._instance
        before = window.used, window.ends_at, window.label, window.elsewhere
        if window.rule.slides:
            window.started_at, window.ends_at = theirs.started_at, theirs.ends_at
            # Others may have used what was opened here on trial.
            self._trial = tuple(other for other in self._trial if other is not window)
        counted = theirs.spent.get(me, 0.0)
        own = self._base(key, window)
        if own is None and theirs.base is None and not any(theirs.spent.values()) and window.used > 0:
            # A store without a past learns what was kept here over a restart.
            own = self._bases[key] = CountBase(
                window.used, window.changed_at, window.label, {me: window.settled}
            )
        if own is None or (theirs.base is not None and theirs.base.read_at >= own.read_at):
            self._bases.pop(key, None)
            window.used = theirs.used + max(0.0, window.settled - counted)
            if theirs.base is not None:
                window.label, window.read_at = theirs.base.label, theirs.base.read_at
                if theirs.base.label is TruthLabel.MEASURED:
                    window.read_at = None
        window.elsewhere = theirs.elsewhere(me)
        window.ceiling = max(theirs.ceilings.get(me, 0.0), counted) + theirs.held.get(me, 0.0)
        self._widened.pop(window, None)
        return before != (window.used, window.ends_at, window.label, window.elsewhere)

    @property
    def left_share(self) -> float:
        """What nobody uses, holds or has leased, of the window that has least of it, from 0 to 1."""
        shares = (1 - (w.used + w.held + w.elsewhere) / w.cap if w.cap else 0.0 for w in self._windows)
        return min(shares, default=1.0)

    def widen(self, shares: float, asking: Mapping[str, float] = _NOTHING_HELD) -> None:
        """The shared store can't be asked: go on by a share of what is left.

        If none of so many takes more than its share, they stay below the limit together. A further call
        before :meth:`mirror`, or the window's end, divides the same rest: it adds only what a larger
        share has more.

        Args:
            shares: Into how many what is left is divided.
            asking: What of that which is held here waits for leave, by key.
        """
        for key, window in self._keyed():
            wide = self._widened.get(window)
            if wide is None or wide.epoch != window.epoch:
                taken = window.settled + window.held - asking.get(key, 0.0)
                begun = max(taken, window.ceiling)
                left = window.cap - window.used - window.elsewhere - (begun - window.settled)
                wide = self._widened[window] = _Widened(window.epoch, begun, max(0.0, left))
            window.ceiling = max(window.ceiling, wide.begun + wide.left / max(1, shares))

    @property
    def mirrored(self) -> Mapping[str, SharedWindow]:
        """What the shared store last said of windows that still run, by key."""
        return self._mirrored

    @property
    def rebased_at(self) -> float:
        """When a count was last set here, in epoch seconds; 0 for never since it is shared."""
        return self._rebased_at

    @property
    def unshared(self) -> bool:
        """Whether a count was set here that the shared store may not have yet."""
        return bool(self._bases)

    def _base(self, key: str, window: LedgerWindow) -> CountBase | None:
        """The count that was set here in the window as it runs now."""
        base = self._bases.get(key)
        return None if base is None or base.read_at < window.started_at else base

    def _rebased(self, window: LedgerWindow, *, read: bool) -> None:
        """The count of ``window`` was set; ``read`` tells a source's reading from a person's word."""
        if not self._instance:
            return
        self._rebased_at = window.changed_at
        for key, each in self._keyed():
            if each is window:
                known = (self._asked_of if read else self._mirrored).get(key)
                mark = {} if known is None or abs(known.ends_at - window.ends_at) > 1 else dict(known.spent)
                mark[self._instance] = window.settled
                read_at = window.changed_at if window.read_at is None else window.read_at
                self._bases[key] = CountBase(window.used, read_at, window.label, mark)

    def _keyed(self) -> Iterator[tuple[str, LedgerWindow]]:
        """The windows by the key under which all instances know them."""
        seen: dict[str, int] = {}
        for window in self._windows:
            name = f"{window.spec.kind.value}.{window.spec.unit.value}"
            number = seen[name] = seen.get(name, -1) + 1
            yield f"{name}.{number}", window
