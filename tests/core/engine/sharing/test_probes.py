"""A suspicion costs one request of one instance; a probe's place is given back however it ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smartfallback import CircuitState, ErrorCategory
from support.scripted import ANSWER, Pause, failure
from support.sharers import API, CIRCUIT, Sharer, lost, of_account, sharing, spec, told
from support.waiting import until

BROKEN = ErrorCategory.MALFORMED_RESPONSE
SHORT = replace(CIRCUIT, recovery_timeout_s=0.4, probe_lease_s=600.0)
A1 = of_account("a1")


async def open_alone(one: Sharer, *others: Sharer) -> None:
    """Let the circuit of a1 open on what one instance met, and the others suspect it."""
    await one.fails("a1", BROKEN, times=2)
    assert one.state(A1) is CircuitState.OPEN
    for other in others:
        await until(lambda other=other: other.state(A1) is CircuitState.HALF_OPEN)


async def test_a_suspicion_that_one_request_clears_is_cleared_for_all(url):
    async with sharing(url, "A B C") as (one, two, three):
        await open_alone(one, two, three)
        assert await two.answered("a1")
        assert two.state(A1) is CircuitState.CLOSED
        await until(lambda: three.state(A1) is CircuitState.CLOSED)
        await told(two, one)
        # What it met itself keeps its break.
        assert one.state(A1) is CircuitState.OPEN
        assert (len(two.upstream.calls), len(three.upstream.calls)) == (1, 0)


async def test_a_suspicion_that_one_request_confirms_opens_all(url):
    async with sharing(url, "A B C") as (one, two, three):
        await open_alone(one, two, three)
        await two.fails("a1", BROKEN)
        await until(lambda: three.state(A1) is CircuitState.OPEN)
        assert not three.upstream.calls
        assert not await three.answered("a1")
        assert not three.upstream.calls


async def test_one_tests_and_the_others_wait_for_what_comes_of_it(url):
    async with sharing(url, "A B C") as (one, two, three):
        await open_alone(one, two, three)
        pause = Pause()
        two.upstream.queue("a1", (pause, *ANSWER))
        testing = asyncio.create_task(two.answered("a1"))
        await pause.reached.wait()
        for _ in range(5):
            assert not await three.answered("a1")
        assert not three.upstream.calls
        pause.go_on.set()
        assert await testing
        await until(lambda: three.state(A1) is CircuitState.CLOSED)
        assert await three.answered("a1")


async def test_what_several_have_found_is_forgotten_when_it_is_over(url):
    async with sharing(url, "A B C", system_spec=spec(SHORT)) as (one, two, three):
        await open_alone(one, two, three)
        await two.fails("a1", BROKEN)
        # The third has it from the others, first that it is open and then that it is closed.
        await told(two, three)
        await _answers(two)
        await told(two, three)
        assert three.state(A1) is CircuitState.CLOSED
        # A later trouble of it alone is a suspicion, and no verdict.
        await three.fails("a1", BROKEN, times=2)
        await told(three, two)
        assert two.state(A1) is CircuitState.HALF_OPEN
        assert two.circuit(A1).cause.endswith("(seen by C)")
        assert await two.answered("a1")
        assert two.state(A1) is CircuitState.CLOSED


async def _answers(sharer: Sharer) -> None:
    async with asyncio.timeout(10):
        while not await sharer.answered("a1"):  # noqa: ASYNC110 - a break that ends fires no event
            await asyncio.sleep(0.005)


ENDS = ("is answered", "fails", "is cancelled", "ends with its instance", "runs while the store is away")


@pytest.mark.parametrize("end", ENDS)
async def test_the_place_of_a_probe_is_free_when_it(server, end):
    async with sharing(server.url, system_spec=spec(SHORT)) as (one, two):
        await open_alone(one, two)
        pause = Pause()
        last = (failure(BROKEN),) if end == "fails" else ANSWER
        two.upstream.queue("a1", (pause, *last))
        probing = asyncio.create_task(two.answered("a1"))
        await pause.reached.wait()
        assert _places(server) == 1
        if end == "is cancelled":
            probing.cancel()
        elif end == "ends with its instance":
            await two.orchestrator.aclose()
        elif end == "runs while the store is away":
            async with lost(one, two, server=server):
                pause.go_on.set()
                assert await probing
        pause.go_on.set()
        await asyncio.gather(probing, return_exceptions=True)
        await until(lambda: _places(server) == 0)
        # And so somebody else can find out how it is.
        await _answers(one)
        assert one.state(A1) is CircuitState.CLOSED


async def test_a_request_that_goes_away_while_it_asks_for_a_place_leaves_none(server):
    async with sharing(server.url) as (one, two):
        await open_alone(one, two)
        server.freeze()
        asking = asyncio.create_task(two.answered("a1"))
        await until(lambda: two.account("a1").in_flight == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        server.thaw()
        assert two.account("a1").in_flight == 0
        await until(lambda: two.store.status.usable)
        await told(two, one)
        await until(lambda: _places(server) == 0)
        assert await two.answered("a1")


async def test_a_refused_probe_holds_nothing(url):
    async with sharing(url, "A B C") as (one, two, three):
        await open_alone(one, two, three)
        pause = Pause()
        two.upstream.queue("a1", (pause, *ANSWER))
        testing = asyncio.create_task(two.answered("a1"))
        await pause.reached.wait()
        # Its own account's circuit is tested elsewhere; other accounts of the provider go on.
        assert not await three.answered("a1")
        assert await three.answered("a2")
        assert three.account("a1").in_flight == 0
        assert three.state(API) is CircuitState.CLOSED
        pause.go_on.set()
        assert await testing


async def test_a_provider_that_is_down_is_tested_by_one_instance(url):
    provider = replace(CIRCUIT, failure_threshold=2)
    down = spec(provider_circuit=provider)
    async with sharing(url, "A B C", system_spec=down) as (one, two, three):
        await one.fails("a1", ErrorCategory.NETWORK_ERROR, times=2)
        assert one.state(API) is CircuitState.OPEN
        for other in (two, three):
            await until(lambda other=other: other.state(API) is CircuitState.HALF_OPEN)
        pause = Pause()
        two.upstream.queue("a2", (pause, *ANSWER))
        testing = asyncio.create_task(two.answered("a2"))
        await pause.reached.wait()
        assert not await three.answered("a3")
        assert not three.upstream.calls
        pause.go_on.set()
        assert await testing
        await until(lambda: three.state(API) is CircuitState.CLOSED)
        assert await three.answered("a3")


def _places(server) -> int:
    keys = [key for key in server.command("KEYS", "*") if "probes" in key and "dropped" not in key]
    return sum(int(server.command("ZCARD", key)) for key in keys)
