"""How an account or a pool stands: all that is known of it, as lines for the details dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartfallback_console.changes import Severity
from smartfallback_console.dialogs.details import DIM, Piece
from smartfallback_console.fairness import gini
from smartfallback_console.formatting import (
    age,
    clock_time,
    count,
    countdown,
    duration,
    fit,
    latency,
    percent,
)
from smartfallback_console.store_words import SILENT, instance_state, silent_s
from smartfallback_console.usable import shut, usable
from smartfallback_console.widgets.account_lines import CIRCUIT_SIGNS, elsewhere_percent
from smartfallback_console.widgets.recovery import DONE, words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import (
        AccountView,
        CircuitView,
        ForecastView,
        InstanceView,
        PoolView,
        QuotaView,
        RecoveryRecord,
        Snapshot,
        WindowView,
    )

HEAD = "bold $primary"
BAR = 24
NAMES = 13
"""Cells of the left column."""
SOURCES = {
    "reported": "reported by the provider",
    "measured": "measured: counted here",
    "learned": "learned from headers and errors",
    "estimated": "estimated: its source gave no answer",
    "stale": "stale: its source has been silent since",
    "unknown": "unknown: nobody has said",
}
"""Where a number comes from."""
TONES = {
    Severity.INFO: DIM,
    Severity.GOOD: "$success",
    Severity.WARNING: "$warning",
    Severity.ERROR: "$error",
}
STATUS_TONES = {"healthy": "$success", "warning": "$warning", "critical": "$error", "exhausted": "$error"}

RECOVERIES = 5
"""Recoveries of an account in its details."""

Happening = tuple[float, Severity, str]
"""When, how bad, what."""


def account_lines(
    view: AccountView,
    pool: PoolView,
    now: float,
    history: Iterable[Happening] = (),
    recoveries: Iterable[RecoveryRecord] = (),
) -> list[list[Piece]]:
    """Everything that is known of an account.

    Args:
        view: The account.
        pool: Its pool.
        now: Epoch seconds of the snapshot.
        history: What happened to it, newest first.
        recoveries: The latest of all accounts, newest first.
    """
    lines: list[list[Piece]] = [
        [(view.id, "bold"), (f"  {view.pool} · {view.provider_id} · {view.model}", DIM)],
        _chosen(view, pool, now),
    ]
    admin = f" · {view.admin_reason}" if view.admin_reason else ""
    lines.append([_name("admin state"), (view.admin.value, ""), (admin, DIM)])
    if view.attention:
        lines.append([_name("attention"), (f"! {view.attention}", "$error")])
    if view.cooldown_until is not None:
        left = countdown(max(0.0, view.cooldown_until - now))
        lines.append([_name("cooldown"), (f"{left} left", "$warning"), (f" · {view.cooldown_reason}", DIM)])
    used = "never used" if view.last_used_at is None else f"last used {duration(now - view.last_used_at)} ago"
    lines.append([_name("running"), (f"{view.in_flight} of {view.max_concurrency}", ""), (f" · {used}", DIM)])
    if view.max_concurrency < view.configured_concurrency:
        scaled = f"↓ {view.max_concurrency} at once instead of {view.configured_concurrency}"
        lines.append([_name("scaled down"), (scaled, "$warning"), (" · overload; rises step by step", DIM)])
    totals = f"{view.requests} requests, {view.failures} failed, {count(view.tokens)} tokens"
    lines.append([_name("since start"), (totals, "")])
    lines += _quota(view.quota, now)
    if view.quota_source or view.quota_note:
        note = f" · {view.quota_note}" if view.quota_note else ""
        lines.append([_name("source"), (view.quota_source, ""), (note, DIM)])
    for limit in view.limits:
        known = "unknown" if limit.percent is None else f"{percent(limit.percent)} used"
        lines.append([_name("limit"), (limit.name, ""), (f" · {known} · from headers, never binding", DIM)])
    lines += [[], [("Circuits", HEAD)], *_circuit(view.circuit, "account", now)]
    for circuit in view.model_circuits:
        lines += _circuit(circuit, circuit.target.name.removeprefix(f"{view.id}/"), now)
    lines += _circuit(pool.provider_circuit, "provider", now)
    lines += [[], [("Lately", HEAD)]]
    happened = [[(f"  {clock_time(at)}  ", DIM), (text, TONES[severity])] for at, severity, text in history]
    return lines + (happened or [[("  nothing but answers", DIM)]]) + _recoveries(view.id, recoveries)


def _recoveries(account: str, records: Iterable[RecoveryRecord]) -> list[list[Piece]]:
    """The latest recoveries that the account had a part in."""
    own = [record for record in records if account in (record.original_account, record.final_account)]
    if not own:
        return []
    lines: list[list[Piece]] = [[], [("Recoveries", HEAD)]]
    for record in own[:RECOVERIES]:
        final = (record.final_account or "cache") if record.success else "nobody"
        tone = "$success" if record.success else "$error"
        how = f" {'✓' if record.success else '✗'} {latency(record.total_s)}"
        done = ", ".join(DONE[action] for action in record.actions)
        lines.append(
            [
                (f"  {clock_time(record.at)}  ", DIM),
                (f"{record.original_account} → {final}", ""),
                (how, tone),
                (f" · {words(record.category.value)} · {done}", DIM),
            ]
        )
    return lines


def pool_lines(view: PoolView, now: float) -> list[list[Piece]]:
    """Everything that is known of a pool."""
    fairness = view.fairness
    lines: list[list[Piece]] = [
        [(view.name, "bold"), (f"  {view.provider_id} · {view.model}", DIM)],
        [_name("strategy"), (view.strategy.value, "")],
        [_name("usable"), (f"{len(usable(view, now))} of {len(view.accounts)}", "")],
    ]
    if fairness.share_of_limit is not None or fairness.requests is not None:
        hour = f" · last hour: requests {gini(fairness.requests)}, tokens {gini(fairness.tokens)}"
        tone = "$warning" if fairness.alarm else ""
        share = f"Gini {gini(fairness.share_of_limit)} of the limits used"
        lines.append([_name("fairness"), (share + (", uneven" if fairness.alarm else ""), tone), (hour, DIM)])
    if view.unavailable:
        lines.append([_name("unavailable"), (f"! {view.unavailable}", "$error")])
    skipped = [account.skip for account in view.accounts if account.skip is not None]
    if skipped:
        lines += [[], [("Not chosen now", HEAD)]]
        lines += [[("  ✗ ", "$warning"), (str(skip), ""), (_back(skip.until, now), DIM)] for skip in skipped]
    lines += [[], [("Provider circuit", HEAD)], *_circuit(view.provider_circuit, "provider", now)]
    return lines


def instance_lines(view: InstanceView, snapshot: Snapshot) -> list[list[Piece]]:
    """Everything that is known of an instance that shares the store."""
    now = snapshot.at
    state, severity = instance_state(view, snapshot.store, now)
    lines: list[list[Piece]] = [
        [(view.name, "bold")],
        [_name("state"), (state, TONES[severity])],
        [_name("version"), (view.version, "")],
        [
            _name("running for"),
            (duration(now - view.started_at), ""),
            (f" · since {clock_time(view.started_at)}", DIM),
        ],
        [_name("heard of"), (f"{duration(now - view.seen_at)} ago", "")],
        [_name("in flight"), (count(view.in_flight), "")],
        [_name("requests"), (f"{view.requests_per_s:.1f}/s", ""), (" · over the last minute", DIM)],
        [_name("id"), (view.id, DIM)],
    ]
    if silent_s(view, snapshot.store, now) is not None:
        lines += [[], [(SILENT, "$warning")]]
    return lines


def _name(text: str) -> Piece:
    return (fit(text, NAMES), DIM)


def _chosen(view: AccountView, pool: PoolView, now: float) -> list[Piece]:
    """Whether it would be chosen, or why not and until when."""
    if view.skip is None and shut(pool, now):
        until = _back(pool.provider_circuit.until, now)
        return [_name("not chosen"), ("the provider's circuit is open", "$warning"), (until, DIM)]
    if view.skip is None:
        return [_name("chosen"), ("● ready", "$success")]
    detail = f": {view.skip.detail}" if view.skip.detail else ""
    return [
        _name("not chosen"),
        (f"{view.skip.reason.value}{detail}", "$warning"),
        (_back(view.skip.until, now), DIM),
    ]


def _back(until: float | None, now: float) -> str:
    return "" if until is None else f" · ends in {duration(until - now)}"


def _quota(quota: QuotaView, now: float) -> list[list[Piece]]:
    tone = STATUS_TONES.get(quota.status.value, DIM)
    lines: list[list[Piece]] = [[], [("Quota", HEAD), (f"  {quota.status.value}", tone)]]
    if quota.exhausted_until is not None:
        lines.append([("  exhausted", "$error"), (_back(quota.exhausted_until, now), DIM)])
    if not quota.windows:
        lines.append([("  no limit is configured", DIM)])
    for window in quota.windows:
        lines += _window(window, now, binds=window is quota.bound, tone=tone)
    if quota.windows:
        lines.append([("  forecast     ", DIM), *_forecast(quota, now)])
    return lines


def _window(window: WindowView, now: float, *, binds: bool, tone: str) -> list[list[Piece]]:
    mark = "▸ " if binds else "  "
    left = [(f"  {mark}", "$primary"), (fit(window.kind.value, 6), "bold" if binds else "")]
    if window.percent is None:
        bar: list[Piece] = [("┄" * BAR, DIM), ("  unknown", "")]
    else:
        full = max(0, min(BAR, round(window.percent / 100 * BAR)))
        bar = [("━" * full, tone if binds else ""), ("─" * (BAR - full), "$foreground 30%")]
        bar.append((f" {percent(window.percent):>6} used", ""))
    amounts = ""
    if window.limit and window.unit.value != "fraction":
        amounts = f" · {count(window.used)} of {count(window.limit)} {window.unit.value}"
    held = f", {count(window.held)} held" if window.held else ""
    source = SOURCES.get(window.label.value, window.label.value)
    read = "" if window.read_at is None else f", {age(now - window.read_at)} ago"
    reset = ""
    if window.resets_at is not None:
        reset = f" · resets in {duration(window.resets_at - now)}"
    lines = [[*left, *bar, (amounts + held, DIM)], [(" " * 10 + source + read + reset, DIM)]]
    if window.elsewhere:
        share = f"{count(window.elsewhere)} {window.unit.value}, {percent(elsewhere_percent(window))},"
        lines.append([(" " * 10 + f"┅ {share} held or leased by other instances", "$secondary")])
    return lines


def _forecast(quota: QuotaView, now: float) -> list[Piece]:
    forecast = quota.forecast
    if forecast is None:
        return [("not known yet: too little was seen", DIM)]
    window = quota.windows[forecast.window] if forecast.window < len(quota.windows) else None
    pieces: list[Piece] = []
    if forecast.exhausted_at is not None:
        pieces.append((f"runs out in {duration(forecast.exhausted_at - now)}", "$warning"))
        pieces.append((_range(forecast, now), DIM))
    elif forecast.lasts:
        pieces.append(("lasts until its reset", "$success"))
    else:
        pieces.append(("may not last until its reset" + _range(forecast, now), "$warning"))
    if forecast.burn_rate_per_h is not None and window is not None:
        rate = f" · {count(forecast.burn_rate_per_h)} {window.unit.value} an hour"
        pieces.append((rate, DIM))
    return pieces


def _range(forecast: ForecastView, now: float) -> str:
    """Four of five times the truth lies in it."""
    early, late = forecast.earliest_at, forecast.latest_at
    if early is None:
        return ""
    if late is None:
        return f" (from {duration(early - now)} on)"
    return f" (between {duration(early - now)} and {duration(late - now)})"


def _circuit(circuit: CircuitView, name: str, now: float) -> list[list[Piece]]:
    state = circuit.state.value
    tone = {"closed": "$success", "half_open": "$warning", "observe_only": "$warning"}.get(state, "$error")
    left = "" if circuit.until is None or state == "closed" else f" {countdown(circuit.until - now)}"
    rate = "" if circuit.success_rate is None else f", {percent(circuit.success_rate * 100)} success"
    cause = f" · {circuit.cause}" if circuit.cause else ""
    counts = f" · {circuit.failures} failures in {circuit.calls} calls{rate}"
    rejected = f", {circuit.rejected} turned away" if circuit.rejected else ""
    return [
        [
            (f"  {fit(name, NAMES - 2)}", DIM),
            (f"{CIRCUIT_SIGNS.get(state, '?')} {state.replace('_', '-')}{left}", tone),
            (f" for {duration(now - circuit.since)}{counts}{rejected}{cause}", DIM),
        ]
    ]
