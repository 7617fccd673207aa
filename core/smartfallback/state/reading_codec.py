"""A quota reading as JSON, and back."""

from __future__ import annotations

import json

from smartfallback.model.quota import QuotaReading, QuotaUnit, TruthLabel, WindowKind, WindowReading
from smartfallback.state.json_fields import Fields, loaded


def encode_reading(reading: QuotaReading) -> str:
    """A reading as a JSON object."""
    document = {
        "account": reading.account,
        "source": reading.source,
        "label": reading.label.value,
        "read_at": reading.read_at,
        "note": reading.note,
        "windows": [
            {
                "name": window.name,
                "kind": None if window.kind is None else window.kind.value,
                "unit": window.unit.value,
                "used": window.used,
                "limit": window.limit,
                "percent_used": window.percent_used,
                "resets_at": window.resets_at,
                "unlimited": window.unlimited,
            }
            for window in reading.windows
        ],
    }
    return json.dumps(document, ensure_ascii=True, allow_nan=False)


def decode_reading(text: str) -> QuotaReading:
    """The reading.

    Raises:
        ValueError: The text is not what :func:`encode_reading` writes.
    """
    document = Fields(loaded(text))
    return QuotaReading(
        account=document.text("account"),
        source=document.text("source"),
        label=TruthLabel(document.text("label")),
        read_at=document.number("read_at"),
        windows=tuple(_window(window) for window in document.items("windows")),
        note=document.text("note"),
    )


def _window(fields: Fields) -> WindowReading:
    kind = fields.text_or_none("kind")
    return WindowReading(
        name=fields.text("name"),
        kind=None if kind is None else WindowKind(kind),
        unit=QuotaUnit(fields.text("unit")),
        used=fields.number_or_none("used"),
        limit=fields.number_or_none("limit"),
        percent_used=fields.number_or_none("percent_used"),
        resets_at=fields.number_or_none("resets_at"),
        unlimited=fields.flag("unlimited"),
    )
