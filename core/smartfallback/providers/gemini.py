"""Adapter for the Gemini API (``generateContent`` and ``streamGenerateContent``).

Protocol: https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import quote

from smartfallback.clock import Clock
from smartfallback.model.outcomes import Failure
from smartfallback.model.requests import Role, Usage
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers.answer import Answer, token_count
from smartfallback.providers.base import Call
from smartfallback.providers.gemini_errors import classify
from smartfallback.providers.http_client import Endpoint, WrapTransport
from smartfallback.providers.http_errors import ErrorReply
from smartfallback.providers.http_provider import HttpProvider, encode_json

_API_VERSIONS: Final = ("/v1beta", "/v1", "/v1alpha")

_FINISH: Final = {"STOP": "stop", "MAX_TOKENS": "length"}
_BLOCKED: Final = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
    }
)


class GeminiProvider(HttpProvider):
    """Serves one pool of Gemini API keys."""

    default_base_url = "https://generativelanguage.googleapis.com"
    # Older models name a finish reason in every event, so it must not hurry the events behind it.
    after_finish_s: ClassVar[float] = 10.0

    def __init__(self, pool: PoolSpec, clock: Clock, wrap: WrapTransport | None = None) -> None:
        super().__init__(pool, clock, wrap)
        self._endpoints: dict[tuple[str, str, bool], tuple[AccountSpec, Endpoint]] = {}

    def _endpoint(self, call: Call) -> Endpoint:
        key = (call.account.id, call.model, call.stream)
        known = self._endpoints.get(key)
        if known is not None and known[0] is call.account:
            return known[1]
        base = with_version(self._base_url(call.account))
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        endpoint = self._client.endpoint(f"{base}/{_resource(call.model)}:{method}", self._headers(call))
        self._remember(self._endpoints, key, (call.account, endpoint))
        return endpoint

    def _headers(self, call: Call) -> dict[str, str | Secret]:
        headers = self._common_headers(call)
        key = self._key(call.account)
        if key is not None:
            headers["x-goog-api-key"] = key
        return headers

    def _body(self, call: Call) -> bytes:
        system = [{"text": message.content} for message in call.messages if message.role is Role.SYSTEM]
        contents = [
            {
                "role": "model" if message.role is Role.ASSISTANT else "user",
                "parts": [{"text": message.content}],
            }
            for message in call.messages
            if message.role is not Role.SYSTEM
        ]
        body: dict[str, Any] = {}
        if contents:
            body["contents"] = contents
            if system:
                body["systemInstruction"] = {"parts": system}
        else:
            # The API refuses a conversation of instructions alone.
            body["contents"] = [{"role": "user", "parts": system}]
        config: dict[str, float] = {}
        if call.max_output_tokens is not None:
            config["maxOutputTokens"] = call.max_output_tokens
        if call.temperature is not None:
            config["temperature"] = call.temperature
        if config:
            body["generationConfig"] = config
        return encode_json(body).encode()

    def _answer(self, call: Call, headers: Mapping[str, str]) -> Answer:
        return GeminiAnswer(call, headers, self._clock.time())

    def _classify(self, reply: ErrorReply) -> Failure:
        return classify(reply)


class GeminiAnswer(Answer):
    """Reads ``GenerateContentResponse`` objects, one whole or many in a stream."""

    __slots__ = ("_final",)

    def __init__(self, call: Call, headers: Mapping[str, str], now: float) -> None:
        super().__init__(call, headers, now)
        self._final: tuple[str, object] | None = None

    def take(self, payload: dict[str, Any]) -> str:
        """See :meth:`Answer.take`. Thoughts are output that is paid for but no text of the answer.

        Of several candidates the first is the answer. A final event that is sent twice counts once.
        """
        usage = payload.get("usageMetadata")
        if usage:
            self.take_usage(payload)
        candidates = payload.get("candidates")
        if not candidates:
            if payload.get("error"):
                self.failure = classify(self.refused(payload, 200))
            else:
                blocked = (payload.get("promptFeedback") or {}).get("blockReason")
                if blocked:
                    self.content_filtered("the prompt", str(blocked))
            return ""
        candidate = next((entry for entry in candidates if not entry.get("index")), None)
        if candidate is None:
            return ""
        text = ""
        for part in (candidate.get("content") or {}).get("parts") or ():
            if part.get("text") and not part.get("thought"):
                text += part["text"]
        if payload.get("error"):
            self.take_error(payload)
            return text
        reason = candidate.get("finishReason")
        # Where every event has a reason, the counts tell the last one's copy from a next event like it.
        if reason and usage and self._final == (text, usage):
            text = ""
        else:
            self.finish_is_vague = bool(text and self.finish)
            self._final = (text, usage) if reason else None
        if reason:
            self._finished(reason, text)
        return text

    def take_usage(self, payload: dict[str, Any]) -> None:
        """See :meth:`Answer.take_usage`."""
        usage = payload.get("usageMetadata")
        if isinstance(usage, dict):
            self.usage = _usage(usage) or self.usage

    def _finished(self, reason: str, text: str) -> None:
        if reason in _BLOCKED:
            self.content_filtered("the answer", reason, len(text))
        elif reason in _FINISH:
            self.finished(_FINISH[reason])
        elif reason != "FINISH_REASON_UNSPECIFIED":
            # The API's list has two good ends; all others, also those yet to come, say what went wrong.
            self.broke_off(reason)

    def take_error(self, payload: dict[str, Any]) -> None:
        """See :meth:`Answer.take_error`."""
        self.failure = classify(self.refused(payload, 200))


def with_version(base: str) -> str:
    """The API's address, with the usual version unless ``base`` names one."""
    return base if base.endswith(_API_VERSIONS) else f"{base}/v1beta"


def _resource(model: str) -> str:
    for collection in ("models/", "tunedModels/"):
        if model.startswith(collection):
            return collection + quote(model.removeprefix(collection), safe="")
    return "models/" + quote(model, safe="")


def _usage(metadata: dict[str, Any]) -> Usage | None:
    prompt = token_count(metadata.get("promptTokenCount")) + token_count(
        metadata.get("toolUsePromptTokenCount")
    )
    output = token_count(metadata.get("candidatesTokenCount")) + token_count(
        metadata.get("thoughtsTokenCount")
    )
    return Usage(prompt, output) if prompt or output else None
