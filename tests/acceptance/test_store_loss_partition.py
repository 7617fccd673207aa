"""Two processes that are cut off from their store spend their shares, and agree again when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from support.instance_setup import Account, Setup
from support.instances import Instance, running, several
from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer
from support.shared_rows import rows_of
from support.upstream_journal import read_journal, spent

LIMIT = 10_000
RESERVE = 20


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis server of the test's own."""
    with RedisServer() as running_server:
        yield running_server


@pytest.fixture
def ways(server: RedisServer) -> Iterator[tuple[TcpProxy, TcpProxy]]:
    """A way to it for each instance."""
    with TcpProxy(server.address) as one, TcpProxy(server.address) as two:
        yield one, two


def apart(setup: Setup, ways: tuple[TcpProxy, TcpProxy]) -> tuple[Setup, ...]:
    """Two instances, each on its own way to the store."""
    return tuple(replace(each, redis=way.url) for each, way in zip(several(setup, 2), ways, strict=True))


async def is_cut_off(instance: Instance) -> None:
    await instance.until(lambda view: view["store"]["degraded_since"] is not None, limit_s=5.0)


def has_used(amount: float, view: Any) -> bool:
    """Whether a snapshot shows that so much was used of the first account."""
    used: float = view["accounts"]["a-1"]["windows"][0]["used"]
    return used == amount


async def is_back(instance: Instance) -> None:
    await instance.until(lambda view: view["store"]["degraded_since"] is None)


@pytest.mark.parametrize("mode", ["strict", "leased"])
async def test_both_sides_spend_their_share_and_no_more(tmp_path, server, ways, mode):
    journal = tmp_path / "journal"
    setup = Setup(str(journal), mode=mode, timeout_s=3.0, accounts=(Account("a-1", LIMIT, 100),))
    async with running(*apart(setup, ways)) as instances, rows_of(server.url, "a-1") as rows:
        for instance in instances:
            await instance.until(lambda view: len(view["store"]["instances"]) == 2)
            await instance.ask("burst", callers=4, seconds=0.4, reserve=RESERVE, least_units=5)
        before = spent(read_journal(journal))
        for instance in instances:
            # A share is one of what an instance knows to be left.
            await instance.until(partial(has_used, sum(before.values())))
        assert 0 < sum(before.values()) < LIMIT / 2
        for way in ways:
            way.swallow()
        spending = [
            instance.begin(
                "burst", callers=50, seconds=3.0, reserve=RESERVE, least_units=5, refusals=40, pause_s=0.1
            )
            for instance in instances
        ]
        for result in await asyncio.gather(*spending):
            assert result.get("failed", 0) == 0, result["reasons"]
            assert result["refused"] > 0
        alone = spent(read_journal(journal))
        assert sum(alone.values()) <= LIMIT
        for number in (1, 2):
            # Each had about half of what was left, and used it.
            assert alone[number] - before[number] > 0.6 * (LIMIT - sum(before.values())) / 2
        for way in ways:
            way.pass_on()
        for instance in instances:
            await is_back(instance)
        truth = sum(spent(read_journal(journal)).values())
        row = await rows.until(lambda row: row.used == truth and not row.charged, f"{truth} used")
        assert sum(row.spent.values()) == truth
        for instance in instances:
            await instance.until(partial(has_used, truth))
        # What is left can be spent by either, and not a unit more.
        await asyncio.gather(
            *(
                instance.ask("burst", callers=5, seconds=8.0, reserve=RESERVE, least_units=5, refusals=30)
                for instance in instances
            )
        )
        truth = sum(spent(read_journal(journal)).values())
        assert LIMIT - 3 * RESERVE < truth <= LIMIT
        await rows.until(lambda row: row.used == truth, f"{truth} used")
        for instance in instances:
            await instance.quit()


@pytest.mark.parametrize("later", [0, 1])
async def test_of_two_orders_given_apart_the_later_one_holds(tmp_path, server, ways, later):
    accounts = tuple(Account(f"a-{number}", None) for number in range(1, 4))
    setup = Setup(str(tmp_path / "journal"), accounts=accounts, account_circuit={}, timeout_s=3.0)
    async with running(*apart(setup, ways)) as instances:
        for instance in instances:
            await instance.until(lambda view: len(view["store"]["instances"]) == 2)
        for way in ways:
            way.swallow()
        for instance in instances:
            await is_cut_off(instance)
        first, last = instances[1 - later], instances[later]
        await first.command("drain", account="a-1", reason="given first")
        await last.command("disable", account="a-1", reason="given last")
        await last.command("disable", account="a-2", reason="given first")
        await first.command("drain", account="a-2", reason="given last")
        await first.command("open", account="a-3", reason="given first")
        await last.command("open", account="a-3", reason="given last")
        for way in ways:
            way.pass_on()
        for instance in instances:
            view = await instance.until(
                lambda view: (
                    view["store"]["degraded_since"] is None
                    and view["accounts"]["a-1"]["admin_reason"] == "given last"
                    and view["accounts"]["a-2"]["admin_reason"] == "given last"
                    and "given last" in view["accounts"]["a-3"]["circuit"]["cause"]
                )
            )
            assert view["accounts"]["a-1"]["admin"] == "disabled"
            assert view["accounts"]["a-2"]["admin"] == "drained"
            assert view["accounts"]["a-3"]["circuit"]["state"] == "forced_open"
        for instance in instances:
            await instance.quit()
