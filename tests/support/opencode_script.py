"""An OpenCode server on loopback that plays events which a test, or a recording, lays down."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

PASSWORD = "test-password-0123"
CONNECTED: dict[str, Any] = {"type": "server.connected", "properties": {}}
Played = dict[str, Any] | bytes
"""An event; ``$session`` in it stands for the session that is prompted. Bytes are sent as they are."""


class Call(NamedTuple):
    """One call as the server got it."""

    method: str
    path: str
    body: Any


@dataclass
class ScriptedOpenCode:
    """The running server: what it plays, and what it saw.

    ``on_prompt`` is played after each prompt, ``on_abort`` after an abort; ``answer`` is what a
    blocking call gets. ``tells`` off makes the event stream silent. The call named by ``holds`` is
    answered once ``release`` is set; ``refusals`` are answers (status and body) by a call's name.
    """

    on_prompt: list[Played] = field(default_factory=list)
    on_abort: list[Played] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    tells: bool = True
    holds: str = ""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    listeners: list[asyncio.Queue[bytes | None]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def seen(self, what: str) -> list[Call]:
        """The calls whose method and path, without the session's number, are ``what``."""
        return [call for call in self.calls if _name(call) == what]

    async def until(self, what: str, times: int = 1) -> None:
        """Wait until a call has been seen so many times."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: len(self.seen(what)) >= times)

    def play(self, events: Iterable[Played], session: str) -> None:
        """Send events to everyone who listens."""
        for event in events:
            for listener in self.listeners:
                listener.put_nowait(raw(event, session))

    def hang_up(self) -> None:
        """End all event streams."""
        for listener in self.listeners:
            listener.put_nowait(None)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        call = Call(request.method, request.path, json.loads(body) if body else None)
        async with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
        if request.headers.get("Authorization") != basic(PASSWORD):
            return web.Response(status=401)
        name = _name(call)
        if name == self.holds:
            await self.release.wait()
        if name in self.refusals:
            status, text = self.refusals[name]
            return web.Response(status=status, text=text)
        if name == "GET /event":
            return await self._listen(request)
        if name == "POST /session":
            session = f"ses_{len(self.seen(name))}"
            if self.tells:
                created = {"sessionID": session, "info": {"id": session}}
                self.play([{"type": "session.created", "properties": created}], session)
            return web.json_response({"id": session})
        session = request.path.split("/")[2]
        if name == "POST /session/_/prompt_async":
            self.play(self.on_prompt, session)
            return web.Response(status=204)
        if name == "POST /session/_/message":
            return web.json_response(self.answer)
        if name == "POST /session/_/abort":
            self.play(self.on_abort, session)
        return web.json_response(True)

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            await response.prepare(request)
            await response.write(raw(CONNECTED, ""))
            while (piece := await queue.get()) is not None:
                await response.write(piece)
            return response
        finally:
            self.listeners.remove(queue)


def raw(event: Played, session: str) -> bytes:
    """An event as it goes over the wire."""
    if isinstance(event, bytes):
        return event
    return b"data: " + json.dumps(event, ensure_ascii=False).replace("$session", session).encode() + b"\n\n"


def basic(password: str) -> str:
    """The header that opens the server."""
    return "Basic " + base64.b64encode(f"opencode:{password}".encode()).decode()


@asynccontextmanager
async def scripted_opencode(*events: Played, **settings: Any) -> AsyncIterator[ScriptedOpenCode]:
    """A server on a free port that plays ``events`` after each prompt."""
    server = ScriptedOpenCode(on_prompt=list(events), **settings)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def _name(call: Call) -> str:
    parts = call.path.split("/")
    if len(parts) > 2 and parts[1] == "session":
        parts[2] = "_"
    return f"{call.method} {'/'.join(parts)}"


# What the real program sends, in the shapes that matter.


def message(role: str, name: str | None = None, **info: Any) -> dict[str, Any]:
    """A message began or changed; an answer's id is ``msg_2``, a question's ``msg_1``."""
    name = name or ("msg_2" if role == "assistant" else "msg_1")
    fields = {"id": name, "role": role, "sessionID": "$session", **info}
    return {"type": "message.updated", "properties": {"sessionID": "$session", "info": fields}}


def part(
    text: str | None, *, of: str = "msg_2", name: str = "prt_2", kind: str = "text", **more: Any
) -> dict[str, Any]:
    """A part with its whole text so far; ``more`` stands beside it, such as ``delta``."""
    fields = {"id": name, "messageID": of, "sessionID": "$session", "type": kind}
    if text is not None:
        fields["text"] = text
    return {"type": "message.part.updated", "properties": {"sessionID": "$session", "part": fields, **more}}


def delta(text: str, *, of: str = "msg_2", name: str = "prt_2", event: str | None = None) -> dict[str, Any]:
    """What is new in a part."""
    fields = {"sessionID": "$session", "messageID": of, "partID": name, "field": "text", "delta": text}
    return {"type": "message.part.delta", "properties": fields} | ({"id": event} if event else {})


def status(kind: str, **more: Any) -> dict[str, Any]:
    """What the session is doing."""
    fields = {"sessionID": "$session", "status": {"type": kind, **more}}
    return {"type": "session.status", "properties": fields}


def error(name: str, **data: Any) -> dict[str, Any]:
    """The session's error."""
    fields = {"sessionID": "$session", "error": {"name": name, "data": data}}
    return {"type": "session.error", "properties": fields}


IDLE: dict[str, Any] = {"type": "session.idle", "properties": {"sessionID": "$session"}}
ASKED = [message("user"), part("hi", of="msg_1", name="prt_1")]
"""The question, as the server repeats it."""


def answered(*texts: str, **info: Any) -> list[Played]:
    """A whole answer in pieces."""
    return [
        *ASKED,
        status("busy"),
        message("assistant"),
        part(""),
        *(delta(text) for text in texts),
        part("".join(texts)),
        message("assistant", **{"finish": "stop", **info}),
        status("idle"),
        IDLE,
    ]
