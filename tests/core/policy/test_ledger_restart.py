"""What a ledger hands over to its successor after a restart."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import QuotaStatus, QuotaThresholds, QuotaUnit, TruthLabel, WindowKind, WindowSpec
from smartfallback.model.quota import QuotaEstimate
from smartfallback.model.state import WallState, WindowState
from smartfallback.policy.ledger import AccountLedger
from support.clock import EPOCH

HOUR_S, DAY_S = 3_600.0, 86_400.0
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000, "sun 00:00 UTC")
SLIDING = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 1_000)
CREDITS = WindowSpec(WindowKind.MONTH, QuotaUnit.CREDITS, 300.0)
SUNDAY = EPOCH + 5.5 * DAY_S
"""The midnight after the Monday noon of EPOCH at which the week begins anew."""


def ledger(*specs: WindowSpec, now: float = EPOCH) -> AccountLedger:
    return AccountLedger(specs, QuotaThresholds(), now=now)


def spend(account: AccountLedger, tokens: int, now: float) -> None:
    held = account.reserve(QuotaEstimate(tokens), now, lease_s=60.0)
    assert held is not None
    account.settle(held, QuotaEstimate(tokens), now)


def restarted(old: AccountLedger, *specs: WindowSpec, now: float) -> AccountLedger:
    new = ledger(*specs, now=now)
    new.restore(old.states(), old.wall(), now)
    return new


def facts(account: AccountLedger, now: float) -> list[object]:
    """The windows; an unused one counts since its ledger was made, whenever that was."""
    windows = account.view(now).windows
    return [window if window.used else replace(window, read_at=None) for window in windows]


@settings(max_examples=50, deadline=None)
@given(
    spent=st.lists(st.tuples(st.integers(1, 60), st.floats(0.0, DAY_S)), max_size=6),
    off_s=st.floats(0.0, 9 * DAY_S),
)
def test_a_restart_changes_nothing_that_time_would_not_have_changed(spent, off_s):
    now = EPOCH
    running = ledger(WEEK, SLIDING)
    for tokens, after_s in spent:
        spend(running, tokens, now)
        now += after_s
    states, wall = running.states(), running.wall()
    now += off_s
    successor = ledger(WEEK, SLIDING, now=now)
    successor.restore(states, wall, now)
    assert facts(successor, now) == facts(running, now)
    assert successor.next_change_at(now) == running.next_change_at(now)


def test_what_is_held_dies_with_its_process():
    old = ledger(WEEK)
    assert old.reserve(QuotaEstimate(500), EPOCH, lease_s=60.0) is not None
    (window,) = restarted(old, WEEK, now=EPOCH + 1).view(EPOCH + 1).windows
    assert (window.used, window.held) == (0, 0)


def test_a_window_that_a_source_reported_is_there_again_with_its_age():
    old = ledger()
    index = old.adopt(CREDITS, EPOCH, ends_at=EPOCH + 9 * DAY_S)
    old.set_used(index, 120.0, EPOCH + 5, TruthLabel.REPORTED, read_at=EPOCH + 1)
    old.set_end(index, EPOCH + 9 * DAY_S, EPOCH + 5)
    assert all(math.isfinite(state.started_at) for state in old.states())
    now = EPOCH + DAY_S
    new = restarted(old, now=now)
    assert new.view(now) == old.view(now)
    (window,) = new.view(now).windows
    assert (window.label, window.read_at, window.percent) == (TruthLabel.REPORTED, EPOCH + 1, 40.0)
    assert [state.adopted for state in new.states()] == [True]
    assert restarted(old, now=EPOCH + 10 * DAY_S).view(EPOCH + 10 * DAY_S).windows == ()


def test_a_window_that_nobody_configures_any_longer_is_gone_and_a_new_one_is_empty():
    old = ledger(WEEK)
    spend(old, 100, EPOCH)
    (window,) = restarted(old, SLIDING, now=EPOCH + 1).view(EPOCH + 1).windows
    assert (window.kind, window.used) == (WindowKind.FIVE_HOURS, 0)


def test_another_reset_in_the_configuration_keeps_the_count_until_then():
    old = ledger(WEEK)
    spend(old, 100, EPOCH)
    new = restarted(old, replace(WEEK, resets="wed 00:00 UTC"), now=EPOCH + 1)
    (window,) = new.view(EPOCH + 1).windows
    assert (window.used, window.resets_at) == (100, EPOCH + 1.5 * DAY_S)
    assert new.view(EPOCH + 1.5 * DAY_S).windows[0].used == 0


def test_a_clock_that_was_set_back_over_the_reset_does_not_bring_the_old_week_back():
    old = ledger(WEEK)
    spend(old, 900, EPOCH)
    spend(old, 100, SUNDAY + 60)
    now = SUNDAY - 600
    new = restarted(old, WEEK, now=now)
    (window,) = new.view(now).windows
    assert (window.used, window.resets_at) == (100, SUNDAY + 7 * DAY_S)
    assert new.view(SUNDAY + 1).windows[0].used == 100


def test_a_span_from_a_clock_that_was_years_ahead_ends_with_the_week():
    far = WindowState(
        WindowKind.WEEK,
        QuotaUnit.TOKENS,
        700,
        TruthLabel.MEASURED,
        EPOCH + 900 * DAY_S,
        EPOCH + 907 * DAY_S,
        EPOCH,
    )
    new = ledger(WEEK)
    new.restore((far,), None, EPOCH)
    (window,) = new.view(EPOCH).windows
    assert (window.used, window.resets_at) == (700, SUNDAY)


@pytest.mark.parametrize(
    ("later_s", "status"), [(HOUR_S, QuotaStatus.EXHAUSTED), (DAY_S, QuotaStatus.HEALTHY)]
)
def test_a_wall_stands_for_as_long_as_it_was_named_for(later_s, status):
    new = ledger(WEEK, now=EPOCH + later_s)
    new.restore((), WallState(EPOCH + DAY_S, EPOCH, "daily limit"), EPOCH + later_s)
    assert new.status(EPOCH + later_s) is status
    refusal = new.refusal(QuotaEstimate(1), EPOCH + later_s)
    assert ("daily limit" in refusal) is (status is QuotaStatus.EXHAUSTED)
