"""Starts instances as processes of their own, tells them what to do, and stops, freezes or kills them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.instance_setup import Setup

TESTS = Path(__file__).parent.parent
START_LIMIT_S = 30.0
ANSWER_LIMIT_S = 60.0
_LONGEST_LINE = 64 * 1024 * 1024


class InstanceError(Exception):
    """An instance could not do what it was told, or died of it."""


class Instance:
    """A process that runs one instance."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.killed_at: float | None = None
        """When it was killed, in monotonic seconds."""
        self._process: Process | None = None
        self._wishes = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading: list[asyncio.Task[None]] = []
        self._said: list[str] = []

    @property
    def name(self) -> str:
        """What the other instances call it."""
        return self.setup.name

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process; :meth:`ready` waits until it runs."""
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.instance_program",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LONGEST_LINE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            },
        )
        assert process.stdin is not None
        process.stdin.write(self.setup.to_json().encode() + b"\n")
        self._reading = [asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())]

    async def ready(self) -> None:
        """Wait until it can be told something."""
        async with asyncio.timeout(START_LIMIT_S):
            await self._ready

    async def ask(self, do: str, *, limit_s: float = ANSWER_LIMIT_S, **fields: Any) -> Any:
        """Let it do something, and wait until it has.

        Raises:
            InstanceError: It could not, or died.
            TimeoutError: It took too long.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        self._wishes += 1
        number = self._wishes
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        wish = {"id": number, "do": do, **fields}
        try:
            self._process.stdin.write(json.dumps(wish).encode() + b"\n")
            async with asyncio.timeout(limit_s):
                return await waiting
        finally:
            self._waiting.pop(number, None)

    def begin(self, do: str, **fields: Any) -> asyncio.Task[Any]:
        """Let it do something; the task ends when it has."""
        return asyncio.create_task(self.ask(do, **fields))

    async def command(self, name: str, **fields: Any) -> float:
        """Give an operator's command; returns when it was given, in epoch seconds."""
        result = await self.ask("command", name=name, **fields)
        assert result["ok"], result["message"]
        at: float = result["at"]
        return at

    async def account(self, name: str) -> Any:
        """How it sees an account."""
        return (await self.ask("snapshot"))["accounts"][name]

    async def until(
        self, holds: Callable[[Any], bool], *, limit_s: float = 10.0, every_s: float = 0.02
    ) -> Any:
        """Wait until its snapshot is as wished; returns it.

        Raises:
            TimeoutError: It never was; the last snapshot is in the message.
        """
        deadline = time.monotonic() + limit_s
        while True:
            view = await self.ask("snapshot")
            if holds(view):
                return view
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} never came to it: {view}")
            await asyncio.sleep(every_s)

    async def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        self.killed_at = time.monotonic()

    def freeze(self) -> None:
        """Let it stand still."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def quit(self) -> None:
        """Let it end as it does when its operator ends it.

        Raises:
            InstanceError: It ended otherwise.
        """
        assert self._process is not None
        if self._process.returncode is None:
            with contextlib.suppress(InstanceError):
                await self.ask("quit", limit_s=START_LIMIT_S)
            async with asyncio.timeout(START_LIMIT_S):
                code = await self._process.wait()
            if code != 0:
                await asyncio.gather(*self._reading)
                raise InstanceError(f"{self.name} ended with {code}: {''.join(self._said)}")

    async def close(self) -> None:
        """Kill it if it still runs, and end all that reads from it."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            word = json.loads(line)
            if "ready" in word:
                self._ready.set_result(None)
                continue
            waiting = self._waiting.get(word["id"])
            if waiting is None or waiting.done():
                continue
            if "error" in word:
                waiting.set_exception(InstanceError(f"{self.name}: {word['error']}"))
            else:
                waiting.set_result(word["result"])
        await self._process.wait()
        await self._reading[1]
        died = InstanceError(f"{self.name} is gone: {''.join(self._said)}")
        for waiting in (self._ready, *self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(died)
                waiting.exception()  # whoever waits is told; if nobody does, that is no mistake

    async def _read_errors(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._said.append(line.decode(errors="replace"))


@asynccontextmanager
async def running(*setups: Setup) -> AsyncIterator[Sequence[Instance]]:
    """Instances that run; those that still do at the end are killed."""
    started: list[Instance] = []
    try:
        for setup in setups:
            instance = Instance(setup)
            started.append(instance)
            await instance.start()
        await asyncio.gather(*(instance.ready() for instance in started))
        yield started
    finally:
        await asyncio.gather(*(instance.close() for instance in started))


def several(setup: Setup, count: int) -> tuple[Setup, ...]:
    """The setups of so many instances that differ in nothing but their number."""
    return tuple(setup.numbered(number) for number in range(1, count + 1))
