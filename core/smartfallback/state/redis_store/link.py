"""The way to the Redis server: everything that is sent to it goes through here.

It decides who may wait, and for how long. A call on a request's way fails at once unless the server has
shown that it answers within the request budget; the keeper finds out when that changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, ResponseError

from smartfallback.clock import Clock
from smartfallback.model.secrets import Secret
from smartfallback.state.redis_store.address import Kind, Server, parse, spelled
from smartfallback.state.redis_store.health import LOG, Health
from smartfallback.state.redis_store.keeper import BACKGROUND_LIMIT_S, REQUEST_LIMIT_S, Keeper
from smartfallback.state.redis_store.line import Command, LineError, OverdueError, Part
from smartfallback.state.redis_store.routes import routes_of
from smartfallback.state.redis_store.scripts import Script
from smartfallback.state.redis_store.trouble import Trouble, describe
from smartfallback.state.redis_store.ways import together
from smartfallback.state.shared import StoreLostError, StoreStatus

__all__ = ["BACKGROUND_LIMIT_S", "REQUEST_LIMIT_S", "RedisLink"]

_SLICE: Final = 64
"""Commands of one pipeline that are packed without letting anything else run."""
_HOPS: Final = 4
"""How often a command may be sent elsewhere, or again, before it is given up."""
_MOST_COMPLAINTS: Final = 32


class _Call:
    """One command, where it goes, and what it becomes on the way."""

    __slots__ = ("asking", "command", "reply", "script", "server")

    def __init__(self, server: Server, command: Command, script: Script | None = None) -> None:
        self.server = server
        self.command = command
        self.script = script
        self.asking = False
        self.reply: Any = None


class RedisLink:
    """The way to a Redis server, the master behind sentinels, or a cluster. For one event loop.

    Replies come as RESP2 has them, with text as ``str``: a hash is a flat list of fields and values.

    Args:
        url: See :func:`smartfallback.state.redis_store.address.parse`.
        clock: Tells what time it is here; limits are kept in the loop's own time.
        prefix: What the one key that it writes itself begins with.
        rng: Spreads the tries of many instances.

    Raises:
        ValueError: The URL can't be read.
    """

    def __init__(
        self,
        url: Secret | str,
        clock: Clock,
        *,
        prefix: str = "smartfallback",
        rng: random.Random | None = None,
    ) -> None:
        self._address = parse(url)
        self._health = Health(self.place, clock, rng or random.Random())
        self._health.on_change(self._note_change)
        self._routes = routes_of(self._address)
        self._scripts: dict[str, Script] = {}
        self._keeper = Keeper(
            self._address, prefix, self._scripts.values(), self._routes, clock, self._health
        )
        self._complaints: set[str] = set()
        self._reachable = asyncio.Event()
        self._closed = False

    @property
    def place(self) -> str:
        """Its address, without credentials."""
        return self._address.place

    @property
    def clustered(self) -> bool:
        """Whether keys lie on several servers: one script then reaches those of one hash tag only."""
        return self._address.kind is Kind.CLUSTER

    @property
    def status(self) -> StoreStatus:
        """How the server is now."""
        return self._health.status

    @property
    def offset_s(self) -> float:
        """The server's clock minus this machine's, in seconds; 0 until it was heard."""
        return self._keeper.server_clock.offset_s

    @property
    def closed(self) -> bool:
        """Whether it was closed, for good."""
        return self._closed

    def on_change(self, listener: Callable[[StoreStatus], None]) -> None:
        """Call ``listener``, on the loop, whenever it becomes usable, reachable, or neither."""
        self._health.on_change(listener)

    # -- its life

    async def start(self) -> None:
        """Connect, and keep trying in the background; returns within a second, connected or not.

        Raises:
            StoreLostError: It was closed before.
        """
        if self._closed:
            raise StoreLostError("it was closed")
        self._keeper.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BACKGROUND_LIMIT_S):
                await self._keeper.checked.wait()

    async def aclose(self) -> None:
        """End every task and connection. Safe to call twice."""
        self._closed = True
        self._reachable.set()  # whoever waits finds it closed
        await self._keeper.aclose()
        await self._routes.aclose()

    async def wait_reachable(self) -> None:
        """Wait until it can be used in the background.

        Raises:
            StoreLostError: It was closed.
        """
        await self._reachable.wait()
        if self._closed:
            raise StoreLostError("it was closed")

    # -- calls

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], *, limit_s: float
    ) -> Any:
        """Run a script on keys of one hash tag and return what it returns.

        Raises:
            StoreLostError: It can't be used now, or not within ``limit_s``.
        """
        (reply,) = await self._carry([self._script_call(script, keys, args)], limit_s)
        return reply

    async def run_many(
        self, calls: Sequence[tuple[Script, Sequence[str], Sequence[str | bytes]]], *, limit_s: float
    ) -> list[Any]:
        """Run scripts in one pipeline, each by itself, and return their replies in order.

        Raises:
            StoreLostError: One of them failed; the others may have run.
        """
        return await self._carry([self._script_call(*call) for call in calls], limit_s)

    async def command(self, *parts: Part, limit_s: float) -> Any:
        """Send one command and return its reply.

        Raises:
            StoreLostError: It can't be used now, or not within ``limit_s``.
        """
        (reply,) = await self._carry([self._command_call(parts)], limit_s)
        return reply

    async def command_many(self, commands: Sequence[Command], *, limit_s: float) -> list[Any]:
        """Send commands in one pipeline and return their replies in order.

        Raises:
            StoreLostError: One of them failed; the others may have been done.
        """
        return await self._carry([self._command_call(parts) for parts in commands], limit_s)

    @contextlib.asynccontextmanager
    async def apart(self, key: str = "") -> AsyncIterator[Redis]:
        """A client with a connection of its own to the server of ``key``, for a read that blocks.

        Whoever reads limits its own wait. The connection ends
        with the block, and when the server is lost.

        Raises:
            StoreLostError: It can't be used now; also in place of what redis-py raises in the block.
        """
        self._gate(BACKGROUND_LIMIT_S)
        try:
            async with self._keeper.ways.apart(self._routes.of(key)) as client:
                yield client
        except (RedisError, OSError) as error:
            raise StoreLostError(self._keeper.words_of(describe(error))) from None

    # -- inside

    def _gate(self, limit_s: float) -> None:
        status = self._health.status
        if self._closed:
            raise StoreLostError("it was closed")
        if not (status.usable if limit_s <= REQUEST_LIMIT_S else status.reachable):
            raise StoreLostError(status.trouble)

    def _script_call(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes]) -> _Call:
        self._scripts.setdefault(script.sha, script)
        command = ("EVALSHA", script.sha, len(keys), *keys, *args)
        return _Call(self._routes.of(keys[0] if keys else ""), command, script)

    def _command_call(self, command: Command) -> _Call:
        place = 1  # of the first key, in all commands but these
        match str(command[0]).upper():
            case "EVAL" | "EVALSHA":
                place = 3
            case "XREAD" | "XREADGROUP":
                place = [str(part).upper() for part in command].index("STREAMS") + 1
        return _Call(self._routes.of(str(command[place]) if len(command) > place else ""), command)

    async def _carry(self, calls: list[_Call], limit_s: float) -> list[Any]:
        self._gate(limit_s)
        deadline = asyncio.get_running_loop().time() + limit_s
        urgent = limit_s <= REQUEST_LIMIT_S
        rest = calls
        try:
            for _ in range(_HOPS):
                await self._send(rest, deadline, urgent)
                rest = [call for call in rest if self._goes_on(call)]
                if not rest:
                    break
        except OverdueError:
            self._keeper.overdue(urgent=urgent)
            raise StoreLostError(f"no answer within {limit_s * 1000:.0f} ms") from None
        except LineError as error:
            raise StoreLostError(self._keeper.words_of(error.trouble)) from None
        for call in calls:
            if isinstance(call.reply, ResponseError):
                raise StoreLostError(self._refused(call, call.reply))
        return [call.reply for call in calls]

    async def _send(self, calls: list[_Call], deadline: float, urgent: bool) -> None:
        if len(calls) == 1:
            await self._send_to(calls[0].server, calls, deadline, urgent)
            return
        by_server: dict[Server, list[_Call]] = {}
        for call in calls:
            by_server.setdefault(call.server, []).append(call)
        await together(
            self._send_to(server, group[start : start + _SLICE], deadline, urgent)
            for server, group in by_server.items()
            for start in range(0, len(group), _SLICE)
        )

    async def _send_to(self, server: Server, calls: list[_Call], deadline: float, urgent: bool) -> None:
        way = self._keeper.ways.get(server)
        if way is None:
            self._keeper.look_round()
            raise LineError(Trouble(f"{spelled(server)} is not connected yet"))
        commands: list[Command] = []
        for call in calls:
            if call.asking:
                commands.append(("ASKING",))
            commands.append(call.command)
        line = way.requests if urgent else way.background
        limit_s = deadline - asyncio.get_running_loop().time()
        replies = iter(await line.ask(commands, limit_s=limit_s, urgent=urgent))
        for call in calls:
            if call.asking:
                next(replies)
            call.reply = next(replies)

    def _goes_on(self, call: _Call) -> bool:
        """Whether the reply says that the command has to be sent again, or elsewhere."""
        reply, call.asking = call.reply, False
        if not isinstance(reply, ResponseError):
            return False
        if isinstance(reply, NoScriptError) and call.script is not None:
            # The server runs the text and knows the script from then on.
            call.command = ("EVAL", call.script.text, *call.command[2:])
            call.script = None
            return True
        if isinstance(reply, AskError) and self.clustered:
            call.server = (str(reply.host), int(reply.port))
            if isinstance(reply, MovedError):
                self._routes.moved(reply.slot_id, call.server)
                self._keeper.look_round()
            else:
                call.asking = True
            return True
        return False

    def _refused(self, call: _Call, reply: ResponseError) -> str:
        trouble = describe(reply)
        words = self._keeper.words_of(trouble)
        if trouble.everywhere:
            self._keeper.lose(words)
        elif words not in self._complaints and len(self._complaints) < _MOST_COMPLAINTS:
            self._complaints.add(words)
            LOG.warning("shared store %s, %s: %s", self.place, call.command[0], words)
        return words

    def _note_change(self, status: StoreStatus) -> None:
        if status.reachable:
            self._reachable.set()
        else:
            self._reachable.clear()
        if status.usable:
            self._complaints.clear()
