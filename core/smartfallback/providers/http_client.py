"""HTTP for the adapters: httpx requests over httpx-aiohttp's transport, one connection pool for each pool.

Requests go straight to the transport. What ``httpx.AsyncClient`` puts on top (cookies that all
accounts would share, redirects that would take a key along, logging) is not wanted here and costs
more than the rest of a call.

How the transport behaves, and what follows from it here:

* ``max_connections=None`` means aiohttp's own limit of 100. The engine's concurrency caps are the
  only limit wanted, so the session is built here, without one.
* Its ``pool`` time-out covers the whole way to a connection (DNS, TCP, TLS); ``connect`` only the
  TCP part. Both get the pool's ``connect_s``. Nothing else times out before the backstop: waits
  for tokens are the engine's.
* Closing a response before its end closes the connection at once, and a response read to its end
  gives it back for the next call; so do cancellation and errors.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError
from smartfallback.model.secrets import Secret
from smartfallback.providers.base import Call
from smartfallback.providers.call_headers import CallHeaders
from smartfallback.providers.http_errors import connection_failure
from smartfallback.providers.shutdown import Shutdown, ShutDownError

READ_BACKSTOP_S: Final = 900.0
"""A silent upstream is given up after this even if nobody cancels."""

KEEPALIVE_S: Final = 30.0
_STREAMED_BODY_BYTES: Final = 512 * 1024
_PIECE_BYTES: Final = 64 * 1024

_SHUT_DOWN: Final = Failure(ErrorCategory.NETWORK_ERROR, "the provider is shut down")
_CLIENT_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError)


WrapTransport = Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]
"""Puts a transport around another, which it closes with itself."""


class Attempt:
    """The attempt that a request is part of, for whoever wraps a transport.

    All requests of one attempt carry the same object as ``extensions["attempt"]``, beside the account's
    id as ``extensions["account"]``.
    """

    __slots__ = ("__weakref__", "account", "model", "stream")

    def __init__(self, account: str, model: str, *, stream: bool) -> None:
        self.account = account
        self.model = model
        self.stream = stream

    @classmethod
    def of(cls, call: Call) -> Attempt:
        """The attempt that ``call`` describes."""
        return cls(call.account.id, call.model, stream=call.stream)


class Endpoint(NamedTuple):
    """Where calls of one account go: everything about them that does not change from call to call."""

    url: httpx.URL
    headers: CallHeaders
    transport: httpx.AsyncBaseTransport
    host: str


class HttpClient:
    """The connections of one pool, shared by its accounts.

    Args:
        connect_s: Limit for getting a connection, in seconds.
        wrap: Put around each transport; what it gives is used and closed in its place.
    """

    def __init__(self, *, connect_s: float, wrap: WrapTransport | None = None) -> None:
        self._extensions: dict[str, Any] = {
            "timeout": {"connect": connect_s, "pool": connect_s, "read": READ_BACKSTOP_S, "write": None}
        }
        self._wrap = wrap
        self._transports: dict[tuple[str | None, bool], httpx.AsyncBaseTransport] = {}
        self._shutdown = Shutdown()

    def endpoint(self, url: str, headers: Mapping[str, str | Secret]) -> Endpoint:
        """Prepare calls to ``url``. Build once for each account and URL, then reuse.

        Args:
            url: Where the calls go.
            headers: What goes along; what must not be printed is a :class:`Secret`.

        Raises:
            ProviderError: The URL can't be called.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ProviderError(
                Failure(
                    ErrorCategory.NETWORK_ERROR,
                    "base_url is no http or https address",
                    hint="check base_url in the configuration",
                )
            )
        secure = parsed.scheme == "https"
        proxy = environment_proxy(parsed)
        transport = self._transports.get((proxy, secure))
        if transport is None:
            transport = _transport(proxy, secure=secure)
            if self._wrap is not None:
                transport = self._wrap(transport)
            self._transports[proxy, secure] = transport
        return Endpoint(parsed, CallHeaders(headers), transport, parsed.netloc.decode("ascii", "replace"))

    async def post(self, endpoint: Endpoint, body: bytes, attempt: Attempt | None = None) -> Exchange:
        """Send ``body`` and wait for the response's status and headers.

        Raises:
            ProviderError: No response came, classified.
        """
        if self._shutdown.begun:
            raise ProviderError(_SHUT_DOWN)
        if len(body) > _STREAMED_BODY_BYTES:
            request = httpx.Request(
                "POST",
                endpoint.url,
                headers=[*endpoint.headers.multi_items(), ("content-length", str(len(body)))],
                stream=_Pieces(body),
                extensions=self._told(attempt),
            )
        else:
            request = httpx.Request(
                "POST", endpoint.url, headers=endpoint.headers, content=body, extensions=self._told(attempt)
            )
        return await self._send(endpoint, request)

    async def get(self, endpoint: Endpoint, attempt: Attempt | None = None) -> Exchange:
        """Ask for ``endpoint`` and wait for the response's status and headers.

        Raises:
            ProviderError: No response came, classified.
        """
        return await self._ask("GET", endpoint, attempt)

    async def delete(self, endpoint: Endpoint, attempt: Attempt | None = None) -> Exchange:
        """Remove what is at ``endpoint`` and wait for the response's status and headers.

        Raises:
            ProviderError: No response came, classified.
        """
        return await self._ask("DELETE", endpoint, attempt)

    async def _ask(self, method: str, endpoint: Endpoint, attempt: Attempt | None) -> Exchange:
        if self._shutdown.begun:
            raise ProviderError(_SHUT_DOWN)
        request = httpx.Request(
            method, endpoint.url, headers=endpoint.headers, extensions=self._told(attempt)
        )
        return await self._send(endpoint, request)

    def _told(self, attempt: Attempt | None) -> dict[str, Any]:
        """What a transport is told besides the request; about the attempt only if somebody reads it."""
        if attempt is None or self._wrap is None:
            return self._extensions
        return {**self._extensions, "account": attempt.account, "attempt": attempt}

    async def _send(self, endpoint: Endpoint, request: httpx.Request) -> Exchange:
        try:
            response = await self._shutdown.wait(endpoint.transport.handle_async_request(request))
        except ShutDownError:
            failure = _SHUT_DOWN
        except _CLIENT_ERRORS as error:
            failure = connection_failure(error, endpoint.host, began=False)
        except RuntimeError:
            if not self._shutdown.begun:
                raise
            failure = _SHUT_DOWN
        else:
            return Exchange(response, endpoint.host, self._shutdown)
        # Raised outside the handler: the context of the original could carry headers.
        raise ProviderError(failure)

    async def aclose(self) -> None:
        """Close every connection and end every wait on one. Safe to call twice."""
        self._shutdown.begin()
        while self._transports:
            _, transport = self._transports.popitem()
            await transport.aclose()


class Exchange:
    """One response whose body is read piece by piece. Must be closed."""

    __slots__ = ("_host", "_pieces", "_response", "_shutdown", "headers", "status")

    def __init__(self, response: httpx.Response, host: str, shutdown: Shutdown) -> None:
        self._response = response
        self._host = host
        self._shutdown = shutdown
        self.status: int = response.status_code
        self.headers = response.headers
        self._pieces = _pieces(response)

    async def read(self) -> bytes | None:
        """The next piece of the body, None at its end.

        Raises:
            ProviderError: The connection broke, the body was cut off, or the client was closed.
        """
        if self._shutdown.begun:
            raise ProviderError(_SHUT_DOWN)
        try:
            return await self._shutdown.wait(anext(self._pieces))
        except StopAsyncIteration:
            return None
        except ShutDownError:
            failure = _SHUT_DOWN
        except _CLIENT_ERRORS as error:
            failure = connection_failure(error, self._host, began=True)
        except RuntimeError:
            # aiohttp's word for a connection that was closed under a waiting reader.
            failure = Failure(ErrorCategory.NETWORK_ERROR, f"the connection to {self._host} was closed")
        raise ProviderError(failure)

    async def read_within(self, seconds: float) -> bytes | None:
        """Like :meth:`read`; None too when nothing came within ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                return await self.read()
        except TimeoutError:
            return None

    async def read_start(self, limit: int, seconds: float) -> bytes:
        """The body's first ``limit`` bytes, or what came within ``seconds`` before the connection broke."""
        body = bytearray()
        with suppress(ProviderError, TimeoutError):
            async with asyncio.timeout(seconds):
                while len(body) < limit and (piece := await self.read()) is not None:
                    body += piece
        return bytes(body[:limit])

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        try:
            await self._pieces.aclose()
        finally:
            with suppress(*_CLIENT_ERRORS):
                await cast("httpx.AsyncByteStream", self._response.stream).aclose()


class _Pieces(httpx.AsyncByteStream):
    """A large request body in pieces: sent whole it would hold the loop, and aiohttp warns of it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        view = memoryview(self._body)
        for start in range(0, len(view), _PIECE_BYTES):
            yield bytes(view[start : start + _PIECE_BYTES])


def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    # httpx's own iterators nest generators that nobody closes when reading stops early; the
    # stream underneath is one generator that Exchange can close. Decoding needs httpx's, though.
    if response.headers.get("content-encoding", "identity") not in ("", "identity"):
        return cast("AsyncGenerator[bytes, None]", response.aiter_bytes())
    stream = cast("httpx.AsyncByteStream", response.stream)
    return cast("AsyncGenerator[bytes, None]", aiter(stream))


def _transport(proxy: str | None, *, secure: bool) -> httpx.AsyncBaseTransport:
    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=_tls() if secure else True, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=60
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    # The transport insists on a context of its own, which a session built here never uses. An
    # empty one trusts nobody, and spares the 20 ms of loading certificates.
    unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return AiohttpTransport(
        verify=unused, trust_env=False, client=session, proxy=httpx.Proxy(proxy) if proxy else None
    )


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The context for all pools, with certifi's roots or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    return httpx.create_ssl_context(trust_env=True)


def environment_proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment (or the system) names for ``url``, None for a direct connection.

    Loopback is always direct: a local model must not be reached by way of a company's proxy.
    """
    if is_loopback(url.host) or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine by its loopback address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
