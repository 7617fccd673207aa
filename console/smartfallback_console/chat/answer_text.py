"""The text of an answer on the screen: Markdown while that is cheap, plain lines beyond."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt
from rich.segment import Segment
from textual.content import Content
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownBlock, MarkdownFence

from smartfallback_console.chat.blocks import FLAT, HIGHLIGHTED_CHARACTERS, FlatBlock
from smartfallback_console.chat.text import printable, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from markdown_it.rules_core import StateCore
    from markdown_it.token import Token
    from textual.app import ComposeResult

MARKDOWN_CHARACTERS = 24_000
"""Of each answer so much is formatted; the rest is as readable as plain lines."""
PORTION = 4_000
"""Characters handed to Markdown at once, so that what they cost is known before the next."""
PLAIN_PORTION = 50_000
"""The same for plain lines."""
MARKDOWN_BLOCKS = 250
"""Paragraphs and headings of one answer, at most; each is a widget that every layout visits."""
MARKDOWN_LINE = 6_000
"""From a line longer than this on an answer is shown as it is; it is no prose."""


_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")


def _printable_tokens(state: StateCore) -> None:
    """Character references such as ``&#x202e;`` are decoded by the parser, so they are made safe here."""
    for token in state.tokens:
        for child in token.children or ():
            child.content = printable(child.content)


def parser() -> MarkdownIt:
    """A Markdown parser that shows HTML as text instead of leaving it out."""
    made = MarkdownIt("gfm-like", {"html": False})
    made.core.ruler.push("printable", _printable_tokens)
    return made


class _Fence(MarkdownFence):
    @classmethod
    def highlight(cls, code: str, language: str, ansi: bool = False, dark: bool = False) -> Content:
        if len(code) > HIGHLIGHTED_CHARACTERS:
            return Content(code)
        return super().highlight(code, language, ansi=ansi, dark=dark)


class AnswerMarkdown(Markdown):
    """Markdown from a model: its links open nothing by themselves."""

    DEFAULT_CSS = """
    AnswerMarkdown {
        padding: 0; background: transparent;
        MarkdownH1, MarkdownH2, MarkdownH3, MarkdownH4, MarkdownH5, MarkdownH6 {
            margin: 0 0 1 0; padding: 0; content-align: left middle; text-style: bold;
            color: $primary; background: transparent;
        }
        MarkdownH1 { text-style: bold underline; }
        MarkdownFence {
            margin: 0 0 1 0; color: $foreground; background: $foreground 6%;
            & > Label { padding: 0 1; }
            &:light { background: $foreground 6%; }
        }
        MarkdownHorizontalRule { margin: 0 0 1 0; border-bottom: solid $foreground 25%; height: 1; }
    }
    """

    BLOCKS = {**Markdown.BLOCKS, "fence": _Fence, "code_block": _Fence}  # noqa: RUF012 - Textual's own declaration

    def __init__(self) -> None:
        super().__init__(parser_factory=parser, open_links=False)

    def _parse_markdown(self, tokens: Iterable[Token]) -> Iterable[MarkdownBlock]:
        """Blocks of a document; lists, quotes and tables become one block each."""
        plain: list[Token] = []
        flat: list[Token] = []
        for token in tokens:
            if flat or (token.level == 0 and token.type in FLAT):
                flat.append(token)
                if token.level == 0 and token.nesting < 0:
                    yield from super()._parse_markdown(plain)
                    yield FlatBlock(self, flat)
                    plain, flat = [], []
            else:
                plain.append(token)
        yield from super()._parse_markdown(plain)


class PlainLines(Widget):
    """Text as it is, wrapped at the edge; what it costs grows with the lines in sight only."""

    DEFAULT_CSS = """
    PlainLines { height: auto; width: 1fr; color: $foreground; display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._open = ""
        self._done: list[str] = []
        self._source: list[str] = []
        self._wrapped_at = 0
        self._lines: list[str] = []

    def append(self, text: str) -> None:
        """Add text at the end."""
        self.display = True
        self._source.append(text)
        head, newline, tail = (self._open + text).rpartition("\n")
        if newline:
            self._done += wrapped(head, self._wrapped_at or 80)
        self._open = tail
        self._collect()
        self.refresh(layout=True)

    def _collect(self) -> None:
        self._lines = [*self._done, *wrapped(self._open, self._wrapped_at or 80)]

    def _fit(self, width: int) -> None:
        if width != self._wrapped_at and width > 0:
            self._wrapped_at = width
            head, newline, self._open = "".join(self._source).rpartition("\n")
            self._done = wrapped(head, width) if newline else []
            self._collect()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's signature
        """As many lines as the text fills at that width."""
        self._fit(width)
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """One line."""
        self._fit(self.size.width)
        if y >= len(self._lines):
            return Strip.blank(self.size.width, self.rich_style)
        strip = Strip([Segment(self._lines[y], self.rich_style)])
        return strip.adjust_cell_length(self.size.width, self.rich_style)


def open_fence(text: str) -> str:
    """The line that opened the block of code in which ``text`` ends, empty if it ends in none.

    With a line break where ``text`` has got beyond it.
    """
    opened = marker = ""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        found = _FENCE.match(line)
        if found is None:
            continue
        if not marker:
            marker = found[1]
            opened = line.strip() + ("\n" if number < len(lines) - 1 else "")
        elif found[1][0] == marker[0] and len(found[1]) >= len(marker) and not found[2].strip():
            opened = marker = ""
    return opened


class AnswerText(Widget):
    """An answer as it grows."""

    DEFAULT_CSS = """
    AnswerText {
        height: auto; width: 1fr; layout: vertical;
        & > .seam { height: auto; width: 1fr; margin: 0 0 1 0; color: $warning; }
    }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._formatted = 0
        self._line = 0
        self._plain = False
        self._markdown = AnswerMarkdown()
        self._plain_lines = PlainLines()
        self.appends = 0
        """How often text was added to the Markdown."""

    def compose(self) -> ComposeResult:
        """Markdown, and the lines that follow it."""
        yield self._markdown
        yield self._plain_lines

    @property
    def portion(self) -> int:
        """How many characters are best added at once."""
        return PLAIN_PORTION if self._plain else PORTION

    async def append(self, text: str) -> None:
        """Add text at the end; it must be free of control characters."""
        if not self._plain:
            markdown = self._markdown
            room = self._room(text)
            head, text = text[:room], text[room:]
            if head:
                self.appends += 1
                self._formatted += len(head)
                await markdown.append(head)
            self._plain = bool(text) or len(markdown.children) >= MARKDOWN_BLOCKS
        if text:
            self._plain_lines.append(text)

    async def mark(self, said: Content, before: str) -> None:
        """Put a line of the console's own into the answer; what follows goes on below it.

        Args:
            said: What it says.
            before: The answer so far, whose block of code goes on if it stands in one.
        """
        self._markdown, self._plain_lines = AnswerMarkdown(), PlainLines()
        self._line = 0
        await self.mount(Static(said, classes="seam", markup=False), self._markdown, self._plain_lines)
        if not self._plain and (fence := open_fence(before)):
            await self._markdown.append(fence)

    def _room(self, text: str) -> int:
        """How many characters of ``text`` are to be formatted."""
        limit = min(len(text), MARKDOWN_CHARACTERS - self._formatted)
        start = 0
        while start < limit:
            newline = text.find("\n", start, limit)
            end = limit if newline < 0 else newline
            length = end - start + (self._line if start == 0 else 0)
            if length > MARKDOWN_LINE:
                return max(0, end - (length - MARKDOWN_LINE))
            self._line = 0 if newline >= 0 else length
            start = end + 1
        return limit
