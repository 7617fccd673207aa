"""The live routing feed: one line a request, in the order in which they came.

Requests from before this start stand dimmed above a rule that says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from smartfallback_console.changes import NoteEntry, Severity
from smartfallback_console.course import Outcome, Role
from smartfallback_console.formatting import cell_len, clean, clock_time, count, fit, latency
from smartfallback_console.routing import Entry, RequestEntry, RoutingLog, StartEntry
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events

    from smartfallback_console.ink import Ink

ORIGINS = {"traffic": "traffic", "chat": "chat", "api": "api", "rehearsal": "sim"}
SEVERITY_SIGNS = {
    Severity.INFO: "·",
    Severity.GOOD: "✓",
    Severity.WARNING: "▲",
    Severity.ERROR: "✕",
}


BEFORE = "before this start"

RULES = {
    "best of the top by score": "best score",
    "least recently used, against starvation": "longest idle",
    "most quota left": "most quota",
    "stays until it can't serve": "stays",
    "holds this session": "its session",
    "least recently used": "longest idle",
    "pinned by the request": "pinned",
    "the same account once more": "retry",
    "ahead of its turn, since nobody else can serve": "nobody else left",
    "failed a moment ago, but nobody else can serve": "nobody else left",
}
"""Rules in short; the details have them in full."""


class RoutingFeed(LineView):
    """What became of each request; follows the end only while the reader is there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move(-10)", "Page up", show=False),
        Binding("pagedown", "move(10)", "Page down", show=False),
        Binding("home,g", "edge('first')", "Oldest", show=False),
        Binding("end,G", "edge('last')", "Newest, and follow", show=False),
        Binding("enter", "open_entry", "Show the decision", show=False),
    ]

    cursor: reactive[int] = reactive(-1, repaint=False)
    """The line of the cursor."""

    class Opened(Message):
        """The operator wants the full story of an entry."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    def __init__(self, log: RoutingLog, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Routing"
        self.pattern = ""
        self.following = True
        self._log = log
        self._shown: list[Entry] = []

    def show(self) -> None:
        """Draw the log as it stands now."""
        chosen = self._shown[self.cursor] if 0 <= self.cursor < len(self._shown) else None
        needle = self.pattern.casefold()
        self._shown = []
        for entry in self._log.entries:
            if self._shown if isinstance(entry, StartEntry) else not needle or entry.matches(needle):
                self._shown.append(entry)
        if self.following or chosen is None:
            self.cursor = len(self._shown) - 1
        elif self.cursor >= len(self._shown) or self._shown[self.cursor] is not chosen:
            try:
                self.cursor = self._shown.index(chosen)
            except ValueError:
                self.cursor = max(0, min(self.cursor, len(self._shown) - 1))
        self.redraw()
        if self.following:
            self._follow()
        self._say_where()

    def _follow(self) -> None:
        end = max(0, self.line_count() - self.scrollable_content_region.height)
        if self.scroll_offset.y != end:
            self.scroll_to(y=end, animate=False)

    def _say_where(self) -> None:
        title = "Routing" + (f"  /{clean(self.pattern)}" if self.pattern else "")
        title = fit(title, min(40, len(title))).replace("[", "\\[")
        if title != self.border_title:
            self.border_title = title
        behind = len(self._shown) - 1 - self.cursor
        parts = [] if self.following else [f"{behind} newer · end follows"]
        chosen = self._shown[self.cursor] if 0 <= self.cursor < len(self._shown) else None
        if isinstance(chosen, RequestEntry) and chosen.before_start:
            parts.insert(0, BEFORE)
        if self._log.dropped:
            parts.append(f"{count(self._log.dropped)} events dropped")
        subtitle = " · ".join(parts)
        if subtitle != self.border_subtitle:
            self.border_subtitle = subtitle

    def line_count(self) -> int:
        """One line an entry."""
        return max(2, len(self._shown))

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """One entry."""
        if not self._shown:
            text = "Nothing routed yet." if not self.pattern else f"Nothing matches /{self.pattern}"
            return LineWriter().put(fit(text if index else "", width, "center"), ink.muted).line()
        if index >= len(self._shown):
            return ()
        entry = self._shown[index]
        if isinstance(entry, NoteEntry):
            return note_line(entry, width, ink)
        if isinstance(entry, StartEntry):
            return start_line(entry, width, ink)
        line = request_line(entry, width, ink)
        return dimmed(line, ink) if entry.before_start else line

    def line_background(self, index: int, ink: Ink) -> Style | None:
        """The cursor's line, once the reader has moved it."""
        if index != self.cursor or not self._shown or not self.has_focus:
            return None
        return ink.selected

    def watch_cursor(self, old: int, new: int) -> None:
        """Repaint both lines and keep the cursor in sight."""
        self.repaint_line(old)
        self.repaint_line(new)
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        if self.following or height <= 0:
            return
        if new < top:
            self.scroll_to(y=new, animate=False)
        elif new >= top + height:
            self.scroll_to(y=new - height + 1, animate=False)

    def on_focus(self) -> None:
        """Show the cursor."""
        self.repaint_line(self.cursor)

    def on_blur(self) -> None:
        """Hide the cursor."""
        self.repaint_line(self.cursor)

    def on_mount(self) -> None:
        """Go to the end once there is something to scroll by: before that, scrolling does nothing."""
        self.watch(self, "show_vertical_scrollbar", self.on_resize, init=False)

    def on_resize(self) -> None:
        """Stay at the end while following."""
        if self.following:
            self._follow()

    def on_mouse_scroll_up(self) -> None:
        """Reading back stops following."""
        self.following = False
        self._say_where()

    def on_mouse_scroll_down(self) -> None:
        """Back at the end, follow again."""
        if self.scroll_offset.y >= self.max_scroll_y - 3:
            self.following = True
            self._say_where()

    def on_click(self, event: events.Click) -> None:
        """Move the cursor; a second click opens the entry."""
        inside = event.get_content_offset(self)
        if inside is None:
            return
        row = inside.y + self.scroll_offset.y
        if 0 <= row < len(self._shown):
            self.following = row == len(self._shown) - 1
            self.cursor = row
            self._say_where()
            if event.chain >= 2:
                self.action_open_entry()

    def action_move(self, step: int) -> None:
        """Move the cursor; at the end it follows again."""
        if self._shown:
            target = max(0, min(len(self._shown) - 1, self.cursor + step))
            self.following = target == len(self._shown) - 1
            self.cursor = target
            if self.following:
                self._follow()
            self._say_where()

    def action_edge(self, edge: str) -> None:
        """Move to the oldest or newest entry."""
        self.action_move(-len(self._shown) if edge == "first" else len(self._shown))

    def action_open_entry(self) -> None:
        """Ask for the full story of the entry under the cursor."""
        if 0 <= self.cursor < len(self._shown):
            self.post_message(self.Opened(self._shown[self.cursor]))


def request_line(entry: RequestEntry, width: int, ink: Ink) -> Line:
    """Time, origin, path, latency, tokens and whether the answer is degraded."""
    out, tail = LineWriter(), LineWriter()
    if width >= 46:
        out.put(fit(entry.day, 8) if entry.day else clock_time(entry.at), ink.muted).space()
    elif width >= 30:
        out.put(entry.day or clock_time(entry.at)[3:], ink.muted).space()
    if width >= 56:
        tone = ink.accent if entry.origin == "chat" else ink.muted
        out.put(fit(ORIGINS.get(entry.origin, entry.origin), 7), tone).space()
    if entry.lack:
        tail.put(" ▽ " + (entry.lack if width >= 90 else ""), ink.warning)
    if width >= 40:
        tail.put(fit(latency(entry.latency_s) if entry.latency_s is not None else "", 7, "right"), ink.text)
    if width >= 64:
        tokens = "" if entry.tokens is None else f"{count(entry.tokens)} tok"
        tail.put(fit(tokens, 9, "right"), ink.muted)
    room = width - out.length - tail.length
    path = _path(entry, ink)
    for hidden in range(1, len(entry.hops)):
        if path.length <= room:
            break
        path = _path(entry, ink, hidden)
    pieces = path.line()
    if path.length > room:
        text = "".join(piece.text for piece in pieces)
        pieces = LineWriter().put(fit(text, room), ink.text).line()
        used = room
    else:
        used = path.length
    why = _why(entry, room - used - 3)
    gap = LineWriter().space(room - used - cell_len(why)).put(why, ink.muted).line()
    return (*out.line(), *pieces, *gap, *tail.line())


def _why(entry: RequestEntry, room: int) -> str:
    """The pool and the rule by which the last account was chosen, as far as there is room."""
    if entry.outcome is Outcome.QUEUED and (wait := entry.waiting) is not None:
        until = "" if wait.expires_at is None else f"until {clock_time(wait.expires_at)}"
        return until if cell_len(until) <= room else ""
    hop = entry.winner
    if hop is not None and entry.before_start and entry.outcome is Outcome.ANSWERED:
        texts = (f"{clean(hop.pool)} · {clean(hop.model)}", clean(hop.pool))
        return next((text for text in texts if cell_len(text) <= room), "")
    if hop is None or hop.decision is None or entry.outcome is Outcome.FAILED:
        return ""
    rule = RULES.get(hop.decision.rule.value, hop.decision.rule.value)
    for text in (f"{clean(hop.pool)} · {hop.decision.strategy}: {rule}", f"{clean(hop.pool)} · {rule}", rule):
        if cell_len(text) <= room:
            return text
    return ""


def _path(entry: RequestEntry, ink: Ink, hidden: int = 0) -> LineWriter:
    """The attempts; the first ``hidden`` of them only as a number."""
    out = LineWriter()
    steps = entry.steps(hidden)
    for joint, role, account, mark in steps:
        out.put(joint, ink.muted)
        name = fit(account, min(24, len(account) * 2)).rstrip()
        match role:
            case Role.FAILED:
                out.put(name, ink.muted).put(f" ✗{mark}", ink.error)
            case Role.MOVED:
                out.put(name, ink.muted).put(f" ✗{mark}", ink.warning)
            case Role.OUTRUN:
                out.put(name, ink.muted).put(f" {mark}", ink.muted)
            case Role.ANSWERED:
                out.put(name, ink.strong).put(" ✓", ink.ok)
            case Role.BROKEN:
                out.put(name, ink.strong).put(" ✗ cut", ink.error)
            case Role.CANCELLED:
                out.put(name, ink.muted).put(" ∅ cancelled", ink.muted)
            case Role.CACHE:
                out.put(name, ink.strong).put(" ✓ ", ink.ok).put(mark, ink.warning)
            case Role.WAITS:
                out.put(name, ink.accent)
            case Role.WAITED | Role.MORE:
                out.put(name, ink.muted)
            case _:
                out.put(name, ink.primary).put(" …", ink.primary)
    if not steps:
        words = {
            Outcome.RUNNING: "planning…",
            Outcome.CANCELLED: "∅ cancelled",
            Outcome.FAILED: "✗ no account",
        }
        text = words.get(entry.outcome, "✓")
        out.put(text, ink.error if entry.outcome is Outcome.FAILED else ink.muted)
    elif entry.outcome is Outcome.CANCELLED and steps[-1].role is not Role.CANCELLED:
        out.put("  ∅ cancelled", ink.muted)
    if entry.outcome is Outcome.FAILED:
        out.put("  failed", ink.error)
    return out


def start_line(entry: StartEntry, width: int, ink: Ink) -> Line:
    """The rule under the requests from before this start."""
    texts = (f" ↑ {BEFORE}, {clock_time(entry.at)} ", f" ↑ {BEFORE} ", f" {BEFORE} ")
    text = next((text for text in texts if cell_len(text) + 4 <= width), BEFORE)
    room = width - cell_len(text)
    if room <= 0:
        return LineWriter().put(fit(text, width), ink.muted).line()
    return LineWriter().put("─" * (room // 2) + text + "─" * (room - room // 2), ink.muted).line()


def dimmed(line: Line, ink: Ink) -> Line:
    """A line in one quiet tone; its signs and words say without colours what they did."""
    return LineWriter().put("".join(piece.text for piece in line), ink.muted).line()


def note_line(entry: NoteEntry, width: int, ink: Ink) -> Line:
    """A change of state."""
    tone = {
        Severity.INFO: ink.secondary,
        Severity.GOOD: ink.ok,
        Severity.WARNING: ink.warning,
        Severity.ERROR: ink.error,
    }[entry.severity]
    out = LineWriter()
    if width >= 46:
        out.put(clock_time(entry.at), ink.muted).space()
    elif width >= 30:
        out.put(clock_time(entry.at)[3:], ink.muted).space()
    out.put(SEVERITY_SIGNS[entry.severity] + " ", tone)
    subject = clean(entry.subject)
    out.put(fit(subject, min(len(subject) * 2, 24)).rstrip(), tone).space()
    out.put(fit(entry.text, width - out.length), ink.muted)
    return out.line()
