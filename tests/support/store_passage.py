"""A steady load that goes on while a shared store's trouble comes and goes, and what came of it."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.instances import Instance
from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer
from support.shared_rows import Row, Rows
from support.store_troubles import Trouble
from support.upstream_journal import read_journal, spent

FIRST = "a-1"
BACK_LIMIT_S = 10.0
EXACT_LIMIT_S = 5.0


@dataclass(frozen=True)
class Met:
    """What one instance met.

    Attributes:
        answered: Requests that were.
        failed: Requests that were not, for ``reasons``.
        dispatched: Seconds from each request to the upstream that it asked.
        waited: The same without the time in which the process itself could not run.
        late: By how many seconds the process itself was late, looked at every 5 ms.
        lines: What it logged about its state.
        complaints: What it logged besides.
        notices: What it told its operator about its state.
        noticed_s: Seconds from the trouble's begin until the operator could see it; None if never.
        back_s: Seconds from its end until the operator could see that it was over.
    """

    instance: str
    answered: int
    failed: int
    reasons: Mapping[str, int]
    dispatched: Sequence[float]
    waited: Sequence[float]
    late: Sequence[float]
    lines: Sequence[str]
    complaints: Sequence[str]
    notices: Sequence[str]
    noticed_s: float | None
    back_s: float


@dataclass(frozen=True)
class Passage:
    """What all instances met.

    Attributes:
        truth: What the upstream has answered for, ever.
        row: What is shared, after it has agreed with the truth or has had time to.
        seen: What each instance then takes for used.
    """

    met: Sequence[Met]
    truth: int
    row: Row
    seen: Mapping[str, float]

    @property
    def exact(self) -> bool:
        """Whether what is shared is the truth, and every instance knows it."""
        return self.row.used == self.truth and all(used == self.truth for used in self.seen.values())


def is_well(view: Any) -> bool:
    """Whether a snapshot shows its store as well."""
    return view["store"]["degraded_since"] is None


def waited(dispatched: Sequence[tuple[float, float]], late: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds that each request waited for something else than its own process.

    Args:
        dispatched: When each request was made, and how long it took.
        late: When the process wanted to run, and how late it did, in the order of time.
    """
    due = [at for at, _ in late]
    found = []
    for made_at, took in dispatched:
        # A wish to run from before the request may be fulfilled, late, after it.
        first = max(0, bisect.bisect_left(due, made_at) - 1)
        lost = sum(
            max(0.0, min(at + behind, made_at + took) - max(at, made_at))
            for at, behind in late[first : bisect.bisect_right(due, made_at + took)]
        )
        found.append(max(0.0, took - lost))
    return found


class Passages:
    """Lets troubles come and go, one after the other.

    Args:
        server: The store.
        proxy: The instances' way to it.
        instances: They serve the first account.
        rows: The account's rows.
        journal: The upstream's journal.
        rate: Requests a second of each instance.
    """

    def __init__(
        self,
        server: RedisServer,
        proxy: TcpProxy,
        instances: Sequence[Instance],
        rows: Rows,
        journal: Path,
        rate: float,
    ) -> None:
        self._server = server
        self._proxy = proxy
        self._instances = instances
        self._rows = rows
        self._journal = journal
        self._rate = rate
        self._lines = dict.fromkeys((instance.name for instance in instances), 0)

    async def through(self, trouble: Trouble, seconds: float, *, around_s: float = 0.3) -> Passage:
        """Let a trouble last for so long; the load begins before and ends after it."""
        for instance in self._instances:
            await self._told(instance)
        under_way = [instance.begin("load", rate=self._rate) for instance in self._instances]
        await asyncio.sleep(around_s)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        trouble.begin(self._server, self._proxy)
        noticed: dict[str, float] = {}
        noticing = [asyncio.create_task(self._notice(each, begun, noticed)) for each in self._instances]
        await asyncio.sleep(max(0.0, begun + seconds - loop.time()))
        for task in noticing:
            task.cancel()
        await asyncio.gather(*noticing, return_exceptions=True)
        ended = loop.time()
        trouble.end(self._server, self._proxy)
        back = await asyncio.gather(*(self._back(each, ended) for each in self._instances))
        await asyncio.sleep(around_s)
        await asyncio.gather(*(each.ask("stop_load") for each in self._instances))
        results = await asyncio.gather(*under_way)
        met = [
            await self._met(each, result, noticed.get(each.name), back_s)
            for each, result, back_s in zip(self._instances, results, back, strict=True)
        ]
        return await self._agreed(met)

    async def _notice(self, instance: Instance, begun: float, noticed: dict[str, float]) -> None:
        await instance.until(lambda view: not is_well(view), limit_s=60.0)
        noticed[instance.name] = asyncio.get_running_loop().time() - begun

    async def _back(self, instance: Instance, ended: float) -> float:
        await instance.until(is_well, limit_s=BACK_LIMIT_S)
        return asyncio.get_running_loop().time() - ended

    async def _told(self, instance: Instance) -> tuple[list[str], list[str], list[str]]:
        """What an instance logged about its state, and besides, and told its operator, since it was asked."""
        told = await instance.ask("lines")
        lines = [line["text"] for line in told["state"]]
        begun, self._lines[instance.name] = self._lines[instance.name], len(lines)
        events = await instance.ask("events", kinds=["StateNotice"])
        return lines[begun:], told["complaints"], [event["message"] for event in events["events"]]

    async def _met(self, instance: Instance, result: Any, noticed_s: float | None, back_s: float) -> Met:
        lines, complaints, notices = await self._told(instance)
        return Met(
            instance.name,
            result.get("answered", 0),
            result.get("failed", 0),
            result["reasons"],
            [took for _, took in result["dispatched"]],
            waited(result["dispatched"], result["late"]),
            [late for _, late in result["late"]],
            lines,
            complaints,
            notices,
            noticed_s,
            back_s,
        )

    async def _agreed(self, met: Sequence[Met]) -> Passage:
        deadline = asyncio.get_running_loop().time() + EXACT_LIMIT_S
        while True:
            truth = sum(spent(read_journal(self._journal)).values())
            row = await self._rows.read()
            seen = {}
            for instance in self._instances:
                account = await instance.account(FIRST)
                seen[instance.name] = account["windows"][0]["used"]
            passage = Passage(met, truth, row, seen)
            if passage.exact or asyncio.get_running_loop().time() > deadline:
                return passage
            await asyncio.sleep(0.05)
