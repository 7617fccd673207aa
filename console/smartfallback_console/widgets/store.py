"""The store view's panels: how the store is, and below it the instances that share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from smartfallback import StoreKind
from smartfallback_console.changes import Severity
from smartfallback_console.formatting import age, cell_len, clean, count, duration, fit, lag, wrapped
from smartfallback_console.store_words import (
    ALONE,
    MODES,
    NOBODY,
    PLACES,
    instance_state,
    meaning,
    shown_place,
    silent_s,
    standing,
    trouble_word,
)
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events

    from smartfallback import InstanceView, Snapshot, StoreView
    from smartfallback_console.ink import Ink

NAMES = 10
"""Cells of the left column."""
ROOMY = 12
"""Cells from which on the last column stands a little apart."""
BESIDE_FROM = 34
"""Cells from which names stand beside what they name."""


def tone_of(severity: Severity, ink: Ink) -> Style:
    """The colour of a severity; what it is of says it in words too."""
    return {
        Severity.INFO: ink.muted,
        Severity.GOOD: ink.ok,
        Severity.WARNING: ink.warning,
        Severity.ERROR: ink.error,
    }[severity]


class StorePanel(LineView, can_focus=False):
    """Where state is kept, and how well."""

    DEFAULT_CSS = """
    StorePanel { overflow: hidden; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Store"
        self._snapshot: Snapshot | None = None
        self._lines: list[Line] = []

    def show(self, snapshot: Snapshot | None) -> None:
        """Draw how a snapshot's store is."""
        self._snapshot = snapshot
        self.redraw()

    def redraw(self) -> None:
        """Compose all lines at once, since their number depends on the width."""
        if self.is_mounted and self.text_width > 0:
            self._lines = store_lines(self._snapshot, self.text_width, self.ink)
        super().redraw()

    def line_count(self) -> int:
        """Exactly what is visible."""
        return max(1, self.scrollable_content_region.height)

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:  # noqa: ARG002 - composed already
        """One line."""
        return self._lines[index] if index < len(self._lines) else ()


def store_lines(snapshot: Snapshot | None, width: int, ink: Ink) -> list[Line]:
    """All that is known of the store in lines of ``width`` cells, the most needed first."""
    if snapshot is None:
        return [LineWriter().put(fit("waiting…", width), ink.muted).line()]
    view, now = snapshot.store, snapshot.at
    lines: list[Line] = []

    def put(name: str, text: str, tone: Style) -> None:
        room = width - NAMES if width >= BESIDE_FROM else width
        for number, piece in enumerate(wrapped(text, room)):
            out = LineWriter()
            if width >= BESIDE_FROM:
                out.put(fit("" if number else name, NAMES), ink.muted)
            lines.append(out.put(piece, tone).line())

    severity = standing(view, now).severity
    if view.degraded_since is None:
        known = "" if view.lag_s is None else f", answers in {lag(view.lag_s)}"
        put("state", f"● in order{known}", ink.ok)
    else:
        sign = "▽" if view.slow else "✕"
        cause = f": {view.trouble}" if view.trouble else ""
        since = duration(now - view.degraded_since)
        put("state", f"{sign} {trouble_word(view)} for {since}{cause}", tone_of(severity, ink))
        put("", meaning(view), ink.text)
    if view.degraded_since is not None and view.lag_s is not None:
        put("lag", f"{lag(view.lag_s)} at the last exchange", ink.text)
    if view.unsent:
        wait = "change waits" if view.unsent == 1 else "changes wait"
        tone = ink.warning if view.degraded_since is not None else ink.text
        put("unsent", f"{count(view.unsent)} {wait} to be sent", tone)
    put("kept", f"{view.kind.value}: {PLACES[view.kind]}", ink.text)
    if view.place:
        put("place", shown_place(view), ink.text)
    if view.mode is not None:
        put("mode", f"{view.mode.value}: {MODES[view.mode]}", ink.text)
    return lines


@dataclass(frozen=True, slots=True)
class Columns:
    """The width of each column in cells; 0 leaves a column out."""

    name: int
    version: int
    up: int
    heard: int
    in_flight: int
    rate: int
    state: int

    @classmethod
    def for_width(cls, width: int, longest_name: int) -> Columns:
        """The columns that ``width`` cells have room for; the most needed first."""
        version = 10 if width >= 84 else 0
        up = 8 if width >= 66 else 0
        heard = 9 if width >= 48 else 0
        in_flight = 11 if width >= 84 else 9 if width >= 74 else 5 if width >= 28 else 0
        rate = 8 if width >= 84 else 6 if width >= 36 else 0
        taken = 2 + sum(cells + 1 for cells in (version, up, heard, in_flight, rate) if cells)
        rest = max(0, width - taken)
        state = min(25, rest * 45 // 100) if rest >= 26 else 8 if rest >= 16 and width >= 22 else 0
        name = rest - state - (1 if state else 0)
        if width >= 100:
            name = min(name, max(16, longest_name + 1))
            state = rest - name - 1
        return cls(name, version, up, heard, in_flight, rate, state)


class InstanceTable(LineView):
    """Every instance that shares the store, with a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move(-10)", "Page up", show=False),
        Binding("pagedown", "move(10)", "Page down", show=False),
        Binding("home,g", "move(-100000)", "First", show=False),
        Binding("end,G", "move(100000)", "Last", show=False),
        Binding("enter", "open_row", "Details"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    """The instance under the cursor, from 0."""

    class Opened(Message):
        """The operator wants to know all about an instance."""

        def __init__(self, instance: InstanceView) -> None:
            super().__init__()
            self.instance = instance

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Instances"
        self._snapshot: Snapshot | None = None
        self._columns: Columns | None = None
        self._said: list[str] = []

    @property
    def instances(self) -> tuple[InstanceView, ...]:
        """Those that are shown."""
        return self._snapshot.store.instances if self._snapshot is not None else ()

    def show(self, snapshot: Snapshot | None) -> None:
        """Draw a snapshot's instances; the cursor stays on its own."""
        chosen = self.instances[self.cursor].id if self.cursor < len(self.instances) else ""
        self._snapshot = snapshot
        number = len(self.instances)
        self.border_title = f"Instances · {number}" if number else "Instances"
        same = (place for place, instance in enumerate(self.instances) if instance.id == chosen)
        self.cursor = next(same, max(0, min(self.cursor, number - 1)))
        self.redraw()

    def redraw(self) -> None:
        """Share the width out among the columns first."""
        if self.is_mounted and self.text_width > 0:
            longest = max((cell_len(clean(instance.name)) for instance in self.instances), default=0)
            self._columns = Columns.for_width(self.text_width, longest)
            self._said = [] if self.instances else wrapped(self._nothing(), self.text_width)
        super().redraw()

    def _nothing(self) -> str:
        if self._snapshot is None:
            return "waiting…"
        return NOBODY if self._snapshot.store.kind is StoreKind.REDIS else ALONE

    def line_count(self) -> int:
        """Names of the columns, and a line an instance."""
        return 1 + len(self.instances) if self.instances else max(1, len(self._said))

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """The names of the columns, or an instance."""
        snapshot, columns = self._snapshot, self._columns
        if snapshot is None or columns is None or not self.instances:
            text = self._said[index] if index < len(self._said) else ""
            return LineWriter().put(fit(text, width), ink.muted).line()
        if index == 0:
            return heading(columns, ink)
        if index > len(self.instances):
            return ()
        return instance_line(self.instances[index - 1], snapshot.store, columns, snapshot.at, ink)

    def line_background(self, index: int, ink: Ink) -> Style | None:
        """The cursor's line."""
        return ink.selected if self.instances and index == self.cursor + 1 else None

    def watch_cursor(self, old: int, new: int) -> None:
        """Repaint both lines and keep the cursor in sight."""
        self.repaint_line(old + 1)
        self.repaint_line(new + 1)
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        if height > 0 and new + 1 <= top:
            self.scroll_to(y=new, animate=False)
        elif height > 0 and new + 1 >= top + height:
            self.scroll_to(y=new + 2 - height, animate=False)

    def action_move(self, step: int) -> None:
        """Move the cursor by so many instances."""
        if self.instances:
            self.cursor = max(0, min(len(self.instances) - 1, self.cursor + step))

    def action_open_row(self) -> None:
        """Ask for all about the instance under the cursor."""
        if self.cursor < len(self.instances):
            self.post_message(self.Opened(self.instances[self.cursor]))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor; a second click opens."""
        inside = event.get_content_offset(self)
        row = -1 if inside is None else inside.y + self.scroll_offset.y - 1
        if 0 <= row < len(self.instances):
            self.cursor = row
            if event.chain >= 2:
                self.action_open_row()


def heading(columns: Columns, ink: Ink) -> Line:
    """The names of the columns."""
    out = LineWriter().space(2)

    def put(text: str, width: int, *, right: bool = True) -> None:
        if width:
            out.put(fit(text, width, "right" if right else "left"), ink.muted).space()

    put("instance", columns.name, right=False)
    put("version", columns.version, right=False)
    put("up", columns.up)
    put("heard", columns.heard)
    put("in flight" if columns.in_flight >= 9 else "busy", columns.in_flight)
    put("req/s", columns.rate)
    put(" state" if columns.state > ROOMY else "state", columns.state, right=False)
    return out.line()


def instance_line(view: InstanceView, store: StoreView, columns: Columns, now: float, ink: Ink) -> Line:
    """Name, version, since when it runs, when it was heard of, its load, and how it is."""
    text, severity = instance_state(view, store, now)
    silent = silent_s(view, store, now) is not None
    tone = tone_of(severity, ink)
    sign = "◆" if view.here else "◌" if silent else "●" if severity is Severity.GOOD else "?"
    out = LineWriter().put(sign, tone).space()
    out.put(fit(view.name, columns.name), ink.muted if silent else ink.strong).space()
    if columns.version:
        out.put(fit(view.version, columns.version), ink.muted).space()
    if columns.up:
        out.put(fit(duration(now - view.started_at), columns.up, "right"), ink.text).space()
    if columns.heard:
        out.put(fit(f"{age(now - view.seen_at)} ago", columns.heard, "right"), ink.muted).space()
    if columns.in_flight:
        busy = ink.primary if view.in_flight and not silent else ink.muted
        out.put(fit(count(view.in_flight), columns.in_flight, "right"), busy).space()
    if columns.rate:
        rate = "—" if silent else f"{view.requests_per_s:.1f}" if view.requests_per_s < 1_000 else "lots"
        out.put(fit(rate, columns.rate, "right"), ink.text).space()
    if columns.state:
        out.put(fit(f" {text}" if columns.state > ROOMY else text, columns.state), tone)
    return out.line()
