"""Readings meet the own count by explicit rules: nothing falls by accident, nothing is made up."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import (
    QuotaEstimate,
    QuotaReading,
    QuotaThresholds,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowReading,
    WindowSpec,
)
from smartfallback.policy.ledger import AccountLedger
from smartfallback.policy.ledger_readings import apply_reading
from smartfallback.policy.quota_merge import after_failure, as_of, assumed
from support.clock import EPOCH

WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1000, "sun 00:00 UTC")
TTL_S = 300.0


def tokens(used: float | None, limit: float | None = 1000, **fields: Any) -> WindowReading:
    return WindowReading("week", WindowKind.WEEK, QuotaUnit.TOKENS, used, limit, **fields)


def reading(
    *windows: WindowReading, label: TruthLabel = TruthLabel.REPORTED, at: float = EPOCH
) -> QuotaReading:
    return QuotaReading("a", "test", label, at, windows)


def estimate(now: float = EPOCH, *specs: WindowSpec) -> QuotaReading:
    return assumed("a", "test", specs, WindowKind.MONTH, now, "it failed")


def ledger(*specs: WindowSpec) -> AccountLedger:
    return AccountLedger(specs, QuotaThresholds(), now=EPOCH)


def spend(account: AccountLedger, amount: int, now: float) -> None:
    reservation = account.reserve(QuotaEstimate(amount), now, lease_s=60)
    assert reservation is not None
    account.settle(reservation, QuotaEstimate(amount), now)


class TestAfterFailure:
    def test_a_source_that_never_answered_leaves_the_pessimistic_estimate(self) -> None:
        held = after_failure(None, estimate(EPOCH, WEEK), ttl_s=TTL_S, now=EPOCH)
        assert (held.percent, held.label, held.note) == (80.0, TruthLabel.ESTIMATED, "it failed")

    def test_an_account_without_windows_is_assumed_too(self) -> None:
        (window,) = estimate().windows
        assert (window.kind, window.unit, window.percent) == (WindowKind.MONTH, QuotaUnit.FRACTION, 80.0)

    @pytest.mark.parametrize(
        ("age", "label"),
        [
            (0, TruthLabel.REPORTED),
            (2 * TTL_S, TruthLabel.REPORTED),
            (2 * TTL_S + 1, TruthLabel.STALE),
            (9 * TTL_S, TruthLabel.STALE),
        ],
    )
    def test_what_it_said_last_is_kept_and_ages(self, age: float, label: TruthLabel) -> None:
        now = EPOCH + age
        held = after_failure(reading(tokens(300)), estimate(now), ttl_s=TTL_S, now=now)
        assert (held.percent, held.label, held.read_at) == (30.0, label, EPOCH)
        assert held.age(now) == age

    def test_a_figure_from_before_a_reset_is_forgotten(self) -> None:
        last = reading(tokens(950, resets_at=EPOCH + 100))
        now = EPOCH + 100
        assert after_failure(last, estimate(now), ttl_s=TTL_S, now=now).label is TruthLabel.ESTIMATED
        assert after_failure(last, estimate(now - 1), ttl_s=TTL_S, now=now - 1).percent == 95.0

    def test_no_limit_is_something_known(self) -> None:
        last = reading(WindowReading("m", WindowKind.MONTH, QuotaUnit.REQUESTS, unlimited=True))
        assert after_failure(last, estimate(), ttl_s=TTL_S, now=EPOCH).windows == last.windows

    def test_an_unknown_answer_does_not_become_known_by_failing(self) -> None:
        last = reading(tokens(None), label=TruthLabel.UNKNOWN)
        assert after_failure(last, estimate(), ttl_s=TTL_S, now=EPOCH).label is TruthLabel.ESTIMATED


class TestMerging:
    def test_a_report_replaces_the_own_count_up_and_down(self) -> None:
        account = ledger(WEEK)
        spend(account, 200, EPOCH)
        assert apply_reading(account, reading(tokens(700)), EPOCH + 1)
        assert account.used_percent(EPOCH + 1) == 70.0
        assert apply_reading(account, reading(tokens(100), at=EPOCH + 2), EPOCH + 3)
        view = account.view(EPOCH + 3).windows[0]
        assert (view.percent, view.label, view.read_at) == (10.0, TruthLabel.REPORTED, EPOCH + 2)

    def test_own_use_since_the_source_was_asked_is_added(self) -> None:
        account = ledger(WEEK)
        spend(account, 100, EPOCH)
        mark = account.own_use(EPOCH)
        spend(account, 50, EPOCH + 1)
        apply_reading(account, reading(tokens(400)), EPOCH + 2, mark)
        assert account.used_percent(EPOCH + 2) == 45.0
        spend(account, 50, EPOCH + 3)
        assert account.used_percent(EPOCH + 3) == 50.0

    def test_telling_the_same_reading_again_takes_nothing_back(self) -> None:
        account = ledger(WEEK)
        apply_reading(account, reading(tokens(400)), EPOCH)
        spend(account, 100, EPOCH + 1)
        assert not apply_reading(account, reading(tokens(400)), EPOCH + 2, account.own_use(EPOCH + 2))
        assert account.used_percent(EPOCH + 2) == 50.0

    def test_stale_changes_the_label_only(self) -> None:
        account = ledger(WEEK)
        apply_reading(account, reading(tokens(400)), EPOCH)
        spend(account, 100, EPOCH + 1)
        apply_reading(account, as_of(reading(tokens(400)), ttl_s=1, now=EPOCH + 9), EPOCH + 9)
        view = account.view(EPOCH + 9).windows[0]
        assert (view.used, view.label, view.read_at) == (500, TruthLabel.STALE, EPOCH)

    def test_a_source_that_comes_back_is_believed_again(self) -> None:
        account = ledger(WEEK)
        apply_reading(account, reading(tokens(400)), EPOCH)
        apply_reading(account, reading(tokens(400), label=TruthLabel.STALE), EPOCH + 9)
        apply_reading(account, reading(tokens(410), at=EPOCH + 10), EPOCH + 10)
        assert account.view(EPOCH + 10).windows[0].label is TruthLabel.REPORTED

    def test_an_estimate_raises_a_count_that_nobody_reported(self) -> None:
        account = ledger(WEEK)
        spend(account, 100, EPOCH)
        apply_reading(account, estimate(EPOCH, WEEK), EPOCH)
        view = account.view(EPOCH).windows[0]
        assert (view.percent, view.label) == (80.0, TruthLabel.ESTIMATED)
        spend(account, 50, EPOCH + 1)
        apply_reading(account, estimate(EPOCH + 2, WEEK), EPOCH + 2)
        assert account.used_percent(EPOCH + 2) == 85.0

    def test_an_estimate_never_replaces_a_report(self) -> None:
        account = ledger(WEEK)
        apply_reading(account, reading(tokens(100)), EPOCH)
        assert not apply_reading(account, estimate(EPOCH + 1, WEEK), EPOCH + 1)
        assert account.used_percent(EPOCH + 1) == 10.0

    def test_an_old_report_without_a_source_that_answers_gets_stale(self) -> None:
        account = ledger(WEEK)
        apply_reading(account, reading(tokens(100)), EPOCH)
        apply_reading(account, estimate(EPOCH + 3600, WEEK), EPOCH + 3600)
        view = account.view(EPOCH + 3600).windows[0]
        assert (view.percent, view.label, view.read_at) == (10.0, TruthLabel.STALE, EPOCH)

    def test_a_window_counted_from_its_start_needs_no_estimate(self) -> None:
        account = ledger(WEEK)
        sunday = account.view(EPOCH).windows[0].resets_at
        assert sunday is not None
        spend(account, 100, sunday + 1)
        assert not apply_reading(account, estimate(sunday + 2, WEEK), sunday + 2)
        assert account.used_percent(sunday + 2) == 10.0

    def test_a_reading_from_before_the_window_is_another_windows(self) -> None:
        account = ledger(WEEK)
        sunday = account.view(EPOCH).windows[0].resets_at
        assert sunday is not None
        assert not apply_reading(account, reading(tokens(900), at=sunday - 1), sunday + 1)
        assert account.used_percent(sunday + 1) == 0.0

    def test_a_correction_is_newer_than_an_older_reading(self) -> None:
        account = ledger(WEEK)
        account.set_used(0, 600, EPOCH + 5, TruthLabel.REPORTED)
        assert not apply_reading(account, reading(tokens(100)), EPOCH + 6)
        assert account.used_percent(EPOCH + 6) == 60.0

    @pytest.mark.parametrize(
        "window",
        [
            tokens(None),
            tokens(None, percent_used=None, resets_at=EPOCH + 5),
            WindowReading("burst", None, QuotaUnit.TOKENS, 60, 60, 100.0),
            WindowReading("week", WindowKind.WEEK, QuotaUnit.TOKENS, unlimited=True),
        ],
    )
    def test_what_says_nothing_of_the_window_changes_nothing(self, window: WindowReading) -> None:
        account = ledger(WEEK)
        spend(account, 100, EPOCH)
        assert not apply_reading(account, reading(window), EPOCH)
        assert account.view(EPOCH).windows[0].label is TruthLabel.MEASURED

    def test_a_share_is_taken_of_the_configured_limit(self) -> None:
        account = ledger(WEEK)
        share = WindowReading("w", WindowKind.WEEK, QuotaUnit.FRACTION, percent_used=33.0)
        apply_reading(account, reading(share), EPOCH)
        assert account.view(EPOCH).windows[0].used == 330

    @pytest.mark.parametrize(("limit", "percent"), [(4000, 50.0), (500, 100.0)])
    def test_of_two_limits_the_nearer_wall_counts(self, limit: float, percent: float) -> None:
        account = ledger(WEEK)
        apply_reading(account, reading(tokens(500, limit)), EPOCH)
        assert account.used_percent(EPOCH) == percent

    def test_the_fullest_of_several_limits_counts(self) -> None:
        account = ledger(WEEK)
        apply_reading(account, reading(tokens(100), tokens(600), tokens(300)), EPOCH)
        assert account.used_percent(EPOCH) == 60.0


class TestAdopting:
    def month(self, used: float, limit: float = 300) -> WindowReading:
        return WindowReading(
            "premium", WindowKind.MONTH, QuotaUnit.REQUESTS, used, limit, resets_at=EPOCH + 1000
        )

    def test_a_reported_window_that_nobody_configured_is_counted(self) -> None:
        account = ledger()
        apply_reading(account, reading(self.month(60)), EPOCH + 1)
        view = account.view(EPOCH + 1).windows[0]
        assert (view.kind, view.unit, view.limit, view.percent, view.resets_at) == (
            WindowKind.MONTH,
            QuotaUnit.REQUESTS,
            300,
            20.0,
            EPOCH + 1000,
        )
        spend(account, 10, EPOCH + 2)
        assert account.view(EPOCH + 2).windows[0].used == 61
        assert account.view(EPOCH + 1000).windows[0].percent == 0.0

    def test_an_estimate_shows_where_there_is_no_window_and_makes_way_for_the_truth(self) -> None:
        account = ledger()
        apply_reading(account, estimate(EPOCH), EPOCH)
        view = account.view(EPOCH)
        assert [(w.percent, w.label) for w in view.windows] == [(80.0, TruthLabel.ESTIMATED)]
        apply_reading(account, reading(self.month(60), at=EPOCH + 1), EPOCH + 2)
        view = account.view(EPOCH + 2)
        assert [(w.unit, w.percent, w.label) for w in view.windows] == [
            (QuotaUnit.REQUESTS, 20.0, TruthLabel.REPORTED)
        ]

    def test_a_second_report_finds_the_window_again(self) -> None:
        account = ledger()
        apply_reading(account, reading(self.month(60)), EPOCH + 1)
        apply_reading(account, reading(self.month(90), at=EPOCH + 2), EPOCH + 3)
        assert [w.percent for w in account.view(EPOCH + 3).windows] == [30.0]

    def test_attempts_that_run_meanwhile_end_without_harm(self) -> None:
        account = ledger(WEEK)
        reservation = account.reserve(QuotaEstimate(100), EPOCH, lease_s=60)
        assert reservation is not None
        apply_reading(account, reading(self.month(60)), EPOCH + 1)
        account.settle(reservation, QuotaEstimate(80), EPOCH + 2)
        week, month = account.view(EPOCH + 2).windows
        assert (week.used, week.held, month.used, month.held) == (80, 0, 60, 0)

    def test_bursts_are_never_adopted(self) -> None:
        account = ledger()
        burst = WindowReading("requests", None, QuotaUnit.REQUESTS, 60, 60, 100.0, EPOCH + 30)
        for label in TruthLabel:
            assert not apply_reading(account, reading(burst, label=label), EPOCH)
        assert account.view(EPOCH).windows == ()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.integers(0, 60)),
        st.tuples(st.just("reported"), st.integers(0, 1200)),
        st.tuples(st.just("old report"), st.integers(0, 1200)),
        st.tuples(st.just("again"), st.just(0)),
        st.tuples(st.just("stale"), st.just(0)),
        st.tuples(st.just("estimate"), st.just(0)),
        st.tuples(st.just("unknown"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 90_000)),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_percent_falls_by_a_reset_or_a_newer_report_only(steps: list[tuple[str, int]]) -> None:
    account = ledger(WEEK)
    now = EPOCH
    last: QuotaReading | None = None
    for step, amount in steps:
        now += 1
        account.roll(now)
        before = account.used_percent(now)
        assert before is not None
        may_fall = False
        if step == "spend":
            reservation = account.reserve(QuotaEstimate(amount), now, lease_s=60)
            if reservation is not None:
                account.settle(reservation, QuotaEstimate(amount), now)
        elif step == "reported":
            last = reading(tokens(amount), at=now)
            apply_reading(account, last, now)
            may_fall = True
        elif step == "old report" and last is not None:
            apply_reading(account, reading(tokens(amount), at=last.read_at - 1), now)
        elif step == "again" and last is not None:
            apply_reading(account, last, now, account.own_use(now))
        elif step == "stale" and last is not None:
            apply_reading(account, as_of(last, ttl_s=0.0, now=now), now)
        elif step == "estimate":
            apply_reading(account, estimate(now, WEEK), now)
        elif step == "unknown":
            apply_reading(account, reading(tokens(None), label=TruthLabel.UNKNOWN, at=now), now)
        elif step == "wait":
            now += amount
            may_fall = bool(account.roll(now))
        after = account.used_percent(now)
        assert after is not None
        assert may_fall or after >= before
        window = account.view(now).windows[0]
        assert window.label is not TruthLabel.UNKNOWN
        assert window.read_at is not None
        assert window.read_at <= now


FIGURES = st.none() | st.floats(0, 1e6, allow_nan=False)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from([None, *WindowKind]), FIGURES, FIGURES, FIGURES), max_size=4),
    st.sampled_from(TruthLabel),
    st.integers(0, 5000),
)
def test_what_nobody_said_is_never_0_or_100(
    windows: list[tuple[WindowKind | None, float | None, float | None, float | None]],
    label: TruthLabel,
    age: int,
) -> None:
    said = QuotaReading(
        "a",
        "test",
        label,
        EPOCH,
        tuple(
            WindowReading("w", kind, QuotaUnit.TOKENS, used, limit or None, percent)
            for kind, used, limit, percent in windows
        ),
    )
    now = EPOCH + age
    held = after_failure(said, estimate(now), ttl_s=TTL_S, now=now)
    assert held.label is not TruthLabel.UNKNOWN
    assert held.age(now) in (0, age)
    if said.percent is None:
        assert held.percent == 80.0
        assert held.label is TruthLabel.ESTIMATED
    account = ledger()
    apply_reading(account, said, now)
    for window in account.view(now).windows:
        assert window.percent is not None
        assert window.label in (TruthLabel.REPORTED, TruthLabel.ESTIMATED)


@pytest.mark.parametrize(
    "fields",
    [{"used": -1.0}, {"used": math.nan}, {"percent_used": math.inf}, {"limit": 0.0}, {"resets_at": math.nan}],
)
def test_a_reading_of_nonsense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        WindowReading("w", None, QuotaUnit.TOKENS, **fields)


def test_a_share_beyond_all_numbers_is_unknown() -> None:
    assert WindowReading("w", WindowKind.WEEK, QuotaUnit.TOKENS, 1.0, 5e-324).percent is None


@settings(deadline=None, max_examples=200)
@given(used=st.integers(0, 10**9), limit=st.integers(1, 10**9))
def test_a_reported_amount_is_taken_up_exactly_whatever_its_share_rounds_to(used: int, limit: int) -> None:
    spec = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, limit, "sun 00:00 UTC")
    account = ledger(spec)
    share = 100.0 * used / limit
    apply_reading(account, reading(tokens(used, limit, percent_used=share)), EPOCH)
    assert account.tracked(EPOCH)[0].used == used
