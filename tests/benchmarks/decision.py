"""The cost of a decision (plan, checks, reservation, permits) at 8, 1,000 and 100,000 accounts.

The baseline is the plainest router there could be in the same run: a scan over all accounts for
the one with the most quota left, without circuits, reservations or reasons.

Run: python tests/benchmarks/decision.py
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncGenerator

from measuring import percentile, report, wants_json

from smartfallback import (
    AccountSpec,
    ChainSpec,
    Clock,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaUnit,
    Request,
    SystemSpec,
    TruthLabel,
    Usage,
    WindowKind,
    WindowSpec,
)
from smartfallback.engine.walk import Walk
from smartfallback.providers.base import Call, Chunk

SIZES = (8, 1_000, 100_000)
DECISIONS = 20_000


class NoUpstream:
    """An adapter that is never called: decisions end before dispatch."""

    def __init__(self, pool: PoolSpec, clock: Clock) -> None:
        pass

    def unavailable(self) -> str:
        return ""

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        raise RuntimeError(f"nobody answers {call.model}")
        yield Chunk()

    async def aclose(self) -> None:
        pass


def spec(size: int) -> SystemSpec:
    """One pool of accounts with a weekly quota."""
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 5_000_000, "sun 00:00 UTC"),)
    accounts = tuple(AccountSpec(f"a-{n}", quota=quota) for n in range(size))
    pool = PoolSpec("main", ProviderKind.OPENAI, "main", accounts, model="m")
    return SystemSpec(pools=(pool,), chains=(ChainSpec("default", ("main",)),))


def scan_cost(size: int) -> float:
    """Median seconds of choosing the least used of ``size`` accounts by a scan."""
    used = [random.random() for _ in range(size)]
    samples = []
    for _ in range(max(20, min(2_000, 2_000_000 // size))):
        started = time.perf_counter()
        best = min(range(size), key=used.__getitem__)
        used[best] += 1e-4
        samples.append(time.perf_counter() - started)
    return percentile(samples, 0.5)


async def measure(size: int) -> list[float]:
    """Seconds of each decision; the settlement that follows each is not counted."""
    async with Orchestrator(spec(size), rng=random.Random(7), provider_factory=NoUpstream) as orchestrator:
        services = orchestrator._services
        roster = orchestrator._roster
        for account in roster.accounts.values():
            account.ledger.set_used(0, random.uniform(0, 3_500_000), time.time(), TruthLabel.MEASURED)
            orchestrator._placement.place(account, time.monotonic())
        chain = roster.chains["default"]
        request = Request.ask("How are you?")
        usage = Usage(10, 5)
        samples = []
        gc.collect()
        for number in range(DECISIONS + 2_000):
            walk = Walk(request, chain, 60.0)
            started = time.perf_counter()
            grant = services.planner.choose(walk)
            elapsed = time.perf_counter() - started
            if grant is None:
                raise RuntimeError("no account was chosen")
            services.settlement.succeeded(grant, usage)
            if number >= 2_000:
                samples.append(elapsed)
            if number % 500 == 0:
                await asyncio.sleep(0)
        return samples


async def run() -> list[dict[str, object]]:
    """A row a size."""
    rows: list[dict[str, object]] = []
    first = 0.0
    for size in SIZES:
        samples = await measure(size)
        p50 = percentile(samples, 0.5)
        first = first or p50
        scan = scan_cost(size)
        rows.append(
            {
                "accounts": f"{size:,}",
                "p50 µs": p50 * 1e6,
                "p99 µs": percentile(samples, 0.99) * 1e6,
                "p50 / p50 at 8": p50 / first,
                "scan baseline µs": scan * 1e6,
                "p50 / scan": p50 / scan,
            }
        )
    return rows


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("decision", asyncio.run(run()), as_json=as_json)
