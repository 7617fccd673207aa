"""A caller may go away at any moment: at each turn of the loop that a request takes, over real HTTP.

The same request is run again and again and cancelled one turn later each time, until it ends first. One
turn after the cancellation nothing may be held any more, and nobody may be blamed for what was not an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from smartfallback import (
    AccountSpec,
    AccountView,
    ChainSpec,
    OnBreak,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QueueTerms,
    Request,
    RequestError,
    Secret,
    SystemSpec,
    Timeouts,
)
from smartfallback.model.specs import QuotaSourceRule
from support.faulty_upstream import FaultyUpstream, Ill, answer, faulty_upstream
from support.jumping_loop import JumpingLoop, LoopClock, run
from support.lab_systems import WEEKLY
from support.leftovers import held, tasks, unfinished

MOST_TURNS = 2_000
EACH_TURN_UP_TO = 60
"""Every turn up to this is tried, then one in eleven: long waits are many turns that are alike."""


@dataclass(frozen=True)
class Way:
    """A request's way through two upstreams, the first of which fails as ``ills`` say, call by call."""

    name: str
    ills: tuple[Ill | None, ...] = ()
    stream: bool = True
    hedge_after_s: float | None = None
    busy: bool = False
    """The only place is taken by another caller for a while."""
    alone: bool = False
    """There is no second upstream."""
    queued: bool = False
    fails: bool = False
    """Left alone, the request ends in an error."""


WAYS = (
    Way("a stream"),
    Way("a whole answer", stream=False),
    Way("a switch", (Ill.RESET,)),
    Way("a switch of a whole answer", (Ill.STATUS,), stream=False),
    Way("back-off", (Ill.OVERLOAD, Ill.OVERLOAD), alone=True),
    Way("a stated wait", (Ill.BURST,), alone=True),
    Way("a slow first token", (Ill.SLOW,)),
    Way("no first token", (Ill.STALL,)),
    Way("no response", (Ill.SILENT,)),
    Way("a hedge", (Ill.STALL,), hedge_after_s=0.1),
    Way("a hedge that loses", (Ill.SLOW,), hedge_after_s=0.02),
    Way("a break and a second candidate that goes on", (Ill.CLEAN_CUT,)),
    Way("a stream that stands still and is continued", (Ill.STALL_MID,)),
    Way("the line", busy=True, alone=True),
    Way("the queue", (Ill.RESET,) * 3, alone=True, queued=True),
    Way("an error", (Ill.HTML,) * 4, alone=True, fails=True),
)


def pool(name: str, upstream: FaultyUpstream, places: int) -> PoolSpec:
    return PoolSpec(
        name=name,
        provider=ProviderKind.OPENAI,
        provider_id=name,
        accounts=(AccountSpec(f"{name}-1", Secret(f"key-of-{name}"), WEEKLY, max_concurrency=places),),
        model="m",
        base_url=upstream.openai_url,
        timeouts=Timeouts(connect_s=1.0, first_token_s=0.4, idle_s=0.4),
        quota_source=QuotaSourceRule.NONE,
    )


class Script:
    """Faults in the order in which they are due; then none."""

    def __init__(self, ills: tuple[Ill | None, ...]) -> None:
        self._ills = ills
        self.rewind()

    def rewind(self) -> None:
        self._due = iter(self._ills)

    def __call__(self) -> Ill | None:
        return next(self._due, None)


@asynccontextmanager
async def orchestrator_for(way: Way, servers: list[FaultyUpstream]) -> AsyncIterator[Orchestrator]:
    pools = (pool("first", servers[0], 1 if way.busy else 8), pool("second", servers[1], 8))
    pools = pools[:1] if way.alone else pools
    chain = ChainSpec(
        "default",
        tuple(entry.name for entry in pools),
        timeout_s=20.0,
        hedge_after_s=way.hedge_after_s,
        on_break=OnBreak.CONTINUE,
    )
    async with Orchestrator(SystemSpec(pools, (chain,)), clock=LoopClock()) as orchestrator:
        yield orchestrator


@dataclass
class Seen:
    """What was there one turn after the cancellation."""

    held: dict[str, float]
    accounts: list[AccountView]


async def cancelled_at(way: Way, turn: int, servers: list[FaultyUpstream], script: Script) -> bool:
    """Cancel the way's request in that turn; whether it was still running then."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    script.rewind()
    async with orchestrator_for(way, servers) as orchestrator:
        calm = tasks()
        request = replace(
            Request.ask("Count."), stream=way.stream, queue=QueueTerms(5.0) if way.queued else None
        )
        other: asyncio.Task[object] | None = None
        if way.busy:
            other = asyncio.create_task(orchestrator.chat(Request.ask("Count.")))
            await asyncio.sleep(0.001)
            assert servers[0].open_calls == 1
        mine = asyncio.create_task(orchestrator.chat(request))
        begun, seen = loop.selector.turns, Seen({}, [])
        expected = {"first-1": 1} if other is not None else {}

        def on_turn(number: int) -> bool:
            if number == begun + turn and not mine.done():
                return mine.cancel()
            if number == begun + turn + 1:
                seen.held = held(orchestrator, loop.time())
                view = orchestrator.snapshot()
                seen.accounts = [account for entry in view.pools for account in entry.accounts]
            return False

        loop.selector.on_turn = on_turn
        try:
            text: str | None = None
            try:
                text = (await mine).text
            except asyncio.CancelledError:
                pass
            except RequestError:
                assert way.fails
        finally:
            loop.selector.on_turn = None
        if not mine.cancelled():
            assert way.fails or text == answer(), f"turn {turn}: {text}"
            return False
        failed = sum(account.failures for account in seen.accounts)
        assert failed <= len(way.ills), f"turn {turn}: somebody is blamed"
        if other is None:
            assert seen.held == {}, f"turn {turn} after the start: {seen.held}"
        else:
            assert seen.held.get("first-1: requests in flight", 0) <= expected["first-1"], f"turn {turn}"
            assert await asyncio.gather(other)
        await asyncio.sleep(0.01)
        assert held(orchestrator, loop.time()) == {}, f"turn {turn}"
        assert unfinished(orchestrator) == 0, f"turn {turn}"
        left = tasks() - calm
        assert set(left) <= {"FaultyUpstream.serve"}, f"turn {turn}: {left}"
        async with asyncio.timeout(0.1):  # by the loop's time: what the server needs to notice
            await asyncio.gather(*(server.silence.wait() for server in servers))
        view = orchestrator.snapshot()
        states = {str(entry.provider_circuit.state) for entry in view.pools}
        assert states == {"closed"}, f"turn {turn}: {states}"
        await asyncio.sleep(0.05)  # by the loop's time: the rest that the upstream stated
        # What was given back can be used again.
        script.rewind()
        for _ in way.ills:
            script()
        assert (await orchestrator.chat(Request.ask("Count."))).text == answer(), f"turn {turn}"
    return True


async def cancelled_everywhere(way: Way) -> int:
    """How many turns the request took; it was cancelled in each of them."""
    script = Script(way.ills)
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(faulty_upstream(FaultyUpstream(draw, pace_s=0.005)))
            for draw in (script, lambda: None)
        ]
        turn = 1
        while await cancelled_at(way, turn, servers, script):
            turn += 1 if turn < EACH_TURN_UP_TO else 11
            assert turn < MOST_TURNS
    return turn


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_cancelled_in_any_turn_everything_is_given_back_in_the_next(way: Way):
    assert run(cancelled_everywhere(way)) > 10
