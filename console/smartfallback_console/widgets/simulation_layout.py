"""Where the parts of the simulation view stand: by the size of the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Container
from textual.geometry import NULL_OFFSET, Region, Size, Spacing
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.reactive import reactive

if TYPE_CHECKING:
    from textual.widget import Widget

SIDE_BY_SIDE_FROM = Size(100, 28)
"""Below either, list or steps fill the screen."""
WIDE_FROM = 160
"""From this width on the list has a column from top to bottom."""
HEAD = 3
FEWEST_STEPS = 12
"""Lines that the steps keep, frame included, before accounts get more than the fewest."""
FEWEST_ACCOUNTS = 8
ROUTING_FROM = 7
"""Lines that have to be left for the routing feed to be shown."""


def plan(size: Size, *, steps: bool, account_lines: int) -> dict[str, Region]:
    """The region of each visible part by id.

    Args:
        size: Cells there are.
        steps: Where there is room for one of them, whether the steps are shown and not the list.
        account_lines: Lines that the accounts would like, frame included.
    """
    width, height = size
    if width < SIDE_BY_SIDE_FROM.width or height < SIDE_BY_SIDE_FROM.height:
        head = min(HEAD, max(1, height // 5))
        if not steps:
            return {
                "scenarios": Region(0, 0, width, max(0, height - head)),
                "run-head": Region(0, max(0, height - head), width, head),
            }
        return {
            "run-head": Region(0, 0, width, head),
            "run-steps": Region(0, head, width, max(0, height - head - 1)),
            "live": Region(0, height - 1, width, 1),
        }
    if width >= WIDE_FROM:
        left = max(58, min(84, width * 39 // 100))
        regions = {"scenarios": Region(0, 0, left, height)}
        return regions | _column(Region(left, 0, width - left, height), account_lines)
    accounts = max(FEWEST_ACCOUNTS, min(account_lines, height - HEAD - FEWEST_STEPS))
    top, rest = height - accounts, 0
    if top > 2 * (HEAD + FEWEST_STEPS) + ROUTING_FROM:
        top, rest = 2 * (HEAD + FEWEST_STEPS), top - 2 * (HEAD + FEWEST_STEPS)
    left = width * 40 // 100
    regions = {
        "scenarios": Region(0, 0, left, top),
        "run-head": Region(left, 0, width - left, HEAD),
        "run-steps": Region(left, HEAD, width - left, top - HEAD),
        "live-accounts": Region(0, top, width, accounts),
    }
    if rest:
        regions["live-routing"] = Region(0, top + accounts, width, rest)
    return regions


def _column(region: Region, account_lines: int) -> dict[str, Region]:
    x, _, width, height = region
    accounts = max(FEWEST_ACCOUNTS, min(account_lines, height - HEAD - FEWEST_STEPS))
    rest = height - HEAD - accounts
    routing = rest * 35 // 100
    if routing < ROUTING_FROM or rest - routing < FEWEST_STEPS:
        routing = 0
    steps = rest - routing
    regions = {
        "run-head": Region(x, 0, width, HEAD),
        "run-steps": Region(x, HEAD, width, steps),
        "live-accounts": Region(x, HEAD + steps, width, accounts),
    }
    if routing:
        regions["live-routing"] = Region(x, HEAD + steps + accounts, width, routing)
    return regions


class _SimulationLayout(Layout):
    name = "simulation"

    def arrange(
        self,
        parent: Widget,
        children: list[Widget],
        size: Size,
        greedy: bool = True,  # noqa: ARG002 - Textual's signature
    ) -> ArrangeResult:
        if not isinstance(parent, SimulationArea):
            return []
        regions = parent.plan_for(size)
        return [
            WidgetPlacement(region, NULL_OFFSET, Spacing(), child)
            for child in children
            if (region := regions.get(child.id or "")) is not None
        ]


class SimulationArea(Container):
    """Holds the parts of the view and arranges those that there is room for."""

    DEFAULT_CSS = """
    SimulationArea { height: 1fr; overflow: hidden; }
    """

    steps: reactive[bool] = reactive(default=False)
    """Whether the steps are shown where there is room for them or the list."""
    account_lines: reactive[int] = reactive(12)
    """Lines that the accounts would like."""

    def __init__(self, *children: Widget, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(*children, id=id)
        self._parts_layout = _SimulationLayout()

    def watch_steps(self) -> None:
        """Arrange anew."""
        self._rearrange()

    def watch_account_lines(self) -> None:
        """Arrange anew."""
        self._rearrange()

    def _rearrange(self) -> None:
        for child in self.children[:1]:
            child.refresh(layout=True)  # a child's request makes this container forget where all stood

    @property
    def layout(self) -> Layout:
        """Textual asks here how to arrange the children."""
        return self._parts_layout

    def plan_for(self, size: Size) -> dict[str, Region]:
        """The plan for a size."""
        return plan(size, steps=self.steps, account_lines=self.account_lines)

    @property
    def single(self) -> bool:
        """Whether there is room for the list or the steps, not for both."""
        # Before the first layout the area has no size, and the terminal's is close to what it will be.
        regions = self.plan_for(self.size or self.app.size)
        return not ("scenarios" in regions and "run-steps" in regions)
