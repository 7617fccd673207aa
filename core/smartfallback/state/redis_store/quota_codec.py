"""What the scripts about quotas are asked, and what they reply: JSON with short names.

The names are explained in ``scripts/quota.lua``, ``report.lua`` and ``reserve.lua``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from smartfallback.model.quota import TruthLabel
from smartfallback.model.sharing import (
    AccountReport,
    CountBase,
    HoldRequest,
    QuotaReply,
    SharedWindow,
    WindowReport,
)
from smartfallback.state.json_fields import Fields, loaded

_MOST: Final = 1e15
"""Stands for what has no limit: a larger number would not keep its last digit."""
_LATEST: Final = 9_999_999_999.0
"""The store keeps 14 digits of a number: ten of them before the point, for a time."""
_TICKS_PER_S: Final = 10_000
_LABELS: Final = {label.value: label for label in TruthLabel}


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a message stands among all that one instance has sent about one account.

    Attributes:
        number: Grows with each message of this process.
        answered: The number of the last report that was answered; 0 before any.
        seen_at: When the latest reply was given, by the store's clock; 0 before any.
        nonce: The epoch to begin if the store has none.
    """

    number: int
    answered: int
    seen_at: float
    nonce: str


def encode_report(instance: str, report: AccountReport, turn: Turn, lease_s: float) -> str:
    """The argument of ``report.lua``.

    Raises:
        ValueError: A number is none.
    """
    document = _request(instance, report.windows, turn, report.version, report.epoch, lease_s)
    document["ended"] = list(report.ended)
    if report.also:
        document["also"] = list(report.also)
    if report.restore is not None:
        document["restore"] = {key: _remembered(window) for key, window in report.restore.items()}
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def encode_hold(instance: str, hold: HoldRequest, turn: Turn) -> str:
    """The argument of ``reserve.lua``.

    Raises:
        ValueError: A number is none.
    """
    document = _request(instance, hold.windows, turn, hold.version, hold.epoch, hold.lease_s)
    document["id"] = hold.id
    document["amounts"] = {key: _amount(amount) for key, amount in hold.amounts.items()}
    document["most"] = hold.most_running
    document["ended"] = list(hold.ended)
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def decode_reply(account: str, text: str) -> QuotaReply:
    """What either script replied. A window that can't be read is left out, as if there were none.

    Raises:
        ValueError: It is no such reply.
    """
    fields = Fields(loaded(text))
    windows: dict[str, SharedWindow] = {}
    for key, part in fields.parts("windows"):
        try:
            windows[key] = _window(part)
        except ValueError:
            continue
    why = fields.part("why")
    lost = fields.count("lost") == 1
    return QuotaReply(
        account=account,
        granted=not lost and fields.get("granted", 1) == 1,
        at=fields.number("at"),
        version=fields.count("version"),
        epoch=fields.text("epoch"),
        windows=windows,
        reason="the store has lost what it knew" if lost else "" if why is None else _words(why),
        lost=lost,
    )


# -- there


def _request(
    instance: str,
    windows: tuple[WindowReport, ...],
    turn: Turn,
    version: int,
    epoch: str,
    lease_s: float,
) -> dict[str, Any]:
    return {
        "me": instance,
        "turn": turn.number,
        "told": turn.answered,
        "seen": turn.seen_at,
        "nonce": turn.nonce,
        "version": version,
        "epoch": epoch,
        "lease": lease_s,
        "windows": [_told(window) for window in windows],
    }


def _told(window: WindowReport) -> dict[str, Any]:
    document: dict[str, Any] = {
        "k": window.key,
        "s": _time(window.started_at),
        "e": _time(window.ends_at),
        "p": _amount(window.cap),
        "c": _amount(window.spent),
        "h": _amount(window.held),
        "w": _amount(window.want),
        "n": _amount(window.need),
        "l": _amount(window.keeps),
    }
    if window.base is not None:
        document["b"] = _base(window.base)
    return document


def _remembered(window: SharedWindow) -> dict[str, Any]:
    document: dict[str, Any] = {
        "s": _time(window.started_at),
        "e": _time(window.ends_at),
        "c": dict(window.spent),
        "l": dict(window.ceilings),
        "x": dict(window.charged),
    }
    if window.base is not None:
        document["b"] = _base(window.base)
    return document


def _base(base: CountBase) -> dict[str, Any]:
    # Rounded up: whoever set it looks whether the store's is as late, and then lets go of its own.
    read_at = math.ceil(base.read_at * _TICKS_PER_S) / _TICKS_PER_S
    if read_at < base.read_at:
        read_at = round(read_at + 1 / _TICKS_PER_S, 4)
    return {"u": _amount(base.used), "at": read_at, "label": base.label.value, "m": dict(base.mark)}


def _time(at: float) -> float:
    """Epoch seconds as they come back from the store; 0 for no end, and for no beginning."""
    return round(min(at, _LATEST), 4) if math.isfinite(at) else 0


def _amount(amount: float) -> float:
    return max(-_MOST, min(amount, _MOST)) if math.isinf(amount) else amount


# -- and back


def _window(fields: Fields) -> SharedWindow:
    base = fields.part("b")
    ends_at = fields.number("e")
    return SharedWindow(
        started_at=fields.number("s"),
        ends_at=ends_at if ends_at else math.inf,
        base=None
        if base is None
        else CountBase(
            used=base.number("u"),
            read_at=base.number("at"),
            # A later version may know more labels; its numbers are as good as an estimate here.
            label=_LABELS.get(base.text("label"), TruthLabel.ESTIMATED),
            mark=_amounts(base, "m"),
        ),
        spent=_amounts(fields, "c"),
        ceilings=_amounts(fields, "l"),
        charged=_amounts(fields, "x"),
        held=_amounts(fields, "h"),
    )


def _amounts(fields: Fields, name: str) -> Mapping[str, float]:
    found = fields.get(name)
    if not found:
        return {}  # Lua can't tell an empty object from an empty list
    amounts = Fields(found)
    return {instance: amounts.number(instance) for instance in found}


def _words(why: Fields) -> str:
    code, key = why.text("code"), why.text("key")
    if code in ("ended", "rolled"):
        return code
    if code == "unknown":
        return f"{key}: no such window"
    if code != "full":
        raise ValueError("it was refused for no known reason")
    used, leased, held, asked, cap = (
        _number(why.number(name)) for name in ("used", "leased", "held", "asked", "cap")
    )
    if key == "slots":
        return f"slots: {held} running and {leased} leased of {cap}"
    return (
        f"{key}: {used} used + {held} held + {leased} leased + {asked} asked "
        f"does not fit {cap}, over all instances"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
