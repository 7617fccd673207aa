"""One quota window's running count, and the values that a ledger hands out."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple, final

from smartfallback.model.quota import QuotaUnit, TruthLabel
from smartfallback.model.snapshot import WindowView
from smartfallback.model.state import WindowState
from smartfallback.policy.reset_calendar import parse_reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from smartfallback.model.quota import QuotaEstimate, WindowKind, WindowSpec

LIVE: Final = 0
"""The reservation holds quota."""
LAPSED: Final = 1
"""Its lease ended and its hold is freed, but its use may still be reported."""
ENDED: Final = 2
"""It was settled or released; nothing more happens to it."""


def _nothing(_: QuotaEstimate) -> float:
    return 0.0


# QuotaEstimate.amount in C: its comparisons would take a third of a reservation's whole cost.
_AMOUNT: Final[dict[QuotaUnit, Callable[[QuotaEstimate], float]]] = {
    QuotaUnit.TOKENS: attrgetter("tokens"),
    QuotaUnit.REQUESTS: attrgetter("requests"),
    QuotaUnit.CREDITS: attrgetter("credits"),
    QuotaUnit.FRACTION: _nothing,
}


class Rolled(NamedTuple):
    """A window began anew.

    ``started_at`` is when, in epoch seconds: the start of the calendar window that holds now, or
    the end of the last span of a window that slides (its next one starts at its next use).
    ``percent_before`` is ``used_before`` in percent of the limit.
    """

    kind: WindowKind
    used_before: float
    started_at: float
    percent_before: float


@final
class Reservation:
    """Quota held for one attempt in all windows of its account; ends exactly once.

    Attributes:
        estimate: What is held.
    """

    __slots__ = ("epoch", "estimate", "state")

    def __init__(self, estimate: QuotaEstimate, epoch: int) -> None:
        self.estimate = estimate
        self.epoch = epoch
        self.state = LIVE

    @property
    def ended(self) -> bool:
        """True once it was settled or released."""
        return self.state == ENDED


@final
class LedgerWindow:
    """The count of one window. Only its ledger changes it.

    ``settled`` is the own use since the window began, whatever readings said of it meanwhile.
    ``adopted`` marks a window that a source reported and nobody configured. A sliding window that
    is not open has ``ends_at`` infinite and counts nothing. ``epoch`` is the ledger's epoch at
    which it last began anew: it counts only reservations of that or a later one. ``ceiling`` is what
    may be settled and held here without asking other instances, ``elsewhere`` what those hold.

    Raises:
        ValueError: The spec's limit is negative or not finite, or its ``resets`` can't be read.
    """

    __slots__ = (
        "adopted",
        "amount_of",
        "cap",
        "ceiling",
        "changed_at",
        "elsewhere",
        "ends_at",
        "epoch",
        "held",
        "label",
        "limit",
        "read_at",
        "rule",
        "settled",
        "spec",
        "started_at",
        "used",
    )

    def __init__(self, spec: WindowSpec, hard_limit: float, now: float) -> None:
        if not 0 <= spec.limit < math.inf:
            raise ValueError(f"limit must be a finite number from 0, not {spec.limit!r}")
        self.spec = spec
        self.limit = spec.limit
        self.cap = spec.limit * hard_limit / 100.0
        self.rule = parse_reset(spec.kind, spec.resets)
        self.amount_of = _AMOUNT[spec.unit]
        self.used: float = 0
        self.held: float = 0
        self.settled: float = 0
        self.ceiling = math.inf
        self.elsewhere: float = 0
        self.adopted = False
        self.epoch = 0
        self.label = self._own_label()
        self.changed_at = now
        self.read_at: float | None = None
        self.started_at = -math.inf
        self.ends_at = math.inf
        if not self.rule.slides:
            self.started_at, self.ends_at = self.rule.window_at(now)

    def _own_label(self) -> TruthLabel:
        """How far the own count can be trusted: no request says which fraction it took."""
        return TruthLabel.UNKNOWN if self.spec.unit is QuotaUnit.FRACTION else TruthLabel.MEASURED

    @property
    def closed(self) -> bool:
        """True for a sliding window that waits for its first use."""
        return self.rule.slides and self.ends_at == math.inf

    def open(self, now: float) -> None:
        """Start a sliding window; never before the end of the last one, whatever the clock says."""
        self.started_at = max(now, self.started_at)
        self.ends_at = self.started_at + self.rule.span_s

    def close(self) -> None:
        """Take back an opening that nothing was used in."""
        self.ends_at = math.inf

    def roll(self, now: float, epoch: int) -> Rolled:
        """Begin anew because ``now`` is at or after the end. What was held belongs to the old window."""
        used_before = self.used
        if self.rule.slides:
            self.started_at, self.ends_at = self.ends_at, math.inf
        else:
            self.started_at, self.ends_at = self.rule.window_at(now)
        self.used = self.held = self.settled = self.elsewhere = 0
        if self.ceiling < math.inf:
            self.ceiling = 0.0
        self.epoch = epoch
        self.label = self._own_label()
        self.read_at = None
        self.changed_at = self.started_at
        return Rolled(self.spec.kind, used_before, self.started_at, self.percent(used_before))

    def state(self) -> WindowState | None:
        """What of it survives a restart; None where nothing is counted or known."""
        if self.closed or self.label is TruthLabel.UNKNOWN:
            return None
        return WindowState(
            kind=self.spec.kind,
            unit=self.spec.unit,
            used=self.used,
            label=self.label,
            # Of a window that a source told of, only the end may be known.
            started_at=max(self.started_at, self.ends_at - self.rule.span_s)
            if self.rule.slides
            else self.started_at,
            ends_at=self.ends_at,
            changed_at=self.changed_at,
            read_at=self.read_at,
            limit=self.limit,
            adopted=self.adopted,
        )

    def restore(self, saved: WindowState, now: float) -> None:
        """Go on from ``saved``. If its span is over by ``now``, the ledger rolls it as it would have then.

        A calendar window that still runs ends when the configuration now says so. A span from the
        future, as after a step of the clock backwards, stays the current one; of one that lies further
        away than two whole spans, and so was never right, only the count is kept.
        """
        sane = saved.ends_at <= now + 2 * self.rule.span_s
        if sane and (self.rule.slides or saved.ends_at <= now or saved.started_at > now):
            self.started_at = saved.started_at
            self.ends_at = saved.ends_at
        elif self.closed:
            self.open(now)
        self.used = saved.used
        self.label = saved.label
        self.changed_at = saved.changed_at
        self.read_at = saved.read_at

    def percent(self, amount: float) -> float:
        """``amount`` in percent of the limit; a limit of 0 is used up from the start."""
        # Multiplying first is exact for whole numbers, so a threshold is met exactly.
        return 100.0 * amount / self.limit if self.limit > 0 else 100.0

    def refusal(self, amount: float) -> str:
        """Why ``amount`` more has no room here, empty when it has."""
        before = self.used + self.held
        if before <= before + amount <= self.cap and before < self.cap:
            return ""
        name = f"{self.spec.kind.value} {self.spec.unit.value}"
        if not amount >= 0:
            return f"{name}: can't reserve {amount!r}"
        share = f" ({100.0 * self.cap / self.limit:g} % of {self.limit:,g})" if self.limit > 0 else ""
        return (
            f"{name}: {_number(self.used)} used + {_number(self.held)} held + {_number(amount)} asked "
            f"does not fit the hard limit of {_number(self.cap)}{share}"
        )

    def view(self, wall_read_at: float | None) -> WindowView:
        """The window as the operator sees it; ``wall_read_at`` is when a provider named a wall that holds."""
        known = self.label is not TruthLabel.UNKNOWN
        # An assumed window slides from when it was assumed; nobody knows when the real one begins anew.
        assumed = self.adopted and self.label is TruthLabel.ESTIMATED
        label, read_at = self.label, (self.changed_at if self.read_at is None else self.read_at)
        if known and wall_read_at is not None:
            label, read_at = TruthLabel.LEARNED, wall_read_at
        return WindowView(
            kind=self.spec.kind,
            unit=self.spec.unit,
            limit=self.limit,
            used=self.used,
            held=self.held,
            percent=self.percent(self.used) if known else None,
            held_percent=100.0 * self.held / self.limit if self.limit > 0 else 0.0,
            label=label,
            read_at=read_at if known else None,
            resets_at=None if assumed or self.ends_at == math.inf else self.ends_at,
            elsewhere=self.elsewhere,
        )


def utc_text(at: float) -> str:
    """Epoch seconds as an operator reads them."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
