"""How what a source says about a quota meets what is known already. Pure rules, stated here once.

**A source that fails** (:func:`after_failure`)

1. What it said last is kept, label and all, while it is at most :data:`STALE_AFTER_TTLS` times its
   TTL old; after that it is labelled ``stale``. Its age always is that of the answer.
2. A window whose stated reset has passed is unknown from then on: the old figure belongs to the
   window before.
3. When nothing it said holds any more, or it never said anything, the account is assumed to be at
   :data:`PESSIMISTIC_PERCENT`, labelled ``estimated``.

**A reading and a window of the own count** (:func:`merge`)

1. A reading that is older than what the window shows, or than the window, changes nothing.
2. ``reported`` and ``learned`` replace the count, up or down, and own use since the source was
   asked is added.
3. ``stale`` changes the label only: own use since then has been added already.
4. ``estimated`` raises a count that nobody reported to the estimate and never lowers one. A window
   that has been counted from its very start is known better than by assumption and stays. A
   reported figure from before a restart stays too, labelled ``stale`` after
   :data:`STALE_UNASKED_S`.
5. A reading without a number for the window, or labelled ``unknown``, changes nothing.

So percent used falls by a reset, a correction or a newer report only.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from smartfallback.model.quota import QuotaReading, QuotaUnit, TruthLabel, WindowKind, WindowReading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smartfallback.model.quota import WindowSpec

PESSIMISTIC_PERCENT: Final = 80.0
"""Percent used that is assumed where nothing is known."""

STALE_AFTER_TTLS: Final = 2.0
"""How many times its TTL a reading may be old before it is called stale."""

STALE_UNASKED_S: Final = 1_200.0
"""Age in seconds from which a figure is stale whose source has not answered since a restart."""

_SAME: Final = 1e-9
"""Amounts that differ by no larger part are one."""

_REPLACING: Final = (TruthLabel.REPORTED, TruthLabel.LEARNED)
_UNREPORTED: Final = (TruthLabel.UNKNOWN, TruthLabel.MEASURED, TruthLabel.ESTIMATED)


class Tracked(NamedTuple):
    """One window as the own count has it.

    Attributes:
        kind: Over which span it counts.
        unit: What it counts.
        limit: Amount allowed, in ``unit``.
        used: Amount used, in ``unit``.
        label: How ``used`` came to be known.
        read_at: Epoch seconds of the reading or correction behind ``used``; None for the own count.
        started_at: Epoch seconds at which the window began; minus infinity if that is not known.
        from_start: The window has been counted since it began.
        own_since: Own use, in ``unit``, settled since the source of the reading was asked.
        adopted: A source reported the window; nobody configured it.
    """

    kind: WindowKind
    unit: QuotaUnit
    limit: float
    used: float
    label: TruthLabel
    read_at: float | None
    started_at: float
    from_start: bool
    own_since: float = 0.0
    adopted: bool = False


class Merged(NamedTuple):
    """What a window shows from now on."""

    used: float
    label: TruthLabel
    read_at: float


def assumed(
    account: str, source: str, windows: Sequence[WindowSpec], kind: WindowKind, now: float, note: str
) -> QuotaReading:
    """The pessimistic estimate for an account of which nothing is known.

    Args:
        account: The account's id.
        source: The source that failed.
        windows: The account's configured windows; each is assumed to be as full.
        kind: The span of the one assumed window of an account without any.
        now: Epoch seconds.
        note: Why nothing is known.
    """
    readings = tuple(
        WindowReading(
            f"assumed {spec.kind.value} {spec.unit.value}",
            spec.kind,
            spec.unit,
            percent_used=PESSIMISTIC_PERCENT,
        )
        for spec in windows
    )
    if not readings:
        readings = (
            WindowReading(
                f"assumed {kind.value}", kind, QuotaUnit.FRACTION, percent_used=PESSIMISTIC_PERCENT
            ),
        )
    return QuotaReading(account, source, TruthLabel.ESTIMATED, now, readings, note)


def after_failure(
    last: QuotaReading | None, estimate: QuotaReading, *, ttl_s: float, now: float
) -> QuotaReading:
    """What holds after a source failed (rules 1 to 3 of the module).

    Args:
        last: What the source itself said last, None if it never answered.
        estimate: The account's :func:`assumed` reading, or one without a number that the source
            gave instead; its note says why nothing newer is known.
        ttl_s: The source's TTL in seconds.
        now: Epoch seconds.
    """
    if last is None or last.label is TruthLabel.UNKNOWN:
        return estimate
    held = as_of(last, ttl_s=ttl_s, now=now)
    if held.percent is None and not any(window.unlimited for window in held.windows):
        return estimate
    return replace(held, note=estimate.note)


def as_of(reading: QuotaReading, *, ttl_s: float, now: float) -> QuotaReading:
    """``reading`` as it is to be shown at ``now``: stale when old, unknown past a window's reset."""
    windows = tuple(_unless_reset(window, now) for window in reading.windows)
    label = reading.label
    if label is not TruthLabel.UNKNOWN and reading.age(now) > STALE_AFTER_TTLS * ttl_s:
        label = TruthLabel.STALE
    if label is reading.label and windows == reading.windows:
        return reading
    return replace(reading, windows=windows, label=label)


def _unless_reset(window: WindowReading, now: float) -> WindowReading:
    if window.resets_at is None or now < window.resets_at:
        return window
    return replace(window, used=None, percent_used=None, resets_at=None)


def merge(tracked: Tracked, reading: QuotaReading) -> Merged | None:
    """What ``reading`` makes of one window; None when it changes nothing.

    Where several limits of the reading are about the window, the fullest counts.
    """
    if reading.read_at < tracked.started_at:
        return None
    if tracked.read_at is not None and reading.read_at < tracked.read_at:
        return None
    amounts = [
        amount
        for window in reading.windows
        if (amount := amount_in(window, tracked.kind, tracked.unit, tracked.limit)) is not None
    ]
    if not amounts:
        return None
    said = max(amounts)
    label = reading.label
    if label in _REPLACING:
        if reading.read_at == tracked.read_at:
            # Told again because its source failed since: own use has been added to it already.
            return None
        return Merged(said + tracked.own_since, label, reading.read_at)
    if label is TruthLabel.STALE:
        if tracked.label in _REPLACING:
            return Merged(tracked.used, label, reading.read_at)
        if tracked.label in _UNREPORTED:
            # A reading from before a restart: better than an own count that began at zero.
            return Merged(max(tracked.used, said), label, reading.read_at)
        return None
    if label is TruthLabel.ESTIMATED and tracked.label in _REPLACING and tracked.read_at is not None:
        if reading.read_at - tracked.read_at <= STALE_UNASKED_S:
            return None
        return Merged(tracked.used, TruthLabel.STALE, tracked.read_at)
    if label is not TruthLabel.ESTIMATED or tracked.label not in _UNREPORTED or tracked.from_start:
        return None
    return Merged(max(tracked.used, said), label, reading.read_at)


def amount_in(window: WindowReading, kind: WindowKind, unit: QuotaUnit, limit: float) -> float | None:
    """What ``window`` says is used, as an amount of a window of that kind, unit and limit.

    A share is taken of ``limit``. Where a source names an amount as well, the greater counts: the
    configured limit may lie below the provider's own, and above it by mistake. A limit in another
    unit says nothing about this window, unless only its share is known.
    """
    if window.kind is not kind or window.unlimited:
        return None
    percent = window.percent
    if window.unit is unit or QuotaUnit.FRACTION in (window.unit, unit):
        share = None if percent is None else percent * limit / 100.0
        stated = window.used if window.unit is unit else None
        if share is None or stated is None:
            return share if stated is None else stated
        # A share that was worked out from the amount differs from it by a rounding error.
        return stated if math.isclose(share, stated, rel_tol=_SAME) else max(share, stated)
    return None
