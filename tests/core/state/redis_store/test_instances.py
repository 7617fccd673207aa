"""Heartbeats: who is listed, for how long, and who is known."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback.model.sharing import InstanceView
from smartfallback.state.redis_store.instances import MOST_INSTANCES, Instances
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.shared import StoreLostError
from support.redis_links import link_at_time, link_to
from support.redis_servers import RedisServer, until

TESTS = Path(__file__).parents[3]
KEYS = Keys()
HERE = InstanceView("id-1", "desk", "0.1.0", 1_789_999_000.123457, 0.0, 3, 2.5)


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
def instances(link):
    return Instances(link, KEYS)


def other(number, **changes):
    return replace(HERE, id=f"id-{number}", name=f"other-{number}", **changes)


async def names(instances):
    return [one.id for one in (await instances.heartbeat(HERE)).instances]


async def test_the_first_heartbeat_is_of_an_unknown_instance(link, instances):
    beat = await instances.heartbeat(HERE)
    assert beat.at == pytest.approx(link.at)
    assert not beat.known
    assert beat.instances == (replace(HERE, seen_at=beat.at, here=True),)
    assert (await instances.heartbeat(HERE)).known


async def test_all_hear_of_all_with_their_load(link, instances):
    await instances.heartbeat(other(2, in_flight=7, requests_per_s=0.1))
    link.at += 4
    beat = await instances.heartbeat(HERE)
    assert [(one.id, one.in_flight, one.requests_per_s, one.here) for one in beat.instances] == [
        ("id-1", 3, 2.5, True),
        ("id-2", 7, 0.1, False),
    ]
    assert beat.at - beat.instances[1].seen_at == pytest.approx(4)


async def test_one_that_is_silent_is_listed_for_ten_seconds(link, instances):
    await instances.heartbeat(other(2))
    link.at += 10
    assert await names(instances) == ["id-1", "id-2"]
    link.at += 0.001
    assert await names(instances) == ["id-1"]


async def test_one_that_was_frozen_is_known_for_a_minute_and_listed_again(link, instances):
    await instances.heartbeat(other(2))
    link.at += 59
    assert await names(instances) == ["id-1"]
    assert (await instances.heartbeat(other(2))).known
    assert await names(instances) == ["id-1", "id-2"]
    link.at += 61
    assert not (await instances.heartbeat(other(2))).known


async def test_a_store_that_was_emptied_knows_nobody(server, instances):
    await instances.heartbeat(HERE)
    server.flush()
    assert not (await instances.heartbeat(HERE)).known
    assert (await instances.heartbeat(HERE)).known


async def test_two_with_one_name_are_two(instances):
    await instances.heartbeat(replace(HERE, id="id-2"))
    assert [(one.id, one.name, one.here) for one in (await instances.heartbeat(HERE)).instances] == [
        ("id-1", "desk", True),
        ("id-2", "desk", False),
    ]


async def test_one_that_leaves_is_listed_no_longer(instances):
    await instances.heartbeat(other(2))
    await instances.leave("id-2")
    await instances.leave("id-3")
    assert await names(instances) == ["id-1"]


async def test_a_server_whose_clock_is_behind_lists_no_dead_ones(link, instances):
    await instances.heartbeat(other(2))
    link.at -= 3600
    assert await names(instances) == ["id-1"]
    await instances.heartbeat(other(2))
    assert await names(instances) == ["id-1", "id-2"]


async def test_damaged_rows_are_skipped_and_forgotten(server, link, instances):
    seen = f"{link.at:.6f}"
    rows = [
        "",
        "no time",
        "{}",
        f"{seen} ",
        f"{seen} no json",
        f"{seen} []",
        f'{seen} {{"name": 1}}',
        f"{seen} {'[' * 100_000}",
        f'{seen} {{"name": "n", "version": "1", "started_at": "x"}}',
        f'{seen} {{"name": "n", "version": "1", "started_at": 1, "in_flight": -1, "requests_per_s": 1}}',
        f'{seen} {{"name": "n", "version": "1", "started_at": 1e999, "in_flight": 1, "requests_per_s": 1}}',
    ]
    for number, row in enumerate(rows):
        server.command("HSET", KEYS.instances, f"damaged-{number}", row)
    await instances.heartbeat(other(2))
    assert await names(instances) == ["id-1", "id-2"]
    link.at += 61
    await instances.heartbeat(HERE)
    assert server.command("HLEN", KEYS.instances) == 1


async def test_a_key_of_another_kind_is_replaced(server, instances):
    server.command("SET", KEYS.instances, "no hash")
    assert await names(instances) == ["id-1"]


async def test_a_name_can_be_anything_and_is_bounded(server, link, instances):
    strange = "desk [/x] 'ü' \" \\ \n 🚦 \ud800"
    await instances.heartbeat(replace(HERE, id="id-2", name=strange, version="v" * 1000))
    await instances.heartbeat(replace(HERE, id="id-3", name="x" * 100_000, requests_per_s=float("nan")))
    _, second, third = (await instances.heartbeat(HERE)).instances
    assert second.name == strange.replace("\ud800", "?")
    assert (len(second.version), len(third.name), third.requests_per_s) == (64, 200, 0.0)


async def test_their_number_is_bounded_and_the_longest_silent_go_first(server, link, instances):
    for number in range(MOST_INSTANCES + 20):
        row = {"name": "n", "version": "1", "started_at": 1, "in_flight": 0, "requests_per_s": 0}
        server.command(
            "HSET", KEYS.instances, f"n-{number}", f"{link.at - number / 1000:.6f} {json.dumps(row)}"
        )
    listed = await names(instances)
    assert len(listed) == server.command("HLEN", KEYS.instances) == MOST_INSTANCES
    assert "n-0" in listed
    assert f"n-{MOST_INSTANCES + 19}" not in listed


PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from smartfallback.model.sharing import InstanceView
from smartfallback.state.redis_store.instances import Instances
from smartfallback.state.redis_store.keys import Keys
from support.redis_links import link_to

async def main(url):
    async with link_to(url) as link:
        while True:
            beat = await Instances(link, Keys()).heartbeat(InstanceView("frozen", "f", "1", 1.0, 0.0, 0, 0.0))
            print(beat.known, flush=True)
            await asyncio.sleep(0.05)

asyncio.run(main(sys.argv[2]))
"""


def test_a_process_that_was_stopped_goes_on_where_it_was(server):
    server.command("FLUSHALL")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(TESTS), server.url], stdout=subprocess.PIPE, text=True
    )

    def last_seen():
        return float(server.command("HGET", KEYS.instances, "frozen").split()[0])

    try:
        assert [process.stdout.readline() for _ in range(2)] == ["False\n", "True\n"]
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        stopped_at = last_seen()
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: last_seen() > stopped_at, "a heartbeat after the pause")
        assert process.stdout.readline() == "True\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_a_lost_store_is_told():
    with RedisServer(unix=True) as server:
        async with link_to(server) as link:
            instances = Instances(link, KEYS)
            await asyncio.gather(instances.heartbeat(HERE), instances.heartbeat(other(2)))
            server.kill()
            with pytest.raises(StoreLostError):
                await instances.heartbeat(HERE)
            with pytest.raises(StoreLostError):
                await instances.leave("id-1")
