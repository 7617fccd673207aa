"""What the link promises to its callers while the server is well, and while it is frozen or lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from smartfallback.clock import SystemClock
from smartfallback.state.redis_store.link import BACKGROUND_LIMIT_S, REQUEST_LIMIT_S, RedisLink
from smartfallback.state.redis_store.scripts import Script
from smartfallback.state.shared import StoreLostError
from support.clock import FakeClock
from support.leftovers import tasks
from support.redis_links import link_to
from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer
from support.waiting import until

PATIENT = 10.0
"""A limit for what is not about time: the machine may be busy."""
ECHO = Script.of("echo", "return ARGV[1]")
COUNT = Script.of("count", "return redis.call('INCR', KEYS[1])")
BUSY = Script.of(
    "busy",
    """local t = redis.call('TIME') local from = t[1] * 1000000 + t[2]
    repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] - from > tonumber(ARGV[1]) * 1000
    return ARGV[1]""",
)


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def link(server):
    async with link_to(server) as link:
        yield link


async def echo(link: RedisLink, word: str, limit_s: float = REQUEST_LIMIT_S) -> Any:
    return await link.run(ECHO, ["key"], [word], limit_s=limit_s)


async def in_time(link: RedisLink, word: str) -> Any:
    """What a request gets, on a machine that may be too busy for one within the budget now and then."""
    async with asyncio.timeout(15):
        while True:
            await until(lambda: link.status.usable)
            with contextlib.suppress(StoreLostError):
                return await echo(link, word)


def refusal_at_once(call: Coroutine[Any, Any, Any]) -> str:
    """Why a call is refused without waiting for anything, not even one turn of the loop."""
    with pytest.raises(StoreLostError) as refused:
        call.send(None)
    return str(refused.value)


# -- while all is well


async def test_scripts_and_commands_are_answered(link, server):
    assert (link.status.usable, link.status.reachable, link.status.trouble) == (True, True, "")
    assert link.status.lag_s is not None
    assert await in_time(link, "grün") == "grün"
    assert await link.command("HSET", "h", "a", 1, "b", b"2", limit_s=PATIENT) == 2
    assert await link.command("HGETALL", "h", limit_s=PATIENT) == ["a", "1", "b", "2"]
    three = [("GET", "x"), ("SET", "x", 1.5), ("GET", "x")]
    assert await link.command_many(three, limit_s=PATIENT) == [None, "OK", "1.5"]
    assert server.command("GET", "x") == "1.5"


async def test_a_thousand_scripts_are_answered_in_order(link):
    calls = [(ECHO, [f"key-{number}"], [str(number)]) for number in range(1000)]
    assert await link.run_many(calls, limit_s=PATIENT) == [str(number) for number in range(1000)]
    assert await link.run_many([], limit_s=PATIENT) == []


async def test_a_hundred_callers_share_two_connections(link, server):
    before = server.command("INFO", "stats")["total_connections_received"]
    words = [str(number) for number in range(100)]
    assert await asyncio.gather(*(in_time(link, word) for word in words)) == words
    assert server.clients() == 2
    assert server.command("INFO", "stats")["total_connections_received"] == before


async def test_flushed_scripts_are_loaded_by_the_call_that_misses_them(link, server):
    assert await echo(link, "before", PATIENT) == "before"
    server.flush()
    words = [str(number) for number in range(10)]
    assert await asyncio.gather(*(echo(link, word, PATIENT) for word in words)) == words
    server.flush()
    assert await link.run_many([(COUNT, ["n"], [])] * 5, limit_s=PATIENT) == [1, 2, 3, 4, 5]
    assert link.status.usable


async def test_a_request_does_not_stand_behind_a_long_report(link):
    report = asyncio.create_task(
        link.run_many([(ECHO, [f"{n}"], ["x" * 100]) for n in range(10_000)], limit_s=PATIENT)
    )
    await asyncio.sleep(0)
    assert await in_time(link, "quick") == "quick"
    assert not report.done()
    assert len(await report) == 10_000


async def test_what_one_command_is_refused_harms_no_other_and_is_told_once(link, server, caplog):
    server.command("SET", "text", "x")
    for _ in range(3):
        with pytest.raises(StoreLostError, match="WRONGTYPE"):
            await link.command("HGETALL", "text", limit_s=PATIENT)
    assert link.status.reachable
    assert len([record for record in caplog.records if "WRONGTYPE" in record.getMessage()]) == 1


async def test_the_clocks_are_compared(server):
    clock = FakeClock(at=1_000_000_000.0)
    link = RedisLink(server.url, clock)
    assert link.offset_s == 0.0
    await link.start()
    seconds, _ = server.command("TIME")
    assert link.offset_s == pytest.approx(float(seconds) - 1_000_000_000.0, abs=5)
    await link.aclose()


# -- whose reply is whose


async def test_every_caller_gets_its_own_reply_whoever_gives_up_meanwhile(link):
    rng = random.Random(7)
    wrong: list[tuple[str, Any]] = []
    answered = 0

    async def caller(number: int) -> None:
        nonlocal answered
        for turn in range(12):
            word = f"{number}-{turn}"
            task = asyncio.create_task(echo(link, word, PATIENT))
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            if rng.random() < 0.4:
                task.cancel()
            try:
                reply = await task
            except asyncio.CancelledError:
                continue
            answered += 1
            if reply != word:
                wrong.append((word, reply))

    await asyncio.gather(*(caller(number) for number in range(50)))
    assert not wrong
    assert answered > 100
    assert await in_time(link, "after") == "after"


async def test_a_late_reply_reaches_nobody_else(link, server):
    server.freeze()
    with pytest.raises(StoreLostError, match="no answer within 50 ms"):
        await echo(link, "late")
    server.thaw()
    assert [await in_time(link, f"{number}") for number in range(3)] == ["0", "1", "2"]


# -- a server that does not answer


async def test_after_one_request_waited_for_nothing_no_other_waits(link, server):
    server.freeze()
    callers = [asyncio.create_task(echo(link, "x")) for _ in range(20)]
    in_the_background = asyncio.create_task(echo(link, "x", BACKGROUND_LIMIT_S))
    done, _ = await asyncio.wait([*callers, in_the_background], return_when=asyncio.FIRST_COMPLETED)
    assert done <= {*callers}
    assert "no answer within 50 ms" in refusal_at_once(echo(link, "y"))
    assert (link.status.usable, link.status.reachable) == (False, True)
    await asyncio.wait(callers)
    assert not in_the_background.done()
    assert all("no answer within 50 ms" in str(caller.exception()) for caller in callers)
    with pytest.raises(StoreLostError):
        await in_the_background
    await until(lambda: not link.status.reachable)
    assert "no answer within 1 s" in refusal_at_once(echo(link, "y", BACKGROUND_LIMIT_S))
    server.thaw()
    assert await in_time(link, "back") == "back"


async def test_a_frozen_server_is_noticed_without_any_request(link, server):
    server.freeze()
    await until(lambda: not link.status.usable)
    assert link.status.degraded_since is not None


async def test_a_freeze_costs_a_line_a_change(link, server, caplog):
    caplog.set_level("INFO", "smartfallback.state")
    server.freeze()
    heard = []
    link.on_change(heard.append)
    await until(lambda: not link.status.reachable)
    for _ in range(200):
        refusal_at_once(echo(link, "x"))
        await asyncio.sleep(0)
    server.thaw()
    await until(lambda: link.status.usable)
    assert len(caplog.records) == len(heard) == 3
    assert [(status.usable, status.reachable) for status in heard] == [
        (False, True),
        (False, False),
        (True, True),
    ]


async def test_a_loop_that_was_held_up_does_not_blame_the_server(link):
    await in_time(link, "known from now on")
    with RedisServer(unix=True) as other:
        call = asyncio.create_task(echo(link, "x"))
        await asyncio.sleep(0)
        # The reply arrives while this holds the loop for longer than the whole budget.
        other.command("EVAL", BUSY.text, 1, "k", 150)
        assert await call == "x"
    assert link.status.usable


async def test_a_server_busy_with_somebody_elses_script_is_not_waited_for(link, server):
    async with link_to(server) as other:
        busy = asyncio.create_task(other.run(BUSY, ["k"], ["300"], limit_s=BACKGROUND_LIMIT_S))
        await asyncio.sleep(0)
        with contextlib.suppress(StoreLostError):
            while True:
                await echo(link, "x")
        assert not link.status.usable
        assert await busy == "300"
        assert await in_time(link, "x") == "x"


# -- a server that goes


async def test_calls_under_way_are_told_and_all_goes_on_with_the_next_server(link, server):
    calls = [asyncio.create_task(link.run(BUSY, ["k"], ["800"], limit_s=1)) for _ in range(3)]
    await asyncio.sleep(0.01)
    server.kill()
    await asyncio.wait(calls)
    assert all(isinstance(call.exception(), StoreLostError) for call in calls)
    assert refusal_at_once(echo(link, "x")) == refusal_at_once(echo(link, "x", BACKGROUND_LIMIT_S))
    server.start()
    await link.wait_reachable()
    assert await echo(link, "x", PATIENT) == "x"
    assert server.clients() == 2


async def test_listeners_and_waiters_hear_of_the_return(link, server):
    heard = []
    link.on_change(lambda status: heard.append((status.usable, status.reachable)))
    server.kill()
    await until(lambda: not link.status.reachable)
    waiter = asyncio.create_task(link.wait_reachable())
    await asyncio.sleep(0)
    assert not waiter.done()
    server.start()
    await waiter
    await until(lambda: link.status.usable)
    assert heard == [(False, False), (True, True)]


# -- a connection apart


async def test_a_blocking_read_has_a_connection_of_its_own(link, server):
    async with link.apart("stream") as client:
        read = asyncio.create_task(client.xread({"stream": "$"}, block=3000))
        await until(lambda: server.clients() == 3)
        assert await in_time(link, "not blocked") == "not blocked"
        await until(lambda: "xread" in str(server.command("CLIENT", "LIST")))
        server.command("XADD", "stream", "*", "s", "account:a")
        assert await read
    await until(lambda: server.clients() == 2)


async def test_a_blocking_read_ends_when_the_server_is_lost(server):
    with TcpProxy(server.address) as proxy:
        async with link_to(proxy.url) as link:

            async def follow() -> None:
                async with link.apart() as client:
                    while True:
                        await client.xread({"stream": "$"}, block=4000)

            reader = asyncio.create_task(follow())
            await until(lambda: server.clients() == 3)
            proxy.swallow()
            with pytest.raises(StoreLostError):
                await reader
            assert not link.status.reachable
            refused = link.apart()
            with pytest.raises(StoreLostError):
                await refused.__aenter__()


# -- its end


async def test_nothing_is_left_after_it_was_closed_whatever_it_was_doing(server):
    before = tasks()
    for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        link = RedisLink(server.url, SystemClock())
        start = asyncio.create_task(link.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await link.aclose()
        await link.aclose()
        with pytest.raises(StoreLostError, match="closed"):
            await link.start()
        with pytest.raises(StoreLostError, match="closed"):
            await link.wait_reachable()
        assert refusal_at_once(echo(link, "x")) == "it was closed"
    assert tasks() == before
    await until(lambda: server.clients() == 0)


async def test_closing_ends_calls_under_way(link, server):
    server.freeze()
    call = asyncio.create_task(echo(link, "x", BACKGROUND_LIMIT_S))
    await asyncio.sleep(0)
    await link.aclose()
    with pytest.raises(StoreLostError, match="closed"):
        await call
