"""The master behind sentinels, and a cluster: found, followed when it moves, and lost without harm."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from smartfallback.state.redis_store.address import Kind, parse
from smartfallback.state.redis_store.line import LineError
from smartfallback.state.redis_store.link import RedisLink
from smartfallback.state.redis_store.routes import ClusterRoutes
from smartfallback.state.redis_store.scripts import Script
from smartfallback.state.shared import StoreLostError
from support.redis_links import link_to
from support.redis_servers import RedisCluster, RedisServer, free_port, sentinel_group
from support.waiting import until

PATIENT = 10.0
PUT = Script.of("put", "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")


async def put(link: RedisLink, key: str, value: str) -> object:
    """Write through the link, on a machine that may be too busy to answer within a limit."""
    async with asyncio.timeout(15):
        while True:
            await until(lambda: link.status.usable)
            with contextlib.suppress(StoreLostError):
                return await link.run(PUT, [key], [value], limit_s=PATIENT)


# -- sentinels


async def test_the_master_is_found_and_followed_when_it_dies():
    with sentinel_group(password="geheim") as (servers, sentinels, url):
        # One sentinel that is not there is passed over.
        url = url.replace("@", f"@127.0.0.1:{free_port()},")
        async with link_to(url) as link:
            assert await put(link, "key", "before") == "before"
            assert servers[0].command("GET", "key") == "before"
            await until(lambda: servers[1].command("GET", "key") == "before")
            heard = []
            link.on_change(lambda status: heard.append(status.usable))
            servers[0].kill()
            await until(lambda: sentinels[0].master() == servers[1].address)
            assert await put(link, "key", "after") == "after"
            assert servers[1].command("GET", "key") == "after"
            assert heard == [False, True]
            assert "geheim" not in link.place


async def test_a_master_that_is_replaced_in_an_orderly_way_is_left():
    with sentinel_group() as (servers, sentinels, url):
        async with link_to(url) as link:
            assert await put(link, "key", "before") == "before"
            await until(lambda: servers[1].command("GET", "key") == "before")
            sentinels[0].replace(*servers)
            assert await put(link, "key", "after") == "after"
            assert servers[1].command("GET", "key") == "after"
            await until(lambda: servers[0].clients() == 0)


async def test_sentinels_that_know_nothing_are_named(caplog):
    with sentinel_group() as (_, sentinels, url):
        for wrong in (url.replace("/main", "/other"), f"redis+sentinel://127.0.0.1:{free_port()}/main"):
            async with link_to(wrong) as link:
                await until(lambda: link.status.degraded_since is not None)
                assert link.status.trouble == "no sentinel knows a master that is up"
        async with link_to(url) as link:
            await put(link, "key", "x")
            sentinels[0].kill()
            # The master goes on without: that nobody can be asked about it is not its fault.
            link._keeper.look_round()
            await link._keeper._check()
            assert link.status.usable
            assert await put(link, "key", "y") == "y"


# -- a cluster


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster(password="geheim") as cluster:
        yield cluster


async def test_each_key_is_written_where_it_belongs(cluster):
    async with link_to(cluster) as link:
        assert link.clustered
        keys = [f"smartfallback:{{account:{number}}}:windows" for number in range(300)]
        async with asyncio.timeout(15):
            replies = await link.run_many([(PUT, [key], [key]) for key in keys], limit_s=PATIENT)
        assert replies == keys
        assert all(cluster.owner(key).command("GET", key) == key for key in keys)
        stored = await link.command_many([("GET", key) for key in keys], limit_s=PATIENT)
        assert stored == keys
        assert {cluster.owner(key).port for key in keys} == {node.port for node in cluster.masters}


async def test_a_blocking_read_goes_to_the_node_that_holds_the_stream(cluster):
    async with link_to(cluster) as link:
        for key in ("{changes}", "{a}", "{b}", "{c}"):
            async with link.apart(key) as client:
                await link.command("XADD", key, "*", "s", "x", limit_s=PATIENT)
                assert await client.xread({key: "0"}, block=1000)


async def test_slots_that_move_are_followed_and_nothing_is_lost(cluster):
    key = "{moving}:key"
    source = cluster.owner(key)
    target = next(node for node in cluster.masters if node is not source)
    slot = source.command("CLUSTER", "KEYSLOT", key)
    source_id, target_id = source.command("CLUSTER", "MYID"), target.command("CLUSTER", "MYID")
    async with link_to(cluster) as link:
        heard = []
        link.on_change(heard.append)
        assert await put(link, key, "1") == "1"
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        # What is not there any more is asked for at the target (ASK).
        assert await put(link, "{moving}:new", "2") == "2"
        assert await put(link, key, "3") == "3"
        source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000, "AUTH", "geheim")
        assert await put(link, key, "4") == "4"
        for node in (target, source):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        # From now on it is elsewhere for good (MOVED).
        assert await put(link, key, "5") == "5"
        assert await link.run_many([(PUT, [key], [str(n)]) for n in range(5)], limit_s=PATIENT) == [*"01234"]
        assert target.command("GET", key) == "4"
        assert target.command("GET", "{moving}:new") == "2"
        assert not [status for status in heard if not status.reachable]


async def test_a_cluster_under_a_plain_url_is_named(cluster):
    async with link_to(cluster.masters[0]) as link:
        await until(lambda: link.status.degraded_since is not None)
        assert link.status.trouble == "it is a node of a cluster: the URL has to begin with redis+cluster://"


async def test_a_single_server_under_a_cluster_url_is_named():
    with RedisServer() as server:
        async with link_to(f"redis+cluster://127.0.0.1:{server.port}") as link:
            await until(lambda: link.status.degraded_since is not None)
            assert "cluster support disabled" in link.status.trouble


@pytest.fixture
def doubled():
    with RedisCluster(replicas=True) as cluster:
        yield cluster


async def test_a_lost_node_is_replaced_by_its_replica(doubled):
    lost = doubled.masters[1]
    key = next(f"key-{number}" for number in range(1000) if doubled.owner(f"key-{number}") is lost)
    async with link_to(doubled) as link:
        assert await put(link, key, "before") == "before"
        await until(lambda: "online" in str(lost.command("INFO", "replication")))
        lost.kill()
        await until(lambda: not link.status.usable)
        assert await put(link, key, "after") == "after"


async def test_what_cannot_be_a_cluster_is_refused():
    routes = ClusterRoutes(parse("redis+cluster://a,b"))
    assert parse("redis+cluster://a,b").kind is Kind.CLUSTER
    answers: dict[str, object] = {}

    async def ask(server, command):
        return answers[server[0]]

    whole = [[0, 8191, ["x", 1, "id"]], [8192, 16383, ["", 2, "id"]]]
    for broken in ([], "OK", whole[:1], whole[1:], [[0, 8190, ["x", 1]], whole[1]]):
        answers.update(a=broken, b=broken)
        with pytest.raises(LineError, match="cluster"):
            await routes.find(ask)
    answers["a"] = whole
    assert await routes.find(ask) == (("x", 1), ("a", 2))
    owners = {routes.of(f"key-{number}") for number in range(100)}
    assert owners == {("x", 1), ("a", 2)}
