"""The forecast that an account shows: fed by answers, made lazily, bounded in cost."""

from __future__ import annotations

import dataclasses

import pytest

from smartfallback import AccountSpec, Disable, Enable, QuotaUnit, WindowKind, WindowSpec
from smartfallback.engine.forecasting import FRESH_S, AccountForecast, ForecastBudget
from support.scripted import ask, pool, system

HOUR = 3600.0
TOKENS = 15
"""Of one scripted answer."""
WEEKLY = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1500.0, "sun 00:00 UTC")


def limited(*windows: WindowSpec):
    spec = pool("main", "a-1")
    return dataclasses.replace(spec, accounts=(AccountSpec("a-1", quota=windows),), default_output_tokens=5)


async def use_for(orchestrator, clock, hours: float) -> None:
    """Four answers an hour."""
    for _ in range(int(4 * hours)):
        await orchestrator.chat(ask())
        clock.advance(HOUR / 4)


def forecast_of(orchestrator):
    return orchestrator.snapshot().account("a-1").quota.forecast


async def test_an_account_shows_no_forecast_before_there_is_something_to_say(start, clock):
    orchestrator = await start(system(limited(WEEKLY)))
    assert forecast_of(orchestrator) is None
    await use_for(orchestrator, clock, 0.5)
    assert forecast_of(orchestrator) is None


async def test_answers_make_a_forecast_up_to_the_hard_limit(start, clock):
    orchestrator = await start(system(limited(WEEKLY)))
    await use_for(orchestrator, clock, 12)
    forecast = forecast_of(orchestrator)
    assert forecast.window == 0
    assert forecast.burn_rate_per_h == pytest.approx(4 * TOKENS, rel=0.1)
    rest = 0.95 * 1500 - 48 * TOKENS
    assert forecast.exhausted_at == pytest.approx(clock.time() + rest / (4 * TOKENS) * HOUR, abs=HOUR)
    assert forecast.earliest_at <= forecast.exhausted_at


async def test_the_window_that_runs_out_first_is_shown(start, clock):
    roomy = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1e9, "sun 00:00 UTC")
    requests = WindowSpec(WindowKind.WEEK, QuotaUnit.REQUESTS, 80.0, "sun 00:00 UTC")
    orchestrator = await start(system(limited(roomy, requests)))
    await use_for(orchestrator, clock, 12)
    forecast = forecast_of(orchestrator)
    assert forecast.window == 1
    assert forecast.burn_rate_per_h == pytest.approx(4, rel=0.1)
    assert forecast.exhausted_at == pytest.approx(clock.time() + 7 * HOUR, abs=HOUR)


async def test_an_account_without_quota_has_no_forecast(start, clock):
    orchestrator = await start(system(limited()))
    await use_for(orchestrator, clock, 4)
    assert forecast_of(orchestrator) is None


async def test_a_forecast_is_kept_for_some_seconds_and_then_made_anew(start, clock):
    orchestrator = await start(system(limited(WEEKLY)))
    await use_for(orchestrator, clock, 12)
    first = forecast_of(orchestrator)
    clock.advance(FRESH_S - 1)
    await orchestrator.chat(ask())
    assert forecast_of(orchestrator) is first
    clock.advance(1)
    assert forecast_of(orchestrator) is not first


async def test_time_in_which_an_account_may_not_serve_teaches_nothing(start, clock):
    orchestrator = await start(system(limited(WEEKLY)))
    await use_for(orchestrator, clock, 12)
    assert orchestrator.execute(Disable("a-1", "holiday")).ok
    clock.advance(30 * HOUR)
    forecast_of(orchestrator)
    assert orchestrator.execute(Enable("a-1")).ok
    assert forecast_of(orchestrator).burn_rate_per_h == pytest.approx(4 * TOKENS, rel=0.1)


def test_with_more_accounts_than_one_snapshot_can_serve_all_get_their_turn():
    forecasts = [AccountForecast((WEEKLY,), 95.0) for _ in range(3000)]
    budget = ForecastBudget()
    made = [0] * len(forecasts)
    at = 0.0
    view = type("View", (), {"windows": (), "binding": None})()
    for _ in range(1200):
        budget.next_snapshot()
        granted = 0
        for index, forecast in enumerate(forecasts):
            if budget.grant(forecast, at):
                forecast.refresh(view, at)
                made[index] += 1
                granted += 1
        assert granted <= 32
        at += 0.25
    assert min(made) >= 2
