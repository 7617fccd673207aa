"""A command whose output is read while it runs, and of which nothing remains afterwards.

The command gets a session and process group of its own, so that it can be ended together with all
that it started. No shell is involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 64 * 1024
_ERRORS_KEPT: Final = 8 * 1024
"""Bytes of standard error that are kept from its beginning, and as many from its end."""

_LEFTOVER_S: Final = 1.0
"""How long output may still come once the command has ended: it lies in the pipe already."""

_REAP_S: Final = 5.0
"""How long a killed process may take to disappear; more means that the kernel holds it."""


class SilenceError(Exception):
    """The command is still there and has written nothing for too long."""


class CommandStream:
    """One running command, from its start to its burial. Make it with :meth:`start`.

    As soon as the command itself has ended, whatever it left running is killed: such a process
    would live on unseen, and could hold the output open for ever.
    """

    def __init__(self, process: asyncio.subprocess.Process, silence_limit_s: float) -> None:
        if process.stdout is None or process.stderr is None:
            raise ValueError("the process needs pipes for output and errors")
        self._process = process
        self._stdout = process.stdout
        self._silence_limit_s = silence_limit_s
        self._errors_head = b""
        self._errors_tail = b""
        self._reading: asyncio.Timeout | None = None
        self._buried = False
        self._errors = asyncio.create_task(self._collect_errors(process.stderr))
        self._exit = asyncio.create_task(self._wait_for_exit())

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        stdin: bytes | None,
        silence_limit_s: float,
    ) -> CommandStream:
        """Start a command.

        Args:
            argv: The program's absolute path and its arguments.
            folder: The working directory.
            env: The whole environment; nothing is inherited.
            stdin: What the command reads; None gives it an empty input.
            silence_limit_s: The longest wait for the next output.

        Raises:
            OSError: The command can't be started.
            ValueError: An argument holds a NUL.
        """
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=env,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=PIECE_BYTES,
            start_new_session=True,
        )
        stream = cls(process, silence_limit_s)
        if stdin is not None and process.stdin is not None:
            # The bytes are in memory already, so the transport may hold them until the pipe takes them.
            process.stdin.write(stdin)
            process.stdin.close()
        return stream

    @property
    def pid(self) -> int:
        """The command's process id, which is also that of its group."""
        return self._process.pid

    @property
    def errors(self) -> str:
        """What the command has written to standard error; of a long text, its beginning and end."""
        return (self._errors_head + self._errors_tail).decode("utf-8", "replace")

    async def read(self) -> bytes:
        """The next piece of output, empty at its end.

        Raises:
            SilenceError: Nothing came for ``silence_limit_s``.
        """
        if self._buried:
            return b""
        try:
            async with asyncio.timeout(_LEFTOVER_S if self._exit.done() else self._silence_limit_s) as limit:
                self._reading = limit
                return await self._stdout.read(PIECE_BYTES)
        except TimeoutError:
            if self._exit.done():
                return b""
            raise SilenceError from None
        finally:
            self._reading = None

    async def exit_code(self) -> int | None:
        """How the command ended (below 0: minus the signal), all of ``errors`` read.

        None if it does not end although its output has.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEFTOVER_S):
                await asyncio.shield(self._exit)
        if not self._exit.done():
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEFTOVER_S):
                await asyncio.shield(self._errors)
        return self._process.returncode

    def ask_to_end(self) -> None:
        """Tell the command and its children to end; :meth:`bury` must follow."""
        if not self._exit.done():
            self._signal(signal.SIGTERM)

    async def bury(self, grace_s: float) -> None:
        """End the command and its children: asked first, killed after ``grace_s``.

        A reader gets no more output from then on. Safe to call twice, and while another reads.
        """
        self._buried = True
        self.ask_to_end()
        await asyncio.wait({self._exit}, timeout=grace_s)
        if not self._exit.done():
            self._kill()
            await asyncio.wait({self._exit}, timeout=_REAP_S)
        # The pipes go now, even if an escaped process holds their other ends; asyncio has no public way to.
        self._process._transport.close()  # type: ignore[attr-defined]
        self._errors.cancel()
        await asyncio.wait({self._errors}, timeout=_LEFTOVER_S)

    async def _wait_for_exit(self) -> None:
        await self._process.wait()
        # The group's number stays taken while a child lives, and nobody gets it anew within this instant.
        self._kill()
        if self._reading is not None:
            self._reading.reschedule(asyncio.get_running_loop().time() + _LEFTOVER_S)

    async def _collect_errors(self, stderr: asyncio.StreamReader) -> None:
        while data := await stderr.read(_ERRORS_KEPT):
            room = _ERRORS_KEPT - len(self._errors_head)
            self._errors_head += data[:room]
            self._errors_tail = (self._errors_tail + data[room:])[-_ERRORS_KEPT:]

    def _kill(self) -> None:
        self._signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # macOS answers "not permitted" for a group of which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._process.terminate()
            else:
                os.killpg(self._process.pid, number)
