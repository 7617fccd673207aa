"""The recovery view's panels: figures, and below them the queue and the latest recoveries."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from smartfallback import QueuedView, RecoveryAction, RecoveryRecord
from smartfallback_console.formatting import (
    age,
    cell_len,
    clean,
    clock_time,
    count,
    countdown,
    duration,
    fit,
    latency,
    share,
)
from smartfallback_console.usable import SHUT, shut
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events

    from smartfallback import CircuitView, RecoveryStatistics, RecoveryView, Snapshot
    from smartfallback_console.ink import Ink

DONE = {
    RecoveryAction.RETRY: "retried",
    RecoveryAction.SWITCH_PROVIDER: "switched",
    RecoveryAction.DEGRADE_SERVICE: "degraded",
    RecoveryAction.QUEUE_REQUEST: "queued",
    RecoveryAction.USE_CACHE: "cached",
    RecoveryAction.SCALE_DOWN: "scaled down",
    RecoveryAction.CIRCUIT_BREAK: "circuit opened",
}
"""What was done, in a word."""
TARGET = 0.95
"""The share of errors from which the system means to recover by itself."""
ROOMY_FROM = 90
"""Cells from which a line of the log writes everything out."""
SIDE_BY_SIDE_FROM = 92
"""Cells from which causes and actions stand beside each other."""
NOTHING_YET = (
    "Nothing had to be recovered yet.",
    "When an attempt fails, this tells how often a request was",
    "answered all the same, how long that took, and what was done.",
)
NOTHING_LATELY = "Nothing yet. Later: who failed, who answered, why, and what was done."
NOBODY_WAITS = "Nobody waits. After /queue 30m a prompt waits here for capacity."

Row = QueuedView | RecoveryRecord | str | None
"""A request that waits, a recovery, a line of words (a heading when it ends in a colon), or a gap."""


def words(value: str) -> str:
    """A category as it is read."""
    return value.replace("_", " ")


class RecoveryFigures(LineView, can_focus=False):
    """How often requests that met an error were answered all the same, by cause and by action."""

    DEFAULT_CSS = """
    RecoveryFigures { overflow: hidden; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Recovery"
        self._snapshot: Snapshot | None = None
        self._lines: list[Line] = []

    def show(self, snapshot: Snapshot | None) -> None:
        """Draw a snapshot's figures."""
        self._snapshot = snapshot
        self.redraw()

    def redraw(self) -> None:
        """Compose all lines at once, since they share their columns."""
        if self.is_mounted and self.text_width > 0:
            room = self.scrollable_content_region.height
            self._lines = figures(self._snapshot, self.text_width, self.ink, room)
        super().redraw()

    def line_count(self) -> int:
        """Exactly what is visible."""
        return max(1, self.scrollable_content_region.height)

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:  # noqa: ARG002 - composed already
        """One line."""
        return self._lines[index] if index < len(self._lines) else ()


def figures(snapshot: Snapshot | None, width: int, ink: Ink, room: int = 1_000) -> list[Line]:
    """All figures in lines of ``width`` cells; in short where there is no room for all lines."""
    if snapshot is None:
        return [LineWriter().put(fit("waiting…", width), ink.muted).line()]
    lines = [_summary(snapshot, width, ink), open_now(snapshot, width, ink)]
    recovery = snapshot.recovery
    if not recovery.overall.recoveries:
        return [*lines, (), *(LineWriter().put(fit(text, width), ink.muted).line() for text in NOTHING_YET)]
    lines.append(())
    if width < SIDE_BY_SIDE_FROM:
        whole = [*lines, *_causes(recovery, width, ink), (), *_actions(recovery, width, ink)]
        if len(whole) <= room:
            return whole
        short = _actions_in_short(recovery, width, ink)
        return _cut([*lines[:2], short, *_causes(recovery, width, ink)], room, ink)
    left = width * 58 // 100
    right = width - left - 3
    for one, other in zip_longest(_causes(recovery, left, ink), _actions(recovery, right, ink), fillvalue=()):
        used = sum(cell_len(piece.text) for piece in one)
        lines.append((*one, *LineWriter().space(left + 3 - used).line(), *other))
    return _cut(lines, room, ink)


def _cut(lines: list[Line], room: int, ink: Ink) -> list[Line]:
    """What there is room for, and how much there is besides."""
    if len(lines) <= room or room < 2:
        return lines
    more = len(lines) - room + 1
    return [*lines[: room - 1], LineWriter().put(f"… {more} more", ink.muted).line()]


def open_now(snapshot: Snapshot, width: int, ink: Ink) -> Line:
    """The circuits that turn requests away at this moment, until when, and who runs fewer at once."""
    told: dict[str, tuple[str, Style]] = {}
    for pool in snapshot.pools:
        if shut(pool, snapshot.at):
            told[f"{clean(pool.provider_id)} API"] = _left(pool.provider_circuit, snapshot.at), ink.error
    for pool in snapshot.pools:
        for account in pool.accounts:
            for circuit in (account.circuit, *account.model_circuits):
                if circuit.state.value in SHUT:
                    told[clean(circuit.target.name)] = _left(circuit, snapshot.at), ink.error
    for pool in snapshot.pools:
        for account in pool.accounts:
            if account.max_concurrency < account.configured_concurrency:
                lowered = f" {account.max_concurrency}↓{account.configured_concurrency}"
                told.setdefault(clean(account.id), (lowered, ink.warning))
    out = LineWriter()
    if not told:
        return out.put(fit("No circuit is open.", width), ink.muted).line()
    before: Style | None = None
    for place, (name, (left, tone)) in enumerate(told.items()):
        kind = "open now" if tone is ink.error else "scaled down"
        joint = " · " if tone is before else ("   " if place else "") + kind + "  "
        more = f"  +{len(told) - place}"
        if out.length + len(joint) + cell_len(name) + len(left) + len(more) > width:
            return out.put(more if place else fit(f"{len(told)} open or slowed", width), ink.muted).line()
        out.put(joint, ink.muted).put(name, tone).put(left, ink.muted)
        before = tone
    return out.line()


def _left(circuit: CircuitView, now: float) -> str:
    return "" if circuit.until is None else f" {countdown(max(0.0, circuit.until - now))}"


def _summary(snapshot: Snapshot, width: int, ink: Ink) -> Line:
    overall, queue = snapshot.recovery.overall, snapshot.queue
    rate = overall.success_rate
    good = rate is None or rate >= TARGET
    left = snapshot.retry_budget_left
    out = LineWriter()
    parts: list[tuple[str, str, Style]] = []
    if overall.recoveries:
        parts = [
            (share(rate), f" of {count(overall.recoveries)} recovered", ink.ok if good else ink.warning),
            (latency(overall.mean_s), " mean", ink.strong),
        ]
    parts += [
        ("—" if left is None else count(left), " retries left", ink.warning if left == 0 else ink.strong),
        (f"{len(queue.requests)}/{queue.limit}", " queued", ink.warning if queue.requests else ink.text),
        (share(TARGET), " is the target", ink.muted),
    ]
    for value, word, tone in parts:
        need = cell_len(value) + len(word) + (3 if out.length else 0)
        if out.length + need > width:
            if not out.length:
                out.put(value, tone).put(fit(word, max(0, width - cell_len(value))), ink.muted)
            break
        out.space(3 if out.length else 0).put(value, tone).put(word, ink.muted)
    return out.line()


def _causes(recovery: RecoveryView, width: int, ink: Ink) -> list[Line]:
    name = 18
    rest = width - name - 26
    bar = rest if rest >= 8 else 0
    head = LineWriter().put(fit("cause", name), ink.muted).space().put(fit("errors", 7, "right"), ink.muted)
    head.space().put(fit("recovered", 9, "right"), ink.muted).space().put(fit("mean", 7, "right"), ink.muted)
    lines = [head.line()]
    ordered = sorted(recovery.by_category, key=lambda item: (-_lost(item[1]), -item[1].recoveries))
    for category, figure in ordered:
        lines.append(_cause(words(category.value), figure, name, bar, ink))
    return lines


def _lost(figure: RecoveryStatistics) -> int:
    """Requests that were not answered: what an operator looks for first."""
    return figure.recoveries - figure.succeeded


def _cause(cause: str, figure: RecoveryStatistics, name: int, bar: int, ink: Ink) -> Line:
    rate = figure.success_rate
    tone = ink.ok if rate is None or rate >= TARGET else ink.warning if rate >= 0.5 else ink.error
    out = LineWriter().put(fit(cause, name), ink.text).space()
    out.put(fit(count(figure.recoveries), 7, "right"), ink.text).space()
    out.put(fit(share(rate), 9, "right"), tone).space()
    out.put(fit(latency(figure.mean_s), 7, "right"), ink.text)
    if bar:
        full = round((rate or 0.0) * (bar - 2))
        out.space(2).put("━" * full, tone).put("─" * (bar - 2 - full), ink.faint)
    return out.line()


def _actions_in_short(recovery: RecoveryView, width: int, ink: Ink) -> Line:
    ordered = sorted(recovery.by_action, key=lambda item: -item[1])
    out = LineWriter()
    for action, times in ordered:
        told = (" · " if out.length else "") + f"{DONE[action]} {count(times)}"
        if out.length + len(told) > width:
            break
        out.put(told, ink.text)
    return out.line()


def _actions(recovery: RecoveryView, width: int, ink: Ink) -> list[Line]:
    name = 14
    bar = max(0, width - name - 8)
    head = LineWriter().put(fit("what was done", name), ink.muted).space()
    lines = [head.put(fit("times", 6, "right"), ink.muted).line()]
    ordered = sorted(recovery.by_action, key=lambda item: -item[1])
    most = max((times for _, times in ordered), default=1) or 1
    for action, times in ordered:
        out = LineWriter().put(fit(DONE[action], name), ink.text).space()
        out.put(fit(count(times), 6, "right"), ink.text)
        if bar >= 6:
            out.space(2).put("━" * max(1, round(times / most * (bar - 2))), ink.primary)
        lines.append(out.line())
    return lines


class RecoveryLog(LineView):
    """Requests that wait in the queue, then the latest recoveries, with a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move(-10)", "Page up", show=False),
        Binding("pagedown", "move(10)", "Page down", show=False),
        Binding("home,g", "move(-100000)", "First", show=False),
        Binding("end,G", "move(100000)", "Last", show=False),
        Binding("enter", "open_row", "Its whole story"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    """The line of the cursor."""

    class Opened(Message):
        """The operator wants the whole story of a request."""

        def __init__(self, request_id: str, ended_at: float | None) -> None:
            super().__init__()
            self.request_id = request_id
            self.ended_at = ended_at

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Queue and latest recoveries"
        self._snapshot: Snapshot | None = None
        self._rows: list[Row] = []

    def show(self, snapshot: Snapshot | None) -> None:
        """Draw a snapshot; the cursor stays on its request."""
        chosen = self._rows[self.cursor] if self.cursor < len(self._rows) else None
        self._snapshot = snapshot
        self._rows = rows(snapshot)
        places = [index for index, row in enumerate(self._rows) if isinstance(row, tuple)]
        same = (index for index in places if _same(self._rows[index], chosen))
        kept = next(same, None) if chosen else None
        nearest = min(places, key=lambda index: abs(index - self.cursor), default=0)
        self.cursor = nearest if kept is None else kept
        self.redraw()

    @property
    def chosen(self) -> str:
        """The request under the cursor, empty for none."""
        return _id(self._rows[self.cursor]) if self.cursor < len(self._rows) else ""

    @property
    def waiting(self) -> str:
        """The request under the cursor if it waits in the queue, else empty."""
        row = self._rows[self.cursor] if self.cursor < len(self._rows) else None
        return row.request_id if isinstance(row, QueuedView) else ""

    def line_count(self) -> int:
        """One line a row."""
        return max(1, len(self._rows))

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """A heading, a request that waits, or a recovery."""
        row = self._rows[index] if index < len(self._rows) else None
        now = self._snapshot.at if self._snapshot is not None else 0.0
        if isinstance(row, QueuedView):
            return queued_line(self._rows[:index], row, width, now, ink)
        if isinstance(row, RecoveryRecord):
            return record_line(row, width, ink)
        if row is None:
            return ()
        heading = row.endswith(":")
        return (
            LineWriter().put(fit(row.removesuffix(":"), width), ink.heading if heading else ink.muted).line()
        )

    def line_background(self, index: int, ink: Ink) -> Style | None:
        """The cursor's line."""
        chosen = index == self.cursor and index < len(self._rows) and isinstance(self._rows[index], tuple)
        return ink.selected if chosen else None

    def watch_cursor(self, old: int, new: int) -> None:
        """Repaint both lines and keep the cursor in sight."""
        self.repaint_line(old)
        self.repaint_line(new)
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        if height > 0 and new < top:
            self.scroll_to(y=max(0, new - 1), animate=False)
        elif height > 0 and new >= top + height:
            self.scroll_to(y=new - height + 1, animate=False)

    def action_move(self, step: int) -> None:
        """Move the cursor by so many requests."""
        places = [index for index, row in enumerate(self._rows) if isinstance(row, tuple)]
        if places:
            at = places.index(self.cursor) if self.cursor in places else 0
            self.cursor = places[max(0, min(len(places) - 1, at + step))]

    def action_open_row(self) -> None:
        """Ask for the whole story of the request under the cursor."""
        row = self._rows[self.cursor] if self.cursor < len(self._rows) else None
        if isinstance(row, QueuedView | RecoveryRecord):
            ended_at = row.at if isinstance(row, RecoveryRecord) else None
            self.post_message(self.Opened(row.request_id, ended_at))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor; a second click opens."""
        inside = event.get_content_offset(self)
        row = -1 if inside is None else inside.y + self.scroll_offset.y
        if 0 <= row < len(self._rows) and isinstance(self._rows[row], tuple):
            self.cursor = row
            if event.chain >= 2:
                self.action_open_row()


def _same(row: Row, other: Row | None) -> bool:
    """Whether both tell of one request, whose name another one may have had before the start."""
    if isinstance(row, RecoveryRecord) and isinstance(other, RecoveryRecord):
        return (row.request_id, row.at) == (other.request_id, other.at)
    return other is not None and bool(_id(row)) and _id(row) == _id(other)


def _id(row: Row) -> str:
    return row.request_id if isinstance(row, QueuedView | RecoveryRecord) else ""


def rows(snapshot: Snapshot | None) -> list[Row]:
    """What the log tells, line by line."""
    if snapshot is None:
        return ["waiting…"]
    queue, recent = snapshot.queue, snapshot.recovery.recent
    kept = ""
    if queue.uncollected:
        answers = "answer waits" if queue.uncollected == 1 else "answers wait"
        kept = f" · {queue.uncollected} {answers} to be collected"
    waiting = f"Queue · {len(queue.requests)} of {queue.limit} wait" if queue.requests else "Queue"
    told: list[Row] = [f"{waiting}{kept}:"]
    told += queue.requests or (NOBODY_WAITS,)
    told += (None, "Latest recoveries:")
    return [*told, *(recent or (NOTHING_LATELY,))]


def queued_line(before: list[Row], view: QueuedView, width: int, now: float, ink: Ink) -> Line:
    """Place, request, chain, priority, since when and until when."""
    place = sum(1 for row in before if isinstance(row, QueuedView)) + 1
    left = view.expires_at - now
    out = LineWriter().put(f"{place:>3}  ", ink.strong)
    tail = LineWriter()
    if width >= ROOMY_FROM:
        tail.put(f"since {clock_time(view.since)}", ink.muted).space(2)
    else:
        tail.put(f"waits {age(now - view.since)}", ink.muted).space(2)
    tail.put(fit(f"expires in {duration(left)}" if left > 0 else "expires", 18, "right"), ink.warning)
    room = max(0, width - out.length - tail.length - 2)
    told = [view.origin.value, clean(view.chain)]
    if view.priority or width >= ROOMY_FROM:
        told.append(f"priority {view.priority}")
    if view.restored:
        told.append("from before a restart" if width >= ROOMY_FROM else "restored")
    name = min(room, max(8, min(24, room - 30)))
    out.put(fit(view.request_id, name), ink.text).space(2)
    out.put(fit(" · ".join(told), max(0, room - name - 2)), ink.muted)
    out.to(width - tail.length)
    return (*out.line(), *tail.line())


def record_line(record: RecoveryRecord, width: int, ink: Ink) -> Line:
    """When, from whom to whom, why, what was done, attempts and time."""
    out, tail = LineWriter(), LineWriter()
    out.put(clock_time(record.at), ink.muted).space(2)
    if width >= ROOMY_FROM:
        tries = "1 try" if record.attempts == 1 else f"{count(record.attempts)} tries"
        tail.put(fit(tries, 9, "right"), ink.muted)
    else:
        tail.put(fit(f"{count(record.attempts)}x", 4, "right"), ink.muted)
    tail.put(fit(latency(record.total_s), 8, "right"), ink.text)
    room = width - out.length - tail.length
    cause = min(19, max(8, room * 36 // 100))
    path = max(min(21, room * 42 // 100), min(40, room * 28 // 100))
    start = out.length
    final = (record.final_account or "cache") if record.success else "nobody"
    names = path - 5
    original = record.original_account or "—"
    first = min(cell_len(clean(original)), max(names // 2, names - cell_len(clean(final))))
    out.put(fit(original, first), ink.muted).put(" → ", ink.muted)
    last = fit(final, min(cell_len(clean(final)), names - first))
    out.put(last, ink.strong if record.success else ink.muted)
    out.put(" ✓" if record.success else " ✗", ink.ok if record.success else ink.error)
    out.to(start + path).space()
    out.put(fit(words(record.category.value), cause), ink.text).space()
    done = ", ".join(DONE[action] for action in record.actions)
    out.put(fit(done, max(0, width - out.length - tail.length)), ink.muted)
    return (*out.line(), *tail.line())
