"""Queued requests and kept outcomes as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smartfallback.model.outcomes import (
    AttemptRecord,
    AttemptResult,
    ErrorCategory,
    Failure,
    RequestError,
    TimeoutPhase,
)
from smartfallback.model.queueing import KeptOutcome, QueuedRequest
from smartfallback.model.requests import (
    Capability,
    Degradation,
    DegradationKind,
    Message,
    OnBreak,
    Origin,
    QueueTerms,
    Reply,
    Request,
    Role,
    Seam,
    Usage,
)
from smartfallback.state.json_fields import Fields, loaded


def encode_queued(queued: QueuedRequest) -> str:
    """A queued request as a JSON object, without its ticket.

    Raises:
        ValueError: It holds a number that is not finite.
    """
    return _dumped(
        {
            "request_id": queued.request_id,
            "request": _request(queued.request),
            "terms": {"expires_s": queued.terms.expires_s, "priority": queued.terms.priority},
            "failure": write_failure(queued.failure),
            "since": queued.since,
        }
    )


def decode_queued(ticket: str, text: str) -> QueuedRequest:
    """The queued request.

    Raises:
        ValueError: The text is not what :func:`encode_queued` writes.
    """
    fields = Fields(loaded(text))
    terms = _needed(fields, "terms")
    return QueuedRequest(
        ticket=ticket,
        request_id=fields.text("request_id"),
        request=_read_request(_needed(fields, "request")),
        terms=QueueTerms(terms.number("expires_s"), terms.integer("priority")),
        failure=read_failure(_needed(fields, "failure")),
        since=fields.number("since"),
    )


def encode_outcome(kept: KeptOutcome) -> str:
    """A reply or an error as a JSON object.

    Raises:
        ValueError: It holds a number that is not finite.
    """
    outcome = kept.outcome
    if isinstance(outcome, Reply):
        return _dumped({"reply": write_reply(outcome)})
    return _dumped({"error": _error(outcome)})


def decode_outcome(text: str) -> Reply | RequestError:
    """The reply or the error.

    Raises:
        ValueError: The text is not what :func:`encode_outcome` writes.
    """
    fields = Fields(loaded(text))
    reply = fields.part("reply")
    return _read_error(_needed(fields, "error")) if reply is None else read_reply(reply)


def _dumped(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=True, allow_nan=False)


def _needed(fields: Fields, name: str) -> Fields:
    part = fields.part(name)
    if part is None:
        raise ValueError(f"{name} is missing")
    return part


def _request(request: Request) -> dict[str, Any]:
    return {
        "messages": [
            {"role": message.role.value, "content": message.content} for message in request.messages
        ],
        "chain": request.chain,
        "model": request.model,
        "session": request.session,
        "max_output_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "timeout_s": request.timeout_s,
        "pin": request.pin,
        "avoid": sorted(request.avoid),
        "requires": sorted(capability.value for capability in request.requires),
        "stream": request.stream,
        "origin": request.origin.value,
        "id": request.id,
        "on_break": None if request.on_break is None else request.on_break.value,
        "queue": None
        if request.queue is None
        else {"expires_s": request.queue.expires_s, "priority": request.queue.priority},
        "keep_text": request.keep_text,
    }


def _read_request(fields: Fields) -> Request:
    messages = tuple(
        Message(Role(message.text("role")), message.text("content")) for message in fields.items("messages")
    )
    if not messages:
        raise ValueError("a request without messages")
    on_break, queue = fields.text_or_none("on_break"), fields.part("queue")
    return Request(
        messages=messages,
        chain=fields.text("chain"),
        model=fields.text_or_none("model"),
        session=fields.text_or_none("session"),
        max_output_tokens=fields.count_or_none("max_output_tokens"),
        temperature=fields.number_or_none("temperature"),
        timeout_s=fields.number_or_none("timeout_s"),
        pin=fields.text_or_none("pin"),
        avoid=frozenset(fields.texts("avoid")),
        requires=frozenset(Capability(name) for name in fields.texts("requires")),
        stream=fields.flag("stream", default=True),
        origin=Origin(fields.text("origin")),
        id=fields.text("id"),
        on_break=None if on_break is None else OnBreak(on_break),
        queue=None if queue is None else QueueTerms(queue.number("expires_s"), queue.integer("priority")),
        keep_text=fields.flag("keep_text", default=True),
    )


def write_failure(failure: Failure) -> dict[str, Any]:
    """A failure as a JSON object."""
    return {
        "category": failure.category.value,
        "message": failure.message,
        "http_status": failure.http_status,
        "code": failure.code,
        "model": failure.model,
        "project_wide": failure.project_wide,
        "retry_after_s": failure.retry_after_s,
        "resets_at": failure.resets_at,
        "hint": failure.hint,
        "context_overflow": failure.context_overflow,
        "permanent": failure.permanent,
        "phase": None if failure.phase is None else failure.phase.value,
    }


def read_failure(fields: Fields) -> Failure:
    """The failure; ValueError for what :func:`write_failure` does not write."""
    phase = fields.text_or_none("phase")
    return Failure(
        category=ErrorCategory(fields.text("category")),
        message=fields.text("message"),
        http_status=fields.count_or_none("http_status"),
        code=fields.text("code"),
        model=fields.text_or_none("model"),
        project_wide=fields.flag("project_wide"),
        retry_after_s=fields.number_or_none("retry_after_s"),
        resets_at=fields.number_or_none("resets_at"),
        hint=fields.text("hint"),
        context_overflow=fields.flag("context_overflow"),
        permanent=fields.flag("permanent"),
        phase=None if phase is None else TimeoutPhase(phase),
    )


def _attempt(record: AttemptRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "account": record.account,
        "pool": record.pool,
        "model": record.model,
        "result": record.result.value,
        "latency_s": record.latency_s,
        "failure": None if record.failure is None else write_failure(record.failure),
    }


def _read_attempt(fields: Fields) -> AttemptRecord:
    failure = fields.part("failure")
    return AttemptRecord(
        number=fields.count("number"),
        account=fields.text("account"),
        pool=fields.text("pool"),
        model=fields.text("model"),
        result=AttemptResult(fields.text("result")),
        latency_s=fields.number("latency_s"),
        failure=None if failure is None else read_failure(failure),
    )


def write_reply(reply: Reply) -> dict[str, Any]:
    """A reply as a JSON object."""
    return {
        "request_id": reply.request_id,
        "text": reply.text,
        "account": reply.account,
        "pool": reply.pool,
        "provider": reply.provider,
        "model": reply.model,
        "usage": {
            "input_tokens": reply.usage.input_tokens,
            "output_tokens": reply.usage.output_tokens,
            "estimated": reply.usage.estimated,
        },
        "finish_reason": reply.finish_reason,
        "attempts": [_attempt(record) for record in reply.attempts],
        "latency_s": reply.latency_s,
        "first_token_s": reply.first_token_s,
        "cost": reply.cost,
        "degradations": [{"kind": kind.value, "detail": detail} for kind, detail in reply.degradations],
        "seams": [seam._asdict() for seam in reply.seams],
        "cached_age_s": reply.cached_age_s,
        "queued_s": reply.queued_s,
    }


def read_reply(fields: Fields) -> Reply:
    """The reply; ValueError for what :func:`write_reply` does not write."""
    usage = _needed(fields, "usage")
    return Reply(
        request_id=fields.text("request_id"),
        text=fields.text("text"),
        account=fields.text("account"),
        pool=fields.text("pool"),
        provider=fields.text("provider"),
        model=fields.text("model"),
        usage=Usage(usage.count("input_tokens"), usage.count("output_tokens"), usage.flag("estimated")),
        finish_reason=fields.text("finish_reason"),
        attempts=tuple(_read_attempt(record) for record in fields.items("attempts")),
        latency_s=fields.number("latency_s"),
        first_token_s=fields.number_or_none("first_token_s"),
        cost=fields.number_or_none("cost"),
        degradations=tuple(
            Degradation(DegradationKind(part.text("kind")), part.text("detail"))
            for part in fields.items("degradations")
        ),
        seams=tuple(
            Seam(
                part.count("at"),
                part.text("broken"),
                part.text("resumed"),
                part.text("cause"),
                part.count("overlap"),
            )
            for part in fields.items("seams")
        ),
        cached_age_s=fields.number_or_none("cached_age_s"),
        queued_s=fields.number("queued_s", 0.0),
    )


def _error(error: RequestError) -> dict[str, Any]:
    return {
        "request_id": error.request_id,
        "failure": write_failure(error.failure),
        "attempts": [_attempt(record) for record in error.attempts],
        "partial": error.partial,
        "next_available_at": error.next_available_at,
        "skipped": list(error.skipped),
    }


def _read_error(fields: Fields) -> RequestError:
    return RequestError(
        fields.text("request_id"),
        read_failure(_needed(fields, "failure")),
        [_read_attempt(record) for record in fields.items("attempts")],
        partial=fields.text("partial"),
        next_available_at=fields.number_or_none("next_available_at"),
        skipped=fields.texts("skipped"),
    )
