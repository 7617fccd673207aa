"""Runs lives of the policy world: ``python -m smartfallback.simulation.policy_world --seed N``.

Exit codes: 0 when every invariant held, 1 when one was violated, 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from smartfallback.simulation.policy_world.runs import InvariantViolated, live, live_week
from smartfallback.simulation.policy_world.world import Outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what ``arguments`` say; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m smartfallback.simulation.policy_world",
        description="Run random lives of the engine's decisions and check their invariants.",
    )
    parser.add_argument("--seed", type=int, default=0, help="the first life (default 0)")
    parser.add_argument("--schedules", type=int, default=1, metavar="N", help="so many lives, from --seed on")
    parser.add_argument("--week", action="store_true", help="a week of eight accounts instead")
    parser.add_argument("--requests", type=int, default=100_000, help="in a week, about (default 100000)")
    parser.add_argument("--trace", action="store_true", help="print the trace of each life")
    try:
        chosen = parser.parse_args(arguments)
        if chosen.schedules < 1 or chosen.requests < 1:
            parser.error("--schedules and --requests must be at least 1")
    except SystemExit as ended:
        return 0 if ended.code in (0, None) else 2
    began = time.perf_counter()
    ends: Counter[str] = Counter()
    outcome: Outcome | None = None
    for seed in range(chosen.seed, chosen.seed + chosen.schedules):
        try:
            if chosen.week:
                outcome = live_week(seed, requests=chosen.requests, keep_trace=chosen.trace)
            else:
                outcome = live(seed, keep_trace=chosen.trace)
        except InvariantViolated as violated:
            sys.stdout.write(violated.trace)
            sys.stdout.flush()
            sys.stderr.write(f"{violated}\n")
            return 1
        sys.stdout.write(outcome.trace)
        ends.update(outcome.ends)
        sys.stdout.write(f"seed {seed}: {outcome.steps} steps, trace {outcome.digest}\n")
    told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    taken_s = time.perf_counter() - began
    sys.stderr.write(f"{sum(ends.values())} requests ({told}) in {taken_s:.1f} s; all invariants held\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
