"""What the errors of OpenAI-compatible servers mean.

Sources: https://platform.openai.com/docs/guides/error-codes, and the forms that OpenRouter, GitHub
Models, Groq, Azure, vLLM, llama.cpp, llama-cpp-python and Ollama give theirs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final, NamedTuple

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.providers.http_errors import ErrorReply
from smartfallback.providers.retry_after import parse_timestamp, wait_in_prose

_OVERFLOW_CODES: Final = frozenset(
    {
        "context_length_exceeded",
        "tokens_limit_reached",
        "exceed_context_size_error",
        "string_above_max_length",
    }
)
_OVERFLOW: Final = re.compile(
    r"(?:maximum|max|model's) context length|context window|available context size|exceeds? (?:the )?context"
    r"|prompt is too long|input is too long|reduce the length of",
    re.IGNORECASE,
)
_CREDIT_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "insufficient_credits",
        "insufficient_balance",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_limit_reached",
        "quota_exceeded",
        "credits_exhausted",
    }
)
_PERIOD_CODES: Final = frozenset(
    {"usage_limit_reached", "user_weekly_rate_limited", "daily_limit_exceeded", "weekly_limit_reached"}
)
_CREDIT: Final = re.compile(
    r"insufficient[ _](?:quota|credits?|balance|funds)|exceeded your current quota|out of credits"
    r"|credit balance|spending limit|you have no quota",
    re.IGNORECASE,
)
_PERIOD: Final = re.compile(
    r"\bper[ _-]?(?:day|week|month)\b|\b(?:daily|weekly|monthly)\b|\b[RT]PD\b"
    r"|by(?:day|week|month)\b|per 86400 ?s",
    re.IGNORECASE,
)
_MINUTE: Final = re.compile(r"per[ _-]?(?:minute|second|hour)|\b[RT]PM\b|/ ?min", re.IGNORECASE)
_FILTER_CODES: Final = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
_FILTER: Final = re.compile(
    r"flagged by|content (?:policy|management policy|filter)|moderation", re.IGNORECASE
)
_BAN: Final = re.compile(
    r"terms of (?:service|use)|violat\w+ [^.]{0,60}\bterms\b"
    r"|\b(?:has|have) been (?:suspended|banned|deactivated)",
    re.IGNORECASE,
)
_BAN_CODES: Final = frozenset({"account_deactivated", "account_suspended", "organization_deactivated"})
_OVERLOADED: Final = re.compile(
    r"overload|unavailable|temporar|try again later|timed? ?out|no capacity", re.IGNORECASE
)

_STATUS_OF_CODE: Final = {
    "server_is_overloaded": 503,
    "slow_down": 503,
    "overloaded_error": 529,
    "service_unavailable_error": 503,
    "service_unavailable": 503,
    "timeout_error": 504,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "request_too_large": 413,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "billing_error": 402,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "api_error": 500,
}
"""What status an error inside a 200 answer would have had."""

_WALL_FLOOR_S: Final = 600.0
_LONGEST_S: Final = 1e300
"""JSON has integers that are larger than any float."""


class _Said(NamedTuple):
    """An error's own words."""

    message: str
    names: tuple[str, ...]
    """``code`` and ``type`` in lower case, the more exact one first."""
    status: int | None
    """The status that the error itself names."""
    fields: dict[str, Any]


def classify(reply: ErrorReply) -> Failure:
    """The failure in an OpenAI-style error, from a refusal or from inside a 200 answer.

    A wall (QUOTA_EXHAUSTED) is named by its code, by credit words or by a period of a day or
    longer; every other 429 is a burst.
    """
    said = _read(reply.payload)
    if reply.status == 200:
        reply = replace(reply, status=_status_inside(said))
    failure = reply.failure(said.message, said.names[0] if said.names else "")
    names = frozenset(said.names)
    words = said.message or reply.text[:2_000]
    if names & _OVERFLOW_CODES or (reply.status in (400, 413, 422) and _OVERFLOW.search(words)):
        return reply.as_category(failure, ErrorCategory.INVALID_REQUEST, context_overflow=True)
    if names & _FILTER_CODES or (
        reply.status in (400, 403) and _FILTER.search(words) and not _BAN.search(words)
    ):
        return reply.as_category(failure, ErrorCategory.CONTENT_FILTERED)
    if reply.status in (401, 403) and (names & _BAN_CODES or _BAN.search(words)):
        hint = f"account {reply.account.id} is barred for good: settle it with the provider or remove it"
        return reply.as_category(
            failure, ErrorCategory.AUTHENTICATION, permanent=True, hint=reply.clean(hint)
        )
    if reply.status in (402, 403, 429):
        wall = _wall(reply, failure, said, names, words)
        if wall is not None:
            return wall
    if reply.status == 403 and names & {"rate_limit_exceeded", "rate_limited", "rate_limit_error"}:
        failure = reply.as_category(failure, ErrorCategory.RATE_LIMIT)
    if failure.category is ErrorCategory.RATE_LIMIT:
        wait = _body_wait(said, reply.now)
        if wait is not None and "retry-after" not in reply.headers:
            failure = replace(failure, retry_after_s=wait)
        return replace(failure, model=_named_model(reply.model, words))
    if failure.category is ErrorCategory.INVALID_REQUEST and "invalid_api_key" in names:
        return reply.as_category(failure, ErrorCategory.AUTHENTICATION)
    return failure


def _wall(
    reply: ErrorReply, failure: Failure, said: _Said, names: frozenset[str], words: str
) -> Failure | None:
    credit = reply.status == 402 or bool(names & _CREDIT_CODES) or bool(_CREDIT.search(words))
    period = bool(names & _PERIOD_CODES) or bool(_PERIOD.search(words) and not _MINUTE.search(words))
    if not credit and not period:
        return None
    wait = _body_wait(said, reply.now)
    if wait is None:
        wait = (
            reply.stated_wait()
            if "retry-after" in reply.headers or "retry-after-ms" in reply.headers
            else None
        )
        # Gateways put the delay of a burst on every 429; no daily or credit wall ends that soon.
        if wait is not None and wait < _WALL_FLOOR_S:
            wait = None
    return reply.as_category(
        failure,
        ErrorCategory.QUOTA_EXHAUSTED,
        model=None if credit else _named_model(reply.model, words),
        retry_after_s=wait,
        resets_at=None if wait is None else reply.now + wait,
    )


def _body_wait(said: _Said, now: float) -> float | None:
    """Seconds that the error's own fields or words ask to wait."""
    for name in ("resets_in_seconds", "retry_after", "retry_after_seconds"):
        value = said.fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LONGEST_S:
            return float(value)
    metadata = said.fields.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    moments = [
        said.fields.get("resets_at"),
        headers.get("X-RateLimit-Reset") if isinstance(headers, dict) else None,
    ]
    for moment in moments:
        at = parse_timestamp(moment, now)
        if at is not None:
            return max(0.0, at - now)
    return wait_in_prose(said.message)


def _status_inside(said: _Said) -> int:
    if said.status is not None:
        return said.status
    for name in said.names:
        if name in _STATUS_OF_CODE:
            return _STATUS_OF_CODE[name]
    if any(_OVERLOADED.search(text) for text in (*said.names, said.message)):
        return 503
    if _OVERFLOW.search(said.message):
        return 400
    return 200


def _read(payload: Any) -> _Said:
    if isinstance(payload, list) and payload:
        payload = payload[0]
    if not isinstance(payload, dict):
        return _Said(payload if isinstance(payload, str) else "", (), None, {})
    error = payload.get("error")
    if isinstance(error, str):
        return _Said(error, (), None, payload)
    fields = error if isinstance(error, dict) else payload
    message = fields.get("message") or fields.get("detail") or ""
    names: list[str] = []
    status: int | None = None
    for key in ("code", "type"):
        value = fields.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if isinstance(value, str) and value and value != "error":
            names.append(value.lower())
        elif isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            status = value
    return _Said(message if isinstance(message, str) else str(message), tuple(names), status, fields)


def _named_model(model: str, words: str) -> str | None:
    """``model`` if ``words`` name it, as far as a name can be told from the text around it."""
    if model and re.search(rf"(?<![\w.-]){re.escape(model)}(?![\w-]|\.\w)", words):
        return model
    return None
