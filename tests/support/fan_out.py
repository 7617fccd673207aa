"""How soon a fact that is written in one process is yielded in another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from smartfallback.clock import SystemClock
from smartfallback.model.sharing import Fact, FactWrite
from smartfallback.state.redis_store.store import RedisSharedStore

_TESTS: Final = str(Path(__file__).parents[1])
_READER: Final = """
import asyncio, sys, time
sys.path.insert(0, sys.argv[1])
from smartfallback.clock import SystemClock
from smartfallback.state.redis_store.store import RedisSharedStore

async def main(url, count):
    store = RedisSharedStore(url, clock=SystemClock())
    await store.start()
    try:
        async for change in store.changes():
            print(change.subject, time.monotonic(), flush=True)
            count -= bool(change.subject)
            if not count:
                break
    finally:
        await store.aclose()

asyncio.run(main(sys.argv[2], int(sys.argv[3])))
"""


async def fan_out_times(url: str, *, count: int = 200, every_s: float = 0.005) -> list[float]:
    """Write ``count`` facts one after the other; a second process follows the changes.

    Args:
        url: A Redis server's.
        count: How many facts, each of another account.
        every_s: How long to wait between two, so that they are not read together.

    Returns:
        Seconds from before the write to after the yield, sorted; both by the machine's monotonic
        clock. All ``count`` of them: a hint that never comes is waited for, without end.
    """
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _READER, _TESTS, url, str(count), stdout=subprocess.PIPE
    )
    store = RedisSharedStore(url, clock=SystemClock())
    await store.start()
    try:
        if reader.stdout is None:
            raise RuntimeError("the reader has no output")
        await reader.stdout.readline()  # it follows from now on
        written: dict[str, float] = {}
        for number in range(count):
            subject = f"account:fan-out-{number}"
            fact = Fact(json.dumps({"state": "drained"}), time.time() + store.offset_s, "writer")
            written[subject] = time.monotonic()
            await store.write_facts([FactWrite(subject, "admin", fact)])
            await asyncio.sleep(every_s)
        lines = (await reader.stdout.read()).decode().split("\n")[:-1]
        seen = dict(line.split(" ") for line in lines)
        return sorted(float(seen[subject]) - at for subject, at in written.items())
    finally:
        with contextlib.suppress(ProcessLookupError):
            reader.kill()
        await reader.wait()
        await store.aclose()
