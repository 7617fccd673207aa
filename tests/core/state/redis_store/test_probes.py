"""Places for probes: exactly so many, each until its own end, whatever is asked meanwhile."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import CircuitScope, CircuitTarget
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.probes import Probes
from smartfallback.state.shared import StoreLostError
from support.redis_links import link_at_time, link_to
from support.redis_servers import RedisServer

TESTS = Path(__file__).parents[3]
TARGET = CircuitTarget(CircuitScope.ACCOUNT, "ag-1")


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
def probes(link):
    return Probes(link, Keys())


async def test_there_are_exactly_so_many_places(probes):
    replies = [await probes.take(TARGET, f"p{number}", at_once=3, lease_s=60) for number in range(5)]
    assert [reply.granted for reply in replies] == [True, True, True, False, False]


async def test_a_dead_probes_place_is_free_at_the_end_of_its_own_lease(link, probes):
    began = link.at
    first = await probes.take(TARGET, "dead", at_once=1, lease_s=120)
    assert first.until == pytest.approx(began + 120, abs=1e-5)
    for second in range(1, 120):
        link.at = began + second
        refused = await probes.take(TARGET, f"p{second}", at_once=1, lease_s=120)
        assert not refused.granted
        assert refused.until == first.until
    link.at = began + 119.9999
    assert not (await probes.take(TARGET, "early", at_once=1, lease_s=120)).granted
    link.at = began + 120
    assert (await probes.take(TARGET, "next", at_once=1, lease_s=120)).granted


async def test_asking_twice_for_one_probe_takes_one_place_and_moves_no_end(link, probes):
    first = await probes.take(TARGET, "p", at_once=2, lease_s=60)
    link.at += 30
    assert await probes.take(TARGET, "p", at_once=2, lease_s=60) == first
    assert (await probes.take(TARGET, "q", at_once=2, lease_s=60)).granted
    refused = await probes.take(TARGET, "r", at_once=2, lease_s=60)
    assert (refused.granted, refused.until) == (False, first.until)


async def test_a_place_that_is_given_back_is_free_at_once(probes):
    await probes.take(TARGET, "p", at_once=1, lease_s=60)
    await probes.drop(TARGET, "p")
    await probes.drop(TARGET, "p")
    assert (await probes.take(TARGET, "q", at_once=1, lease_s=60)).granted


async def test_giving_back_an_unknown_probe_frees_no_other(probes):
    await probes.take(TARGET, "p", at_once=1, lease_s=60)
    await probes.drop(TARGET, "other")
    assert not (await probes.take(TARGET, "q", at_once=1, lease_s=60)).granted


async def test_a_request_that_comes_after_it_was_given_up_takes_no_place(link, probes):
    await probes.drop(TARGET, "late")
    link.at += 300
    assert not (await probes.take(TARGET, "late", at_once=1, lease_s=60)).granted
    assert (await probes.take(TARGET, "another", at_once=1, lease_s=60)).granted


async def test_each_circuit_has_its_own_places(probes):
    targets = [
        TARGET,
        CircuitTarget(CircuitScope.PROVIDER, "ag-1"),
        CircuitTarget(CircuitScope.MODEL, "ag-1/gemini"),
        CircuitTarget(CircuitScope.MODEL, "ag-1/meta/llama"),
        CircuitTarget(CircuitScope.MODEL, "ag-1"),
        CircuitTarget(CircuitScope.ACCOUNT, "ag}{-1"),
    ]
    for target in targets:
        assert (await probes.take(target, "p", at_once=1, lease_s=60)).granted
        assert not (await probes.take(target, "q", at_once=1, lease_s=60)).granted


async def test_instances_that_differ_about_how_many_there_are(probes):
    for name in ("a", "b", "c"):
        await probes.take(TARGET, name, at_once=3, lease_s=60)
    assert not (await probes.take(TARGET, "d", at_once=1, lease_s=60)).granted
    await probes.drop(TARGET, "a")
    assert not (await probes.take(TARGET, "d", at_once=1, lease_s=60)).granted
    assert (await probes.take(TARGET, "d", at_once=3, lease_s=60)).granted


@pytest.mark.parametrize(("at_once", "lease_s"), [(0, 60), (-1, 60), (1, 0), (1, -1), (1, float("nan"))])
async def test_a_number_that_makes_no_sense_is_refused_here(probes, at_once, lease_s):
    with pytest.raises(ValueError, match=r"at_once|lease_s"):
        await probes.take(TARGET, "p", at_once=at_once, lease_s=lease_s)


async def test_an_endless_lease_ends(link, probes):
    reply = await probes.take(TARGET, "p", at_once=1, lease_s=float("inf"))
    assert reply.until <= link.at + 86_401


async def test_what_somebody_else_keeps_under_the_keys_is_replaced(server, probes):
    keys = Keys()
    for key in (keys.probes("account:ag-1", "account"), keys.dropped_probes("account:ag-1", "account")):
        server.command("SET", key, "a text")
    await probes.drop(TARGET, "x")
    assert (await probes.take(TARGET, "p", at_once=1, lease_s=60)).granted


async def test_nothing_is_left_behind_for_ever(server, probes):
    await probes.take(TARGET, "p", at_once=1, lease_s=60)
    await probes.drop(TARGET, "q")
    for key in server.command("KEYS", "*probes:*") + server.command("KEYS", "*dropped:*"):
        assert 0 < server.command("PTTL", key) <= 601_000


async def test_given_back_probes_are_remembered_in_bounded_number(server, probes):
    await asyncio.gather(*(probes.drop(TARGET, f"p{number}") for number in range(1100)))
    assert server.command("ZCARD", Keys().dropped_probes("account:ag-1", "account")) == 1000


async def test_a_frozen_server_keeps_nobody_waiting_and_leaks_no_place():
    with RedisServer(unix=True) as server:
        async with link_to(server) as link:
            probes = Probes(link, Keys())
            await probes.drop(TARGET, "warm")
            server.freeze()
            with pytest.raises(StoreLostError):
                await probes.take(TARGET, "given-up", at_once=1, lease_s=60)
            server.thaw()
            for _ in range(500):
                if link.status.usable:
                    break
                await asyncio.sleep(0.01)
            await probes.drop(TARGET, "given-up")
            assert (await probes.take(TARGET, "next", at_once=1, lease_s=60)).granted


PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from smartfallback import CircuitScope, CircuitTarget
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.probes import Probes
from support.redis_links import link_to

async def main(url, name):
    async with link_to(url) as link:
        probes = Probes(link, Keys())
        print("ready", flush=True)
        for line in sys.stdin:
            target = CircuitTarget(CircuitScope.ACCOUNT, line.strip())
            takes = [probes.take(target, f"{name}-{n}", at_once=3, lease_s=60) for n in range(50)]
            replies = await asyncio.gather(*takes, return_exceptions=True)
            print(json.dumps([getattr(reply, "granted", None) for reply in replies]), flush=True)

asyncio.run(main(sys.argv[2], sys.argv[3]))
"""


def test_four_processes_with_fifty_callers_each_get_exactly_as_many_places_as_there_are(server):
    server.command("FLUSHALL")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(TESTS), server.url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
        for round_number in range(10):
            for process in processes:
                process.stdin.write(f"ag-{round_number}\n")
                process.stdin.flush()
            answers = [answer for process in processes for answer in json.loads(process.stdout.readline())]
            key = Keys().probes(f"account:ag-{round_number}", "account")
            # A caller who was not answered in time may have a place all the same.
            unanswered = answers.count(None)
            assert server.command("ZCARD", key) == 3
            assert 3 - unanswered <= answers.count(True) <= 3
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


class Model:
    """What take and drop should do, without Redis."""

    def __init__(self):
        self.ends = {}
        self.dropped = set()

    def take(self, probe, at_once, lease_s, now):
        self.ends = {name: end for name, end in self.ends.items() if end > now}
        if probe in self.ends:
            return True
        if probe in self.dropped or len(self.ends) >= at_once:
            return False
        self.ends[probe] = now + lease_s
        return True

    def drop(self, probe):
        self.ends.pop(probe, None)
        self.dropped.add(probe)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from("abcdef"), st.integers(1, 3), st.integers(1, 20)),
        st.tuples(st.just("drop"), st.sampled_from("abcdef")),
        st.tuples(st.just("wait"), st.integers(1, 15)),
    ),
    max_size=30,
)


async def follow(link, steps):
    probes, model = Probes(link, Keys()), Model()
    for what, *step in steps:
        if what == "wait":
            link.at += step[0]
        elif what == "drop":
            await probes.drop(TARGET, step[0])
            model.drop(step[0])
        else:
            probe, at_once, lease_s = step
            reply = await probes.take(TARGET, probe, at_once=at_once, lease_s=lease_s)
            assert reply.granted == model.take(probe, at_once, lease_s, link.at)
            if reply.granted:
                assert reply.until == model.ends[probe]
            elif probe not in model.dropped:
                assert reply.until == min(model.ends.values())


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_any_sequence_does_what_the_model_does(server, steps):
    async def run():
        server.command("FLUSHALL")
        async with link_at_time(server) as link:
            await follow(link, steps)

    asyncio.run(run())
