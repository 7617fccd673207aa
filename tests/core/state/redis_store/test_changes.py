"""Hints at changes: as they come, and told apart from those that may have been missed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from smartfallback.model.sharing import Change, Fact, FactWrite
from smartfallback.state.redis_store.changes import MOST_SUBJECTS, Changes
from smartfallback.state.redis_store.facts import Facts
from smartfallback.state.redis_store.keys import Keys
from support.fan_out import fan_out_times
from support.redis_links import link_to
from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer, free_port

KEYS = Keys()
GAP = Change("")
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def shared_server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared_server):
    shared_server.command("FLUSHALL")
    return shared_server


@contextlib.asynccontextmanager
async def following(where, *, through=None):
    """A link, and the hints that it brings."""
    async with link_to(where) as link, contextlib.aclosing(Changes(link, KEYS).listen()) as changes:
        yield link, changes


async def following_one(changes):
    async with asyncio.timeout(PATIENCE_S):
        return await anext(changes)


async def until_hint(changes, wanted):
    """All hints up to ``wanted``."""
    seen = []
    async with asyncio.timeout(PATIENCE_S):
        async for change in changes:
            seen.append(change)
            if change == wanted:
                return seen
    raise AssertionError("the hints ended")


async def tell(link, *subjects, by="i1"):
    writes = [FactWrite(subject, "admin", Fact("1", 1.0, by)) for subject in subjects]
    async with asyncio.timeout(PATIENCE_S):
        await link.wait_reachable()
        await Facts(link, KEYS).write(writes)


def tell_by_hand(server, subject):
    server.command("XADD", KEYS.changes, "*", "s", subject, "b", "by hand")
    return Change(subject, "by hand")


async def test_the_first_says_that_all_has_to_be_read(server):
    async with following(server) as (link, changes):
        assert await following_one(changes) == GAP
        await tell(link, "account:a")
        assert await following_one(changes) == Change("account:a", "i1")
        await tell(link, "account:b", "provider:p", by="i2")
        assert [await following_one(changes) for _ in range(2)] == [
            Change("account:b", "i2"),
            Change("provider:p", "i2"),
        ]


async def test_what_was_told_before_is_no_news(server):
    async with link_to(server) as link:
        await tell(link, "account:old")
    async with following(server) as (link, changes):
        assert await following_one(changes) == GAP
        await tell(link, "account:new")
        assert await following_one(changes) == Change("account:new", "i1")


async def test_the_row_is_there_when_the_hint_comes(server):
    async with following(server) as (link, changes):
        await following_one(changes)
        reader = Facts(link, KEYS)
        for number in range(100):
            subject = f"account:{number}"
            telling = asyncio.create_task(tell(link, subject))
            assert (await following_one(changes)).subject == subject
            assert "admin" in (await reader.read([subject]))[subject]
            await telling


async def test_hints_at_one_subject_that_are_read_together_are_one(server):
    async with following(server) as (_, changes):
        await following_one(changes)
        for _ in range(20):
            for subject in ("account:a", "account:b"):
                tell_by_hand(server, subject)
        last = tell_by_hand(server, "account:last")
        told = [Change("account:a", "by hand"), Change("account:b", "by hand"), last]
        assert await until_hint(changes, last) == told


async def test_whoever_is_far_behind_is_told_to_read_everything(server):
    async with following(server) as (_, changes):
        await following_one(changes)
        for number in range(MOST_SUBJECTS + 1):
            tell_by_hand(server, f"account:{number}")
        assert await following_one(changes) == Change("", "by hand")
        last = tell_by_hand(server, "account:last")
        assert await until_hint(changes, last) == [last]


async def test_a_writer_of_a_thousand_facts_floods_nobody(server):
    async with following(server) as (link, changes):
        await following_one(changes)
        await tell(link, *(f"account:{number}" for number in range(1000)))
        assert await following_one(changes) == Change("", "i1")
        last = tell_by_hand(server, "account:last")
        assert await until_hint(changes, last) == [last]


# -- what may have been missed


async def test_a_store_that_is_emptied(server):
    async with following(server) as (link, changes):
        await following_one(changes)
        await tell(link, "account:a")
        await following_one(changes)
        server.flush()
        assert await following_one(changes) == GAP
        await tell(link, "account:b")
        assert (await until_hint(changes, Change("account:b", "i1")))[0] in (GAP, Change("account:b", "i1"))


async def test_a_store_that_is_emptied_and_told_something_at_once(server):
    async with following(server) as (link, changes):
        await following_one(changes)
        server.flush()
        await tell(link, "account:a")
        assert await following_one(changes) == GAP


async def test_a_stream_that_goes_on_with_smaller_ids(server):
    async with following(server) as (_, changes):
        await following_one(changes)
        server.command("DEL", KEYS.changes)
        server.command("XADD", KEYS.changes, "1-1", "s", "account:a", "b", "i1")
        assert await following_one(changes) == GAP
        server.command("XADD", KEYS.changes, "1-2", "s", "account:b", "b", "i1")
        assert await following_one(changes) == Change("account:b", "i1")


async def test_a_stream_that_was_trimmed_beyond_where_the_reader_is(server):
    async with following(server) as (_, changes):
        await following_one(changes)
        tell_by_hand(server, "account:read")
        await following_one(changes)
        for number in range(300):
            tell_by_hand(server, f"account:{number}")
        server.command("XTRIM", KEYS.changes, "MAXLEN", 10)
        assert await following_one(changes) == GAP
        last = tell_by_hand(server, "account:last")
        assert await until_hint(changes, last) == [last]


async def test_a_server_that_is_killed_and_starts_empty():
    with RedisServer() as server:
        async with following(server) as (link, changes):
            await following_one(changes)
            for _ in range(2):
                waiting = asyncio.create_task(following_one(changes))
                server.kill()
                server.start()
                assert await waiting == GAP
                await tell(link, "account:a")
                await until_hint(changes, Change("account:a", "i1"))


async def test_a_server_that_is_not_there_yet():
    server = RedisServer()
    server.port = free_port()
    async with following(f"redis://127.0.0.1:{server.port}") as (_, changes):
        waiting = asyncio.create_task(following_one(changes))
        with server:
            assert await waiting == GAP


async def test_a_server_that_is_frozen_for_long():
    with RedisServer() as server:
        async with following(server) as (link, changes):
            await following_one(changes)
            waiting = asyncio.create_task(following_one(changes))
            server.freeze()
            try:
                await settled(lambda: not link.status.reachable)
            finally:
                server.thaw()
            assert await waiting == GAP
            await tell(link, "account:a")
            await until_hint(changes, Change("account:a", "i1"))


async def test_connections_that_are_cut(server):
    with TcpProxy(server.address) as proxy:
        async with following(proxy.url) as (link, changes):
            await following_one(changes)
            for number in range(5):
                waiting = asyncio.create_task(following_one(changes))
                proxy.cut()
                assert await waiting == GAP
                await tell(link, f"account:{number}")
                await until_hint(changes, Change(f"account:{number}", "i1"))


async def test_its_own_connection_alone_is_cut(server):
    async with following(server) as (link, changes):
        await following_one(changes)
        waiting = asyncio.create_task(following_one(changes))
        await settled(lambda: blocked(server))
        server.command("CLIENT", "KILL", "ID", blocked(server)[0])
        assert await waiting == GAP
        assert link.status.usable
        await tell(link, "account:a")
        assert await following_one(changes) == Change("account:a", "i1")


def blocked(server):
    """The ids of connections that wait in XREAD."""
    clients = server.command("CLIENT", "LIST")
    if isinstance(clients, str):
        clients = [dict(part.split("=", 1) for part in line.split()) for line in clients.splitlines()]
    return [client["id"] for client in clients if client["cmd"] == "xread"]


# -- damage


async def test_what_is_no_hint_is_skipped(server):
    async with following(server) as (_, changes):
        await following_one(changes)
        server.command("XADD", KEYS.changes, "*", "x", "y")
        server.command("XADD", KEYS.changes, "*", "b", "i1")
        fine = tell_by_hand(server, "account:fine")
        assert await until_hint(changes, fine) == [fine]
        server.command("XADD", KEYS.changes, "*", "s", "account:no-one")
        assert await following_one(changes) == Change("account:no-one", "")


async def test_a_key_of_another_kind_is_replaced(server):
    server.command("SET", KEYS.changes, "no stream")
    async with following(server) as (link, changes):
        assert await following_one(changes) == GAP
        await tell(link, "account:a")
        assert await following_one(changes) == Change("account:a", "i1")
        server.command("DEL", KEYS.changes)
        server.command("SET", KEYS.changes, "no stream")
        assert await following_one(changes) == GAP


# -- its end


async def test_whoever_waits_can_be_cancelled_and_leaves_no_connection(server):
    async with link_to(server) as link:
        before = server.clients()
        changes = Changes(link, KEYS).listen()
        await following_one(changes)
        waiting = asyncio.create_task(anext(changes))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(changes)
        await settled(lambda: server.clients() == before)


async def test_whoever_has_heard_enough_closes_it_and_leaves_no_connection(server):
    async with link_to(server) as link:
        before = server.clients()
        changes = Changes(link, KEYS).listen()
        await following_one(changes)
        await changes.aclose()
        await settled(lambda: server.clients() == before)


@pytest.mark.parametrize("reachable", [True, False])
async def test_it_ends_with_the_link(server, reachable):
    url = server.url if reachable else f"redis://127.0.0.1:{free_port()}"
    async with link_to(url) as link:
        changes = Changes(link, KEYS).listen()
        if reachable:
            await following_one(changes)
        waiting = asyncio.create_task(following_one(changes))
        await asyncio.sleep(0)
        await link.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
    with pytest.raises(StopAsyncIteration):
        await anext(Changes(link, KEYS).listen())


async def settled(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - no server tells when a connection ends
            await asyncio.sleep(0.005)


async def test_each_fact_that_one_process_writes_reaches_another(server, record_property):
    times = await fan_out_times(server.url, count=100, every_s=0.002)
    assert len(times) == 100
    milliseconds = [round(times[len(times) * percent // 100] * 1000, 2) for percent in (50, 99)]
    record_property("fan-out p50, p99 (ms)", str(milliseconds))


async def test_whoever_follows_can_be_cancelled_at_any_moment(server):
    async def follow(listener):
        async for _ in listener:
            pass

    async with link_to(server) as link:
        for turns in range(60):
            following = asyncio.create_task(follow(Changes(link, Keys()).listen()))
            for _ in range(turns):
                await asyncio.sleep(0)
            following.cancel()
            done, _ = await asyncio.wait({following}, timeout=20)
            assert done, f"cancelled after {turns} turns of the loop it goes on"
