"""What the errors of an OpenCode server mean: its own, and those that it passes on from its providers.

Sources: the server's OpenAPI description (``/doc``), and what release 1.18.33 was seen to send.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.specs import AccountSpec
from smartfallback.providers.http_errors import MAX_CODE, ErrorReply
from smartfallback.providers.openai_errors import classify
from smartfallback.providers.retry_after import parse_timestamp

OUTPUT_LIMIT: Final = "MessageOutputLengthError"
"""The one error that ends an answer without spoiling it."""

PASSWORD_VARIABLE: Final = "OPENCODE_SERVER_PASSWORD"  # noqa: S105 - the name of a variable

_WALL_REASONS: Final = frozenset({"free_tier_limit", "account_rate_limit"})
_WALL: Final = re.compile(r"usage (?:limit|exceeded)|quota|credits?\b", re.IGNORECASE)
_BURST: Final = re.compile(r"rate.?(?:limit|increased)|too.?many.?requests|\b429\b", re.IGNORECASE)
_NO_MODEL: Final = re.compile(r"(?:model|provider) not found", re.IGNORECASE)
# OpenCode's own back-off between retries stays far below this; a limit of use does not.
_WALL_FLOOR_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What an error answers: the account, the model as it was called for, and the calendar's time."""

    account: AccountSpec
    model: str
    now: float

    def reply(
        self, status: int, payload: Any, text: str = "", headers: Mapping[str, str] | None = None
    ) -> ErrorReply:
        """An error in the form in which refusals are classified."""
        # The provider behind OpenCode knows the model without the provider's name before it.
        model = self.model.partition("/")[2]
        return ErrorReply(status, headers or {}, payload, text, self.account, model, self.now)


def server_refusal(reply: ErrorReply) -> Failure:
    """The failure in a response of the OpenCode server itself that is no success."""
    message, code = _own_words(reply.payload)
    failure = reply.failure(message, code)
    if reply.status in (401, 403):
        account = reply.account
        hint = (
            f"set api_key of account {account.id} to the server's {PASSWORD_VARIABLE}"
            if account.api_key is None
            else f"compare api_key of account {account.id} with the server's {PASSWORD_VARIABLE}"
        )
        return replace(failure, hint=reply.clean(hint))
    return failure


def session_failure(error: Any, asked: Asked) -> Failure:
    """The failure in ``session.error`` or in the ``error`` of a message.

    Raises:
        AttributeError: The error is no object of name and data.
    """
    name, data = str(error.get("name") or ""), error.get("data") or {}
    message = str(data.get("message") or name or "an error without a name")
    if name == "APIError":
        failure = _provider_refusal(data, message, asked)
    elif name == "ProviderAuthError":
        failure = _signed_out(
            asked.reply(401, None).failure(message), asked, str(data.get("providerID") or "")
        )
    elif name == "MessageAbortedError":
        failure = asked.reply(503, None).failure(f"the answer was aborted on the OpenCode server ({message})")
    elif name == "ContextOverflowError":
        failure = replace(asked.reply(400, None).failure(message), context_overflow=True)
    elif name == "ContentFilterError":
        failure = replace(asked.reply(200, None).failure(message), category=ErrorCategory.CONTENT_FILTERED)
    elif _NO_MODEL.search(message):
        failure = asked.reply(404, None).failure(message)
    else:
        failure = classify(asked.reply(200, {"error": {"message": message}}))
    clean = asked.reply(200, None).clean
    status = failure.http_status if name == "APIError" else None
    return replace(failure, code=failure.code or clean(name, MAX_CODE), http_status=status)


def retry_wait(status: Mapping[str, Any], now: float) -> float | None:
    """Seconds from ``now`` until OpenCode tries its provider again, None if it doesn't say."""
    at = parse_timestamp(status.get("next"), now)
    return None if at is None else max(0.0, at - now)


def retry_failure(status: Mapping[str, Any], asked: Asked) -> Failure:
    """Why OpenCode waits before it tries its provider again, as a failure with that wait.

    A retry names no status, only the provider's words (and an action to take for the limits of
    OpenCode's own plans).
    """
    message = str(status.get("message") or "OpenCode waits for its provider")
    action = status.get("action")
    reason = action.get("reason") if isinstance(action, dict) else None
    wait = retry_wait(status, asked.now)
    wall = reason in _WALL_REASONS or _WALL.search(message)
    limited = 429 if wall or _BURST.search(message) else 503
    failure = classify(asked.reply(limited, {"error": {"message": message}}))
    if wall:
        failure = asked.reply(429, None).as_category(failure, ErrorCategory.QUOTA_EXHAUSTED)
    if failure.category is ErrorCategory.QUOTA_EXHAUSTED and (wait is None or wait < _WALL_FLOOR_S):
        return replace(_whole_model(failure, asked), http_status=None)
    resets_at = None
    if failure.category is ErrorCategory.QUOTA_EXHAUSTED and wait is not None:
        resets_at = asked.now + wait
    failure = replace(failure, http_status=None, retry_after_s=wait, resets_at=resets_at)
    return _whole_model(failure, asked)


def _provider_refusal(data: Mapping[str, Any], message: str, asked: Asked) -> Failure:
    status, text = data.get("statusCode"), str(data.get("responseBody") or "")
    if not isinstance(status, int) or not 300 <= status <= 599:
        status = 503 if data.get("isRetryable") is True else 200
    payload: Any = None
    with suppress(ValueError, RecursionError):
        payload = json.loads(text)
    if not (isinstance(payload, dict) and payload.get("error")) and not isinstance(payload, list):
        payload = {"error": {"message": message}}
    headers = data.get("responseHeaders")
    named = {str(k).lower(): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {}
    failure = _whole_model(classify(asked.reply(status, payload, text, named)), asked)
    if failure.category is ErrorCategory.AUTHENTICATION and not failure.permanent:
        return _signed_out(failure, asked, asked.model.partition("/")[0])
    return failure


def _signed_out(failure: Failure, asked: Asked, provider: str) -> Failure:
    where = f"{provider} " if provider else ""
    hint = f"the OpenCode server of account {asked.account.id} can't sign in to its provider {where}"
    return replace(
        failure, hint=asked.reply(401, None).clean(f"{hint.rstrip()}: run `opencode auth login` there")
    )


def _whole_model(failure: Failure, asked: Asked) -> Failure:
    return replace(failure, model=asked.model) if failure.model is not None else failure


def _own_words(payload: Any) -> tuple[str, str]:
    """Message and name of an error of the server."""
    if not isinstance(payload, dict):
        return "", ""
    data = payload.get("data")
    fields = data if isinstance(data, dict) else payload
    message, name = fields.get("message"), payload.get("name") or payload.get("_tag")
    return message if isinstance(message, str) else "", name if isinstance(name, str) else ""
