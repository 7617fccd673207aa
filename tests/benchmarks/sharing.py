"""What instances that share their state through Redis cost and gain: real processes, real servers.

Fan-out: how long until what one instance's operator or upstream did is in force at the two others,
against a bare entry of a stream that another connection waits for. Dispatch: how long until a request's
upstream is asked, at 100 requests a second over two instances, against the same without a shared
store, while the store is well and under each trouble, each of which lasts for five seconds.

Run: python tests/benchmarks/sharing.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from measuring import percentile, report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.instance_setup import Account, Setup
from support.instances import Instance, running, several
from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer
from support.shared_rows import rows_of
from support.store_passage import Passage, Passages
from support.store_troubles import RARER_TROUBLES, TROUBLES, WELL, Trouble

CHANGES = 60
RATE = 50.0
TROUBLED_S = 5.0
CIRCUIT: dict[str, float | str] = {
    "failure_threshold": 3,
    "recovery_timeout_s": 300.0,
    "on_rate_limit": "ignore",
}


class Seen:
    """When other instances took over what one did, by the events that tell of it."""

    def __init__(self, others: Sequence[Instance]) -> None:
        self._others = others

    async def after(self, at: float, kind: str, **fields: Any) -> list[float]:
        """Seconds from ``at`` to the event of each of the others."""
        return [await self._at(other, kind, fields) - at for other in self._others]

    async def _at(self, other: Instance, kind: str, fields: dict[str, Any]) -> float:
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            for event in (await other.ask("events", kinds=[kind]))["events"]:
                if all(event[name] == value for name, value in fields.items()):
                    at: float = event["at"]
                    return at
            await asyncio.sleep(0.002)
        raise TimeoutError(f"{other.name} never told of {kind} {fields}")


async def bare_stream(url: str, times: int) -> list[float]:
    """Seconds from writing a stream's entry to having read it on another connection."""
    writer, reader = redis.asyncio.Redis.from_url(url), redis.asyncio.Redis.from_url(url)
    took: list[float] = []
    try:
        for number in range(times):
            waiting = asyncio.ensure_future(reader.xread({"bare": "$"}, block=1_000))
            await asyncio.sleep(0.005)
            begun = time.perf_counter()
            await writer.xadd("bare", {"n": number})
            await waiting
            took.append(time.perf_counter() - begun)
    finally:
        await writer.aclose()
        await reader.aclose()
    return took


async def fan_out(folder: Path, times: int) -> list[dict[str, object]]:
    """A row for each kind of change."""
    accounts = tuple(Account(f"a-{number}", None) for number in range(times))
    with RedisServer() as server:
        setup = Setup(
            str(folder / "fan-out"),
            redis=server.url,
            accounts=accounts,
            account_circuit=CIRCUIT,
            timeout_s=5.0,
        )
        took: dict[str, list[float]] = {"drain": [], "circuit opened": [], "cooldown": []}
        async with running(*several(setup, 3)) as (one, *others):
            await one.until(lambda view: len(view["store"]["instances"]) == 3)
            seen = Seen(others)
            for account in (account.id for account in accounts):
                await one.ask("fail", account=account, category="RATE_LIMIT", times=1, retry_after_s=600.0)
                await one.ask("events")
                await one.ask("ask", pin=account)
                mine = (await one.ask("events", kinds=["CooldownStarted"]))["events"][0]["at"]
                took["cooldown"] += await seen.after(mine, "CooldownStarted", account=account)
                at = await one.command("drain", account=account, reason="measured")
                took["drain"] += await seen.after(at, "AdminChanged", account=account)
                at = await one.command("open", account=account, reason="measured")
                target = f"account {account}"
                took["circuit opened"] += await seen.after(at, "CircuitChanged", target=target)
        bare = await bare_stream(server.url, times)
    return [
        {
            "what": name,
            "times": len(samples),
            "p50 ms": percentile(samples, 0.5) * 1e3,
            "p99 ms": percentile(samples, 0.99) * 1e3,
            "max ms": max(samples) * 1e3,
            "bare stream p50 ms": percentile(bare, 0.5) * 1e3,
            "ratio": percentile(samples, 0.5) / percentile(bare, 0.5),
        }
        for name, samples in took.items()
    ]


def dispatch_row(mode: str, trouble: str, passage: Passage, alone_p50: float) -> dict[str, object]:
    """What all instances of a passage met, together."""
    dispatched = [took for met in passage.met for took in met.dispatched]
    late = [each for met in passage.met for each in met.late]
    noticed = [met.noticed_s for met in passage.met if met.noticed_s is not None]
    return {
        "mode": mode,
        "store": trouble,
        "requests": len(dispatched),
        "failed": sum(met.failed for met in passage.met),
        "p50 ms": percentile(dispatched, 0.5) * 1e3,
        "p99 ms": percentile(dispatched, 0.99) * 1e3,
        "max ms": max(dispatched) * 1e3,
        "process late p99 ms": percentile(late, 0.99) * 1e3,
        "p50 to none": percentile(dispatched, 0.5) / alone_p50 if alone_p50 else 1.0,
        "noticed s": max(noticed) if noticed else "-",
        "back s": max(met.back_s for met in passage.met),
        "lines each": max(len(met.lines) for met in passage.met),
        "off by": passage.row.used - passage.truth,
    }


async def alone(folder: Path, seconds: float) -> list[float]:
    """Seconds to dispatch without a shared store."""
    setup = Setup(str(folder / "alone"), accounts=(Account("a-1", 10_000_000.0),))
    async with running(*several(setup, 2)) as instances:
        under_way = [instance.begin("load", rate=RATE) for instance in instances]
        await asyncio.sleep(seconds)
        for instance in instances:
            await instance.ask("stop_load")
        return [took for each in await asyncio.gather(*under_way) for _, took in each["dispatched"]]


async def under_trouble(folder: Path, mode: str, seconds: float, alone_p50: float) -> list[dict[str, object]]:
    """A row for each trouble, in one mode."""
    journal = folder / f"journal-{mode}"
    rows: list[dict[str, object]] = []
    with RedisServer() as server, TcpProxy(server.address) as proxy:
        setup = Setup(str(journal), redis=proxy.url, mode=mode, accounts=(Account("a-1", 10_000_000.0),))
        async with running(*several(setup, 2)) as instances, rows_of(server.url, "a-1") as shared:
            for instance in instances:
                await instance.until(lambda view: len(view["store"]["instances"]) == 2)
            passages = Passages(server, proxy, instances, shared, journal, RATE)
            troubles: tuple[Trouble, ...] = (WELL, *TROUBLES, *RARER_TROUBLES)
            for trouble in troubles:
                passage = await passages.through(trouble, seconds, around_s=0.5)
                rows.append(dispatch_row(mode, trouble.name, passage, alone_p50))
    return rows


async def main() -> None:
    """Measure all, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON objects instead of tables")
    parser.add_argument("--quick", action="store_true", help="fewer changes, and troubles of a second")
    options = parser.parse_args()
    times, seconds = (10, 1.0) if options.quick else (CHANGES, TROUBLED_S)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report("fan-out to two other instances", await fan_out(folder, times), as_json=options.json)
        without = await alone(folder, seconds)
        none = percentile(without, 0.5)
        found: list[dict[str, object]] = [
            {
                "mode": "none",
                "store": "none",
                "requests": len(without),
                "failed": 0,
                "p50 ms": none * 1e3,
                "p99 ms": percentile(without, 0.99) * 1e3,
                "max ms": max(without) * 1e3,
                "process late p99 ms": "-",
                "p50 to none": 1.0,
                "noticed s": "-",
                "back s": "-",
                "lines each": 0,
                "off by": 0.0,
            }
        ]
        for mode in ("leased", "strict"):
            found += await under_trouble(folder, mode, seconds, none)
        report("dispatch, two instances at 50 requests a second each", found, as_json=options.json)


if __name__ == "__main__":
    asyncio.run(main())
