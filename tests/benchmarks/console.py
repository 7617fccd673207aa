"""The demo console in a real terminal of 120x40: start, processor, bytes, keys, memory.

The baseline is the same program with its view paused: what the core, the simulated upstreams and
the traffic cost without drawing.

Run: python tests/benchmarks/console.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from measuring import percentile, report, wants_json
from terminal import Terminal

SETTLE_S = 8.0
MEASURE_S = 20.0
KEYS = 40


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


def run() -> list[dict[str, object]]:
    """A row a figure, with the limit that the product sets itself."""
    command = [str(Path(sys.executable).with_name("smartfallback-console")), "--demo"]
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
    return [
        {"figure": "start to first live frame, s", "measured": first_frame_s, "limit": "1.5"},
        {"figure": "demo, % of one core", "measured": demo_cpu, "limit": "15"},
        {"figure": "demo paused (baseline), % of one core", "measured": paused_cpu, "limit": "-"},
        {"figure": "demo, drawing alone, % of one core", "measured": demo_cpu - paused_cpu, "limit": "-"},
        {"figure": "demo with a chat, % of one core", "measured": chat_cpu, "limit": "30"},
        {"figure": "demo, KiB/s to the terminal", "measured": demo_rate, "limit": "20"},
        {"figure": "demo with a chat, KiB/s", "measured": chat_rate, "limit": "-"},
        {"figure": "demo paused (baseline), KiB/s", "measured": paused_rate, "limit": "-"},
        {"figure": "key to screen p50, ms", "measured": percentile(waits, 0.5) * 1e3, "limit": "50"},
        {"figure": "key to screen p95, ms", "measured": percentile(waits, 0.95) * 1e3, "limit": "50"},
        {"figure": "memory, MB", "measured": memory, "limit": "150"},
    ]


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("demo console", run(), as_json=as_json)
