"""A shared store that fails in every way while two processes serve 100 requests a second by it.

No request waits on it longer than its budget, none fails, each change of its state is one line of log,
and once it is back the shared counts are those of the upstream's journal, to the unit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.instance_setup import Account, Setup
from support.instances import Instance, running, several
from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer
from support.shared_rows import Rows, rows_of
from support.store_troubles import TROUBLES, Trouble
from support.upstream_journal import read_journal, spent

BUDGET_S = 0.06
RATE = 50.0
"""Requests a second of each of two instances."""
TROUBLED_S = 1.2


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis server of the test's own."""
    with RedisServer() as running_server:
        yield running_server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[TcpProxy]:
    """The way to it that the instances take."""
    with TcpProxy(server.address) as running_proxy:
        yield running_proxy


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which ``share`` of all lie; 0 without any."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def is_well(view: Any) -> bool:
    return view["store"]["degraded_since"] is None


async def new_lines(instance: Instance, known: dict[str, int]) -> list[str]:
    """What an instance has logged about its state since the last call."""
    told = await instance.ask("lines")
    assert told["complaints"] == []
    lines = [line["text"] for line in told["state"]]
    begun = known.get(instance.name, 0)
    known[instance.name] = len(lines)
    return lines[begun:]


async def pass_through(
    trouble: Trouble, server: RedisServer, proxy: TcpProxy, instances: Sequence[Instance], rows: Rows,
    journal: Path, known: dict[str, int],
) -> list[str]:  # fmt: skip
    """Let the trouble come and go under load; returns what was not as it should be."""
    under_way = [instance.begin("load", rate=RATE) for instance in instances]
    await asyncio.sleep(0.3)
    trouble.begin(server, proxy)
    if trouble.noticed:
        for instance in instances:
            await instance.until(lambda view: not is_well(view), limit_s=5.0)
    await asyncio.sleep(TROUBLED_S)
    trouble.end(server, proxy)
    for instance in instances:
        await instance.until(is_well, limit_s=10.0)
    await asyncio.sleep(0.3)
    for instance in instances:
        await instance.ask("stop_load")
    told = await asyncio.gather(*under_way)
    wrong = []
    for instance, result in zip(instances, told, strict=True):
        if result.get("failed", 0):
            wrong.append(f"{instance.name}: {result['failed']} failed: {result['reasons']}")
        # What the machine itself was late says nothing about the store.
        allowed = BUDGET_S + percentile([late for _, late in result["late"]], 0.99)
        p99 = percentile([took for _, took in result["dispatched"]], 0.99)
        if p99 > allowed:
            wrong.append(f"{instance.name}: p99 of dispatch {p99 * 1e3:.0f} ms, allowed {allowed * 1e3:.0f}")
        lines = [re.sub(r"[\d.]+", "#", line) for line in await new_lines(instance, known)]
        if len(lines) > trouble.lines and trouble.noticed:
            wrong.append(f"{instance.name}: {len(lines)} lines: {lines}")
        if any(line == after for line, after in pairwise(lines)):
            wrong.append(f"{instance.name}: the same said twice: {lines}")
    truth = sum(spent(read_journal(journal)).values())
    try:
        await rows.until(lambda row: row.used == truth and not row.charged, f"{truth} used", limit_s=5.0)
        for instance in instances:
            await instance.until(
                lambda view: view["accounts"]["a-1"]["windows"][0]["used"] == truth, limit_s=5.0
            )
    except TimeoutError as error:
        wrong.append(str(error))
    return [f"{trouble.name}: {each}" for each in wrong]


@pytest.mark.parametrize("mode", ["strict", "leased"])
async def test_no_trouble_of_the_store_is_a_requests(tmp_path, server, proxy, mode):
    journal = tmp_path / "journal"
    setup = Setup(
        str(journal), redis=proxy.url, mode=mode, timeout_s=3.0, accounts=(Account("a-1", 1_000_000.0),)
    )
    wrong: list[str] = []
    known: dict[str, int] = {}
    async with running(*several(setup, 2)) as instances, rows_of(server.url, "a-1") as rows:
        for instance in instances:
            await instance.until(lambda view: len(view["store"]["instances"]) == 2)
            await new_lines(instance, known)
        for trouble in TROUBLES:
            wrong += await pass_through(trouble, server, proxy, instances, rows, journal, known)
        row = await rows.until(lambda row: row.taken == 0, "nothing is held", limit_s=20.0)
        assert sum(row.spent.values()) == row.used
        for instance in instances:
            await instance.quit()
    assert wrong == []


@pytest.mark.parametrize("mode", ["strict", "leased"])
async def test_without_a_store_from_the_start_all_is_served_and_told_when_it_comes(tmp_path, mode):
    journal = tmp_path / "journal"
    with RedisServer() as server:
        server.stop()
        setup = Setup(
            str(journal), redis=f"redis://127.0.0.1:{server.port}/0", mode=mode, accounts=(Account("a-1"),)
        )
        async with running(*several(setup, 2)) as instances:
            for instance in instances:
                view = await instance.ask("snapshot")
                assert view["store"]["degraded_since"] is not None
                assert view["store"]["trouble"]
                assert (await instance.ask("ask", units=15))["account"] == "a-1"
                await instance.command("drain", account="a-1", reason="while alone")
                await instance.command("resume", account="a-1")
            server.start()
            async with rows_of(server.url, "a-1") as rows:
                await rows.until(lambda row: row.used == 30, "both have told")
            for instance in instances:
                await instance.until(
                    lambda view: is_well(view) and view["accounts"]["a-1"]["windows"][0]["used"] == 30
                )
                assert len((await instance.ask("lines"))["state"]) <= 2
                await instance.quit()
