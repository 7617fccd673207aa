"""A system whose first account, ``a-1``, meets a trouble, with or without others that could answer instead.

``a-2`` is its healthy sibling in the same pool; ``b-1`` stands alone in a pool of another provider.
For Copilot the calls go through the stand-in for its command-line tool.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smartfallback import (
    AccountSpec,
    AccountView,
    ChainSpec,
    Event,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaUnit,
    Reply,
    Request,
    RequestError,
    RequestFinished,
    Secret,
    Strategy,
    SystemClock,
    SystemSpec,
    Timeouts,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.circuits import PROVIDER, CircuitSettings, RateLimitRule
from smartfallback.model.requests import OnBreak
from smartfallback.model.snapshot import CircuitView
from smartfallback.model.specs import QuotaSourceRule
from smartfallback.simulation.copilot_cli import install_copilot
from smartfallback.simulation.faults import Fault
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import INSTANT, DialectName, Upstream, UpstreamAccount

COPILOT, OPENCODE = "copilot", "opencode"
QUESTION = replace(Request.ask("How do database indexes work?"), on_break=OnBreak.ERROR, timeout_s=30.0)
WEEKLY = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 5_000_000, "sun 00:00 UTC"),)

Elsewhere = Callable[[], AbstractAsyncContextManager[str]]
"""A place without a simulated upstream, such as a port that nobody listens on; gives its base URL."""
Trouble = Fault | Elsewhere | None

PATIENT = CircuitSettings(
    failure_threshold=50,
    slow_call_s=60.0,
    slow_call_rate=0.9,
    min_calls=2,
    on_rate_limit=RateLimitRule.HALF_OPEN,
)
"""An account's circuit that shows what it is told: it counts failures, and a second slow call opens it."""


class Brisk(random.Random):
    """Draws from the low end, so that waits with jitter are short."""

    def random(self) -> float:
        return super().random() / 50


@dataclass
class Result:
    """How one request ended."""

    events: list[Event]
    reply: Reply | None = None
    error: RequestError | None = None

    @property
    def path(self) -> list[str]:
        """The account of each attempt."""
        done = self.reply or self.failed
        return [record.account for record in done.attempts]

    @property
    def failed(self) -> RequestError:
        assert self.error is not None, f"{self.reply and self.reply.account} answered"
        return self.error

    @property
    def answer(self) -> Reply:
        assert self.reply is not None, f"failed with {self.error}"
        return self.reply


@dataclass
class Troubled:
    """The running system."""

    lab: Lab
    orchestrator: Orchestrator

    async def ask(self, **fields: object) -> Result:
        """One request: streamed events when it streams, else the collected reply."""
        request = replace(QUESTION, **fields)  # type: ignore[arg-type]
        result = Result([])
        try:
            if not request.stream:
                result.reply = await self.orchestrator.chat(request)
                return result
            async for event in self.orchestrator.stream(request):
                result.events.append(event)
                if isinstance(event, RequestFinished):
                    result.reply = event.reply
        except RequestError as error:
            result.error = error
        return result

    def account(self, name: str = "a-1") -> AccountView:
        view = self.orchestrator.snapshot().account(name)
        assert view is not None
        return view

    @property
    def provider(self) -> CircuitView:
        """The circuit of the troubled account's provider."""
        return self.orchestrator.snapshot().pools[0].provider_circuit

    @property
    def asked(self) -> int:
        """How many calls reached the troubled upstream."""
        return self.lab.counters("bad", "a-1").requests


@asynccontextmanager
async def troubled(
    api: str,
    trouble: Trouble,
    *,
    others: bool,
    circuit: CircuitSettings = PATIENT,
    provider_circuit: CircuitSettings | None = None,
    timeouts: Timeouts | None = None,
    context_tokens: int | None = None,
    **chain: Any,
) -> AsyncIterator[Troubled]:
    """The system with ``trouble`` at ``a-1``; ``chain`` are settings of the chain."""
    place = trouble if callable(trouble) else None
    with TemporaryDirectory() as folder:
        async with (
            Lab(SystemClock(), random.Random(1), _upstreams(api, context_tokens)) as lab,
            (place or _nowhere)() as url,
        ):
            if trouble is not None and not callable(trouble):
                lab.set_fault("bad", trouble, "a-1")
            settings: dict[str, Any] = {
                "timeouts": timeouts or Timeouts(),
                "account_circuit": circuit,
                "provider_circuit": provider_circuit or replace(PROVIDER, failure_threshold=50),
                "strategy": Strategy.ROUND_ROBIN,
                "quota_source": QuotaSourceRule.NONE,
            }
            near = [_account("a-1", url or lab.base_url("bad")), _account("a-2", lab.base_url("good"))]
            model = "maker/demo" if api == OPENCODE else "demo"
            tool = (str(install_copilot(Path(folder), lab.base_url("bad"))),) if api == COPILOT else ()
            first = PoolSpec(
                "first",
                ProviderKind(api),
                "first-api",
                tuple(near if others else near[:1]),
                model,
                command=tool,
                **settings,
            )
            far = (_account("b-1", lab.base_url("other")),)
            second = PoolSpec("second", ProviderKind.OPENAI, "second-api", far, "demo", **settings)
            pools = (first, second) if others else (first,)
            names = tuple(pool.name for pool in pools)
            system = SystemSpec(pools, (ChainSpec("default", names, **chain),))
            async with Orchestrator(system, rng=Brisk(1)) as orchestrator:
                yield Troubled(lab, orchestrator)


def _upstreams(api: str, context_tokens: int | None) -> list[Upstream]:
    dialect = DialectName.OPENAI if api == COPILOT else DialectName(api)
    # The tool is one for a whole pool, so there the siblings are accounts of one upstream.
    of_bad = ("a-1", "a-2") if api == COPILOT else ("a-1",)
    return [
        replace(_upstream("bad", dialect, *of_bad), context_tokens=context_tokens),
        _upstream("good", dialect, "a-2"),
        _upstream("other", DialectName.OPENAI, "b-1"),
    ]


def _upstream(name: str, dialect: DialectName, *accounts: str) -> Upstream:
    entries = tuple(UpstreamAccount(account, Secret(f"key-of-{account}")) for account in accounts)
    return Upstream(name, dialect, entries, INSTANT)


def _account(name: str, base_url: str) -> AccountSpec:
    return AccountSpec(name, api_key=Secret(f"key-of-{name}"), quota=WEEKLY, base_url=base_url)


@asynccontextmanager
async def _nowhere() -> AsyncIterator[str]:
    yield ""


@asynccontextmanager
async def unknown_host() -> AsyncIterator[str]:
    """A name that no DNS knows (RFC 6761, section 6.4)."""
    yield "http://nowhere.invalid/v1"


@asynccontextmanager
async def refused() -> AsyncIterator[str]:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@asynccontextmanager
async def closed_at_once() -> AsyncIterator[str]:
    """A server that closes each connection without a word."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with _listening(serve) as port:
        yield f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def plain_port_as_https() -> AsyncIterator[str]:
    """A server without TLS, addressed as if it had it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with _listening(serve) as port:
        yield f"https://127.0.0.1:{port}/v1"


@asynccontextmanager
async def never_connected() -> AsyncIterator[str]:
    """A server that takes connections and never answers the opening of TLS on them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4_096):
            pass
        writer.close()

    async with _listening(serve) as port:
        yield f"https://127.0.0.1:{port}/v1"


def tls_server(context: ssl.SSLContext) -> Elsewhere:
    """A server with this certificate; whoever gets through to it is closed at once."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    @asynccontextmanager
    async def place() -> AsyncIterator[str]:
        async with _listening(serve, context) as port:
            yield f"https://127.0.0.1:{port}/v1"

    return place


@asynccontextmanager
async def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
