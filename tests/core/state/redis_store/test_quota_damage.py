"""What is in the store may be damaged or somebody else's; and what is written there stays bounded."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from smartfallback.model.quota import TruthLabel
from smartfallback.model.sharing import AccountReport, SharedWindow
from smartfallback.state.redis_store.quota_codec import decode_reply
from smartfallback.state.redis_store.scripts import script
from smartfallback.state.shared import StoreLostError
from support.quota_store import ACCOUNT, KEY, LEASE, START, QuotaStore, reading, window
from support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(unix=True) as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> QuotaStore:
    return QuotaStore(server)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "7",
        '"text"',
        '{"s": 1}',
        '{"s": "1", "e": 2}',
        '{"s": null, "e": null}',
        '{"s": NaN, "e": 1}',
        '{"s": 1, "e": 1e999}',
        "[" * 2000,
        "\x00\xff",
    ],
)
def test_a_window_that_cannot_be_read_is_none(store: QuotaStore, text: str) -> None:
    store.report("a", window(10, key="day.tokens.0"))
    store.client.hset(store.keys.windows, KEY, text)
    reply = store.report("a", window(10, want=5, need=5), window(11, key="day.tokens.0"))
    assert (reply.windows[KEY].used, reply.windows["day.tokens.0"].used) == (10, 11)
    store.client.hset(store.keys.windows, KEY, text)
    refused = store.reserve("b", 500)
    assert (refused.granted, refused.windows) == (False, {})
    store.client.hset(store.keys.windows, KEY, text)
    assert store.reserve("b", 50).granted
    store.client.hset(store.keys.windows, "week.other.0", text)
    store.after(LEASE)
    assert store.report("b", window(0)).windows[KEY].held == {}


@pytest.mark.parametrize("wrong", ["text", [], {}, [1, 2], None, True, {"a": "1"}, {"a": None}, {"a": {}}, 7])
def test_parts_of_a_window_that_cannot_be_read_are_left_out(store: QuotaStore, wrong: object) -> None:
    document = {"s": START, "e": START + 1000, **dict.fromkeys("bclxth", wrong)}
    store.client.hset(store.keys.windows, KEY, json.dumps(document))
    store.reserve("z", 1)
    seen = store.report("b", window(3)).windows[KEY]
    assert (seen.used, seen.base, seen.held) == (3, None, {"z": 1})


def test_where_nothing_is_held_nothing_counts_as_held(store: QuotaStore) -> None:
    document = {"s": START, "e": START + 1000, "h": {"a": 60}}
    store.client.hset(store.keys.windows, KEY, json.dumps(document))
    reply = store.reserve("b", 100)
    assert (reply.granted, reply.windows[KEY].held) == (True, {"b": 100})


def test_a_label_of_a_later_version_is_an_estimate(store: QuotaStore) -> None:
    base = {"u": 5, "at": START, "label": "divined"}
    store.client.hset(store.keys.windows, KEY, json.dumps({"s": START, "e": START + 1000, "b": base}))
    seen = store.report("a", window(2)).windows[KEY]
    assert seen.base is not None
    assert (seen.used, seen.base.label) == (7, TruthLabel.ESTIMATED)


@pytest.mark.parametrize("name", ["windows", "leases", "holds", "amounts", "ended"])
@pytest.mark.parametrize("kind", ["string", "list", "other"])
def test_somebody_elses_key_makes_way(store: QuotaStore, name: str, kind: str) -> None:
    key = getattr(store.keys, name)
    if kind == "string":
        store.client.set(key, "theirs")
    elif kind == "list":
        store.client.rpush(key, "theirs")
    elif name in ("windows", "amounts"):
        store.client.zadd(key, {"theirs": 1})
    else:
        store.client.hset(key, "theirs", "1")
    assert store.reserve("a", 10, id="x").granted
    assert store.report("a", window(3, want=5, need=5), ended=("x",)).windows[KEY].held == {}
    assert store.reserve("a", 92).granted


@pytest.mark.parametrize(
    "text", ["", "{", '{"i": 1, "w": {}}', '{"w": 5, "i": "a"}', '{"i": "a", "w": {"k": 3}}']
)
def test_a_hold_that_cannot_be_read_ends_all_the_same(store: QuotaStore, text: str) -> None:
    store.reserve("a", 30, id="x")
    store.reserve("b", 20, id="y")
    store.client.hset(store.keys.amounts, "x", text)
    store.after(LEASE / 2)
    seen = store.report("a", window(0), ended=("x",)).windows[KEY]
    assert seen.held["b"] == 20
    assert store.report("a", window(0), ended=("y",)).windows[KEY].held == {}


@pytest.mark.parametrize("name", ["windows", "leases", "holds", "amounts", "ended"])
def test_what_is_lost_of_one_key_heals_by_itself(store: QuotaStore, name: str) -> None:
    """A server that is short of memory may be told to forget any one key."""
    store.report("dead", window(10, want=20, need=20))
    reply = store.report("a", window(0))
    store.reserve("a", 30, lease_s=1)
    store.client.delete(getattr(store.keys, name))
    for _ in range(4):
        answer = store.report("a", window(0), reply=reply)
        reply = store.report("a", window(0), reply=reply, restore=reply.windows) if answer.lost else answer
        store.after(LEASE)
    seen = reply.windows[KEY]
    assert (seen.held, seen.ceilings) == ({}, {})
    assert seen.used == 30
    assert store.reserve("a", 70, reply=reply).granted


def test_fields_that_mean_nothing_do_no_harm(store: QuotaStore) -> None:
    reply = store.report("a", window(10, want=20, need=20))
    for field, text in (("heard:a", "?"), ("heard:zz", ""), ("other", "7"), ("", "")):
        store.client.hset(store.keys.windows, field, text)
    store.after(LEASE)
    assert store.report("b", window(0)).windows[KEY].used == 30
    assert store.report("a", window(10), reply=reply).lost
    for version in ("nan", "-1", "x", "1e400", ""):
        store.client.hset(store.keys.windows, "version", version)
        assert store.report("b", window(0)).version == 1


def test_a_full_server_says_so(server: RedisServer) -> None:
    store = QuotaStore(server)
    store.report("a", window(10))
    store.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(Exception, match=r"OOM|memory"):
            store.report("a", window(11))
        with pytest.raises(Exception, match=r"OOM|memory"):
            store.reserve("a", 1)
    finally:
        store.client.config_set("maxmemory", "0")
    assert store.report("a", window(12)).windows[KEY].used == 12


# -- replies


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OK",
        "[]",
        "7",
        "{}",
        '{"at":1,"version":1,"epoch":7,"windows":{}}',
        '{"at":"1","version":1,"epoch":"e","windows":{}}',
        '{"at":1,"version":-1,"epoch":"e","windows":{}}',
        '{"at":1,"version":1,"epoch":"e","windows":[]}',
        '{"at":1,"version":1,"epoch":"e","windows":{},"granted":0,"why":{}}',
    ],
)
def test_what_is_no_reply_is_taken_for_none(store: QuotaStore, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_reply(ACCOUNT, text)


def test_a_foreign_answer_is_a_lost_store(store: QuotaStore) -> None:
    store.link("a").replay = lambda call: "PONG"  # type: ignore[method-assign]  # a server of another kind
    with pytest.raises(StoreLostError):
        store.report("a", window(1))
    with pytest.raises(StoreLostError):
        store.reserve("a", 1)


def test_numbers_that_are_none_are_refused_before_they_are_sent(store: QuotaStore) -> None:
    for wrong in (window(math.nan), window(0, base=reading(1, START, a=math.nan)), window(cap=math.nan)):
        with pytest.raises(ValueError, match=r"."):
            store.report("a", wrong)
    with pytest.raises(ValueError, match=r"."):
        store.reserve("a", math.nan)
    assert store.links["a"].sent == []


def test_no_limit_is_a_very_high_one(store: QuotaStore) -> None:
    reply = store.report("a", window(10, cap=math.inf, want=math.inf))
    assert reply.windows[KEY].ceilings["a"] > 1e12
    assert store.reserve("b", 1e9, window(cap=math.inf)).granted


def test_large_counts_keep_their_last_digit(store: QuotaStore) -> None:
    spent = 12_345_678_901_234.0
    assert store.report("a", window(spent, cap=1e15)).windows[KEY].spent == {"a": spent}


@pytest.mark.parametrize("name", ["ä ö/ü", '"quoted"', "back\\slash", "}", "{x}", "7", "\U0001f600", "a\nb"])
def test_any_name_will_do(store: QuotaStore, name: str) -> None:
    store.report(name, window(10, want=20, need=20))
    reply = store.reserve(name, 5, id=name)
    assert (reply.windows[KEY].ceilings, reply.windows[KEY].held) == ({name: 30}, {name: 5})
    told = window(10, key=name)
    assert store.report(name, told, ended=(name,)).windows[name].spent == {name: 10}
    assert store.client.zcard(store.keys.holds) == 0


# -- many accounts, and growth


def test_replies_come_in_the_order_of_the_reports(store: QuotaStore) -> None:
    told = [AccountReport(f"acc-{number}", (window(number),)) for number in range(1, 40)]
    replies = asyncio.run(store.scripts("a").report("a", told, lease_s=LEASE))
    assert [(reply.account, reply.windows[KEY].used) for reply in replies] == [
        (report.account, report.windows[0].spent) for report in told
    ]


def test_the_keys_of_an_account_lie_together_and_expire(store: QuotaStore) -> None:
    store.reserve("a", 10)
    store.report("a", window(3, want=5, need=5), ended=("x",))
    names = sorted(map(str, store.client.keys("test:{*")))
    assert names == sorted(store.keys)
    assert all(0 < int(store.client.ttl(name)) <= 62 * 86400 for name in names)


def test_instances_without_a_count_leave_nothing_in_a_window(store: QuotaStore) -> None:
    for number in range(50):
        store.report(f"i{number}", window(0, want=1, need=1))
        store.report(f"i{number}", window(0))
    seen = store.report("a", window(0)).windows[KEY]
    assert seen == SharedWindow(START, START + 1000)


def test_fifty_that_died_in_one_window_are_counted(store: QuotaStore) -> None:
    for number in range(50):
        store.report(f"i{number}", window(1, cap=1e6, want=10, need=10))
    store.after(LEASE)
    seen = store.report("a", window(7, cap=1e6, want=100)).windows[KEY]
    assert (seen.used, len(seen.charged), seen.ceilings) == (50 + 500 + 7, 50, {"a": 107})


def test_windows_that_nobody_has_any_longer_are_swept_away(store: QuotaStore) -> None:
    store.report("a", window(5, key="5h.requests.0"))
    store.client.hset(store.keys.amounts, "nobody's", '{"i":"a","w":{}}')
    store.after(2 * 86_400)
    for _ in range(1100):
        store.report("b", window(1, span=1e6))
    assert sorted(map(str, store.client.hkeys(store.keys.windows))) == ["epoch", "heard:b", "version", KEY]
    assert store.client.hlen(store.keys.amounts) == 0


def test_scripts_are_known_by_their_text() -> None:
    report = script("report", after="quota")
    assert report is script("report", after="quota")
    assert report.text.startswith(script("quota").text)
    assert len(report.sha) == 40
    assert report != replace(report, name="other")
