"""A ledger of which other instances spend too."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import (
    QuotaEstimate,
    QuotaThresholds,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.sharing import CountBase, SharedWindow
from smartfallback.policy.ledger import AccountLedger
from smartfallback.policy.ledger_sharing import Appetite

NOW = 1_700_000_000.0
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000, "sun 00:00 UTC")
SLIDING = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 1_000)
KEY = "week.tokens.0"
ME, OTHER = "me#1", "other#1"


def ledger(*windows: WindowSpec) -> AccountLedger:
    made = AccountLedger(windows or (WEEK,), QuotaThresholds(hard_limit=100), now=NOW)
    made.share(ME)
    return made


def spend(it: AccountLedger, tokens: int, now: float = NOW) -> None:
    held = it.reserve(QuotaEstimate(tokens), now, lease_s=60)
    assert held is not None
    it.settle(held, QuotaEstimate(tokens), now)


def week(it: AccountLedger, **fields: object) -> SharedWindow:
    report = it.reports(NOW, {})[0]
    return replace(SharedWindow(report.started_at, report.ends_at), **fields)  # type: ignore[arg-type]


def used(it: AccountLedger, now: float = NOW) -> float:
    return it.view(now).windows[0].used


def test_what_others_used_counts_and_so_does_what_was_not_told_yet() -> None:
    it = ledger()
    spend(it, 30)
    told = week(it, spent={ME: 30.0, OTHER: 200.0})
    spend(it, 5)

    assert it.mirror({KEY: told}, NOW)

    assert used(it) == 235
    assert not it.mirror({KEY: told}, NOW), "the same once more is no change"


def test_a_leased_ledger_goes_as_far_as_its_ceiling() -> None:
    it = ledger()
    first = it.reserve(QuotaEstimate(10), NOW, lease_s=60)
    assert first is not None
    assert it.overdrawn, "without a slice nothing may be spent without asking"

    it.mirror({KEY: week(it, spent={}, ceilings={ME: 25.0})}, NOW)
    assert not it.overdrawn

    it.settle(first, QuotaEstimate(10), NOW)
    spend(it, 15)
    assert not it.overdrawn, "exactly the slice"
    assert it.reserve(QuotaEstimate(1), NOW, lease_s=60) is not None
    assert it.overdrawn


def test_what_the_store_holds_for_this_instance_may_be_spent_besides_its_slice() -> None:
    it = ledger()
    spend(it, 100)
    it.reserve(QuotaEstimate(50), NOW, lease_s=60)
    told = week(it, spent={ME: 100.0}, held={ME: 50.0, OTHER: 70.0}, ceilings={ME: 120.0})
    it.mirror({KEY: told}, NOW)
    assert it.view(NOW).windows[0].elsewhere == 70
    assert not it.overdrawn
    it.reserve(QuotaEstimate(20), NOW, lease_s=60)
    assert not it.overdrawn
    it.reserve(QuotaEstimate(1), NOW, lease_s=60)
    assert it.overdrawn


def test_a_window_that_begins_anew_has_no_slice_and_nobody_elsewhere() -> None:
    it = ledger()
    it.mirror({KEY: week(it, ceilings={ME: 100.0, OTHER: 300.0}, spent={OTHER: 200.0})}, NOW)
    assert it.view(NOW).windows[0].elsewhere == 100
    later = NOW + 8 * 86_400
    held = it.reserve(QuotaEstimate(1), later, lease_s=60)
    assert held is not None
    assert it.overdrawn
    assert it.view(later).windows[0].elsewhere == 0
    assert used(it, later) == 0


def test_what_a_past_window_held_elsewhere_changes_nothing_here() -> None:
    it = ledger()
    told = week(it, spent={OTHER: 700.0})
    later = NOW + 8 * 86_400
    assert it.roll(later)
    assert not it.mirror({KEY: told}, later)
    assert used(it, later) == 0


def test_a_sliding_window_runs_as_it_began_first_anywhere() -> None:
    it = ledger(SLIDING)
    theirs = SharedWindow(NOW - 3_600, NOW + 4 * 3_600, spent={OTHER: 400.0}, ceilings={ME: 50.0})
    assert it.reports(NOW, {}) == (), "nothing to say of a window that has not begun"

    assert it.mirror({"5h.tokens.0": theirs}, NOW)

    view = it.view(NOW).windows[0]
    assert (view.used, view.resets_at) == (400, NOW + 4 * 3_600)
    held = it.reserve(QuotaEstimate(20), NOW, lease_s=60)
    assert held is not None
    it.release(held, NOW)
    assert it.view(NOW).windows[0].used == 400, "others used it, so it was no trial"


def test_a_reading_is_told_with_what_everybody_had_spent_by_then() -> None:
    it = ledger()
    spend(it, 40)
    it.mirror({KEY: week(it, spent={ME: 40.0, OTHER: 60.0})}, NOW)
    it.own_use(NOW)  # the source is asked
    it.mirror({KEY: week(it, spent={ME: 40.0, OTHER: 90.0})}, NOW)
    it.set_used(0, 500, NOW + 1, TruthLabel.REPORTED, read_at=NOW)

    base = it.reports(NOW + 1, {})[0].base

    assert base == CountBase(500, NOW, TruthLabel.REPORTED, {ME: 40.0, OTHER: 60.0})
    assert it.unshared
    told = week(it, base=base, spent={ME: 40.0, OTHER: 90.0})
    it.mirror({KEY: told}, NOW + 1)
    assert used(it) == 530, "what the other spent after the source was asked counts"
    assert not it.unshared


def test_a_reading_of_another_instance_replaces_the_count_with_its_label() -> None:
    it = ledger()
    spend(it, 10)
    base = CountBase(300, NOW, TruthLabel.REPORTED, {ME: 10.0, OTHER: 5.0})
    it.mirror({KEY: week(it, base=base, spent={ME: 10.0, OTHER: 25.0})}, NOW)
    view = it.view(NOW).windows[0]
    assert (view.used, view.label, view.read_at) == (320, TruthLabel.REPORTED, NOW)


def test_an_older_base_does_not_undo_a_correction_that_is_not_told_yet() -> None:
    it = ledger()
    it.set_used(0, 700, NOW, TruthLabel.REPORTED)
    old = CountBase(100, NOW - 60, TruthLabel.REPORTED)
    it.mirror({KEY: week(it, base=old)}, NOW)
    assert used(it) == 700
    assert it.unshared


def test_a_store_without_a_past_learns_what_was_kept_here() -> None:
    it = ledger()
    before = AccountLedger((WEEK,), QuotaThresholds(hard_limit=100), now=NOW)
    spend(before, 333)
    it.restore(before.states(), None, NOW)
    it.mirror({KEY: week(it, spent={ME: 0.0})}, NOW)
    assert used(it) == 333
    base = it.reports(NOW, {})[0].base
    assert base is not None
    assert base.used == 333


def test_a_store_with_a_past_knows_better_than_what_was_kept_here() -> None:
    it = ledger()
    before = AccountLedger((WEEK,), QuotaThresholds(hard_limit=100), now=NOW)
    spend(before, 333)
    it.restore(before.states(), None, NOW)
    it.mirror({KEY: week(it, spent={"me#0": 340.0})}, NOW)
    assert used(it) == 340
    assert it.reports(NOW, {})[0].base is None


def test_reports_carry_holds_and_appetite_when_slices_are_leased() -> None:
    it = ledger()
    it.reserve(QuotaEstimate(12), NOW, lease_s=60)
    report = it.reports(NOW, {KEY: Appetite(80, 12)})[0]
    assert (report.key, report.held, report.want, report.need, report.cap) == (KEY, 12, 80, 12, 1_000)
    assert it.reports(NOW, {}, {KEY: 5.0})[0].held == 5, "the store holds the rest by itself"


@settings(deadline=None, max_examples=80)
@given(
    instances=st.integers(1, 6),
    before=st.lists(st.integers(0, 150), min_size=6, max_size=6),
    slices=st.lists(st.integers(0, 80), min_size=6, max_size=6),
    leased=st.booleans(),
)
def test_with_the_store_lost_all_together_stay_within_the_limit(
    instances: int, before: list[int], slices: list[int], leased: bool
) -> None:
    """Granted ≤ leased + local share, whatever each had spent and leased before."""
    names = [f"i{number}#1" for number in range(instances)]
    spent = {name: float(before[number]) for number, name in enumerate(names)}
    room = 1_000 - sum(spent.values())
    ceilings = {}
    for number, name in enumerate(names):
        slice_ = min(float(slices[number]), room)
        room -= slice_
        ceilings[name] = spent[name] + slice_
    total = 0.0
    for number, name in enumerate(names):
        it = AccountLedger((WEEK,), QuotaThresholds(hard_limit=100), now=NOW)
        it.share(name)
        if before[number]:
            spend(it, before[number])
        it.mirror({KEY: week(it, spent=spent, ceilings=ceilings if leased else {})}, NOW)
        it.widen(instances)
        it.widen(instances)
        granted = 0
        while it.reserve(QuotaEstimate(7), NOW, lease_s=60) is not None and not it.overdrawn:
            granted += 7
        total += before[number] + granted
    assert total <= 1_000


def test_a_new_window_while_the_store_is_lost_has_a_share_of_its_own() -> None:
    it = ledger()
    it.widen(4)
    later = NOW + 8 * 86_400
    it.roll(later)
    it.reserve(QuotaEstimate(200), later, lease_s=60)
    it.widen(4)
    assert not it.overdrawn
    it.reserve(QuotaEstimate(300), later, lease_s=60)
    assert it.overdrawn


def test_an_account_without_limits_is_never_overdrawn() -> None:
    it = AccountLedger((), QuotaThresholds(), now=NOW)
    it.share(ME)
    it.reserve(QuotaEstimate(1_000_000), NOW, lease_s=60)
    assert not it.overdrawn
    assert it.reports(NOW, {}) == ()
