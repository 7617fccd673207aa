"""One simulated API on a loopback port: takes calls, meters them, and answers or misbehaves."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

from aiohttp import web

from smartfallback.clock import Clock
from smartfallback.simulation.answers import Answers
from smartfallback.simulation.delivery import Delivery, Script, junk_of
from smartfallback.simulation.dialects import (
    HTML_PAGE,
    Dialect,
    Problem,
    ProblemKind,
    Question,
    Refused,
    Wire,
    compact,
)
from smartfallback.simulation.faults import (
    ActiveFault,
    Banned,
    BurstLimit,
    EmptyAnswer,
    Garbage,
    GarbageKind,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    PlainFault,
    QuotaApiFault,
    QuotaTrouble,
    QuotaWall,
    ResetConnection,
    SafetyBlock,
    WaitForm,
)
from smartfallback.simulation.gemini_wire import GeminiWire
from smartfallback.simulation.openai_wire import OpenAiWire
from smartfallback.simulation.opencode_wire import OpenCodeWire
from smartfallback.simulation.quota_answers import QuotaAnswer, quota_answer
from smartfallback.simulation.upstreams import AccountState, DialectName, Upstream

LOOPBACK: Final = "127.0.0.1"

_DIALECTS: Final[dict[DialectName, Dialect]] = {
    DialectName.GEMINI: GeminiWire(),
    DialectName.OPENAI: OpenAiWire(),
    DialectName.OPENCODE: OpenCodeWire(),
}
# Leading whitespace belongs to a token, so that joining tokens gives the text back.
TOKEN: Final = re.compile(r"\s*\S+")
# Closing with a linger of zero seconds makes the kernel send RST instead of FIN.
_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

FaultAt = Callable[[str, str], ActiveFault | None]
"""The fault in force for an upstream's account."""
Lifted = Callable[[ActiveFault], asyncio.Event]
"""The event that is set when a fault is no longer in force."""


class UpstreamServer:
    """The HTTP server of one upstream.

    Args:
        spec: The API and its accounts.
        clock: Time of quotas, rate limits and flapping; pacing always runs on the event loop's.
        rng: Randomness of latencies, identifiers and texts.
        fault_at: Looks up the fault in force.
        lifted: Gives the event on which stalled answers wait.
        changed: Called after each change of an account's counters.
    """

    def __init__(
        self,
        spec: Upstream,
        clock: Clock,
        rng: Random,
        *,
        fault_at: FaultAt,
        lifted: Lifted,
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.dialect = _DIALECTS[spec.dialect]
        self.accounts = {
            account.id: AccountState(account, clock.time(), clock.monotonic(), changed)
            for account in spec.accounts
        }
        self.port = 0
        self._clock = clock
        self._rng = rng
        self._answers = Answers(rng)
        self._fault_at = fault_at
        self._lifted = lifted
        self._changed = changed
        self._by_key = {state.spec.api_key.reveal(): state for state in self.accounts.values()}
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Listen; on a free port the first time, on the same one after a stop.

        Raises:
            OSError: The earlier port was taken meanwhile.
        """
        if self._runner is not None:
            return
        # handler_cancellation: a client that hangs up ends its handler at once, and is counted.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, LOOPBACK, self.port, reuse_address=sys.platform != "win32")
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port and every connection. Safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        # The runner waits for its handlers; a server that goes down doesn't, so they lose their sockets.
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        dialect = self.dialect
        state = self._by_key.get(dialect.key(request.headers, request.query))
        if state is None:
            return to_response(dialect.refusal(Problem(ProblemKind.BAD_KEY, 401), self._clock.time()))
        tell = quota_answer(self.spec.dialect, request.method, request.path)
        if tell is not None:
            return await self._tell_quota(request, state, tell)
        async with self._metered(state):
            try:
                return await self._serve(request, state)
            except Refused as refused:
                state.count(refused=1)
                return to_response(dialect.refusal(refused.problem, self._clock.time()))

    async def _tell_quota(
        self, request: web.BaseRequest, state: AccountState, tell: QuotaAnswer
    ) -> web.StreamResponse:
        """Quota reads are no calls: they cost nothing and are counted apart."""
        state.count(quota_reads=1)
        active = self._fault_at(self.spec.name, state.spec.id)
        fault = active.present(self._clock.monotonic()) if active else None
        trouble = fault.trouble if isinstance(fault, QuotaApiFault) else None
        if isinstance(fault, ResetConnection):
            reset(request)
            return web.Response()
        now = self._clock.time()
        try:
            _refuse_by_fault(fault)
            if active is not None and trouble is QuotaTrouble.HANG:
                await self._lifted(active).wait()
                trouble = None
            if trouble is QuotaTrouble.ERROR:
                raise Refused(Problem(ProblemKind.STATUS, 503))
            if trouble is QuotaTrouble.ABSENT:
                raise Refused(Problem(ProblemKind.UNKNOWN_PATH, 404, f"not found: {request.path}"))
        except Refused as refused:
            return to_response(self.dialect.refusal(refused.problem, now))
        if trouble is QuotaTrouble.HTML:
            return to_response(Wire(200, {"Content-Type": "text/html"}, HTML_PAGE))
        payload = {} if trouble is QuotaTrouble.EMPTY else tell(state, now, trouble)
        return to_response(Wire(200, {"Content-Type": "application/json"}, compact(payload)))

    @asynccontextmanager
    async def _metered(self, state: AccountState) -> AsyncIterator[None]:
        state.count(requests=1, in_flight=1)
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            if self._runner is not None:
                state.count(disconnects=1)
            raise
        finally:
            state.count(in_flight=-1)

    async def _serve(self, request: web.BaseRequest, state: AccountState) -> web.StreamResponse:
        body = await request.read()
        active = self._fault_at(self.spec.name, state.spec.id)
        fault = active.present(self._clock.monotonic()) if active else None
        if isinstance(fault, ResetConnection):
            reset(request)
            return web.Response()
        _refuse_by_fault(fault)
        dialect = self.dialect
        if dialect.lists_models(request.method, request.path):
            return to_response(
                Wire(200, {"Content-Type": "application/json"}, dialect.models(self.spec.models))
            )
        question = dialect.question(request.method, request.path, request.query, body)
        self._refuse_answer(fault, question)
        self._admit(state, question)
        call_id = f"{self._rng.getrandbits(96):024x}"
        if isinstance(fault, EmptyAnswer | SafetyBlock):
            content = dialect.blocked(call_id, question) if isinstance(fault, SafetyBlock) else b""
            state.count(answered=1)
            return to_response(Wire(200, _content_type(question), content))
        if isinstance(fault, Garbage) and not fault.after_tokens:
            state.count(answered=1)
            kind = (
                {"Content-Type": "text/html"} if fault.kind is GarbageKind.HTML else _content_type(question)
            )
            return to_response(Wire(200, kind, junk_of(fault.kind, question)))
        if isinstance(fault, OverloadInStream) and not question.stream:
            raise Refused(Problem(ProblemKind.STATUS, 503))
        lifted = self._lifted(active) if active is not None and fault is not None else None
        return await self._deliver(request, state, question, fault, lifted, call_id)

    def _refuse_answer(self, fault: PlainFault | None, question: Question) -> None:
        """Raise the refusal that ``fault`` makes of a call that was understood.

        Raises:
            Refused: It does.
        """
        _refuse_by_fault(fault)
        if isinstance(fault, BurstLimit) and fault.model in (None, question.model):
            raise Refused(_burst(fault, question.model))
        if isinstance(fault, QuotaWall):
            resets_at = None if fault.resets_in_s is None else self._clock.time() + fault.resets_in_s
            raise Refused(Problem(ProblemKind.WALL, 429, resets_at=resets_at, model=question.model))

    def _admit(self, state: AccountState, question: Question) -> None:
        """Enforce the upstream's own limits and charge the call.

        Raises:
            Refused: The model is unknown, the prompt too long, the quota used up or the rate exceeded.
        """
        spec, model, now, ticks = self.spec, question.model, self._clock.time(), self._clock.monotonic()
        if spec.models and model not in spec.models:
            raise Refused(Problem(ProblemKind.UNKNOWN_MODEL, 404, model=model))
        if spec.context_tokens is not None and question.input_tokens > spec.context_tokens:
            message = (
                f"The input token count ({question.input_tokens}) exceeds the maximum number of tokens "
                f"allowed ({spec.context_tokens})."
            )
            raise Refused(Problem(ProblemKind.TOO_LONG, 400, message))
        wall_ends_at = state.wall_ends_at(now)
        if wall_ends_at is not None:
            raise Refused(Problem(ProblemKind.WALL, 429, resets_at=wall_ends_at, model=model))
        wait_s = state.burst_wait_s(ticks)
        if wait_s is not None:
            problem = Problem(ProblemKind.BURST, 429, wait_s=wait_s, form=WaitForm.SECONDS, model=model)
            raise Refused(problem)
        state.admit(now, ticks)

    async def _deliver(
        self,
        request: web.BaseRequest,
        state: AccountState,
        question: Question,
        fault: PlainFault | None,
        lifted: asyncio.Event | None,
        call_id: str,
    ) -> web.StreamResponse:
        tokens = TOKEN.findall(self._answers.answer(question.prompts))
        pace = (state.spec.latency or self.spec.latency).draw(self._rng)
        headers = _content_type(question) | self.dialect.limits(state, self._clock.monotonic())
        response = web.StreamResponse(headers=headers)
        script = Script.of(tokens, question, pace, fault)
        delivery = Delivery(request, response, self.dialect, question, script, call_id, lifted)
        sent = 0
        try:
            async for count in delivery.send():
                sent += count
                state.count(tokens_served=count)
        finally:
            state.charge(question.input_tokens + sent, self._clock.time(), self._clock.monotonic())
        state.count(answered=1)
        return response


def _refuse_by_fault(fault: PlainFault | None) -> None:
    if isinstance(fault, HttpStatus):
        wait_s = fault.retry_after_s
        raise Refused(Problem(ProblemKind.STATUS, fault.status, fault.message, fault.code, wait_s=wait_s))
    if isinstance(fault, KeyRevoked):
        raise Refused(Problem(ProblemKind.BAD_KEY, 401))
    if isinstance(fault, Banned):
        raise Refused(Problem(ProblemKind.BANNED, 403))


def _burst(fault: BurstLimit, model: str) -> Problem:
    wait_s = None if fault.form is WaitForm.NONE else fault.retry_after_s
    return Problem(ProblemKind.BURST, 429, wait_s=wait_s, form=fault.form, model=model, details=fault.details)


def _content_type(question: Question) -> dict[str, str]:
    return {"Content-Type": "text/event-stream" if question.stream else "application/json"}


def to_response(wire: Wire) -> web.Response:
    """``wire`` as aiohttp sends it."""
    return web.Response(status=wire.status, headers=wire.headers, body=wire.body)


def reset(request: web.BaseRequest) -> None:
    """Break the connection so that the client sees a reset."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
