"""What the orchestrator adds to a request: against the same HTTP client and the same stub, in turns.

A third client is plain httpx with its own transport, for what the choice of the transport is worth.

Run: python tests/benchmarks/overhead.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

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


async def compare(
    clients: dict[str, Callable[[], Awaitable[object]]], concurrent: int
) -> list[dict[str, object]]:
    """A row a client, and one for what ``routed`` adds to ``bare``."""
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in clients}
    for round_number in range(ROUNDS + 1):
        for name, call in clients.items():
            samples, rate = await measure(call, concurrent)
            if round_number:
                rounds[name].append((percentile(samples, 0.5), percentile(samples, 0.99), rate))
    medians = {
        name: [percentile(column, 0.5) for column in zip(*taken, strict=True)]
        for name, taken in rounds.items()
    }
    (bare50, bare99, bare_rate), (routed50, routed99, routed_rate) = medians["bare"], medians["routed"]
    figures = [(name, p50, p99, rate) for name, (p50, p99, rate) in medians.items()]
    figures.append(("added / ratio", routed50 - bare50, routed99 - bare99, routed_rate / bare_rate))
    return [
        {
            "concurrent": concurrent,
            "client": name,
            "p50 ms": p50 * 1e3,
            "p99 ms": p99 * 1e3,
            "requests/s": rate,
        }
        for name, p50, p99, rate in figures
    ]


async def run() -> list[dict[str, object]]:
    """Alternate bare client and orchestrator, round by round, and compare medians."""
    rows: list[dict[str, object]] = []
    request = replace(Request.ask("How are you?"), stream=False)
    with stub_upstream() as base_url:
        transport = AiohttpTransport(limits=httpx.Limits(max_connections=200))
        async with (
            httpx.AsyncClient(transport=transport) as client,
            httpx.AsyncClient(limits=httpx.Limits(max_connections=200)) as plain_client,
            Orchestrator(spec(base_url)) as orchestrator,
        ):

            async def bare() -> None:
                response = await client.post(f"{base_url}/chat/completions", json=PAYLOAD)
                response.json()

            async def plain() -> None:
                response = await plain_client.post(f"{base_url}/chat/completions", json=PAYLOAD)
                response.json()

            async def routed() -> None:
                await orchestrator.chat(request)

            clients = {"plain httpx": plain, "bare": bare, "routed": routed}
            for concurrent in CALLS:
                rows += await compare(clients, concurrent)
    return rows


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("orchestrator against the bare client", asyncio.run(run()), as_json=as_json)
