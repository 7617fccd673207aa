"""Fairness, latency and traffic as small charts of block characters."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from smartfallback_console.fairness import EVEN, gini, headline
from smartfallback_console.formatting import cell_len, clean, columns, count, fit, latency, share, sparkline
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from smartfallback import FairnessView, LatencyView, Snapshot
    from smartfallback_console.ink import Ink


class Metric(LineView, can_focus=False):
    """Base of the small panels: draws one snapshot, nothing to scroll."""

    DEFAULT_CSS = """
    Metric { overflow: hidden; }
    """
    TITLE = ""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = self.TITLE
        self.snapshot: Snapshot | None = None

    def show(self, snapshot: Snapshot | None) -> None:
        """Draw a snapshot."""
        self.snapshot = snapshot
        self.redraw()

    @property
    def rows(self) -> int:
        """Lines there are to fill."""
        return max(1, self.scrollable_content_region.height)

    def line_count(self) -> int:
        """Exactly what is visible."""
        return self.rows

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """The empty state, or the panel's line."""
        if self.snapshot is None:
            return LineWriter().put(fit("waiting…" if index == 0 else "", width), ink.muted).line()
        return self.draw(self.snapshot, index, width, ink)

    def draw(self, snapshot: Snapshot, index: int, width: int, ink: Ink) -> Line:
        """Line ``index`` of a snapshot."""
        raise NotImplementedError


class FairnessPanel(Metric):
    """How evenly each pool's accounts are used: Gini, now and over time."""

    TITLE = "Fairness · Gini of use"

    def draw(self, snapshot: Snapshot, index: int, width: int, ink: Ink) -> Line:
        """Two lines a pool where there is room, else one."""
        out = LineWriter()
        series = dict(snapshot.fairness_series)
        pools = [pool for pool in snapshot.pools if headline(pool.fairness) is not None]
        if not pools:
            return out.put(fit("needs two accounts in a pool" if index == 0 else "", width), ink.muted).line()
        each = 2 if self.rows >= 2 * len(pools) else 1
        number, part = divmod(index, each)
        if number >= len(pools):
            if index == self.rows - 1 and self.rows > each * len(pools):
                out.put(fit("0 is even, 1 is all on one", width), ink.muted)
            return out.line()
        pool = pools[number]
        now = headline(pool.fairness) or 0.0
        alarm = pool.fairness.alarm
        tone = ink.warning if alarm else ink.ok if now <= EVEN else ink.primary
        if part == 1:
            return out.put(fit(_last_hour(pool.fairness, width), width), ink.muted).line()
        word = " uneven" if alarm else " even" if now <= EVEN else ""
        longest = max(cell_len(clean(view.name)) for view in pools)
        out.put(fit(pool.name, max(4, min(12, longest, width - 5))), ink.text).put(f" {gini(now)}", tone)
        out.put(fit(word, min(8, width - out.length)), tone)
        rest = width - out.length
        if rest >= 3:
            values = series.get(pool.name, ())
            out.put(sparkline(values, rest, top=max(0.2, *values) if values else 1.0), tone)
        return out.line()


def _last_hour(view: FairnessView, width: int) -> str:
    requests, tokens = gini(view.requests), gini(view.tokens)
    for text in (
        f"  last hour: requests {requests}, tokens {tokens}",
        f"  last hour: req {requests} tok {tokens}",
    ):
        if len(text) <= width:
            return text
    return f"  1h: req {requests} tok {tokens}"


class LatencyPanel(Metric):
    """Histograms of the whole answer and of the first token, with percentiles."""

    TITLE = "Latency"

    def draw(self, snapshot: Snapshot, index: int, width: int, ink: Ink) -> Line:
        """Two charts, each beside its percentiles, over one axis."""
        rows = self.rows
        total, first_token = _window(snapshot.latency, snapshot.first_token)
        first_height = max(1, (rows - 1) // 2)
        total_height = max(1, rows - 1 - first_height)
        if rows < 3:
            view, label = (total, "total") if index == 0 else (first_token, "first")
            return _chart_line(view, label, 0, 1, width, ink)
        if index < total_height:
            return _chart_line(total, "total", index, total_height, width, ink)
        if index < total_height + first_height:
            return _chart_line(first_token, "first token", index - total_height, first_height, width, ink)
        return _axis(total, width, ink)


LEGEND = 13
"""Cells beside a histogram for its name and percentiles."""


def _window(*views: LatencyView) -> tuple[LatencyView, ...]:
    """The views cut to the bins that hold samples in any of them, one empty bin on each side."""
    bins = min(len(view.counts) for view in views)
    filled = [index for index in range(bins) if any(view.counts[index] for view in views)]
    if not filled:
        return views
    first = max(0, min(filled) - 1)
    last = min(bins - 1, max(max(filled) + 1, first + 9))
    return tuple(
        replace(view, bounds=view.bounds[first : last + 1], counts=view.counts[first : last + 1])
        for view in views
    )


def _chart_line(view: LatencyView, label: str, line: int, height: int, width: int, ink: Ink) -> Line:
    out = LineWriter()
    legend = [f"p50 {latency(view.p50)}", f"p95 {latency(view.p95)}", f"p99 {latency(view.p99)}"]
    if height == 1:
        texts = [f"{label[:5]} {latency(view.p95)}"]
    elif height == 2:
        texts = [label, legend[1]]
    elif height == 3:
        texts = [label, legend[0], legend[1]]
    else:
        texts = [label, *legend]
    text = texts[line] if line < len(texts) else ""
    tone = ink.strong if line == 0 else ink.text
    out.put(fit(text, LEGEND), tone).space()
    room = width - out.length
    if room < 4:
        return out.line()
    values = _spread(view.counts, room)
    chart = columns(values, height, max(values, default=0.0))
    tone = ink.primary if label.startswith("total") else ink.accent
    base = line == height - 1
    for block in chart[line]:
        out.put("▁", ink.faint) if block == " " and base else out.put(block, tone)
    return out.line()


def _spread(counts: tuple[int, ...], width: int) -> tuple[float, ...]:
    """Counts as ``width`` columns: a bin fills several cells, or the highest of several bins one."""
    bins = len(counts)
    if not bins:
        return ()
    if width >= bins:
        return tuple(float(counts[column * bins // width]) for column in range(width))
    edges = [column * bins // width for column in range(width + 1)]
    return tuple(float(max(counts[a : max(b, a + 1)])) for a, b in pairwise(edges))


def _axis(view: LatencyView, width: int, ink: Ink) -> Line:
    """The upper bounds under the columns that they end, as many as fit."""
    out = LineWriter().space(LEGEND + 1)
    bins = len(view.counts)
    room = width - out.length
    if bins == 0 or room < 8:
        return out.line()
    marks = [" "] * room
    free_from = 0
    for index, bound in enumerate(view.bounds):
        text = _bound(bound)
        start = max(0, (index + 1) * room // bins - len(text))
        if start >= free_from + (2 if free_from else 0) and start + len(text) <= room:
            marks[start : start + len(text)] = text
            free_from = start + len(text)
    return out.put("".join(marks), ink.muted).line()


def _bound(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"


class TrafficPanel(Metric):
    """Requests a second over the last minute, and how many were answered."""

    TITLE = "Traffic · last minute"

    def draw(self, snapshot: Snapshot, index: int, width: int, ink: Ink) -> Line:
        """Figures first, then the chart."""
        traffic = snapshot.traffic
        out = LineWriter()
        if index == 0:
            out.put(f"{traffic.requests_per_s:.1f}", ink.strong).put(" req/s  ", ink.muted)
            out.put(count(traffic.tokens_per_s), ink.strong).put(" tok/s", ink.muted)
            if width - out.length >= 14:
                out.space(2).put(count(traffic.total_requests), ink.strong).put(" total", ink.muted)
            return out.line()
        if index == 1 and self.rows >= 3:
            rate = traffic.success_rate
            good = rate is None or rate >= 0.995
            out.put(share(rate), ink.ok if good else ink.warning).put(" ok  ", ink.muted)
            out.put(share(traffic.fallback_rate), ink.text).put(" fell back", ink.muted)
            if width - out.length >= 12:
                failed = traffic.total_failed
                out.space(2).put(count(failed), ink.error if failed else ink.text).put(" failed", ink.muted)
            return out.line()
        head = 2 if self.rows >= 3 else 1
        height = self.rows - head
        good_values = traffic.requests_series[-width:]
        failed_values = traffic.failed_series[-width:]
        stretch = max(1, width // max(1, len(good_values)))
        top = max((*good_values, *failed_values, 1.0))
        line = index - head
        chart = columns(good_values, height, top)[line]
        bad = columns(failed_values, height, top)[line] if failed_values else ""
        out.space(width - stretch * len(good_values))
        for at, block in enumerate(chart):
            failed_block = bad[at] if at < len(bad) else " "
            if failed_block != " ":
                out.put(failed_block * stretch, ink.error)
            else:
                out.put(block * stretch, ink.primary)
        return out.line()
