"""On which line of a TOML document each key stands, which ``tomllib`` does not tell."""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

KeyPath = tuple[str | int, ...]
"""The way from the document's root to a value: keys of tables and indexes of arrays."""

_BLANK: Final = " \t\r\n"
_ENDS_SCALAR: Final = frozenset(",]}#\r\n")


class Locations:
    """Maps key paths to line numbers, from 1.

    Args:
        text: A document that ``tomllib`` accepts; the scanner relies on that and checks nothing.
    """

    def __init__(self, text: str) -> None:
        scanner = _Scanner(text)
        scanner.scan()
        self._lines = scanner.lines

    def line(self, path: KeyPath) -> int:
        """The line of the value at ``path``, or of the nearest of its parents that the file has."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return 1


@dataclass(slots=True)
class _Open:
    """An array or inline table whose end has not been reached; ``items`` counts an array's values."""

    path: KeyPath
    array: bool
    items: int = 0


class _Scanner:
    """One pass over a valid document; nested values are kept on a list, so depth costs no stack."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._starts = [0]
        self._starts.extend(index + 1 for index, char in enumerate(text) if char == "\n")
        self._array_tables: dict[KeyPath, int] = {}

    def scan(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._assignment(table)

    def _header(self) -> KeyPath:
        line = self._line()
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        keys = self._key()
        self._at += 2 if array else 1
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._into_last_item((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, keys[-1])
        if array:
            self.lines.setdefault(path, line)
            index = self._array_tables.get(path, -1) + 1
            self._array_tables[path] = index
            path = (*path, index)
        self.lines[path] = line
        return path

    def _into_last_item(self, path: KeyPath) -> KeyPath:
        index = self._array_tables.get(path)
        return path if index is None else (*path, index)

    def _assignment(self, table: KeyPath) -> None:
        self._value(self._named(table))

    def _named(self, parent: KeyPath) -> KeyPath:
        """Read a key and its equals sign; record every table that a dotted key makes."""
        line = self._line()
        path = parent
        for key in self._key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._skip(" \t")
        self._at += 1
        self._skip(" \t")
        return path

    def _value(self, path: KeyPath) -> None:
        opened: list[_Open] = []
        while True:
            char = self._text[self._at]
            if char in "[{":
                opened.append(_Open(path, array=char == "["))
                self._at += 1
            else:
                self._scalar(char)
            while opened:
                self._skip(_BLANK + ",")
                inner = opened[-1]
                if self._text[self._at] in "]}":
                    opened.pop()
                    self._at += 1
                    continue
                if inner.array:
                    path = (*inner.path, inner.items)
                    inner.items += 1
                    self.lines[path] = self._line()
                else:
                    path = self._named(inner.path)
                break
            if not opened:
                return

    def _scalar(self, first: str) -> None:
        if first in "\"'":
            self._string(first)
            return
        while self._at < len(self._text) and self._text[self._at] not in _ENDS_SCALAR:
            self._at += 1

    def _string(self, quote: str) -> None:
        text = self._text
        if text.startswith(quote * 3, self._at):
            self._at = self._closing(self._at + 3, quote * 3)
            # Up to two quotes may stand directly before the closing three.
            while self._at < len(text) and text[self._at] == quote:
                self._at += 1
        else:
            self._at = self._closing(self._at + 1, quote)

    def _closing(self, at: int, end: str) -> int:
        """The place after the next ``end``, where basic strings may hold escaped quotes."""
        text = self._text
        while at < len(text):
            if end[0] == '"' and text[at] == "\\":
                at += 2
            elif text.startswith(end, at):
                return at + len(end)
            else:
                at += 1
        return at

    def _key(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(" \t")
            start = self._at
            if self._text[start] in "\"'":
                self._string(self._text[start])
                keys.append(tomllib.loads("key = " + self._text[start : self._at])["key"])
            else:
                while self._text[self._at].isalnum() or self._text[self._at] in "-_":
                    self._at += 1
                keys.append(self._text[start : self._at])
            self._skip(" \t")
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _skip(self, blank: str) -> bool:
        """Move over blanks, and over comments where lines may end; False at the document's end."""
        text = self._text
        while self._at < len(text):
            if text[self._at] in blank:
                self._at += 1
            elif text[self._at] == "#" and "\n" in blank:
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            else:
                return True
        return False

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)
