"""Facts in a hash a subject: which of two holds, whoever comes first, and what damage leaves standing."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace

import pytest

from smartfallback.model.sharing import Fact, FactRule, FactWrite
from smartfallback.state.redis_store.facts import MOST_HINTS, MOST_NAMES, MOST_VALUE_BYTES, Facts
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.shared import StoreLostError
from support.redis_links import link_at_time, link_to
from support.redis_servers import RedisServer

AG = "account:ag-1"
KEYS = Keys()


@pytest.fixture(scope="module")
def server():
    with RedisServer(unix=True) as server:
        yield server


@pytest.fixture
async def link(server):
    server.command("FLUSHALL")
    async with link_at_time(server) as link:
        yield link


@pytest.fixture
def facts(link):
    return Facts(link, KEYS)


@pytest.fixture
def hints(server):
    def read():
        entries = server.command("XRANGE", KEYS.changes, "-", "+")
        return [(fields["s"], fields["b"]) for _, fields in entries]

    return read


def latest(value, at, by="i1", *, subject=AG, name="admin"):
    return FactWrite(subject, name, Fact(json.dumps(value), at, by))


def rest(value, at, until, by="i1", *, name="cooldown"):
    return FactWrite(AG, name, Fact(json.dumps(value), at, by, until), FactRule.LONGEST)


async def test_what_one_tells_another_reads(link, facts):
    told = [
        latest({"state": "drained", "reason": 'a "reason" / ünï 🚦'}, link.at - 0.123457),
        rest("429", link.at, link.at + 60.1234567),
        latest("open", link.at, subject="provider:gemini", name="circuit"),
    ]
    assert await facts.write(told) == [write.fact for write in told]
    assert await Facts(link, KEYS).read([AG, "provider:gemini", "account:none"]) == {
        AG: {"admin": told[0].fact, "cooldown": told[1].fact},
        "provider:gemini": {"circuit": told[2].fact},
        "account:none": {},
    }


async def test_times_keep_every_digit(link, facts):
    at, until = math.nextafter(link.at, 0), math.nextafter(link.at + 60, math.inf)
    (held,) = await facts.write([rest(1, at, until)])
    read = (await facts.read([AG]))[AG]["cooldown"]
    assert (held.at, held.until) == (read.at, read.until) == (at, until)


async def test_a_rest_without_an_end_has_none_when_it_is_read(link, facts):
    await facts.write([rest(1, link.at, math.inf)])
    assert (await facts.read([AG]))[AG]["cooldown"].until == math.inf


# -- the later one holds


async def test_the_later_fact_holds_whichever_arrives_first(link, facts):
    older, newer = latest("old", link.at - 1), latest("new", link.at, "i2")
    assert await facts.write([newer]) == [newer.fact]
    assert await facts.write([older]) == [newer.fact]
    assert (await facts.read([AG]))[AG]["admin"] == newer.fact


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("smaller", "larger"), [("i1", "i2"), ("i1", "i10"), ("B", "a"), ("i", "i1")])
async def test_of_two_at_the_same_moment_the_larger_id_holds(link, facts, smaller, larger, turned):
    both = [latest("its", link.at, smaller), latest("mine", link.at, larger)]
    for write in reversed(both) if turned else both:
        await facts.write([write])
    assert (await facts.read([AG]))[AG]["admin"] == both[1].fact


async def test_two_within_a_microsecond_are_told_apart(link, facts):
    first, second = latest("first", link.at - 1e-6, "z"), latest("second", link.at, "a")
    await facts.write([second])
    assert await facts.write([first]) == [second.fact]


async def test_of_two_that_one_instance_tells_at_one_moment_the_one_told_last_holds(link, facts):
    held = await facts.write([latest("drained", link.at), latest("active", link.at)])
    assert [json.loads(fact.value) for fact in held] == ["drained", "active"]
    assert json.loads((await facts.read([AG]))[AG]["admin"].value) == "active"


# -- clocks


async def test_a_time_to_come_is_not_believed(link, facts):
    (held,) = await facts.write([latest("ahead", link.at + 3600)])
    assert held.at == pytest.approx(link.at)
    link.at += 1
    now = latest("now", link.at, "i2")
    assert await facts.write([now]) == [now.fact]


async def test_a_server_whose_clock_is_behind_takes_what_is_told_now(link, facts):
    await facts.write([latest("before", link.at), rest("429", link.at, link.at + 7200)])
    await facts.write([rest("lifted", link.at, None, name="wall")])
    link.at -= 3600
    told = [
        latest("after", link.at, "i2"),
        rest("lifted", link.at, None, "i2"),
        rest("429", link.at, link.at + 60, "i2", name="wall"),
    ]
    assert await facts.write(told) == [write.fact for write in told]


async def test_a_small_difference_of_clocks_is_left_as_it_is(link, facts):
    ahead = latest("ahead", link.at + 0.05)
    assert await facts.write([ahead]) == [ahead.fact]


# -- hints


async def test_facts_of_one_subject_make_one_hint(link, facts, hints):
    await facts.write([latest(number, link.at, name=f"fact-{number}") for number in range(20)])
    assert hints() == [(AG, "i1")]


async def test_each_subject_has_its_hint(link, facts, hints):
    await facts.write([latest(1, link.at, subject=f"account:{number}") for number in range(MOST_HINTS)])
    assert sorted(hints()) == sorted((f"account:{number}", "i1") for number in range(MOST_HINTS))


async def test_a_hint_at_what_several_said_names_none_of_them(link, facts, hints):
    await facts.write([latest(1, link.at, "i1"), latest(2, link.at, "i2", name="circuit")])
    assert hints() == [(AG, "")]


async def test_a_thousand_subjects_make_one_hint_at_all(link, facts, hints):
    await facts.write([latest(1, link.at, subject=f"account:{number}") for number in range(1000)])
    assert hints() == [("", "i1")]
    subjects = [f"account:{number}" for number in range(1000)]
    assert all(found["admin"].value == "1" for found in (await facts.read(subjects)).values())


async def test_what_does_not_hold_is_not_hinted_at(link, facts, hints):
    await facts.write([latest("new", link.at, "i2"), rest(1, link.at - 1, link.at + 60, "i2")])
    await facts.write([latest("old", link.at - 1), rest(2, link.at, link.at + 30)])
    assert hints() == [(AG, "i2")]


async def test_telling_again_what_holds_hints_again(link, facts, hints):
    # Whoever tells it again was not told that it had arrived: the hint may be what was missing.
    for _ in range(2):
        await facts.write([latest("new", link.at)])
    assert hints() == [(AG, "i1")] * 2


async def test_a_lift_that_brings_another_rest_to_light_is_hinted_at(link, facts, hints):
    await facts.write(
        [rest("long", link.at - 9, link.at + 90, "i1"), rest("short", link.at - 3, link.at + 30, "i2")]
    )
    (held,) = await facts.write([rest("lift", link.at - 5, None, "i3")])
    assert json.loads(held.value) == "short"
    assert hints() == [(AG, "i1"), (AG, "i3")]


async def test_the_stream_is_bounded(server, link, facts):
    for _ in range(220):
        writes = [latest(1, link.at, subject=f"account:{number}") for number in range(MOST_HINTS)]
        await facts.write(writes)
    assert server.command("XLEN", KEYS.changes) < 11_000


# -- reading again


async def test_what_changed_since_is_read(server, link, facts):
    await facts.write([latest("one", link.at), latest("two", link.at, subject="account:ag-2")])
    reader = Facts(link, KEYS)
    both = [AG, "account:ag-2"]
    assert [json.loads(found["admin"].value) for found in (await reader.read(both)).values()] == [
        "one",
        "two",
    ]
    await facts.write([latest("three", link.at, "i2")])
    assert [json.loads(found["admin"].value) for found in (await reader.read(both)).values()] == [
        "three",
        "two",
    ]
    # By hand: the rows are the truth, whoever wrote them.
    server.command("DEL", KEYS.facts("account:ag-2"))
    server.command("HDEL", KEYS.facts(AG), "admin")
    assert await reader.read(both) == {AG: {}, "account:ag-2": {}}


async def test_a_store_that_was_emptied_and_filled_again_is_read_anew(server, link, facts):
    await facts.write([latest("before", link.at)])
    await facts.read([AG])
    server.flush()
    assert await facts.read([AG]) == {AG: {}}
    await facts.write([latest("after", link.at - 60)])
    assert json.loads((await facts.read([AG]))[AG]["admin"].value) == "after"


async def test_readers_at_once_each_get_all(link, facts):
    subjects = [f"account:{number}" for number in range(300)]
    await facts.write([latest(1, link.at, subject=subject) for subject in subjects])
    await facts.read(subjects[:150])
    for found in await asyncio.gather(*(facts.read(subjects) for _ in range(5))):
        assert all(found[subject]["admin"].value == "1" for subject in subjects)


async def test_what_is_known_is_not_sent_again(server, link, facts):
    subjects = [f"account:{number}" for number in range(1000)]
    await facts.write([latest("x" * 500, link.at, subject=subject) for subject in subjects])
    await facts.read(subjects)
    sent = sent_bytes(server)
    await facts.read(subjects)
    again = sent_bytes(server) - sent
    await Facts(link, KEYS).read(subjects)
    assert again * 20 < sent_bytes(server) - sent - again


def sent_bytes(server):
    stats = server.command("INFO", "stats")
    if isinstance(stats, str):
        stats = dict(line.split(":", 1) for line in stats.split() if ":" in line)
    return int(stats["total_net_output_bytes"])


async def test_a_subject_asked_for_twice_is_read_once(link, facts):
    await facts.write([latest(1, link.at)])
    assert [*await facts.read([AG, AG])] == [AG]
    assert await facts.read([]) == {}
    assert await facts.write([]) == []


# -- damage


DAMAGED = [
    "no json",
    "[]",
    "null",
    '"text"',
    "{}",
    '{"v": 1, "at": "1.0", "by": "i"}',
    '{"v": "1", "at": 1, "by": "i"}',
    '{"v": "1", "at": "nan", "by": "i"}',
    '{"v": "1", "at": "x", "by": "i"}',
    '{"v": "1", "at": "1.0", "by": "i", "until": true}',
    '{"v": "not json", "at": "1.0", "by": "i"}',
    "[" * 100_000,
    '{"v": "1", "at": "1.0", "by": "i", "more": "' + "x" * 300_000 + '"}',
]


async def test_damaged_rows_are_skipped_and_the_rest_is_read(server, link, facts):
    fine = latest("fine", link.at)
    await facts.write([fine])
    for number, row in enumerate(DAMAGED):
        server.command("HSET", KEYS.facts(AG), f"damaged-{number}", row)
    server.command("SET", KEYS.facts("account:text"), "no hash")
    found = await facts.read(["account:text", AG])
    assert found == {"account:text": {}, AG: {"admin": fine.fact}}


@pytest.mark.parametrize("rule", FactRule)
async def test_a_damaged_row_is_replaced(server, link, facts, rule):
    for number, row in enumerate(DAMAGED):
        server.command("HSET", KEYS.facts(AG), f"damaged-{number}", row)
    until = link.at + 60 if rule is FactRule.LONGEST else None
    told = [
        FactWrite(AG, f"damaged-{number}", Fact('"mine"', link.at, "i1", until), rule)
        for number in range(len(DAMAGED))
    ]
    assert await facts.write(told) == [write.fact for write in told]
    assert set((await facts.read([AG]))[AG].values()) == {told[0].fact}


async def test_damage_inside_a_rests_memory_is_left_out(server, link, facts):
    row = {
        "v": '"429"',
        "at": repr(link.at),
        "by": "i1",
        "until": repr(link.at + 60),
        "lift": "x",
        "under": [1, {}],
    }
    server.command("HSET", KEYS.facts(AG), "cooldown", json.dumps(row))
    longer = rest("longer", link.at, link.at + 90, "i2")
    assert await facts.write([longer]) == [longer.fact]


async def test_a_key_of_another_kind_is_replaced(server, link, facts):
    server.command("SET", KEYS.facts(AG), "no hash")
    server.command("SET", KEYS.changes, "no stream")
    told = latest("mine", link.at)
    assert await facts.write([told]) == [told.fact]
    assert await facts.read([AG]) == {AG: {"admin": told.fact}}
    assert server.command("XLEN", KEYS.changes) == 1


async def test_names_are_bounded_and_what_is_no_rest_goes_last(server, link, facts):
    admin = latest("drained", link.at - 86_400)
    await facts.write([admin])
    for number in range(500):
        server.command("HSET", KEYS.facts(AG), f"somebody's-{number}", "damaged")
    rests = [
        rest(1, link.at, link.at + 60 + number, name=f"rest:model-{number}")
        for number in range(MOST_NAMES + 50)
    ]
    for start in range(0, len(rests), 50):
        await facts.write(rests[start : start + 50])
    found = (await facts.read([AG]))[AG]
    assert server.command("HLEN", KEYS.facts(AG)) == len(found) == MOST_NAMES
    assert found["admin"] == admin.fact
    assert f"rest:model-{MOST_NAMES + 49}" in found
    assert "rest:model-0" not in found


async def test_a_fact_that_can_not_be_kept_does_not_keep_others_from_being_told(link, facts, caplog):
    fine = latest("fine", link.at)
    flawed = [
        replace(fine, name="x" * 513),
        replace(fine, name=""),
        replace(fine, subject="account:\ud800"),
        replace(fine, fact=replace(fine.fact, at=math.nan)),
        replace(fine, fact=replace(fine.fact, until=math.nan)),
        replace(fine, fact=replace(fine.fact, value="1" * (MOST_VALUE_BYTES + 1))),
    ]
    for _ in range(3):
        held = await facts.write([*flawed, fine])
    assert held[-1] == fine.fact
    assert await facts.read([AG]) == {AG: {"admin": fine.fact}}
    assert len(caplog.records) == 4  # one a flaw


# -- the store


async def test_a_lost_store_is_told_and_what_was_told_again_arrives():
    with RedisServer() as server:
        async with link_to(server) as link:
            facts = Facts(link, KEYS)
            await facts.write([latest("before", 1.0)])
            server.kill()
            with pytest.raises(StoreLostError):
                await facts.write([latest("after", 2.0)])
            with pytest.raises(StoreLostError):
                await facts.read([AG])
            server.start()
            await link.wait_reachable()
            assert await facts.read([AG]) == {AG: {}}
            await facts.write([latest("after", 2.0)])
            assert json.loads((await facts.read([AG]))[AG]["admin"].value) == "after"
