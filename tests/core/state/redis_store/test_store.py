"""The store as a whole, on one server, on a Unix socket, behind sentinels and on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import pytest

from smartfallback import CircuitScope, CircuitTarget
from smartfallback.model.secrets import Secret
from smartfallback.model.sharing import (
    AccountReport,
    Change,
    Fact,
    FactWrite,
    HoldRequest,
    InstanceView,
    StoreKind,
    WindowReport,
)
from smartfallback.state.redis_store.store import RedisSharedStore
from smartfallback.state.shared import SharedStore, StoreLostError
from support.leftovers import tasks
from support.redis_servers import RedisCluster, RedisServer, sentinel_group
from support.waiting import until

_Answer = TypeVar("_Answer")
SPAN = WindowReport("week.tokens.0", started_at=0.0, ends_at=4e9, cap=100.0, spent=0.0)
SLOTS = WindowReport("slots", started_at=0.0, ends_at=math.inf, cap=5.0, spent=0.0)
WINDOWS = (SPAN, SLOTS)


@pytest.fixture(scope="module", params=["server", "socket", "sentinel", "cluster"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[RedisServer]]]:
    """The URL, and the servers that hold the data."""
    with contextlib.ExitStack() as stack:
        match request.param:
            case "sentinel":
                servers, _, url = stack.enter_context(sentinel_group(password="geheim"))
                yield url, servers[:1]
            case "cluster":
                cluster = stack.enter_context(RedisCluster(password="geheim"))
                yield cluster.url, cluster.masters
            case kind:
                server = stack.enter_context(RedisServer(unix=kind == "socket", password="geheim"))
                yield server.url, [server]


@pytest.fixture
async def stores(place):
    """Two instances' stores on the same servers."""
    url, servers = place
    for server in servers:
        server.command("FLUSHALL")
    both = [RedisSharedStore(Secret(url)), RedisSharedStore(url)]
    for store in both:
        await store.start()
    yield both
    for store in both:
        await store.aclose()


async def in_time(store: SharedStore, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """The answer, on a machine that may be too busy for one within the budget now and then."""
    async with asyncio.timeout(15):
        while True:
            await until(lambda: store.status.usable)
            with contextlib.suppress(StoreLostError):
                return await ask()


def hold(name: str, amount: float) -> HoldRequest:
    return HoldRequest(
        name, "ag-1", {"week.tokens.0": amount, "slots": 1.0}, WINDOWS, lease_s=60, most_running=5
    )


async def test_it_is_a_shared_store_and_tells_no_password(stores, place):
    store: SharedStore = stores[0]
    assert store.kind is StoreKind.REDIS
    assert (store.status.usable, store.status.reachable) == (True, True)
    assert abs(store.offset_s) < 5
    said = repr(store) + store.place + repr(store.status)
    assert "geheim" not in said
    assert place[0].split("@")[-1].split("/")[0] in store.place or "unix" in store.place


async def test_a_quota_is_one_for_all(stores):
    one, two = stores
    assert (await in_time(one, lambda: one.reserve("i1", hold("h1", 60)))).granted
    refused = await in_time(two, lambda: two.reserve("i2", hold("h2", 60)))
    assert not refused.granted
    assert "week.tokens.0" in refused.reason
    reply = (
        await in_time(
            one, lambda: one.report("i1", [AccountReport("ag-1", WINDOWS, ended=("h1",))], lease_s=30)
        )
    )[0]
    assert reply.windows["week.tokens.0"].held == {}
    assert (await in_time(two, lambda: two.reserve("i2", hold("h3", 60)))).granted


async def test_a_thousand_accounts_are_reported_at_once(stores):
    reports = [AccountReport(f"ag-{number}", WINDOWS) for number in range(1000)]
    replies = await in_time(stores[0], lambda: stores[0].report("i1", reports, lease_s=30))
    assert [reply.account for reply in replies] == [report.account for report in reports]


async def test_a_fact_is_hinted_at_and_read(stores):
    one, two = stores
    changes = two.changes()
    assert await anext(changes) == Change("")
    write = FactWrite("account:ag-1", "admin", Fact('"drained"', 1.0, "i1"))
    assert list(await in_time(one, lambda: one.write_facts([write]))) == [write.fact]
    async with asyncio.timeout(10):
        while (hint := await anext(changes)).subject != write.subject:
            pass
    assert hint == Change("account:ag-1", "i1")
    assert await in_time(two, lambda: two.read_facts(["account:ag-1"])) == {
        "account:ag-1": {"admin": write.fact}
    }
    await changes.aclose()


@pytest.mark.parametrize(
    "target",
    [CircuitTarget(CircuitScope.ACCOUNT, "ag-1"), CircuitTarget(CircuitScope.MODEL, "ag-1/flash")],
    ids=lambda target: target.scope.value,
)
async def test_one_probe_between_them(stores, target):
    one, two = stores

    async def taken(store: SharedStore, probe: str) -> bool:
        ask = partial(store.take_probe, "i", target, probe, at_once=1, lease_s=60)
        return (await in_time(store, ask)).granted

    assert await taken(one, "p1")
    assert not await taken(two, "p2")
    await in_time(one, lambda: one.drop_probe(target, "p1"))
    assert await taken(two, "p3")


async def test_they_see_each_other(stores):
    one, two = stores
    views = [InstanceView(f"i{n}", f"name-{n}", "1.0", 0.0, 0.0, 3, 1.5) for n in (1, 2)]
    first = await in_time(one, lambda: one.heartbeat(views[0]))
    assert not first.known
    seen = await in_time(two, lambda: two.heartbeat(views[1]))
    assert [(view.name, view.here) for view in seen.instances] == [("name-2", True), ("name-1", False)]
    await in_time(one, lambda: one.leave("i1"))
    again = await in_time(two, lambda: two.heartbeat(views[1]))
    assert again.known
    assert [view.id for view in again.instances] == ["i2"]


async def test_all_of_it_lies_under_the_prefix(place):
    url, servers = place
    for server in servers:
        server.command("FLUSHALL")
    fact = FactWrite("provider:p", "circuit", Fact("1", 1.0, "i1"))
    for prefix in ("stage", "prod:x"):
        store = RedisSharedStore(url, prefix=prefix)
        await store.start()
        assert (await in_time(store, partial(store.reserve, "i1", hold("h1", 100)))).granted
        await in_time(store, partial(store.write_facts, [fact]))
        await store.aclose()
    keys = {key for server in servers for key in server.command("KEYS", "*")}
    assert {key.split(":{")[0] for key in keys} == {"stage", "prod:x"}


async def test_nothing_is_left_of_it(place):
    url, servers = place
    before = tasks()
    store = RedisSharedStore(url)
    await store.start()
    changes = store.changes()
    await anext(changes)
    waiting = asyncio.create_task(anext(changes, None))
    await asyncio.sleep(0)
    await store.aclose()
    await store.aclose()
    assert await waiting is None
    with pytest.raises(StoreLostError):
        await store.leave("i1")
    assert tasks() == before
    await until(lambda: all(server.clients() == 0 for server in servers))


@pytest.mark.parametrize("prefix", ["", "a{b", "a}b"])
def test_a_prefix_that_breaks_hash_tags_is_refused(prefix):
    with pytest.raises(ValueError, match="prefix"):
        RedisSharedStore("redis://db", prefix=prefix)
