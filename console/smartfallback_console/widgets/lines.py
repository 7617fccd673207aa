"""A panel drawn line by line, which redraws only the lines that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from smartfallback_console.formatting import cell_len, clean
from smartfallback_console.ink import Ink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.style import Style

Line = tuple[Segment, ...]
"""One line's text and styles, compared by value to find out what changed."""


class LineWriter:
    """Collects the pieces of one line and counts their cells."""

    __slots__ = ("_parts", "length")

    def __init__(self) -> None:
        self._parts: list[Segment] = []
        self.length = 0

    def put(self, text: str, style: Style) -> LineWriter:
        """Add text; it must hold no control characters (see ``clean`` and ``fit``)."""
        if not style.bgcolor and text.startswith(" "):
            bare = text.lstrip(" ")
            self.space(len(text) - len(bare))  # blanks need no style, and pictures of the screen keep them
            text = bare
        if text:
            self.length += cell_len(text)
            if self._parts and self._parts[-1].style == style:
                text = self._parts.pop().text + text
            self._parts.append(Segment(text, style))
        return self

    def space(self, cells: int = 1) -> LineWriter:
        """Add blanks."""
        if cells > 0:
            self.length += cells
            before = self._parts[-1] if self._parts else None
            if before is not None and (before.style is None or not before.style.bgcolor):
                # A blank looks the same in any colour, and each change of style is sent to the terminal.
                self._parts[-1] = Segment(before.text + " " * cells, before.style)
            else:
                self._parts.append(Segment(" " * cells))
        return self

    def to(self, column: int) -> LineWriter:
        """Fill with blanks up to a column."""
        return self.space(column - self.length)

    def line(self) -> Line:
        """The finished line."""
        return tuple(self._parts)


class LineView(ScrollView):
    """Base of panels that draw lines.

    A subclass answers :meth:`line_count` and :meth:`compose_line`; after its data changed it calls
    :meth:`redraw`, which composes the visible lines anew and repaints those that differ.
    """

    DEFAULT_CSS = """
    LineView {
        background: $surface;
        color: $foreground;
        border: round $foreground 18%;
        border-title-color: $foreground 75%;
        border-subtitle-color: $foreground 55%;
        padding: 0 1;
        scrollbar-size: 1 1;
        overflow-x: hidden;
        &:focus { border: round $primary; border-title-color: $primary; border-title-style: bold; }
    }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self._ink: Ink | None = None
        self._stamp = 0
        self._cache: dict[int, tuple[int, Line, Strip]] = {}
        self._cache_width = -1

    def line_count(self) -> int:
        """How many lines there are."""
        raise NotImplementedError

    def compose_line(self, index: int, width: int, ink: Ink) -> Line:
        """Line ``index`` for ``width`` cells."""
        raise NotImplementedError

    def line_background(self, index: int, ink: Ink) -> Style | None:  # noqa: ARG002 - for subclasses
        """A background for a whole line, such as the cursor's."""
        return None

    @property
    def ink(self) -> Ink:
        """The styles of the current theme."""
        if self._ink is None:
            self._ink = Ink.from_variables(self.app.theme_variables)
        return self._ink

    @property
    def text_width(self) -> int:
        """Cells a line may fill."""
        return self.scrollable_content_region.width

    def on_mount(self) -> None:
        """Follow theme changes."""
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self._forget(), immediate=False)

    def notify_style_update(self) -> None:
        """Forget the drawn lines, since colours may differ."""
        super().notify_style_update()
        self._forget()

    def _forget(self) -> None:
        self._ink = None
        self._cache.clear()
        self.refresh()

    def on_resize(self) -> None:
        """Lines depend on the width, so all are drawn anew."""
        self._cache.clear()
        self.redraw()

    def redraw(self) -> None:
        """Compose the visible lines and repaint those that changed."""
        self._stamp += 1
        total = self.line_count()
        width = self.text_width
        if self.virtual_size != (width, total):
            self.virtual_size = Size(width, total)
        if len(self._cache) > 4 * (self.size.height + 8):
            self._cache.clear()
        if not self.is_mounted or width <= 0:
            return
        first = self.scroll_offset.y
        bottom = self.scrollable_content_region.height
        changed: list[int] = []
        for y in range(bottom):
            index = first + y
            cached = self._cache.get(index)
            if index >= total:
                if cached is not None:
                    del self._cache[index]
                    changed.append(y)
                continue
            self._draw(index, width)
            if cached is None or cached[2] is not self._cache[index][2]:
                changed.append(y)
        for y, height in _runs(changed):
            self.refresh(Region(0, y, max(width, self.size.width), height))

    def _draw(self, index: int, width: int) -> Strip:
        if width != self._cache_width:
            self._cache.clear()
            self._cache_width = width
        ink = self.ink
        line = self.compose_line(index, width, ink)
        background = self.line_background(index, ink)
        if background is not None:
            line = (*line, Segment("", background))
        cached = self._cache.get(index)
        if cached is not None and cached[1] == line:
            self._cache[index] = (self._stamp, line, cached[2])
            return cached[2]
        strip = Strip(line).adjust_cell_length(width)
        if background is not None:
            strip = strip.apply_style(background)
        self._cache[index] = (self._stamp, line, strip)
        return strip

    def render_line(self, y: int) -> Strip:
        """One visible line, from the cache where it is still right."""
        width = self.text_width
        index = y + self.scroll_offset.y
        if index >= self.line_count():
            return Strip.blank(width, self.rich_style)
        cached = self._cache.get(index)
        if cached is not None and cached[0] == self._stamp and width == self._cache_width:
            strip = cached[2]
        else:
            strip = self._draw(index, width)
        return strip.apply_style(self.rich_style)

    def repaint_line(self, index: int) -> None:
        """Draw one line again, for a cursor that moved."""
        self._cache.pop(index, None)
        y = index - self.scroll_offset.y
        if 0 <= y < self.scrollable_content_region.height:
            self.refresh(Region(0, y, self.size.width, 1))


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring rows as (first, count)."""
    start = previous = None
    for row in rows:
        if previous is not None and row == previous + 1:
            previous = row
            continue
        if start is not None and previous is not None:
            yield start, previous - start + 1
        start = previous = row
    if start is not None and previous is not None:
        yield start, previous - start + 1


__all__ = ["Line", "LineView", "LineWriter", "clean"]
