"""A link to a server that a test started, and a server's clock that only the test moves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from smartfallback.clock import SystemClock
from smartfallback.state.redis_store.link import RedisLink
from smartfallback.state.redis_store.scripts import Script
from support.redis_servers import RedisCluster, RedisServer

_ASKS_TIME = "redis.call('TIME')"


@contextlib.asynccontextmanager
async def link_to(server: RedisServer | RedisCluster | str) -> AsyncIterator[RedisLink]:
    """A link that is connected, to a server or to a URL."""
    link = RedisLink(server if isinstance(server, str) else server.url, SystemClock())
    try:
        await link.start()
        yield link
    finally:
        await link.aclose()


class LinkAtTime(RedisLink):
    """A link to a server whose clock stands at ``at``: scripts get that in place of what TIME says.

    Args:
        server: Where it is.
        at: Epoch seconds; may be set at any time.
    """

    def __init__(self, server: RedisServer, at: float = 1_790_000_000.0) -> None:
        super().__init__(server.url, SystemClock())
        self.at = at

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], *, limit_s: float
    ) -> Any:
        return await super().run(self._dated(script), keys, args, limit_s=limit_s)

    async def run_many(
        self, calls: Sequence[tuple[Script, Sequence[str], Sequence[str | bytes]]], *, limit_s: float
    ) -> list[Any]:
        dated = [(self._dated(script), keys, args) for script, keys, args in calls]
        return await super().run_many(dated, limit_s=limit_s)

    def _dated(self, script: Script) -> Script:
        micros = round(self.at * 1_000_000)
        seconds, rest = divmod(micros, 1_000_000)
        return Script.of(script.name, script.text.replace(_ASKS_TIME, f"{{'{seconds}', '{rest}'}}"))


@contextlib.asynccontextmanager
async def link_at_time(server: RedisServer) -> AsyncIterator[LinkAtTime]:
    """A connected one."""
    link = LinkAtTime(server)
    try:
        await link.start()
        yield link
    finally:
        await link.aclose()
