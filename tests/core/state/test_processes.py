"""Real processes on one file: killed at any moment, and side by side."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from smartfallback import AdminState, Ending, SqliteStateStore
from support.states import read

TESTS = Path(__file__).parents[2]
PROGRAM = """
import asyncio, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from smartfallback import Drain, Orchestrator, SqliteStateStore
from support.scripted import ScriptedUpstream, ask, pool, system

async def main(path, prefix, step_s):
    names = [f"{prefix}-{number}" for number in range(200)]
    spec = system(pool("main", "shared", *names))
    upstream = ScriptedUpstream()
    store = SqliteStateStore(path)
    async with Orchestrator(spec, provider_factory=upstream.provider, store=store) as orchestrator:
        for name in names[:int(sys.argv[5])]:
            orchestrator.execute(Drain(name, "by " + prefix))
            await orchestrator.chat(ask(pin="shared"))
            print(name, time.time(), flush=True)
            await asyncio.sleep(step_s)

asyncio.run(main(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
"""


def start(path: Path, prefix: str, step_s: float, steps: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(TESTS), str(path), prefix, str(step_s), str(steps)],
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_a_killed_process_loses_at_most_its_last_second(tmp_path):
    path = tmp_path / "state.db"
    with start(path, "a", 0.05, 200) as process:
        told = []
        for line in process.stdout:
            name, at = line.split()
            told.append((name, float(at)))
            if told[-1][1] - told[0][1] > 1.7:
                break
        killed_at = time.time()
        os.kill(process.pid, signal.SIGKILL)
    # A machine too busy to give the process its turn delays its writes as it delays its lines.
    busy_s = max(after - before for (_, before), (_, after) in pairwise(told)) - 0.05
    old_enough = [name for name, at in told if at < killed_at - 1.0 - 2 * max(0.0, busy_s - 0.02)]
    found = (await read(path)).accounts
    assert old_enough
    assert [name for name in old_enough if name not in found] == []
    assert all(found[name].admin is AdminState.DRAINED for name in old_enough)
    assert found["shared"].requests >= len(old_enough)


async def test_two_processes_on_one_file_keep_each_others_orders_and_counts(tmp_path):
    path = tmp_path / "state.db"
    processes = [start(path, prefix, 0.01, 60) for prefix in ("a", "b")]
    ended = [await asyncio.to_thread(process.communicate) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(out.splitlines()) for out, _ in ended] == [60, 60]
    found = (await read(path)).accounts
    for prefix in ("a", "b"):
        drained = [f"{prefix}-{number}" for number in range(60)]
        assert {found[name].admin_reason for name in drained} == {f"by {prefix}"}
    assert found["shared"].requests == 120
    store = SqliteStateStore(path)
    history = await store.history(1_000)
    await store.aclose()
    assert len({past.id for past in history}) == len(history) == 120
    assert {past.ending for past in history} == {Ending.ANSWERED}
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
