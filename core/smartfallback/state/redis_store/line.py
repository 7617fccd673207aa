"""One connection that many callers share, each command answered in its turn.

redis-py's client takes a connection out of a pool for each command: a hundred callers at once open a
hundred connections or queue for a few, and one that gives up midway costs its connection. Redis answers
strictly in order, so one connection carries them all: commands are written as they come, replies are
dealt out in that order, and the reply to a caller who has gone is read and dropped. What is used of
redis-py is its ``Connection``: the handshake, TLS, the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from smartfallback.state.redis_store.trouble import Trouble, describe

Part: TypeAlias = str | bytes | int | float
Command: TypeAlias = Sequence[Part]

_DIRECT_BYTES: Final = 16 * 1024
"""What a transport takes at once, whatever the network does: it pauses above 64 KiB."""
_HELD_UP: Final = 0.2
"""A loop that is late by more of a limit was held up itself, and takes that much longer to look."""
_MOST_TURNS: Final = 4
_MOST_WAITING: Final = 4096
"""A backstop: a server that answers nothing is found out long before."""


class LineError(Exception):
    """A command was not answered."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.words)
        self.trouble = trouble


class OverdueError(Exception):
    """It was not answered in time; what was asked may still happen."""


class _Batch:
    """Commands that were sent together and the caller that waits for their replies."""

    __slots__ = ("answered", "count", "replies", "sent_at", "urgent")

    def __init__(self, count: int, answered: asyncio.Future[Exception | None], *, urgent: bool) -> None:
        self.count = count
        self.answered = answered
        self.urgent = urgent
        self.replies: list[Any] = []
        self.sent_at: float | None = None

    def end(self, error: Exception | None = None) -> None:
        if not self.answered.done():
            # An exception that nobody fetches any more would be reported as lost, so it is a result.
            self.answered.set_result(error)


class _Timer:
    """Calls ``then`` unless the server answers within ``limit_s`` of when it was asked.

    What a busy loop takes is not the server's: a command counts from when it was written, and a loop
    that comes late to the timer first reads what has come meanwhile.
    """

    __slots__ = ("_batch", "_due", "_handle", "_limit_s", "_loop", "_then", "_turns")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, batch: _Batch, limit_s: float, then: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._batch = batch
        self._limit_s = limit_s
        self._then = then
        self._turns = _MOST_TURNS
        self._due = 0.0
        self._handle: asyncio.Handle
        self._set(limit_s)

    def cancel(self) -> None:
        self._handle.cancel()

    def _set(self, after_s: float) -> None:
        self._due = self._loop.time() + after_s
        self._handle = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        # The timer and the reply may be due in one turn of the loop: the reply goes first.
        self._handle = self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        batch, now = self._batch, self._loop.time()
        if batch.answered.done():
            return
        self._turns -= 1
        waited = 0.0 if batch.sent_at is None else now - batch.sent_at
        if self._turns and waited < self._limit_s:
            self._set(self._limit_s - waited)
        elif self._turns and now - self._due > self._limit_s * _HELD_UP:
            self._set(self._limit_s * _HELD_UP)
        else:
            self._then()


class Line:
    """An open connection with a task that reads it and one that writes what can't be written at once.

    Args:
        connection: A connected one; the line closes it.
        on_end: Called once when it breaks, with the reason; not when it is closed.

    Attributes:
        heard_at: When the last reply came, in the loop's time.
    """

    def __init__(self, connection: AbstractConnection, on_end: Callable[[Line, Trouble], None]) -> None:
        self._connection = connection
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._waiting: deque[_Batch] = deque()
        self._unsent: deque[tuple[_Batch, bytes]] = deque()
        self._more = asyncio.Event()
        self._ended: Trouble | None = None
        self._tasks = (
            self._loop.create_task(self._read(), name="redis line: reading"),
            self._loop.create_task(self._write(), name="redis line: writing"),
        )

    @property
    def waiting(self) -> int:
        """How many callers' replies are still to come, those of callers who have gone too."""
        return len(self._waiting)

    async def ask(
        self,
        commands: Sequence[Command],
        *,
        limit_s: float,
        urgent: bool = False,
        late_s: float = 0.0,
        on_late: Callable[[], None] | None = None,
    ) -> list[Any]:
        """Send commands and return their replies in order; one that is an error is returned as such.

        Args:
            commands: One or more.
            limit_s: How long to wait for the last reply.
            urgent: :meth:`drop_urgent` ends the wait.
            late_s: After how long to call ``on_late``, unless answered by then.
            on_late: Called once at most.

        Raises:
            OverdueError: Not answered in time.
            LineError: The connection broke.
        """
        if self._ended is not None:
            raise LineError(self._ended)
        if len(self._waiting) >= _MOST_WAITING:
            raise OverdueError
        batch = _Batch(len(commands), self._loop.create_future(), urgent=urgent)
        packed = self._pack(commands)
        timers = [_Timer(self._loop, batch, limit_s, lambda: batch.end(OverdueError()))]
        if on_late is not None:
            timers.append(_Timer(self._loop, batch, late_s, on_late))
        at_once = not self._waiting and not self._unsent and sum(map(len, packed)) <= _DIRECT_BYTES
        self._waiting.append(batch)
        try:
            if at_once:
                batch.sent_at = self._loop.time()
                try:
                    await self._connection.send_packed_command(packed, check_health=False)
                except (RedisError, OSError) as error:
                    self._end(describe(error))
            else:
                self._unsent.extend((batch, piece) for piece in packed)
                self._more.set()
            failure = await batch.answered
        finally:
            for timer in timers:
                timer.cancel()
        if failure is not None:
            raise failure
        return batch.replies

    def drop_urgent(self) -> None:
        """End the wait of all urgent callers; their replies are still read in their turn."""
        for batch in self._waiting:
            if batch.urgent:
                batch.end(OverdueError())

    def abort(self, trouble: Trouble) -> None:
        """Reset the connection; those that wait are told why. :meth:`aclose` is still due."""
        self._finish(trouble)

    async def aclose(self) -> None:
        """Close the connection; those that wait are told so. Safe to call twice."""
        self._finish(Trouble("the connection was closed here"))
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect()

    def _pack(self, commands: Sequence[Command]) -> list[bytes]:
        pack = self._connection.pack_command
        if len(commands) == 1:
            return pack(*commands[0])
        return self._connection.pack_commands(commands)

    async def _read(self) -> None:
        try:
            while True:
                try:
                    reply = await self._connection.read_response()
                except ResponseError as error:
                    reply = error
                self.heard_at = self._loop.time()
                if not self._waiting:
                    self._end(Trouble("it spoke without being asked: no Redis server, or not a sound one"))
                    return
                batch = self._waiting[0]
                batch.replies.append(reply)
                if len(batch.replies) == batch.count:
                    self._waiting.popleft()
                    batch.end()
                    if batch.count > 1:
                        await asyncio.sleep(0)  # the parser itself never yields while there is data
        except Exception as error:  # a foreign protocol can make the parser fail in any way
            self._end(describe(error))

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._unsent:
                pieces: list[bytes] = []
                size, now = 0, self._loop.time()
                while self._unsent and size < _DIRECT_BYTES:
                    batch, piece = self._unsent.popleft()
                    batch.sent_at = now
                    pieces.append(piece)
                    size += len(piece)
                try:
                    await self._connection.send_packed_command(pieces, check_health=False)
                except (RedisError, OSError) as error:
                    self._end(describe(error))
                    return

    def _end(self, trouble: Trouble) -> None:
        if self._finish(trouble):
            self._on_end(self, trouble)

    def _finish(self, trouble: Trouble) -> bool:
        if self._ended is not None:
            return False
        self._ended = trouble
        self._unsent.clear()
        while self._waiting:
            self._waiting.popleft().end(LineError(trouble))
        # Closing politely would wait for a silent peer to take what was written: reset instead.
        writer = self._connection._writer
        if writer is not None:
            writer.transport.abort()
        return True
