"""Adapter for an OpenCode server (``opencode serve``).

Each call gets a session of its own, so that calls on one server never see each other's text. The
answer is read from the server's event stream, which must be open before the session is: a server
whose stream does not even tell of the new session is asked in one blocking call instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError, TimeoutPhase
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers.base import Call, Chunk
from smartfallback.providers.http_client import Exchange, HttpClient, WrapTransport
from smartfallback.providers.http_errors import clean
from smartfallback.providers.opencode_api import DEFAULT_BASE_URL, OpenCodeApi, prompt_of
from smartfallback.providers.opencode_events import EventFeed, OpenCodeAnswer
from smartfallback.providers.sse import SseError

SILENCE_S: Final = 5.0
"""How long the event stream may take to tell of a new session before it counts as silent."""
SILENT_FOR_S: Final = 600.0
"""How long a silent stream is not tried again."""
BLOCKING_S: Final = 300.0
"""Limit of the blocking call."""
CLEANUP_S: Final = 5.0
"""Limit for ending and deleting a session."""

_ALIVE: Final = Chunk()

T = TypeVar("T")


class OpenCodeProvider:
    """Serves one pool of accounts, each of them a server (or a password of one).

    Args:
        pool: Whose accounts are served; ``model`` is ``"providerID/modelID"``, empty for the server's own.
        clock: Reads stated moments, and remembers which event streams are silent.
        silence_s: See :data:`SILENCE_S`.
        blocking_s: See :data:`BLOCKING_S`.
        cleanup_s: See :data:`CLEANUP_S`.
        wrap: Put around each HTTP transport.
    """

    def __init__(
        self,
        pool: PoolSpec,
        clock: Clock,
        *,
        silence_s: float = SILENCE_S,
        blocking_s: float = BLOCKING_S,
        cleanup_s: float = CLEANUP_S,
        wrap: WrapTransport | None = None,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._silence_s = silence_s
        self._blocking_s = blocking_s
        self._cleanup_s = cleanup_s
        self._client = HttpClient(connect_s=pool.timeouts.connect_s, wrap=wrap)
        self._apis: dict[str, OpenCodeApi] = {}
        self._silent_until: dict[str, float] = {}
        self._sessions: set[_Session] = set()
        self._endings: set[asyncio.Task[None]] = set()

    def unavailable(self) -> str:
        """Empty, unless an address or the model can't be one."""
        for account in self._pool.accounts:
            base = self._base_url(account)
            if not base.startswith(("http://", "https://")):
                return clean(
                    f"base_url {base!r} of pool {self._pool.name} must begin with http:// or https://"
                )
        provider, _, model = self._pool.model.partition("/")
        if self._pool.model and not (provider and model):
            return clean(
                f"model {self._pool.model!r} of pool {self._pool.name} must name provider and model, "
                'as in "anthropic/claude-sonnet-4-5"'
            )
        return ""

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """See :meth:`smartfallback.providers.base.Provider.stream`.

        ``max_output_tokens`` and ``temperature`` stay without effect: the server takes neither. The
        session is aborted (if need be) and deleted after the generator has ended, in a task of its own.
        """
        prompt = prompt_of(call)
        api = self._api(call.account).serving(call)
        exchange = await self._listen(api)
        session = _Session(api)
        self._sessions.add(session)
        try:
            feed = EventFeed(exchange) if exchange is not None else None
            answer = OpenCodeAnswer(call, await session.create(), self._clock.time())
            if feed is not None and not await self._speaks(feed, answer):
                self._fell_silent(call.account)
                feed = None
            if feed is None:
                text = await self._ask_blocking(session, answer, prompt)
                if text:
                    yield Chunk(text)
            else:
                await session.prompt(prompt)
                while (texts := await self._texts(feed, answer)) is not None:
                    for text in texts:
                        yield Chunk(text) if text else _ALIVE
            answer.complete()
            session.answering = not answer.ended
            if answer.failure is not None:
                if answer.usage is not None:
                    yield Chunk(usage=answer.usage)
                raise ProviderError(answer.failure)
            yield Chunk("", answer.finish, answer.usage)
        finally:
            self._end(session)
            if exchange is not None:
                await exchange.aclose()

    async def aclose(self) -> None:
        """End every session, then close all connections. Safe to call twice."""
        for session in tuple(self._sessions):
            self._end(session)
        while self._endings:
            await asyncio.wait(self._endings)
        await self._client.aclose()

    async def _listen(self, api: OpenCodeApi) -> Exchange | None:
        """The server's event stream; None when it is known to be silent, or does not even open in time."""
        if self._clock.monotonic() < self._silent_until.get(self._base_url(api.account), 0.0):
            return None
        try:
            async with asyncio.timeout(self._silence_s):
                return await api.events()
        except TimeoutError:
            self._fell_silent(api.account)
            return None

    def _fell_silent(self, account: AccountSpec) -> None:
        self._silent_until[self._base_url(account)] = self._clock.monotonic() + SILENT_FOR_S

    async def _speaks(self, feed: EventFeed, answer: OpenCodeAnswer) -> bool:
        """Whether the event stream tells of the session in time.

        Raises:
            ProviderError: What comes is no event stream.
        """
        try:
            async with asyncio.timeout(self._silence_s):
                while not answer.heard and await self._texts(feed, answer) is not None:
                    pass
        except TimeoutError:
            return False
        if answer.failure is not None:
            raise ProviderError(answer.failure)
        return answer.heard

    async def _texts(self, feed: EventFeed, answer: OpenCodeAnswer) -> list[str] | None:
        """The texts of the next events of the session, empty for a sign of life; None at the end."""
        while not answer.over:
            try:
                events = await feed.read()
            except SseError as error:
                answer.malformed(f"no event stream: {error}")
                return None
            if events is None:
                return None
            texts = answer.read(events, self._clock.time())
            if texts is not None:
                return texts
        return None

    async def _ask_blocking(self, session: _Session, answer: OpenCodeAnswer, prompt: dict[str, Any]) -> str:
        try:
            async with asyncio.timeout(self._blocking_s):
                return answer.feed_payload(await session.message(prompt), surrogates=True)
        except TimeoutError:
            failure = Failure(
                ErrorCategory.TIMEOUT,
                f"no whole answer within {self._blocking_s:g} s from a server whose event stream is silent",
                phase=TimeoutPhase.FIRST_TOKEN,
            )
        raise ProviderError(failure)

    def _api(self, account: AccountSpec) -> OpenCodeApi:
        known = self._apis.get(account.id)
        if known is None or known.account is not account:
            known = OpenCodeApi(self._client, self._base_url(account), account, self._clock)
            self._apis[account.id] = known
        return known

    def _base_url(self, account: AccountSpec) -> str:
        return (account.base_url or self._pool.base_url or DEFAULT_BASE_URL).rstrip("/")

    def _end(self, session: _Session) -> None:
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        ending = asyncio.create_task(session.end(self._cleanup_s))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


class _Session:
    """One session on the server. What was begun is ended, also when the caller goes away in between."""

    def __init__(self, api: OpenCodeApi) -> None:
        self.answering = False
        self._api = api
        self._id = ""
        self._step: asyncio.Task[Any] | None = None

    async def create(self) -> str:
        self._id = await self._carry_out(self._create())
        return self._id

    async def prompt(self, prompt: dict[str, Any]) -> None:
        self.answering = True
        await self._carry_out(self._api.prompt(self._id, prompt))

    async def message(self, prompt: dict[str, Any]) -> dict[str, Any]:
        self.answering = True
        return await self._api.message(self._id, prompt)

    async def end(self, limit_s: float) -> None:
        """Abort and delete what there is, within ``limit_s`` seconds. Never raises for the server's sake."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._delete()
        finally:
            if self._step is not None and not self._step.done():
                self._step.cancel()

    async def _delete(self) -> None:
        if self._step is not None:
            # A prompt that is still on its way would begin after the abort.
            with suppress(ProviderError):
                await self._step
        if not self._id:
            return
        if self.answering:
            # The deletion of a session does not stop its run.
            with suppress(ProviderError):
                await self._api.abort(self._id)
        with suppress(ProviderError):
            await self._api.delete(self._id)

    async def _create(self) -> str:
        self._id = await self._api.create_session()
        return self._id

    async def _carry_out(self, step: Coroutine[Any, Any, T]) -> T:
        """Await ``step`` to its end even if the caller is cancelled: else nobody knew what the server has."""
        task = asyncio.create_task(step)
        self._step = task
        return await asyncio.shield(task)
