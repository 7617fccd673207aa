"""The course of a call over HTTP, the same for every dialect: post, read events, end well or say why not."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from typing import ClassVar, Final, TypeVar

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers.answer import Answer, AnswerReader
from smartfallback.providers.base import Call, Chunk
from smartfallback.providers.call_headers import header_value
from smartfallback.providers.http_client import Attempt, Endpoint, Exchange, HttpClient, WrapTransport
from smartfallback.providers.http_errors import ErrorReply, clean, hint_for
from smartfallback.providers.limit_headers import limit_readings

MAX_ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_BODY_S: Final = 2.0
"""How long the words of a refusal may take: whoever waits for them could be answered elsewhere by then."""

encode_json: Final = json.JSONEncoder(separators=(",", ":")).encode
_ALIVE: Final = Chunk()
_MAX_REMEMBERED: Final = 100_000

K = TypeVar("K")
V = TypeVar("V")


class HttpProvider(ABC):
    """Base of the adapters that speak JSON and server-sent events over HTTP.

    Args:
        pool: Whose accounts are served.
        clock: Reads dates in headers against the calendar.
        wrap: Put around each HTTP transport.
    """

    default_base_url: ClassVar[str]
    after_finish_s: ClassVar[float]
    """How long to wait for usage and the end of the body once a finish reason came."""

    def __init__(self, pool: PoolSpec, clock: Clock, wrap: WrapTransport | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._client = HttpClient(connect_s=pool.timeouts.connect_s, wrap=wrap)
        # The finish reason is held back meanwhile, so the wait must end before an idle limit would.
        self._tail_s = min(self.after_finish_s, pool.timeouts.idle_s / 2)

    @abstractmethod
    def _endpoint(self, call: Call) -> Endpoint: ...

    @abstractmethod
    def _body(self, call: Call) -> bytes: ...

    @abstractmethod
    def _answer(self, call: Call, headers: Mapping[str, str]) -> Answer: ...

    @abstractmethod
    def _classify(self, reply: ErrorReply) -> Failure: ...

    def unavailable(self) -> str:
        """Empty, unless a base_url can't be an HTTP address."""
        for account in self._pool.accounts:
            base = self._base_url(account)
            if not base.startswith(("http://", "https://")):
                return clean(
                    f"base_url {base!r} of pool {self._pool.name} must begin with http:// or https://"
                )
        return ""

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """See :meth:`smartfallback.providers.base.Provider.stream`.

        The finish reason and the usage come as one chunk at the end, since servers differ in
        which of them they send last. Token counts of an answer that fails come before the error.
        """
        exchange = await self._open(call)
        try:
            limits = limit_readings(exchange.headers.raw, self._clock.time())
            yield Chunk(limits=limits) if limits else _ALIVE
            answer = self._answer(call, exchange.headers)
            reader = AnswerReader(exchange, answer, self._tail_s)
            while (texts := await reader.texts()) is not None:
                for text in texts:
                    yield Chunk(text)
                if not texts:
                    yield _ALIVE
            answer.complete()
            if answer.failure is not None:
                if answer.usage is not None:
                    yield Chunk(usage=answer.usage)
                raise ProviderError(answer.failure)
            await reader.drain()
            yield Chunk("", answer.finish, answer.usage)
        finally:
            await exchange.aclose()

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        await self._client.aclose()

    async def _open(self, call: Call) -> Exchange:
        exchange = await self._client.post(self._endpoint(call), self._body(call), Attempt.of(call))
        if 200 <= exchange.status < 300:
            return exchange
        raise ProviderError(self._classify(await self._refusal(exchange, call)))

    async def _refusal(self, exchange: Exchange, call: Call) -> ErrorReply:
        try:
            body = await exchange.read_start(MAX_ERROR_BODY_BYTES, ERROR_BODY_S)
        finally:
            await exchange.aclose()
        return ErrorReply.from_body(
            exchange.status,
            exchange.headers,
            body,
            account=call.account,
            model=call.model,
            now=self._clock.time(),
        )

    @staticmethod
    def _common_headers(call: Call) -> dict[str, str | Secret]:
        return {
            "accept": "text/event-stream" if call.stream else "application/json",
            "accept-encoding": "identity",  # compression would hold tokens back
            "content-type": "application/json",
            "user-agent": "smartfallback",
        }

    @staticmethod
    def _remember(memory: dict[K, V], key: K, value: V) -> None:
        # Callers choose model names, so what is kept about them has a bound.
        if len(memory) >= _MAX_REMEMBERED:
            memory.clear()
        memory[key] = value

    def _base_url(self, account: AccountSpec) -> str:
        return (account.base_url or self._pool.base_url or self.default_base_url).rstrip("/")

    def _key(self, account: AccountSpec, scheme: str = "") -> Secret | None:
        """The account's key as a header value, after ``scheme``; None without one.

        Raises:
            ProviderError: It holds characters that no header can carry.
        """
        if account.api_key is None:
            return None
        value = header_value(account.api_key, scheme)
        if value is None:
            raise ProviderError(
                Failure(
                    ErrorCategory.AUTHENTICATION,
                    clean(f"the key of account {account.id} is empty or holds characters that no key has"),
                    hint=hint_for(ErrorCategory.AUTHENTICATION, account),
                )
            )
        return value
