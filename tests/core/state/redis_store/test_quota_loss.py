"""What becomes of counts when the server loses them, or goes back to old ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smartfallback.model.sharing import QuotaReply
from support.quota_store import KEY, LEASE, SPAN, START, QuotaStore, reading, window
from support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(unix=True) as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> QuotaStore:
    return QuotaStore(server)


def mended(store: QuotaStore, name: str, spent: float, reply: QuotaReply, *, want: float = 0.0) -> QuotaReply:
    """A report after ``reply``; if the store has lost something, one that restores it too."""
    told = window(spent, want=want, need=want)
    answer = store.report(name, told, reply=reply)
    if answer.lost:
        answer = store.report(name, told, reply=reply, restore=reply.windows)
    assert not answer.lost
    return answer


def test_a_first_report_finds_nothing_lost(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    assert (reply.lost, reply.version) == (False, 1)
    assert reply.epoch
    assert not store.report("b", window(10)).lost


def test_versions_grow_and_the_epoch_stays(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    for spent in range(20):
        after = store.report("a", window(spent), reply=reply)
        assert (after.lost, after.version, after.epoch) == (False, reply.version + 1, reply.epoch)
        reply = after


def test_a_store_that_was_flushed_says_so_and_changes_nothing(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    store.flush()
    before = store.stored()
    assert store.report("a", window(10, want=5), reply=reply, ended=("x",)).lost
    refused = store.reserve("a", 5, reply=reply)
    assert (refused.lost, refused.granted) == (True, False)
    assert store.stored() == before


def test_what_is_remembered_comes_back(store: QuotaStore) -> None:
    store.report("dead", window(17))
    store.report("a", window(10, base=reading(50, store.now, dead=17)))
    reply = store.report("a", window(12))
    store.flush()
    after = mended(store, "a", 12, reply)
    assert after.windows == reply.windows
    assert after.version > reply.version
    assert after.epoch != reply.epoch


def test_several_restore_without_doubling_and_come_to_rest(store: QuotaStore) -> None:
    replies = {name: store.report(name, window(10)) for name in "abcd"}
    replies = {name: store.report(name, window(11), reply=replies[name]) for name in "abcd"}
    store.flush()
    for name in "bdac":
        replies[name] = mended(store, name, 11, replies[name])
    epochs = {reply.epoch for reply in replies.values()}
    assert len(epochs) == 1
    for name in "abcd":
        reply = store.report(name, window(11), reply=replies[name])
        assert (reply.lost, reply.windows[KEY].used) == (False, 44)


def test_counts_that_began_anew_meanwhile_are_kept(store: QuotaStore) -> None:
    store.report("dead", window(17))
    reply = store.report("a", window(10))
    store.flush()
    fresh = store.report("new", window(4))
    after = mended(store, "a", 12, reply)
    assert after.windows[KEY].spent == {"dead": 17, "a": 12, "new": 4}
    again = store.report("new", window(5), reply=fresh)
    assert (again.lost, again.windows[KEY].used) == (False, 34)


def test_a_sliding_window_that_began_anew_meanwhile_is_the_same_one(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    store.after(300)
    store.flush()
    store.report("new", window(4, start=store.now))
    store.reserve("new", 3, window(4, start=store.now), id="x")
    seen = mended(store, "a", 12, reply).windows[KEY]
    assert (seen.ends_at, seen.spent, seen.held) == (START + SPAN, {"a": 12, "new": 4}, {"new": 3})
    assert store.report("a", window(12), ended=("x",)).windows[KEY].held == {}


def test_of_a_window_that_is_over_nothing_is_restored(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    store.after(SPAN)
    store.flush()
    answer = store.report("a", window(1, start=store.now), reply=reply, restore=reply.windows)
    assert answer.windows[KEY].spent == {"a": 1}


def test_a_window_older_than_the_stored_one_is_not_restored(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    store.flush()
    store.report("new", window(2, start=START + SPAN))  # its clock is ahead
    answer = store.report("a", window(10), reply=reply, restore=reply.windows)
    assert answer.windows[KEY].spent == {"new": 2}


def test_a_later_reading_outlives_a_restored_one(store: QuotaStore) -> None:
    store.report("a", window(10, base=reading(50, START)))
    reply = store.report("a", window(10))
    store.flush()
    store.after(5)
    store.report("new", window(4, base=reading(60, store.now, a=10, new=4)))
    assert mended(store, "a", 12, reply).windows[KEY].used == 62


def test_a_restored_reading_outlives_an_earlier_one(store: QuotaStore) -> None:
    store.report("a", window(10, base=reading(50, START)))
    copy = store.copy()
    store.after(5)
    reply = store.report("a", window(11, base=reading(70, store.now, a=11)))
    store.go_back(copy)
    seen = mended(store, "a", 12, reply).windows[KEY]
    assert (seen.used, seen.base) == (71, reading(70, START + 5, a=11))


# -- those who died


def test_what_the_dead_were_charged_comes_back(store: QuotaStore) -> None:
    store.report("dead", window(10, want=40, need=40))
    store.after(LEASE)
    reply = store.report("a", window(3))
    store.flush()
    seen = mended(store, "a", 3, reply).windows[KEY]
    assert (seen.charged, seen.used) == ({"dead": 40}, 53)


def test_what_several_remember_of_the_dead_is_charged_once(store: QuotaStore) -> None:
    store.report("dead", window(10, want=40, need=40))
    store.report("late", window(5, want=20, need=20))
    store.after(LEASE / 2)
    replies = {"a": store.report("a", window(3))}
    store.report("late", window(5, want=20, need=20))
    store.after(LEASE / 2)
    replies["b"] = store.report("b", window(0))
    assert replies["b"].windows[KEY].charged == {"dead": 40}
    for order in ("ab", "ba"):
        store.flush()
        for name in order:
            seen = mended(store, name, {"a": 3, "b": 0}[name], replies[name]).windows[KEY]
        assert seen.used + seen.elsewhere("") == 18 + 40 + 20
    store.after(LEASE)
    seen = store.report("c", window(0)).windows[KEY]
    assert seen.charged == {"dead": 40, "late": 20}


def test_what_a_later_reading_has_counted_is_not_charged_from_memory(store: QuotaStore) -> None:
    store.report("dead", window(10, want=40, need=40))
    store.report("late", window(5, want=20, need=20))
    store.after(LEASE)
    store.report("late", window(5, want=20, need=20))
    reply = store.report("a", window(3))
    store.flush()
    store.after(1)
    store.report("new", window(0, base=reading(44, store.now, dead=10, late=5, a=3)))
    seen = mended(store, "a", 3, reply).windows[KEY]
    assert (seen.charged, seen.ceilings, seen.used) == ({}, {}, 44)


def test_the_end_that_the_latest_reading_told_is_kept(store: QuotaStore) -> None:
    reply = store.report("a", window(3, base=reading(10, store.now)))
    store.after(1)
    copy = store.copy()
    later = store.report("a", window(3, span=SPAN + 300, base=reading(20, store.now)), reply=reply)
    store.go_back(copy)
    assert mended(store, "a", 3, later).windows[KEY].ends_at == START + SPAN + 300
    store.flush()
    store.after(1)
    store.report("new", window(0, span=SPAN - 300, base=reading(30, store.now, a=3)))
    assert mended(store, "a", 3, later).windows[KEY].ends_at == START + SPAN - 300


def test_what_was_leased_to_others_is_not_leased_again_until_they_speak_or_are_charged(
    store: QuotaStore,
) -> None:
    store.report("b", window(10, want=40, need=40))
    reply = store.report("a", window(3))
    store.flush()
    seen = mended(store, "a", 3, reply, want=100).windows[KEY]
    assert seen.ceilings == {"a": 50, "b": 50}
    store.after(LEASE)
    seen = store.report("c", window(0)).windows[KEY]
    assert seen.charged == {"a": 47, "b": 40}


def test_who_has_spoken_since_is_not_charged_from_memory(store: QuotaStore) -> None:
    first = store.report("b", window(10, want=40, need=40))
    store.after(LEASE)
    reply = store.report("a", window(3))
    assert reply.windows[KEY].charged == {"b": 40}
    store.after(1)
    store.flush()
    store.after(1)
    mended(store, "b", 12, first)
    seen = mended(store, "a", 3, reply).windows[KEY]
    assert (seen.charged, seen.ceilings, seen.used) == ({}, {}, 15)


def test_who_had_a_slice_and_has_spoken_since_has_what_it_said(store: QuotaStore) -> None:
    first = store.report("b", window(10, want=40, need=40))
    reply = store.report("a", window(3))
    store.after(1)
    store.flush()
    mended(store, "b", 12, first)
    assert mended(store, "a", 3, reply).windows[KEY].ceilings == {}


def test_a_charge_that_a_restored_reading_counted_is_gone(store: QuotaStore) -> None:
    store.report("dead", window(10, want=40, need=40))
    store.after(LEASE)
    store.report("a", window(3))
    copy = store.copy()
    store.after(1)
    reply = store.report("a", window(3, base=reading(60, store.now, dead=10, a=3)))
    store.go_back(copy)
    seen = mended(store, "a", 3, reply).windows[KEY]
    assert (seen.charged, seen.used) == ({}, 60)


def test_a_charge_from_after_a_restored_reading_stays(store: QuotaStore) -> None:
    reply = store.report("a", window(3, base=reading(30, store.now, a=3)))
    store.after(1)
    store.flush()
    store.report("new", window(5, want=20, need=20))
    store.after(LEASE)
    seen = mended(store, "a", 3, reply).windows[KEY]
    assert (seen.charged, seen.used) == ({"new": 20}, 55)


# -- old data


def test_a_store_that_went_back_is_found_out_by_its_version(store: QuotaStore) -> None:
    store.report("dead", window(5))
    copy = store.copy()
    store.report("dead", window(17))
    reply = store.report("a", window(10))
    store.go_back(copy)
    after = mended(store, "a", 10, reply)
    assert after.windows[KEY].spent == {"dead": 17, "a": 10}
    assert after.epoch != reply.epoch


def test_a_store_that_went_back_behind_a_reservation_is_found_out(store: QuotaStore) -> None:
    store.report("a", window(10))
    copy = store.copy()
    store.report("dead", window(17))
    reply = store.reserve("a", 5, window(10))
    store.go_back(copy)
    assert store.report("a", window(10), reply=reply).lost
    assert mended(store, "a", 10, reply).windows[KEY].spent == {"dead": 17, "a": 10}


def test_a_store_that_went_back_and_on_again_is_found_out_by_each_instance(store: QuotaStore) -> None:
    """Others who had not heard the latest have written more than was lost: versions alone would not tell."""
    reply_c = store.report("c", window(1))
    copy = store.copy()
    store.report("dead", window(17))
    reply_b = store.report("b", window(10))
    store.go_back(copy)
    for spent in range(2, 12):
        reply_c = store.report("c", window(spent), reply=reply_c)
    assert reply_c.version > reply_b.version
    assert reply_c.epoch == reply_b.epoch
    after = mended(store, "b", 10, reply_b)
    assert after.windows[KEY].spent == {"dead": 17, "b": 10, "c": 11}


def test_two_who_remember_different_pasts_do_not_chase_each_other(store: QuotaStore) -> None:
    replies = {name: store.report(name, window(1)) for name in "ab"}
    copy = store.copy()
    for _ in range(5):
        replies["a"] = store.report("a", window(1), reply=replies["a"])
    store.go_back(copy)
    replies["a"] = mended(store, "a", 1, replies["a"])
    store.go_back(copy)
    lost = 0
    for _ in range(10):
        for name in "ab":
            answer = store.report(name, window(1), reply=replies[name])
            lost += answer.lost
            replies[name] = mended(store, name, 1, replies[name])
    assert lost <= 2


def test_a_refused_reservation_is_no_loss(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    store.report("b", window(80))
    refused = store.reserve("a", 50, reply=reply)
    assert refused.version > reply.version
    assert not store.report("a", window(10), reply=refused).lost


def test_a_lost_reply_is_no_loss(store: QuotaStore) -> None:
    reply = store.report("a", window(10))
    sent = store.link("a").sent[-1]
    for _ in range(3):
        store.link("a").replay(sent)
    assert not store.report("a", window(10), reply=reply).lost


def test_an_instance_that_was_silent_for_days_is_asked_what_it_remembers(store: QuotaStore) -> None:
    reply = store.report("a", window(10, span=1e6))
    store.after(90_000)
    last = reply
    for _ in range(1100):
        last = store.report("b", window(1, span=1e6), reply=last)
    assert not any(str(name) == "heard:a" for name in store.client.hkeys(store.keys.windows))
    assert store.report("a", window(10, span=1e6), reply=reply).lost
    after = store.report("a", window(10, span=1e6), reply=reply, restore=reply.windows)
    assert after.windows[KEY].used == 11
