"""The calls of an OpenCode server that a chat needs.

Protocol: https://opencode.ai/docs/server, and the description that a server gives of itself at ``/doc``.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from typing import Any, Final

import httpx

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError
from smartfallback.model.requests import Message, Role
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec
from smartfallback.providers.answer import MAX_ANSWER_BYTES
from smartfallback.providers.base import Call
from smartfallback.providers.http_client import Attempt, Endpoint, Exchange, HttpClient
from smartfallback.providers.http_errors import ErrorReply, clean, malformed
from smartfallback.providers.http_provider import ERROR_BODY_S, MAX_ERROR_BODY_BYTES, encode_json
from smartfallback.providers.opencode_errors import server_refusal

DEFAULT_BASE_URL: Final = "http://127.0.0.1:4096"
USER: Final = "opencode"
TITLE: Final = "SmartFallback"
"""A title of its own keeps the server from asking the model for one."""

_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NO_TOOLS: Final = [{"permission": "*", "pattern": "*", "action": "deny"}]
_SPEAKER: Final = {Role.USER: "User", Role.ASSISTANT: "Assistant"}


class OpenCodeApi:
    """One account's server.

    Args:
        client: Whose connections are used.
        base_url: The server's address, without a slash at its end.
        account: Its ``api_key`` is the server's password; without one no credentials are sent.
        clock: Dates the server's refusals.

    Raises:
        ProviderError: The address can't be called.
    """

    def __init__(self, client: HttpClient, base_url: str, account: AccountSpec, clock: Clock) -> None:
        self.account = account
        self._client = client
        self._base_url = base_url
        self._clock = clock
        self._attempt: Attempt | None = None
        headers: dict[str, str | Secret] = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "smartfallback",
        }
        if account.api_key is not None:
            headers["authorization"] = basic_credentials(account.api_key)
        self._endpoint = client.endpoint(base_url, headers)

    def serving(self, call: Call) -> OpenCodeApi:
        """The same server, with every request marked as part of the attempt that ``call`` describes."""
        api = copy.copy(self)
        api._attempt = Attempt.of(call)
        return api

    async def events(self) -> Exchange:
        """The server's event stream, from now on.

        Raises:
            ProviderError: It was refused, or the server can't be reached.
        """
        return await self._welcome(await self._client.get(self._at("/event"), self._attempt))

    async def create_session(self) -> str:
        """A new session in which no tool may be used; its id.

        Raises:
            ProviderError: It was refused, or the server can't be reached.
        """
        made = await self._json("/session", {"title": TITLE, "permission": _NO_TOOLS})
        session = made.get("id")
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            raise self._unreadable("the new session has no id")
        return session

    async def prompt(self, session: str, prompt: dict[str, Any]) -> None:
        """Put a prompt to the session; its answer comes as events.

        Raises:
            ProviderError: It was refused, or the server can't be reached.
        """
        await self._whole(await self._post(f"/session/{session}/prompt_async", prompt))

    async def message(self, session: str, prompt: dict[str, Any]) -> dict[str, Any]:
        """Put a prompt to the session and wait for the whole answer: ``{info, parts}``.

        Raises:
            ProviderError: It was refused, or the server can't be reached.
        """
        return await self._json(f"/session/{session}/message", prompt)

    async def abort(self, session: str) -> None:
        """Stop what the session is answering; harmless when it answers nothing.

        Raises:
            ProviderError: It was refused, or the server can't be reached.
        """
        await self._whole(await self._post(f"/session/{session}/abort", {}))

    async def delete(self, session: str) -> None:
        """Remove the session. A run that was not aborted before goes on without it.

        Raises:
            ProviderError: It was refused, or the server can't be reached.
        """
        exchange = await self._client.delete(self._at(f"/session/{session}"), self._attempt)
        await self._whole(await self._welcome(exchange))

    def _at(self, path: str) -> Endpoint:
        return self._endpoint._replace(url=httpx.URL(self._base_url + path))

    async def _post(self, path: str, body: dict[str, Any]) -> Exchange:
        exchange = await self._client.post(self._at(path), encode_json(body).encode(), self._attempt)
        return await self._welcome(exchange)

    async def _welcome(self, exchange: Exchange) -> Exchange:
        """The exchange, if it is a success.

        Raises:
            ProviderError: It is a refusal.
        """
        if 200 <= exchange.status < 300:
            return exchange
        raise ProviderError(server_refusal(await self._refusal(exchange)))

    async def _refusal(self, exchange: Exchange) -> ErrorReply:
        try:
            body = await exchange.read_start(MAX_ERROR_BODY_BYTES, ERROR_BODY_S)
        finally:
            await exchange.aclose()
        return ErrorReply.from_body(
            exchange.status,
            exchange.headers,
            body,
            account=self.account,
            model="",
            now=self._clock.time(),
        )

    async def _json(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        raw = await self._whole(await self._post(path, body))
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            start = bytes(raw[:80]).decode("utf-8", "replace")
            raise self._unreadable(f"no JSON object came back: {start!r}")
        return value

    async def _whole(self, exchange: Exchange) -> bytearray:
        body = bytearray()
        try:
            while (piece := await exchange.read()) is not None:
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise self._unreadable(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        finally:
            await exchange.aclose()
        return body

    def _unreadable(self, message: str) -> ProviderError:
        failure = malformed(message, self.account)
        hint = f"check that base_url of account {self.account.id} is the address of `opencode serve`"
        return ProviderError(
            Failure(failure.category, failure.message, http_status=failure.http_status, hint=clean(hint))
        )


def basic_credentials(password: Secret) -> Secret:
    """The ``authorization`` header of a server with that password."""
    return Secret(
        "Basic " + base64.b64encode(f"{USER}:{password.reveal()}".encode("utf-8", "replace")).decode("ascii")
    )


def prompt_of(call: Call) -> dict[str, Any]:
    """The body that puts ``call`` to a new session.

    A session knows no earlier turns, and the API takes none, so they go before the last message as
    a transcript. The API has no field for the answer's length or temperature.

    Raises:
        ProviderError: The model is not named as provider and model.
    """
    prompt: dict[str, Any] = {"tools": {"*": False}}
    if call.model:
        provider, _, model = call.model.partition("/")
        if not provider or not model:
            raise ProviderError(
                Failure(
                    ErrorCategory.INVALID_REQUEST,
                    clean(f"OpenCode has no model {call.model!r}"),
                    hint='name provider and model, as in "anthropic/claude-sonnet-4-5"',
                )
            )
        prompt["model"] = {"providerID": provider, "modelID": model}
    system = [message.content for message in call.messages if message.role is Role.SYSTEM]
    turns = [message for message in call.messages if message.role is not Role.SYSTEM]
    if system:
        prompt["system"] = "\n\n".join(system)
    texts = _texts(turns)
    prompt["parts"] = [{"type": "text", "text": text} for text in texts]
    return prompt


def _texts(turns: list[Message]) -> list[str]:
    if not turns:
        return ["Begin."]
    *earlier, last = turns
    if last.role is not Role.USER:
        earlier, last = turns, Message(Role.USER, "Continue your last answer.")
    if not earlier:
        return [last.content]
    transcript = "\n\n".join(f"{_SPEAKER[turn.role]}: {turn.content}" for turn in earlier)
    return [f"Our conversation so far:\n\n{transcript}\n\nMy next message follows.", last.content]
