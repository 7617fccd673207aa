"""The object that ``smartfallback chat --json`` prints: the same keys however a request ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from smartfallback.cli.opening import mistakes_as_json
from smartfallback.model.secrets import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smartfallback.config import ConfigError
    from smartfallback.model.outcomes import AttemptRecord, Failure, RequestError
    from smartfallback.model.requests import Reply

VERSION: Final = 1
"""Grows when a key goes or changes its meaning; keys may be added at any time."""


def replied(reply: Reply, chain: str, *, simulated: bool) -> dict[str, object]:
    """An answer."""
    return {
        **_EMPTY,
        "ok": True,
        "simulated": simulated,
        "request_id": reply.request_id,
        "chain": chain,
        "text": reply.text,
        "account": reply.account,
        "pool": reply.pool,
        "provider": reply.provider,
        "model": reply.model,
        "usage": {
            "input_tokens": reply.usage.input_tokens,
            "output_tokens": reply.usage.output_tokens,
            "total_tokens": reply.usage.total_tokens,
            "estimated": reply.usage.estimated,
        },
        "cost": reply.cost,
        "finish_reason": reply.finish_reason,
        "attempts": _attempts(reply.attempts),
        "degraded": reply.degraded,
        "degradations": [{"kind": item.kind.value, "detail": item.detail} for item in reply.degradations],
        "seams": [{**seam._asdict(), "cause": redact(seam.cause)} for seam in reply.seams],
        "cached_age_s": reply.cached_age_s,
        "queued_s": reply.queued_s,
        "latency_s": reply.latency_s,
        "first_token_s": reply.first_token_s,
    }


def failed(error: RequestError, chain: str, *, simulated: bool) -> dict[str, object]:
    """A request that nobody could answer, or whose answer broke off: ``text`` is what had come."""
    return {
        **_EMPTY,
        "simulated": simulated,
        "request_id": error.request_id,
        "chain": chain,
        "text": error.partial,
        "attempts": _attempts(error.attempts),
        "error": _failure(error.failure),
        "skipped": [redact(skipped) for skipped in error.skipped],
        "next_available_at": _finite(error.next_available_at),
    }


def misconfigured(error: ConfigError) -> dict[str, object]:
    """A configuration with mistakes; nothing was asked."""
    return {**ended("configuration", error.headline), "mistakes": mistakes_as_json(error)}


def ended(
    category: str,
    message: str,
    *,
    request_id: str | None = None,
    chain: str | None = None,
    text: str = "",
    simulated: bool = False,
) -> dict[str, object]:
    """An end that no upstream had a part in.

    Args:
        category: ``configuration``, ``usage`` (a wrong argument), ``cancelled`` or ``internal``.
        message: What happened, in a sentence.
        request_id: The request, once there is one.
        chain: The chain that was asked, once that is known.
        text: What had come of an answer.
        simulated: Whether the demo was asked.
    """
    return {
        **_EMPTY,
        "simulated": simulated,
        "request_id": request_id,
        "chain": chain,
        "text": text,
        "error": {
            "category": category,
            "message": redact(message),
            "http_status": None,
            "code": "",
            "hint": "",
            "retry_after_s": None,
        },
    }


_EMPTY: Final[dict[str, object]] = {
    "version": VERSION,
    "ok": False,
    "simulated": False,
    "request_id": None,
    "chain": None,
    "text": "",
    "account": None,
    "pool": None,
    "provider": None,
    "model": None,
    "usage": None,
    "cost": None,
    "finish_reason": None,
    "attempts": [],
    "degraded": False,
    "degradations": [],
    "seams": [],
    "cached_age_s": None,
    "queued_s": 0.0,
    "latency_s": None,
    "first_token_s": None,
    "error": None,
    "skipped": [],
    "next_available_at": None,
    "mistakes": [],
}


def _attempts(records: Sequence[AttemptRecord]) -> list[dict[str, object]]:
    return [
        {
            "number": record.number,
            "account": record.account,
            "pool": record.pool,
            "model": record.model,
            "result": record.result.value,
            "latency_s": record.latency_s,
            "error": None if record.failure is None else _failure(record.failure),
        }
        for record in records
    ]


def _failure(failure: Failure) -> dict[str, object]:
    return {
        "category": failure.category.value,
        "message": redact(failure.message),
        "http_status": failure.http_status,
        "code": failure.code,
        "hint": failure.hint,
        "retry_after_s": _finite(failure.retry_after_s),
    }


def _finite(number: float | None) -> float | None:
    """None for what JSON has no number for: an upstream may state anything."""
    return number if number is not None and math.isfinite(number) else None
