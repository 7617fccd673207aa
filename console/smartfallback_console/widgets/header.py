"""The top of the dashboard: what runs, how it goes, and which step of the chain answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from smartfallback_console.usable import SHUT, live_step, usable
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from rich.style import Style

    from smartfallback import PoolView, SimulationView, Snapshot
    from smartfallback_console.feed import Tick
    from smartfallback_console.ink import Ink


class Header(LineView, can_focus=False):
    """Brand and state, the chain with its live step, and a banner when something is wrong."""

    DEFAULT_CSS = """
    Header {
        height: 2; border: none; padding: 0 1; background: $panel; overflow: hidden;
        &.-banner { height: 3; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
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
            if degraded:
                first, more = degraded[0], len(degraded) - 1
                others = f"  (and {more} more chain{'s' if more > 1 else ''})" if more else ""
                return "warning", f"▽ {clean(first.name)} is degraded: {clean(first.degraded)}{others}"
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
        if snapshot is not None:
            self._rates(right, snapshot, width - out.length - 22, ink)
            if width >= 40:
                right.put(clock_time(snapshot.at), ink.text).space(2)
        right.put(f"{sign} {word}", tone)
        return (*out.space(max(0, width - out.length - right.length)).line(), *right.line())

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
