"""The cost of one selection at 8, 1,000 and 100,000 accounts, for each strategy.

One selection is what a request costs there: the first candidate, the update of its quota and last
use, and the note that it was taken. The baseline in the same run applies the same rule by a scan
over all accounts.

Run: python tests/benchmarks/selection.py [--json]
"""

from __future__ import annotations

import gc
import heapq
import random
import time
from collections.abc import Callable

from measuring import percentile, report, wants_json

from smartfallback.model.specs import HybridSettings, Strategy
from smartfallback.policy.selection import Selection, score_terms

SIZES = (8, 1_000, 100_000)
SELECTIONS = 20_000
WARM_UP = 1_000
PACE_S = 0.005
COST = 0.001
"""Percent of an account's quota that a request uses."""

SETTINGS = HybridSettings()


class Accounts:
    """Quota and last use of a number of accounts, a third of them unused for over a day."""

    def __init__(self, size: int) -> None:
        rng = random.Random(size)
        self.used = [70 * rng.random() for _ in range(size)]
        self.last_used = [-130_000 * rng.random() for _ in range(size)]

    def serve(self, slot: int, now: float) -> None:
        """Note one request."""
        self.used[slot] += COST
        self.last_used[slot] = now


def indexed(strategy: Strategy, size: int) -> list[float]:
    """Seconds of each selection."""
    accounts = Accounts(size)
    selection = Selection([f"a-{n}" for n in range(size)], strategy, SETTINGS, random.Random(7))
    for slot in range(size):
        selection.put(slot, accounts.used[slot], accounts.last_used[slot])
    next(selection.candidates(0.0))
    samples = []
    gc.collect()
    for number in range(SELECTIONS + WARM_UP):
        now = number * PACE_S
        # Sessions come back a few times each; only the sticky strategy looks at them.
        session = f"s-{number // 40}-{number % 8}"
        started = time.perf_counter()
        slot = next(selection.candidates(now, session)).slot
        accounts.serve(slot, now)
        selection.put(slot, accounts.used[slot], now)
        selection.taken(slot, now, session)
        elapsed = time.perf_counter() - started
        if number >= WARM_UP:
            samples.append(elapsed)
    return samples


def scanned(strategy: Strategy, size: int) -> float:
    """Median seconds of one selection by a scan over all accounts."""
    accounts = Accounts(size)
    rng = random.Random(7)
    turns = [0] * size
    used, last_used = accounts.used, accounts.last_used
    now = 0.0

    def hybrid() -> int:
        if rng.random() < SETTINGS.lru_share:
            return min(range(size), key=last_used.__getitem__)
        scores = [score_terms(used[slot], last_used[slot], now, SETTINGS).score for slot in range(size)]
        top = heapq.nlargest(SETTINGS.top_k, range(size), key=scores.__getitem__)
        return max(
            top, key=lambda slot: scores[slot] * rng.uniform(SETTINGS.jitter_low, SETTINGS.jitter_high)
        )

    rules: dict[Strategy, Callable[[], int]] = {
        Strategy.GREEDY: lambda: min(range(size), key=used.__getitem__),
        Strategy.STICKY: lambda: min(range(size), key=used.__getitem__),
        Strategy.LRU: lambda: min(range(size), key=last_used.__getitem__),
        Strategy.ROUND_ROBIN: lambda: min(range(size), key=turns.__getitem__),
        Strategy.HYBRID: hybrid,
    }
    rule = rules[strategy]
    samples = []
    for number in range(max(8, min(2_000, 400_000 // size))):
        now = number * PACE_S
        started = time.perf_counter()
        slot = rule()
        accounts.serve(slot, now)
        turns[slot] = number + 1
        samples.append(time.perf_counter() - started)
    return percentile(samples, 0.5)


def run() -> list[dict[str, object]]:
    """A row for each strategy and size."""
    rows: list[dict[str, object]] = []
    for strategy in Strategy:
        smallest = 0.0
        for size in SIZES:
            samples = indexed(strategy, size)
            p50 = percentile(samples, 0.5)
            smallest = smallest or p50
            scan = scanned(strategy, size)
            rows.append(
                {
                    "strategy": strategy.value,
                    "accounts": f"{size:,}",
                    "p50 µs": p50 * 1e6,
                    "p99 µs": percentile(samples, 0.99) * 1e6,
                    "p50 / p50 at 8": p50 / smallest,
                    "scan p50 µs": scan * 1e6,
                    "scan / p50": scan / p50,
                }
            )
    return rows


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("Selection: first candidate + update + taken", run(), as_json=as_json)
