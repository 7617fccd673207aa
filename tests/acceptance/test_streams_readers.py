"""Long answers, slow readers and callers that go away: what an answer takes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest

from smartfallback import (
    Delta,
    RequestFinished,
)
from support.stream_script import (
    GEMINI,
    OPENAI,
    Watched,
    encoded,
    piece,
    preamble,
    serving,
    stream_of,
    wire,
)
from support.troubled import QUESTION, Troubled, troubled

BOTH = pytest.mark.parametrize("api", [GEMINI, OPENAI])
MIB = 1024 * 1024


# --- long answers and slow readers


@pytest.mark.parametrize(
    ("api", "keep", "tokens", "events"),
    [
        (OPENAI, True, 100, 10_000),
        (OPENAI, False, 100, 10_000),
        (GEMINI, False, 100, 10_000),
        (OPENAI, True, 1, 20_000),
    ],
)
async def test_a_million_tokens_take_no_more_memory_than_their_text(
    api: str, keep: bool, tokens: int, events: int
) -> None:
    """The same goes for many small pieces: a string of a few characters has tenfold its size."""
    text, batch = "tok " * tokens, 100
    tenth = len(text) * events // 10
    part = encoded(piece(api, text)) * batch

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(events // batch):
            yield part
        yield stream_of(api, "end")

    grown = []
    async with troubled(api, serving(pieces), others=False) as system:
        characters = 0
        tracemalloc.start()
        try:
            async with aclosing(system.orchestrator.stream(replace(QUESTION, keep_text=keep))) as stream:
                async for event in stream:
                    if isinstance(event, Delta):
                        before, characters = characters, characters + len(event.text)
                        if before // tenth < characters // tenth:
                            grown.append(tracemalloc.get_traced_memory()[0])
                    elif isinstance(event, RequestFinished):
                        reply = event.reply
        finally:
            tracemalloc.stop()
    assert characters == events * len(text) + 3
    assert len(grown) == 10
    assert len(reply.text) == (characters if keep else 0)
    # From the first tenth to the last: what nine tenths of the text hold, and a little for what varies.
    expected = 0.9 * characters if keep else 0
    assert grown[-1] - grown[0] < 1.03 * expected + 0.25 * MIB


async def test_a_reader_that_stops_makes_the_upstream_wait() -> None:
    watched = Watched()
    part = encoded(piece(OPENAI, "tok " * 4_000))
    limit = 256 * MIB

    async def pieces() -> AsyncIterator[bytes]:
        while watched.bytes_sent < limit:
            yield part

    async with troubled(OPENAI, serving(pieces, watched), others=False) as system:
        async with aclosing(system.orchestrator.stream(replace(QUESTION, keep_text=False))) as stream:
            async for event in stream:
                if isinstance(event, Delta):
                    break
            stuck_at = await standing_still(watched)
            # The kernel's buffers of both ends, and little more.
            assert stuck_at < 24 * MIB
            async for _ in stream:
                if watched.bytes_sent > stuck_at + 4 * MIB:
                    break
            assert watched.bytes_sent > stuck_at
        await gone(watched)
        check_nothing_is_left(system)


async def standing_still(watched: Watched) -> int:
    """How much was sent when no more could be."""
    last, same = -1, 0
    while same < 20:
        last, same = watched.bytes_sent, same + 1 if watched.bytes_sent == last else 0
        await asyncio.sleep(0.01)
    return last


# --- callers that go away


def check_nothing_is_left(system: Troubled) -> None:
    """No reservation, no permit, no slot and no blame."""
    roster = system.orchestrator._roster
    for pool in system.orchestrator.snapshot().pools:
        runtime = roster.pools[pool.name]
        assert runtime.provider.circuit.statistics(0.0).live == 0
        for account, state in zip(pool.accounts, runtime.accounts, strict=True):
            assert (account.in_flight, account.failures, account.circuit.failures) == (0, 0, 0)
            assert [window.held for window in account.quota.windows] == [0.0]
            assert state.circuit.statistics(0.0).live == 0
            assert not state.attempts


async def gone(watched: Watched) -> float:
    async with asyncio.timeout(5):
        await watched.gone.wait()
    return watched.gone_at[0]


@BOTH
@pytest.mark.parametrize("how", ["closed", "cancelled"])
@pytest.mark.parametrize("when", ["before the headers", "before the first token", "in mid-answer"])
async def test_a_caller_that_goes_away_ends_the_upstream_call_within_a_tenth_of_a_second(
    api: str, how: str, when: str
) -> None:
    delays = [await delay_of_going(api, how, when) for _ in range(3)]
    # The least of three: what else runs on the machine is no part of it.
    assert min(delays) < 0.1


async def delay_of_going(api: str, how: str, when: str) -> float:
    watched = Watched()
    first = [encoded(piece(api, "tok "))] if when == "in mid-answer" else wire(*preamble(api))

    async def silence() -> AsyncIterator[bytes]:
        for part in first:
            yield part
        await asyncio.Event().wait()

    place = serving(silence, watched, silent=when == "before the headers")
    async with troubled(api, place, others=True) as system:
        loop = asyncio.get_running_loop()
        reached = asyncio.Event()

        async def read() -> None:
            async with aclosing(system.orchestrator.stream(QUESTION)) as stream:
                async for event in stream:
                    if isinstance(event, Delta):
                        reached.set()
                        if how == "closed":
                            return

        reader = asyncio.create_task(read())
        await (reached if when == "in mid-answer" else watched.begun).wait()
        left_at = loop.time()
        if when != "in mid-answer" or how == "cancelled":
            reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader
        delay = await gone(watched) - left_at
        check_nothing_is_left(system)
        assert system.account("a-2").requests == 0
        return delay


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - that a task is gone sets no event
            await asyncio.sleep(0.001)


async def test_callers_that_go_away_one_after_another_leave_nothing() -> None:
    watched = Watched()
    place = serving([encoded(piece(OPENAI, "tok "))], watched, hold=True)
    async with troubled(OPENAI, place, others=False) as system:
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            async with aclosing(system.orchestrator.stream(QUESTION)) as stream:
                async for event in stream:
                    if isinstance(event, Delta):
                        break
        await settled(lambda: len(watched.gone_at) == 20 and len(asyncio.all_tasks()) <= tasks)
        check_nothing_is_left(system)
