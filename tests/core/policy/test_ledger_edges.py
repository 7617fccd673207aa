"""A ledger at its edges: the exact moment, the exact limit, the exact words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

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
from smartfallback.model.state import WallState, WindowState
from smartfallback.policy.ledger import AccountLedger, Reservation
from support.clock import EPOCH

HOUR, DAY = 3_600.0, 86_400.0
SUNDAY = EPOCH + 5.5 * DAY
"""The midnight after the Monday noon of EPOCH at which the week begins anew."""
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000, "sun 00:00 UTC")
DAILY = WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, 10, "00:00 UTC")
SLIDING = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 1_000)
SLIDING_DAY = WindowSpec(WindowKind.DAY, QuotaUnit.TOKENS, 5_000)
SHARE = WindowSpec(WindowKind.WEEK, QuotaUnit.FRACTION, 1.0, "sun 00:00 UTC")


def ledger(*specs: WindowSpec, now: float = EPOCH) -> AccountLedger:
    return AccountLedger(specs, QuotaThresholds(), now=now)


def hold(account: AccountLedger, tokens: int, now: float = EPOCH, lease_s: float = 60.0) -> Reservation:
    reservation = account.reserve(QuotaEstimate(tokens), now, lease_s=lease_s)
    assert reservation is not None
    return reservation


def spend(account: AccountLedger, tokens: int, now: float = EPOCH) -> None:
    account.settle(hold(account, tokens, now), QuotaEstimate(tokens), now)


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


# The exact moment


def test_at_the_very_moment_of_the_reset_the_first_to_settle_belongs_to_the_old_window() -> None:
    account = ledger(WEEK)
    running = hold(account, 100, SUNDAY - 1)
    account.settle(running, QuotaEstimate(100), SUNDAY)
    assert account.view(SUNDAY).windows[0].used == 0
    assert account.roll(SUNDAY)[0].used_before == 0, "it came too late for that one"


def test_at_the_very_moment_of_the_reset_the_first_to_ask_is_told_of_the_new_window() -> None:
    account = ledger(WEEK)
    spend(account, 500)
    assert account.used_percent(EPOCH) == 50.0
    assert account.next_change_at(EPOCH) == SUNDAY
    assert account.used_percent(SUNDAY) == 0.0


def test_a_lease_may_be_short() -> None:
    account = ledger(WEEK)
    hold(account, 10, lease_s=0.5)
    assert account.next_change_at(EPOCH) == EPOCH + 0.5
    assert account.view(EPOCH + 0.5).windows[0].held == 0


def test_windows_opened_one_after_the_other_wait_again_together_when_nothing_was_used() -> None:
    account = ledger(SLIDING, SLIDING_DAY)
    first = hold(account, 10, lease_s=9 * HOUR)
    later = EPOCH + 6 * HOUR
    second = hold(account, 10, later)
    assert [window.resets_at for window in account.view(later).windows] == [later + 5 * HOUR, EPOCH + DAY]
    account.release(first, later)
    account.release(second, later)
    assert [window.resets_at for window in account.view(later).windows] == [None, None]


def test_a_wall_says_how_long_it_stood_once() -> None:
    account = ledger(WEEK)
    account.mark_exhausted(EPOCH + 100, EPOCH, reason="daily")
    assert account.ended_wall(EPOCH + 99) == 0.0
    assert account.ended_wall(EPOCH + 100) == 100.0
    assert account.ended_wall(EPOCH + 101) == 0.0
    assert account.exhausted_reason == ""


def test_a_wall_that_was_taken_away_left_nothing() -> None:
    account = ledger(WEEK)
    account.mark_exhausted(EPOCH + 100, EPOCH, reason="daily")
    account.clear_exhausted(EPOCH + 1)
    assert (account.exhausted_until, account.exhausted_reason, account.wall()) == (None, "", None)
    assert account.ended_wall(EPOCH + 200) == 0.0


def test_the_same_end_named_again_leaves_the_first_reason() -> None:
    account = ledger(WEEK)
    account.mark_exhausted(EPOCH + 100, EPOCH, reason="first")
    account.mark_exhausted(EPOCH + 100, EPOCH + 1, reason="again")
    assert account.wall() == WallState(EPOCH + 100, EPOCH, "first")
    assert account.exhausted_at == EPOCH


def test_the_next_reset_is_the_first_end_of_a_window_or_a_wall_and_no_lease() -> None:
    assert ledger().next_reset_at(EPOCH) is None
    account = ledger(WEEK, SLIDING)
    assert account.next_reset_at(EPOCH) == SUNDAY
    hold(account, 10, lease_s=1.0)
    assert account.next_reset_at(EPOCH) == EPOCH + 5 * HOUR
    account.mark_exhausted(EPOCH + 30, EPOCH, reason="")
    assert account.next_reset_at(EPOCH) == EPOCH + 30
    assert account.next_reset_at(EPOCH + 30) == EPOCH + 5 * HOUR
    account.mark_exhausted(SUNDAY + DAY, EPOCH + 31, reason="")
    assert account.next_reset_at(EPOCH + 31) == EPOCH + 5 * HOUR


def test_a_wall_alone_has_an_end_too() -> None:
    account = ledger()
    account.mark_exhausted(EPOCH + 30, EPOCH, reason="")
    assert account.next_reset_at(EPOCH) == EPOCH + 30


def test_a_reading_starts_a_waiting_window_when_it_was_read_and_no_other() -> None:
    account = ledger(WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.CREDITS, 10.0), SLIDING_DAY)
    account.set_used(0, 0.5, EPOCH, TruthLabel.REPORTED, read_at=EPOCH - 60)
    assert [w.resets_at for w in account.view(EPOCH).windows] == [EPOCH - 60 + 5 * HOUR, None]
    hold(account, 10, EPOCH + 1)
    assert account.view(EPOCH + 1).windows[1].resets_at == EPOCH + 1 + DAY
    ahead = ledger(SLIDING)
    ahead.set_used(0, 5, EPOCH, TruthLabel.REPORTED, read_at=EPOCH + 60)
    assert ahead.view(EPOCH).windows[0].resets_at == EPOCH + 5 * HOUR, "not from the future"


def test_a_window_of_which_a_reading_knows_use_stays_open_when_an_attempt_used_nothing() -> None:
    account = ledger(SLIDING, SLIDING_DAY)
    running = hold(account, 10)
    account.set_used(0, 5, EPOCH, TruthLabel.REPORTED)
    account.release(running, EPOCH + 1)
    assert [w.resets_at for w in account.view(EPOCH + 1).windows] == [EPOCH + 5 * HOUR, None]


def test_an_own_count_set_by_hand_is_as_old_as_that() -> None:
    account = ledger(WEEK)
    account.set_used(0, 5, EPOCH + 9, TruthLabel.MEASURED, read_at=EPOCH - 60)
    assert account.view(EPOCH + 9).windows[0].read_at == EPOCH + 9


# The exact limit


def test_of_an_unknown_and_a_known_window_the_known_one_tells() -> None:
    account = ledger(SHARE, WEEK)
    account.set_used(1, 850, EPOCH, TruthLabel.REPORTED)
    assert account.used_percent(EPOCH) == 85.0
    hold(account, 10)
    assert account.committed_percent(EPOCH) == 86.0
    assert account.status(EPOCH) is QuotaStatus.WARNING
    assert account.view(EPOCH).binding == 1


def test_a_window_of_one_or_less_shows_what_is_held_and_one_of_none_does_not_divide() -> None:
    for limit, percent in ((1.0, 25.0), (0.5, 50.0)):
        account = ledger(WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, limit))
        assert account.reserve(QuotaEstimate(1, 1, 0.25), EPOCH, lease_s=60) is not None
        assert account.view(EPOCH).windows[0].held_percent == percent
    none = ledger(WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, 0, "00:00 UTC"))
    assert none.view(EPOCH).windows[0].held_percent == 0.0


# The exact words


def refusal(spec: WindowSpec, used: float, estimate: QuotaEstimate) -> str:
    account = ledger(spec)
    account.set_used(0, used, EPOCH, TruthLabel.REPORTED)
    return account.refusal(estimate, EPOCH)


def test_a_refusal_names_the_window_and_all_its_numbers() -> None:
    big = replace(WEEK, limit=100_000)
    assert refusal(big, 12_345, QuotaEstimate(90_000)) == (
        "week tokens: 12,345 used + 0 held + 90,000 asked "
        "does not fit the hard limit of 95,000 (95 % of 100,000)"
    )


def test_a_refusal_tells_fractions_as_fractions_and_an_empty_request_at_the_limit() -> None:
    half = WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, 0.5)
    assert refusal(half, 0.25, QuotaEstimate(1, 1, 0.5)) == (
        "month credits: 0.25 used + 0 held + 0.5 asked does not fit the hard limit of 0.475 (95 % of 0.5)"
    )
    assert refusal(WEEK, 950, QuotaEstimate(0)) == (
        "week tokens: 950 used + 0 held + 0 asked does not fit the hard limit of 950 (95 % of 1,000)"
    )
    nothing = replace(WEEK, limit=0)
    assert refusal(nothing, 0, QuotaEstimate(1)) == (
        "week tokens: 0 used + 0 held + 1 asked does not fit the hard limit of 0"
    )


def test_an_impossible_amount_is_told_as_such() -> None:
    assert ledger(WEEK).refusal(QuotaEstimate(-1), EPOCH) == "week tokens: can't reserve -1"


def test_windows_that_refuse_are_told_one_after_the_other() -> None:
    account = ledger(WEEK, DAILY)
    told = account.refusal(QuotaEstimate(2_000, 20), EPOCH).split("; ")
    assert [part.partition(":")[0] for part in told] == ["week tokens", "day requests"]


def test_a_wall_is_told_in_universal_time_with_its_reason_if_there_is_one(tokyo: None) -> None:
    account = ledger(WEEK)
    account.mark_exhausted(EPOCH + 100, EPOCH, reason="")
    assert account.refusal(QuotaEstimate(1), EPOCH) == "exhausted until 2026-03-02 12:01:40 UTC"


def test_a_reading_that_is_none_is_told_as_such() -> None:
    with pytest.raises(ValueError, match=r"^a count that nobody knows is no reading$"):
        ledger(WEEK).set_used(0, 1, EPOCH, TruthLabel.UNKNOWN)


def test_another_accounts_reservation_is_told_as_such() -> None:
    stranger = hold(ledger(WEEK), 10)
    with pytest.raises(ValueError, match=r"^the reservation belongs to another account$"):
        ledger(WEEK).release(stranger, EPOCH)


# Over a restart


def saved(spec: WindowSpec, used: float, started_at: float, ends_at: float, **more: object) -> WindowState:
    return WindowState(
        spec.kind,
        spec.unit,
        used,
        TruthLabel.MEASURED,
        started_at,
        ends_at,
        started_at,
        limit=spec.limit,
        **more,  # type: ignore[arg-type]
    )


def restored(*specs: WindowSpec, state: WindowState, now: float) -> AccountLedger:
    account = ledger(*specs, now=now)
    account.restore((state,), None, now)
    return account


def test_a_window_that_ends_at_the_very_moment_of_the_restart_begins_anew() -> None:
    account = restored(WEEK, state=saved(WEEK, 700, SUNDAY - 7 * DAY, SUNDAY), now=SUNDAY)
    assert account.view(SUNDAY).windows[0].used == 0
    assert len(account.roll(SUNDAY)) == 1


def test_a_reported_window_that_ends_at_the_very_moment_of_the_restart_is_gone() -> None:
    month = WindowSpec(WindowKind.MONTH, QuotaUnit.REQUESTS, 300)
    state = saved(month, 7, EPOCH - DAY, EPOCH, adopted=True)
    assert restored(WEEK, state=state, now=EPOCH).view(EPOCH).windows[0].kind is WindowKind.WEEK
    assert len(restored(WEEK, state=state, now=EPOCH).view(EPOCH).windows) == 1
    assert len(restored(WEEK, state=state, now=EPOCH - 1).view(EPOCH - 1).windows) == 2


@pytest.mark.parametrize(("spans", "believed"), [(2.0, True), (2.5, False)])
def test_an_end_up_to_two_spans_ahead_is_believed(spans: float, believed: bool) -> None:
    ends_at = EPOCH + spans * 5 * HOUR
    account = restored(SLIDING, state=saved(SLIDING, 70, EPOCH + 60, ends_at), now=EPOCH)
    (window,) = account.view(EPOCH).windows
    assert (window.used, window.resets_at) == (70, ends_at if believed else EPOCH + 5 * HOUR)


def test_a_window_that_began_at_the_very_moment_of_the_restart_ends_when_the_configuration_says() -> None:
    account = restored(WEEK, state=saved(WEEK, 70, EPOCH, EPOCH + 7 * DAY), now=EPOCH)
    (window,) = account.view(EPOCH).windows
    assert (window.used, window.resets_at) == (70, SUNDAY)
    ahead = restored(WEEK, state=saved(WEEK, 70, EPOCH + 1, EPOCH + 7 * DAY), now=EPOCH)
    assert ahead.view(EPOCH).windows[0].resets_at == EPOCH + 7 * DAY, "a span from the future stays"


def test_a_window_that_waits_for_its_first_use_still_does() -> None:
    account = restored(WEEK, SLIDING, state=saved(WEEK, 70, SUNDAY - 7 * DAY, SUNDAY), now=EPOCH)
    hold(account, 10)
    assert account.view(EPOCH).windows[1].resets_at == EPOCH + 5 * HOUR


def test_of_a_window_whose_end_alone_was_told_the_start_lies_one_span_before() -> None:
    account = ledger()
    index = account.adopt(SLIDING, EPOCH, ends_at=EPOCH + HOUR)
    account.set_used(index, 5, EPOCH, TruthLabel.REPORTED)
    (state,) = account.states()
    assert (state.started_at, state.ends_at) == (EPOCH - 4 * HOUR, EPOCH + HOUR)


def test_a_wall_is_kept_with_its_beginning_and_its_reason() -> None:
    account = ledger(WEEK)
    assert account.wall() is None
    assert account.exhausted_reason == ""
    account.mark_exhausted(EPOCH + 100, EPOCH + 1, reason="daily")
    assert account.wall() == WallState(EPOCH + 100, EPOCH + 1, "daily")


def test_the_week_in_which_the_clock_is_set_back_begins_where_it_began() -> None:
    berlin = replace(WEEK, resets="sun 00:00 Europe/Berlin")
    begins = datetime(2026, 10, 25, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    (state,) = ledger(berlin, now=begins + DAY).states()
    assert (state.started_at, state.ends_at) == (begins, begins + 7 * DAY + HOUR)
    assert state.adopted is False
