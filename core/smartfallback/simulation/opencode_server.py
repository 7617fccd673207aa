"""A simulated OpenCode server: sessions, one event stream for all of them, and answers that can be aborted.

A chat takes several calls here, so what is metered is the answer, from its prompt to its end.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from smartfallback.simulation.delivery import Ending, Script, paced, wait_until_lifted
from smartfallback.simulation.dialects import (
    HTML_PAGE,
    Finish,
    Problem,
    ProblemKind,
    Question,
    Refused,
    Wire,
    compact,
)
from smartfallback.simulation.faults import (
    ActiveFault,
    EmptyAnswer,
    Garbage,
    GarbageKind,
    KeyRevoked,
    PlainFault,
    ResetConnection,
    SafetyBlock,
    SilentEvents,
)
from smartfallback.simulation.opencode_wire import (
    BLOCKED,
    VERSION,
    OpenCodeWire,
    event,
    idle,
    retrying,
    status,
)
from smartfallback.simulation.serving import TOKEN, UpstreamServer, reset, to_response
from smartfallback.simulation.upstreams import AccountState

_PATH: Final = re.compile(r"/session/([A-Za-z0-9_]+)(?:/(prompt_async|message|abort))?")
_JSON: Final = {"Content-Type": "application/json"}
_END: Final = b""


class _Failed(Exception):
    """The answer ends in an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["name"])
        self.error = error


class _Severed(Exception):
    """The answer ends with its connections."""


@dataclass(eq=False)
class _Listener:
    """One open event stream. An empty piece ends it, in mid-body unless ``clean``."""

    account: str
    pieces: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    clean: bool = True


@dataclass(eq=False)
class _Session:
    """One session. ``run`` is the answer in the making, or the last one."""

    id: str
    account: str
    run: asyncio.Task[bytes] | None = None


class OpenCodeServer(UpstreamServer):
    """The HTTP server of an upstream that speaks OpenCode's dialect; each account is one password."""

    dialect: OpenCodeWire

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sessions: dict[str, _Session] = {}
        self._listeners: set[_Listener] = set()
        self._runs: set[asyncio.Task[bytes]] = set()

    async def stop(self) -> None:
        """See :meth:`UpstreamServer.stop`. Sessions and the answers in the making are gone with it."""
        await super().stop()
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        self._sessions.clear()

    def sessions(self, account: str) -> tuple[str, ...]:
        """The sessions of an account that were not deleted, the oldest first."""
        return tuple(session.id for session in self._sessions.values() if session.account == account)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        state = self._by_key.get(self.dialect.key(request.headers, request.query))
        now = self._clock.time()
        if state is None:
            return to_response(self.dialect.refusal(Problem(ProblemKind.BAD_KEY, 401), now))
        fault = self._fault_of(state.spec.id)[1]
        if isinstance(fault, ResetConnection):
            reset(request)
            return web.Response()
        if isinstance(fault, KeyRevoked):
            return to_response(self.dialect.refusal(Problem(ProblemKind.BAD_KEY, 401), now))
        try:
            return await self._route(request, state, fault)
        except Refused as refused:
            return to_response(self.dialect.refusal(refused.problem, now))

    async def _route(
        self, request: web.BaseRequest, state: AccountState, fault: PlainFault | None
    ) -> web.StreamResponse:
        method, path, account = request.method, request.path, state.spec.id
        if (method, path) == ("GET", "/global/health"):
            return _json({"healthy": True, "version": VERSION})
        if self.dialect.lists_models(method, path):
            return to_response(Wire(200, _JSON, self.dialect.models(self.spec.models)))
        if (method, path) == ("GET", "/event"):
            if isinstance(fault, Garbage) and fault.kind is GarbageKind.HTML and not fault.after_tokens:
                return to_response(Wire(200, {"Content-Type": "text/html"}, HTML_PAGE))
            return await self._listen(request, account)
        if (method, path) == ("POST", "/session"):
            session = _Session(f"ses_{self._rng.getrandbits(96):024x}", account)
            self._sessions[session.id] = session
            self._changed()
            self._say(
                session, event("session.created", {"sessionID": session.id, "info": {"id": session.id}})
            )
            return _json({"id": session.id, "version": VERSION})
        session, what = self._find(path, account)
        if method == "DELETE" and not what:
            # As with the real server, an answer in the making goes on.
            del self._sessions[session.id]
            self._changed()
            return _json(True)
        if method == "POST" and what == "abort":
            if session.run is not None:
                session.run.cancel()
            return _json(True)
        question = self.dialect.question(method, path, request.query, await request.read())
        run = session.run = asyncio.create_task(self._run(session, state, question))
        self._runs.add(run)
        run.add_done_callback(self._over)
        if question.stream:
            return web.Response(status=204)
        try:
            return to_response(Wire(200, _JSON, await run))
        except _Severed:
            reset(request)
            return web.Response()

    def _find(self, path: str, account: str) -> tuple[_Session, str]:
        """The session that a path names, and what is asked of it.

        Raises:
            Refused: There is none.
        """
        named = _PATH.fullmatch(path)
        session = self._sessions.get(named[1]) if named else None
        if named is None or session is None or session.account != account:
            raise Refused(Problem(ProblemKind.UNKNOWN_PATH, 404, f"Session not found: {path}"))
        return session, named[2] or ""

    async def _listen(self, request: web.BaseRequest, account: str) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        listener = _Listener(account)
        self._listeners.add(listener)
        try:
            await response.prepare(request)
            await response.write(event("server.connected", {}))
            while (piece := await listener.pieces.get()) != _END:
                await response.write(piece)
            if not listener.clean and request.transport is not None:
                request.transport.close()
            return response
        except ConnectionError:
            return response  # nobody listens any more
        finally:
            self._listeners.discard(listener)

    def _say(self, session: _Session, events: bytes) -> None:
        if isinstance(self._fault_of(session.account)[1], SilentEvents):
            return
        for listener in self._listeners:
            if listener.account == session.account:
                listener.pieces.put_nowait(events)

    def _sever(self, session: _Session, *, clean: bool) -> None:
        for listener in self._listeners:
            if listener.account == session.account:
                listener.clean = clean
                listener.pieces.put_nowait(_END)

    async def _run(self, session: _Session, state: AccountState, question: Question) -> bytes:
        """Make one answer and tell of it; the body of a blocking call's response.

        Raises:
            _Severed: A fault ends the connections.
        """
        wire = self.dialect
        self._say(session, status(session.id, "busy") + wire.head(session.id, question))
        try:
            async with self._metered(state):
                active, fault = await self._admitted(session, state, question)
                lifted = self._lifted(active) if active is not None and fault is not None else None
                text, finish = await self._tell(session, state, question, fault, lifted)
                state.count(answered=1)
        except _Failed as failed:
            error = {"sessionID": session.id, "error": failed.error}
            self._say(session, event("session.error", error) + idle(session.id))
            return wire.failed(session.id, failed.error)
        except asyncio.CancelledError:
            aborted = {"name": "MessageAbortedError", "data": {"message": "Aborted"}}
            self._say(session, event("session.error", {"sessionID": session.id, "error": aborted}))
            self._say(session, idle(session.id))
            raise
        end = wire.closed_part(session.id, text) + wire.tail(session.id, question, finish)
        self._say(session, end + idle(session.id))
        return wire.whole(session.id, question, text, finish)

    async def _admitted(
        self, session: _Session, state: AccountState, question: Question
    ) -> tuple[ActiveFault | None, PlainFault | None]:
        """The fault that the answer meets, once the provider takes the call.

        Raises:
            _Failed: It doesn't, and the server tries no longer.
        """
        attempt = 0
        while True:
            active, fault = self._fault_of(state.spec.id)
            try:
                self._refuse_answer(fault, question)
                self._admit(state, question)
            except Refused as refused:
                state.count(refused=1)
                attempt += 1
                now = self._clock.time()
                error = self.dialect.error(refused.problem, now)
                wait_s = self.dialect.retry(error, attempt)
                if wait_s is None:
                    raise _Failed(error) from None
                self._say(session, retrying(session.id, attempt, error["data"]["message"], now + wait_s))
                await asyncio.sleep(wait_s)
            else:
                return active, fault

    async def _tell(
        self,
        session: _Session,
        state: AccountState,
        question: Question,
        fault: PlainFault | None,
        lifted: asyncio.Event | None,
    ) -> tuple[str, Finish]:
        """Send the answer piece by piece; its text and how it ends.

        Raises:
            _Failed: It ends in an error.
            _Severed: It ends with its connections.
        """
        if isinstance(fault, SafetyBlock):
            raise _Failed(BLOCKED)
        if isinstance(fault, EmptyAnswer):
            return "", Finish(question.input_tokens, 0)
        pace = (state.spec.latency or self.spec.latency).draw(self._rng)
        script = Script.of(TOKEN.findall(self._answers.answer(question.prompts)), question, pace, fault)
        told = 0
        try:
            await wait_until_lifted(lifted, script.wait_s)
            for part in (script.tokens[: script.stop_after], script.tokens[script.stop_after :]):
                async for piece in paced(part, script.tokens_per_s):
                    self._say(session, self.dialect.piece(session.id, question, "".join(piece)))
                    told += len(piece)
                    state.count(tokens_served=len(piece))
                if told == script.stop_after:
                    await self._turn(session, script, lifted)
        finally:
            state.charge(question.input_tokens + told, self._clock.time(), self._clock.monotonic())
        return "".join(script.tokens), Finish(question.input_tokens, told)

    async def _turn(self, session: _Session, script: Script, lifted: asyncio.Event | None) -> None:
        """What a fault does after the last token that it lets through."""
        if script.pauses:
            await wait_until_lifted(lifted, math.inf)
        elif script.ending is Ending.OVERLOAD:
            raise _Failed(self.dialect.error(Problem(ProblemKind.STATUS, 503), self._clock.time()))
        elif script.breaks:
            if script.ending is Ending.JUNK:
                self._say(session, script.junk)
            self._sever(session, clean=script.ending is not Ending.CUT)
            raise _Severed

    def _fault_of(self, account: str) -> tuple[ActiveFault | None, PlainFault | None]:
        active = self._fault_at(self.spec.name, account)
        return active, active.present(self._clock.monotonic()) if active is not None else None

    def _over(self, run: asyncio.Task[bytes]) -> None:
        self._runs.discard(run)
        if not run.cancelled():
            # A severed answer has nobody left to tell.
            run.exception()


def _json(value: object) -> web.Response:
    return to_response(Wire(200, _JSON, compact(value)))
