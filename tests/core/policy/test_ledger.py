from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime

import pytest

from smartfallback.model.quota import (
    QuotaEstimate,
    QuotaStatus,
    QuotaThresholds,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.policy.ledger import WALL_FALLBACK_S, AccountLedger, Reservation, Rolled

HOUR = 3600.0
DAY = 24 * HOUR
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()
"""A Monday noon."""
SUNDAY = datetime(2026, 3, 8, tzinfo=UTC).timestamp()
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1000, "sun 00:00 UTC")
DAILY = WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, 10, "00:00 UTC")
FIVE_HOURS = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 500)
FRACTION = WindowSpec(WindowKind.WEEK, QuotaUnit.FRACTION, 1.0, "sun 00:00 UTC")
FULL = QuotaThresholds(hard_limit=100.0)


def ledger(*windows: WindowSpec, thresholds: QuotaThresholds = FULL, now: float = NOW) -> AccountLedger:
    return AccountLedger(windows, thresholds, now=now)


def hold(account: AccountLedger, tokens: int, now: float = NOW, lease_s: float = 120.0) -> Reservation:
    reservation = account.reserve(QuotaEstimate(tokens), now, lease_s=lease_s)
    assert reservation is not None, account.refusal(QuotaEstimate(tokens), now)
    return reservation


def spend(account: AccountLedger, tokens: int, now: float = NOW) -> None:
    account.settle(hold(account, tokens, now), QuotaEstimate(tokens), now)


def counts(account: AccountLedger, now: float = NOW) -> list[tuple[float, float]]:
    return [(window.used, window.held) for window in account.view(now).windows]


async def test_of_100_callers_exactly_as_many_pass_as_there_is_room_for() -> None:
    account = ledger(DAILY)

    async def call() -> bool:
        await asyncio.sleep(0)
        reservation = account.reserve(QuotaEstimate(10), NOW, lease_s=60)
        await asyncio.sleep(0)
        return reservation is not None and account.settle(reservation, QuotaEstimate(10), NOW)

    assert sum(await asyncio.gather(*(call() for _ in range(100)))) == 10
    assert counts(account) == [(10, 0)]


def test_the_hard_limit_counts_use_and_holds() -> None:
    account = ledger(WEEK, thresholds=QuotaThresholds())
    spend(account, 500)
    hold(account, 400)
    assert account.reserve(QuotaEstimate(51), NOW, lease_s=60) is None
    refusal = account.refusal(QuotaEstimate(51), NOW)
    for part in ("week tokens", "500 used", "400 held", "51 asked", "hard limit of 950", "95 % of 1,000"):
        assert part in refusal
    assert account.refusal(QuotaEstimate(50), NOW) == ""
    hold(account, 50)
    assert account.reserve(QuotaEstimate(0), NOW, lease_s=60) is None, "at the hard limit nothing passes"
    assert counts(account) == [(500, 450)]


def test_all_windows_or_none() -> None:
    account = ledger(WEEK, DAILY)
    for _ in range(10):
        spend(account, 1)
    before = account.view(NOW)
    assert account.reserve(QuotaEstimate(1), NOW, lease_s=60) is None
    assert account.view(NOW) == before
    assert "day requests" in account.refusal(QuotaEstimate(1), NOW)
    assert "week" not in account.refusal(QuotaEstimate(1), NOW)
    assert "week tokens" in account.refusal(QuotaEstimate(2000), NOW)


@pytest.mark.parametrize("estimate", [QuotaEstimate(-1), QuotaEstimate(1, credits=math.nan)])
def test_an_impossible_estimate_is_refused(estimate: QuotaEstimate) -> None:
    account = ledger(WEEK, WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, 300))
    assert account.reserve(estimate, NOW, lease_s=60) is None
    assert account.refusal(estimate, NOW)
    assert counts(account) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("lease_s", [0.0, -1.0, math.nan])
def test_a_lease_must_last(lease_s: float) -> None:
    with pytest.raises(ValueError, match="lease_s"):
        ledger(WEEK).reserve(QuotaEstimate(1), NOW, lease_s=lease_s)


@pytest.mark.parametrize("unit", list(QuotaUnit))
def test_each_unit_holds_its_own_amount(unit: QuotaUnit) -> None:
    account = ledger(WindowSpec(WindowKind.DAY, unit, 1000, "00:00 UTC"))
    estimate = QuotaEstimate(7, 3, 1.5)
    assert account.reserve(estimate, NOW, lease_s=60) is not None
    assert counts(account) == [(0, estimate.amount(unit))]


def test_settling_counts_what_was_really_used() -> None:
    account = ledger(WEEK, DAILY)
    account.settle(hold(account, 100), QuotaEstimate(40), NOW)
    assert counts(account) == [(40, 0), (1, 0)]
    account.settle(hold(account, 100), QuotaEstimate(5000), NOW)
    assert counts(account) == [(5040, 0), (2, 0)]
    assert account.used_percent(NOW) == 504.0
    assert account.status(NOW) is QuotaStatus.EXHAUSTED


def test_counts_never_fall_by_what_an_upstream_says() -> None:
    account = ledger(WEEK, WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, 300))
    spend(account, 40)
    account.settle(hold(account, 1), QuotaEstimate(-40, credits=math.nan), NOW)
    account.settle(hold(account, 1), QuotaEstimate(0, credits=math.inf), NOW)
    assert counts(account) == [(40, 0), (0, 0)]


def test_a_reservation_ends_once() -> None:
    account = ledger(WEEK)
    settled, released = hold(account, 100), hold(account, 100)
    assert [settled.ended, released.ended] == [False, False]
    assert account.settle(settled, QuotaEstimate(60), NOW)
    assert account.release(released, NOW)
    assert [settled.ended, released.ended] == [True, True]
    for reservation in (settled, released):
        assert not account.settle(reservation, QuotaEstimate(60), NOW)
        assert not account.release(reservation, NOW)
    assert counts(account) == [(60, 0)]


def test_another_accounts_reservation_is_refused_and_stays_usable() -> None:
    mine, other = ledger(WEEK), ledger(WEEK)
    reservation = hold(other, 100)
    with pytest.raises(ValueError, match="another account"):
        mine.settle(reservation, QuotaEstimate(100), NOW)
    with pytest.raises(ValueError, match="another account"):
        mine.release(reservation, NOW)
    assert counts(mine) == [(0, 0)]
    assert other.settle(reservation, QuotaEstimate(100), NOW)


def test_a_lapsed_lease_frees_the_hold_and_a_late_settle_still_counts() -> None:
    account = ledger(WEEK)
    reservation = hold(account, 100, lease_s=60)
    hold(account, 10, lease_s=600)
    assert account.expire(NOW + 59.9) == 0
    assert account.expire(NOW + 60) == 1
    assert account.expire(NOW + 60) == 0
    assert counts(account, NOW + 60) == [(0, 10)]
    assert not reservation.ended
    assert account.settle(reservation, QuotaEstimate(80), NOW + 70)
    assert not account.settle(reservation, QuotaEstimate(80), NOW + 70)
    assert counts(account, NOW + 70) == [(80, 10)]


def test_a_lapsed_hold_makes_room_before_anyone_asks_for_expiry() -> None:
    account = ledger(WEEK)
    hold(account, 1000, lease_s=60)
    assert account.reserve(QuotaEstimate(1), NOW + 59, lease_s=60) is None
    assert account.reserve(QuotaEstimate(1), NOW + 60, lease_s=60) is not None
    assert account.expire(NOW + 60) == 1, "what another method freed is still reported"


def test_holds_in_credits_leave_no_rounding_behind() -> None:
    account = ledger(WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, 300, "1 00:00 UTC"))
    held = [account.reserve(QuotaEstimate(0, credits=amount), NOW, lease_s=60) for amount in (0.1, 0.2, 0.3)]
    for reservation in held:
        assert reservation is not None
        account.release(reservation, NOW)
    assert counts(account) == [(0, 0)]


def test_at_the_reset_the_count_begins_anew_for_every_reader() -> None:
    account = ledger(WEEK, FIVE_HOURS)
    spend(account, 400)
    assert account.status(SUNDAY - 1) is QuotaStatus.HEALTHY
    assert counts(account, SUNDAY - 1) == [(400, 0), (0, 0)]
    assert account.committed_percent(SUNDAY) == 0
    assert account.roll(SUNDAY + 5) == [
        Rolled(WindowKind.FIVE_HOURS, 400, NOW + 5 * HOUR, 100.0 * 400 / FIVE_HOURS.limit),
        Rolled(WindowKind.WEEK, 400, SUNDAY, 100.0 * 400 / WEEK.limit),
    ]
    assert account.roll(SUNDAY + 5) == []
    assert account.view(SUNDAY).windows[0].resets_at == SUNDAY + 7 * DAY


def test_a_console_that_was_off_over_sundays_rolls_once() -> None:
    account = ledger(WEEK)
    spend(account, 400)
    assert account.roll(SUNDAY + 20 * DAY) == [
        Rolled(WindowKind.WEEK, 400, SUNDAY + 14 * DAY, 100.0 * 400 / WEEK.limit)
    ]
    assert account.next_change_at(SUNDAY + 20 * DAY) == SUNDAY + 21 * DAY


def test_settling_after_the_reset_touches_only_the_windows_that_go_on() -> None:
    account = ledger(WEEK, WindowSpec(WindowKind.MONTH, QuotaUnit.TOKENS, 9000, "1 00:00 UTC"))
    reservation = hold(account, 100, SUNDAY - 1)
    hold(account, 30, SUNDAY)
    assert counts(account, SUNDAY) == [(0, 30), (0, 130)]
    account.settle(reservation, QuotaEstimate(70), SUNDAY + 1)
    assert counts(account, SUNDAY + 1) == [(0, 30), (70, 30)]


def test_a_clock_that_steps_back_reopens_nothing() -> None:
    account = ledger(WEEK, FIVE_HOURS)
    spend(account, 400)
    spend(account, 7, SUNDAY + 10)
    account.roll(SUNDAY + 10)
    back = SUNDAY + 10 - HOUR
    assert counts(account, back) == [(7, 0), (7, 0)]
    assert account.roll(back) == []
    spend(account, 5, back)
    assert counts(account, back) == [(12, 0), (12, 0)]
    assert account.next_change_at(back) == SUNDAY + 10 + 5 * HOUR
    assert account.view(back).windows[0].resets_at == SUNDAY + 7 * DAY


def test_a_sliding_window_starts_no_earlier_than_the_last_one_ended() -> None:
    account = ledger(FIVE_HOURS)
    spend(account, 400)
    end = NOW + 5 * HOUR
    assert account.roll(end) == [Rolled(WindowKind.FIVE_HOURS, 400, end, 100.0 * 400 / FIVE_HOURS.limit)]
    spend(account, 5, end - HOUR)
    assert account.view(end).windows[0].resets_at == end + 5 * HOUR


def test_a_sliding_window_starts_at_its_first_use() -> None:
    account = ledger(FIVE_HOURS)
    assert account.next_change_at(NOW) is None
    assert account.view(NOW).windows[0].resets_at is None
    spend(account, 10, NOW + 100)
    spend(account, 10, NOW + 200)
    assert account.next_change_at(NOW + 200) == NOW + 100 + 5 * HOUR


def test_an_attempt_of_which_nothing_was_used_starts_no_window() -> None:
    account = ledger(FIVE_HOURS)
    first, second = hold(account, 10), hold(account, 10, NOW + 1)
    account.release(first, NOW + 2)
    assert account.view(NOW + 2).windows[0].resets_at == NOW + 5 * HOUR, "another attempt is under way"
    account.release(second, NOW + 3)
    assert account.next_change_at(NOW + 3) is None
    spend(account, 10, NOW + 50)
    assert account.next_change_at(NOW + 50) == NOW + 50 + 5 * HOUR
    account.release(hold(account, 10, NOW + 60), NOW + 61)
    assert account.next_change_at(NOW + 61) == NOW + 50 + 5 * HOUR


def test_an_attempt_that_vanished_may_have_started_the_window() -> None:
    account = ledger(FIVE_HOURS)
    hold(account, 10, lease_s=60)
    account.release(hold(account, 10, NOW + 100), NOW + 101)
    assert account.next_change_at(NOW + 101) == NOW + 5 * HOUR


def test_a_wall_ends_by_itself_for_the_first_who_asks() -> None:
    account = ledger(WEEK)
    account.mark_exhausted(NOW + 500, NOW, reason="")
    assert account.reserve(QuotaEstimate(1), NOW + 500, lease_s=60) is not None


def test_a_wall_refuses_until_its_end_and_success_does_not_lift_it() -> None:
    account = ledger(WEEK)
    running = hold(account, 10)
    account.mark_exhausted(NOW + 500, NOW, reason="daily wall")
    assert account.reserve(QuotaEstimate(1), NOW, lease_s=60) is None
    assert account.refusal(QuotaEstimate(1), NOW) == "exhausted until 2026-03-02 12:08:20 UTC: daily wall"
    account.settle(running, QuotaEstimate(10), NOW + 1)
    assert account.status(NOW + 499) is QuotaStatus.EXHAUSTED
    view = account.view(NOW + 499)
    assert view.exhausted_until == NOW + 500
    assert view.windows[0].label is TruthLabel.LEARNED
    assert view.windows[0].read_at == NOW
    assert account.status(NOW + 500) is QuotaStatus.HEALTHY
    assert account.exhausted_until is None
    assert account.view(NOW + 500).windows[0].label is TruthLabel.MEASURED
    assert counts(account, NOW + 500) == [(10, 0)]


def test_a_later_wall_extends_and_an_earlier_one_never_shortens() -> None:
    account = ledger(WEEK)
    account.mark_exhausted(NOW + 500, NOW, reason="first")
    account.mark_exhausted(NOW + 100, NOW, reason="earlier")
    assert (account.exhausted_until, account.exhausted_reason) == (NOW + 500, "first")
    account.mark_exhausted(NOW + 900, NOW + 1, reason="later")
    assert (account.exhausted_until, account.exhausted_reason) == (NOW + 900, "later")
    account.clear_exhausted(NOW + 2)
    assert account.exhausted_until is None
    assert account.reserve(QuotaEstimate(1), NOW + 2, lease_s=60) is not None
    account.mark_exhausted(NOW + 2, NOW + 2, reason="over already")
    assert account.exhausted_until is None


@pytest.mark.parametrize("until", [None, math.nan, math.inf])
def test_a_wall_without_an_end_lasts_to_the_binding_windows_reset(until: float | None) -> None:
    account = ledger(WEEK, FIVE_HOURS)
    spend(account, 100)
    account.mark_exhausted(until, NOW, reason="")
    assert account.exhausted_until == NOW + 5 * HOUR, "20 % of five hours bind, not 10 % of the week"
    assert account.next_change_at(NOW) == NOW + 5 * HOUR


@pytest.mark.parametrize("windows", [(), (FIVE_HOURS,), (FRACTION,)])
def test_a_wall_without_any_known_end_lasts_an_hour(windows: tuple[WindowSpec, ...]) -> None:
    account = ledger(*windows)
    account.mark_exhausted(None, NOW, reason="")
    assert account.exhausted_until == NOW + WALL_FALLBACK_S
    assert account.status(NOW) is QuotaStatus.EXHAUSTED


def test_without_windows_nothing_is_limited_and_nothing_is_known() -> None:
    account = ledger()
    reservation = account.reserve(QuotaEstimate(10**9), NOW, lease_s=60)
    assert reservation is not None
    assert account.next_change_at(NOW) == NOW + 60
    assert account.settle(reservation, QuotaEstimate(10**9), NOW)
    view = account.view(NOW)
    assert (view.windows, view.binding, view.status) == ((), None, QuotaStatus.UNKNOWN)
    assert account.committed_percent(NOW) is None
    assert account.used_percent(NOW) is None
    assert account.next_change_at(NOW) is None


def test_a_fraction_is_unknown_until_it_is_read_and_again_after_the_reset() -> None:
    account = ledger(FRACTION)
    spend(account, 10)
    window = account.view(NOW).windows[0]
    assert (window.percent, window.label, window.read_at) == (None, TruthLabel.UNKNOWN, None)
    assert account.status(NOW) is QuotaStatus.UNKNOWN
    account.set_used(0, 0.85, NOW, TruthLabel.REPORTED)
    assert account.used_percent(NOW) == 85.0
    assert account.status(NOW) is QuotaStatus.WARNING
    account.set_used(0, 1.0, NOW, TruthLabel.REPORTED)
    assert account.reserve(QuotaEstimate(10), NOW, lease_s=60) is None
    assert account.used_percent(SUNDAY) is None
    assert account.reserve(QuotaEstimate(10), SUNDAY, lease_s=60) is not None


@pytest.mark.parametrize(
    ("used", "status"),
    [
        (0, QuotaStatus.HEALTHY),
        (799, QuotaStatus.HEALTHY),
        (800, QuotaStatus.WARNING),
        (949, QuotaStatus.WARNING),
        (950, QuotaStatus.CRITICAL),
        (999, QuotaStatus.CRITICAL),
        (1000, QuotaStatus.EXHAUSTED),
    ],
)
def test_status_changes_exactly_at_the_thresholds(used: int, status: QuotaStatus) -> None:
    account = ledger(WEEK)
    account.set_used(0, used, NOW, TruthLabel.REPORTED)
    assert account.status(NOW) is status
    assert account.view(NOW).status is status


def test_a_reading_replaces_the_count_and_own_use_adds_to_it() -> None:
    account = ledger(WEEK)
    spend(account, 400)
    running = hold(account, 50)
    account.set_used(0, 250, NOW + 10, TruthLabel.REPORTED)
    account.settle(running, QuotaEstimate(30), NOW + 20)
    window = account.view(NOW + 30).windows[0]
    assert (window.used, window.held, window.label, window.read_at) == (280, 0, TruthLabel.REPORTED, NOW + 10)
    after = account.view(SUNDAY).windows[0]
    assert (after.used, after.label, after.read_at) == (0, TruthLabel.MEASURED, SUNDAY)


def test_a_reading_of_a_window_that_waits_starts_it() -> None:
    account = ledger(FIVE_HOURS)
    account.set_used(0, 0, NOW, TruthLabel.REPORTED)
    assert account.next_change_at(NOW) is None
    account.set_used(0, 50, NOW, TruthLabel.REPORTED)
    account.release(hold(account, 10, NOW + 1), NOW + 2)
    assert account.next_change_at(NOW + 2) == NOW + 5 * HOUR


def test_a_reading_must_be_a_number() -> None:
    account = ledger(WEEK)
    for used in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="used must be"):
            account.set_used(0, used, NOW, TruthLabel.REPORTED)
    with pytest.raises(ValueError, match="no reading"):
        account.set_used(0, 1, NOW, TruthLabel.UNKNOWN)
    with pytest.raises(IndexError):
        account.set_used(1, 1, NOW, TruthLabel.REPORTED)


def test_the_view_names_the_window_that_binds() -> None:
    account = ledger(WEEK, DAILY)
    for _ in range(3):
        spend(account, 10)
    hold(account, 100)
    view = account.view(NOW)
    assert view.binding == 1
    assert view.bound is not None
    assert (view.bound.percent, view.bound.held_percent) == (30.0, 10.0)
    assert account.used_percent(NOW) == 30.0
    assert account.committed_percent(NOW) == 40.0
    assert view.windows[0].label is TruthLabel.MEASURED
    assert account.view(NOW + 1) is view, "unchanged, so the console may compare by identity"


def test_an_own_count_is_as_old_as_its_last_change() -> None:
    account = ledger(WEEK)
    assert account.view(NOW).windows[0].read_at == NOW
    spend(account, 10, NOW + 30)
    assert account.view(NOW + 60).windows[0].read_at == NOW + 30


def test_next_change_is_the_earliest_of_window_wall_and_lease() -> None:
    account = ledger(WEEK)
    assert account.next_change_at(NOW) == SUNDAY
    first = hold(account, 1, lease_s=50)
    hold(account, 1, lease_s=80)
    assert account.next_change_at(NOW) == NOW + 50
    account.release(first, NOW)
    assert account.next_change_at(NOW) == NOW + 80
    account.mark_exhausted(NOW + 70, NOW, reason="")
    assert account.next_change_at(NOW) == NOW + 70
    assert account.next_change_at(NOW + 70) == NOW + 80
    assert account.next_change_at(NOW + 80) == SUNDAY


def test_a_limit_of_zero_is_used_up() -> None:
    account = ledger(WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, 0, "00:00 UTC"))
    assert account.status(NOW) is QuotaStatus.EXHAUSTED
    assert account.reserve(QuotaEstimate(0, 0), NOW, lease_s=60) is None
    assert account.refusal(QuotaEstimate(1), NOW)
    assert account.view(NOW).windows[0].percent == 100.0


@pytest.mark.parametrize("limit", [-1.0, math.nan, math.inf])
def test_a_limit_must_be_a_number(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be"):
        ledger(WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, limit))
