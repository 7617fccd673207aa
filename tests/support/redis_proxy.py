"""A way to a server that a test can spoil: slow, silent, cut, closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

_PATIENCE_S: Final = 10.0


class TcpProxy:
    """Passes TCP connections on to ``target``, on a thread of its own. Use as a context manager.

    Args:
        target: Host and port, or the path of a Unix socket.
        tls: Speak TLS with those that connect.

    Attributes:
        port: Where it listens on 127.0.0.1.
        delay_s: By how much answers come later; may be set at any time.
        accepted: How many connections were made so far.
    """

    def __init__(self, target: tuple[str, int] | str, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self._tls = tls
        self.port = 0
        self.delay_s = 0.0
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp proxy", daemon=True)
        self._open = asyncio.Event()
        self._open.set()
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], socket.socket] = {}

    @property
    def url(self) -> str:
        """A Redis URL that leads through it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def swallow(self) -> None:
        """From now on a black hole: connections are accepted and stay, nothing passes."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def pass_on(self) -> None:
        """End the black hole; what was held comes through, as TCP would have it."""
        self._loop.call_soon_threadsafe(self._open.set)

    def cut(self) -> None:
        """Reset every connection; new ones are accepted."""
        self._run(self._end_connections())

    def refuse(self) -> None:
        """Cut all, and listen no longer."""
        self._run(self._close_listener())

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._run(self._listen())

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close_listener())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            # asyncio's own servers lose a connection that comes in while they are being closed.
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await self._end_connections()

    async def _end_connections(self) -> None:
        ending = tuple(self._connections)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the next turn

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # whoever came has gone again
        connection.setblocking(False)
        self.accepted += 1
        task = self._loop.create_task(self._serve(connection))
        self._connections[task] = connection
        # A task that is cancelled before it began cleans nothing up.
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()
        if not task.cancelled():
            task.exception()  # either side went: the other is told by the end of its connection

    async def _serve(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            await self._relay(reader, writer)
        finally:
            _reset(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.target, str):
            upstream = await asyncio.open_unix_connection(self.target)
        else:
            upstream = await asyncio.open_connection(*self.target)
        try:
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(self._carry(reader, upstream[1], late=False)),
                    group.create_task(self._carry(upstream[0], writer, late=True)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            _reset(upstream[1])

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool) -> None:
        """Carry one direction; the delay is added to each piece, not one after the other."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                if not piece:
                    return
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._open.wait()
                sink.write(piece)
                await sink.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            piece = b"-"
            while piece:
                piece = await source.read(65536)
                pieces.put_nowait((loop.time() + self.delay_s * late, piece))


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            # Zero linger makes the close a reset, as a machine that goes away does.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
