"""What sources teach a ledger: windows taken up and given up, their ends, and readings that meet several."""

from __future__ import annotations

import pytest

from smartfallback.model.quota import (
    QuotaEstimate,
    QuotaReading,
    QuotaStatus,
    QuotaThresholds,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowReading,
    WindowSpec,
)
from smartfallback.policy.ledger import AccountLedger, Reservation
from smartfallback.policy.ledger_readings import apply_reading
from support.clock import EPOCH

HOUR, DAY = 3_600.0, 86_400.0
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1000, "sun 00:00 UTC")
DAILY = WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, 100, "00:00 UTC")
FIVE_HOURS = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 1000)
WEEK_SHARE = WindowSpec(WindowKind.WEEK, QuotaUnit.FRACTION, 1.0, "sun 00:00 UTC")
MONTH = WindowSpec(WindowKind.MONTH, QuotaUnit.REQUESTS, 300)
MONTH_SHARE = WindowSpec(WindowKind.MONTH, QuotaUnit.FRACTION, 1.0)
CREDITS = WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, 10.0)
BY = EPOCH + 9 * DAY
"""When a source says that a window begins anew."""


def ledger(*specs: WindowSpec) -> AccountLedger:
    return AccountLedger(specs, QuotaThresholds(), now=EPOCH)


def hold(account: AccountLedger, tokens: int, now: float = EPOCH, lease_s: float = 60.0) -> Reservation:
    reservation = account.reserve(QuotaEstimate(tokens), now, lease_s=lease_s)
    assert reservation is not None
    return reservation


def spend(account: AccountLedger, tokens: int, now: float) -> None:
    account.settle(hold(account, tokens, now), QuotaEstimate(tokens), now)


def says(
    kind: WindowKind | None,
    unit: QuotaUnit,
    used: float | None = None,
    limit: float | None = None,
    **fields: float | None,
) -> WindowReading:
    return WindowReading("limit", kind, unit, used, limit, **fields)  # type: ignore[arg-type]


def tell(
    account: AccountLedger,
    *windows: WindowReading,
    label: TruthLabel = TruthLabel.REPORTED,
    at: float = EPOCH,
) -> bool:
    return apply_reading(account, QuotaReading("a", "test", label, at, windows), at)


def kinds(account: AccountLedger) -> list[tuple[WindowKind, QuotaUnit]]:
    return [(window.kind, window.unit) for window in account.view(EPOCH).windows]


def ends(account: AccountLedger, now: float = EPOCH) -> list[float | None]:
    return [window.resets_at for window in account.view(now).windows]


class TestAdopting:
    def test_it_ends_when_the_source_says(self) -> None:
        account = ledger()
        assert account.adopt(MONTH, EPOCH, ends_at=BY) == 0
        assert (ends(account), account.next_reset_at(EPOCH)) == ([BY], BY)

    def test_without_an_end_it_begins_with_the_first_use(self) -> None:
        account = ledger()
        account.adopt(WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 500), EPOCH)
        account.set_used(0, 0, EPOCH, TruthLabel.REPORTED)
        assert ends(account) == [None]
        hold(account, 10, EPOCH + 7)
        assert ends(account, EPOCH + 7) == [EPOCH + 7 + 5 * HOUR]

    def test_running_attempts_are_not_counted_in_it_however_many_windows_began_anew_before(self) -> None:
        account = ledger(DAILY)
        now = EPOCH + 3 * DAY
        account.roll(EPOCH + DAY)
        account.roll(EPOCH + 2 * DAY)
        running = hold(account, 10, now)
        account.adopt(MONTH, now, ends_at=BY)
        account.set_used(1, 60, now, TruthLabel.REPORTED)
        account.settle(running, QuotaEstimate(10), now)
        daily, month = account.view(now).windows
        assert (daily.used, daily.held, month.used, month.held) == (1, 0, 60, 0)

    def test_it_takes_the_place_of_its_share_alone(self) -> None:
        account = ledger(WEEK_SHARE)
        account.adopt(MONTH_SHARE, EPOCH)
        account.adopt(DAILY, EPOCH)
        assert account.adopt(MONTH, EPOCH) == 2
        share, fraction = QuotaUnit.FRACTION, WindowKind.WEEK
        assert kinds(account) == [
            (fraction, share),
            (WindowKind.DAY, QuotaUnit.REQUESTS),
            (WindowKind.MONTH, QuotaUnit.REQUESTS),
        ]

    def test_an_attempt_of_which_nothing_was_used_still_starts_no_window(self) -> None:
        account = ledger(FIVE_HOURS)
        running = hold(account, 10)
        account.adopt(MONTH, EPOCH, ends_at=BY)
        account.release(running, EPOCH + 1)
        assert ends(account, EPOCH + 1) == [None, BY]

    def test_holds_in_adopted_credits_leave_no_rounding_behind(self) -> None:
        account = ledger(WEEK)
        account.adopt(CREDITS, EPOCH, ends_at=BY)
        held = [account.reserve(QuotaEstimate(1, 1, amount), EPOCH, lease_s=60) for amount in (0.1, 0.2, 0.3)]
        for reservation in held:
            assert reservation is not None
            account.release(reservation, EPOCH)
        assert account.view(EPOCH).windows[1].held == 0

    def test_of_credits_the_others_stay_held(self) -> None:
        account = ledger(CREDITS)
        first, second = (
            account.reserve(QuotaEstimate(1, 1, amount), EPOCH, lease_s=60) for amount in (0.5, 0.25)
        )
        assert first is not None
        assert second is not None
        account.release(first, EPOCH)
        assert account.view(EPOCH).windows[0].held == 0.25


class TestGivingUp:
    def assumed(self, *specs: WindowSpec) -> AccountLedger:
        """A ledger with a month that was only assumed to be 80 % used."""
        account = ledger(*specs)
        index = account.adopt(MONTH_SHARE, EPOCH)
        account.set_used(index, 0.8, EPOCH, TruthLabel.ESTIMATED)
        return account

    def test_an_assumed_window_goes_when_others_are_reported(self) -> None:
        account = self.assumed()
        assert account.status(EPOCH) is QuotaStatus.WARNING
        assert account.drop_assumed({WindowKind.WEEK}, EPOCH)
        assert account.view(EPOCH).windows == ()
        assert account.status(EPOCH) is QuotaStatus.UNKNOWN
        assert not account.drop_assumed({WindowKind.WEEK}, EPOCH), "there is none any more"

    def test_one_of_a_reported_kind_stays_and_so_does_what_is_more_than_assumed(self) -> None:
        account = self.assumed()
        assert not account.drop_assumed({WindowKind.MONTH}, EPOCH)
        account.set_used(0, 0.5, EPOCH, TruthLabel.REPORTED)
        assert not account.drop_assumed({WindowKind.WEEK}, EPOCH)
        assert account.used_percent(EPOCH) == 50.0

    def test_what_is_configured_stays_though_it_was_only_estimated(self) -> None:
        account = ledger(WEEK)
        account.set_used(0, 800, EPOCH, TruthLabel.ESTIMATED)
        assert not account.drop_assumed({WindowKind.MONTH}, EPOCH)

    def test_the_others_go_on(self) -> None:
        account = self.assumed(FIVE_HOURS)
        account.drop_assumed({WindowKind.WEEK}, EPOCH)
        running = hold(account, 10)
        assert ends(account) == [EPOCH + 5 * HOUR], "it still waited for its first use"
        account.release(running, EPOCH + 1)
        assert ends(account, EPOCH + 1) == [None]

    def test_an_attempt_under_way_still_starts_no_window_when_nothing_is_used(self) -> None:
        account = self.assumed(FIVE_HOURS)
        running = hold(account, 10)
        account.drop_assumed({WindowKind.WEEK}, EPOCH)
        account.release(running, EPOCH + 1)
        assert ends(account, EPOCH + 1) == [None]


class TestEnds:
    def test_the_source_moves_the_end_of_a_window_that_slides_and_of_no_other(self) -> None:
        account = ledger(FIVE_HOURS, WEEK)
        sunday = account.view(EPOCH).windows[1].resets_at
        account.set_end(0, EPOCH + 100, EPOCH)
        account.set_end(1, EPOCH + 100, EPOCH)
        assert ends(account) == [EPOCH + 100, sunday]
        assert account.next_reset_at(EPOCH) == EPOCH + 100

    @pytest.mark.parametrize("end", [None, EPOCH - 1, EPOCH, float("inf"), float("nan")])
    def test_an_end_that_can_not_come_changes_nothing(self, end: float | None) -> None:
        account = ledger(FIVE_HOURS)
        spend(account, 10, EPOCH)
        account.set_end(0, end, EPOCH)
        assert ends(account) == [EPOCH + 5 * HOUR]

    def test_a_window_whose_end_is_known_stays_open_when_an_attempt_used_nothing(self) -> None:
        account = ledger(FIVE_HOURS)
        running = hold(account, 10)
        account.set_end(0, BY, EPOCH)
        account.release(running, EPOCH + 1)
        assert ends(account, EPOCH + 1) == [BY]

    def test_the_other_windows_still_wait_for_their_first_use(self) -> None:
        account = ledger(FIVE_HOURS, MONTH)
        account.set_end(1, BY, EPOCH)
        hold(account, 10, EPOCH + 2)
        assert ends(account, EPOCH + 2) == [EPOCH + 2 + 5 * HOUR, BY]


class TestOwnUse:
    def test_what_was_spent_in_a_window_taken_up_since_the_mark_is_own_use(self) -> None:
        account = ledger(WEEK)
        mark = account.own_use(EPOCH)
        account.adopt(MONTH, EPOCH, ends_at=BY)
        account.set_used(1, 5, EPOCH, TruthLabel.REPORTED)
        spend(account, 40, EPOCH + 1)
        assert [window.own_since for window in account.tracked(EPOCH + 1, mark)] == [40, 1]
        assert [window.own_since for window in account.tracked(EPOCH + 1)] == [0, 0]

    def test_of_a_window_that_began_anew_since_the_mark_all_is(self) -> None:
        account = ledger(DAILY)
        for _ in range(3):
            spend(account, 1, EPOCH)
        mark = account.own_use(EPOCH)
        tomorrow = EPOCH + DAY
        spend(account, 1, tomorrow)
        assert [window.own_since for window in account.tracked(tomorrow, mark)] == [1]


class TestReadings:
    def test_only_a_report_moves_the_end(self) -> None:
        account = ledger(FIVE_HOURS)
        used = says(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 500, 1000, resets_at=BY)
        tell(account, used, label=TruthLabel.LEARNED)
        assert ends(account) == [EPOCH + 5 * HOUR]
        tell(account, used, at=EPOCH + 1)
        assert ends(account, EPOCH + 1) == [BY]

    def test_of_several_ends_of_a_window_the_first_counts_and_none_of_anothers(self) -> None:
        account = ledger(FIVE_HOURS)
        tell(
            account,
            says(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 500, 1000, resets_at=EPOCH + 900),
            says(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 400, 1000, resets_at=EPOCH + 800),
            says(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 300, 1000),
            says(WindowKind.WEEK, QuotaUnit.REQUESTS, 5, 50, resets_at=EPOCH + 100),
        )
        assert ends(account) == [EPOCH + 800, EPOCH + 100]

    def test_a_share_is_taken_up_as_a_share_whatever_limit_it_names(self) -> None:
        account = ledger()
        tell(account, says(WindowKind.WEEK, QuotaUnit.FRACTION, limit=100, percent_used=40.0))
        (window,) = account.view(EPOCH).windows
        assert (window.unit, window.limit, window.used, window.percent) == (
            QuotaUnit.FRACTION,
            1.0,
            0.4,
            40.0,
        )

    def test_a_share_of_tokens_without_a_limit_is_taken_up_as_a_share(self) -> None:
        account = ledger()
        tell(account, says(WindowKind.WEEK, QuotaUnit.TOKENS, percent_used=40.0))
        assert kinds(account) == [(WindowKind.WEEK, QuotaUnit.FRACTION)]

    def test_a_window_that_is_configured_is_not_taken_up_again(self) -> None:
        account = ledger(DAILY, WEEK)
        tell(account, says(WindowKind.WEEK, QuotaUnit.TOKENS, 500, 2000))
        tell(account, says(WindowKind.WEEK, QuotaUnit.FRACTION, percent_used=50.0), at=EPOCH + 1)
        assert kinds(account) == [
            (WindowKind.DAY, QuotaUnit.REQUESTS),
            (WindowKind.WEEK, QuotaUnit.TOKENS),
        ]

    def test_a_configured_share_stands_for_an_exact_quota(self) -> None:
        account = ledger(WEEK_SHARE)
        tell(account, says(WindowKind.WEEK, QuotaUnit.TOKENS, 500, 2000))
        assert kinds(account) == [(WindowKind.WEEK, QuotaUnit.FRACTION)]
        assert account.used_percent(EPOCH) == 25.0

    def test_another_unit_of_the_same_span_is_another_window(self) -> None:
        account = ledger(WEEK)
        tell(account, says(WindowKind.WEEK, QuotaUnit.REQUESTS, 5, 50))
        assert kinds(account) == [
            (WindowKind.WEEK, QuotaUnit.TOKENS),
            (WindowKind.WEEK, QuotaUnit.REQUESTS),
        ]

    def test_what_was_assumed_goes_when_another_window_is_reported(self) -> None:
        account = ledger()
        tell(
            account,
            says(WindowKind.MONTH, QuotaUnit.FRACTION, percent_used=80.0),
            label=TruthLabel.ESTIMATED,
        )
        week = says(WindowKind.WEEK, QuotaUnit.TOKENS, 500, 2000)
        for says_nothing in (
            says(None, QuotaUnit.REQUESTS, 5, 50),
            says(WindowKind.WEEK, QuotaUnit.TOKENS, limit=2000),
        ):
            assert not tell(account, says_nothing, at=EPOCH + 1)
        assert not tell(account, week, label=TruthLabel.LEARNED, at=EPOCH + 1)
        assert kinds(account) == [(WindowKind.MONTH, QuotaUnit.FRACTION)]
        assert tell(account, week, at=EPOCH + 1)
        assert kinds(account) == [(WindowKind.WEEK, QuotaUnit.TOKENS)]

    def test_an_assumed_window_shows_no_end_even_when_one_is_said(self) -> None:
        account = ledger()
        share = says(WindowKind.MONTH, QuotaUnit.FRACTION, percent_used=80.0, resets_at=BY)
        tell(account, share, label=TruthLabel.ESTIMATED)
        assert ends(account) == [None]
        assert account.next_reset_at(EPOCH) == BY
