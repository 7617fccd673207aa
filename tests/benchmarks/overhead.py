"""What the orchestrator adds to a request: against the same HTTP client and the same stub, in turns.

Run: python tests/benchmarks/overhead.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
from httpx_aiohttp import AiohttpTransport
from measuring import percentile, report, wants_json
from stub_upstream import stub_upstream

from smartfallback import (
    AccountSpec,
    ChainSpec,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaUnit,
    Request,
    SystemSpec,
    WindowKind,
    WindowSpec,
)

ROUNDS = 7
CALLS = {1: 400, 50: 2_000}
PAYLOAD = {"model": "stub", "messages": [{"role": "user", "content": "How are you?"}]}


def spec(base_url: str) -> SystemSpec:
    """Eight accounts with a weekly quota, as in the built-in chain."""
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1e12, "sun 00:00 UTC"),)
    accounts = tuple(AccountSpec(f"a-{n}", quota=quota, max_concurrency=100) for n in range(8))
    pool = PoolSpec(
        name="stub",
        provider=ProviderKind.OPENAI,
        provider_id="stub",
        accounts=accounts,
        model="stub",
        base_url=base_url,
    )
    return SystemSpec(pools=(pool,), chains=(ChainSpec("default", ("stub",)),))


async def measure(call: Callable[[], Awaitable[object]], concurrent: int) -> tuple[list[float], float]:
    """Seconds of each call, and calls a second."""
    samples: list[float] = []
    left = CALLS[concurrent]

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            await call()
            samples.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrent)))
    return samples, len(samples) / (time.perf_counter() - started)


async def run() -> list[dict[str, object]]:
    """Alternate bare client and orchestrator, round by round, and compare medians."""
    rows: list[dict[str, object]] = []
    request = Request.ask("How are you?")
    from dataclasses import replace

    request = replace(request, stream=False)
    with stub_upstream() as base_url:
        transport = AiohttpTransport(limits=httpx.Limits(max_connections=200))
        async with (
            httpx.AsyncClient(transport=transport) as client,
            Orchestrator(spec(base_url)) as orchestrator,
        ):

            async def bare() -> None:
                response = await client.post(f"{base_url}/chat/completions", json=PAYLOAD)
                response.json()

            async def routed() -> None:
                await orchestrator.chat(request)

            for concurrent in CALLS:
                medians: dict[str, list[float]] = {"bare": [], "routed": []}
                p99s: dict[str, list[float]] = {"bare": [], "routed": []}
                rates: dict[str, list[float]] = {"bare": [], "routed": []}
                for round_number in range(ROUNDS + 1):
                    for name, call in (("bare", bare), ("routed", routed)):
                        samples, rate = await measure(call, concurrent)
                        if round_number:
                            medians[name].append(percentile(samples, 0.5))
                            p99s[name].append(percentile(samples, 0.99))
                            rates[name].append(rate)
                for name in medians:
                    rows.append(
                        {
                            "concurrent": concurrent,
                            "client": name,
                            "p50 ms": percentile(medians[name], 0.5) * 1e3,
                            "p99 ms": percentile(p99s[name], 0.5) * 1e3,
                            "requests/s": percentile(rates[name], 0.5),
                        }
                    )
                bare_row, routed_row = rows[-2], rows[-1]
                rows.append(
                    {
                        "concurrent": concurrent,
                        "client": "added / ratio",
                        "p50 ms": float(str(routed_row["p50 ms"])) - float(str(bare_row["p50 ms"])),
                        "p99 ms": float(str(routed_row["p99 ms"])) - float(str(bare_row["p99 ms"])),
                        "requests/s": float(str(routed_row["requests/s"]))
                        / float(str(bare_row["requests/s"])),
                    }
                )
    return rows


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("orchestrator against the bare client", asyncio.run(run()), as_json=as_json)
