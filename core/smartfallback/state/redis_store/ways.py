"""The connections to the servers: opened, aborted, and closed for good."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from smartfallback.state.redis_store.address import Address, Server
from smartfallback.state.redis_store.line import Command, Line
from smartfallback.state.redis_store.trouble import Trouble

_CONNECT_LIMIT_S: Final = 1.0
_Result = TypeVar("_Result")


class Way:
    """The two lines to one server: what requests wait for never stands behind a long report."""

    def __init__(self, requests: Line, background: Line) -> None:
        self.requests = requests
        self.background = background

    @property
    def lines(self) -> tuple[Line, Line]:
        """Both."""
        return self.requests, self.background


class Ways:
    """All connections of a link.

    Args:
        address: How to get in.
        on_end: Called when a line in use breaks, with its server and the reason.
    """

    def __init__(self, address: Address, on_end: Callable[[Server, Trouble], None]) -> None:
        self._address = address
        self._on_end = on_end
        self._open: dict[Server, Way] = {}
        self._dying: list[Line] = []
        self._apart: set[ConnectionPool] = set()
        self._lookups: dict[str, asyncio.Task[Any]] = {}

    def get(self, server: Server) -> Way | None:
        """The way to ``server``, None where there is none now."""
        return self._open.get(server)

    def drop_urgent(self) -> None:
        """End the wait of everyone who waits on a request's way."""
        for way in self._open.values():
            way.requests.drop_urgent()

    async def open(self, server: Server, setup: list[Command]) -> tuple[Way, list[Any]]:
        """Open the way to ``server``; returns the replies to ``setup`` too.

        Raises:
            LineError: It broke at once.
            OverdueError: No answer.
            RedisError: No connection.
        """
        lines: list[Line] = []
        try:
            await together(self._line(server, lines) for _ in range(2))
            way = Way(*lines)
            replies = await way.background.ask(setup, limit_s=_CONNECT_LIMIT_S) if setup else []
        except BaseException:
            self._let_die(lines, Trouble("it was given up while connecting"))
            raise
        self._open[server] = way
        return way, replies

    def drop(self, trouble: Trouble, *, but: Iterable[Server] = ()) -> None:
        """Abort the ways to all servers not in ``but``; those that wait are told why."""
        kept = set(but)
        for server in [server for server in self._open if server not in kept]:
            self._let_die(self._open.pop(server).lines, trouble)

    async def bury(self) -> None:
        """Close for good what was dropped; connections apart too where no way is left."""
        while self._dying:
            await self._dying.pop().aclose()
        if not self._open:
            for pool in tuple(self._apart):
                await _close(pool)

    async def aclose(self, trouble: Trouble) -> None:
        """Close everything; those that wait are told why."""
        self.drop(trouble)
        await self.bury()
        for lookup in self._lookups.values():
            lookup.cancel()
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)
        self._lookups.clear()

    @contextlib.asynccontextmanager
    async def apart(self, server: Server) -> AsyncIterator[Redis]:
        """A client with a connection of its own."""
        kind, options = self._connection(server)
        # No time-out of redis-py's: it writes under asyncio.wait_for, which in Python 3.11 may swallow a
        # cancellation, and then whoever was cancelled reads on for ever.
        pool: ConnectionPool = ConnectionPool(connection_class=kind, max_connections=2, **options)
        self._apart.add(pool)
        try:
            yield Redis(connection_pool=pool)
        finally:
            self._apart.discard(pool)
            await _close(pool)

    async def _line(self, server: Server, lines: list[Line]) -> None:
        """Open one and add it to ``lines``, so that it is known to whoever gives up halfway."""
        await self._look_up(server)
        kind, options = self._connection(server)
        connection = kind(**options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's own
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        lines.append(Line(connection, lambda line, trouble: self._ended(server, line, trouble)))

    async def _look_up(self, server: Server) -> None:
        """Look the name up before it is connected to, never twice at a time.

        A lookup can't be given up: until it ends it holds one of the few threads that all lookups of the
        process share. So the next try waits for the one that is still under way.
        """
        host, port = server
        if not port or _is_number(host):
            return
        lookup = self._lookups.get(host)
        if lookup is None or lookup.done():
            loop = asyncio.get_running_loop()
            lookup = loop.create_task(loop.getaddrinfo(host, port), name=f"redis link: looking up {host}")
            lookup.add_done_callback(_retrieve)
            self._lookups[host] = lookup
        await asyncio.shield(lookup)

    def _ended(self, server: Server, line: Line, trouble: Trouble) -> None:
        way = self._open.get(server)
        # One that breaks while it is being opened is told to whoever opens it.
        if way is not None and line in way.lines:
            self._on_end(server, trouble)

    def _let_die(self, lines: Iterable[Line], trouble: Trouble) -> None:
        for line in lines:
            line.abort(trouble)
            self._dying.append(line)

    def _connection(self, server: Server) -> tuple[type[AbstractConnection], dict[str, Any]]:
        address = self._address
        options: dict[str, Any] = {
            "db": address.database,
            "username": address.username,
            "password": address.password.reveal() if address.password is not None else None,
            # A line has limits of its own; redis-py's would cost a timer or a task for each command.
            "socket_timeout": None,
            "socket_connect_timeout": _CONNECT_LIMIT_S,
            "retry": Retry(NoBackoff(), 0),
            # What every server speaks, and in which replies look the same on all of them.
            "protocol": 2,
            "decode_responses": True,
            "encoding_errors": "replace",
        }
        host, port = server
        if not port:
            return UnixDomainSocketConnection, {**options, "path": host}
        options |= {"host": host, "port": port}
        if address.tls is None:
            return Connection, options
        return SSLConnection, {**options, **address.tls}


async def together(works: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Run all side by side, each from a turn of the loop of its own; an error ends all and is raised."""
    tasks: list[asyncio.Task[_Result]] = []
    try:
        for work in works:
            tasks.append(asyncio.create_task(work))
            await asyncio.sleep(0)
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _retrieve(task: asyncio.Task[Any]) -> None:
    # Its error is told to those who wait for it; with nobody there it is no error.
    if not task.cancelled():
        task.exception()


async def _close(pool: ConnectionPool) -> None:
    with contextlib.suppress(RedisError, OSError):
        await pool.disconnect(inuse_connections=True)
