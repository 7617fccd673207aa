"""The task that keeps the ways to the servers open and finds out how well they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError, ResponseError

from smartfallback.clock import Clock
from smartfallback.model.secrets import redact
from smartfallback.state.redis_store.address import Address, Kind, Server, spelled
from smartfallback.state.redis_store.health import LOG, Health, State
from smartfallback.state.redis_store.line import Command, Line, LineError, OverdueError
from smartfallback.state.redis_store.routes import Routes
from smartfallback.state.redis_store.scripts import Script
from smartfallback.state.redis_store.server_clock import ServerClock
from smartfallback.state.redis_store.trouble import Trouble, describe
from smartfallback.state.redis_store.ways import Way, Ways, together

REQUEST_LIMIT_S: Final = 0.05
"""What a request may wait (SPEC 9)."""
BACKGROUND_LIMIT_S: Final = 1.0
"""What anything else may wait."""

_SEED_LIMIT_S: Final = 0.25
"""For one node that is asked which nodes there are; the next one is asked after that."""
_FIND_EVERY_S: Final = 10.0
"""How often it is asked anew: a master that was replaced may not know, and go on answering."""
_MOST_NAMES: Final = 10_000
"""Tries to find a name for a key that a given node holds: enough for one that holds 1 % of the slots."""

_PROBE: Final = Script.of(
    "probe", "redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000) return redis.call('TIME')"
)
"""What a real call does, a script that writes, so that a server that takes none is found out."""


class Keeper:
    """Connects, asks each server once a second, tries again with back-off, and says how they are.

    Args:
        address: Which servers.
        prefix: What the one key that it writes begins with.
        scripts: What each server should know before it is used; may grow.
        routes: Finds the servers.
        clock: For the server's clock.
        health: Told what is found.
    """

    def __init__(
        self,
        address: Address,
        prefix: str,
        scripts: Iterable[Script],
        routes: Routes,
        clock: Clock,
        health: Health,
    ) -> None:
        self.ways = Ways(address, self._line_ended)
        self.server_clock = ServerClock(clock)
        self.checked = asyncio.Event()
        self._address = address
        self._prefix = prefix
        self._scripts = scripts
        self._routes = routes
        self._clock = clock
        self._health = health
        self._servers: tuple[Server, ...] = ()
        self._probe_keys: dict[Server, str] = {}
        self._found = False
        self._found_at = 0.0
        self._woken = asyncio.Event()
        self._own_errors: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin; :attr:`checked` is set after the first check."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="redis link: keeper")

    async def aclose(self) -> None:
        """End the task and every connection. Safe to call twice."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.ways.aclose(Trouble("it was closed"))

    def overdue(self, *, urgent: bool) -> None:
        """A call was not answered in time: find out why; until then no other request waits."""
        if urgent and self._health.state is State.WELL:
            self._health.slow(f"no answer within {REQUEST_LIMIT_S * 1000:.0f} ms")
            self.ways.drop_urgent()
        self._woken.set()

    def lose(self, words: str) -> None:
        """It can't be used: drop the connections and begin anew after a while."""
        if not self._closed:
            self._found = False
            self.ways.drop(Trouble(words))
            self._health.lost(words)
            self._woken.set()

    def look_round(self) -> None:
        """Find out anew which servers there are."""
        self._found = False
        self._woken.set()

    def words_of(self, trouble: Trouble, server: Server | None = None) -> str:
        """The words of a trouble, without secrets; where there may be several, with the server's name."""
        words = redact(trouble.words, self._address.secrets)
        alone = server is None or self._address.kind is Kind.SINGLE
        return words if alone or server is None else f"{spelled(server)}: {words}"

    def _line_ended(self, server: Server, trouble: Trouble) -> None:
        self.lose(self.words_of(trouble, server))

    async def _keep(self) -> None:
        while True:
            try:
                await self._check()
            except Exception as error:  # the next try may do better, and without this task there is none
                words = f"an error of the product's own: {type(error).__name__}"
                if words not in self._own_errors:
                    self._own_errors.add(words)
                    LOG.exception("shared store %s: %s", self._address.place, words)
                self.lose(words)
            self.checked.set()
            await self._pause()

    async def _pause(self) -> None:
        self._woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._health.next_wait_s()):
                await self._woken.wait()
            if self._health.state is not State.WELL:
                # What went wrong just now has not passed yet; and a server that does well when it is
                # asked and badly in use must not change its state with every request.
                await asyncio.sleep(self._health.next_wait_s())

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(BACKGROUND_LIMIT_S):
                await self.ways.bury()
                await self._connect()
            answers = await together(self._probe(server) for server in self._servers)
        except (TimeoutError, OverdueError):
            self.lose(f"no answer within {BACKGROUND_LIMIT_S:.0f} s")
        except LineError as error:
            self.lose(self.words_of(error.trouble))
        except (RedisError, OSError) as error:
            self.lose(self.words_of(describe(error)))
        else:
            lag_s = max(lag for lag, _ in answers)
            if any(late for _, late in answers):
                self._health.slow(f"an answer took {lag_s * 1000:.0f} ms", lag_s)
            else:
                self._health.well(lag_s)

    async def _connect(self) -> None:
        known = bool(self._servers) and all(map(self.ways.get, self._servers))
        if not known:
            await self._find()
        elif not self._found or asyncio.get_running_loop().time() - self._found_at >= _FIND_EVERY_S:
            # Those that are in use go on if nobody can be asked about them.
            with contextlib.suppress(LineError, RedisError, OSError):
                async with asyncio.timeout(2 * _SEED_LIMIT_S):
                    await self._find()
        missing = [server for server in self._servers if self.ways.get(server) is None]
        await together(self._open(server) for server in missing)

    async def _find(self) -> None:
        """Find out which servers there are, and leave those that are not in use any more."""
        self._found = True  # whoever says otherwise meanwhile shall be heard
        try:
            servers = await self._routes.find(self._ask)
        except BaseException:
            self._found = False
            raise
        self._found_at = asyncio.get_running_loop().time()
        self._probe_keys.clear()
        if servers != self._servers:
            self._servers = servers
            self.server_clock.forget()
        self.ways.drop(Trouble("it is no longer in use"), but=servers)

    async def _open(self, server: Server) -> Way:
        alone = self._address.kind is Kind.SINGLE
        setup: list[Command] = [("SCRIPT", "LOAD", script.text) for script in (_PROBE, *self._scripts)]
        if alone:
            setup.append(("CLUSTER", "SLOTS"))
        way, replies = await self.ways.open(server, setup)
        if alone and isinstance(replies[-1], list) and len(replies[-1]) > 1:
            raise LineError(Trouble("it is a node of a cluster: the URL has to begin with redis+cluster://"))
        return way

    async def _ask(self, server: Server, command: Command) -> Any:
        try:
            async with asyncio.timeout(_SEED_LIMIT_S):
                way = self.ways.get(server) or await self._open(server)
                (reply,) = await way.background.ask([command], limit_s=_SEED_LIMIT_S)
        except (RedisError, OSError, TimeoutError) as error:
            raise LineError(describe(error)) from None
        except OverdueError:
            raise LineError(Trouble("it does not answer")) from None
        if isinstance(reply, ResponseError):
            raise LineError(describe(reply))
        return reply

    async def _probe(self, server: Server) -> tuple[float, bool]:
        """Ask one server; returns how long it took and whether that was too long for a request."""
        way = self.ways.get(server)
        if way is None:
            raise LineError(Trouble("the connection was lost"))
        loop = asyncio.get_running_loop()
        late = False

        def on_late() -> None:
            nonlocal late
            late = True
            self.overdue(urgent=True)

        async def ask() -> Any:
            for head in (("EVALSHA", _PROBE.sha), ("EVAL", _PROBE.text)):
                began, sent_at = loop.time(), self._clock.monotonic()
                (reply,) = await way.requests.ask(
                    [(*head, 1, self._probe_key(server), "1")],
                    limit_s=BACKGROUND_LIMIT_S,
                    late_s=REQUEST_LIMIT_S,
                    on_late=on_late,
                )
                if not isinstance(reply, NoScriptError):
                    break
            return reply, loop.time() - began, sent_at, self._clock.monotonic()

        async def listen() -> Any:
            await _listen_to(way.background)

        (reply, lag_s, sent_at, heard_at), _ = await together(work() for work in (ask, listen))
        if isinstance(reply, ResponseError):
            raise LineError(Trouble(self.words_of(describe(reply), server)))
        if server == self._servers[0]:
            seconds, microseconds = reply
            self.server_clock.heard(int(seconds) + int(microseconds) / 1e6, sent_at, heard_at)
        return lag_s, late

    def _probe_key(self, server: Server) -> str:
        """A key that this server holds."""
        key = self._probe_keys.get(server, "")
        if not key:
            names = (f"{self._prefix}:{{link-{number}}}:probe" for number in range(_MOST_NAMES))
            key = next((name for name in names if self._routes.of(name) == server), "")
            if not key:
                raise LineError(Trouble(f"{spelled(server)} holds next to nothing of the cluster"))
            self._probe_keys[server] = key
        return key


async def _listen_to(line: Line) -> None:
    """See that the other line lives too; behind a long report it is enough that replies come."""
    try:
        await line.ask([("PING",)], limit_s=BACKGROUND_LIMIT_S)
    except OverdueError:
        if asyncio.get_running_loop().time() - line.heard_at >= BACKGROUND_LIMIT_S:
            raise
