"""Reads what a ``quotaStatus`` endpoint answers.

The endpoint is not part of the public Gemini API, and deployments differ. What is read::

    {"quotas": [{"window": "week", "unit": "tokens", "limit": 5000000, "used": 1200000,
                 "resetTime": "2026-03-08T00:00:00Z"}]}

``quotas`` may also be called ``quota``, ``quotaStatus``, ``buckets``, ``windows`` or ``limits``, may be
a table of entries by window, or the entries may stand alone. Keys are compared without case, ``_`` and
``-``. An entry names its window (``window``, ``period``, ``interval``, or inside ``quotaId`` or a
``name`` such as ``TokensPerDay``), its unit, its ``limit`` (``quotaValue``, ``quotaLimit``) and what is
gone or left: ``used``, ``remaining``, ``usedFraction``, ``remainingFraction``, ``percentUsed`` or
``percentRemaining``. Numbers may be strings. A missing fraction is unknown: protobuf leaves out zeros,
but a server that knows nothing leaves it out too.
"""

from __future__ import annotations

import re
from typing import Any, Final

from smartfallback.model.quota import QuotaUnit, WindowKind, WindowReading
from smartfallback.providers.retry_after import parse_duration
from smartfallback.quota_sources.values import flag, moment, name, number

_LISTS: Final = ("quotas", "quota", "quotastatus", "quotastatuses", "buckets", "windows", "limits")
_FIGURES: Final = frozenset(
    {"limit", "quotavalue", "quotalimit", "used", "usage", "consumed", "remaining", "remainingfraction"}
    | {"usedfraction", "percentused", "usedpercent", "percentremaining", "remainingpercent"}
)
_KINDS: Final = (
    (WindowKind.FIVE_HOURS, re.compile(r"5 ?h|five ?hours?|5 hours?")),
    (WindowKind.DAY, re.compile(r"\bday\b|daily|perday|1d\b|24h")),
    (WindowKind.WEEK, re.compile(r"week|7d\b")),
    (WindowKind.MONTH, re.compile(r"month|30d\b")),
)
_UNITS: Final = (
    (QuotaUnit.TOKENS, re.compile(r"token")),
    (QuotaUnit.REQUESTS, re.compile(r"request|call")),
    (QuotaUnit.CREDITS, re.compile(r"credit")),
)
_MAX_ENTRIES: Final = 100


def parse_quota_status(payload: Any, now: float, *, model: str = "") -> tuple[WindowReading, ...] | None:
    """The limits in an answer; None when it is nothing of the kind.

    Args:
        payload: The decoded body.
        now: Epoch seconds.
        model: The pool's model. A limit that names another one has kind None: it does not meter
            what the pool sends.
    """
    entries = _entries(payload)
    if entries is None:
        return None
    return tuple(_reading(default, entry, now, model) for default, entry in entries[:_MAX_ENTRIES])


def _entries(payload: Any) -> list[tuple[str, dict[str, Any]]] | None:
    if isinstance(payload, list):
        return [("", _plain(entry)) for entry in payload if isinstance(entry, dict)] or None
    if not isinstance(payload, dict):
        return None
    plain = _plain(payload)
    for key in _LISTS:
        found = plain.get(key)
        if isinstance(found, list):
            return [("", _plain(entry)) for entry in found if isinstance(entry, dict)]
        if isinstance(found, dict):
            if _FIGURES & _plain(found).keys():
                return [("", _plain(found))]
            inner = _entries(found)
            if inner is not None:
                return inner
            return [(str(k), _plain(entry)) for k, entry in found.items() if isinstance(entry, dict)] or None
    return [("", plain)] if _FIGURES & plain.keys() else None


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {str(key).lower().replace("_", "").replace("-", ""): value for key, value in entry.items()}


def _reading(default: str, entry: dict[str, Any], now: float, model: str) -> WindowReading:
    title = name(_first(entry, "name", "displayname", "quotaid", "quotametric", "id"), default)
    span = name(_first(entry, "window", "period", "interval", "timewindow", "windowtype"), "")
    kind = _match(_KINDS, span or default) or (None if span else _match(_KINDS, title))
    counted = name(_first(entry, "unit", "metric", "type"), "")
    unit = _match(_UNITS, counted) or _match(_UNITS, title) or QuotaUnit.FRACTION
    limit = number(_first(entry, "limit", "quotavalue", "quotalimit", "total", "max"))
    unlimited = flag(entry.get("unlimited")) or limit == -1
    # A limit of 0 is a placeholder: there is no share of it, whatever the entry claims.
    placeholder = limit is not None and limit <= 0
    limit = None if placeholder else limit
    used = number(_first(entry, "used", "usage", "consumed"))
    remaining = number(_first(entry, "remaining", "left", "available"))
    if used is None and remaining is not None and limit is not None:
        used = limit - remaining
    used = max(0.0, used) if used is not None else None
    percent = _percent(entry) if used is None or limit is None else 100.0 * used / limit
    meant = name(_first(entry, "model", "modelid"), "").rpartition("/")[2]
    other_model = bool(meant and model) and not model.endswith(meant)
    if unlimited or placeholder:
        used = limit = percent = None
    if unit is QuotaUnit.FRACTION:
        used = limit = None
    return WindowReading(
        title or meant or (kind.value if kind else "quota"),
        None if other_model else kind,
        unit,
        used,
        limit,
        percent,
        _resets_at(entry, now),
        unlimited,
    )


def _percent(entry: dict[str, Any]) -> float | None:
    for key, whole in (("usedfraction", 1.0), ("percentused", 100.0), ("usedpercent", 100.0)):
        gone = number(entry.get(key))
        if gone is not None and gone >= 0:
            return 100.0 * gone / whole
    for key, whole in (("remainingfraction", 1.0), ("percentremaining", 100.0), ("remainingpercent", 100.0)):
        left = number(entry.get(key))
        # More left than there is contradicts itself; less than nothing is overage.
        if left is not None and left <= whole:
            return 100.0 * (whole - left) / whole
    return None


def _resets_at(entry: dict[str, Any], now: float) -> float | None:
    stated = _first(entry, "resettime", "resetat", "resetsat", "resetdate", "reset", "resettimestamp")
    at = moment(stated, now)
    if at is not None:
        return at
    delay = _first(entry, "resetin", "resetdelay", "quotaresetdelay")
    seconds = parse_duration(delay) if isinstance(delay, str) else number(delay)
    return now + seconds if seconds is not None and seconds > 0 else None


def _first(entry: dict[str, Any], *keys: str) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _match(table: tuple[tuple[Any, re.Pattern[str]], ...], text: str) -> Any:
    # "TokensPerDay" and "tokens_per_day" are three words each.
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).replace("_", " ").replace("-", " ").lower()
    return next((value for value, pattern in table if pattern.search(words)), None)
