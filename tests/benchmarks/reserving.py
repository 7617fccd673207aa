"""What a reservation costs: in memory, out of a leased slice, and asked for at a Redis server (strict).

Memory is an account's ledger alone: reserve and settle. Leased is the same ledger with a slice of a
shared quota, and all that sharing adds to a request that the slice covers: whether it may begin, and
the notes of what is to be reported. The two take turns in small batches, so that they meet the same
machine. Strict takes turns with a script that does nothing: once as the plainest client asks for
it, once by the store's own connection. How many scripts the server ran says how many round trips a
reservation is.

Run: python tests/benchmarks/reserving.py [--json]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import redis.asyncio
from decision import NoUpstream
from measuring import percentile, report, wants_json
from redis.backoff import NoBackoff
from redis.retry import Retry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from smartfallback import (
    AccountSpec,
    ChainSpec,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaUnit,
    Request,
    SystemSpec,
    Usage,
    WindowKind,
    WindowSpec,
)
from smartfallback.engine.grant import Grant
from smartfallback.engine.walk import Walk
from smartfallback.model.quota import QuotaEstimate
from smartfallback.model.sharing import SharedWindow, SharingMode, SharingSpec
from smartfallback.policy.ledger import AccountLedger
from smartfallback.state.redis_store.scripts import Script
from smartfallback.state.redis_store.store import RedisSharedStore
from support.redis_servers import RedisServer

LIMIT = 10_000_000_000
ESTIMATE = QuotaEstimate(300, 1)
SPENT = QuotaEstimate(280, 1)
LEASE_S = 60.0

BATCHES = 400
BATCH = 250
ASKED = 20
ROUNDS = 100
"""Of so many reservations each, in strict mode."""
NOTHING = Script.of("nothing", "return 0")
ASK_LIMIT_S = 1.0
"""For the scripts that do nothing, so that a busy machine ends no measurement."""

MEMORY_TARGET_US = 3.0
LEASED_TARGET_US = 5.0


def system(store: RedisSharedStore | None = None, mode: SharingMode = SharingMode.LEASED) -> Orchestrator:
    """One account with a weekly quota and a daily number of requests. It is never started."""
    quota = (
        WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, LIMIT, "sun 00:00 UTC"),
        WindowSpec(WindowKind.DAY, QuotaUnit.REQUESTS, LIMIT),
    )
    account = AccountSpec("a", quota=quota, max_concurrency=1_000)
    pool = PoolSpec("main", ProviderKind.OPENAI, "main", (account,), model="m")
    spec = SystemSpec(pools=(pool,), chains=(ChainSpec("default", ("main",)),))
    return Orchestrator(
        spec,
        rng=random.Random(7),
        provider_factory=NoUpstream,
        shared=store,
        sharing=SharingSpec(mode),
    )


class Part:
    """One instance's part in sharing, without the tasks that talk in the background."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        sharing, told = orchestrator._sharing, orchestrator._placement.told
        if sharing is None or told is None:
            raise RuntimeError("nothing is shared")
        self.quota, self.admission, self.told, self.instance = (
            sharing._quota,
            sharing.admission,
            told,
            sharing.instance,
        )
        self.account = orchestrator._roster.accounts["a"]
        self._services = orchestrator._services
        self._chain = orchestrator._roster.chains["default"]

    def grant(self) -> Grant:
        """What the planner gives an attempt."""
        grant = self._services.planner.choose(Walk(Request.ask("How are you?"), self._chain, LEASE_S))
        if grant is None:
            raise RuntimeError("no account was chosen")
        return grant

    def settle(self, grant: Grant) -> None:
        """The attempt succeeded."""
        self._services.settlement.succeeded(grant, Usage(10, 5))


def shared_window(me: str, started_at: float, ends_at: float) -> SharedWindow:
    """One of which this instance has leased half, and another a tenth."""
    return SharedWindow(started_at, ends_at, ceilings={me: LIMIT / 2, "other": LIMIT / 10})


def in_memory(ledger: AccountLedger, now: float) -> None:
    """Reserve and settle :data:`BATCH` times."""
    for _ in range(BATCH):
        reservation = ledger.reserve(ESTIMATE, now, lease_s=LEASE_S)
        if reservation is None:
            raise RuntimeError("there is no room")
        ledger.settle(reservation, SPENT, now)


def leased(part: Part, ledger: AccountLedger, grant: Grant, now: float) -> None:
    """The same out of a slice, with what sharing adds on a request's way."""
    admission, told, account = part.admission, part.told, part.account
    for _ in range(BATCH):
        reservation = ledger.reserve(ESTIMATE, now, lease_s=LEASE_S)
        if reservation is None or not admission.admits(grant):
            raise RuntimeError("the slice does not cover it")
        told(account)
        ledger.settle(reservation, SPENT, now)
        admission.left(grant)
        told(account)


def seconds(body: Callable[[], None]) -> float:
    """How long one turn of a batch takes."""
    started = time.perf_counter()
    body()
    return (time.perf_counter() - started) / BATCH


async def without_asking() -> list[dict[str, object]]:
    """Memory and leased, taking turns."""
    store = RedisSharedStore("redis://127.0.0.1:1")  # never started: a slice needs nobody
    plain, sharing = system(), system(store)
    async with contextlib.aclosing(plain), contextlib.aclosing(sharing):
        part = Part(sharing)
        alone, ledger = plain._roster.accounts["a"].ledger, part.account.ledger
        now = time.time()
        for each in (alone, ledger):  # a sliding window begins with its first use
            first = each.reserve(ESTIMATE, now, lease_s=LEASE_S)
            if first is not None:
                each.settle(first, SPENT, now)
        reports = ledger.reports(now, {})
        windows = {each.key: shared_window(part.instance, each.started_at, each.ends_at) for each in reports}
        ledger.mirror(windows, now)
        grant = part.grant()
        if not part.admission.admits(grant):
            raise RuntimeError("the slice does not cover it")
        memory_s, leased_s = [], []
        gc.collect()
        for number in range(BATCHES + 20):
            memory = seconds(lambda: in_memory(alone, now))
            shared = seconds(lambda: leased(part, ledger, grant, now))
            if number >= 20:
                memory_s.append(memory)
                leased_s.append(shared)
            await asyncio.sleep(0)
        part.settle(grant)
    base = percentile(memory_s, 0.5)
    paired = percentile([b / a for a, b in zip(memory_s, leased_s, strict=True)], 0.5)
    return [
        row("memory: reserve + settle", memory_s, base, 1.0, f"≤ {MEMORY_TARGET_US:g} µs"),
        row("leased: reserve + settle", leased_s, base, paired, f"≤ {LEASED_TARGET_US:g} µs"),
    ]


async def asking() -> list[dict[str, object]]:
    """Strict, taking turns with scripts that do nothing."""
    with RedisServer() as server:
        store = RedisSharedStore(server.url)
        # Without retries and on one connection, like the store's.
        bare = redis.asyncio.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        await store.start()
        await store._link.wait_reachable()
        sha = await bare.script_load(NOTHING.text)
        sharing = system(store, SharingMode.STRICT)
        async with contextlib.aclosing(sharing):
            part = Part(sharing)
            await part.quota.exchange_all()
            bare_s, linked_s, strict_s, trips = [], [], [], 0
            for number in range(ROUNDS + 2):
                grants = [part.grant() for _ in range(ASKED)]
                samples: tuple[list[float], list[float], list[float]] = ([], [], [])
                before = scripts_run(server)
                for grant in grants:
                    started = time.perf_counter()
                    await bare.evalsha(sha, 0)
                    first = time.perf_counter()
                    await store._link.run(NOTHING, ["a"], [], limit_s=ASK_LIMIT_S)
                    second = time.perf_counter()
                    refusal = await part.admission.ask(grant, LEASE_S)
                    third = time.perf_counter()
                    if refusal is not None:
                        raise RuntimeError(refusal.detail)
                    for sample, taken in zip(
                        samples, (first - started, second - first, third - second), strict=True
                    ):
                        sample.append(taken)
                if number >= 2:
                    trips += scripts_run(server) - before - 2 * ASKED
                    bare_s += samples[0]
                    linked_s += samples[1]
                    strict_s += samples[2]
                for grant in grants:
                    part.settle(grant)
                await part.quota.exchange_all()
        await bare.aclose()
    base = percentile(bare_s, 0.5)
    ratios = [
        percentile([b / a for a, b in zip(bare_s, each, strict=True)], 0.5) for each in (linked_s, strict_s)
    ]
    trips_each = trips / len(strict_s)
    return [
        row("bare EVALSHA of nothing", bare_s, base, 1.0, ""),
        row("the same by the store's connection", linked_s, base, ratios[0], ""),
        row("strict: ask", strict_s, base, ratios[1], f"1 round trip: {trips_each:.2f}"),
    ]


def scripts_run(server: RedisServer) -> int:
    """How many scripts the server has run."""
    statistics = server.command("INFO", "commandstats")
    return int(statistics["cmdstat_evalsha"]["calls"])


def row(case: str, samples: list[float], base: float, paired: float, target: str) -> dict[str, object]:
    """One row: medians in microseconds, next to the baseline."""
    median = percentile(samples, 0.5)
    return {
        "case": case,
        "p50 µs": median * 1e6,
        "p99 µs": percentile(samples, 0.99) * 1e6,
        "p50 / p50 of base": median / base,
        "median of pairs": paired,
        "target": target,
    }


async def run() -> list[dict[str, object]]:
    """All rows."""
    return [*await without_asking(), *await asking()]


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("reserving", asyncio.run(run()), as_json=as_json)
