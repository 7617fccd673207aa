"""A set of simulated upstreams: real HTTP servers on loopback that can be made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from types import TracebackType

from smartfallback.clock import Clock
from smartfallback.simulation.faults import ActiveFault, Fault
from smartfallback.simulation.opencode_server import OpenCodeServer
from smartfallback.simulation.serving import LOOPBACK, UpstreamServer
from smartfallback.simulation.upstreams import AccountState, Counters, DialectName, Upstream


class Lab:
    """Simulated upstreams on free ports of 127.0.0.1, on the running event loop.

    Use it as an async context manager, and from that loop's thread only::

        async with Lab(SystemClock(), Random(1), [upstream]) as lab:
            lab.set_fault("gemini", HttpStatus(500))

    Args:
        clock: Time of quotas, rate limits and flapping. Pacing runs on the event loop's time.
        rng: Randomness of latencies, identifiers and texts; the same seed and the same order of
            calls give the same answers.
        upstreams: The APIs to serve.

    Raises:
        ValueError: Two upstreams, or two accounts of one, share a name, or two accounts a key.
    """

    def __init__(self, clock: Clock, rng: Random, upstreams: Iterable[Upstream]) -> None:
        self._clock = clock
        self._servers: dict[str, UpstreamServer] = {}
        self._faults: dict[tuple[str, str | None], ActiveFault] = {}
        self._lifted: dict[ActiveFault, asyncio.Event] = {}
        self._watchers: set[asyncio.Event] = set()
        for spec in upstreams:
            keys = {account.api_key for account in spec.accounts}
            names = {account.id for account in spec.accounts}
            if spec.name in self._servers:
                raise ValueError(f"two upstreams are named {spec.name!r}")
            if len(names) < len(spec.accounts) or len(keys) < len(spec.accounts):
                raise ValueError(f"two accounts of {spec.name!r} share an id or a key")
            serve = OpenCodeServer if spec.dialect is DialectName.OPENCODE else UpstreamServer
            self._servers[spec.name] = serve(
                spec, clock, rng, fault_at=self._fault_at, lifted=self._lifted_event, changed=self._changed
            )

    async def __aenter__(self) -> Lab:
        try:
            for server in self._servers.values():
                await server.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all ports and connections. Safe to call twice."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """The APIs that are served."""
        return tuple(server.spec for server in self._servers.values())

    def base_url(self, upstream: str) -> str:
        """The base URL that a client of the upstream is configured with.

        Raises:
            KeyError: There is no such upstream.
        """
        server = self._servers[upstream]
        return f"http://{LOOPBACK}:{server.port}{server.dialect.base_path}"

    async def take_down(self, upstream: str) -> None:
        """Stop an upstream's server: connections break, new ones are refused.

        Raises:
            KeyError: There is no such upstream.
        """
        await self._servers[upstream].stop()

    async def bring_up(self, upstream: str) -> None:
        """Start a stopped server again, on the port that it had.

        Raises:
            KeyError: There is no such upstream.
            OSError: Another program took the port meanwhile.
        """
        await self._servers[upstream].start()

    def set_fault(self, upstream: str, fault: Fault, account: str | None = None) -> ActiveFault:
        """Let an upstream, or one of its accounts, misbehave from now on.

        A fault of an account goes before one of its upstream; a new one replaces the one in its place.

        Raises:
            KeyError: There is no such upstream or account.
        """
        server = self._servers[upstream]
        if account is not None and account not in server.accounts:
            raise KeyError(account)
        place = upstream, account
        replaced = self._faults.get(place)
        if replaced is not None:
            self.lift(replaced)
        active = ActiveFault(upstream, account, fault, self._clock.monotonic())
        self._faults[place] = active
        self._lifted[active] = asyncio.Event()
        return active

    def lift(self, active: ActiveFault) -> None:
        """End this fault; answers that it stalls go on. Does nothing if it was replaced or ended."""
        event = self._lifted.pop(active, None)
        if event is not None:
            event.set()
            del self._faults[active.upstream, active.account]

    def clear_faults(self, upstream: str | None = None) -> None:
        """End all faults, or all of one upstream and its accounts."""
        for active in list(self._faults.values()):
            if upstream in (None, active.upstream):
                self.lift(active)

    @property
    def faults(self) -> tuple[ActiveFault, ...]:
        """The faults in force, in the order in which they were set."""
        return tuple(self._faults.values())

    def counters(self, upstream: str, account: str | None = None) -> Counters:
        """What the upstream saw of an account, or of all of them.

        Raises:
            KeyError: There is no such upstream or account.
        """
        if account is not None:
            return self._account(upstream, account).seen
        return Counters.total([state.seen for state in self._servers[upstream].accounts.values()])

    def used(self, upstream: str, account: str) -> float:
        """What an account has used of its quota, by the upstream's own count and in the quota's unit.

        Raises:
            KeyError: There is no such upstream or account.
        """
        return self._account(upstream, account).used(self._clock.time())

    def set_used(self, upstream: str, account: str, amount: float) -> None:
        """Set what an account has used of its quota.

        Raises:
            KeyError: There is no such upstream or account.
        """
        self._account(upstream, account).set_used(amount, self._clock.time())

    def open_sessions(self, upstream: str, account: str) -> tuple[str, ...]:
        """The sessions that an account has on an OpenCode server and did not delete; else none.

        Raises:
            KeyError: There is no such upstream.
        """
        server = self._servers[upstream]
        return server.sessions(account) if isinstance(server, OpenCodeServer) else ()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; it is looked at after each change of any counter."""
        change = asyncio.Event()
        self._watchers.add(change)
        try:
            while not condition():
                change.clear()
                await change.wait()
        finally:
            self._watchers.discard(change)

    async def idle(self) -> None:
        """Wait until no call is in flight anywhere."""
        await self.until(lambda: not any(self.counters(name).in_flight for name in self._servers))

    def _changed(self) -> None:
        for change in self._watchers:
            change.set()

    def _account(self, upstream: str, account: str) -> AccountState:
        return self._servers[upstream].accounts[account]

    def _fault_at(self, upstream: str, account: str) -> ActiveFault | None:
        return self._faults.get((upstream, account)) or self._faults.get((upstream, None))

    def _lifted_event(self, active: ActiveFault) -> asyncio.Event:
        event = self._lifted.get(active)
        if event is None:
            event = asyncio.Event()
            event.set()
        return event
