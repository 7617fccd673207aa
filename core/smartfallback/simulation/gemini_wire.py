"""The Gemini API's wire format, from the upstream's side."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
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

_CALL: Final = re.compile(r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent)")
_MODELS: Final = re.compile(r"/v1(?:beta)?/models/?")
_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MESSAGE: Final = {
    401: "Request had invalid authentication credentials.",
    403: "The caller does not have permission.",
    500: "An internal error has occurred. Please retry.",
    503: "The model is overloaded. Please try again later.",
    504: "The request did not finish before its deadline.",
}
_QUOTA_FAILURE: Final = "type.googleapis.com/google.rpc.QuotaFailure"
_RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_METRIC: Final = "generativelanguage.googleapis.com/generate_content_requests"


class GeminiWire:
    """``generateContent`` and ``streamGenerateContent?alt=sse``, with google.rpc error details."""

    base_path = ""

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """The key from ``x-goog-api-key``, or from the query parameter that the API also takes."""
        return headers.get("x-goog-api-key") or query.get("key", "")

    def lists_models(self, method: str, path: str) -> bool:
        """``GET /v1beta/models``."""
        return method == "GET" and _MODELS.fullmatch(path) is not None

    def models(self, names: tuple[str, ...]) -> bytes:
        """The list of models."""
        methods = ["generateContent", "streamGenerateContent"]
        return compact(
            {"models": [{"name": f"models/{n}", "supportedGenerationMethods": methods} for n in names]}
        )

    def question(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Question:
        """Understand a call.

        Raises:
            Refused: The path or the body is not one that the API takes.
        """
        call = _CALL.fullmatch(path)
        if method != "POST" or call is None:
            raise Refused(Problem(ProblemKind.UNKNOWN_PATH, 404, f"Requested entity was not found: {path}"))
        stream = call[2] == "streamGenerateContent"
        if stream and query.get("alt") != "sse":
            raise Refused(Problem(ProblemKind.INVALID, 400, "Only alt=sse streams are simulated."))
        value = parse_object(body)
        contents = value.get("contents")
        if not isinstance(contents, list) or not contents:
            message = "* GenerateContentRequest.contents: contents is not specified"
            raise Refused(Problem(ProblemKind.INVALID, 400, message))
        texts = [_text(turn) for turn in contents]
        config = value.get("generationConfig")
        limit = config.get("maxOutputTokens") if isinstance(config, dict) else None
        length = sum(map(len, texts)) + len(_text(value.get("systemInstruction")))
        asked = tuple(
            text for turn, text in zip(contents, texts, strict=True) if text and turn.get("role") != "model"
        )
        return Question(call[1], asked, tokens_of(length), positive(limit), stream, include_usage=True)

    def refusal(self, problem: Problem, now: float) -> Wire:
        """An error body with ``code``, ``status``, ``message`` and the details of its kind."""
        status, message = problem.status, problem.message
        details: list[dict[str, Any]] = []
        headers = {"Content-Type": "application/json; charset=UTF-8"}
        kind = problem.kind
        if kind is ProblemKind.BAD_KEY:
            status, message = 400, "API key not valid. Please pass a valid API key."
            details.append({"@type": _ERROR_INFO, "reason": "API_KEY_INVALID", "domain": "googleapis.com"})
        elif kind is ProblemKind.BANNED:
            message = "This account was suspended for a violation of the Terms of Service."
            details.append({"@type": _ERROR_INFO, "reason": "ACCOUNT_SUSPENDED", "domain": "googleapis.com"})
        elif kind is ProblemKind.BURST:
            message, details = _burst(problem)
            headers |= _retry_after(problem, now)
        elif kind is ProblemKind.WALL:
            message, details = _wall(problem, now)
        elif kind is ProblemKind.UNKNOWN_MODEL:
            message = f"models/{problem.model} is not found for API version v1beta."
        elif kind is ProblemKind.STATUS and problem.wait_s is not None:
            headers["Retry-After"] = f"{problem.wait_s:g}"
        name = problem.code or _STATUS.get(status, "UNKNOWN")
        error: dict[str, Any] = {
            "code": status,
            "message": message or _MESSAGE.get(status, name),
            "status": name,
        }
        if details:
            error["details"] = details
        return Wire(status, headers, compact({"error": error}))

    def limits(self, state: AccountState, now_monotonic: float) -> dict[str, str]:  # noqa: ARG002 - the API sends none
        """No headers: this API states its limits in errors only."""
        return {}

    def head(self, call_id: str, question: Question) -> bytes:  # noqa: ARG002 - the streams begin with content
        """Nothing comes before the content."""
        return b""

    def piece(self, call_id: str, question: Question, text: str) -> bytes:
        """One event with a piece of the answer."""
        return _event(_answer(call_id, question, text))

    def tail(self, call_id: str, question: Question, finish: Finish) -> bytes:
        """The last event, with the finish reason and the usage."""
        return _event(_answer(call_id, question, "", finish))

    def whole(self, call_id: str, question: Question, text: str, finish: Finish) -> bytes:
        """The body of an answer without streaming."""
        return compact(_answer(call_id, question, text, finish))

    def overload(self) -> bytes:
        """An ``error`` object in an event."""
        return _event({"error": {"code": 503, "message": _MESSAGE[503], "status": _STATUS[503]}})

    def blocked(self, call_id: str, question: Question) -> bytes:
        """``promptFeedback`` and no candidates."""
        body = compact(
            {
                "promptFeedback": {"blockReason": "SAFETY"},
                "usageMetadata": _usage(Finish(question.input_tokens, 0)),
                "modelVersion": question.model,
                "responseId": call_id,
            }
        )
        return b"data: " + body + b"\r\n\r\n" if question.stream else body


def _text(turn: object) -> str:
    """The text of one content object; the API takes turns without text, so nothing else counts."""
    parts = turn.get("parts") if isinstance(turn, dict) else None
    if not isinstance(parts, list):
        return ""
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _usage(finish: Finish) -> dict[str, int]:
    return {
        "promptTokenCount": finish.input_tokens,
        "candidatesTokenCount": finish.output_tokens,
        "totalTokenCount": finish.input_tokens + finish.output_tokens,
    }


def _answer(call_id: str, question: Question, text: str, finish: Finish | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    answer: dict[str, Any] = {
        "candidates": [candidate],
        "modelVersion": question.model,
        "responseId": call_id,
    }
    if finish is not None:
        candidate["finishReason"] = "MAX_TOKENS" if finish.truncated else "STOP"
        if finish.counted:
            answer["usageMetadata"] = _usage(finish)
    return answer


def _event(value: object) -> bytes:
    return b"data: " + compact(value) + b"\r\n\r\n"


def _retry_after(problem: Problem, now: float) -> dict[str, str]:
    if problem.wait_s is None:
        return {}
    if problem.form is WaitForm.SECONDS:
        return {"Retry-After": str(math.ceil(problem.wait_s))}
    if problem.form is WaitForm.DATE:
        return {"Retry-After": http_date(now + problem.wait_s)}
    return {}


def _burst(problem: Problem) -> tuple[str, list[dict[str, Any]]]:
    if not problem.details:
        return "Resource has been exhausted (e.g. check quota).", []
    details = [_violation("GenerateRequestsPerMinutePerProjectPerModel", problem.model)]
    message = "You exceeded your current quota: too many requests per minute."
    if problem.wait_s is not None and problem.form is not WaitForm.NONE:
        details.append({"@type": _RETRY_INFO, "retryDelay": f"{problem.wait_s:g}s"})
        message += f" Please retry in {problem.wait_s:g}s."
    return message, details


def _wall(problem: Problem, now: float) -> tuple[str, list[dict[str, Any]]]:
    if problem.resets_at is None:
        return "You exceeded your current quota, please check your plan and billing details.", [
            _violation("GenerateRequestsPerDayPerProjectPerModel", problem.model),
            {"@type": _RETRY_INFO, "retryDelay": "31s"},
        ]
    left = max(0.0, problem.resets_at - now)
    delay = f"{left // 3600:.0f}h{left % 3600 // 60:.0f}m{left % 60:.2f}s"
    stamp = datetime.fromtimestamp(problem.resets_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"You have exhausted your capacity on this model. Your quota will reset after {delay}.", [
        {
            "@type": _ERROR_INFO,
            "reason": "QUOTA_EXHAUSTED",
            "domain": "cloudcode-pa.googleapis.com",
            "metadata": {"model": problem.model, "quotaResetDelay": delay, "quotaResetTimeStamp": stamp},
        },
        {"@type": _RETRY_INFO, "retryDelay": f"{left:.6f}s"},
    ]


def _violation(quota_id: str, model: str) -> dict[str, Any]:
    return {
        "@type": _QUOTA_FAILURE,
        "violations": [
            {
                "quotaMetric": _METRIC,
                "quotaId": quota_id,
                "quotaDimensions": {"location": "global", "model": model},
                "quotaValue": "60",
            }
        ],
    }
