"""The accounts of all pools, with a cursor."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from smartfallback_console.drill_words import UNTOUCHED, touched
from smartfallback_console.formatting import clean, fit
from smartfallback_console.usable import shut
from smartfallback_console.widgets.account_lines import Columns, account_line, heading_line, pool_line
from smartfallback_console.widgets.lines import Line, LineView, LineWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.style import Style
    from textual import events

    from smartfallback import AccountView, DrillView, PoolView, Snapshot
    from smartfallback_console.ink import Ink

Row = tuple["PoolView", "AccountView | None"]
"""A pool's heading (no account) or one account."""


class SortKey(StrEnum):
    """Orders of the accounts inside their pools."""

    CONFIGURED = "configured"
    QUOTA = "quota"
    REQUESTS = "requests"
    LAST = "last"
    NAME = "name"


class AccountsTable(LineView):
    """All accounts, grouped by pool.

    The cursor may also stand on a pool's heading: actions then concern its provider.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move(-10)", "Page up", show=False),
        Binding("pagedown", "move(10)", "Page down", show=False),
        Binding("home,g", "edge('first')", "First account", show=False),
        Binding("end,G", "edge('last')", "Last account", show=False),
        Binding("enter", "inspect", "Inspect account", show=False),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    """The line of the cursor among those shown."""

    class Inspected(Message):
        """The operator wants the details of an account or a pool."""

        def __init__(self, pool: PoolView, account: AccountView | None) -> None:
            super().__init__()
            self.pool = pool
            self.account = account

    class CursorMoved(Message):
        """The cursor stands on another line."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.border_title = "Accounts"
        self.pattern = ""
        self.sort = SortKey.CONFIGURED
        self._snapshot: Snapshot | None = None
        self._rows: list[Row] = []
        self._names: dict[str, int] = {}
        self._columns: dict[int, Columns] = {}
        self._longest = 6
        self._touched = UNTOUCHED

    def show(self, snapshot: Snapshot | None, drills: Iterable[DrillView] | None = None) -> None:
        """Draw a snapshot, with a mark on all whose calls meet one of the ``drills`` (None: as before)."""
        if drills is not None:
            self._touched = touched(drills, snapshot)
        chosen = self.selected
        self._snapshot = snapshot
        self._rows = [] if snapshot is None else self._arrange(snapshot)
        longest = max((cell_len(clean(row[1].id)) for row in self._rows if row[1]), default=6)
        if longest != self._longest:
            self._longest = longest
            self._columns.clear()
        if chosen is not None:
            self._keep(chosen)
        elif self._rows:
            self.cursor = min(1, len(self._rows) - 1)
        at = snapshot.at if snapshot else 0.0
        usable = sum(1 for pool, view in self._rows if view and view.skip is None and not shut(pool, at))
        total = sum(1 for _, view in self._rows if view)
        title = f"Accounts  {usable}/{total} usable" if snapshot else "Accounts"
        if self.pattern:
            title += f"  /{clean(self.pattern)}"
        if self.border_title != title:
            self.border_title = fit(title, min(60, len(title))).replace("[", "\\[")
        subtitle = "" if self.sort is SortKey.CONFIGURED else f"sorted by {self.sort.value}"
        if self.border_subtitle != subtitle:
            self.border_subtitle = subtitle
        self.redraw()

    def _arrange(self, snapshot: Snapshot) -> list[Row]:
        rows: list[Row] = []
        needle = self.pattern.casefold()
        for pool in snapshot.pools:
            accounts = [
                view
                for view in pool.accounts
                if not needle or needle in _haystack(view) or needle in pool.name.casefold()
            ]
            if not accounts and needle:
                continue
            if self.sort is SortKey.QUOTA:
                accounts.sort(key=lambda view: -((view.quota.bound.percent or 0) if view.quota.bound else 0))
            elif self.sort is SortKey.REQUESTS:
                accounts.sort(key=lambda view: -view.requests)
            elif self.sort is SortKey.LAST:
                accounts.sort(key=lambda view: -(view.last_used_at or 0))
            elif self.sort is SortKey.NAME:
                accounts.sort(key=lambda view: view.id)
            rows.append((pool, None))
            rows.extend((pool, view) for view in accounts)
        return rows

    @property
    def selected(self) -> Row | None:
        """What the cursor stands on."""
        return self._rows[self.cursor] if 0 <= self.cursor < len(self._rows) else None

    def _keep(self, chosen: Row) -> None:
        """Let the cursor follow its account when lines move."""
        key = (chosen[0].name, chosen[1].id if chosen[1] else None)
        at = self.cursor
        if at < len(self._rows) and _key(self._rows[at]) == key:
            return
        for index, row in enumerate(self._rows):
            if _key(row) == key:
                self.cursor = index
                return
        self.cursor = max(0, min(self.cursor, len(self._rows) - 1))

    def select_account(self, account_id: str) -> bool:
        """Put the cursor on an account; False if it isn't shown."""
        for index, (_, view) in enumerate(self._rows):
            if view is not None and view.id == account_id:
                self.cursor = index
                return True
        return False

    def select(self, row: Row | None) -> None:
        """Put the cursor on the row of the same pool or account, if it is shown."""
        if row is not None:
            self.cursor = next(
                (index for index, own in enumerate(self._rows) if _key(own) == _key(row)), self.cursor
            )

    def line_count(self) -> int:
        """Headings, accounts and the line of column names."""
        return len(self._rows) + 1 if self._rows else 3

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """The column names first, then one line a row."""
        if not self._rows:
            text = "" if index != 1 else self._empty_text()
            return LineWriter().put(fit(text, width, "center"), ink.muted).line()
        columns = self._columns.get(width)
        if columns is None:
            columns = self._columns[width] = Columns.for_width(width, self._longest)
        if index == 0:
            return heading_line(columns, ink, self.sort.value)
        pool, view = self._rows[index - 1]
        now = self._snapshot.at if self._snapshot else 0.0
        if view is None:
            return pool_line(pool, width, ink, now, faulty=pool.name in self._touched.pools)
        faulty = view.id in self._touched.accounts
        return account_line(view, columns, now, ink, shut=shut(pool, now), faulty=faulty)

    def _empty_text(self) -> str:
        if self._snapshot is None:
            return "Waiting for the first snapshot…"
        if self.pattern:
            return f"No account matches /{self.pattern}  (esc clears the filter)"
        return "No accounts are configured."

    def line_background(self, index: int, ink: Ink) -> Style | None:
        """The cursor's line."""
        if self._rows and index == self.cursor + 1:
            return ink.selected if self.has_focus else ink.selected_idle
        return None

    def watch_cursor(self, old: int, new: int) -> None:
        """Repaint both lines and keep the cursor in sight."""
        self.repaint_line(old + 1)
        self.repaint_line(new + 1)
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        line = new + 1
        if height > 0 and line < top + (1 if new else 0):
            self.scroll_to(y=max(0, line - 1), animate=False)
        elif height > 0 and line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False)
        self.post_message(self.CursorMoved())

    def on_focus(self) -> None:
        """The cursor is brighter with the focus."""
        self.repaint_line(self.cursor + 1)

    def on_blur(self) -> None:
        """The cursor is fainter without the focus."""
        self.repaint_line(self.cursor + 1)

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the clicked line; a second click inspects it."""
        inside = event.get_content_offset(self)
        if inside is None:
            return
        row = inside.y + self.scroll_offset.y - 1
        if 0 <= row < len(self._rows):
            self.cursor = row
            if event.chain >= 2:
                self.action_inspect()

    def action_move(self, step: int) -> None:
        """Move the cursor by lines."""
        if self._rows:
            self.cursor = max(0, min(len(self._rows) - 1, self.cursor + step))

    def action_edge(self, edge: str) -> None:
        """Move the cursor to the first or last line."""
        if self._rows:
            self.cursor = 0 if edge == "first" else len(self._rows) - 1

    def action_inspect(self) -> None:
        """Ask for the details of what is under the cursor."""
        if (row := self.selected) is not None:
            self.post_message(self.Inspected(*row))


def _key(row: Row) -> tuple[str, str | None]:
    return (row[0].name, row[1].id if row[1] else None)


def _haystack(view: AccountView) -> str:
    parts = [
        view.id,
        view.pool,
        view.provider_id,
        view.model,
        view.admin.value,
        view.circuit.state.value,
        view.quota.status.value,
        view.skip.reason.value if view.skip else "ready",
    ]
    return " ".join(parts).casefold()
