"""The rows that instances share, read as they stand in Redis, past all code that writes them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from smartfallback.state.redis_store.keys import Keys

WEEK = "week.tokens.0"
SLOTS = "slots"


@dataclass(frozen=True)
class Row:
    """One window of an account, as all instances share it.

    Attributes:
        at: The server's time.
        spent: By instance.
        leased: By instance whose lease runs: what it may still spend without asking.
        charged: By instance whose lease ended without a word.
        held: By instance: what its reservations hold whose lease runs.
        used: All that counts as used.
    """

    at: float
    spent: Mapping[str, float] = field(default_factory=dict)
    leased: Mapping[str, float] = field(default_factory=dict)
    charged: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    used: float = 0.0

    @property
    def taken(self) -> float:
        """All that is held or leased and not spent yet."""
        return sum(self.leased.values()) + sum(self.held.values())


class Rows:
    """Reads an account's rows, all in one moment."""

    def __init__(self, url: str, account: str, *, prefix: str = "smartfallback") -> None:
        self._client = redis.asyncio.Redis.from_url(
            url, decode_responses=True, protocol=2, socket_timeout=5.0
        )
        self._keys = Keys(prefix).quota(account)

    async def read(self, window: str = WEEK) -> Row:
        """A window of the account as it is now."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hget(self._keys.windows, window)
            pipe.zrange(self._keys.leases, 0, -1, withscores=True)
            pipe.zrange(self._keys.holds, 0, -1, withscores=True)
            pipe.hgetall(self._keys.amounts)
            (seconds, micros), raw, leases, holds, amounts = await pipe.execute()
        at = seconds + micros / 1e6
        return _row(at, json.loads(raw) if raw else None, dict(leases), dict(holds), amounts, window)

    async def until(self, holds: Any, what: str, *, window: str = WEEK, limit_s: float = 15.0) -> Row:
        """Wait until a row is as wished; returns it.

        Raises:
            TimeoutError: It never was; the last row is in the message.
        """
        row: Row | None = None
        ends_at = time.monotonic() + limit_s
        while time.monotonic() < ends_at:
            with contextlib.suppress(RedisError):
                row = await self.read(window)
                if holds(row):
                    return row
            await asyncio.sleep(0.01)
        raise TimeoutError(f"{what}: not within {limit_s:g} s, but {row}")

    async def aclose(self) -> None:
        """End the connection."""
        await self._client.aclose()


@dataclass
class Watch:
    """What was seen of a row while instances wrote it."""

    latest: Row = field(default_factory=lambda: Row(0.0))
    most: float = 0.0
    """The most that was used and taken."""
    most_held: float = 0.0
    """The most that was used and held, slices left out."""
    most_taken: float = 0.0
    looks: int = 0

    def see(self, row: Row) -> None:
        """Take a look into account."""
        self.latest = row
        self.looks += 1
        self.most = max(self.most, row.used + row.taken)
        self.most_held = max(self.most_held, row.used + sum(row.held.values()))
        self.most_taken = max(self.most_taken, row.taken)


@asynccontextmanager
async def rows_of(url: str, account: str) -> AsyncIterator[Rows]:
    """An account's rows, for as long as the test wants to read them."""
    rows = Rows(url, account)
    try:
        yield rows
    finally:
        await rows.aclose()


@asynccontextmanager
async def watching(rows: Rows, window: str = WEEK, *, every_s: float = 0.004) -> AsyncIterator[Watch]:
    """Look at a row again and again; what the server can't tell for a time is left out."""
    seen, enough = Watch(), asyncio.Event()

    async def look() -> None:
        while not enough.is_set():
            with contextlib.suppress(RedisError):
                seen.see(await rows.read(window))
            await asyncio.sleep(every_s)

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        # Not cancelled: in the middle of a command the client may take that for an error of its own.
        enough.set()
        await task


def _row(
    at: float,
    window: dict[str, Any] | None,
    leases: Mapping[str, float],
    holds: Mapping[str, float],
    amounts: Mapping[str, str],
    key: str,
) -> Row:
    if window is None or at >= (window.get("e") or math.inf):
        return Row(at)
    spent, charged = dict(window.get("c") or {}), dict(window.get("x") or {})
    leased: dict[str, float] = {}
    for name, ceiling in dict(window.get("l") or {}).items():
        # One whose lease has just ended is charged by whichever script comes next.
        runs = leases.get(name, 0.0) > at
        if runs or key != SLOTS:
            (leased if runs else charged)[name] = max(0.0, ceiling - spent.get(name, 0.0))
    held: dict[str, float] = {}
    for hold, ends_at in holds.items():
        if ends_at > at:
            told = json.loads(amounts[hold])
            part = told["w"].get(key)
            if part is not None and part[0] == window["s"]:
                held[told["i"]] = held.get(told["i"], 0.0) + part[1]
    base = window.get("b")
    if base:
        mark = dict(base.get("m") or {})
        used = base["u"] + sum(max(0.0, value - mark.get(name, 0.0)) for name, value in spent.items())
    else:
        used = sum(spent.values())
    return Row(at, spent, leased, charged, held, used + sum(charged.values()))
