"""What a circuit costs per call, next to a bare call and a minimal counter in the same run.

Run it as ``python tests/benchmarks/circuit.py [--json] [--repeats N]``. Each figure is the median
of the repeats; a repeat times many calls and subtracts the time of the same loop without a body.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable

from smartfallback.model.circuits import (
    ACCOUNT_DEFAULT,
    PROVIDER,
    CircuitScope,
    CircuitSettings,
    CircuitTarget,
)
from smartfallback.policy.circuit import Circuit

CALLS = 10_000
STEP_S = 0.001
"""A thousand calls a second, so that buckets turn and leave as they do in traffic."""

Body = Callable[[float], object]


class MinimalBreaker:
    """A counter of consecutive failures: no window, no generations, no permits."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.failures = 0
        self.open_until = 0.0

    def admit(self, now: float) -> bool:
        return now >= self.open_until

    def success(self) -> None:
        self.failures = 0


def bare(now: float) -> float:
    return now


def minimal() -> Body:
    breaker = MinimalBreaker(3)

    def call(now: float) -> None:
        if breaker.admit(now):
            breaker.success()

    return call


def closed(settings: CircuitSettings) -> Body:
    circuit = circuit_of(settings)
    acquire, succeed = circuit.acquire, circuit.succeed

    def call(now: float) -> None:
        permit = acquire(now)
        if permit is not None:
            succeed(permit, now)

    return call


def rejecting() -> Body:
    circuit = circuit_of(ACCOUNT_DEFAULT)
    circuit.force_open("measured", 0.0)
    return circuit.acquire


def asking() -> Body:
    return circuit_of(ACCOUNT_DEFAULT).admits


def circuit_of(settings: CircuitSettings) -> Circuit:
    return Circuit(CircuitTarget(CircuitScope.ACCOUNT, "a"), settings, rng=random.Random(1), now=0.0)


def nanoseconds(body: Body | None, repeats: int) -> float:
    """Median nanoseconds of one turn of the loop; None times the empty loop."""
    samples = []
    now = 1.0
    for _ in range(repeats):
        started = time.perf_counter_ns()
        if body is None:
            for _ in range(CALLS):
                now += STEP_S
        else:
            for _ in range(CALLS):
                now += STEP_S
                body(now)
        samples.append((time.perf_counter_ns() - started) / CALLS)
    return statistics.median(samples)


def measure(repeats: int) -> list[dict[str, object]]:
    count_window = CircuitSettings(failure_rate=0.5, window_calls=100)
    cases: dict[str, Body] = {
        "bare function call": bare,
        "minimal counter breaker": minimal(),
        "permit + success, account preset": closed(ACCOUNT_DEFAULT),
        "permit + success, provider preset (slow-call rate)": closed(PROVIDER),
        "permit + success, window of 100 calls (failure rate)": closed(count_window),
        "admits, closed": asking(),
        "rejection, forced open": rejecting(),
    }
    empty = nanoseconds(None, repeats)
    times = {name: nanoseconds(body, repeats) - empty for name, body in cases.items()}
    baseline = times["minimal counter breaker"]
    return [
        {"case": name, "ns": round(ns, 1), "times_minimal": round(ns / baseline, 2)}
        for name, ns in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repeats", type=int, default=21, help="timed repeats per case")
    arguments = parser.parse_args()
    rows = measure(arguments.repeats)
    if arguments.json:
        json.dump({"benchmark": "circuit", "calls_per_repeat": CALLS, "results": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    sys.stdout.write(f"{'case':54}{'ns/call':>10}{'x minimal':>12}\n")
    for row in rows:
        sys.stdout.write(f"{row['case']:54}{row['ns']:>10}{row['times_minimal']:>12}\n")


if __name__ == "__main__":
    main()
