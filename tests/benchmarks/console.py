"""The console in a real terminal of 120x40: start, processor, bytes, keys, memory.

The baseline of the demo is the same program with its view paused: what the core, the simulated
upstreams and the traffic cost without drawing. Idle is a console with one configured account and no
traffic. Key to action is taken inside the program, from the key's event to the end of its action.

Run: python tests/benchmarks/console.py
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from measuring import percentile, report, wants_json
from terminal import Terminal

SETTLE_S = 8.0
MEASURE_S = 20.0
KEYS = 40
ACTIONS = 150


def environment(home: str) -> dict[str, str]:
    """A clean home, so that no configuration of the user's is read."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": home,
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "LANG": "C.UTF-8",
    }


def share(terminal: Terminal, seconds: float) -> tuple[float, float]:
    """Percent of one core, and KiB a second to the terminal, over ``seconds``."""
    before = terminal.cpu_s()
    written = terminal.read(seconds)
    return (terminal.cpu_s() - before) / seconds * 100, len(written) / seconds / 1024


def idle_config(folder: str) -> Path:
    """A configuration of one account, at a port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = Path(folder) / "idle.toml"
    path.write_text(f"""
[pools.only]
provider = "openai"
model = "none"
base_url = "http://127.0.0.1:{port}/v1"
[[pools.only.accounts]]
id = "only-1"
api_key = {{ env = "IDLE_KEY" }}
[chains.default]
pools = ["only"]
""")
    return path


async def keys_to_actions() -> list[float]:
    """Seconds from the event of an arrow key to the end of its action, with the demo's traffic."""
    os.environ.setdefault("TEXTUAL_FPS", "30")  # as the program sets it
    from textual.events import Key

    from smartfallback import demo
    from smartfallback_console.app import ConsoleApp
    from smartfallback_console.bridge import CoreThread
    from smartfallback_console.widgets.accounts import AccountsTable

    core = CoreThread(demo)
    core.start()
    app = ConsoleApp(core)
    ended = asyncio.Event()
    move = AccountsTable.action_move

    def noted(table: AccountsTable, step: int) -> None:
        move(table, step)
        ended.set()

    waits = []
    spread = random.Random(7)
    try:
        with mock.patch.object(AccountsTable, "action_move", noted):
            async with app.run_test(size=(120, 40)):
                await asyncio.sleep(SETTLE_S)
                for index in range(ACTIONS):
                    await asyncio.sleep(spread.uniform(0.02, 0.12))
                    ended.clear()
                    begun = time.perf_counter()
                    app.post_message(Key("down" if index % 2 else "up", None))
                    await asyncio.wait_for(ended.wait(), 5.0)
                    waits.append(time.perf_counter() - begun)
    finally:
        core.stop()
    return waits


def run() -> list[dict[str, object]]:
    """A row a figure, with the limit that the product sets itself."""
    program = str(Path(sys.executable).with_name("smartfallback-console"))
    command = [program, "--demo"]
    with tempfile.TemporaryDirectory() as home:
        # The first start compiles and writes the demo model; users see it once.
        with Terminal(command, 120, 40, environment(home)) as warm_up:
            warm_up.wait_for(b"req/s", 60)
        with Terminal(command, 120, 40, environment(home)) as terminal:
            first_frame_s = terminal.wait_for(b"req/s", 60)
            terminal.read(SETTLE_S)
            demo_cpu, demo_rate = share(terminal, MEASURE_S)
            memory = terminal.memory_mb()
            terminal.send(b"i")
            terminal.read(0.5)
            terminal.send(b"Explain circuit breakers, quotas and fallback chains in detail.\r")
            chat_cpu, chat_rate = share(terminal, 5.0)
            terminal.send(b"\x1b")
            terminal.read(1.0)
            terminal.send(b"\x1b")
            terminal.read(1.0)
            terminal.send(b"p")
            terminal.read(2.0)
            paused_cpu, paused_rate = share(terminal, MEASURE_S)
            waits = [terminal.key_to_screen(key) for _ in range(KEYS // 2) for key in (b"\x1b[B", b"\x1b[A")]
        configured = [program, "--config", str(idle_config(home))]
        with Terminal(configured, 120, 40, {**environment(home), "IDLE_KEY": "none"}) as terminal:
            terminal.wait_for(b"req/s", 60)
            terminal.read(SETTLE_S)
            idle_cpu, idle_rate = share(terminal, MEASURE_S)
    actions = asyncio.run(keys_to_actions())
    return [
        {"figure": "start to first live frame, s", "measured": first_frame_s, "limit": "1.5"},
        {"figure": "demo, % of one core", "measured": demo_cpu, "limit": "15"},
        {"figure": "demo paused (baseline), % of one core", "measured": paused_cpu, "limit": "-"},
        {"figure": "demo, drawing alone, % of one core", "measured": demo_cpu - paused_cpu, "limit": "-"},
        {"figure": "demo with a chat, % of one core", "measured": chat_cpu, "limit": "30"},
        {"figure": "demo, KiB/s to the terminal", "measured": demo_rate, "limit": "20"},
        {"figure": "demo with a chat, KiB/s", "measured": chat_rate, "limit": "-"},
        {"figure": "demo paused (baseline), KiB/s", "measured": paused_rate, "limit": "-"},
        {"figure": "idle (no traffic), % of one core", "measured": idle_cpu, "limit": "3"},
        {"figure": "idle, KiB/s to the terminal", "measured": idle_rate, "limit": "-"},
        {"figure": "key to action p95, ms", "measured": percentile(actions, 0.95) * 1e3, "limit": "10"},
        {"figure": "key to screen p50, ms", "measured": percentile(waits, 0.5) * 1e3, "limit": "50"},
        {"figure": "key to screen p95, ms", "measured": percentile(waits, 0.95) * 1e3, "limit": "50"},
        {"figure": "memory, MB", "measured": memory, "limit": "150"},
    ]


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("demo console", run(), as_json=as_json)
