"""Upstreams on loopback whose answers a test writes down, and short ways to call them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

from smartfallback.clock import Clock
from smartfallback.model.outcomes import Failure, ProviderError
from smartfallback.model.requests import Message, Role, Usage
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind, Timeouts
from smartfallback.providers.base import Call, Chunk, Provider
from smartfallback.providers.registry import build_provider
from support.clock import FakeClock

KEY = "test-key-0123456789abcdef"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Seen(NamedTuple):
    """One request as the server got it."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Upstream:
    """A running server: where it is, what it was asked, and how many hung up on it."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    hung_up: int = 0
    connections: set[str] = field(default_factory=set)


@asynccontextmanager
async def http_server(handler: Handler) -> AsyncIterator[Upstream]:
    """An HTTP server on a free port that gives every request to ``handler``."""
    upstream = Upstream()

    async def record(request: web.Request) -> web.StreamResponse:
        text = await request.text()
        upstream.seen.append(
            Seen(
                request.path_qs,
                {k.lower(): v for k, v in request.headers.items()},
                json.loads(text or "null"),
            )
        )
        peer = request.transport.get_extra_info("peername") if request.transport else None
        upstream.connections.add(str(peer))
        try:
            return await handler(request)
        except (asyncio.CancelledError, ConnectionError):
            upstream.hung_up += 1
            raise

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", record)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstream
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(handler: RawHandler) -> AsyncIterator[Upstream]:
    """A TCP server on a free port; ``handler`` is called after each request's head and body."""
    upstream = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            upstream.seen.append(Seen("", {}, json.loads(await reader.readexactly(length))))
            await handler(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        await server.wait_closed()


def always(status: int, body: Any, headers: dict[str, str] | None = None) -> Handler:
    """Answers every request alike; ``body`` is JSON unless it is text or bytes."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        if isinstance(body, str | bytes):
            raw = body.encode() if isinstance(body, str) else body
            return web.Response(status=status, body=raw, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return handler


def sse_bytes(*events: Any) -> bytes:
    """Events as bytes of an event stream; strings are sent as they are, all else as JSON."""
    return b"".join(
        b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n"
        for event in events
    )


def streams(pieces: Iterable[bytes], *, hold: bool = False) -> Handler:
    """Sends each of ``pieces`` by itself; with ``hold`` then keeps the response open."""
    pieces = list(pieces)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        if hold:
            await asyncio.Event().wait()
        return response

    return handler


def pool_at(
    url: str, kind: ProviderKind = ProviderKind.OPENAI, *, key: str | None = KEY, model: str = "m-1"
) -> PoolSpec:
    """A pool with one account, ``acc-1``, at ``url``."""
    account = AccountSpec(id="acc-1", api_key=Secret(key) if key is not None else None)
    base = f"{url}/v1" if kind is ProviderKind.OPENAI else url
    return PoolSpec(
        name="pool",
        provider=kind,
        provider_id=kind.value,
        accounts=(account,),
        model=model,
        base_url=base,
        timeouts=Timeouts(connect_s=5.0),
    )


def call_to(pool: PoolSpec, text: str = "hi", *, stream: bool = True, **changes: Any) -> Call:
    """A call with one user message to the pool's first account."""
    fields: dict[str, Any] = {
        "account": pool.accounts[0],
        "pool": pool,
        "model": pool.model,
        "messages": (Message(Role.USER, text),),
        "max_output_tokens": None,
        "temperature": None,
        "stream": stream,
    }
    return Call(**(fields | changes))


@asynccontextmanager
async def provider_for(pool: PoolSpec, clock: Clock | None = None) -> AsyncIterator[Provider]:
    """The pool's adapter, closed at the end."""
    provider = build_provider(pool, clock or FakeClock())
    try:
        yield provider
    finally:
        await provider.aclose()


class Outcome(NamedTuple):
    """What came out of one call."""

    text: str
    finish: str | None
    usage: Usage | None
    failure: Failure | None

    @property
    def failed(self) -> Failure:
        """The failure of a call that must have failed."""
        assert self.failure is not None, f"answered {self.text!r}"
        return self.failure


async def first_text(chunks: AsyncGenerator[Chunk, None]) -> str:
    """The first text of an answer; signs of life before it are passed over."""
    async for chunk in chunks:
        if chunk.text:
            return chunk.text
    raise AssertionError("the answer ended without any text")


async def collect(chunks: AsyncGenerator[Chunk, None]) -> Outcome:
    """Read an answer to its end, good or bad."""
    text, finish, usage = "", None, None
    try:
        async for chunk in chunks:
            text += chunk.text
            finish = chunk.finish_reason or finish
            usage = chunk.usage or usage
    except ProviderError as error:
        return Outcome(text, finish, usage, error.failure)
    return Outcome(text, finish, usage, None)


async def ask(
    handler: Handler, kind: ProviderKind = ProviderKind.OPENAI, *, clock: Clock | None = None, **changes: Any
) -> Outcome:
    """One call to a server that answers by ``handler``."""
    key = changes.pop("key", KEY)
    model = changes.pop("model", "m-1")
    async with http_server(handler) as upstream:
        pool = pool_at(upstream.url, kind, key=key, model=model)
        async with provider_for(pool, clock) as provider:
            return await collect(provider.stream(call_to(pool, **changes)))
