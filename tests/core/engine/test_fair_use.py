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


async def test_fairness_goes_by_what_is_used_of_each_limit_since_its_reset(start):
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000),)
    orchestrator = await start(system(pool("main", *(AccountSpec(n, quota=quota) for n in ("a", "b")))))
    orchestrator.preload_usage({"a": 10_000, "b": 10_000})
    even = orchestrator.snapshot().pools[0].fairness
    assert even.share_of_limit == 0
    assert not even.alarm


async def test_uneven_use_of_the_limits_raises_the_alarm(start):
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000),)
    orchestrator = await start(system(pool("main", *(AccountSpec(n, quota=quota) for n in ("a", "b")))))
    orchestrator.preload_usage({"a": 70_000, "b": 2_000})
    uneven = orchestrator.snapshot().pools[0].fairness
    assert uneven.share_of_limit > 0.4
    assert uneven.alarm
