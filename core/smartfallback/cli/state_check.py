"""Whether what keeps the state can be used: the file on this machine, and the Redis server if one is named.

Both are looked at as the engine would use them, and left as they are: the file is only read, and on the
server nothing is written but the one short-lived key by which the engine's own check finds out whether it
takes writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smartfallback.cli.reachability import Reach

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smartfallback.config import StateSettings
    from smartfallback.state.redis_store.link import RedisLink

LIMIT_S: Final = 1.0
"""For one answer of the server."""
SILENT: Final = f"it does not answer within {LIMIT_S:g} s"
_ROUND_TRIPS: Final = 5
_CLOCK_NOTED_FROM_S: Final = 1.0
"""The store reckons in the server's time, so that a difference does no harm; a large one is worth a look."""

_TO_DO: Final = (
    ("password", "put the right user and password into the address: redis://USER:PASSWORD@HOST:PORT"),
    ("user may not", "let its user run scripts and use the keys that begin with the prefix (ACL SETUSER)"),
    ("replica", "name the master instead, or let Sentinel find it: redis+sentinel://HOSTS/SERVICE"),
    ("memory is full", "raise its maxmemory, or make room"),
    ("save to its disk", "make room on its disk, or see its log"),
    ("cluster", "see CLUSTER INFO on one of its nodes"),
    ("certificate", "add ?ssl_ca_certs=FILE to the address, or correct the certificate"),
    ("resolved", "check the name of the host"),
    ("refused", "start it, or check host and port"),
    ("socket", "start it, or check the path"),
    ("sentinel", "check the name of the service, and that its master is up"),
    ("no Redis", "check host and port; a server with TLS needs rediss://"),
    ("", "check host, port and network"),
)
"""What to do, by a word of the trouble; the first that fits."""


@dataclass(frozen=True, slots=True)
class StateFinding:
    """What was found about one store.

    Attributes:
        kind: ``sqlite`` or ``redis``.
        reach: Whether it can be used.
        place: Its file or its address, without credentials.
        detail: What was found, in words.
        suggestion: What to do about it; empty when nothing is to be done.
        facts: The same for programs.
    """

    kind: str
    reach: Reach
    place: str
    detail: str
    suggestion: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


async def check_state(settings: StateSettings) -> list[StateFinding]:
    """Look at the state file, and at the Redis server if one is named."""
    findings = [await asyncio.to_thread(check_file)]
    if settings.redis_url is not None:
        findings.append(await check_redis(settings))
    return findings


# -- the file ----------------------------------------------------------------------------------


def check_file(path: Path | None = None) -> StateFinding:
    """Look at the state file, by default the user's, without changing it."""
    from smartfallback.state.sqlite import default_state_path

    path = path or default_state_path()
    place = _shortened(path)
    try:
        if not path.exists():
            return _no_file(path, place)
        size = path.stat().st_size
    except OSError as error:
        words = f"can't be read: {error.strerror or error}"
        return StateFinding("sqlite", Reach.FAILING, place, words, "make the folder accessible to you")
    facts: dict[str, object] = {"bytes": size}
    try:
        version, trouble, suggestion = _read(path)
    except sqlite3.Error as error:
        from smartfallback.state.database import damaged

        if damaged(error):
            words = f"{_bytes(size)}, damaged ({error})"
            to_do = "the next start sets it aside and keeps what can still be read; make a copy before"
        else:
            words, to_do = (
                f"{_bytes(size)}, can't be read: {error}",
                "make the file readable and writable for you",
            )
        return StateFinding("sqlite", Reach.FAILING, place, words, to_do, facts)
    facts["format"] = version
    if trouble:
        return StateFinding("sqlite", Reach.FAILING, place, f"{_bytes(size)}, {trouble}", suggestion, facts)
    words = f"{_bytes(size)}, format {version}"
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        to_do = "make the file and its folder writable for you"
        return StateFinding("sqlite", Reach.FAILING, place, f"{words}, can't be written", to_do, facts)
    return StateFinding("sqlite", Reach.OK, place, words, facts=facts)


def _no_file(path: Path, place: str) -> StateFinding:
    folder = next(parent for parent in path.parents if parent.exists())
    if os.access(folder, os.W_OK | os.X_OK):
        return StateFinding("sqlite", Reach.OK, place, "not there yet; it is made at the first start")
    words = f"not there, and {_shortened(folder)} can't be written"
    return StateFinding("sqlite", Reach.FAILING, place, words, "make that folder writable for you")


def _read(path: Path) -> tuple[int, str, str]:
    """The version of the file's format, what is wrong with the file, and what to do about it."""
    from smartfallback.state.database import APPLICATION_ID, SCHEMA_VERSION

    uri = path.absolute().as_uri() + "?mode=ro"
    if not path.with_name(path.name + "-wal").exists():
        uri += "&immutable=1"  # otherwise SQLite wants to make its files beside it
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=LIMIT_S)) as connection:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION_ID and (application, version, tables) != (0, 0, 0):
            return version, "is another program's database", "move it away: it is left as it is"
        if version > SCHEMA_VERSION:
            words = f"has format {version}, where this version knows {SCHEMA_VERSION}"
            return version, words, "update SmartFallback, or move the file away"
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            words = "is damaged: " + " ".join(str(found).split())
            return version, words, "the engine keeps what can still be read; make a copy before"
    return version, "", ""


def _bytes(size: int) -> str:
    if size < 1024:
        return f"{size} bytes"
    return f"{size / 1024:.0f} KiB" if size < 1024**2 else f"{size / 1024**2:.1f} MiB"


def _shortened(path: Path) -> str:
    with contextlib.suppress(ValueError, RuntimeError):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)


# -- the server --------------------------------------------------------------------------------


async def check_redis(settings: StateSettings) -> StateFinding:
    """Look at the server that the settings name, which must name one.

    Raises:
        ValueError: They name none.
    """
    from smartfallback.clock import SystemClock
    from smartfallback.state.redis_store.address import Kind, parse
    from smartfallback.state.redis_store.link import RedisLink

    if settings.redis_url is None:
        raise ValueError("no server is named")
    address = parse(settings.redis_url)
    form = "standalone" if address.kind is Kind.SINGLE else address.kind.value
    link = RedisLink(settings.redis_url, SystemClock(), prefix=settings.prefix)
    try:
        await link.start()
        return await _asked(link, form, settings)
    finally:
        await link.aclose()


async def _asked(link: RedisLink, form: str, settings: StateSettings) -> StateFinding:
    from smartfallback.state.shared import StoreLostError

    facts: dict[str, object] = {
        "form": form,
        "mode": settings.mode.value,
        "prefix": settings.prefix,
        "source": settings.source,
    }
    status = link.status
    # Right after the start, no verdict means that nothing came back.
    silent = status.degraded_since is None and not status.reachable
    trouble, info, trips = SILENT if silent else status.trouble, dict[str, str](), list[float]()
    if status.reachable:
        try:
            for _ in range(_ROUND_TRIPS):
                before = time.perf_counter()
                await link.command("PING", limit_s=LIMIT_S)
                trips.append(time.perf_counter() - before)
            for section in ("server", "memory"):
                info |= _fields(await link.command("INFO", section, limit_s=LIMIT_S))
        except StoreLostError as error:
            trouble = trouble or str(error)
    facts |= {"reachable": status.reachable, "within_request_limit": status.usable}
    if not status.reachable:
        reach = Reach.REFUSED if "password" in trouble or "user may not" in trouble else Reach.UNREACHABLE
        if any(word in trouble for word in ("replica", "memory is full", "disk", "loading", "cluster")):
            reach = Reach.FAILING
        return StateFinding("redis", reach, link.place, trouble, _to_do(trouble), facts)
    version = info.get("redis_version", "")
    words = [f"Redis {version}" if version else "Redis", form, "takes writes"]
    facts["version"] = version
    if trips:
        facts["round_trip_ms"] = round(min(trips) * 1_000, 3)
        words.append(f"{min(trips) * 1_000:.2f} ms away")
    offset = link.offset_s
    facts["clock_offset_s"] = round(offset, 4)
    words.append(f"its clock {_clock_words(offset)}")
    evicts = _evicts(info)
    if evicts:
        facts["evicts"] = evicts
    if not status.usable:
        words.append(f"too slow for requests: {trouble}" if trouble else "too slow for requests")
        slow = "requests will go on from memory; a server nearer to this machine would be waited for"
        return StateFinding("redis", Reach.FAILING, link.place, ", ".join(words), slow, facts)
    return StateFinding("redis", Reach.OK, link.place, ", ".join(words), _advice(offset, evicts), facts)


def _clock_words(offset: float) -> str:
    milliseconds = abs(offset) * 1_000
    if milliseconds < 1:
        return "agrees with this machine's"
    size = f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1_000:.0f} s"
    return f"is {size} {'ahead' if offset > 0 else 'behind'}"


def _evicts(info: Mapping[str, str]) -> str:
    """The rule by which a full server throws keys away; empty when it keeps them, or can't get full."""
    policy = info.get("maxmemory_policy", "noeviction")
    return "" if policy == "noeviction" or info.get("maxmemory", "0") == "0" else policy


def _advice(offset: float, evicts: str) -> str:
    """What is worth changing although it works."""
    advice = []
    if evicts:
        advice.append(
            f"set its maxmemory-policy to noeviction: with {evicts} it may throw state away when full"
        )
    if abs(offset) >= _CLOCK_NOTED_FROM_S:
        advice.append("set the clocks of both machines by NTP")
    return "; ".join(advice)


def _to_do(trouble: str) -> str:
    return next(to_do for word, to_do in _TO_DO if word in trouble)


def _fields(answer: Any) -> dict[str, str]:
    """The fields of INFO's answer: a line each, name and value divided by a colon."""
    lines = (line.partition(":") for line in str(answer).splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, divided, value in lines if divided}
