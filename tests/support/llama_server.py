"""llama-cpp-python's own OpenAI-compatible server as a process, for tests against a real one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_READY: Final = re.compile(rb"running on (http://127\.0\.0\.1:\d+)")
_READY_LIMIT_S: Final = 60.0
_END_LIMIT_S: Final = 5.0


class LlamaServer:
    """A running server. ``base_url`` includes the version path, as OpenAI clients want it."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.base_url = f"{address}/v1"

    @property
    def pid(self) -> int:
        return self._process.pid

    async def kill(self) -> None:
        """End it as a crash does, and wait until its connections are gone."""
        self._signal(signal.SIGKILL)
        async with asyncio.timeout(_END_LIMIT_S):
            await self._process.wait()

    def freeze(self) -> None:
        """Let it answer nothing while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


@asynccontextmanager
async def llama_server(
    model: Path, *, context_tokens: int = 2048, interrupts: bool = True
) -> AsyncIterator[LlamaServer]:
    """Serve ``model`` on a free port of the loopback interface; ready when entered, gone when left.

    By its default a new request ends the one that runs, without a word; else it waits.

    Raises:
        RuntimeError: It did not get ready; the message has the end of its output.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "llama_cpp.server", "--model", str(model), "--n_ctx", str(context_tokens)),
        *("--n_threads", "1", "--n_batch", "64", "--host", "127.0.0.1", "--port", "0"),
        *("--interrupt_requests", str(interrupts)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1"},
    )
    output = process.stdout
    if output is None:
        raise RuntimeError("the server has no output to read its port from")
    reader: asyncio.Task[None] | None = None
    try:
        server = LlamaServer(process, await _address(output))
        reader = asyncio.create_task(_drain(output))
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(_END_LIMIT_S):
            await process.wait()
            await (reader or _drain(output))


async def _address(output: asyncio.StreamReader) -> str:
    """The server chooses its port itself and says so once it listens: nobody can take it in between."""
    said = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READY_LIMIT_S):
            while line := await output.readline():
                said += line
                if found := _READY.search(line):
                    return found[1].decode()
    raise RuntimeError(f"the server did not get ready: {said[-1000:].decode(errors='replace')}")


async def _drain(output: asyncio.StreamReader) -> None:
    while await output.read(65_536):
        pass
