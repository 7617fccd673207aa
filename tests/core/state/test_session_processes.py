"""Chat sessions of real processes: killed in the middle of an answer, and side by side in one session."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from smartfallback import SqliteStateStore, TurnState

PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from smartfallback import ChatSessions, ChatTurn, SqliteStateStore, TurnState

async def main(path, prefix, turns):
    store = SqliteStateStore(path)
    sessions = ChatSessions(store)
    for number in range(turns):
        asked = f"{prefix} {number}"
        turn = ChatTurn(asked, "shared", time.time(), asked, "yes", TurnState.ANSWERED)
        while not await store.keep_turns([turn], ()):  # the other process held the file for long
            await asyncio.sleep(0.1)
    sessions.save_turn(ChatTurn(f"{prefix}-last", "shared", time.time(), f"{prefix} last"))
    while not any(s.turns > turns for s in await sessions.list()):
        await asyncio.sleep(0.01)
    print("kept", flush=True)
    if prefix == "killed":
        await asyncio.Event().wait()
    await sessions.aclose()
    await store.aclose()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


def start(path: Path, prefix: str, turns: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), prefix, str(turns)], stdout=subprocess.PIPE, text=True
    )


async def test_a_killed_process_leaves_its_answer_as_broken_off_at_once(tmp_path):
    path = tmp_path / "state.db"
    with start(path, "killed", 1) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "kept\n"
        store = SqliteStateStore(path)
        living = await store.load_session("shared")
        assert living is not None
        assert [turn.state for turn in living.turns] == [TurnState.ANSWERED, TurnState.RUNNING]
        os.kill(process.pid, signal.SIGKILL)
    left = await store.load_session("shared")
    assert left is not None
    assert [turn.state for turn in left.turns] == [TurnState.ANSWERED, TurnState.BROKEN_OFF]
    await store.aclose()
    assert store.take_notices() == ()


async def test_two_processes_in_one_session_lose_no_turn(tmp_path):
    path = tmp_path / "state.db"
    processes = [start(path, prefix, 40) for prefix in ("a", "b")]
    ended = [await asyncio.to_thread(process.communicate) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [out for out, _ in ended] == ["kept\n", "kept\n"]
    store = SqliteStateStore(path)
    kept = await store.load_session("shared")
    assert kept is not None
    prompts = {turn.prompt for turn in kept.turns}
    assert prompts == {f"{prefix} {number}" for prefix in "ab" for number in [*range(40), "last"]}
    assert [turn.asked_at for turn in kept.turns] == sorted(turn.asked_at for turn in kept.turns)
    await store.aclose()
