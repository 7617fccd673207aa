"""Rate-limit headers as readings: OpenAI's ``x-ratelimit-*`` and Anthropic's ``anthropic-ratelimit-*``.

Sources: https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers and
https://docs.anthropic.com/en/api/rate-limits#response-headers.

These limits are refilled by the minute, so they must never pass for the weekly quota: each reading
has kind None, which binds nothing. Only a header whose own name states a span of quota windows
(``x-ratelimit-remaining-tokens-day``, as some servers send) becomes a reading of that kind. A reset
time far ahead proves nothing, since a refill of a large bucket takes as long.

-1 and 0 in ``limit`` or ``reset`` mean unknown (Azure sends them), and so does -1 in ``remaining``;
0 remaining is believed only beside a limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from smartfallback.model.quota import QuotaUnit, WindowKind, WindowReading
from smartfallback.providers.retry_after import parse_duration, parse_timestamp

_OPENAI: Final = re.compile(r"x-ratelimit-(limit|remaining|reset)-([a-z0-9_-]{1,48})")
_ANTHROPIC: Final = re.compile(r"anthropic-ratelimit-([a-z0-9_-]{1,48})-(limit|remaining|reset)")
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?", re.ASCII)
_SPANS: Final = {
    "5h": WindowKind.FIVE_HOURS,
    "day": WindowKind.DAY,
    "week": WindowKind.WEEK,
    "month": WindowKind.MONTH,
}
_MARK: Final = b"ratelimit"


def limit_readings(headers: Iterable[tuple[bytes, bytes]], now: float) -> tuple[WindowReading, ...]:
    """What the rate-limit headers of a response say, by the name of the limit; empty without any.

    Args:
        headers: Names and values as they came.
        now: Epoch seconds; durations are counted from it.
    """
    stated: dict[str, dict[str, str]] = {}
    for raw_name, raw_value in headers:
        lowered = raw_name.lower()
        if _MARK not in lowered:
            continue
        header = lowered.decode("ascii", "replace")
        found = _OPENAI.fullmatch(header)
        if found is not None:
            part, limit = found.groups()
        else:
            found = _ANTHROPIC.fullmatch(header)
            if found is None:
                continue
            limit, part = found.groups()
        stated.setdefault(limit, {})[part] = raw_value.decode("ascii", "replace").strip()
    readings = (_reading(limit, parts, now) for limit, parts in sorted(stated.items()))
    return tuple(reading for reading in readings if reading is not None)


def _reading(limit_name: str, parts: dict[str, str], now: float) -> WindowReading | None:
    limit = _number(parts.get("limit", ""))
    if limit is not None and limit <= 0:
        limit = None
    remaining = _number(parts.get("remaining", ""))
    used = None
    if limit is not None and remaining is not None and remaining >= 0:
        used = max(0.0, limit - remaining)
    resets_at = _reset(parts.get("reset", ""), now)
    if limit is None and resets_at is None:
        return None
    words = re.split(r"[-_]", limit_name)
    if "tokens" in words or "token" in words:
        unit = QuotaUnit.TOKENS
    elif "requests" in words or "request" in words:
        unit = QuotaUnit.REQUESTS
    else:
        unit = QuotaUnit.FRACTION
    kind = next((_SPANS[word] for word in words if word in _SPANS), None)
    percent = 100.0 * used / limit if used is not None and limit is not None else None
    if unit is QuotaUnit.FRACTION:
        used = limit = None
    return WindowReading(limit_name, kind, unit, used, limit, percent, resets_at)


def _reset(text: str, now: float) -> float | None:
    seconds = parse_duration(text)
    if seconds is None:
        try:
            at = parse_timestamp(text, now)
        except (ValueError, OverflowError):
            return None
        # A moment that has passed means that the limit is whole again, not when it will be.
        return at if at is not None and at > now else None
    return now + seconds if seconds > 0 else None


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None
