"""Which server holds a key: the one there is, the one that sentinels name, or a node of a cluster."""

from __future__ import annotations

import bisect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot

from smartfallback.state.redis_store.address import Address, Kind, Server
from smartfallback.state.redis_store.line import Command, LineError
from smartfallback.state.redis_store.trouble import Trouble

Ask = Callable[[Server, Command], Awaitable[Any]]
"""Asks one server one thing; raises LineError."""

_SENTINEL_LIMIT_S: Final = 0.25
"""For one sentinel; the next one is asked after that."""


class Routes(Protocol):
    """Finds servers and says which of them holds a key."""

    async def find(self, ask: Ask, /) -> tuple[Server, ...]:
        """Find out which servers there are, each of which takes writes.

        Raises:
            LineError: Nobody said.
            RedisError: Nobody said.
        """
        ...

    def of(self, key: str, /) -> Server:
        """The server that holds ``key``, as far as is known after :meth:`find`."""
        ...

    def moved(self, slot: int, server: Server) -> None:
        """A server said that another one holds this slot now."""
        ...

    async def aclose(self) -> None:
        """Close what it has open."""
        ...


def routes_of(address: Address) -> Routes:
    """The routes for this kind of address."""
    match address.kind:
        case Kind.SENTINEL:
            return SentinelRoutes(address)
        case Kind.CLUSTER:
            return ClusterRoutes(address)
        case _:
            return OneServer(address.servers[0])


class OneServer:
    """There is one, always the same."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def find(self, _ask: Ask) -> tuple[Server, ...]:
        """See :class:`Routes`."""
        return (self._server,)

    def of(self, _key: str) -> Server:
        """See :class:`Routes`."""
        return self._server

    def moved(self, slot: int, server: Server) -> None:
        """A single server that belongs to a cluster after all: the address is wrong, nothing follows."""

    async def aclose(self) -> None:
        """See :class:`Routes`."""


class SentinelRoutes:
    """The master is asked for each time, from one sentinel after the other until one knows."""

    def __init__(self, address: Address) -> None:
        self._master: Server = address.servers[0]
        self._service = address.service
        password = address.sentinel_password
        self._sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's own
            address.servers,
            sentinel_kwargs={
                "socket_timeout": _SENTINEL_LIMIT_S,
                "socket_connect_timeout": _SENTINEL_LIMIT_S,
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
                "username": address.sentinel_username,
                "password": password.reveal() if password is not None else None,
                **({"ssl": True, **address.tls} if address.tls is not None else {}),
            },
        )

    async def find(self, _ask: Ask) -> tuple[Server, ...]:
        """See :class:`Routes`."""
        host, port = await self._sentinels.discover_master(self._service)
        self._master = (str(host), int(port))
        return (self._master,)

    def of(self, _key: str) -> Server:
        """See :class:`Routes`."""
        return self._master

    def moved(self, slot: int, server: Server) -> None:
        """Masters under sentinels don't send clients elsewhere."""

    async def aclose(self) -> None:
        """See :class:`Routes`."""
        await self._sentinels.aclose()


class ClusterRoutes:
    """The slots of a cluster, as one of its nodes tells them."""

    def __init__(self, address: Address) -> None:
        self._seeds = address.servers
        self._nodes: tuple[Server, ...] = ()
        self._starts: list[int] = []
        self._owners: list[Server] = []
        self._moved: dict[int, Server] = {}

    async def find(self, ask: Ask) -> tuple[Server, ...]:
        """See :class:`Routes`."""
        failure = LineError(Trouble("none of its nodes answers"))
        # The node that a key was last found at may be the one that went: all are asked in turn.
        for seed in dict.fromkeys((*self._nodes, *self._seeds)):
            try:
                self._learn(await ask(seed, ("CLUSTER", "SLOTS")), seed)
            except LineError as error:
                failure = error
                continue
            return self._nodes
        raise failure

    def of(self, key: str) -> Server:
        """See :class:`Routes`."""
        slot = key_slot(key.encode())
        moved = self._moved.get(slot)
        if moved is not None:
            return moved
        return self._owners[max(0, bisect.bisect_right(self._starts, slot) - 1)]

    def moved(self, slot: int, server: Server) -> None:
        """See :class:`Routes`."""
        self._moved[slot] = server

    async def aclose(self) -> None:
        """See :class:`Routes`."""

    def _learn(self, answer: Any, seed: Server) -> None:
        """Take in what CLUSTER SLOTS says: first slot, last slot, the master's host and port, replicas."""
        if not isinstance(answer, list) or not answer:
            raise LineError(Trouble("it is no node of a cluster, or of one without any slots"))
        ranges = sorted((int(first), int(last), master) for first, last, master, *_ in answer)
        if ranges[0][0] != 0 or any(
            before[1] + 1 != after[0] for before, after in zip(ranges, [*ranges[1:], (16384,)], strict=True)
        ):
            raise LineError(Trouble("the cluster misses some of its slots"))
        # A node that was never told its own address leaves the host empty.
        self._owners = [(str(master[0] or seed[0]), int(master[1])) for _, _, master in ranges]
        self._starts = [first for first, _, _ in ranges]
        self._nodes = tuple(dict.fromkeys(self._owners))
        self._moved.clear()
