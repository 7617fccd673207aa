"""Where the panes stand: by the size of the terminal, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from textual.containers import Container
from textual.geometry import NULL_OFFSET, Region, Size, Spacing
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.message import Message
from textual.reactive import reactive

if TYPE_CHECKING:
    from textual.widget import Widget

METRICS = ("fairness", "latency", "traffic")
SIDE_BY_SIDE_FROM = Size(100, 28)
"""Below either, one pane at a time."""
BORDER = 2
SMALLEST_TAIL = 3
"""Lines left below the accounts from which on the newest requests are shown there."""
WIDE_FROM = 160
"""From this width on the chat has a column of its own."""


class Plan(NamedTuple):
    """The region of each visible pane by id, and whether only one pane is shown."""

    regions: dict[str, Region]
    single: bool


def plan(size: Size, *, pane: str, zoomed: bool, account_lines: int) -> Plan:
    """Where each pane stands.

    Args:
        size: Cells there are.
        pane: The pane that is shown when there is room for one only.
        zoomed: Show only that pane at any size.
        account_lines: Lines that the accounts would like, border included.
    """
    width, height = size
    if zoomed or width < SIDE_BY_SIDE_FROM.width or height < SIDE_BY_SIDE_FROM.height:
        return Plan(_single(size, pane, account_lines), single=True)
    if width >= WIDE_FROM:
        chat = max(56, min(84, width * 35 // 100))
        left = width - chat
        accounts = max(8, min(account_lines, height * 55 // 100))
        metrics = 7 if height < 46 else 9 if height < 70 else 11
        regions = {
            "accounts": Region(0, 0, left, accounts),
            "routing": Region(0, accounts + metrics, left, height - accounts - metrics),
            "chat": Region(left, 0, chat, height),
        }
        regions |= _row(Region(0, accounts, left, metrics))
        return Plan(regions, single=False)
    metrics = 7 if height >= 32 else 6
    accounts = max(8, min(account_lines, height - metrics - 9))
    rest = height - accounts - metrics
    split = width * 56 // 100
    regions = {
        "accounts": Region(0, 0, width, accounts),
        "routing": Region(0, accounts + metrics, split, rest),
        "chat": Region(split, accounts + metrics, width - split, rest),
    }
    regions |= _row(Region(0, accounts, width, metrics))
    return Plan(regions, single=False)


def _single(size: Size, pane: str, account_lines: int) -> dict[str, Region]:
    width, height = size
    spare = height - (account_lines - BORDER)
    if pane == "accounts" and spare >= SMALLEST_TAIL:
        return {
            "accounts": Region(0, 0, width, height - spare),
            "routing": Region(0, height - spare, width, spare),
        }
    if pane != "metrics":
        return {pane: Region(0, 0, width, height)}
    if width >= 110 and height < 24:
        return _row(Region(0, 0, width, height))
    first = min(8, height // 3)
    second = max(0, (height - first) // 2)
    heights = (first, second, max(0, height - first - second))
    regions, y = {}, 0
    for name, lines in zip(METRICS, heights, strict=True):
        regions[name] = Region(0, y, width, lines)
        y += lines
    return regions


def _row(region: Region) -> dict[str, Region]:
    left = region.width * 30 // 100
    middle = region.width * 38 // 100
    return {
        "fairness": Region(region.x, region.y, left, region.height),
        "latency": Region(region.x + left, region.y, middle, region.height),
        "traffic": Region(region.x + left + middle, region.y, region.width - left - middle, region.height),
    }


class _PaneLayout(Layout):
    name = "panes"

    def arrange(
        self,
        parent: Widget,
        children: list[Widget],
        size: Size,
        greedy: bool = True,  # noqa: ARG002 - Textual's signature
    ) -> ArrangeResult:
        if not isinstance(parent, PaneArea):
            return []
        regions = parent.plan_for(size).regions
        return [
            WidgetPlacement(region, NULL_OFFSET, Spacing(), child)
            for child in children
            if (region := regions.get(child.id or "")) is not None
        ]


class PaneArea(Container):
    """Holds the panes and arranges those that there is room for."""

    DEFAULT_CSS = """
    PaneArea { height: 1fr; overflow: hidden; }
    """

    class Rearranged(Message):
        """Other panes may be in sight."""

    pane: reactive[str] = reactive("accounts")
    """The pane that is shown when there is room for one only."""
    zoomed: reactive[bool] = reactive(default=False)
    """Whether only that pane is shown at any size."""
    account_lines: reactive[int] = reactive(12)
    """Lines that the accounts would like."""

    def __init__(self, *children: Widget, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(*children, id=id)
        self._pane_layout = _PaneLayout()

    def watch_pane(self) -> None:
        """Arrange anew."""
        self._rearrange()

    def watch_zoomed(self) -> None:
        """Arrange anew."""
        self._rearrange()

    def watch_account_lines(self) -> None:
        """Fewer accounts may leave room for another pane."""
        self._rearrange()

    def _rearrange(self) -> None:
        for child in self.children[:1]:
            child.refresh(layout=True)  # a child's request makes this container forget where all stood
        self.post_message(self.Rearranged())

    @property
    def layout(self) -> Layout:
        """Textual asks here how to arrange the children."""
        return self._pane_layout

    def plan_for(self, size: Size) -> Plan:
        """The plan for a size."""
        return plan(size, pane=self.pane, zoomed=self.zoomed, account_lines=self.account_lines)

    @property
    def single(self) -> bool:
        """Whether one pane fills the area now."""
        return self.plan_for(self.size).single
