"""What ten thousand requests through the engine leave behind."""

from __future__ import annotations

from smartfallback import AccountSpec, QuotaUnit, Usage, WindowKind, WindowSpec
from smartfallback.policy.fairness import gini
from smartfallback.providers.base import Chunk
from support.scripted import ask, pool, system


async def test_eight_equal_accounts_are_used_evenly(start, upstream, clock):
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 5_000_000),)
    names = [f"ag-{n}" for n in range(1, 9)]
    for name in names:
        upstream.always(name, [Chunk("fine"), Chunk("", "stop", Usage(200, 100))])
    orchestrator = await start(system(pool("main", *(AccountSpec(name, quota=quota) for name in names))))
    request = ask()
    for _ in range(10_000):
        await orchestrator.chat(request)
        clock.advance(0.5)
    counts = [orchestrator.snapshot().account(name).requests for name in names]
    assert sum(counts) == 10_000
    assert gini(counts) <= 0.05
    assert max(counts) <= 1_400
