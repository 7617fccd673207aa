"""What deadline, retries and the rest of the recovery cost a request that succeeds at its first try.

The same requests go in turns through orchestrators that differ in nothing but that. In the first, all is off
that can be switched off; that one is there twice, so that its second row shows the noise. What can't be
switched off and so is in all: the deadline's timer (there with a limit of a day), and the count of requests
in the retry budget. Each further one has all that those before it have, and more.

Run: python tests/benchmarks/retries.py [--json]
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack
from dataclasses import replace

from measuring import percentile, report, wants_json
from stub_upstream import stub_upstream

from smartfallback import (
    AccountSpec,
    ChainSpec,
    CircuitSettings,
    CircuitState,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaUnit,
    RecoverySpec,
    Request,
    SystemSpec,
    Timeouts,
    WindowKind,
    WindowSpec,
)

ROUNDS = 25
CALLS = 200
DAY_S = 86_400.0
REQUEST = replace(Request.ask("How are you?"), stream=False)
OFF, AGAIN = "off", "off again"
RETRIES = "deadline, retries"
CIRCUITS = "+ circuits, adaptive concurrency"
STAND_INS = "+ cache, queue"
HEDGING = "+ hedging"
STEPS = (OFF, AGAIN, RETRIES, CIRCUITS, STAND_INS, HEDGING)


def spec(base_url: str, step: str) -> SystemSpec:
    """Eight accounts with a weekly quota, and as much of the recovery as that step has."""
    level = STEPS.index(step)
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1e12, "sun 00:00 UTC"),)
    pool = PoolSpec(
        name="stub",
        provider=ProviderKind.OPENAI,
        provider_id="stub",
        accounts=tuple(AccountSpec(f"a-{n}", quota=quota, max_concurrency=100) for n in range(8)),
        model="stub",
        base_url=base_url,
    )
    chain = ChainSpec("default", ("stub",))
    recovery = RecoverySpec()
    if level < STEPS.index(RETRIES):
        pool = replace(pool, timeouts=Timeouts(DAY_S, DAY_S, DAY_S))
        chain = replace(chain, timeout_s=DAY_S)
        recovery = RecoverySpec(retry_share=0.0, retry_reserve=0, queue_limit=1)
    if level < STEPS.index(CIRCUITS):
        off = CircuitSettings(initial_state=CircuitState.DISABLED)
        pool = replace(pool, account_circuit=off, provider_circuit=off)
        pool = replace(pool, failed_model_s=0.0, adaptive_concurrency=False)
    if level >= STEPS.index(STAND_INS):
        chain = replace(chain, cache_s=60.0, queue_s=60.0)
    if level >= STEPS.index(HEDGING):
        chain = replace(chain, hedge_after_s=5.0)
    return SystemSpec((pool,), (chain,), recovery=recovery)


async def one_round(orchestrator: Orchestrator) -> tuple[float, float]:
    """p50 and p99 of the requests' seconds."""
    samples = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        await orchestrator.chat(REQUEST)
        samples.append(time.perf_counter() - begun)
    gc.collect()
    return percentile(samples, 0.5), percentile(samples, 0.99)


async def run() -> list[dict[str, object]]:
    """All in turn, round by round, each round in another order; the first only warms up."""
    with stub_upstream() as base_url:
        async with AsyncExitStack() as stack:
            made = {
                name: await stack.enter_async_context(Orchestrator(spec(base_url, name))) for name in STEPS
            }
            rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
            for number in range(ROUNDS + 1):
                names = list(made)
                first = number % len(names)
                for name in names[first:] + names[:first]:
                    taken = await one_round(made[name])
                    if number:
                        rounds[name].append(taken)
    return [row(name, rounds) for name in rounds]


def row(name: str, rounds: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Medians of the rounds, and of what each round differs by from the first variant's same round."""
    mine, base = rounds[name], rounds[OFF]
    added = sorted(own[0] - other[0] for own, other in zip(mine, base, strict=True))
    return {
        "recovery": name,
        "p50 ms": percentile([p50 for p50, _ in mine], 0.5) * 1e3,
        "p99 ms": percentile([p99 for _, p99 in mine], 0.5) * 1e3,
        "added p50 us": percentile(added, 0.5) * 1e6,
        "from us": percentile(added, 0.25) * 1e6,
        "to us": percentile(added, 0.75) * 1e6,
        "p50 ratio": percentile([own[0] / other[0] for own, other in zip(mine, base, strict=True)], 0.5),
    }


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("a request that succeeds, with and without recovery", asyncio.run(run()), as_json=as_json)
