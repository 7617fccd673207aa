"""What asking for quotas adds to a request: no source, a healthy one, and one whose every call hangs.

The same requests go, in turns, through orchestrators that differ in nothing but their quota source; one
without a source is there twice, so that its second row shows the noise. While the healthy source is measured
one of the eight accounts is asked every quarter of a second, some hundred times as often as in use. Of the
source that hangs all accounts are asked again as soon as the last call was given up after five seconds, so
that almost all of them are being asked at any time.

Run: python tests/benchmarks/quota_sources.py [--json]
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import cycle
from typing import NamedTuple

from measuring import percentile, report, wants_json
from stub_quota import stub_quota
from stub_upstream import stub_upstream

from smartfallback import (
    AccountSpec,
    AttemptStarted,
    ChainSpec,
    Clock,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaThresholds,
    QuotaUnit,
    RefreshQuota,
    Request,
    SystemSpec,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.quota import QuotaReading
from smartfallback.quota_sources.gemini import GeminiQuotaSource
from smartfallback.quota_sources.refresher import Watch

ROUNDS = 15
CALLS = 600
ASK_EVERY_S = 0.25
ACCOUNTS = tuple(f"a-{number}" for number in range(8))
REQUEST = replace(Request.ask("How are you?"), stream=False)
SETTLE_S = 1.0
"""Before the first round: by then every account of the hanging source is being asked."""


class CountingSource(GeminiQuotaSource):
    """The real source, and how many of its calls are under way."""

    under_way = 0

    async def read(self, account: AccountSpec) -> QuotaReading:
        self.under_way += 1
        try:
            return await super().read(account)
        finally:
            self.under_way -= 1


class Variant(NamedTuple):
    """One orchestrator."""

    name: str
    orchestrator: Orchestrator
    hangs: bool
    source: list[CountingSource]
    in_flight: list[int]


def spec(base_url: str) -> SystemSpec:
    """Eight accounts with a weekly quota; an estimate of 80 % changes nothing in how they are chosen."""
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1e12, "sun 00:00 UTC"),)
    accounts = tuple(AccountSpec(name, quota=quota, max_concurrency=100) for name in ACCOUNTS)
    pool = PoolSpec(
        name="stub",
        provider=ProviderKind.OPENAI,
        provider_id="stub",
        accounts=accounts,
        model="stub",
        base_url=base_url,
        thresholds=QuotaThresholds(soft_limit=90.0),
    )
    return SystemSpec(pools=(pool,), chains=(ChainSpec("default", ("stub",)),))


def variant(name: str, base_url: str, quota_url: str | None) -> Variant:
    """An orchestrator whose accounts are asked at ``quota_url``; None asks nobody."""
    made: list[CountingSource] = []

    def sources(pool: PoolSpec, clock: Clock) -> Mapping[str, Watch]:
        if quota_url is None:
            return {}
        source = CountingSource(replace(pool, quota_url=quota_url), clock)
        made.append(source)
        return {account.id: Watch(account, source) for account in pool.accounts}

    orchestrator = Orchestrator(spec(base_url), source_factory=sources)
    return Variant(name, orchestrator, name == "hangs", made, [])


@asynccontextmanager
async def asking(measured: Variant) -> AsyncIterator[None]:
    """Its accounts are asked in turn for as long as the block lasts."""

    async def ask() -> None:
        for account in cycle(ACCOUNTS):
            for name in ACCOUNTS if measured.hangs else (account,):
                measured.orchestrator.execute(RefreshQuota(name))
            await asyncio.sleep(ASK_EVERY_S)
            measured.in_flight.append(measured.source[0].under_way)

    task = asyncio.create_task(ask()) if measured.source else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def one_request(orchestrator: Orchestrator) -> tuple[float, float]:
    """Seconds until the first attempt was started, and until the answer was complete."""
    begun = time.perf_counter()
    started = 0.0
    async for event in orchestrator.stream(REQUEST):
        if isinstance(event, AttemptStarted):
            started = time.perf_counter()
    return started - begun, time.perf_counter() - begun


async def one_round(measured: Variant) -> tuple[float, float, float, float]:
    """p50 and p99 of the dispatch, then of the whole request."""
    async with asking(measured):
        samples = [await one_request(measured.orchestrator) for _ in range(CALLS)]
    gc.collect()
    dispatches, wholes = zip(*samples, strict=True)
    return (
        percentile(dispatches, 0.5),
        percentile(dispatches, 0.99),
        percentile(wholes, 0.5),
        percentile(wholes, 0.99),
    )


def row(
    measured: Variant, rounds: list[tuple[float, ...]], base: list[tuple[float, ...]]
) -> dict[str, object]:
    """Medians of the rounds, and medians of the ratios to the first variant's same round."""
    figures = [percentile(column, 0.5) for column in zip(*rounds, strict=True)]
    ratios = [
        percentile([mine / theirs for mine, theirs in zip(column, other, strict=True)], 0.5)
        for column, other in zip(zip(*rounds, strict=True), zip(*base, strict=True), strict=True)
    ]
    checks = measured.orchestrator.quota_checks
    asked = measured.in_flight
    return {
        "quota source": measured.name,
        "dispatch p50 us": figures[0] * 1e6,
        "p50 ratio": ratios[0],
        "dispatch p99 us": figures[1] * 1e6,
        "p99 ratio": ratios[1],
        "whole p50 ms": figures[2] * 1e3,
        "whole p50 ratio": ratios[2],
        "whole p99 ms": figures[3] * 1e3,
        "whole p99 ratio": ratios[3],
        "asked at once": sum(asked) / len(asked) if asked else 0.0,
        "calls": 0 if checks is None else checks.calls,
        "given up": 0 if checks is None else checks.failures,
        "from cache": "-" if checks is None or checks.share is None else f"{checks.share:.2%}",
    }


async def run() -> list[dict[str, object]]:
    """All variants in turn, round by round; the first round only warms up."""
    with stub_upstream() as base_url, stub_quota() as quota_url:
        variants = [
            variant("none", base_url, None),
            variant("none again", base_url, None),
            variant("healthy", base_url, f"{quota_url}/quotaStatus"),
            variant("hangs", base_url, f"{quota_url}/hang"),
        ]
        rounds: list[list[tuple[float, ...]]] = [[] for _ in variants]
        async with AsyncExitStack() as stack:
            for entry in variants:
                await stack.enter_async_context(entry.orchestrator)
            await asyncio.sleep(SETTLE_S)
            for number in range(ROUNDS + 1):
                # Each round in another order, so that none always comes after the same one.
                for index in range(len(variants)):
                    place = (index + number) % len(variants)
                    taken = await one_round(variants[place])
                    if number:
                        rounds[place].append(taken)
            return [row(entry, taken, rounds[0]) for entry, taken in zip(variants, rounds, strict=True)]


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("a request beside quota sources", asyncio.run(run()), as_json=as_json)
