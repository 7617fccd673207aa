"""What the Gemini API's errors mean.

Sources: https://ai.google.dev/gemini-api/docs/troubleshooting and the ``google.rpc`` error details
(https://cloud.google.com/apis/design/errors): QuotaFailure, RetryInfo, ErrorInfo.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.providers.http_errors import MAX_CODE, ErrorReply
from smartfallback.providers.retry_after import parse_duration, parse_timestamp, wait_in_prose

_PACIFIC: Final = ZoneInfo("America/Los_Angeles")

_STATUS_CODES: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""HTTP status of each ``google.rpc.Code``, for errors inside a 200 stream that name only the code."""

_KEY_REASONS: Final = frozenset(
    {"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_NOT_FOUND", "ACCESS_TOKEN_EXPIRED"}
)
_BAN_REASONS: Final = frozenset(
    {"CONSUMER_SUSPENDED", "ACCOUNT_SUSPENDED", "TOS_VIOLATION", "ACCOUNT_DISABLED"}
)
_BAN: Final = re.compile(
    r"terms of (?:service|use)|terms and conditions|violat\w+ [^.]{0,60}\bterms\b|\bterms\b[^.]{0,40} violat"
    r"|\b(?:has|have) been (?:suspended|banned|terminated)",
    re.IGNORECASE,
)
_KEY: Final = re.compile(
    r"api[ _]key (?:not valid|expired|not found|invalid)|invalid api[ _]key", re.IGNORECASE
)
_OVERFLOW: Final = re.compile(
    r"token count[^.]{0,60} exceeds|exceeds the maximum number of tokens|input (?:is )?too long",
    re.IGNORECASE,
)
_ACCOUNT_BLOCKED: Final = re.compile(
    r"user location is not supported|enable billing|billing (?:account|to be enabled)"
    r"|free tier is not available",
    re.IGNORECASE,
)
_QUOTA_WORDS: Final = re.compile(r"\bquota\b|rate ?limit", re.IGNORECASE)
_DAILY_QUOTA: Final = re.compile(r"per_?day", re.IGNORECASE)
_LONGER_QUOTA: Final = re.compile(r"per_?(?:week|month)", re.IGNORECASE)
_LONG_QUOTA: Final = re.compile(r"per_?(?:day|week|month)", re.IGNORECASE)


_WALL_FLOOR_S: Final = 600.0


@dataclass(slots=True)
class _Details:
    """The parts of ``error.details`` that decide."""

    reason: str = ""
    violations: list[dict[str, Any]] = field(default_factory=list)
    retry_s: float | None = None
    resets_at: float | None = None
    model: str | None = None

    @property
    def no_quota(self) -> bool:
        """The project has none at all for this model."""
        return any(str(violation.get("quotaValue", "")).strip() == "0" for violation in self.violations)

    @property
    def long(self) -> bool:
        """A limit by the day or longer was hit, whatever the retry delay says."""
        return self._named(_LONG_QUOTA)

    @property
    def daily(self) -> bool:
        """A limit by the day was hit, and none that is longer."""
        return self._named(_DAILY_QUOTA) and not self._named(_LONGER_QUOTA)

    def _named(self, period: re.Pattern[str]) -> bool:
        return any(
            period.search(f"{violation.get('quotaId', '')} {violation.get('quotaMetric', '')}")
            for violation in self.violations
        )


def classify(reply: ErrorReply) -> Failure:
    """The failure in a Gemini error, from a refusal or from inside a 200 answer.

    A wall (QUOTA_EXHAUSTED) is a quota by the day or longer, none at all, or the reason
    QUOTA_EXHAUSTED; every other 429 is a burst. Quotas belong to projects, so what names one is
    ``project_wide``.
    """
    error = _error_object(reply.payload)
    status_name = _text(error.get("status"))
    message = _text(error.get("message"))
    reply = replace(reply, status=_status(reply.status, error.get("code"), status_name))
    details = _details(error.get("details"), reply.now)
    failure = reply.failure(message, details.reason or status_name)
    if details.retry_s is None:
        details.retry_s = (
            failure.retry_after_s if failure.retry_after_s is not None else wait_in_prose(message)
        )
    failure = replace(failure, retry_after_s=details.retry_s)
    if reply.status == 429:
        return _limit(reply, failure, details)
    if reply.status == 403 and _names_quota(details, status_name, message):
        return _wall(reply, failure, details)
    if reply.status in (400, 401, 403):
        return _denied(reply, failure, details, message)
    return failure


def next_pacific_midnight(now: float) -> float:
    """When the API's daily quotas begin anew (https://ai.google.dev/gemini-api/docs/rate-limits)."""
    tomorrow = datetime.fromtimestamp(now, _PACIFIC).date() + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=_PACIFIC).timestamp()


def _limit(reply: ErrorReply, failure: Failure, details: _Details) -> Failure:
    if details.no_quota or details.long:
        return _wall(reply, failure, details)
    if details.reason == "QUOTA_EXHAUSTED" and not details.violations:
        return _wall(reply, failure, details)
    if details.reason == "MODEL_CAPACITY_EXHAUSTED":
        return replace(failure, model=details.model or reply.model)
    wait = failure.retry_after_s
    if wait is None and details.resets_at is not None:
        wait = max(0.0, details.resets_at - reply.now)
    return replace(failure, model=details.model, project_wide=bool(details.violations), retry_after_s=wait)


def _wall(reply: ErrorReply, failure: Failure, details: _Details) -> Failure:
    model = details.model
    if details.no_quota:
        hint = reply.clean(
            f"the project of account {reply.account.id} has no quota for {model or reply.model}: "
            "enable billing or configure another model"
        )
        return reply.as_category(
            failure,
            ErrorCategory.QUOTA_EXHAUSTED,
            model=model or reply.model,
            project_wide=True,
            retry_after_s=None,
            hint=hint,
        )
    resets_at = details.resets_at
    if resets_at is None:
        wait = failure.retry_after_s
        # Beside a named wall, a short delay is that of the burst limit.
        if wait is not None and (wait >= _WALL_FLOOR_S or not details.long):
            resets_at = reply.now + wait
        if details.daily:
            resets_at = max(resets_at or 0.0, next_pacific_midnight(reply.now))
    return reply.as_category(
        failure,
        ErrorCategory.QUOTA_EXHAUSTED,
        model=model,
        project_wide=True,
        resets_at=resets_at,
        retry_after_s=None if resets_at is None else max(0.0, resets_at - reply.now),
    )


def _denied(reply: ErrorReply, failure: Failure, details: _Details, message: str) -> Failure:
    account = reply.account.id
    if reply.status in (401, 403) and (details.reason in _BAN_REASONS or _BAN.search(message)):
        hint = reply.clean(
            f"account {account} is barred for good: settle it with the provider or remove the account"
        )
        return reply.as_category(failure, ErrorCategory.AUTHENTICATION, permanent=True, hint=hint)
    if details.reason in _KEY_REASONS or (reply.status == 400 and _KEY.search(message)):
        return reply.as_category(failure, ErrorCategory.AUTHENTICATION)
    if details.reason == "SERVICE_DISABLED":
        hint = reply.clean(f"enable the Gemini API in the project of account {account}")
        return reply.as_category(failure, ErrorCategory.AUTHENTICATION, hint=hint)
    if reply.status == 400 and _ACCOUNT_BLOCKED.search(message):
        hint = reply.clean(
            f"the provider does not serve account {account}: see its project's billing and region"
        )
        return reply.as_category(failure, ErrorCategory.AUTHENTICATION, hint=hint)
    if reply.status == 400 and _OVERFLOW.search(message):
        return replace(failure, context_overflow=True)
    return failure


def _names_quota(details: _Details, status_name: str, message: str) -> bool:
    if details.violations or status_name == "RESOURCE_EXHAUSTED" or details.reason == "QUOTA_EXHAUSTED":
        return True
    return bool(_QUOTA_WORDS.search(message)) and not _BAN.search(message)


def _error_object(payload: Any) -> dict[str, Any]:
    # Without alt=sse a stream is a JSON array, and so is its error.
    if isinstance(payload, list) and payload:
        payload = payload[0]
    error = payload.get("error") if isinstance(payload, dict) else None
    if isinstance(error, dict):
        return error
    return {"message": error} if isinstance(error, str) else {}


def _status(http_status: int, code: Any, name: str) -> int:
    if http_status != 200:
        return http_status
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599:
        return code
    return _STATUS_CODES.get(name, http_status)


def _details(details: Any, now: float) -> _Details:
    found = _Details()
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        kind = _text(detail.get("@type")).rpartition(".")[2]
        if kind == "QuotaFailure" and isinstance(detail.get("violations"), list):
            found.violations += [entry for entry in detail["violations"] if isinstance(entry, dict)]
        elif kind == "RetryInfo":
            found.retry_s = parse_duration(_text(detail.get("retryDelay")))
        elif kind == "ErrorInfo":
            found.reason = _text(detail.get("reason"))
            metadata = detail.get("metadata")
            if isinstance(metadata, dict):
                _read_metadata(found, metadata, now)
    for violation in found.violations:
        dimensions = violation.get("quotaDimensions")
        if isinstance(dimensions, dict) and dimensions.get("model"):
            found.model = _text(dimensions["model"])[:MAX_CODE] or None
    return found


def _read_metadata(found: _Details, metadata: dict[str, Any], now: float) -> None:
    delay = parse_duration(_text(metadata.get("quotaResetDelay")))
    at = parse_timestamp(_text(metadata.get("quotaResetTimeStamp")), now)
    if at is None and delay is not None:
        at = now + delay
    found.resets_at = at
    if metadata.get("model"):
        found.model = _text(metadata["model"])[:MAX_CODE] or None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
