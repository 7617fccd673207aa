"""Whatever order facts arrive in, and however often, all come to the same end."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.sharing import Fact, FactRule, FactWrite
from smartfallback.state.redis_store.facts import Facts
from smartfallback.state.redis_store.keys import Keys
from support.redis_links import link_at_time
from support.redis_servers import RedisServer

AG = "account:ag-1"
NOW = 1_790_000_000.0


@pytest.fixture(scope="module")
def server():
    with RedisServer(unix=True) as server:
        yield server


MOMENTS = st.integers(0, 6).map(lambda steps: NOW - 6 + steps)
WHO = st.sampled_from(["a", "b", "c"])


@st.composite
def told(draw, rests):
    """Facts that differ in when they came about or in who says so, as those of one instance do."""
    keys = draw(st.lists(st.tuples(MOMENTS, WHO), unique=True, min_size=1, max_size=7))
    facts = []
    for at, by in keys:
        until = draw(st.none() | st.integers(1, 6).map(lambda steps: NOW + 10 * steps)) if rests else None
        facts.append(Fact(f'"{at} {by} {until}"', at, by, until))
    repeats = draw(st.lists(st.sampled_from(facts), max_size=4))
    return draw(st.permutations(facts + repeats))


def write_all(server, facts, rule):
    async def run():
        server.command("FLUSHALL")
        async with link_at_time(server) as link:
            store = Facts(link, Keys())
            for fact in facts:
                held = await store.write([FactWrite(AG, "x", fact, rule)])
            read = (await store.read([AG]))[AG]["x"]
            assert [read] == held
            return read

    return asyncio.run(run())


@settings(max_examples=80, deadline=None)
@given(facts=told(rests=False))
def test_the_latest_holds(server, facts):
    assert write_all(server, facts, FactRule.LATEST) == max(facts, key=lambda fact: (fact.at, fact.by))


@settings(max_examples=120, deadline=None)
@given(facts=told(rests=True))
def test_the_longest_rest_that_came_about_after_the_last_lift_holds(server, facts):
    lifts = [fact for fact in facts if fact.until is None]
    lifted = max((fact.at for fact in lifts), default=0.0)
    rests = [fact for fact in facts if fact.until is not None and fact.at > lifted]
    expected = (
        max(rests, key=lambda fact: (fact.until, fact.at, fact.by))
        if rests
        else max(lifts, key=lambda fact: (fact.at, fact.by))
    )
    assert write_all(server, facts, FactRule.LONGEST) == expected


LIFT = Fact('"lift"', NOW, "a")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("at", "holds"), [(NOW - 1e-6, False), (NOW, False), (NOW + 1e-6, True)])
def test_a_lift_at_the_moment_of_a_rest(server, at, holds, turned):
    """An operator's reset takes what came about until then, and nothing after it."""
    rest = Fact('"429"', at, "b", NOW + 60)
    both = [rest, LIFT] if turned else [LIFT, rest]
    assert write_all(server, both, FactRule.LONGEST) == (rest if holds else LIFT)


def test_a_shorter_rest_outlives_the_lift_of_a_longer_one(server):
    longer, shorter = Fact("1", NOW - 9, "a", NOW + 90), Fact("2", NOW + 1, "b", NOW + 30)
    assert write_all(server, [longer, shorter, LIFT], FactRule.LONGEST) == shorter
    assert write_all(server, [longer, shorter, LIFT, longer], FactRule.LONGEST) == shorter


def test_an_older_lift_does_not_bring_back_what_a_newer_one_took(server):
    taken, standing = Fact("1", NOW - 5, "a", NOW + 90), Fact("2", NOW + 1, "b", NOW + 30)
    older = Fact('"lift"', NOW - 6, "c")
    assert write_all(server, [standing, LIFT, older, taken], FactRule.LONGEST) == standing


def test_a_shorter_rest_never_shortens_a_longer_one(server):
    longer = Fact("1", NOW - 9, "a", NOW + 90)
    shorter = [Fact("2", NOW - 9 + number, "b", NOW + 60 - number) for number in range(1, 9)]
    assert write_all(server, [longer, *shorter], FactRule.LONGEST) == longer


def test_a_rest_that_is_over_gives_way_to_any_that_runs(server):
    over, running = Fact("1", NOW, "b", NOW - 1), Fact("2", NOW - 5, "a", NOW + 1)
    assert write_all(server, [over, running], FactRule.LONGEST) == running
    assert write_all(server, [running, over], FactRule.LONGEST) == running


def test_what_a_rest_remembers_is_bounded(server):
    rests = [Fact("1", NOW - 100 + number, "a", NOW + 1000 - number) for number in range(100)]
    assert write_all(server, rests, FactRule.LONGEST) == rests[0]
    assert len(server.command("HGET", Keys().facts(AG), "x")) < 2000
