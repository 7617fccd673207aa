"""An HTTP transport around a real one that lets calls meet drills."""

from __future__ import annotations

import math
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import httpx

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec
from smartfallback.providers.http_client import Attempt
from smartfallback.simulation.drills.body import DrilledBody, drilled
from smartfallback.simulation.drills.connections import lost_connection
from smartfallback.simulation.drills.drill import Meeting
from smartfallback.simulation.drills.playable import OVER_HTTP
from smartfallback.simulation.drills.replies import Body, last_words, reply, to_response
from smartfallback.simulation.drills.spoken import reader_of
from smartfallback.simulation.drills.turns import turn_of
from smartfallback.simulation.faults import ConnectTimeout, Latency

if TYPE_CHECKING:
    from smartfallback.simulation.drills.injector import Injector


class InjectingTransport(httpx.AsyncBaseTransport):
    """Passes requests on to ``inner``, but for what drills make of them.

    Args:
        inner: The real transport; closed with this one.
        injector: Knows which drills are in force.
        pool: Whose calls come here.
        clock: Dates what is stated in responses.
    """

    def __init__(
        self, inner: httpx.AsyncBaseTransport, injector: Injector, pool: PoolSpec, clock: Clock
    ) -> None:
        self._inner = inner
        self._injector = injector
        self._pool = pool
        self._clock = clock

    def handle_async_request(self, request: httpx.Request) -> Coroutine[Any, Any, httpx.Response]:
        """Send ``request``. Without a drill the real transport's own coroutine is handed on."""
        if not self._injector.armed:
            return self._inner.handle_async_request(request)
        return self._sent(request)

    async def aclose(self) -> None:
        """Close the real transport."""
        await self._inner.aclose()

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        attempt = request.extensions.get("attempt")
        if not isinstance(attempt, Attempt):
            return await self._inner.handle_async_request(request)
        return await self._drilled(request, attempt)

    async def _drilled(self, request: httpx.Request, attempt: Attempt) -> httpx.Response:
        """Send a request of an attempt while drills may be in force."""
        meeting = self._injector.meet(attempt.account, self._pool.name, attempt.model, OVER_HTTP)
        if meeting is None:
            return await self._inner.handle_async_request(request)
        try:
            response = await self._met(request, attempt, meeting)
        except BaseException:
            meeting.close()
            raise
        turn = turn_of(meeting.fault)
        if turn is None or isinstance(response.stream, Body) or not response.is_success:
            meeting.close()
            return response
        kind = self._pool.provider
        body = DrilledBody(
            response, meeting, turn, reader_of(kind), lambda: last_words(meeting.fault, kind, attempt)
        )
        return drilled(response, body, request)

    async def _met(self, request: httpx.Request, attempt: Attempt, meeting: Meeting) -> httpx.Response:
        await lose_connection(meeting, request)
        wire = reply(meeting.fault, self._pool.provider, attempt, self._clock.time())
        if wire is not None:
            return to_response(wire, request)
        return await self._inner.handle_async_request(request)


async def lose_connection(meeting: Meeting, request: httpx.Request) -> None:
    """Wait before the connection as long as the fault wants it, and lose it if that is the fault.

    Raises:
        httpx.TransportError: It is lost.
    """
    fault = meeting.fault
    if isinstance(fault, Latency):
        await meeting.stand_still(fault.delay_s)
    elif isinstance(fault, ConnectTimeout):
        limit = request.extensions.get("timeout", {}).get("connect")
        await meeting.stand_still(math.inf if limit is None else limit)
        if meeting.lifted:
            return
    error = lost_connection(fault, request.url)
    if error is not None:
        meeting.close()
        raise error
