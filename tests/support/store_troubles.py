"""What can become of a shared store while instances use it, one trouble after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer

FULL_BYTES = 1
"""So little memory is always too little."""


@dataclass(frozen=True)
class Trouble:
    """One way in which a store fails.

    Attributes:
        name: In words.
        begin: Makes it so.
        end: Makes it well again.
        lines: How often its state changes at most while it comes and goes, as one instance sees it: it may be
            slow before it is lost and after it is back.
        noticed: Whether the instances have to notice; what is lost at once they may only mend.
    """

    name: str
    begin: Callable[[RedisServer, TcpProxy], object]
    end: Callable[[RedisServer, TcpProxy], object]
    lines: int = 4
    noticed: bool = True


def _nothing(server: RedisServer, proxy: TcpProxy) -> None:
    pass


def _delay(server: RedisServer, proxy: TcpProxy) -> None:
    proxy.delay_s = 0.2


def _no_delay(server: RedisServer, proxy: TcpProxy) -> None:
    proxy.delay_s = 0.0


def _read_only(server: RedisServer, proxy: TcpProxy) -> None:
    # A replica of a master that isn't there keeps what it has and takes no writes.
    server.command("REPLICAOF", "127.0.0.1", "1")


WELL = Trouble("well", _nothing, _nothing, lines=0, noticed=False)
TROUBLES = (
    Trouble("killed and back empty", lambda server, _: server.kill(), lambda server, _: server.start()),
    Trouble("frozen", lambda server, _: server.freeze(), lambda server, _: server.thaw()),
    Trouble("200 ms away", _delay, _no_delay),
    Trouble("flushed", lambda server, _: server.flush(), _nothing, noticed=False),
    Trouble("restarted empty", lambda server, _: server.restart(empty=True), _nothing, noticed=False),
)
"""What every deployment meets sooner or later."""
RARER_TROUBLES = (
    Trouble("read-only", _read_only, lambda server, _: server.promote()),
    Trouble(
        "full",
        lambda server, _: server.command("CONFIG", "SET", "maxmemory", FULL_BYTES),
        lambda server, _: server.command("CONFIG", "SET", "maxmemory", 0),
    ),
    Trouble("cut off", lambda _, proxy: proxy.swallow(), lambda _, proxy: proxy.pass_on()),
    Trouble("refused", lambda _, proxy: proxy.refuse(), lambda _, proxy: proxy.accept()),
)
