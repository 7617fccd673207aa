"""The parent's handle on the child process that runs a GGUF model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import asdict
from typing import Final

from smartfallback.providers.local_protocol import Order, Report, Settings, decode_report, encode

_WORKER: Final = "smartfallback.providers.local_worker"
_LINE_LIMIT: Final = 256 * 1024
"""Bytes of output that are buffered before the child has to wait for a slow reader."""

_STDERR_KEPT: Final = 4096
_REAP_S: Final = 5.0
"""How long a killed process may take to disappear; more means that the kernel holds it."""


class ProcessDiedError(Exception):
    """The child is gone, or speaks no sense; the message says how it ended."""


class ModelProcess:
    """One child process, from its start to its burial. Make it with :meth:`start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("the process needs pipes for input, output and errors")
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._stderr_tail = b""
        self._stderr_reader = asyncio.create_task(self._drain_stderr(process.stderr))

    @classmethod
    async def start(cls, settings: Settings) -> ModelProcess:
        """Start a child that will load the model; its first report says whether it could.

        Raises:
            OSError: The process can't be created.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # The working directory stays off the import path: a json.py lying there must not be run.
            "-P",
            "-m",
            _WORKER,
            json.dumps(asdict(settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            # Signals of the terminal reach the parent alone, which then ends the child in good order.
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the child has ended."""
        return self._process.returncode is None

    def post(self, order: Order) -> None:
        """Send an order without waiting; a child that is gone is noticed when its report is awaited."""
        if not self._stdin.is_closing():
            self._stdin.write(encode(order))

    async def receive(self) -> Report:
        """Wait for the child's next report.

        Raises:
            ProcessDiedError: There will be none.
        """
        try:
            line = await self._stdout.readline()
        except ValueError as error:
            raise ProcessDiedError("sent a line longer than the protocol allows") from error
        if not line.endswith(b"\n"):
            raise ProcessDiedError(await self.how_it_ended())
        try:
            return decode_report(line)
        except ValueError as error:
            raise ProcessDiedError(str(error)) from error

    async def how_it_ended(self) -> str:
        """How a child that is gone ended, in words, with the last line of its standard error."""
        try:
            async with asyncio.timeout(_REAP_S):
                code = await self._process.wait()
                await asyncio.shield(self._stderr_reader)
        except TimeoutError:
            return "closed its output without ending"
        ending = f"ended with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                ending = f"was killed by {signal.Signals(-code).name}"
        lines = self._stderr_tail.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{ending}: {last}" if last else ending

    async def end(self, grace_s: float) -> None:
        """Let the child end by itself for ``grace_s``, then kill it. Nothing of it remains."""
        self._stdin.close()
        try:
            if grace_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self._process.wait()
        finally:
            if self.alive:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(_REAP_S):
                    await self._process.wait()
                    # A pipe is released only once all of it has been read.
                    while await self._stdout.read(_LINE_LIMIT):
                        pass
                    await self._stderr_reader
                    await self._stdin.wait_closed()
            self._stderr_reader.cancel()

    async def _drain_stderr(self, stderr: asyncio.StreamReader) -> None:
        while data := await stderr.read(_STDERR_KEPT):
            self._stderr_tail = (self._stderr_tail + data)[-_STDERR_KEPT:]
