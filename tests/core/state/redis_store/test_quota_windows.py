"""Which window a report is about, and when a new one begins; only the server's time says when one is over."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from smartfallback.model.quota import TruthLabel
from smartfallback.model.sharing import CountBase
from support.quota_store import KEY, LEASE, SPAN, START, QuotaStore, reading, window
from support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(unix=True) as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> QuotaStore:
    return QuotaStore(server)


def test_the_first_report_begins_a_window_with_its_bounds(store: QuotaStore) -> None:
    seen = store.report("a", window(3, start=START - 400.25)).windows[KEY]
    assert (seen.started_at, seen.ends_at, seen.used) == (START - 400.25, START + SPAN - 400.25, 3)


def test_each_instance_adds_what_it_spent(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.report("b", window(12))
    seen = store.report("a", window(31)).windows[KEY]
    assert (seen.used, seen.spent) == (43, {"a": 31, "b": 12})


def test_a_count_never_falls(store: QuotaStore) -> None:
    store.report("a", window(30))
    assert store.report("a", window(20)).windows[KEY].spent == {"a": 30}


def test_more_than_the_limit_is_recorded(store: QuotaStore) -> None:
    assert store.report("a", window(500)).windows[KEY].used == 500


def test_a_new_window_begins_when_the_old_one_is_over(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.at(START + SPAN)
    seen = store.report("b", window(2, start=START + SPAN)).windows[KEY]
    assert (seen.started_at, seen.used, seen.spent) == (START + SPAN, 2, {"b": 2})


def test_of_a_window_that_has_gone_by_a_report_changes_nothing(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.at(START + SPAN)
    store.report("b", window(2, start=START + SPAN))
    seen = store.report("a", window(40, want=50, base=reading(77, store.now))).windows[KEY]
    assert (seen.started_at, seen.used, seen.ceilings) == (START + SPAN, 2, {})


def test_a_window_that_is_over_still_counts_what_settles_late(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.at(START + SPAN + 5)
    seen = store.report("a", window(40, want=50, need=5)).windows[KEY]
    assert (seen.ends_at, seen.used, seen.ceilings) == (START + SPAN, 40, {})


def test_of_a_window_that_was_over_before_anybody_told_of_it_nothing_is_kept(store: QuotaStore) -> None:
    assert store.report("a", window(30, start=START - SPAN)).windows == {}


def test_a_window_that_came_and_went_unseen_does_not_count_in_the_one_before(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.at(START + 2 * SPAN + 5)
    seen = store.report("b", window(40, start=START + SPAN)).windows[KEY]
    assert (seen.started_at, seen.used) == (START, 30)


@pytest.mark.parametrize("early", [3600.0, 0.5])
def test_a_clock_that_is_ahead_ends_no_window(store: QuotaStore, early: float) -> None:
    store.report("a", window(30))
    store.at(START + SPAN - early)
    seen = store.report("b", window(5, start=START + SPAN, want=50)).windows[KEY]
    assert (seen.started_at, seen.used, seen.ceilings) == (START, 30, {})


def test_a_clock_that_is_behind_keeps_no_window_open(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.at(START + SPAN + 3)
    store.report("b", window(1, start=START + SPAN))
    store.report("a", window(31))
    assert store.report("b", window(1, start=START + SPAN)).windows[KEY].used == 1


def test_windows_that_slide_and_began_at_different_moments_are_one(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.at(START + 600)
    seen = store.report("b", window(5, start=START + 600)).windows[KEY]
    assert (seen.started_at, seen.ends_at, seen.used) == (START, START + SPAN, 35)
    store.at(START + SPAN + 10)
    seen = store.report("b", window(9, start=START + 600)).windows[KEY]
    assert (seen.started_at, seen.used) == (START + 600, 9)


def test_neighbours_that_overlap_by_a_clocks_error_are_two(store: QuotaStore) -> None:
    store.report("a", window(30))
    store.at(START + SPAN + 1)
    store.report("b", window(1, start=START + SPAN - 0.02))
    seen = store.report("a", window(40)).windows[KEY]
    assert seen.used == 1


def test_a_window_without_an_end_makes_way_for_one_with_an_end(store: QuotaStore) -> None:
    store.report("a", window(30, span=math.inf))
    store.after(10 * SPAN)
    seen = store.report("a", window(31, span=math.inf)).windows[KEY]
    assert (seen.used, seen.ends_at) == (31, math.inf)
    seen = store.report("a", window(4, start=store.now)).windows[KEY]
    assert (seen.used, seen.ends_at) == (4, store.now + SPAN)


# -- readings


def test_a_reading_takes_the_place_of_the_count(store: QuotaStore) -> None:
    store.report("a", window(10))
    store.report("b", window(20))
    store.after(5)
    seen = store.report("a", window(12, base=reading(70, store.now, a=11, b=20))).windows[KEY]
    assert seen.used == 71
    assert seen.base == reading(70, store.now, a=11, b=20)
    assert store.report("b", window(25)).windows[KEY].used == 76


def test_a_correction_may_be_to_nothing(store: QuotaStore) -> None:
    store.report("a", window(10))
    base = CountBase(0.0, store.now, TruthLabel.MEASURED, {"a": 10})
    seen = store.report("a", window(10, base=base)).windows[KEY]
    assert (seen.used, seen.base) == (0, base)


def test_of_two_readings_the_later_holds_in_whatever_order_they_come(store: QuotaStore) -> None:
    store.after(20)
    store.report("a", window(10, base=reading(70, START + 10)))
    assert store.report("b", window(0, base=reading(60, START + 9))).windows[KEY].base == reading(
        70, START + 10
    )
    assert store.report("b", window(0, base=reading(60, START + 10))).windows[KEY].base == reading(
        70, START + 10
    )
    assert store.report("b", window(0, base=reading(60, START + 11))).windows[KEY].base == reading(
        60, START + 11
    )


def test_a_reading_counts_what_the_dead_spent_before_it(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.after(LEASE)
    assert store.report("b", window(0)).windows[KEY].charged == {"a": 40}
    store.after(1)
    seen = store.report("b", window(0, base=reading(33, store.now, a=10))).windows[KEY]
    assert (seen.charged, seen.used) == ({}, 33)


def test_a_reading_from_before_a_lease_ended_does_not(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.after(LEASE)
    store.report("b", window(0))
    seen = store.report("b", window(0, base=reading(20, START + 1, a=10))).windows[KEY]
    assert (seen.charged, seen.used) == ({"a": 40}, 60)


def test_a_reading_from_a_clock_an_hour_ahead_keeps_no_later_one_out(store: QuotaStore) -> None:
    store.report("a", window(0, base=reading(50, store.now + 3600)))
    store.after(2)
    assert store.report("b", window(0, base=reading(60, store.now))).windows[KEY].used == 60


def test_whoever_told_a_reading_finds_it_as_late_as_told(store: QuotaStore) -> None:
    for part in (0.123_449_999, 0.123_45, 0.123_456_789, 1 / 3, 0.999_999):
        store.after(1)
        read_at = store.now + part
        base = store.report("a", window(0, base=reading(50, read_at))).windows[KEY].base
        assert base is not None
        assert read_at <= base.read_at < read_at + 0.001


def test_a_source_that_tells_the_count_may_tell_the_end(store: QuotaStore) -> None:
    store.report("a", window(10))
    seen = store.report("a", window(10, span=SPAN - 300, base=reading(20, store.now + 1))).windows[KEY]
    assert (seen.started_at, seen.ends_at, seen.used) == (START, START + SPAN - 300, 30)
    assert store.report("b", window(0)).windows[KEY].ends_at == START + SPAN - 300


def test_who_has_read_nothing_moves_no_end(store: QuotaStore) -> None:
    store.report("a", window(10))
    assert store.report("b", window(10, span=SPAN - 300)).windows[KEY].ends_at == START + SPAN
