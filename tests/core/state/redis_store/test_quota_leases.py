"""Slices of a quota that instances lease, on a real server at a time that the tests set."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from smartfallback.model.sharing import WindowReport
from smartfallback.state.shared import StoreLostError
from support.quota_store import KEY, LEASE, SPAN, QuotaStore, reading, window
from support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(unix=True) as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> QuotaStore:
    return QuotaStore(server)


def slots(running: float, want: float, need: float = 1, *, most: float = 10) -> WindowReport:
    return window(key="slots", start=0, span=math.inf, cap=most, held=running, want=want, need=need)


def test_a_slice_reaches_beyond_what_is_spent_and_held(store: QuotaStore) -> None:
    reply = store.report("a", window(10, held=5, want=20, need=1))
    assert reply.windows[KEY].ceilings == {"a": 35}
    assert reply.windows[KEY].used == 10


def test_no_more_is_leased_than_wanted_nor_than_half_of_an_equal_share_near_the_limit(
    store: QuotaStore,
) -> None:
    assert store.report("a", window(0, want=1000)).windows[KEY].ceilings == {"a": 50}  # 100 / (2 * 1)
    assert store.report("b", window(0, want=1000)).windows[KEY].ceilings["b"] == 12.5  # 50 / (2 * 2)
    assert store.report("c", window(0, want=1000)).windows[KEY].ceilings["c"] == 6.25  # 37.5 / (2 * 3)


def test_slices_shrink_as_the_limit_comes_near_and_the_last_units_stay_usable(store: QuotaStore) -> None:
    spent, slices = 0.0, []
    for _ in range(100):
        ceiling = store.report("a", window(spent, want=1000, need=2)).windows[KEY].ceilings.get("a", spent)
        if ceiling - spent < 2:
            break
        slices.append(ceiling - spent)
        spent = ceiling
    assert slices == sorted(slices, reverse=True)
    assert min(slices) >= 2
    assert 98 < spent <= 100


def test_what_is_needed_is_leased_though_others_have_slices(store: QuotaStore) -> None:
    store.report("a", window(0, want=50))
    reply = store.report("b", window(0, want=1000, need=40))
    assert reply.windows[KEY].ceilings["b"] == 40


def test_nothing_is_leased_beyond_the_limit(store: QuotaStore) -> None:
    store.report("a", window(90, want=10, need=10))
    reply = store.report("b", window(0, want=10, need=10))
    assert "b" not in reply.windows[KEY].ceilings
    reply = store.report("c", window(30, held=7, want=10, need=10))
    assert reply.windows[KEY].used == 120
    assert reply.windows[KEY].ceilings["c"] == 37  # what runs is covered all the same


def test_what_runs_here_leaves_less_to_lease(store: QuotaStore) -> None:
    reply = store.report("a", window(10, held=50, want=100, need=100))
    assert reply.windows[KEY].ceilings == {"a": 100}


def test_wanting_nothing_gives_the_slice_back(store: QuotaStore) -> None:
    store.report("a", window(0, want=100, need=100))
    store.report("a", window(10))
    assert store.client.zcard(store.keys.leases) == 0
    assert store.report("b", window(0, want=90, need=90)).windows[KEY].ceilings == {"b": 90}


def test_what_an_instance_goes_by_until_the_reply_is_nobody_elses(store: QuotaStore) -> None:
    store.report("a", window(0, want=80, need=80))
    seen = store.report("a", window(0, want=80, keeps=70)).windows[KEY]
    assert seen.ceilings == {"a": 70}  # half of what is free would be 50
    assert store.report("b", window(0, want=80, need=80)).windows[KEY].ceilings["b"] == 30


def test_an_instance_may_ask_of_windows_that_it_has_not_begun(store: QuotaStore) -> None:
    store.report("a", window(7))
    before = store.stored()[store.keys.windows]
    reply = store.report("b", window(0, key="5h.requests.0"), also=(KEY, "day.tokens.0"))
    assert reply.windows[KEY].spent == {"a": 7}
    assert set(reply.windows) == {KEY, "5h.requests.0"}
    assert isinstance(before, dict)
    assert store.client.hget(store.keys.windows, KEY) == before[KEY]


def test_strict_holds_are_not_leased(store: QuotaStore) -> None:
    store.reserve("s", 60)
    assert store.report("a", window(0, want=100, need=100)).windows[KEY].ceilings == {"a": 40}


def test_a_lease_that_ended_is_charged(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.after(LEASE)
    reply = store.report("b", window(0, want=100, need=100))
    seen = reply.windows[KEY]
    assert (seen.charged, seen.used, seen.ceilings) == ({"a": 40}, 50, {"b": 50})


def test_a_lease_stands_to_its_end(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.after(LEASE - 0.001)
    reply = store.report("b", window(0, want=100, need=100))
    assert reply.windows[KEY].charged == {}
    assert reply.windows[KEY].ceilings == {"a": 50, "b": 50}


def test_a_report_renews_the_lease(store: QuotaStore) -> None:
    for spent in range(5):
        store.after(LEASE * 0.9)
        store.report("a", window(spent, want=10, need=10))
    assert store.report("b", window(0)).windows[KEY].charged == {}


def test_who_speaks_again_is_charged_no_longer(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.after(LEASE)
    store.report("b", window(0))
    seen = store.report("a", window(25)).windows[KEY]
    assert (seen.charged, seen.used) == ({}, 25)


def test_a_late_copy_of_a_report_does_not_vouch_for_an_instance_that_has_died(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.report("a", window(20, want=30, need=30))
    late = store.link("a").sent[-1]
    store.after(LEASE)
    store.report("b", window(0))
    store.link("a").replay(late)
    seen = store.report("b", window(0)).windows[KEY]
    assert (seen.charged, seen.ceilings, seen.used) == ({"a": 30}, {}, 50)


def test_what_a_late_report_adds_to_the_count_comes_off_the_charge(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    link = store.link("a")
    link.lose = "request"
    with pytest.raises(StoreLostError):
        store.report("a", window(25, want=25, need=25))
    late = link.sent[-1]
    link.lose = ""
    store.report("a", window(15, want=35, need=35))
    store.after(LEASE)
    store.report("b", window(0))
    link.replay(late)
    seen = store.report("b", window(0)).windows[KEY]
    assert (seen.spent, seen.charged, seen.used) == ({"a": 25}, {"a": 25}, 50)


@pytest.mark.parametrize("late_want", [0, 50])
def test_a_report_that_comes_after_a_later_one_changes_no_slice(store: QuotaStore, late_want: float) -> None:
    link = store.link("a")
    link.lose = "request"
    with pytest.raises(StoreLostError):
        store.report("a", window(5, want=late_want, need=late_want))
    link.lose = ""
    store.report("a", window(10, want=20, need=20))
    link.replay(link.sent[0])
    seen = store.report("b", window(0)).windows[KEY]
    assert (seen.spent, seen.ceilings) == ({"a": 10}, {"a": 30})


def test_a_report_that_comes_twice_counts_once(store: QuotaStore) -> None:
    base = reading(7, store.now, a=2)
    first = store.report("a", window(10, want=20, need=20, base=base), ended=("x",))
    before = store.stored()
    store.link("a").replay(store.link("a").sent[-1])
    assert store.report("b").windows == {}
    after = store.stored()
    kept = {name for name in before if not name.endswith("windows")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert store.report("b", window(0)).windows == first.windows


def test_a_clean_end_with_a_last_report_is_charged_nothing(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.report("a", window(12))
    store.after(LEASE * 2)
    seen = store.report("b", window(0)).windows[KEY]
    assert (seen.used, seen.charged) == (12, {})


def test_slices_in_windows_that_a_report_leaves_out_stand(store: QuotaStore) -> None:
    store.report("a", window(0, want=40, need=40), window(0, key="5h.requests.0", want=10, need=10))
    store.after(LEASE * 0.9)
    store.report("a", window(0, key="5h.requests.0"))
    assert store.client.zscore(store.keys.leases, "a") == store.now + LEASE
    store.after(LEASE * 0.9)
    seen = store.report("b", window(0)).windows[KEY]
    assert seen.ceilings == {"a": 40}
    store.after(LEASE)
    assert store.report("b", window(0)).windows[KEY].charged == {"a": 40}


def test_a_lease_that_ends_is_charged_in_windows_that_nobody_reports(store: QuotaStore) -> None:
    store.report("a", window(0, want=40, need=40), window(3, key="5h.requests.0", want=10, need=10))
    store.after(LEASE)
    store.report("b", window(0))
    assert store.report("b", window(0, key="5h.requests.0")).windows["5h.requests.0"].charged == {"a": 10}


def test_the_sum_of_used_and_leased_stays_within_the_limit(store: QuotaStore) -> None:
    for turn in range(40):
        name = "abcd"[turn % 4]
        seen = store.report(name, window(turn // 4, want=17, need=3)).windows[KEY]
        assert seen.used + seen.elsewhere("") <= 100


@pytest.mark.parametrize("amount", [0.1, 0.000_001, 1 / 3])
def test_fractional_credits_are_leased_to_the_last(store: QuotaStore, amount: float) -> None:
    cap = 30 * amount
    spent, grants = 0.0, 0
    while grants < 100:
        seen = store.report("a", window(spent, cap=cap, want=amount, need=amount)).windows[KEY]
        if seen.ceilings.get("a", 0.0) < spent + amount * (1 - 1e-9):
            break
        spent += amount
        grants += 1
    assert grants == 30


# -- places for attempts that run at once


def test_places_are_leased_whole(store: QuotaStore) -> None:
    assert store.report("a", slots(0, 10)).windows["slots"].ceilings == {"a": 5}
    assert store.report("b", slots(0, 10)).windows["slots"].ceilings["b"] == 1
    assert store.report("c", slots(0, 10)).windows["slots"].ceilings["c"] == 1


def test_places_of_a_dead_instance_come_back_uncharged(store: QuotaStore) -> None:
    store.report("a", slots(2, 10, need=8))
    store.after(LEASE)
    seen = store.report("b", slots(0, 10, need=10)).windows["slots"]
    assert (seen.used, seen.charged, seen.ceilings) == (0, {}, {"b": 10})


def test_places_leave_nothing_of_instances_that_ended(store: QuotaStore) -> None:
    for number in range(50):
        store.report(f"i{number}", slots(1, 1))
        store.after(LEASE)
    seen = store.report("b", slots(0, 0)).windows["slots"]
    assert (seen.spent, seen.ceilings, seen.charged, seen.ends_at) == ({}, {}, {}, math.inf)


def test_strict_holds_take_places(store: QuotaStore) -> None:
    for _ in range(4):
        store.reserve("s", {KEY: 1, "slots": 1}, window(), slots(0, 0), most=10)
    seen = store.report("a", slots(0, 10, need=10)).windows["slots"]
    assert (seen.held, seen.ceilings) == ({"s": 4}, {"a": 6})
    assert store.reserve("s", {KEY: 1, "slots": 1}, window(), slots(0, 0), most=10).reason == (
        "slots: 4 running and 6 leased of 10"
    )


def test_slices_end_with_their_window(store: QuotaStore) -> None:
    store.report("a", window(10, want=40, need=40))
    store.after(SPAN)
    seen = store.report("a", window(10, want=40, need=40)).windows[KEY]
    assert seen.ceilings == {}
    seen = store.report("b", window(0, start=store.now, want=100, need=100)).windows[KEY]
    assert (seen.used, seen.ceilings) == (0, {"b": 100})
