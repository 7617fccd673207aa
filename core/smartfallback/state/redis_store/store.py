"""The shared store on a Redis server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

from smartfallback.clock import Clock, SystemClock
from smartfallback.model.circuits import CircuitTarget
from smartfallback.model.secrets import Secret
from smartfallback.model.sharing import (
    AccountReport,
    Change,
    Fact,
    FactWrite,
    Heartbeat,
    HoldRequest,
    InstanceView,
    ProbeReply,
    QuotaReply,
    StoreKind,
)
from smartfallback.state.redis_store.changes import Changes
from smartfallback.state.redis_store.facts import Facts
from smartfallback.state.redis_store.instances import Instances
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.link import RedisLink
from smartfallback.state.redis_store.probes import Probes
from smartfallback.state.redis_store.quota import QuotaScripts
from smartfallback.state.shared import StoreStatus


class RedisSharedStore:
    """What several instances share, on a Redis server, the master behind sentinels, or a cluster.

    A :class:`~smartfallback.state.shared.SharedStore`, for one event loop. Everything lies under
    ``prefix``; several products or stages can use one server with prefixes of their own.

    Args:
        url: Where it is; see :func:`smartfallback.state.redis_store.address.parse`.
        prefix: What the names of all keys begin with.
        clock: Tells what time it is here.

    Raises:
        ValueError: The URL can't be read, or the prefix is empty or has a brace.
    """

    def __init__(
        self, url: Secret | str, *, prefix: str = "smartfallback", clock: Clock | None = None
    ) -> None:
        if not prefix or "{" in prefix or "}" in prefix:
            raise ValueError("the prefix of keys is empty or has a brace in it")
        keys = Keys(prefix)
        self._link = RedisLink(url, clock or SystemClock(), prefix=prefix)
        self._quota = QuotaScripts(self._link, keys)
        self._facts = Facts(self._link, keys)
        self._changes = Changes(self._link, keys)
        self._probes = Probes(self._link, keys)
        self._instances = Instances(self._link, keys)

    def __repr__(self) -> str:
        return f"RedisSharedStore({self.place})"

    @property
    def kind(self) -> StoreKind:
        """The kind of store."""
        return StoreKind.REDIS

    @property
    def place(self) -> str:
        """Its address, without credentials."""
        return self._link.place

    @property
    def status(self) -> StoreStatus:
        """How it is now."""
        return self._link.status

    @property
    def offset_s(self) -> float:
        """The server's clock minus this machine's, in seconds; 0 until it was heard."""
        return self._link.offset_s

    def on_change(self, listener: Callable[[StoreStatus], None]) -> None:
        """Call ``listener``, on the loop, whenever it becomes usable, reachable, or neither."""
        self._link.on_change(listener)

    async def start(self) -> None:
        """Connect, and keep trying in the background; returns within a second, connected or not."""
        await self._link.start()

    async def aclose(self) -> None:
        """End every task and connection. Safe to call twice."""
        await self._link.aclose()

    async def reserve(self, instance: str, hold: HoldRequest) -> QuotaReply:
        """See :meth:`smartfallback.state.shared.SharedStore.reserve`."""
        return await self._quota.reserve(instance, hold)

    async def report(
        self, instance: str, reports: Sequence[AccountReport], *, lease_s: float
    ) -> Sequence[QuotaReply]:
        """See :meth:`smartfallback.state.shared.SharedStore.report`."""
        return await self._quota.report(instance, reports, lease_s=lease_s)

    async def write_facts(self, writes: Sequence[FactWrite]) -> Sequence[Fact]:
        """See :meth:`smartfallback.state.shared.SharedStore.write_facts`."""
        return await self._facts.write(writes)

    async def read_facts(self, subjects: Collection[str]) -> Mapping[str, Mapping[str, Fact]]:
        """See :meth:`smartfallback.state.shared.SharedStore.read_facts`."""
        return await self._facts.read(subjects)

    def changes(self) -> AsyncIterator[Change]:
        """See :meth:`smartfallback.state.shared.SharedStore.changes`."""
        return self._changes.listen()

    async def take_probe(
        self,
        instance: str,  # noqa: ARG002 - the protocol names who asks; a probe's own id is enough here
        target: CircuitTarget,
        probe: str,
        *,
        at_once: int,
        lease_s: float,
    ) -> ProbeReply:
        """See :meth:`smartfallback.state.shared.SharedStore.take_probe`."""
        return await self._probes.take(target, probe, at_once=at_once, lease_s=lease_s)

    async def drop_probe(self, target: CircuitTarget, probe: str) -> None:
        """See :meth:`smartfallback.state.shared.SharedStore.drop_probe`."""
        await self._probes.drop(target, probe)

    async def heartbeat(self, instance: InstanceView) -> Heartbeat:
        """See :meth:`smartfallback.state.shared.SharedStore.heartbeat`."""
        return await self._instances.heartbeat(instance)

    async def leave(self, instance: str) -> None:
        """See :meth:`smartfallback.state.shared.SharedStore.leave`."""
        await self._instances.leave(instance)
