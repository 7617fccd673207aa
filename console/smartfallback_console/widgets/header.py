"""The top of the dashboard: what runs, how it goes, and which step of the chain answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

from smartfallback_console.bridge import SourceState
from smartfallback_console.drill_words import DRILL_SIGN, last_left, number_of
from smartfallback_console.formatting import (
    cell_len,
    clean,
    clock_time,
    count,
    duration,
    fit,
    latency,
    share,
)
from smartfallback_console.runs import RUN_SIGNS, running, steps_done
from smartfallback_console.store_words import headline, standing
from smartfallback_console.usable import SHUT, live_step, usable
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events

    from smartfallback import PoolView, SimulationView, Snapshot
    from smartfallback_console.feed import Tick
    from smartfallback_console.ink import Ink


CLOCK = 10
"""Cells of the time of day."""


class Header(LineView, can_focus=False):
    """Brand and state, the chain with its live step, and a banner when something is wrong."""

    DEFAULT_CSS = """
    Header {
        height: 2; border: none; padding: 0 1; background: $panel; overflow: hidden;
        &.-banner { height: 3; }
    }
    """

    class StoreChosen(Message):
        """The operator clicked the word for the store."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._store_at = range(0)
        self._tick: Tick | None = None
        self._read_only = False

    def show(self, tick: Tick, *, read_only: bool = False) -> None:
        """Draw the state of a look at the core."""
        self._tick = tick
        self._read_only = read_only
        self.set_class(bool(self._banner()), "-banner")
        self.redraw()

    def line_count(self) -> int:
        """Two lines, a third for the banner."""
        return 3 if self._banner() else 2

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """Brand, chain, banner."""
        if index == 0:
            return self._brand(width, ink)
        if index == 1:
            return self._chain(width, ink)
        kind, text = self._banner() or ("", "")
        tone = {"error": ink.error_pill, "warning": ink.warning_pill}.get(kind, ink.accent_pill)
        return LineWriter().put(fit(f" {text}", width), tone).line()

    def _banner(self) -> tuple[str, str] | None:
        tick = self._tick
        if tick is None:
            return None
        if tick.state is SourceState.FAILED:
            return "error", f"✕ The core has stopped: {tick.failure}"
        if tick.state is SourceState.STOPPED:
            return "error", "✕ The core has stopped."
        if tick.stale and not tick.paused:
            return "error", f"! No news from the core for {duration(tick.age_s)}: what you see is old."
        if tick.paused:
            return "info", f"‖ Paused. {count(tick.waiting)} events wait; p goes on."
        if tick.snapshot is not None:
            degraded = [chain for chain in tick.snapshot.chains if chain.degraded]
            store = headline(tick.snapshot.store, tick.snapshot.at)
            if degraded:
                first, more = degraded[0], len(degraded) - 1
                others = f"  (and {more} more chain{'s' if more > 1 else ''})" if more else ""
                beside = f"  · {store.partition(' (')[0].partition(':')[0]}" if store else ""
                return (
                    "warning",
                    f"▽ {clean(first.name)} is degraded: {clean(first.degraded)}{others}{beside}",
                )
            if store:
                return "warning", f"▽ {store}"
        return None

    def _brand(self, width: int, ink: Ink) -> Line:
        tick = self._tick
        out, right = LineWriter(), LineWriter()
        out.put("◆ ", ink.accent).put("SmartFallback" if width >= 44 else "SFC", ink.strong).space(2)
        snapshot = tick.snapshot if tick else None
        if snapshot is not None and snapshot.simulated:
            out.put(" SIMULATED " if width >= 50 else " SIM ", ink.accent_pill).space()
        if self._read_only and width >= 60:
            out.put(" READ-ONLY ", ink.muted_pill).space()
        if tick is not None and tick.simulation is not None:
            self._rehearsal(out, tick.simulation, tick.at, width, ink)
        sign, word, tone = self._state(ink)
        stored = range(0)
        if snapshot is not None:
            room = width - out.length - cell_len(sign + word) - 2
            text, clock = _store_text(snapshot, room, CLOCK if width >= 40 else 0)
            self._rates(right, snapshot, room - clock - (len(text) + 2 if text else 0), ink)
            if text:
                begin = right.length
                right.put(text, _store_tone(snapshot, ink)).space(2)
                stored = range(begin, begin + len(text))
            if clock:
                right.put(clock_time(snapshot.at), ink.text).space(2)
        right.put(f"{sign} {word}", tone)
        gap = max(0, width - out.length - right.length)
        start = out.length + gap
        self._store_at = range(start + stored.start, start + stored.stop)
        return (*out.space(gap).line(), *right.line())

    @staticmethod
    def _rehearsal(out: LineWriter, view: SimulationView, now: float, width: int, ink: Ink) -> None:
        """The scenario that runs, and the faults in force with the time until the last of them ends."""
        if (run := running(view)) is not None:
            step = min(len(run.steps), steps_done(run) + 1)
            name = f"{fit(run.title, min(28, cell_len(clean(run.title)))).rstrip()} " if width >= 110 else ""
            out.put(f" {RUN_SIGNS[run.state]} {name}{step}/{len(run.steps)} ", ink.accent_pill).space()
        if view.drills:
            number, ends = len(view.drills), last_left(view.drills, now)
            if width >= 96:
                text = f"{DRILL_SIGN} {number_of(number)} active {ends}"
            else:
                text = (
                    f"{DRILL_SIGN} {number_of(number)} {ends}"
                    if width >= 64
                    else f"{DRILL_SIGN}{number} {ends}"
                )
            out.put(f" {text} ", ink.warning_pill).space()

    @staticmethod
    def _rates(out: LineWriter, snapshot: Snapshot, room: int, ink: Ink) -> None:
        traffic = snapshot.traffic
        rate = traffic.success_rate
        good = rate is None or rate >= 0.995
        parts: list[tuple[str, str, Style]] = [
            (f"{traffic.requests_per_s:.1f}", " req/s", ink.text),
            (share(rate), " ok", ink.ok if good else ink.warning),
            (latency(snapshot.latency.p95), " p95", ink.text),
            (str(traffic.in_flight), " in flight", ink.text),
        ]
        if waiting := len(snapshot.queue.requests):
            parts.insert(2, (count(waiting), " queued", ink.warning))
        for value, word, tone in parts:
            need = len(value) + len(word) + 3
            if need > room:
                break
            out.put(value, tone).put(word, ink.muted).space(3)
            room -= need

    def _state(self, ink: Ink) -> tuple[str, str, Style]:
        tick = self._tick
        if tick is None or tick.state is SourceState.STARTING:
            return "◌", "starting", ink.muted
        if tick.state is not SourceState.RUNNING:
            return "✕", tick.state.value, ink.error
        if tick.paused:
            return "‖", "paused", ink.accent
        if tick.stale:
            return "!", "stale", ink.error
        return "●", "live", ink.ok

    def _chain(self, width: int, ink: Ink) -> Line:
        snapshot = self._tick.snapshot if self._tick else None
        out = LineWriter()
        if snapshot is None or not snapshot.chains:
            text = "Starting the core…" if self._tick is None or not self._tick.failure else ""
            return out.put(fit(text, width), ink.muted).line()
        chain = snapshot.chains[0]
        pools = {pool.name: pool for pool in snapshot.pools}
        steps = [pools[name] for name in chain.pools if name in pools]
        live = live_step(chain.pools, pools, snapshot.at)
        if width >= 96:
            out.put(f"{clean(chain.name)}  ", ink.muted)
        long = width >= 64
        for index, pool in enumerate(steps):
            if index:
                out.put(" ─▶ " if long else " ▸ ", ink.muted)
            room = width - out.length
            able = len(usable(pool, snapshot.at))
            self._step(out, pool, pool.name == live, able, ink, room, long=long)
            if out.length >= width:
                break
        if live is None:
            out.put("  nothing can answer", ink.error)
        elif len(snapshot.chains) > 1 and width - out.length > 20:
            out.put(f"   +{len(snapshot.chains) - 1} more chains"[: width - out.length], ink.muted)
        return out.line()

    def on_click(self, event: events.Click) -> None:
        """Open the view of what is under the mouse."""
        inside = event.get_content_offset(self)
        if inside is not None and inside.y == 0 and inside.x in self._store_at:
            self.post_message(self.StoreChosen())

    @staticmethod
    def _step(
        out: LineWriter, pool: PoolView, live: bool, able: int, ink: Ink, room: int, *, long: bool
    ) -> None:
        total = len(pool.accounts)
        circuit_open = pool.provider_circuit.state.value in SHUT
        sign = "✕" if circuit_open or pool.unavailable else "●" if able == total else "◐" if able else "○"
        tone = ink.error if sign in "✕○" else ink.warning if sign == "◐" else ink.ok
        name = fit(pool.name, min(len(clean(pool.name)) * 2, 18)).rstrip()
        counts = f" {able}/{total}" if long or room > 30 else ""
        if live:
            pill = {id(ink.ok): ink.ok_pill, id(ink.warning): ink.warning_pill}.get(id(tone), ink.error_pill)
            out.put(fit(f" {sign} {name}{counts} ", min(room, 40)).rstrip() + " ", pill)
        else:
            out.put(sign, tone).put(f" {name}", ink.text if able else ink.muted).put(counts, ink.muted)


def _store_text(snapshot: Snapshot, room: int, clock: int) -> tuple[str, int]:
    """How the store is, in the longest form that ``room`` cells beside the rest have; and the clock's cells.

    A store in order leaves room for the rates, one in trouble takes it.
    """
    told = standing(snapshot.store, snapshot.at)
    if snapshot.store.degraded_since is not None:
        forms = [(f" {told.text} ", 0, clock), (f" {told.text} ", 0, 0), (f" {told.short} ", 0, 0)]
    else:
        number = len(snapshot.store.instances)
        long = f"{told.text} · {number} instances" if number > 1 else told.text
        forms = [(long, 72, clock), (told.text, 23, clock), (told.short, 12, clock)]
        forms += [(told.short, 12, 0), (told.short, 0, 0)]
    for text, beside, kept in forms:
        if len(text) + 2 + beside + kept <= room:
            return text, kept
    return "", clock


def _store_tone(snapshot: Snapshot, ink: Ink) -> Style:
    if snapshot.store.degraded_since is None:
        return ink.muted
    return ink.warning_pill if snapshot.store.slow else ink.error_pill
