"""Facts, hints and probes on a cluster: keys lie where their tags say, and the stream somewhere else."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from smartfallback import CircuitScope, CircuitTarget
from smartfallback.model.sharing import Change, Fact, FactWrite, InstanceView
from smartfallback.state.redis_store.changes import Changes
from smartfallback.state.redis_store.facts import Facts
from smartfallback.state.redis_store.instances import Instances
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.probes import Probes
from support.redis_links import link_to
from support.redis_servers import RedisCluster

KEYS = Keys()
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
async def link(cluster):
    async with link_to(cluster) as link:
        yield link


async def test_facts(cluster, link):
    facts = Facts(link, KEYS)
    subjects = [f"account:{number}" for number in range(200)]
    told = [
        FactWrite(subject, "admin", Fact(json.dumps({"reason": subject}), 1.0, "i1")) for subject in subjects
    ]
    assert await facts.write(told) == [write.fact for write in told]
    for _ in range(2):
        found = await facts.read(subjects)
        assert [found[subject]["admin"] for subject in subjects] == [write.fact for write in told]
    assert len({cluster.owner(KEYS.facts(subject)) for subject in subjects}) == 3
    assert cluster.owner(KEYS.changes).command("XLEN", KEYS.changes) == 1


async def test_changes(cluster, link):
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(Changes(link, KEYS).listen()) as changes:
        assert await anext(changes) == Change("")
        subjects = ["account:a", "account:b", "provider:c"]
        await Facts(link, KEYS).write([FactWrite(each, "admin", Fact("1", 1.0, "i1")) for each in subjects])
        assert [await anext(changes) for _ in range(3)] == [Change(subject, "i1") for subject in subjects]
        cluster.owner(KEYS.changes).command("DEL", KEYS.changes)
        assert await anext(changes) == Change("")


async def test_probes(link):
    probes = Probes(link, KEYS)
    for number in range(12):
        target = CircuitTarget(CircuitScope.MODEL, f"ag-{number}/gemini")
        replies = [await probes.take(target, name, at_once=1, lease_s=60) for name in "ab"]
        assert [reply.granted for reply in replies] == [True, False]
        await probes.drop(target, "a")
        assert (await probes.take(target, "c", at_once=1, lease_s=60)).granted


async def test_instances(link):
    instances = Instances(link, KEYS)
    views = [InstanceView(f"id-{number}", "desk", "1", 1.0, 0.0, 0, 0.0) for number in range(3)]
    for view in views:
        beat = await instances.heartbeat(view)
    assert [one.id for one in beat.instances] == ["id-2", "id-0", "id-1"]
    await instances.leave("id-0")
    assert len((await instances.heartbeat(views[1])).instances) == 2
