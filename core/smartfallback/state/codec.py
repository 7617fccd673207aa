"""State as JSON, and back: strict about what it means, lenient about fields that are missing or new."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.model.quota import QuotaUnit, TruthLabel, WindowKind
from smartfallback.model.state import (
    AccountState,
    AttentionState,
    CircuitRecord,
    HoldState,
    RestState,
    ThrottleState,
    WallState,
    WindowState,
)
from smartfallback.state.json_fields import Fields, loaded


def encode_account(state: AccountState) -> str:
    """An account's state as a JSON object, apart from its holds.

    Raises:
        ValueError: It holds a number that is not finite.
    """
    document: dict[str, Any] = {
        "admin": state.admin.value,
        "admin_reason": state.admin_reason,
        "admin_at": state.admin_at,
        "last_used_at": state.last_used_at,
        "requests": state.requests,
        "failures": state.failures,
        "tokens": state.tokens,
        "windows": [_window(window) for window in state.windows],
    }
    if state.attention is not None:
        attention = state.attention
        document["attention"] = {
            "message": attention.message,
            "since": attention.since,
            "credentials": attention.credentials,
        }
    if state.cooldown is not None:
        document["cooldown"] = _rest(state.cooldown)
    if state.wall is not None:
        wall = state.wall
        document["wall"] = {"until": wall.until, "since": wall.since, "reason": wall.reason}
    if state.throttle is not None:
        throttle = state.throttle
        document["throttle"] = {
            "limit": throttle.limit,
            "broke_at": throttle.broke_at,
            "cut_at": throttle.cut_at,
            "since": throttle.since,
        }
    if state.circuit is not None:
        document["circuit"] = _circuit(state.circuit)
    if state.model_rests:
        document["model_rests"] = {model: _rest(rest) for model, rest in state.model_rests.items()}
    if state.model_circuits:
        document["model_circuits"] = {
            model: _circuit(circuit) for model, circuit in state.model_circuits.items()
        }
    return json.dumps(document, ensure_ascii=True, allow_nan=False)


def encode_holds(holds: Sequence[HoldState]) -> str:
    """Holds as a JSON list.

    Raises:
        ValueError: One holds a number that is not finite.
    """
    documents = [
        {
            "tokens": hold.tokens,
            "requests": hold.requests,
            "credits": hold.credits,
            "since": hold.since,
            "until": hold.until,
        }
        for hold in holds
    ]
    return json.dumps(documents, allow_nan=False)


def encode_circuit(record: CircuitRecord | None) -> str:
    """A circuit as a JSON object, ``null`` for a closed one."""
    return json.dumps(None if record is None else _circuit(record), ensure_ascii=True, allow_nan=False)


def decode_account(text: str) -> AccountState:
    """The account's state.

    Raises:
        ValueError: The text is not what :func:`encode_account` writes.
    """
    document = Fields(loaded(text))
    attention, wall = document.part("attention"), document.part("wall")
    rest, circuit = document.part("cooldown"), document.part("circuit")
    throttle = document.part("throttle")
    windows = document.get("windows", [])
    if not isinstance(windows, list):
        raise ValueError("windows is no list")
    return AccountState(
        admin=AdminState(document.text("admin", AdminState.ACTIVE.value)),
        admin_reason=document.text("admin_reason"),
        admin_at=document.number_or_none("admin_at"),
        attention=None
        if attention is None
        else AttentionState(
            attention.text("message"), attention.number("since"), attention.text("credentials")
        ),
        cooldown=None if rest is None else _read_rest(rest),
        wall=None
        if wall is None
        else WallState(wall.number("until"), wall.number("since"), wall.text("reason")),
        windows=tuple(_read_window(Fields(window)) for window in windows),
        circuit=None if circuit is None else _read_circuit(circuit),
        model_rests={model: _read_rest(part) for model, part in document.parts("model_rests")},
        model_circuits={model: _read_circuit(part) for model, part in document.parts("model_circuits")},
        last_used_at=document.number_or_none("last_used_at"),
        requests=document.count("requests"),
        failures=document.count("failures"),
        tokens=document.count("tokens"),
        throttle=None if throttle is None else _read_throttle(throttle),
    )


def decode_holds(text: str) -> tuple[HoldState, ...]:
    """The holds.

    Raises:
        ValueError: The text is not what :func:`encode_holds` writes.
    """
    documents = loaded(text)
    if not isinstance(documents, list):
        raise ValueError("holds are no list")
    return tuple(_read_hold(Fields(document)) for document in documents)


def decode_circuit(text: str) -> CircuitRecord | None:
    """The circuit, None for a closed one.

    Raises:
        ValueError: The text is not what :func:`encode_circuit` writes.
    """
    document = loaded(text)
    return None if document is None else _read_circuit(Fields(document))


def _rest(rest: RestState) -> dict[str, Any]:
    return {"until": rest.until, "reason": rest.reason}


def _window(window: WindowState) -> dict[str, Any]:
    return {
        "kind": window.kind.value,
        "unit": window.unit.value,
        "used": window.used,
        "label": window.label.value,
        "started_at": window.started_at,
        "ends_at": window.ends_at,
        "changed_at": window.changed_at,
        "read_at": window.read_at,
        "limit": window.limit,
        "adopted": window.adopted,
    }


def _circuit(record: CircuitRecord) -> dict[str, Any]:
    return {
        "state": record.state.value,
        "cause": record.cause,
        "since": record.since,
        "until": record.until,
        "first_break_s": record.first_break_s,
        "last_break_s": record.last_break_s,
        "rate_limit_test": record.rate_limit_test,
        "suspected": record.suspected,
        "adopted": record.adopted,
    }


def _read_rest(fields: Fields) -> RestState:
    return RestState(fields.number("until"), fields.text("reason"))


def _read_hold(fields: Fields) -> HoldState:
    credits_held = fields.number("credits", 0.0)
    if credits_held < 0:
        raise ValueError("a count below 0")
    return HoldState(
        fields.count("tokens"),
        fields.count("requests"),
        credits_held,
        fields.number("since"),
        fields.number("until"),
    )


def _read_throttle(fields: Fields) -> ThrottleState:
    limit = fields.count("limit")
    if limit < 1:
        raise ValueError("a limit below 1")
    return ThrottleState(
        limit, fields.count_or_none("broke_at"), fields.number_or_none("cut_at"), fields.number("since")
    )


def _read_window(fields: Fields) -> WindowState:
    used, limit = fields.number("used"), fields.number("limit", 0.0)
    if used < 0 or limit < 0:
        raise ValueError("a count below 0")
    return WindowState(
        kind=WindowKind(fields.text("kind")),
        unit=QuotaUnit(fields.text("unit")),
        used=used,
        label=TruthLabel(fields.text("label")),
        started_at=fields.number("started_at"),
        ends_at=fields.number("ends_at"),
        changed_at=fields.number("changed_at"),
        read_at=fields.number_or_none("read_at"),
        limit=limit,
        adopted=fields.get("adopted", False) is True,
    )


def _read_circuit(fields: Fields) -> CircuitRecord:
    return CircuitRecord(
        state=CircuitState(fields.text("state")),
        cause=fields.text("cause"),
        since=fields.number("since"),
        until=fields.number_or_none("until"),
        first_break_s=fields.number("first_break_s", 0.0),
        last_break_s=fields.number_or_none("last_break_s"),
        rate_limit_test=fields.get("rate_limit_test", False) is True,
        suspected=fields.get("suspected", False) is True,
        adopted=fields.get("adopted", False) is True,
    )
