"""What an outage does to the upstream that has it: no retry storm, no herd, no tour of the siblings.

Real HTTP, on a loop whose time jumps over what nobody works in; what is counted is counted at the server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from random import Random

import pytest

from smartfallback import (
    AccountSpec,
    AttemptFailed,
    ChainSpec,
    CircuitSettings,
    CircuitState,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    Request,
    RequestError,
    Secret,
    SystemSpec,
    Timeouts,
)
from smartfallback.model.circuits import ACCOUNT_DEFAULT, PROVIDER
from smartfallback.model.specs import QuotaSourceRule
from support.jumping_loop import LoopClock, run

RATE = 200
"""Requests a second."""
FIRST_S, MEASURED_S = 2.0, 3.0
MOST_ATTEMPTS = 1.2
DISABLED = CircuitSettings(initial_state=CircuitState.DISABLED)


class Outage:
    """A server that does the same to every call and counts the calls by the loop's time."""

    def __init__(self, reply: bytes | None) -> None:
        self.at: list[float] = []
        self.keys: list[str] = []
        self.reply = reply
        self.port = 0

    def within(self, start: float, seconds: float) -> int:
        """Calls that began in the ``seconds`` from ``start`` on."""
        return sum(start <= at < start + seconds for at in self.at)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length:")[2].partition("\r\n")[0])
                await reader.readexactly(length)
                self.at.append(asyncio.get_running_loop().time())
                self.keys.append(head.lower().partition("authorization: bearer ")[2].partition("\r\n")[0])
                if self.reply is None:
                    await reader.read(1)
                    return
                writer.write(self.reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def outage(reply: bytes | None) -> AsyncIterator[Outage]:
    """Run such a server; ``reply`` None never answers."""
    upstream = Outage(reply)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=1_024)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()


def whole(status: int, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


ERROR = b'{"error": {"message": "out of order"}}'
FINE = whole(
    200,
    b'{"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message": '
    b'{"role": "assistant", "content": "Fine."}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}',
)
REPLIES = {
    "500": whole(500, ERROR),
    "503": whole(503, ERROR),
    "503 with a wait": whole(503, ERROR, "Retry-After: 1\r\n"),
    "429": whole(429, ERROR),
    "429 with a tiny wait": whole(429, b'{"error": {"message": "Please try again in 20ms."}}'),
    "malformed": whole(200, b"<html>"),
    "hanging": None,
}
RETRIED = {"500", "503", "malformed"}
STORMS_WITHOUT_CIRCUITS = [
    *((reply, 1) for reply in ("500", "503", "429 with a tiny wait", "malformed", "hanging")),
    ("500", 8),
]
CALLERS = 100


def pool(name: str, port: int, accounts: int, **settings: object) -> PoolSpec:
    settings.setdefault("timeouts", Timeouts(connect_s=0.3, first_token_s=0.3, idle_s=0.3))
    return PoolSpec(
        name=name,
        provider=ProviderKind.OPENAI,
        provider_id=name,
        accounts=tuple(
            AccountSpec(f"{name}-{n}", Secret(f"key-of-{name}-{n}"), max_concurrency=1_000)
            for n in range(accounts)
        ),
        model="m",
        base_url=f"http://127.0.0.1:{port}/v1",
        quota_source=QuotaSourceRule.NONE,
        **settings,  # type: ignore[arg-type]
    )


def system(*pools: PoolSpec, hedge_after_s: float | None = None) -> SystemSpec:
    names = tuple(entry.name for entry in pools)
    return SystemSpec(pools, (ChainSpec("default", names, timeout_s=1.0, hedge_after_s=hedge_after_s),))


async def ask(orchestrator: Orchestrator, request: Request) -> str:
    """The account that answered, empty when none did."""
    try:
        return (await orchestrator.chat(request)).account
    except RequestError:
        return ""


async def traffic(orchestrator: Orchestrator, seconds: float) -> list[str]:
    """Requests at a steady rate, whatever becomes of those before; who answered each."""
    request = replace(Request.ask("How are you?"), stream=False)
    loop = asyncio.get_running_loop()
    start, asked = loop.time(), []
    for number in range(int(seconds * RATE)):
        await asyncio.sleep(start + number / RATE - loop.time())
        asked.append(asyncio.create_task(ask(orchestrator, request)))
    return await asyncio.gather(*asked)


async def storm(reply: bytes | None, accounts: int, hedge_after_s: float | None, **settings: object) -> float:
    """Attempts that reached the server for each request, after the first seconds."""
    async with outage(reply) as upstream:
        spec = system(pool("ill", upstream.port, accounts, **settings), hedge_after_s=hedge_after_s)
        async with Orchestrator(spec, clock=LoopClock(), rng=Random(4)) as orchestrator:
            await traffic(orchestrator, FIRST_S)
            await asyncio.sleep(1 / RATE)
            start = asyncio.get_running_loop().time()
            answered = await traffic(orchestrator, MEASURED_S)
        assert not any(answered)
        return upstream.within(start, MEASURED_S) / len(answered)


@pytest.mark.parametrize("accounts", [1, 8])
@pytest.mark.parametrize("reply", REPLIES)
def test_an_outage_starts_no_retry_storm(reply: str, accounts: int):
    assert run(storm(REPLIES[reply], accounts, hedge_after_s=0.05)) <= MOST_ATTEMPTS


@pytest.mark.parametrize(("reply", "accounts"), STORMS_WITHOUT_CIRCUITS)
def test_the_retry_budget_alone_holds_a_storm_down(reply: str, accounts: int):
    ratio = run(storm(REPLIES[reply], accounts, None, account_circuit=DISABLED, provider_circuit=DISABLED))
    # Each request is tried once and retries use the budget up, or the upstream's own waits forbid them.
    assert 1.0 < ratio <= MOST_ATTEMPTS if reply in RETRIED else ratio <= MOST_ATTEMPTS


@pytest.mark.parametrize("hedge_after_s", [None, 0.05], ids=["plain", "hedged"])
def test_hedges_of_an_upstream_that_hangs_stay_within_the_budget(hedge_after_s: float | None):
    settings = {
        "account_circuit": DISABLED,
        "provider_circuit": DISABLED,
        "timeouts": Timeouts(1.0, 2.0, 1.0),
    }
    assert run(storm(None, 8, hedge_after_s, **settings)) <= MOST_ATTEMPTS


async def herd(at_the: str) -> tuple[int, int, CircuitState]:
    """Calls while open, calls of a hundred at once when it may probe, and the state while they run."""
    quick = {"recovery_timeout_s": 5.0, "recovery_jitter": 0.0}
    settings = {
        "account": {"account_circuit": replace(ACCOUNT_DEFAULT, **quick), "provider_circuit": DISABLED},
        "provider": {"account_circuit": DISABLED, "provider_circuit": replace(PROVIDER, **quick)},
    }
    accounts = 1 if at_the == "account" else 8
    async with outage(whole(500, ERROR)) as upstream:
        spec = system(pool("ill", upstream.port, accounts, **settings[at_the]))
        async with Orchestrator(spec, clock=LoopClock(), rng=Random(4)) as orchestrator:
            request = replace(Request.ask("How are you?"), stream=False)

            def state() -> CircuitState:
                view = orchestrator.snapshot().pools[0]
                return (view.accounts[0].circuit if at_the == "account" else view.provider_circuit).state

            while state() is not CircuitState.OPEN:
                await ask(orchestrator, request)
            before = len(upstream.at)
            await asyncio.gather(*(ask(orchestrator, request) for _ in range(CALLERS)))
            while_open = len(upstream.at) - before
            await asyncio.sleep(5.1)
            upstream.reply = None  # the probes hang, so that none makes place for another
            callers = [asyncio.create_task(ask(orchestrator, request)) for _ in range(CALLERS)]
            await asyncio.sleep(0.2)
            probes, during = len(upstream.at) - before - while_open, state()
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
    return while_open, probes, during


@pytest.mark.parametrize(
    ("at_the", "permitted"),
    [("account", ACCOUNT_DEFAULT.half_open_max_calls), ("provider", PROVIDER.half_open_max_calls)],
)
def test_of_a_hundred_callers_at_half_open_only_the_probes_reach_the_server(at_the: str, permitted: int):
    assert run(herd(at_the)) == (0, permitted, CircuitState.HALF_OPEN)


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections and that nobody else gets meanwhile."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def failed_tries(port: int, well: Outage) -> list[list[str]]:
    """The failed tries of each of six hundred requests at two hundred a second, all of them answered."""
    spec = system(pool("ill", port, 8), pool("well", well.port, 2))
    async with Orchestrator(spec, clock=LoopClock(), rng=Random(4)) as orchestrator:
        events = orchestrator.subscribe(backlog=100_000)
        answered = await traffic(orchestrator, 3.0)
        assert all(account.startswith("well") for account in answered)
        failed: dict[str, list[str]] = {}
        for event in events.drain()[0]:
            if isinstance(event, AttemptFailed):
                failed.setdefault(event.request_id, []).append(event.account)
    return list(failed.values())


async def tries_of_errors() -> tuple[list[list[str]], int]:
    async with outage(whole(500, ERROR)) as ill, outage(FINE) as well:
        tries = await failed_tries(ill.port, well)
        return tries, len(ill.at)


async def tries_of_refusals() -> list[list[str]]:
    with refusing_port() as port:
        async with outage(FINE) as well:
            return await failed_tries(port, well)


def test_a_provider_that_is_down_costs_its_threshold_and_no_tour_of_its_accounts():
    tries, seen = run(tries_of_errors())
    assert seen == sum(map(len, tries)) == PROVIDER.failure_threshold
    assert [len(of_one) for of_one in tries] == [1] * PROVIDER.failure_threshold


def test_a_host_that_refuses_costs_its_threshold_and_no_tour_of_its_accounts():
    assert [len(of_one) for of_one in run(tries_of_refusals())] == [1] * PROVIDER.failure_threshold
