"""An HTTP transport around a real one that lets calls meet drills."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import httpx

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec
from smartfallback.providers.http_client import Attempt
from smartfallback.simulation.drills.connections import lost_connection
from smartfallback.simulation.drills.drill import Meeting
from smartfallback.simulation.drills.playable import OVER_HTTP
from smartfallback.simulation.drills.replies import reply, to_response
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
        return self._drilled(request)

    async def aclose(self) -> None:
        """Close the real transport."""
        await self._inner.aclose()

    async def _drilled(self, request: httpx.Request) -> httpx.Response:
        attempt = request.extensions.get("attempt")
        if not isinstance(attempt, Attempt):
            return await self._inner.handle_async_request(request)
        meeting = self._injector.meet(attempt.account, self._pool.name, attempt.model, OVER_HTTP)
        if meeting is None:
            return await self._inner.handle_async_request(request)
        try:
            return await self._met(request, attempt, meeting)
        finally:
            meeting.close()

    async def _met(self, request: httpx.Request, attempt: Attempt, meeting: Meeting) -> httpx.Response:
        fault = meeting.fault
        if isinstance(fault, ConnectTimeout):
            await meeting.stand_still(request.extensions.get("timeout", {}).get("connect") or 0.0)
        elif isinstance(fault, Latency):
            await meeting.stand_still(fault.delay_s)
        if not isinstance(fault, ConnectTimeout) or not meeting.lifted:
            if (error := lost_connection(fault, request.url)) is not None:
                raise error
            wire = reply(fault, self._pool.provider, attempt, self._clock.time())
            if wire is not None:
                return to_response(wire, request)
        return await self._inner.handle_async_request(request)
