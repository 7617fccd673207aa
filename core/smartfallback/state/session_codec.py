"""How a chat turn came about, as JSON and back; its texts stand beside it, so that they can be searched."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from smartfallback.model.chat_sessions import ChatAttempt, ChatTurn, ChatWait, Resumption
from smartfallback.model.requests import Seam
from smartfallback.state.json_fields import Fields, loaded
from smartfallback.state.queue_codec import read_failure, read_reply, write_failure, write_reply


def encode_turn(turn: ChatTurn) -> str:
    """All but what has a column of its own, as a JSON object.

    Raises:
        ValueError: It holds a number that is not finite.
    """
    return json.dumps(
        {
            "took_s": turn.took_s,
            "request_id": turn.request_id,
            "chain": turn.chain,
            "pin": turn.pin,
            "avoid": sorted(turn.avoid),
            "is_retry": turn.is_retry,
            "sent_along": turn.sent_along,
            "reply": None if turn.reply is None else write_reply(replace(turn.reply, text="", attempts=())),
            "attempts": [_attempt(attempt) for attempt in turn.attempts],
            "waits": [wait._asdict() for wait in turn.waits],
            "resumptions": [{"at": at, "seam": seam._asdict()} for at, seam in turn.resumptions],
            "failure": None if turn.failure is None else write_failure(turn.failure),
            "problem": turn.problem,
            "skipped": list(turn.skipped),
            "next_available_at": turn.next_available_at,
            "cut": turn.cut,
        },
        ensure_ascii=True,
        allow_nan=False,
    )


def decode_turn(bare: ChatTurn, text: str) -> ChatTurn:
    """The turn with what the JSON object tells of it.

    Args:
        bare: What the columns tell.
        text: What :func:`encode_turn` wrote.

    Raises:
        ValueError: The text is not what :func:`encode_turn` writes.
    """
    fields = Fields(loaded(text))
    reply, failure = fields.part("reply"), fields.part("failure")
    return replace(
        bare,
        took_s=fields.number_or_none("took_s"),
        request_id=fields.text("request_id"),
        chain=fields.text("chain"),
        pin=fields.text_or_none("pin"),
        avoid=frozenset(fields.texts("avoid")),
        is_retry=fields.flag("is_retry"),
        sent_along=fields.count("sent_along"),
        reply=None if reply is None else read_reply(reply),
        attempts=tuple(_read_attempt(part) for part in fields.items("attempts")),
        waits=tuple(
            ChatWait(part.count("after"), part.number_or_none("waited_s")) for part in fields.items("waits")
        ),
        resumptions=tuple(_read_resumption(part) for part in fields.items("resumptions")),
        failure=None if failure is None else read_failure(failure),
        problem=fields.text("problem"),
        skipped=tuple(fields.texts("skipped")),
        next_available_at=fields.number_or_none("next_available_at"),
        cut=fields.count("cut"),
    )


def _attempt(attempt: ChatAttempt) -> dict[str, Any]:
    failure = attempt.failure
    return {**attempt._asdict(), "failure": None if failure is None else write_failure(failure)}


def _read_attempt(fields: Fields) -> ChatAttempt:
    failure = fields.part("failure")
    return ChatAttempt(
        number=fields.count("number"),
        account=fields.text("account"),
        pool=fields.text("pool"),
        model=fields.text("model"),
        latency_s=fields.number_or_none("latency_s"),
        failure=None if failure is None else read_failure(failure),
        diverted=fields.text("diverted"),
        then=fields.text("then"),
        hedge=fields.flag("hedge"),
        outrun=fields.count("outrun"),
    )


def _read_resumption(fields: Fields) -> Resumption:
    seam = fields.part("seam")
    if seam is None:
        raise ValueError("seam is missing")
    return Resumption(
        fields.count("at"),
        Seam(
            seam.count("at"),
            seam.text("broken"),
            seam.text("resumed"),
            seam.text("cause"),
            seam.count("overlap"),
        ),
    )
