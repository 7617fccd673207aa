"""A quota reading becomes what an account's ledger counts on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartfallback.model.quota import QuotaUnit, TruthLabel, WindowSpec
from smartfallback.policy.quota_merge import merge

if TYPE_CHECKING:
    from smartfallback.model.quota import QuotaReading, WindowReading
    from smartfallback.policy.ledger import AccountLedger, OwnUse
    from smartfallback.policy.quota_merge import Tracked


def apply_reading(
    ledger: AccountLedger, reading: QuotaReading, now: float, since: OwnUse | None = None
) -> bool:
    """Merge ``reading`` into the windows of ``ledger`` by the rules of ``quota_merge``.

    Windows that the source reports and nobody configured are adopted; from an estimate only where
    the ledger has no window at all, so that the assumption is shown. The end of a window that
    slides follows the source.

    Args:
        ledger: The account's.
        reading: What its source says.
        now: Epoch seconds.
        since: :meth:`AccountLedger.own_use` from when the source was asked.

    Returns:
        Whether anything changed.
    """
    for window in reading.windows:
        spec = _to_adopt(window, reading.label, ledger.tracked(now))
        if spec is not None:
            ledger.adopt(spec, now, ends_at=window.resets_at)  # it changes below, by what is said of it
    reported = {window.kind for window in reading.windows if window.kind and window.percent is not None}
    told = reading.label is TruthLabel.REPORTED and bool(reported)
    changed = told and ledger.drop_assumed(reported, now)
    for index, tracked in enumerate(ledger.tracked(now, since)):
        merged = merge(tracked, reading)
        if merged is None:
            continue
        ledger.set_used(index, merged.used, now, merged.label, read_at=merged.read_at)
        if merged.label is TruthLabel.REPORTED:
            ends = [
                w.resets_at for w in reading.windows if w.kind is tracked.kind and w.resets_at is not None
            ]
            ledger.set_end(index, min(ends, default=None), now)
        changed = True
    return changed


def _to_adopt(window: WindowReading, label: TruthLabel, windows: tuple[Tracked, ...]) -> WindowSpec | None:
    if window.kind is None or window.unlimited or window.percent is None:
        return None
    if label is not TruthLabel.REPORTED and (label is not TruthLabel.ESTIMATED or windows):
        return None
    exact = window.unit is not QuotaUnit.FRACTION and window.limit is not None
    for known in windows:
        if known.kind is not window.kind:
            continue
        if known.unit is window.unit or not exact:
            return None
        # Only a configured share stands for an exact quota; an adopted one makes way for it.
        if known.unit is QuotaUnit.FRACTION and not known.adopted:
            return None
    if not exact or window.limit is None:
        return WindowSpec(window.kind, QuotaUnit.FRACTION, 1.0)
    return WindowSpec(window.kind, window.unit, window.limit)
