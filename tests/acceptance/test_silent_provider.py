"""A provider that takes requests and then is silent: left within five seconds, its siblings not toured.

Real HTTP, on a loop whose time jumps over what nobody works in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from smartfallback import (
    AccountSpec,
    ChainSpec,
    CircuitState,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    Reply,
    Request,
    Strategy,
    SystemSpec,
    Timeouts,
)
from smartfallback.policy.patience import WHOLE_FIRST_LIMIT_S
from smartfallback.policy.recovery import FAILOVER_S
from support.http_servers import sse_bytes
from support.jumping_loop import LoopClock, run

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TEXT = sse_bytes({"choices": [{"delta": {"content": "Fine."}, "finish_reason": "stop"}]}, "[DONE]")
WHOLE = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{"choices": '
    b'[{"finish_reason": "stop", "message": {"role": "assistant", "content": "Fine."}}]}'
)


@asynccontextmanager
async def server(*, silent: bool = False, thinks_s: float = 0.0, whole: bool = False) -> AsyncIterator[int]:
    """Its port. It is silent for ever, or sends its headers and answers ``thinks_s`` later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if silent:
                await reader.read()
                return
            if whole:
                writer.write(WHOLE)
                return
            writer.write(HEAD)
            await asyncio.sleep(thinks_s)
            writer.write(TEXT)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=100)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


def pool(name: str, port: int, accounts: int) -> PoolSpec:
    return PoolSpec(
        name,
        ProviderKind.OPENAI,
        name,
        tuple(AccountSpec(f"{name}-{number}") for number in range(accounts)),
        model="m",
        base_url=f"http://127.0.0.1:{port}/v1",
        timeouts=Timeouts(),
    )


def system(first: int, accounts: int, second: int, hedge_after_s: float | None = None) -> SystemSpec:
    pools = pool("first", first, accounts), pool("second", second, 1)
    return SystemSpec(pools, (ChainSpec("default", ("first", "second"), hedge_after_s=hedge_after_s),))


async def timed(orchestrator: Orchestrator, request: Request) -> tuple[float, Reply]:
    started = asyncio.get_running_loop().time()
    reply = await orchestrator.chat(request)
    return asyncio.get_running_loop().time() - started, reply


@pytest.mark.parametrize("accounts", [1, 8])
def test_each_request_leaves_it_within_five_seconds_until_its_circuit_opens(accounts: int) -> None:
    async def main() -> None:
        async with (
            server(silent=True) as silent,
            server() as fine,
            Orchestrator(system(silent, accounts, fine), clock=LoopClock()) as orchestrator,
        ):
            for _ in range(8):
                seconds, reply = await timed(orchestrator, Request.ask("hi"))
                assert reply.account == "second-0"
                assert seconds <= FAILOVER_S
                asked = {record.account for record in reply.attempts} - {"second-0"}
                assert len(asked) <= 1, "its siblings are not tried one by one"
            assert seconds < 0.1, "it is no longer asked"
            if accounts > 1:
                circuit = orchestrator.snapshot().pools[0].provider_circuit
                assert circuit.state is CircuitState.OPEN

    run(main())


def test_one_that_is_known_to_be_fast_is_left_sooner_and_a_sibling_gets_the_rest() -> None:
    async def main() -> None:
        async with server() as fast, server(silent=True) as silent, server() as fine:
            spec = system(fast, 2, fine)
            first = replace(spec.pools[0], strategy=Strategy.LRU)
            ill = replace(first.accounts[0], base_url=f"http://127.0.0.1:{silent}/v1")
            first = replace(first, accounts=(ill, first.accounts[1]))
            spec = replace(spec, pools=(first, spec.pools[1]))
            async with Orchestrator(spec, clock=LoopClock()) as orchestrator:
                await timed(orchestrator, replace(Request.ask("hi"), avoid=frozenset({ill.id})))
                seconds, reply = await timed(orchestrator, Request.ask("hi"))
        assert [record.account for record in reply.attempts] == [ill.id, ill.id, first.accounts[1].id]
        assert seconds <= FAILOVER_S

    run(main())


def test_a_model_that_thinks_long_after_its_response_has_begun_is_waited_for() -> None:
    async def main() -> None:
        async with (
            server(thinks_s=12.0) as thinking,
            server() as fine,
            Orchestrator(system(thinking, 8, fine), clock=LoopClock()) as orchestrator,
        ):
            seconds, reply = await timed(orchestrator, Request.ask("hi"))
            assert (reply.pool, len(reply.attempts)) == ("first", 1)
            assert seconds == pytest.approx(12.0, abs=0.5)

    run(main())


@pytest.mark.parametrize("accounts", [1, 8])
def test_a_hedge_asks_another_provider_first(accounts: int) -> None:
    async def main() -> None:
        async with server(silent=True) as silent, server() as fine:
            spec = system(silent, accounts, fine, hedge_after_s=2.0)
            async with Orchestrator(spec, clock=LoopClock()) as orchestrator:
                seconds, reply = await timed(orchestrator, Request.ask("hi"))
                assert seconds == pytest.approx(2.0, abs=0.3)
                assert [record.account for record in reply.attempts][1:] == ["second-0"]

    run(main())


def test_a_whole_answer_can_t_be_told_from_silence_but_is_not_waited_for_as_long_as_there_is_time() -> None:
    async def main() -> None:
        async with (
            server(silent=True) as silent,
            server(whole=True) as fine,
            Orchestrator(system(silent, 8, fine), clock=LoopClock()) as orchestrator,
        ):
            seconds, reply = await timed(orchestrator, replace(Request.ask("hi"), stream=False))
            assert reply.account == "second-0"
            assert seconds == pytest.approx(WHOLE_FIRST_LIMIT_S, abs=0.5)

    run(main())
