"""The OpenAI-compatible wire format, from the upstream's side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from smartfallback.simulation.dialects import (
    Finish,
    Problem,
    ProblemKind,
    Question,
    Refused,
    Wire,
    compact,
    parse_object,
    positive,
    tokens_of,
)
from smartfallback.simulation.faults import WaitForm
from smartfallback.simulation.http_dates import http_date
from smartfallback.simulation.upstreams import AccountState

_TYPE: Final = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
_MESSAGE: Final = {
    401: "Incorrect API key provided.",
    402: "You have no quota",
    403: "You are not allowed to do this.",
    500: "The server had an error while processing your request.",
    503: "The server is overloaded or not ready yet.",
}
_CODE: Final = {402: "quota_exceeded", 503: "server_is_overloaded"}


class OpenAiWire:
    """``chat/completions`` with and without streaming, ``models``, and x-ratelimit headers."""

    base_path = "/v1"

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:  # noqa: ARG002 - header only
        """The bearer token; Copilot's user endpoint has it with the scheme ``token``."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() in ("bearer", "token") else ""

    def lists_models(self, method: str, path: str) -> bool:
        """``GET /v1/models``."""
        return method == "GET" and path == "/v1/models"

    def models(self, names: tuple[str, ...]) -> bytes:
        """The list of models."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "simulated"} for name in names]
        return compact({"object": "list", "data": data})

    def question(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],  # noqa: ARG002 - this API has no query parameters
        body: bytes,
    ) -> Question:
        """Understand a call.

        Raises:
            Refused: The path or the body is not one that the API takes.
        """
        if method != "POST" or path != "/v1/chat/completions":
            raise Refused(Problem(ProblemKind.UNKNOWN_PATH, 404, f"Invalid URL ({method} {path})"))
        value = parse_object(body)
        messages, model = value.get("messages"), value.get("model")
        if not isinstance(model, str) or not model:
            raise Refused(Problem(ProblemKind.INVALID, 400, "you must provide a model parameter"))
        if not isinstance(messages, list) or not messages:
            message = "Missing required parameter: 'messages'."
            raise Refused(Problem(ProblemKind.INVALID, 400, message))
        texts = [_text(message) for message in messages]
        asked = tuple(text for turn, text in zip(messages, texts, strict=True) if turn["role"] == "user")
        options = value.get("stream_options")
        limit = positive(value.get("max_completion_tokens")) or positive(value.get("max_tokens"))
        return Question(
            model,
            asked,
            tokens_of(sum(map(len, texts))),
            limit,
            value.get("stream") is True,
            isinstance(options, dict) and options.get("include_usage") is True,
        )

    def refusal(self, problem: Problem, now: float) -> Wire:
        """An error body with ``message``, ``type``, ``code`` and ``param``."""
        status, message, code = problem.status, problem.message, problem.code
        headers = {"Content-Type": "application/json"}
        error_type = _TYPE.get(status, "server_error" if status >= 500 else "invalid_request_error")
        kind = problem.kind
        if kind is ProblemKind.BAD_KEY:
            status, code = 401, "invalid_api_key"
        elif kind is ProblemKind.BANNED:
            message = "Your account was suspended for a violation of our terms of service."
            code = "account_suspended"
        elif kind is ProblemKind.BURST:
            message, code = _burst(problem, now, headers), "rate_limit_exceeded"
        elif kind is ProblemKind.WALL:
            message = "You exceeded your current quota, please check your plan and billing details."
            error_type = code = "insufficient_quota"
            if problem.resets_at is not None:
                headers["Retry-After"] = str(math.ceil(max(0.0, problem.resets_at - now)))
        elif kind is ProblemKind.UNKNOWN_MODEL:
            message = f"The model '{problem.model}' does not exist or you do not have access to it."
            code = "model_not_found"
        elif kind is ProblemKind.TOO_LONG:
            code = "context_length_exceeded"
        elif kind is ProblemKind.STATUS and problem.wait_s is not None:
            headers["Retry-After"] = f"{problem.wait_s:g}"
        message = message or _MESSAGE.get(status, f"The server answered {status}.")
        error = {"message": message, "type": error_type, "code": code or _CODE.get(status), "param": None}
        return Wire(status, headers, compact({"error": error}))

    def limits(self, state: AccountState, now_monotonic: float) -> dict[str, str]:
        """``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` of the per-minute limits."""
        headers: dict[str, str] = {}
        for name, bucket in (("requests", state.requests), ("tokens", state.tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level(now_monotonic))))
                headers[f"x-ratelimit-reset-{name}"] = duration(bucket.full_in_s(now_monotonic))
        return headers

    def head(self, call_id: str, question: Question) -> bytes:
        """The chunk that states the role and carries no text."""
        return _event(_chunk(call_id, question, {"role": "assistant", "content": ""}))

    def piece(self, call_id: str, question: Question, text: str) -> bytes:
        """One chunk with a piece of the answer."""
        return _event(_chunk(call_id, question, {"content": text}))

    def tail(self, call_id: str, question: Question, finish: Finish) -> bytes:
        """The final chunk, the usage chunk if it was asked for, and ``[DONE]``."""
        events = _event(_chunk(call_id, question, {}, _reason(finish)))
        if question.include_usage and finish.counted:
            usage = _chunk(call_id, question, None)
            usage["usage"] = _usage(finish)
            events += _event(usage)
        return events + b"data: [DONE]\n\n"

    def whole(self, call_id: str, question: Question, text: str, finish: Finish) -> bytes:
        """The body of an answer without streaming."""
        return compact(_completion(call_id, question, text, _reason(finish), finish))

    def overload(self) -> bytes:
        """An ``error`` object in a data line."""
        error = {"type": _TYPE[503], "code": _CODE[503], "message": _MESSAGE[503], "param": None}
        return _event({"error": error})

    def blocked(self, call_id: str, question: Question) -> bytes:
        """An answer without text whose finish reason is ``content_filter``."""
        if not question.stream:
            finish = Finish(question.input_tokens, 0)
            return compact(_completion(call_id, question, "", "content_filter", finish))
        return _event(_chunk(call_id, question, {}, "content_filter")) + b"data: [DONE]\n\n"


def duration(seconds: float) -> str:
    """Seconds as this API writes them: ``12ms``, ``1.5s``, ``6m0s``, ``1h2m3s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    whole = math.ceil(seconds)
    hours = f"{whole // 3600}h" if whole >= 3600 else ""
    return f"{hours}{whole % 3600 // 60}m{whole % 60}s"


def _text(message: object) -> str:
    """The text of a message whose content is a string or a list of parts.

    Raises:
        Refused: It is no message.
    """
    content = message.get("content") if isinstance(message, dict) and "role" in message else None
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    raise Refused(Problem(ProblemKind.INVALID, 400, "Invalid type for 'messages'."))


def _reason(finish: Finish) -> str:
    return "length" if finish.truncated else "stop"


def _usage(finish: Finish) -> dict[str, int]:
    return {
        "prompt_tokens": finish.input_tokens,
        "completion_tokens": finish.output_tokens,
        "total_tokens": finish.input_tokens + finish.output_tokens,
    }


def _chunk(
    call_id: str, question: Question, delta: dict[str, str] | None, reason: str | None = None
) -> dict[str, Any]:
    """A chunk; without ``delta`` its list of choices is empty, as in the usage chunk."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {
        "id": f"chatcmpl-{call_id}",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": question.model,
        "choices": choices,
    }


def _completion(call_id: str, question: Question, text: str, reason: str, finish: Finish) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    counts = {"usage": _usage(finish)} if finish.counted else {}
    return {
        "id": f"chatcmpl-{call_id}",
        "object": "chat.completion",
        "created": 0,
        "model": question.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        **counts,
    }


def _event(value: object) -> bytes:
    return b"data: " + compact(value) + b"\n\n"


def _burst(problem: Problem, now: float, headers: dict[str, str]) -> str:
    message = f"Rate limit reached for {problem.model or 'this account'} on requests per minute."
    if problem.wait_s is None:
        return message
    if problem.form is WaitForm.SECONDS:
        headers["Retry-After"] = str(math.ceil(problem.wait_s))
    elif problem.form is WaitForm.DATE:
        headers["Retry-After"] = http_date(now + problem.wait_s)
    elif problem.form is WaitForm.BODY:
        message += f" Please try again in {duration(problem.wait_s)}."
    return message
