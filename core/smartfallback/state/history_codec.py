"""Ended requests as rows of a table, and back."""

from __future__ import annotations

import json
from typing import Any, Final

from smartfallback.model.history import Ending, PastAttempt, PastRequest
from smartfallback.model.outcomes import AttemptResult, ErrorCategory
from smartfallback.model.recoveries import RecoveryAction, RecoveryRecord
from smartfallback.model.requests import Origin
from smartfallback.state.json_fields import Fields, loaded

Row = tuple[str, float, str, str]
"""Id, when it ended, how it ended, and all else as JSON."""

_SHORT: Final = (
    ("account", ""),
    ("pool", ""),
    ("provider", ""),
    ("model", ""),
    ("first_token_s", None),
    ("input_tokens", 0),
    ("output_tokens", 0),
    ("tokens_estimated", False),
    ("cost", None),
    ("degraded", False),
    ("cached_age_s", None),
    ("queued_s", 0.0),
    ("error", ""),
)
"""Fields that stand in the document only where they say something."""


def encode_past(past: PastRequest) -> Row:
    """The row.

    Raises:
        ValueError: It holds a number that is not finite.
    """
    document: dict[str, Any] = {
        "request_id": past.request_id,
        "chain": past.chain,
        "origin": past.origin.value,
        "latency_s": past.latency_s,
        "attempts": [
            [
                attempt.account,
                attempt.pool,
                attempt.model,
                attempt.result.value,
                attempt.latency_s,
                None if attempt.category is None else attempt.category.value,
            ]
            for attempt in past.attempts
        ],
    }
    for name, plain in _SHORT:
        value = getattr(past, name)
        if value != plain:
            document[name] = value
    if past.recovery is not None:
        document["recovery"] = _recovery(past.recovery)
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return past.id, past.at, past.ending.value, text


def decode_past(row: Row) -> PastRequest:
    """The ended request.

    Raises:
        ValueError: The row is not what :func:`encode_past` makes.
        TypeError: Likewise.
    """
    name, at, ending, text = row
    fields = Fields(loaded(text))
    recovery = fields.part("recovery")
    request_id, chain = fields.text("request_id"), fields.text("chain")
    return PastRequest(
        id=name,
        at=float(at),
        request_id=request_id,
        chain=chain,
        origin=Origin(fields.text("origin")),
        ending=Ending(ending),
        attempts=tuple(_read_attempt(attempt) for attempt in fields.get("attempts", ())),
        latency_s=fields.number("latency_s"),
        account=fields.text("account"),
        pool=fields.text("pool"),
        provider=fields.text("provider"),
        model=fields.text("model"),
        first_token_s=fields.number_or_none("first_token_s"),
        input_tokens=fields.count("input_tokens"),
        output_tokens=fields.count("output_tokens"),
        tokens_estimated=fields.flag("tokens_estimated"),
        cost=fields.number_or_none("cost"),
        degraded=fields.flag("degraded"),
        cached_age_s=fields.number_or_none("cached_age_s"),
        queued_s=fields.number("queued_s", 0.0),
        error=fields.text("error"),
        recovery=None if recovery is None else _read_recovery(recovery, request_id, chain, float(at)),
    )


def _read_attempt(entry: object) -> PastAttempt:
    if not isinstance(entry, list) or len(entry) != len(PastAttempt._fields):
        raise ValueError("an attempt is no list of six")
    account, pool, model, result, latency_s, category = entry
    texts_are_right = all(isinstance(text, str) for text in (account, pool, model))
    if not texts_are_right or isinstance(latency_s, bool) or not isinstance(latency_s, int | float):
        raise ValueError("an attempt holds something of another kind")
    return PastAttempt(
        account,
        pool,
        model,
        AttemptResult(result),
        latency_s,
        None if category is None else ErrorCategory(category),
    )


def _recovery(record: RecoveryRecord) -> dict[str, Any]:
    return {
        "category": record.category.value,
        "original_account": record.original_account,
        "final_account": record.final_account,
        "actions": [action.value for action in record.actions],
        "attempts": record.attempts,
        "total_s": record.total_s,
        "success": record.success,
    }


def _read_recovery(fields: Fields, request_id: str, chain: str, at: float) -> RecoveryRecord:
    return RecoveryRecord(
        request_id=request_id,
        at=at,
        chain=chain,
        category=ErrorCategory(fields.text("category")),
        original_account=fields.text("original_account"),
        final_account=fields.text_or_none("final_account"),
        actions=tuple(RecoveryAction(text) for text in fields.texts("actions")),
        attempts=fields.count("attempts"),
        total_s=fields.number("total_s"),
        success=fields.flag("success"),
    )
