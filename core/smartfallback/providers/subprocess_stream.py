"""A command whose output is read while it runs, and of which nothing remains afterwards.

The command gets a session and process group of its own, so that it can be ended together with all
that it started. No shell is involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

_BUFFER_BYTES: Final = 256 * 1024
"""Output that waits for its reader before the command has to wait too."""

_ERRORS_KEPT: Final = 8 * 1024
"""Bytes of standard error that are kept from its beginning, and as many from its end."""

_LEFTOVER_S: Final = 0.5
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

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: _Pipes, silence_limit_s: float) -> None:
        self._transport = transport
        self._pipes = pipes
        self._silence_limit_s = silence_limit_s
        self._buried = False

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        stdin: bytes | None,
        silence_limit_s: float,
        keep_input_open: bool = False,
    ) -> CommandStream:
        """Start a command.

        Args:
            argv: The program's absolute path and its arguments.
            folder: The working directory.
            env: The whole environment; nothing is inherited.
            stdin: What the command reads; None gives it an empty input.
            silence_limit_s: The longest wait for the next output.
            keep_input_open: Leave the input open after ``stdin``, for :meth:`write`.

        Raises:
            OSError: The command can't be started.
            ValueError: An argument holds a NUL.
        """
        # Not create_subprocess_exec: its wait() lasts, in some releases, until all pipes are closed,
        # and a child that is left behind may never close them.
        transport, pipes = await asyncio.get_running_loop().subprocess_exec(
            _Pipes,
            *argv,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stream = cls(transport, pipes, silence_limit_s)
        if stdin is not None:
            # The bytes are in memory already, so the transport may hold them until the pipe takes them.
            entry = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
            entry.write(stdin)
            if not keep_input_open:
                entry.close()
        return stream

    def write(self, data: bytes) -> None:
        """Give the command more to read; it was started with its input kept open.

        Raises:
            BrokenPipeError: It reads no more.
        """
        entry = cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(0))
        if entry is None or entry.is_closing() or self._pipes.exited.is_set():
            raise BrokenPipeError("the command reads no more")
        entry.write(data)

    @property
    def pid(self) -> int:
        """The command's process id, which is also that of its group."""
        return self._pipes.pid

    @property
    def errors(self) -> str:
        """What the command has written to standard error; of a long text, its beginning and end."""
        return (self._pipes.errors_head + self._pipes.errors_tail).decode("utf-8", "replace")

    async def read(self) -> bytes:
        """The next piece of output, empty at its end.

        Raises:
            SilenceError: Nothing came for ``silence_limit_s``.
        """
        pipes = self._pipes
        if self._buried:
            return b""
        limit_s = _LEFTOVER_S if pipes.exited.is_set() else self._silence_limit_s
        try:
            async with asyncio.timeout(limit_s) as pipes.reading:
                await pipes.some.wait()
        except TimeoutError:
            if pipes.exited.is_set():
                return b""
            raise SilenceError from None
        finally:
            pipes.reading = None
        return pipes.take()

    async def exit_code(self) -> int | None:
        """How the command ended (below 0: minus the signal), all of ``errors`` read.

        None if it does not end although its output has.
        """
        pipes = self._pipes
        if not await _within(_REAP_S if self._buried else _LEFTOVER_S, pipes.exited):
            return None
        await _within(_LEFTOVER_S, pipes.errors_ended)
        return self._transport.get_returncode()

    def ask_to_end(self) -> None:
        """Tell the command and its children to end; :meth:`bury` must follow."""
        if not self._pipes.exited.is_set():
            self._pipes.send(signal.SIGTERM)

    async def bury(self, grace_s: float) -> None:
        """End the command and its children: asked first, killed after ``grace_s``.

        A reader gets no more output from then on. Safe to call twice, and while another reads.
        """
        self._buried = True
        self.ask_to_end()
        if not await _within(grace_s, self._pipes.exited):
            self._pipes.kill()
            await _within(_REAP_S, self._pipes.exited)
        # The pipes go now, even if an escaped process holds their other ends.
        self._transport.close()


class _Pipes(asyncio.SubprocessProtocol):
    """Takes what the command writes, as far as there is room, and notices its end."""

    def __init__(self) -> None:
        self.pid = 0
        self.some = asyncio.Event()
        """Output is there, or there will be none any more."""
        self.exited = asyncio.Event()
        self.errors_ended = asyncio.Event()
        self.reading: asyncio.Timeout | None = None
        """The limit of the wait for output that is going on."""
        self.errors_head = b""
        self.errors_tail = b""
        self._output = bytearray()
        self._output_ended = False
        self._source: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        command = cast(asyncio.SubprocessTransport, transport)
        self.pid = command.get_pid()
        self._source = cast(asyncio.ReadTransport, command.get_pipe_transport(1))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._output += data
            self.some.set()
            if len(self._output) > _BUFFER_BYTES and self._source is not None:
                self._source.pause_reading()
            return
        room = _ERRORS_KEPT - len(self.errors_head)
        self.errors_head += data[:room]
        self.errors_tail = (self.errors_tail + data[room:])[-_ERRORS_KEPT:]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        if fd == 1:
            self._output_ended = True
            self._source = None
            self.some.set()
        elif fd == 2:
            self.errors_ended.set()

    def process_exited(self) -> None:
        self.exited.set()
        # The group's number stays taken while a child lives, and nobody gets it anew within this instant.
        self.kill()
        if self.reading is not None and not self.reading.expired():
            self.reading.reschedule(asyncio.get_running_loop().time() + _LEFTOVER_S)

    def take(self) -> bytes:
        """All output that is there; makes room for more."""
        data = bytes(self._output)
        self._output.clear()
        if not self._output_ended:
            self.some.clear()
            if self._source is not None:
                self._source.resume_reading()
        return data

    def kill(self) -> None:
        """End the group at once."""
        self.send(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; nothing happens if it is gone."""
        # macOS answers "not permitted" for a group of which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)


async def _within(limit_s: float, event: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
    return event.is_set()
