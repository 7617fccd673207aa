"""Forecasts of the accounts' quotas: fed when attempts end, read when a screen asks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final
from zoneinfo import ZoneInfo

from smartfallback.model.quota import QuotaEstimate, QuotaUnit
from smartfallback.model.snapshot import ForecastView, QuotaView
from smartfallback.policy.forecast import Forecast, Outlook, UsageForecaster
from smartfallback.policy.reset_calendar import SPAN_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smartfallback.model.quota import WindowSpec
    from smartfallback.model.snapshot import WindowView

FRESH_S: Final = 5.0
"""How long a forecast is shown at least before it is made anew."""

_LASTS: Final = {Outlook.LASTS: True, Outlook.RUNS_OUT: False}


@final
class AccountForecast:
    """The forecasters of one account: one for each unit that its windows count."""

    __slots__ = ("_forecasters", "_hard_limit", "_made_at", "_quota", "_tokens", "_view")

    def __init__(self, windows: Sequence[WindowSpec], hard_limit: float) -> None:
        """Watch use against ``windows``; ``hard_limit`` is in percent of their limits."""
        self._forecasters: dict[QuotaUnit, UsageForecaster] = {}
        for spec in windows:
            if spec.unit is not QuotaUnit.FRACTION and spec.unit not in self._forecasters:
                self._forecasters[spec.unit] = UsageForecaster(_zone(spec.resets))
        self._tokens = self._forecasters.get(QuotaUnit.TOKENS) if len(self._forecasters) == 1 else None
        self._hard_limit = hard_limit
        self._made_at = math.inf
        self._view: ForecastView | None = None
        self._quota: tuple[QuotaView, QuotaView] | None = None

    def add(self, spent: QuotaEstimate, at: float) -> None:
        """Count what an attempt has cost."""
        if self._tokens is not None:
            self._tokens.add(at, spent.tokens)
            return
        for unit, forecaster in self._forecasters.items():
            forecaster.add(at, spent.amount(unit))

    def suspend(self, at: float) -> None:
        """The account may not serve: what it does not use now says nothing of its use."""
        for forecaster in self._forecasters.values():
            forecaster.suspend(at)

    def resume(self, at: float) -> None:
        """The account may serve again."""
        for forecaster in self._forecasters.values():
            forecaster.resume(at)

    def is_due(self, at: float, fresh_s: float) -> bool:
        """Whether the last forecast is older than ``fresh_s``, or from before the clock was set back."""
        return not 0 <= at - self._made_at < fresh_s

    def refresh(self, quota: QuotaView, at: float) -> None:
        """Make the forecast anew."""
        self._made_at = at
        self._view = self._make(quota, at)
        self._quota = None

    def shown_in(self, quota: QuotaView) -> QuotaView:
        """``quota`` with the last forecast; the same object until one of them changes."""
        if self._view is None:
            return quota
        if self._quota is None or self._quota[0] is not quota:
            self._quota = quota, replace(quota, forecast=self._view)
        return self._quota[1]

    def _make(self, quota: QuotaView, at: float) -> ForecastView | None:
        first: tuple[tuple[bool, float, bool], int, Forecast] | None = None
        for index, window in enumerate(quota.windows):
            forecast = self._of_window(window, at)
            if forecast is None or (forecast.outlook is Outlook.UNKNOWN and forecast.burn_rate is None):
                continue
            ends = forecast.exhausted_at
            rank = ends is None, ends or 0.0, index != quota.binding
            if first is None or rank < first[0]:
                first = rank, index, forecast
        if first is None:
            return None
        _, index, forecast = first
        return ForecastView(
            window=index,
            burn_rate_per_h=forecast.burn_rate,
            exhausted_at=forecast.exhausted_at,
            earliest_at=forecast.earliest_at,
            latest_at=forecast.latest_at,
            lasts=_LASTS.get(forecast.outlook),
        )

    def _of_window(self, window: WindowView, at: float) -> Forecast | None:
        forecaster = self._forecasters.get(window.unit)
        if forecaster is None or window.percent is None:
            return None
        # A sliding window that waits for its first use would end a span after it.
        resets_at = at + SPAN_S[window.kind] if window.resets_at is None else window.resets_at
        return forecaster.forecast(at, window.used, window.limit * self._hard_limit / 100, resets_at)


@final
class ForecastBudget:
    """How many forecasts one snapshot may make, so that none takes more than a millisecond or two.

    With more accounts than that allows, each forecast is shown for longer, until all get their turn.
    """

    __slots__ = ("_fresh_s", "_left")

    _A_SNAPSHOT: Final = 32
    _STEP: Final = 1.5

    def __init__(self) -> None:
        self._fresh_s = FRESH_S
        self._left = self._A_SNAPSHOT

    def next_snapshot(self) -> None:
        """Begin a snapshot."""
        scarce = self._left == 0
        self._fresh_s = self._fresh_s * self._STEP if scarce else max(FRESH_S, self._fresh_s / self._STEP)
        self._left = self._A_SNAPSHOT

    def grant(self, forecast: AccountForecast, at: float) -> bool:
        """Whether ``forecast`` is to be made anew for this snapshot."""
        if self._left and forecast.is_due(at, self._fresh_s):
            self._left -= 1
            return True
        return False


def _zone(resets: str | None) -> ZoneInfo | None:
    """The time zone that a window's ``resets`` ends with, which the ledger has found valid."""
    name = resets.split()[-1] if resets else ""
    return None if not name or ":" in name else ZoneInfo(name)
