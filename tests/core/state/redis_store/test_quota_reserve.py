"""Reservations in the shared store, on a real server at a time that the tests set."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from smartfallback.state.shared import StoreLostError
from support.quota_store import KEY, LEASE, SPAN, START, QuotaStore, reading, window
from support.redis_servers import RedisServer

OTHER = "5h.requests.0"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(unix=True) as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> QuotaStore:
    return QuotaStore(server)


def test_a_reservation_holds_its_amount(store: QuotaStore) -> None:
    reply = store.reserve("a", 30)
    assert (reply.granted, reply.reason, reply.windows[KEY].held) == (True, "", {"a": 30})


def test_what_is_used_held_and_asked_fits_the_limit_to_the_last_unit(store: QuotaStore) -> None:
    store.report("a", window(40))
    assert store.reserve("a", 35).granted
    refused = store.reserve("b", 26)
    assert not refused.granted
    assert (
        refused.reason
        == f"{KEY}: 40 used + 35 held + 0 leased + 26 asked does not fit 100, over all instances"
    )
    assert store.reserve("b", 25).granted
    assert not store.reserve("b", 0).granted


def test_leased_slices_are_not_reserved_again(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    assert not store.reserve("b", 51).granted
    assert store.reserve("b", 50).granted


def test_all_windows_or_none(store: QuotaStore) -> None:
    both = window(), window(key=OTHER, cap=2)
    assert store.reserve("a", {KEY: 10, OTHER: 2}, *both).granted
    before = store.stored()
    refused = store.reserve("a", {KEY: 10, OTHER: 1}, *both)
    assert refused.reason.startswith(f"{OTHER}: ")
    assert store.stored() == before
    assert refused.windows[KEY].held == {"a": 10}


def test_the_number_of_reservations_is_limited_over_all_instances(store: QuotaStore) -> None:
    assert store.reserve("a", 1, most=2).granted
    assert store.reserve("b", 1, most=2).granted
    assert store.reserve("c", 1, most=2).reason == "slots: 2 running and 0 leased of 2"
    assert store.reserve("c", {}, most=3).granted


def test_places_that_others_have_leased_are_not_reserved(store: QuotaStore) -> None:
    places = window(key="slots", start=0, span=math.inf, cap=10, want=6, need=6)
    store.report("a", places)
    assert sum(store.reserve("b", 1, most=10).granted for _ in range(6)) == 4


def test_a_late_request_does_not_vouch_for_an_instance_that_has_died(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.link("a").lose = "request"
    with pytest.raises(StoreLostError):
        store.reserve("a", 5, window(12))
    store.after(LEASE)
    store.report("b", window(0))
    store.link("a").replay(store.link("a").sent[-1])
    seen = store.report("b", window(0)).windows[KEY]
    assert (seen.spent, seen.charged, seen.used) == ({"a": 12}, {"a": 38}, 50)


def test_a_refused_reservation_leaves_no_trace(store: QuotaStore) -> None:
    store.report("b", window(90))
    before = store.stored()
    refused = store.reserve("a", 20, window(5, base=reading(50, store.now)), window(1, key=OTHER))
    assert not refused.granted
    assert store.stored() == before
    assert refused.windows[KEY].used == 90
    assert OTHER not in refused.windows


def test_a_reservation_tells_what_was_spent(store: QuotaStore) -> None:
    reply = store.reserve("a", 5, window(20, base=reading(50, store.now, a=10)))
    assert (reply.windows[KEY].spent, reply.windows[KEY].used) == ({"a": 20}, 60)


def test_asking_twice_holds_once(store: QuotaStore) -> None:
    first = store.reserve("a", 60, id="x")
    second = store.reserve("a", 60, id="x")
    assert second.granted
    assert second.windows == first.windows
    assert store.client.zcard(store.keys.holds) == 1


def test_a_request_that_was_carried_out_without_a_reply_may_be_made_again(store: QuotaStore) -> None:
    store.link("a").lose = "reply"
    with pytest.raises(StoreLostError):
        store.reserve("a", 60, id="x")
    store.link("a").lose = ""
    assert store.reserve("a", 60, id="x").windows[KEY].held == {"a": 60}


def test_an_end_frees_what_was_held_and_a_second_end_does_nothing(store: QuotaStore) -> None:
    store.reserve("a", 60, id="x")
    store.reserve("a", 10, id="y")
    reply = store.report("a", window(55), ended=("x",))
    assert (reply.windows[KEY].held, reply.windows[KEY].used) == ({"a": 10}, 55)
    reply = store.report("a", window(55), ended=("x", "x", "never"))
    assert (reply.windows[KEY].held, reply.windows[KEY].used) == ({"a": 10}, 55)


def test_any_instance_may_report_an_end(store: QuotaStore) -> None:
    store.reserve("a", 60, id="x")
    assert store.report("b", window(0), ended=("x",)).windows[KEY].held == {}


def test_a_request_that_comes_after_its_end_holds_nothing(store: QuotaStore) -> None:
    store.link("a").lose = "request"
    with pytest.raises(StoreLostError):
        store.reserve("a", 60, id="x")
    frozen = store.link("a").sent[-1]
    store.link("a").lose = ""
    store.report("a", window(0), ended=("x",))
    store.link("a").replay(frozen)
    assert store.report("a", window(0)).windows[KEY].held == {}
    assert store.reserve("a", 60, id="x").reason == "ended"
    store.after(599)
    assert store.reserve("a", 60, id="x").reason == "ended"


def test_ends_are_forgotten_in_time(store: QuotaStore) -> None:
    store.report("a", window(0), ended=tuple(f"x{number}" for number in range(1200)))
    assert store.client.zcard(store.keys.ended) == 1200
    store.after(601)
    store.report("a", window(0))
    assert store.client.zcard(store.keys.ended) == 0


def test_a_hold_ends_with_its_lease_and_is_not_charged(store: QuotaStore) -> None:
    store.reserve("a", 60, id="x")
    store.after(LEASE)
    reply = store.reserve("b", 100)
    assert reply.granted
    assert (reply.windows[KEY].held, reply.windows[KEY].used) == ({"b": 100}, 0)
    assert store.client.hlen(store.keys.amounts) == 1


def test_a_hold_whose_lease_ended_is_not_made_again(store: QuotaStore) -> None:
    store.reserve("a", 60, id="x")
    store.after(LEASE)
    assert store.reserve("a", 60, id="x").reason == "ended"


def test_a_refused_reservation_still_frees_what_has_ended(store: QuotaStore) -> None:
    before = store.reserve("a", 60)
    store.after(LEASE)
    refused = store.reserve("b", 101)
    assert not refused.granted
    assert refused.windows[KEY].held == {}
    assert refused.version > before.version
    assert store.client.zcard(store.keys.holds) == 0


def test_many_holds_that_end_together_are_all_freed(store: QuotaStore) -> None:
    for number in range(300):
        store.reserve("ab"[number % 2], 0.1, most=1000, lease_s=1 + number % 3)
    store.after(3)
    assert store.report("a", window(0)).windows[KEY].held == {}
    assert store.client.hlen(store.keys.amounts) == 0


def test_fractional_amounts_leave_nothing_held(store: QuotaStore) -> None:
    asked = [0.1, 0.2, 0.7, 1 / 3, 1e-6, 2e-7]
    for number, amount in enumerate(asked):
        assert store.reserve("a", amount, id=f"x{number}").granted
    kept = store.reserve("a", 5, id="kept")
    for number in (3, 0, 5, 4, 1, 2):
        kept = store.report("a", window(0), ended=(f"x{number}",))
    assert kept.windows[KEY].held == {"a": pytest.approx(5, abs=1e-9)}
    assert store.report("a", window(0), ended=("kept",)).windows[KEY].held == {}


def test_fractions_that_sum_up_to_the_limit_fit(store: QuotaStore) -> None:
    granted = sum(store.reserve("a", 0.1, window(cap=0.3)).granted for _ in range(5))
    assert granted == 3


def test_amounts_below_nothing_and_of_windows_that_are_none_are_refused(store: QuotaStore) -> None:
    assert not store.reserve("a", -1).granted
    assert store.reserve("a", {"day.tokens.0": 1}, window()).reason == "day.tokens.0: no such window"
    assert store.client.zcard(store.keys.holds) == 0


def test_a_reservation_may_tell_of_ends_and_has_the_room_that_they_leave(store: QuotaStore) -> None:
    store.reserve("a", 90, id="x")
    reply = store.reserve("a", 95, window(5), id="y", ended=("x",))
    assert (reply.granted, reply.windows[KEY].held, reply.windows[KEY].used) == (True, {"a": 95}, 5)
    refused = store.reserve("a", 200, window(50), ended=("y",))
    assert (refused.granted, refused.windows[KEY].held, refused.windows[KEY].used) == (False, {}, 50)
    assert store.reserve("a", 1, window(50), id="y").reason == "ended"


def test_ones_own_slice_makes_way_but_for_what_runs_on_it(store: QuotaStore) -> None:
    store.report("b", window(0, want=20, need=20))
    store.report("a", window(10, held=5, want=25, need=25))
    assert not store.reserve("a", 66, window(10, held=5)).granted
    seen = store.reserve("a", 50, window(10, held=5)).windows[KEY]
    assert (seen.held, seen.ceilings) == ({"a": 50}, {"a": 30, "b": 20})
    assert seen.used + seen.elsewhere("") == 100
    seen = store.reserve("a", 15, window(10, held=5)).windows[KEY]
    assert (seen.held, seen.ceilings) == ({"a": 65}, {"a": 15, "b": 20})
    assert not store.reserve("a", 1, window(10, held=5)).granted


# -- windows that begin anew while holds are out


def test_a_hold_counts_only_in_the_window_that_it_was_made_in(store: QuotaStore) -> None:
    store.reserve("a", 60, id="x", lease_s=10 * SPAN)
    store.after(SPAN)
    new = window(start=store.now)
    reply = store.reserve("b", 100, new)
    assert (reply.granted, reply.windows[KEY].held) == (True, {"b": 100})
    reply = store.report("a", new, ended=("x",))
    assert reply.windows[KEY].held == {"b": 100}


def test_the_end_of_an_old_hold_frees_nothing_of_a_new_one(store: QuotaStore) -> None:
    store.reserve("a", 60, id="x", lease_s=10 * SPAN)
    store.after(SPAN)
    new = window(start=store.now)
    store.reserve("a", 70, new)
    assert store.report("a", new, ended=("x",)).windows[KEY].held == {"a": 70}


def test_a_reservation_in_a_window_that_is_over_is_refused(store: QuotaStore) -> None:
    store.reserve("a", 60)
    store.after(SPAN)
    assert store.reserve("a", 1).reason == "rolled"
    store.reserve("b", 5, window(start=store.now))
    assert store.reserve("a", 1).reason == "rolled"
    assert store.reserve("a", 1, window(), window(start=store.now, key=OTHER)).reason == "rolled"


def test_an_instance_whose_clock_is_ahead_reserves_in_the_window_that_runs(store: QuotaStore) -> None:
    store.reserve("a", 60)
    reply = store.reserve("b", 41, window(start=START + SPAN))
    assert not reply.granted
    reply = store.reserve("b", 40, window(7, start=START + SPAN))
    assert (reply.granted, reply.windows[KEY].held) == (True, {"a": 60, "b": 40})
    assert reply.windows[KEY].spent == {}


def test_a_hold_still_counts_when_its_window_had_to_be_set_up_again(store: QuotaStore) -> None:
    store.reserve("a", 60)
    store.client.hset(store.keys.windows, KEY, "{")
    assert not store.reserve("b", 50).granted
    assert store.reserve("b", 40).windows[KEY].held == {"a": 60, "b": 40}


def test_a_window_without_an_end_is_reserved_in_too(store: QuotaStore) -> None:
    reply = store.reserve("a", 7, window(start=-math.inf, span=math.inf))
    assert (reply.granted, reply.windows[KEY].ends_at) == (True, math.inf)
