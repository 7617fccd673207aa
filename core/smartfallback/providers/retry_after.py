"""Waits that an upstream states: ``Retry-After``, rate-limit resets, durations in words.

A stated time is passed on as it stands, however long: only guesses are ever capped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_UNIT_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3_600.0,
    "hr": 3_600.0,
    "hour": 3_600.0,
    "d": 86_400.0,
    "day": 86_400.0,
}
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,12})?"
_PART: Final = (
    rf"({_NUMBER})\s?(ns|us|µs|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
# Go writes "6m0s" without separators, so a unit may be followed by the next number but by no letter.
_PARTS: Final = re.compile(_PART, re.IGNORECASE)
_DURATION: Final = re.compile(rf"(?:{_PART}[\s,]*(?:and\s+)?)+", re.IGNORECASE)
_IN_PROSE: Final = re.compile(
    rf"(?:try again|retry(?:ing)?|reset(?:s|ting)?|available(?: again)?|wait)(?: after| in| for)?:?\s+"
    rf"((?:{_PART}[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
_EPOCH_S: Final = 1e9
_EPOCH_MS: Final = 1e12


def parse_duration(text: str) -> float | None:
    """Seconds in ``"12ms"``, ``"40s"``, ``"1h2m3s"``, ``"108h48m20.79s"`` or ``"9 hours 44 minutes"``.

    None when the whole text is not a duration.
    """
    text = text.strip()
    if not text or not _DURATION.fullmatch(text):
        return None
    return _sum_of_parts(text)


def wait_in_prose(text: str) -> float | None:
    """Seconds that a sentence asks to wait ("Please try again in 7m12s."), None when it names none."""
    found = _IN_PROSE.search(text)
    return _sum_of_parts(found.group(1)) if found else None


def parse_retry_after(value: str, now: float) -> float | None:
    """Seconds to wait by a ``Retry-After`` header (RFC 9110, section 10.2.3).

    Args:
        value: Whole seconds (fractions occur and are taken) or an HTTP date.
        now: The calendar's time in epoch seconds; a date that has passed gives 0.
    """
    value = value.strip()
    seconds = _number(value)
    if seconds is not None:
        return seconds if seconds >= 0 else None
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, at.timestamp() - now)


def parse_timestamp(value: object, now: float) -> float | None:
    """Epoch seconds of a moment given in RFC 3339 or as an epoch number (seconds or milliseconds).

    ``now`` tells an epoch number from a count of seconds: what is too small to be a date is added to it.
    """
    if isinstance(value, bool):
        return None
    try:
        number = (
            float(value)
            if isinstance(value, int | float)
            else _number(value)
            if isinstance(value, str)
            else None
        )
    except OverflowError:
        return None
    if number is not None:
        if not math.isfinite(number) or number <= 0:
            return None
        if number >= _EPOCH_MS:
            return number / 1e3
        return number if number >= _EPOCH_S else now + number
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def header_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by ``Retry-After`` or ``retry-after-ms``, None without either.

    ``headers`` must be looked up by lower-case names.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None and milliseconds >= 0:
        return milliseconds / 1e3
    stated = headers.get("retry-after")
    return parse_retry_after(stated, now) if stated else None


def rate_limit_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the limits that a 429 reports as used up are free again.

    Reads ``x-ratelimit-reset-{requests,tokens}``, ``x-ratelimit-reset`` and their
    ``anthropic-ratelimit-*-reset`` kin. Limits with something left are left out when another one
    has nothing; a reset of 0 or below means "unknown" (Azure).
    """
    spent: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        name = name.lower()
        if "ratelimit" not in name or "reset" not in name:
            continue
        wait = _reset_wait(value, now)
        if wait is None or wait <= 0:
            continue
        left = _number(headers.get(name.replace("reset", "remaining"), ""))
        (spent if left == 0 else others).append(wait)
    waits = spent or others
    return max(waits) if waits else None


def _reset_wait(value: str, now: float) -> float | None:
    duration = parse_duration(value)
    if duration is not None:
        return duration
    at = parse_timestamp(value, now)
    return None if at is None else max(0.0, at - now)


def _number(text: str) -> float | None:
    text = text.strip()
    if len(text) > 32 or not re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text, re.ASCII):
        return None
    return float(text)


def _sum_of_parts(text: str) -> float:
    return sum(
        float(number) * _UNIT_S[unit.lower() if unit.lower() in _UNIT_S else unit.lower().removesuffix("s")]
        for number, unit in _PARTS.findall(text)
    )
