"""Drills for OpenCode servers, where one attempt takes several requests.

An attempt meets its drill at its first request, and the fault happens at the one where it means the same as
with any other API: lost connections, and refusals by the server itself, at the first; delays where the
session is made; what the provider behind the server refuses, in the events that answer the prompt, which
then never reaches the server; what befalls an answer, in the event stream behind the prompt. The
requests that end and delete a session always reach the server, so that a drill leaves nothing there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import httpx

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec
from smartfallback.providers.http_client import Attempt
from smartfallback.simulation.dialects import Finish, Problem, ProblemKind, Wire
from smartfallback.simulation.drills.body import DrilledBody, drilled
from smartfallback.simulation.drills.drill import Meeting
from smartfallback.simulation.drills.playable import OVER_HTTP
from smartfallback.simulation.drills.replies import asked, problem_of, to_response
from smartfallback.simulation.drills.spoken import Said, read_opencode
from smartfallback.simulation.drills.transport import InjectingTransport, lose_connection
from smartfallback.simulation.drills.turns import turn_of
from smartfallback.simulation.faults import (
    ConnectTimeout,
    EmptyAnswer,
    Garbage,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    PlainFault,
    RawResponse,
    SafetyBlock,
)
from smartfallback.simulation.opencode_wire import BLOCKED, OpenCodeWire, event, idle

if TYPE_CHECKING:
    from smartfallback.simulation.drills.injector import Injector

_PROMPT: Final = re.compile(r"/session/([^/]+)/(prompt_async|message)$")
_WIRE: Final = OpenCodeWire()
_JSON: Final = {"Content-Type": "application/json"}


class _Course:
    """What one attempt meets, from its first request to its last."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self.session = ""
        self.feed: DrilledBody | None = None

    def read(self, data: bytes) -> Said:
        return read_opencode(data, self.session)


class OpenCodeTransport(InjectingTransport):
    """An :class:`InjectingTransport` for the requests of OpenCode attempts."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, injector: Injector, pool: PoolSpec, clock: Clock
    ) -> None:
        super().__init__(inner, injector, pool, clock)
        self._courses: WeakKeyDictionary[Attempt, _Course | None] = WeakKeyDictionary()

    async def _drilled(self, request: httpx.Request, attempt: Attempt) -> httpx.Response:
        path = request.url.path.rstrip("/")
        listens = request.method == "GET" and path.endswith("/event")
        makes = request.method == "POST" and path.endswith("/session")
        if (listens or makes) and attempt not in self._courses:
            meeting = self._injector.meet(attempt.account, self._pool.name, attempt.model, OVER_HTTP)
            self._courses[attempt] = None if meeting is None else _Course(meeting)
            if meeting is not None and (refusal := await self._refused(request, meeting)) is not None:
                return refusal
        course = self._courses.get(attempt)
        if course is None:
            return await self._inner.handle_async_request(request)
        if request.method == "DELETE":
            course.meeting.close()
        elif listens:
            return await self._listen(request, attempt, course)
        elif makes:
            return await self._make(request, course)
        elif (prompt := _PROMPT.search(path)) is not None and not course.meeting.lifted:
            course.session = prompt[1]
            return await self._prompt(request, attempt, course, whole=prompt[2] == "message")
        return await self._inner.handle_async_request(request)

    async def _refused(self, request: httpx.Request, meeting: Meeting) -> httpx.Response | None:
        """The server's own refusal of an attempt's first request; None if it refuses nothing.

        Raises:
            httpx.TransportError: There is no connection to the server.
        """
        fault = meeting.fault
        if not isinstance(fault, ConnectTimeout):
            # That one takes its time, and too long a wait for the event stream marks the server as silent.
            await lose_connection(meeting, request)
        wire = self._own_refusal(fault)
        if wire is None:
            return None
        meeting.close()
        return to_response(wire, request)

    def _own_refusal(self, fault: PlainFault) -> Wire | None:
        now = self._clock.time()
        match fault:
            case RawResponse():
                return Wire(fault.status, dict(fault.headers), fault.body.encode())
            case KeyRevoked():
                return _WIRE.refusal(Problem(ProblemKind.BAD_KEY, 401), now)
            case HttpStatus(status, message, code, wait_s):
                wire = _WIRE.refusal(Problem(ProblemKind.STATUS, status, message, code), now)
                wait = {} if wait_s is None else {"Retry-After": f"{wait_s:g}"}
                return wire._replace(headers=wire.headers | wait)
            case _:
                return None

    async def _listen(self, request: httpx.Request, attempt: Attempt, course: _Course) -> httpx.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            course.meeting.close()
            raise
        fault = course.meeting.fault
        turn = None if self._answered_here(fault, attempt) else turn_of(fault)
        course.feed = DrilledBody(
            response, course.meeting, turn, course.read, lambda: self._last_words(course), whole=False
        )
        return drilled(response, course.feed, request)

    async def _make(self, request: httpx.Request, course: _Course) -> httpx.Response:
        try:
            await lose_connection(course.meeting, request)
            response = await self._inner.handle_async_request(request)
        except BaseException:
            course.meeting.close()
            raise
        if not response.is_success:
            course.meeting.close()
        return response

    async def _prompt(
        self, request: httpx.Request, attempt: Attempt, course: _Course, *, whole: bool
    ) -> httpx.Response:
        fault = course.meeting.fault
        if self._answered_here(fault, attempt):
            if whole:
                return to_response(Wire(200, _JSON, self._whole(fault, attempt, course)), request)
            if course.feed is not None:
                course.feed.insert(self._told(fault, attempt, course))
                return to_response(Wire(204, {}, b""), request)
        response = await self._inner.handle_async_request(request)
        turn = turn_of(fault)
        if not whole or turn is None or not response.is_success:
            return response
        body = DrilledBody(response, course.meeting, turn, course.read, lambda: b"\x00 no JSON", whole=True)
        return drilled(response, body, request)

    def _answered_here(self, fault: PlainFault, attempt: Attempt) -> bool:
        """Whether the provider behind the server refuses or answers at once, so that no prompt is needed."""
        if isinstance(fault, SafetyBlock | EmptyAnswer):
            return True
        if isinstance(fault, Garbage | OverloadInStream):
            return not fault.after_tokens
        return problem_of(fault, attempt, 0.0) is not None

    def _told(self, fault: PlainFault, attempt: Attempt, course: _Course) -> bytes:
        """The events that answer the prompt in the server's place."""
        session = course.session
        if isinstance(fault, EmptyAnswer):
            return _WIRE.tail(session, asked(attempt), Finish(0, 0)) + idle(session)
        if isinstance(fault, Garbage):
            return _junk(session)
        error = {"sessionID": session, "error": self._error(fault, attempt)}
        return event("session.error", error) + idle(session)

    def _whole(self, fault: PlainFault, attempt: Attempt, course: _Course) -> bytes:
        """The body that answers a blocking prompt in the server's place."""
        session = course.session
        if isinstance(fault, EmptyAnswer):
            return _WIRE.whole(session, asked(attempt), "", Finish(0, 0))
        if isinstance(fault, Garbage):
            return b'{"info": {"id'
        return _WIRE.failed(session, self._error(fault, attempt))

    def _error(self, fault: PlainFault, attempt: Attempt) -> dict[str, object]:
        if isinstance(fault, SafetyBlock):
            return dict(BLOCKED)
        now = self._clock.time()
        return _WIRE.error(problem_of(fault, attempt, now) or Problem(ProblemKind.STATUS, 503), now)

    def _last_words(self, course: _Course) -> bytes:
        """What comes in place of the rest of an answer that has begun."""
        if isinstance(course.meeting.fault, Garbage):
            return _junk(course.session)
        error = _WIRE.error(Problem(ProblemKind.STATUS, 503), self._clock.time())
        return event("session.error", {"sessionID": course.session, "error": error})


def _junk(session: str) -> bytes:
    # Lines without the session's id are other sessions' matter, and nobody reads them.
    return (
        b'data: {"type":"message.part.delta","properties":{"sessionID":"' + session.encode() + b'","del\n\n'
    )
