"""The scripts about quotas on a real Redis server, at a time that a test sets."""

from __future__ import annotations

import itertools
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import redis
from redis.exceptions import NoScriptError

from smartfallback.model.quota import TruthLabel
from smartfallback.model.sharing import (
    AccountReport,
    CountBase,
    HoldRequest,
    QuotaReply,
    SharedWindow,
    WindowReport,
)
from smartfallback.state.redis_store.keys import Keys, QuotaKeys
from smartfallback.state.redis_store.quota import QuotaScripts
from smartfallback.state.redis_store.scripts import Script, script
from smartfallback.state.shared import StoreLostError
from support.redis_servers import RedisServer

START: Final = 1_800_000_000.0
ACCOUNT: Final = "ag-1"
KEY: Final = "week.tokens.0"
SPAN: Final = 1000.0
LEASE: Final = 10.0
_TIME: Final = "redis.call('TIME')"
_SET_TIME: Final = "redis.call('LRANGE', 'test:time', 0, 1)"

T = TypeVar("T")
Call = tuple[Script, Sequence[str], Sequence[str | bytes]]


class PlainLink:
    """Runs scripts without time-outs, and can lose what goes either way.

    Attributes:
        sent: All calls that were made, to be made again.
        lose: "" for nothing, "reply" to run and not to tell, "request" not to run.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.sent: list[Call] = []
        self.lose = ""

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], *, limit_s: float
    ) -> Any:
        self.sent.append((script, keys, args))
        if self.lose == "request":
            raise StoreLostError("lost on the way")
        reply = self.replay((script, keys, args))
        if self.lose:
            raise StoreLostError("no reply")
        return reply

    async def run_many(self, calls: Sequence[Call], *, limit_s: float) -> list[Any]:
        return [await self.run(*call, limit_s=limit_s) for call in calls]

    def replay(self, call: Call) -> Any:
        """Make a call as it was made before."""
        script, keys, args = call
        try:
            return self._client.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return self._client.eval(script.text, len(keys), *keys, *args)


def _ended(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits: a loop would cost more than the scripts."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


def _timed(name: str) -> Script:
    real = script(name, after="quota")
    if real.text.count(_TIME) != 1:
        raise AssertionError("the time is asked for in one place")
    return Script.of(name, real.text.replace(_TIME, _SET_TIME))


class QuotaStore:
    """One server, emptied, with a clock of its own; each instance has its own scripts object."""

    def __init__(self, server: RedisServer) -> None:
        self.client = redis.Redis(unix_socket_path=str(server.socket), decode_responses=True)
        self._raw = redis.Redis(unix_socket_path=str(server.socket))
        self.keys: QuotaKeys = Keys("test").quota(ACCOUNT)
        self.links: dict[str, PlainLink] = {}
        self._scripts: dict[str, QuotaScripts] = {}
        self._ids = itertools.count(1)
        self.now = START
        self.client.flushall()
        self.at(START)

    def at(self, now: float) -> None:
        """Set the server's time, to the ten-thousandth of a second that the scripts reckon with."""
        self.now = round(now, 4)
        seconds, rest = divmod(round(self.now * 1_000_000), 1_000_000)
        with self.client.pipeline() as pipe:
            pipe.delete("test:time")
            pipe.rpush("test:time", seconds, rest)
            pipe.execute()

    def after(self, seconds: float) -> None:
        """Let time pass."""
        self.at(self.now + seconds)

    def flush(self) -> None:
        """Lose everything; time goes on."""
        self.client.flushall()
        self.at(self.now)

    def copy(self) -> dict[str, bytes]:
        """What a replica would have now, or a file on disk."""
        rows = {key: self._raw.dump(key) for key in self.stored()}
        return {key: row for key, row in rows.items() if row is not None}

    def go_back(self, copy: Mapping[str, bytes]) -> None:
        """Be as at the time of that copy; time goes on."""
        self.flush()
        for key, row in copy.items():
            self._raw.restore(key, 0, row)

    def link(self, instance: str) -> PlainLink:
        """The instance's way to the server."""
        self.scripts(instance)
        return self.links[instance]

    def scripts(self, instance: str) -> QuotaScripts:
        """The instance's scripts."""
        if instance not in self._scripts:
            self.links[instance] = PlainLink(self.client)
            self._scripts[instance] = QuotaScripts(
                self.links[instance], Keys("test"), report=_timed("report"), reserve=_timed("reserve")
            )
        return self._scripts[instance]

    def report(
        self,
        instance: str,
        *windows: WindowReport,
        ended: tuple[str, ...] = (),
        reply: QuotaReply | None = None,
        restore: Mapping[str, SharedWindow] | None = None,
        lease_s: float = LEASE,
        also: tuple[str, ...] = (),
    ) -> QuotaReply:
        """One account's report, after ``reply``."""
        version, epoch = (0, "") if reply is None else (reply.version, reply.epoch)
        told = AccountReport(ACCOUNT, windows, ended, version, epoch, restore, also)
        (answer,) = _ended(self.scripts(instance).report(instance, [told], lease_s=lease_s))
        return answer

    def reserve(
        self,
        instance: str,
        amount: float | Mapping[str, float],
        *windows: WindowReport,
        id: str = "",  # noqa: A002 - as the request names it
        most: int = 100,
        reply: QuotaReply | None = None,
        lease_s: float = LEASE,
        ended: tuple[str, ...] = (),
    ) -> QuotaReply:
        """One reservation, of ``amount`` in the usual window unless told otherwise."""
        version, epoch = (0, "") if reply is None else (reply.version, reply.epoch)
        hold = HoldRequest(
            id=id or f"hold-{next(self._ids)}",
            account=ACCOUNT,
            amounts=amount if isinstance(amount, Mapping) else {KEY: amount},
            windows=windows or (window(),),
            lease_s=lease_s,
            most_running=most,
            version=version,
            epoch=epoch,
            ended=ended,
        )
        return _ended(self.scripts(instance).reserve(instance, hold))

    def stored(self) -> dict[str, object]:
        """All that is stored, but for the time, to be compared."""
        found: dict[str, object] = {}
        for key in sorted(map(str, self.client.keys("test:{*"))):
            if self.client.type(key) == "hash":
                found[key] = self.client.hgetall(key)
            else:
                found[key] = self.client.zrange(key, 0, -1, withscores=True)
        return found


def window(
    spent: float = 0.0,
    *,
    key: str = KEY,
    cap: float = 100.0,
    start: float = START,
    span: float = SPAN,
    held: float = 0.0,
    want: float = 0.0,
    need: float = 0.0,
    base: CountBase | None = None,
    keeps: float = 0.0,
) -> WindowReport:
    """An instance's side of the usual window, which begins at :data:`START`."""
    return WindowReport(key, start, start + span, cap, spent, held, want, need, base, keeps)


def reading(used: float, at: float, **mark: float) -> CountBase:
    """What a source said."""
    return CountBase(used, at, TruthLabel.REPORTED, mark)
