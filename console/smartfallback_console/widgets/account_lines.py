"""One account as one line: which columns fit, and what each says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartfallback_console.drill_words import DRILL_SIGN
from smartfallback_console.fairness import gini, headline
from smartfallback_console.formatting import age, clean, count, countdown, duration, fit, percent
from smartfallback_console.usable import usable
from smartfallback_console.widgets.lines import Line, LineWriter

if TYPE_CHECKING:
    from rich.style import Style

    from smartfallback import AccountView, CircuitView, PoolView, QuotaView, WindowView
    from smartfallback_console.ink import Ink

CIRCUIT_SIGNS = {
    "closed": "●",
    "open": "○",
    "half_open": "◐",
    "forced_open": "⊘",
    "observe_only": "◎",
    "disabled": "◌",
}
"""A circuit's state without colour: full lets through, half probes, hollow blocks."""

STATUS_SIGNS = {"healthy": "●", "warning": "▲", "critical": "◆", "exhausted": "■", "unknown": "?"}
"""A quota's status without colour."""

ADMIN_SIGNS = {"draining": "◑", "drained": "◌", "disabled": "⊘"}
"""What an operator has done with an account."""

LABEL_SIGNS = {
    "reported": "=",
    "measured": " ",
    "learned": "~",
    "estimated": "≈",
    "stale": "!",
    "unknown": "?",
}
"""How far a percentage is to be trusted, where there is no room for the word."""

SHORT_REASONS = {
    "above the hard limit": "hard limit",
    "above the soft limit": "soft limit",
    "coming back step by step": "coming back",
}
"""Why an account is not chosen, where the column is narrow; the details say it in full."""

SOFT_MARK = 0.8

FORECAST_FROM = 122
"""Cells from which on the forecast has a column; below it, it stands beside the state."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The width of each column in cells; 0 leaves a column out."""

    name: int
    bar: int
    label: int
    resets: int
    forecast: int
    circuit: int
    state: int
    in_flight: int
    used: int
    requests: int
    failures: int
    tokens: int

    @classmethod
    def for_width(cls, width: int, longest_name: int) -> Columns:
        """The columns that ``width`` cells have room for; the most needed first."""
        wide, roomy, medium, small = width >= 150, width >= 98, width >= 92, width >= 60
        name = max(8, min(longest_name, 28 if wide else 20 if width >= 106 else 14 if small else 10))
        fixed = {
            "label": 14 if roomy else 0,
            "resets": 7 if medium else 6 if small else 0,
            "forecast": 11 if width >= FORECAST_FROM else 0,
            "circuit": 16 if wide else 15 if roomy else 11 if small else 6,
            "in_flight": 5 if small else 0,
            "used": 5 if small else 0,
            "requests": 5 if medium else 0,
            "failures": 5 if wide else 0,
            "tokens": 6 if wide else 0,
        }
        # 2 cells of sign, 6 of percentage, one gap after each column that is shown.
        taken = 2 + name + 1 + 1 + 6 + 1 + sum(value + 1 for value in fixed.values() if value)
        free = max(0, width - taken)
        bar = max(0, min(34, max(free * 2 // 5, free - 34))) if free >= 12 else 0
        state = max(0, free - bar)
        return cls(name=name, bar=bar, state=state, **fixed)


def heading_line(columns: Columns, ink: Ink, sort: str) -> Line:
    """The names of the columns."""
    out = LineWriter()

    def put(text: str, width: int, *, right: bool = False, key: str = "") -> None:
        if width:
            name = text + ("▾" if key and key == sort else "")
            out.put(fit(name, width, "right" if right else "left"), ink.muted).space()

    out.space(2)
    put("account", columns.name, key="name")
    put("quota used" if columns.bar >= 10 else "quota", columns.bar)
    put("" if columns.bar else "used", 6, right=True, key="quota")
    put("known", columns.label)
    put("reset", columns.resets, right=True)
    put("forecast", columns.forecast)
    put("circuit", columns.circuit, key="circuit")
    put("busy", columns.in_flight, right=True)
    put("last", columns.used, right=True, key="last")
    put("reqs", columns.requests, right=True, key="requests")
    put("fail", columns.failures, right=True)
    put("tokens", columns.tokens, right=True)
    put("state", columns.state)
    return out.line()


def account_line(
    view: AccountView, columns: Columns, now: float, ink: Ink, *, shut: bool = False, faulty: bool = False
) -> Line:
    """One account; ``shut`` when its provider's circuit turns all away, ``faulty`` when a drill is on it."""
    out = LineWriter()
    quota = view.quota
    status = quota.status.value
    tone = status_tone(quota, ink)
    able = view.skip is None and not shut
    sign, sign_tone = state_sign(view, ink)
    out.put(sign, sign_tone)
    _drilled(out, ink, faulty=faulty)
    out.put(fit(view.id, columns.name), ink.strong if able else ink.muted).space()
    bound = quota.bound
    if columns.bar:
        used = None if bound is None else bound.percent
        held = 0.0 if bound is None else bound.held_percent
        others = 0.0 if bound is None else elsewhere_percent(bound)
        out_bar(out, columns.bar, used, held, tone, ink, bound is not None, others)
        out.space()
    if bound is None:
        no_limit = "no limit" if columns.bar == 0 else "∞"
        out.put(fit("?" if view.quota_source else no_limit, 6, "right"), ink.muted).space()
    else:
        mark = "" if columns.label else LABEL_SIGNS.get(bound.label.value, "?").strip()
        text = "?" if bound.percent is None else mark + percent(bound.percent)
        out.put(fit(text, 6, "right"), tone if status != "healthy" else ink.text).space()
    if columns.label:
        out.put(fit(_known(view, now), columns.label), ink.muted).space()
    if columns.resets:
        at = quota.exhausted_until or (bound.resets_at if bound else None)
        out.put(
            fit("—" if at is None else _resets(at - now, columns.resets), columns.resets, "right"), ink.muted
        ).space()
    if columns.forecast:
        text, forecast_tone = forecast_text(quota, now, ink)
        out.put(fit(text, columns.forecast), forecast_tone).space()
    _circuit(out, view.circuit, columns.circuit, now, ink)
    out.space()
    if columns.in_flight:
        full = view.in_flight >= view.max_concurrency
        lowered = view.max_concurrency < view.configured_concurrency
        busy_tone = ink.warning if full or lowered else ink.primary if view.in_flight else ink.muted
        busy = _busy(view, columns.in_flight, lowered=lowered)
        out.put(fit(busy, columns.in_flight, "right"), busy_tone).space()
    if columns.used:
        last = "—" if view.last_used_at is None else age(now - view.last_used_at)
        out.put(fit(last, columns.used, "right"), ink.text if able else ink.muted).space()
    if columns.requests:
        out.put(fit(count(view.requests), columns.requests, "right"), ink.text).space()
    if columns.failures:
        failed = count(view.failures) if view.failures else "·"
        out.put(fit(failed, columns.failures, "right"), ink.warning if view.failures else ink.muted).space()
    if columns.tokens:
        out.put(fit(count(view.tokens), columns.tokens, "right"), ink.text).space()
    if columns.state:
        text, state_tone = state_text(view, now, ink, shut=shut)
        forecast = quota.forecast
        if able and not columns.forecast and forecast and forecast.exhausted_at is not None:
            note = f" · out in {age(forecast.exhausted_at - now)}"
            if len(text) + len(note) <= columns.state:
                out.put(text, state_tone).put(fit(note, columns.state - len(text)), ink.warning)
                return out.line()
        out.put(fit(text, columns.state), state_tone)
    return out.line()


def _drilled(out: LineWriter, ink: Ink, *, faulty: bool) -> None:
    """The gap before a name, or the sign that what is named meets an injected fault."""
    if faulty:
        out.put(DRILL_SIGN, ink.accent)
    else:
        out.space()


def pool_line(view: PoolView, width: int, ink: Ink, now: float, *, faulty: bool = False) -> Line:
    """A pool's heading between its accounts; ``faulty`` when a drill is on the whole of it."""
    out = LineWriter()
    able = len(usable(view, now))
    total = len(view.accounts)
    tone = ink.ok if able == total else ink.warning if able else ink.error
    right = LineWriter()
    circuit = view.provider_circuit
    if circuit.state.value != "closed" or width >= 90:
        right.put("API ", ink.muted)
        _circuit(right, circuit, 0, now, ink)
        right.put("  ", ink.muted)
    fairness = headline(view.fairness)
    if fairness is not None and width >= 60:
        alarm = view.fairness.alarm
        uneven = " uneven" if alarm else ""
        right.put(f"Gini {gini(fairness)}{uneven}  ", ink.warning if alarm else ink.muted)
    right.put(f"{able}/{total} usable", tone)
    name = clean(view.name)
    out.put("▾", ink.primary)
    _drilled(out, ink, faulty=faulty)
    out.put(fit(name, min(len(name) + 2, max(4, width - right.length - 4))).rstrip(), ink.heading)
    rest = width - out.length - right.length - 3
    detail = f"{view.strategy.value} · {clean(view.model)}"
    if view.unavailable:
        detail = f"✕ {clean(view.unavailable)}"
    if rest >= 12:
        text = fit(detail, min(rest, len(detail) + 1)).rstrip()
        out.put("  " + text, ink.error if view.unavailable else ink.muted)
    gap = width - out.length - right.length
    if gap >= 3:
        out.put(" " + "─" * (gap - 2) + " ", ink.faint)
    else:
        out.space(gap)
    return (*out.line(), *right.line())


def status_tone(quota: QuotaView, ink: Ink) -> Style:
    """The colour of a quota's status."""
    status = quota.status.value
    if status in ("critical", "exhausted"):
        return ink.error
    return {"healthy": ink.ok, "warning": ink.warning}.get(status, ink.muted)


def state_sign(view: AccountView, ink: Ink) -> tuple[str, Style]:
    """One symbol for how an account stands, and its colour."""
    if view.attention:
        return "!", ink.error
    if view.admin.value != "active":
        return ADMIN_SIGNS.get(view.admin.value, "?"), ink.muted
    if view.circuit.state.value in ("open", "forced_open"):
        return "✕", ink.error
    if view.cooldown_until is not None:
        return "◔", ink.warning
    if view.circuit.state.value == "half_open":
        return "◐", ink.warning
    if view.quota.status.value == "unknown":
        return "●" if view.skip is None else "?", ink.ok if view.skip is None else ink.muted
    return STATUS_SIGNS.get(view.quota.status.value, "?"), status_tone(view.quota, ink)


def state_text(view: AccountView, now: float, ink: Ink, *, shut: bool = False) -> tuple[str, Style]:
    """In words: usable, or why not and for how long."""
    if view.attention:
        return f"needs attention: {view.attention}", ink.error
    if view.admin.value != "active":
        reason = f" · {view.admin_reason}" if view.admin_reason else ""
        busy = f" · {view.in_flight} running" if view.in_flight else ""
        return f"{view.admin.value}{busy}{reason}", ink.muted
    if view.skip is None and shut:
        return "provider circuit", ink.error
    if view.skip is None:
        return ("probing", ink.warning) if view.circuit.state.value == "half_open" else ("ready", ink.ok)
    skip = view.skip
    left = f" {countdown(skip.until - now)}" if skip.until is not None and skip.until - now < 3_600 else ""
    if skip.reason.value == "account circuit":
        if view.circuit.state.value == "forced_open":
            return f"forced open: {view.circuit.cause or 'by the operator'}", ink.error
        return view.circuit.cause or "circuit open", ink.error
    words = SHORT_REASONS.get(skip.reason.value, skip.reason.value)
    tone = ink.error if "hard" in skip.reason.value or "exhausted" in skip.reason.value else ink.warning
    return f"{words}{left}", tone


def forecast_text(quota: QuotaView, now: float, ink: Ink) -> tuple[str, Style]:
    """When the quota runs out, or that it lasts to its reset."""
    forecast = quota.forecast
    if forecast is None:
        return "", ink.muted
    if forecast.exhausted_at is not None:
        return f"out {duration(forecast.exhausted_at - now)}", ink.warning
    if forecast.lasts:
        return "lasts", ink.muted
    return ("may run out" if forecast.earliest_at is not None else ""), ink.muted


def out_bar(
    out: LineWriter,
    width: int,
    used: float | None,
    held: float,
    tone: Style,
    ink: Ink,
    known: bool,
    elsewhere: float = 0.0,
) -> None:
    """A quota bar: used, held (dashed), held elsewhere (finely dashed), free; a tick at the soft limit.

    ``used``, ``held`` and ``elsewhere`` are in percent.
    """
    if used is None:
        out.put(fit("┄" * width if known else "", width), ink.faint)
        return
    halves = max(0, min(2 * width, round(used / 100 * 2 * width)))
    if used > 0:
        halves = max(1, halves)
    full, half = divmod(halves, 2)
    out.put("━" * full + "╸" * half, tone)
    position = full + half
    for share, sign, pen in ((held, "╍", ink.held), (elsewhere, "┅", ink.secondary)):
        cells = min(width - position, max(1, round(share / 100 * width)) if share > 0 else 0)
        out.put(sign * cells, pen)
        position += cells
    tick = int(width * SOFT_MARK)
    if position <= tick < width:
        out.put("─" * (tick - position) + "┼" + "─" * (width - tick - 1), ink.faint)
    else:
        out.put("─" * (width - position), ink.faint)


def elsewhere_percent(window: WindowView) -> float:
    """What other instances hold or have leased, as a percentage of the limit."""
    return window.elsewhere / window.limit * 100 if window.limit > 0 else 0.0


def _rounded_age(seconds: float) -> str:
    """In steps of ten seconds at first: a number that ticks in every line draws the eye for nothing."""
    if seconds < 60:
        return "<10s" if seconds < 10 else f"{int(seconds) // 10 * 10}s"
    return age(seconds)


def _busy(view: AccountView, width: int, *, lowered: bool) -> str:
    """Running requests and how many there may be; behind an arrow, how many it is configured for."""
    busy = f"{view.in_flight or '·'}/{view.max_concurrency}"
    if not lowered:
        return busy
    whole = f"{busy}↓{view.configured_concurrency}"
    return whole if len(whole) <= width else f"{busy}↓"


def _resets(seconds: float, width: int) -> str:
    text = duration(seconds)
    return text if len(text) <= width else age(seconds)


def _known(view: AccountView, now: float) -> str:
    bound = view.quota.bound
    if bound is None:
        return "unknown" if view.quota_source else ""
    old = "" if bound.read_at is None else " " + _rounded_age(now - bound.read_at)
    return f"{bound.label.value}{old}"


def _circuit(out: LineWriter, view: CircuitView, width: int, now: float, ink: Ink) -> None:
    state = view.state.value
    tone = (
        ink.ok if state == "closed" else ink.warning if state in ("half_open", "observe_only") else ink.error
    )
    if state == "disabled":
        tone = ink.muted
    word = state.replace("_", "-")
    left = "" if view.until is None or state == "closed" else " " + countdown(max(0.0, view.until - now))
    if width and width < 9:
        text = CIRCUIT_SIGNS.get(state, "?") + left
    elif state == "forced_open" and 0 < width < 16:
        text = f"{CIRCUIT_SIGNS.get(state, '?')} forced{left}"
    else:
        text = f"{CIRCUIT_SIGNS.get(state, '?')} {word}{left}"
    out.put(fit(text, width) if width else text, ink.muted if state == "closed" and width else tone)
