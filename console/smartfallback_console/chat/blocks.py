"""Lists, quotes and tables of an answer, each drawn as one widget.

Textual makes several widgets for every item of a list and every cell of a table, and makes all of them
again with every piece that is appended: a list of a thousand items would hold the loop for seconds. Here
a block of any depth is drawn from the parser's tokens, wrapped for the width at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from textual.content import Content
from textual.highlight import highlight
from textual.widgets.markdown import MarkdownBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from markdown_it.token import Token
    from textual.app import ComposeResult
    from textual.geometry import Size
    from textual.widgets import Markdown

NARROWEST = 8
"""Cells that text keeps however deep it is nested."""
COLUMN_GAP = 2
HIGHLIGHTED_CHARACTERS = 8_000
"""Code longer than this is shown without colours: it is highlighted as a whole with every new piece."""
BULLETS = ("• ", "▪ ", "‣ ", "◦ ")
FLAT = frozenset({"bullet_list_open", "ordered_list_open", "blockquote_open", "table_open"})
"""Tokens that open what is drawn as one widget."""
Lines = list[Content]
Inline: TypeAlias = "Callable[[Token], Content]"
"""Makes the text of an inline token."""


class Node(NamedTuple):
    """A token with what stands between it and its closing one."""

    token: Token
    children: tuple[Node, ...] = ()


def tree(tokens: Sequence[Token]) -> tuple[Node, ...]:
    """Tokens as nodes; each opening one holds those up to its closing one."""
    stack: list[tuple[Token | None, list[Node]]] = [(None, [])]
    for token in tokens:
        if token.nesting > 0:
            stack.append((token, []))
        elif token.nesting == 0:
            stack[-1][1].append(Node(token))
        elif len(stack) > 1:
            opened, children = stack.pop()
            if opened is not None:
                stack[-1][1].append(Node(opened, tuple(children)))
    return tuple(stack[0][1])


class FlatBlock(MarkdownBlock):
    """A list, quote or table without child widgets.

    Args:
        markdown: The document.
        tokens: All tokens of the block, from the opening to the closing one.
    """

    DEFAULT_CSS = """
    FlatBlock { height: auto; width: 1fr; margin: 0 0 1 0; }
    """

    def __init__(self, markdown: Markdown, tokens: Sequence[Token]) -> None:
        super().__init__(markdown, tokens[0])
        self._parsed = tree(tokens)
        self._wrapped: tuple[int, Lines] | None = None

    def compose(self) -> ComposeResult:
        """Nothing: the children are drawn, not mounted."""
        return ()

    def _lines(self, width: int) -> Lines:
        width = max(NARROWEST, width)
        if self._wrapped is None or self._wrapped[0] != width:
            self._wrapped = (width, draw(self._parsed, width, self._token_to_content))
        return self._wrapped[1]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's signature
        """As many lines as the text fills."""
        return len(self._lines(width))

    def render(self) -> Content:
        """The lines as one text."""
        return Content("\n").join(self._lines(self.content_size.width))

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if not isinstance(block, FlatBlock):
            await super()._update_from_block(block)
            return
        self._copy_context(block)
        self._parsed, self._wrapped = block._parsed, None
        self.refresh(layout=True)


def draw(nodes: Sequence[Node], width: int, inline: Inline, depth: int = 0) -> Lines:
    """Nodes in lines of at most ``width`` cells (more only where that is below the narrowest)."""
    width = max(NARROWEST, width)
    lines: Lines = []
    for token, children in nodes:
        match token.type:
            case "inline":
                lines += inline(token).wrap(width)
            case "bullet_list_open" | "ordered_list_open":
                lines += _list(token, children, width, inline, depth)
            case "blockquote_open":
                bar = Content.styled("▌ ", "$primary 60%")
                lines += prefixed(draw(children, width - 2, inline, depth), bar, bar)
            case "table_open":
                lines += _table(children, width, inline)
            case "fence" | "code_block":
                code = highlighted(token.content.rstrip(), token.info)
                lines += [part for line in code.split("\n", allow_blank=True) for part in line.fold(width)]
            case "hr":
                lines.append(Content.styled("─" * width, "$foreground 25%"))
            case "heading_open":
                lines += [line.stylize("bold $primary") for line in draw(children, width, inline, depth)]
            case _:
                lines += draw(children, width, inline, depth)
    return lines


def highlighted(code: str, language: str) -> Content:
    """Code in the colours of its language."""
    if len(code) > HIGHLIGHTED_CHARACTERS:
        return Content(code)
    return highlight(code, language=language or None)


def prefixed(lines: Lines, first: Content, other: Content) -> Iterator[Content]:
    """``lines`` behind a prefix, which differs for the first one."""
    for index, line in enumerate(lines or [Content("")]):
        yield Content.assemble(first if index == 0 else other, line)


def _list(token: Token, items: Sequence[Node], width: int, inline: Inline, depth: int) -> Lines:
    if token.type == "ordered_list_open":
        start = int(token.attrs.get("start", 1))
        signs = [f"{start + index}. " for index in range(len(items))]
    else:
        signs = [BULLETS[depth % len(BULLETS)]] * len(items)
    indent = max((len(sign) for sign in signs), default=0)
    other = Content(" " * indent)
    lines: Lines = []
    for sign, item in zip(signs, items, strict=True):
        inner = draw(item.children, width - indent, inline, depth + 1)
        lines += prefixed(inner, Content.styled(sign.rjust(indent), "$primary"), other)
    return lines


def _table(parts: Sequence[Node], width: int, inline: Inline) -> Lines:
    rows = [
        [
            Content(" ").join(
                [inline(child.token) for child in cell.children if child.token.type == "inline"]
            )
            for cell in row.children
        ]
        for part in parts
        for row in part.children
    ]
    count = max((len(row) for row in rows), default=0)
    if not count:
        return []
    widths = column_widths(rows, count, width - COLUMN_GAP * (count - 1))
    lines = _row([header.stylize("bold $primary") for header in rows[0]], widths)
    rule = (" " * COLUMN_GAP).join("─" * cells for cells in widths)
    lines.append(Content.styled(rule, "$foreground 35%"))
    for row in rows[1:]:
        lines += _row(row, widths)
    return lines


def _row(cells: Lines, widths: list[int]) -> Lines:
    columns = [
        cells[index].wrap(room) if index < len(cells) and cells[index] else []
        for index, room in enumerate(widths)
    ]
    lines: Lines = []
    for y in range(max(1, *(len(column) for column in columns))):
        parts = []
        for column, room in zip(columns, widths, strict=True):
            cell = column[y] if y < len(column) else Content("")
            parts.append(cell.pad_right(max(0, room - cell.cell_length)))
        lines.append(Content(" " * COLUMN_GAP).join(parts))
    return lines


def column_widths(rows: list[Lines], count: int, room: int) -> list[int]:
    """Cells for each column: what it needs where all fit, else the widest columns give way."""
    needs = [
        max([1, *(row[index].cell_length for row in rows if index < len(row))]) for index in range(count)
    ]
    if sum(needs) <= room:
        return needs
    left, widths = max(room, 3 * count), [0] * count
    for place, index in enumerate(sorted(range(count), key=needs.__getitem__)):
        widths[index] = max(3, min(needs[index], left // (count - place)))
        left -= widths[index]
    return widths
