"""Real processes, killed at random moments: each starts as the one before was, at most a second older."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from smartfallback import AdminState, CircuitState, SqliteStateStore
from smartfallback.model.state import SystemState
from support.clock import FakeClock
from support.kept_program import HOLD_S, STEP_S

TESTS = Path(__file__).parent.parent
FILES = 10
LIVES = 10
"""Each file serves so many processes, one after the other."""
SHORTEST_S, LONGEST_S = 0.1, 1.8
LIMIT_S = 30.0

Said = dict[str, Any]


class Nursery:
    """Starts processes by forking one that has everything loaded."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def _ask(self, *words: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn, asyncio.timeout(LIMIT_S):
            self._process.stdin.write((json.dumps(words) + "\n").encode())
            await self._process.stdin.drain()
            return int(await self._process.stdout.readline())

    async def life(self, path: Path, log: Path, for_s: float) -> tuple[list[Said], float]:
        """What a process announced from its start to its violent end, and when that was."""
        pid = await self._ask("start", str(path), str(log))
        try:
            await asyncio.to_thread(first_word, log)
            await asyncio.sleep(for_s)
        finally:
            killed_at = time.time()
            os.kill(pid, signal.SIGKILL)
            status = await self._ask("reap", pid)
        assert os.WIFSIGNALED(status), "the process ended by itself"
        return words(log), killed_at


def first_word(log: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline, "the process says nothing"
        time.sleep(0.005)


def words(log: Path) -> list[Said]:
    """All that was announced; the last line may have been cut off."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.kept_program",
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    yield Nursery(process)
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


async def kept(path: Path, at: float) -> SystemState:
    """What the next process would find at that time."""
    store = SqliteStateStore(path, clock=FakeClock(at))
    try:
        return await store.load((), ())
    finally:
        assert store.take_notices() == ()
        await store.aclose()


def old_enough(said: list[Said]) -> list[Said]:
    """What was announced a second before the process was heard of last, or before a write that it told.

    A machine too busy to give the process its turn delays its writes as it delays its words.
    """
    last = said[-1]["at"]
    late = [after["at"] - before["at"] - 3 * STEP_S for before, after in pairwise(said)]
    busy_s = sum(max(0.0, late_s) for late_s in late)
    written = max((entry["written"] for entry in said if "written" in entry), default=0.0)
    return [entry for entry in said if entry["at"] < max(written, last - 1.0 - 2 * busy_s)]


def named(entries: Iterable[Said], word: str) -> dict[str, Said]:
    return {entry[word]: entry for entry in entries if word in entry}


def check(before: list[Said], said: list[Said], found: SystemState, killed_at: float) -> None:
    """The file holds all that is old enough, and nothing that nobody has announced."""
    old, ever = [*before, *old_enough(said)], [*before, *said]
    accounts = found.accounts
    drained = {name for name, state in accounts.items() if state.admin is AdminState.DRAINED}
    assert named(old, "drained").keys() <= drained
    resting = {name: state.cooldown for name, state in accounts.items() if name.startswith("rest-")}
    for name, entry in named(old, "rested").items():
        assert resting[name].until == pytest.approx(entry["until"], abs=1.0)
    for name, entry in named(old, "broken").items():
        circuit = accounts[name].circuit
        assert circuit.state is CircuitState.OPEN
        assert circuit.until == pytest.approx(entry["until"], abs=1.0)
    for name in named(old, "forced"):
        assert accounts[name].circuit.state is CircuitState.FORCED_OPEN
    used = accounts["quota"].windows[0].used if "quota" in accounts else 0
    least = max((entry["used"] for entry in old if "used" in entry), default=0)
    most = max(entry["used"] for entry in ever if "used" in entry) + 15  # one answer may be unannounced
    assert least <= used <= most
    ends = [hold.until for hold in accounts["held"].holds] if "held" in accounts else []
    for entry in old:
        if "hold" in entry and entry["until"] > killed_at + 1.0:
            assert any(end == pytest.approx(entry["until"], abs=1.0) for end in ends)
    assert all(end <= killed_at + HOLD_S for end in ends)


async def lives(nursery: Nursery, folder: Path, rng: random.Random) -> int:
    """All lives on one file; returns in how many of them the state was written."""
    path = folder / "state.db"
    before: list[Said] = []
    told = 0
    found = SystemState()
    for number in range(LIVES):
        for_s = rng.uniform(SHORTEST_S, LONGEST_S)
        said, killed_at = await nursery.life(path, folder / f"{number}.log", for_s)
        begins = said[0]
        # It begins with what the file held, and with what is still held of those that were killed.
        account, quota = found.accounts.get("held"), found.accounts.get("quota")
        assert begins["used"] == (quota.windows[0].used if quota else 0)
        holds = account.holds if account else ()
        sure = sum(hold.tokens for hold in holds if hold.until > begins["at"])
        some_time_before = sum(hold.tokens for hold in holds if hold.until > begins["at"] - LIMIT_S)
        assert sure <= begins["held"] <= some_time_before
        found = await kept(path, killed_at)
        check(before, said, found, killed_at)
        told += any("written" in entry for entry in said)
        before += old_enough(said)
    assert (await kept(path, killed_at + HOLD_S)).accounts["held"].holds == ()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return told


async def test_a_hundred_processes_killed_at_random_lose_at_most_their_last_second(nursery, tmp_path):
    rng = random.Random(6)
    folders = [tmp_path / str(number) for number in range(FILES)]
    for folder in folders:
        folder.mkdir()
    written = await asyncio.gather(
        *(lives(nursery, folder, random.Random(rng.random())) for folder in folders)
    )
    # Most lives are long enough for a write; without any nothing would have been shown.
    assert sum(written) >= FILES * LIVES // 4
    assert list(tmp_path.rglob("*damaged*")) == []
