"""What is still held, running or open when nothing should be: counted at the source, not at a report."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from pathlib import Path

from smartfallback import CircuitState, Orchestrator


def held(orchestrator: Orchestrator, now: float) -> dict[str, float]:
    """Everything that requests hold and have not given back; empty when they hold nothing.

    ``now`` is in the monotonic seconds of the orchestrator's clock.
    """
    found: defaultdict[str, float] = defaultdict(float)
    roster, services = orchestrator._roster, orchestrator._services
    for account in roster.accounts.values():
        found[f"{account.id}: requests in flight"] = account.in_flight
        found[f"{account.id}: attempts"] = len(account.attempts)
        found[f"{account.id}: reservations"] = len(account.ledger._live)
    view = orchestrator.snapshot()
    for pool in view.pools:
        for shown in pool.accounts:
            found[f"{shown.id}: shown in flight"] = shown.in_flight
            for window in shown.quota.windows:
                found[f"{shown.id}: shown as held"] += window.held
    for provider in roster.providers.values():
        found[f"{provider.id}: permits"] = provider.circuit.statistics(now).live
    for account in roster.accounts.values():
        circuits = {account.id: account.circuit, **account.model_circuits}
        for name, circuit in circuits.items():
            if circuit.state is not CircuitState.DISABLED:
                found[f"{account.id}: permits of {name}"] = circuit.statistics(now).live
    found["callers in the line"] = len(services.capacity)
    found["requests shown in flight"] = view.traffic.in_flight
    found["requests in the queue"] = len(view.queue.requests)
    return {name: count for name, count in found.items() if count}


def unfinished(orchestrator: Orchestrator) -> int:
    """Requests that have not come to their end, whether or not they hold anything."""
    return sum(not run.stopped.is_set() for run in orchestrator._runs.values())


def open_sockets() -> set[str]:
    """The sockets that this process has open, by their inode."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def children() -> set[int]:
    """The process ids of this process's children."""
    me, found = os.getpid(), set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == me:
            found.add(int(entry.name))
    return found


def tasks() -> Counter[str]:
    """What the running loop's tasks run, the current one left out."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return Counter(getattr(task.get_coro(), "__qualname__", "") for task in others)
