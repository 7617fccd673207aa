"""How long a request takes whose first provider is dead, until the second has answered it.

Each way of being dead is met with the time-outs that a pool has by default. Where the dead end shows at
once, requests that meet it alternate with requests that don't, and the ratio of their medians is printed.
Circuits are off, so that each request meets the dead provider anew; with them only the first few do.

Run: python tests/benchmarks/failover.py [--json]
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import replace

from measuring import percentile, report, wants_json
from stub_upstream import stub_upstream

from smartfallback import (
    AccountSpec,
    AttemptFailed,
    AttemptOutrun,
    ChainSpec,
    CircuitSettings,
    CircuitState,
    Event,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    Request,
    SystemSpec,
)

QUICK = 300
"""Failovers from a provider whose death shows at once."""
SLOW = 1
"""Failovers from one that has to be waited for."""
HEDGE_AFTER_S = 2.0
DISABLED = CircuitSettings(initial_state=CircuitState.DISABLED)
STREAM = Request.ask("How are you?")
WHOLE = replace(STREAM, stream=False)


def pool(name: str, base_url: str) -> PoolSpec:
    """One account, which is asked anew by each request whatever happened to the last one."""
    return PoolSpec(
        name=name,
        provider=ProviderKind.OPENAI,
        provider_id=name,
        accounts=(AccountSpec(name, max_concurrency=100),),
        model="stub",
        base_url=base_url,
        account_circuit=DISABLED,
        provider_circuit=DISABLED,
        failed_model_s=0.0,
        adaptive_concurrency=False,
    )


def system(dead: str | None, alive: str, hedge_after_s: float | None = None) -> SystemSpec:
    """A dead pool, unless it is None, before one that answers."""
    pools = (*(() if dead is None else (pool("dead", dead),)), pool("alive", alive))
    chain = ChainSpec("default", tuple(entry.name for entry in pools), hedge_after_s=hedge_after_s)
    return SystemSpec(pools, (chain,))


async def one(orchestrator: Orchestrator, request: Request) -> tuple[float, float]:
    """Seconds until the answer, and the part of them that came after the dead provider was given up."""
    begun = time.perf_counter()
    given_up = begun
    async for event in orchestrator.stream(request):
        given_up = _given_up(event, given_up)
    ended = time.perf_counter()
    return ended - begun, ended - given_up


def _given_up(event: Event, before: float) -> float:
    return time.perf_counter() if isinstance(event, AttemptFailed | AttemptOutrun) else before


async def measure(
    name: str,
    dead: str,
    alive: str,
    times: int,
    hedge_after_s: float | None = None,
    request: Request = STREAM,
) -> dict[str, object]:
    """A row for one way of being dead."""
    async with (
        Orchestrator(system(dead, alive, hedge_after_s)) as failing,
        Orchestrator(system(None, alive)) as direct,
    ):
        for _ in range(20):
            await one(direct, request)
        if times >= QUICK:
            await one(failing, request)
        taken: list[tuple[float, float]] = []
        at_once: list[float] = []
        for _ in range(times):
            taken.append(await one(failing, request))
            at_once.append((await one(direct, request))[0])
    wholes, afters = zip(*taken, strict=True)
    return {
        "the first provider": name,
        "failovers": times,
        "p50 ms": percentile(wholes, 0.5) * 1e3,
        "p99 ms": percentile(wholes, 0.99) * 1e3,
        "after giving up, p50 ms": percentile(afters, 0.5) * 1e3,
        "direct p50 ms": percentile(at_once, 0.5) * 1e3,
        "ratio": percentile(wholes, 0.5) / percentile(at_once, 0.5),
    }


@asynccontextmanager
async def server(*, resets: bool) -> AsyncIterator[str]:
    """The base URL of a server that resets each connection, or accepts it and never says a word."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(1)
            if resets:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            else:
                while await reader.read(4096):
                    pass
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    finally:
        listening.close()


def bound(stack: ExitStack) -> socket.socket:
    """A socket with a port of its own."""
    made = stack.enter_context(closing(socket.socket()))
    made.bind(("127.0.0.1", 0))
    return made


def black_hole(stack: ExitStack) -> str:
    """The base URL of a host that swallows every attempt to connect: its backlog is full for good."""
    full = bound(stack)
    full.listen(0)
    for _ in range(4):
        waiting = stack.enter_context(closing(socket.socket()))
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
    return f"http://127.0.0.1:{full.getsockname()[1]}/v1"


async def run() -> list[dict[str, object]]:
    """Every way of being dead, one after the other."""
    rows: list[dict[str, object]] = []
    with stub_upstream() as alive, ExitStack() as stack:
        refusing = f"http://127.0.0.1:{bound(stack).getsockname()[1]}/v1"
        rows.append(await measure("refuses", refusing, alive, QUICK))
        async with server(resets=True) as resetting:
            rows.append(await measure("resets", resetting, alive, QUICK))
        rows.append(await measure("has no address", "http://nowhere.invalid/v1", alive, SLOW))
        rows.append(await measure("doesn't accept", black_hole(stack), alive, SLOW))
        async with server(resets=False) as silent:
            rows.append(await measure("is silent", silent, alive, SLOW))
            rows.append(
                await measure("is silent, asked for a whole answer", silent, alive, SLOW, request=WHOLE)
            )
            name = f"is silent, hedged after {HEDGE_AFTER_S:g} s"
            rows.append(await measure(name, silent, alive, SLOW, HEDGE_AFTER_S))
    return rows


if __name__ == "__main__":
    as_json = wants_json(__doc__ or "")
    report("failover from a dead provider", asyncio.run(run()), as_json=as_json)
