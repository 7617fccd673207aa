"""Adapter for OpenAI-compatible servers (``/chat/completions``).

Protocol: https://platform.openai.com/docs/api-reference/chat, with what other servers make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, ClassVar, Final

from smartfallback.clock import Clock
from smartfallback.model.outcomes import Failure, ProviderError
from smartfallback.model.requests import Usage
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers.answer import Answer, token_count
from smartfallback.providers.base import Call
from smartfallback.providers.http_client import Attempt, Endpoint, Exchange, WrapTransport
from smartfallback.providers.http_errors import ErrorReply
from smartfallback.providers.http_provider import HttpProvider, encode_json
from smartfallback.providers.openai_errors import classify

_FINISH: Final = {
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
}


_FILTERED: Final = frozenset({"content_filter", "sensitive"})
_BROKEN: Final = frozenset(
    {
        *("error", "failed", "timeout", "unknown"),
        *("abort", "aborted", "cancelled", "canceled"),
        *("network_error", "insufficient_system_resource"),
    }
)
"""Finish reasons by which servers say that the answer is not whole. Names that nobody knows are passed on:
many servers have their own word for a good end."""


_NO_REASON: Final = frozenset({"null", "none"})
"""What stands for no finish reason; some servers send the word."""


class Quirk(Enum):
    """A part of the protocol that a server refused."""

    NO_STREAM_OPTIONS = auto()
    MAX_COMPLETION_TOKENS = auto()
    """The answer's limit goes by its newer name."""


_NO_QUIRKS: Final[frozenset[Quirk]] = frozenset()


class OpenAIProvider(HttpProvider):
    """Serves one pool of accounts with OpenAI or any server that speaks its dialect."""

    default_base_url = "https://api.openai.com/v1"
    after_finish_s: ClassVar[float] = 2.0

    def __init__(self, pool: PoolSpec, clock: Clock, wrap: WrapTransport | None = None) -> None:
        super().__init__(pool, clock, wrap)
        self._endpoints: dict[tuple[str, bool], tuple[AccountSpec, Endpoint]] = {}
        self._quirks: dict[tuple[str, str], frozenset[Quirk]] = {}

    def _endpoint(self, call: Call) -> Endpoint:
        key = (call.account.id, call.stream)
        known = self._endpoints.get(key)
        if known is not None and known[0] is call.account:
            return known[1]
        endpoint = self._client.endpoint(
            f"{self._base_url(call.account)}/chat/completions", self._headers(call)
        )
        self._remember(self._endpoints, key, (call.account, endpoint))
        return endpoint

    def _headers(self, call: Call) -> dict[str, str | Secret]:
        headers = self._common_headers(call)
        key = self._key(call.account, "Bearer ")
        if key is not None:
            headers["authorization"] = key
        return headers

    def _body(self, call: Call, quirks: frozenset[Quirk] = _NO_QUIRKS) -> bytes:
        body: dict[str, Any] = {
            "model": call.model,
            "messages": [
                {"role": message.role.value, "content": message.content} for message in call.messages
            ],
        }
        if call.stream:
            body["stream"] = True
            if Quirk.NO_STREAM_OPTIONS not in quirks:
                body["stream_options"] = {"include_usage": True}
        if call.max_output_tokens is not None:
            name = "max_completion_tokens" if Quirk.MAX_COMPLETION_TOKENS in quirks else "max_tokens"
            body[name] = call.max_output_tokens
        if call.temperature is not None:
            body["temperature"] = call.temperature
        return encode_json(body).encode()

    async def _open(self, call: Call) -> Exchange:
        where = (self._base_url(call.account), call.model)
        quirks = self._quirks.get(where, _NO_QUIRKS)
        attempt = Attempt.of(call)
        while True:
            body = self._body(call, quirks)
            exchange = await self._client.post(self._endpoint(call), body, attempt)
            if 200 <= exchange.status < 300:
                return exchange
            reply = await self._refusal(exchange, call)
            quirk = _refused_part(call, reply)
            if quirk is None or quirk in quirks:
                raise ProviderError(classify(reply))
            quirks |= {quirk}
            self._remember(self._quirks, where, self._quirks.get(where, _NO_QUIRKS) | quirks)

    def _answer(self, call: Call, headers: Mapping[str, str]) -> Answer:
        return OpenAIAnswer(call, headers, self._clock.time())

    def _classify(self, reply: ErrorReply) -> Failure:
        return classify(reply)


class OpenAIAnswer(Answer):
    """Reads ``chat.completion`` objects and ``chat.completion.chunk`` events."""

    __slots__ = ("_final", "_index", "_open_ended")

    def __init__(self, call: Call, headers: Mapping[str, str], now: float) -> None:
        super().__init__(call, headers, now)
        self._index: object = None
        self._open_ended = False
        self._final: tuple[str, object] | None = None

    def take(self, payload: dict[str, Any]) -> str:
        """See :meth:`Answer.take`. Reasoning fields are no text of the answer.

        Of several choices the first that speaks is the answer. A final chunk that is sent twice
        counts once.
        """
        usage = payload.get("usage")
        if usage:
            self.take_usage(payload)
        choices = payload.get("choices")
        if not choices:
            if _is_error(payload):
                self.failure = classify(self.refused(payload, 200))
            return ""
        choice = self._ours(choices)
        if choice is None:
            return ""
        delta, reason = choice.get("delta"), choice.get("finish_reason")
        text = _said(delta) if delta else ""
        whole = None
        if not self.characters and not text and (reason or not delta):
            # Beside a delta, or after some, a message only repeats what was said.
            whole = choice.get("message")
            text = _said(whole) if whole else ""
        error = payload.get("error") or choice.get("error")
        if error:
            self.take_error({"error": error})
            return text
        if reason in _FILTERED:
            self.content_filtered("the answer", reason, len(text))
        elif reason in _BROKEN:
            self.broke_off(reason)
        elif reason and reason not in _NO_REASON:
            # Where every event has a reason, only the counts tell a copy from a next event like it.
            if self._final == (text, usage) and (self._open_ended or usage):
                text = ""
            else:
                self.finish_is_vague = bool(text and self.finish)
                self._final = text, usage
            self.finished(_FINISH.get(reason) or str(reason))
        elif whole and self.finish is None:
            # A whole answer is whole, whether or not its server gives a reason.
            self.finish = "stop"
        elif text:
            self._open_ended = True
            self.finish_is_vague = self.finish is not None
        return text

    def take_usage(self, payload: dict[str, Any]) -> None:
        """See :meth:`Answer.take_usage`."""
        usage = payload.get("usage")
        if isinstance(usage, dict):
            self.usage = _usage(usage) or self.usage

    def _ours(self, choices: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The choice that is the answer, None if ``choices`` are all others'."""
        if self._index is None:
            self._index = choices[0].get("index") or 0
        elif len(choices) == 1 and (choices[0].get("index") or 0) == self._index:
            return choices[0]
        return next((choice for choice in choices if (choice.get("index") or 0) == self._index), None)

    def take_error(self, payload: dict[str, Any]) -> None:
        """See :meth:`Answer.take_error`."""
        self.failure = classify(self.refused(payload, 200))


def _said(message: dict[str, Any]) -> Any:
    text = message.get("content") or message.get("refusal") or ""
    if type(text) is list:
        return "".join(part.get("text") or "" for part in text if part.get("type", "text") == "text")
    return text


def _is_error(payload: dict[str, Any]) -> bool:
    """Whether an event without choices is an error, which some servers send without ``error`` around it."""
    return (
        bool(payload.get("error"))
        or payload.get("object") == "error"
        or payload.get("type") == "error"
        or ("choices" not in payload and bool(payload.get("message") or payload.get("detail")))
    )


def _refused_part(call: Call, reply: ErrorReply) -> Quirk | None:
    """Which part of the protocol that can be left out a server refuses, None for any other refusal."""
    if reply.status not in (400, 422):
        return None
    if call.stream and ("stream_options" in reply.text or "include_usage" in reply.text):
        return Quirk.NO_STREAM_OPTIONS
    if call.max_output_tokens is not None and "max_completion_tokens" in reply.text:
        return Quirk.MAX_COMPLETION_TOKENS
    return None


def _usage(usage: dict[str, Any]) -> Usage | None:
    prompt = token_count(usage.get("prompt_tokens"))
    output = token_count(usage.get("completion_tokens"))
    return Usage(prompt, output) if prompt or output else None
