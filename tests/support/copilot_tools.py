"""Programs that stand where Copilot's command-line tool is looked for, and do what a test writes down."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from smartfallback.clock import Clock
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.copilot import CopilotProvider
from support.clock import FakeClock
from support.http_servers import Outcome, call_to, collect

KEY = "github_pat_11TESTKEY0123456789abcdefgh"

_PRELUDE = """\
import json, os, signal, sys, time
def say(text):
    sys.stdout.buffer.write(text if isinstance(text, bytes) else text.encode())
    sys.stdout.flush()
def until(condition):
    while not condition():
        time.sleep(0.005)
def prompt():
    args = sys.argv[1:]
    return os.fsencode(args[args.index("-p") + 1]) if "-p" in args else sys.stdin.buffer.read()
"""


def write_tool(folder: Path, body: str, name: str = "copilot") -> Path:
    """An executable whose Python ``body`` has ``say``, ``until`` and ``prompt`` to use."""
    path = folder / name
    path.write_text(f"#!{sys.executable} -IS\n{_PRELUDE}{body}\n")
    path.chmod(0o700)
    return path


def complaining(stderr: str = "", stdout: str = "", code: int = 1) -> str:
    """The body of a tool that ends badly."""
    return f"say({stdout!r})\nsys.stderr.write({stderr!r})\nsys.exit({code})"


def copilot_pool(
    *command: str | Path, key: str | None = KEY, model: str = "m-1", **settings: Any
) -> PoolSpec:
    """A pool with one account, ``cp-1``, that runs ``command``."""
    account = AccountSpec("cp-1", api_key=Secret(key) if key is not None else None)
    fields: dict[str, Any] = {"accounts": (account,), "command": tuple(map(str, command))} | settings
    return PoolSpec("copilot", ProviderKind.COPILOT, "copilot", model=model, **fields)


@asynccontextmanager
async def copilot(
    pool: PoolSpec, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[CopilotProvider]:
    """The pool's adapter, closed at the end."""
    provider = CopilotProvider(pool, clock or FakeClock(), **settings)
    try:
        yield provider
    finally:
        await provider.aclose()


async def ask_tool(folder: Path, body: str, text: str = "hi", **call: Any) -> Outcome:
    """One call to a tool with this body."""
    pool = copilot_pool(write_tool(folder, body), key=call.pop("key", KEY), model=call.pop("model", "m-1"))
    async with copilot(pool) as provider:
        return await collect(provider.stream(call_to(pool, text, **call)))


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits for a parent to take note of its end does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return sys.platform != "linux"


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds, which must not take long."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.005)
