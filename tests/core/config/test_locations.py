"""Keys of any TOML document are found on the line on which they stand."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.config.locations import KeyPath, Locations

AWKWARD = [
    "plain",
    "1",
    "a-b_c",
    "with space",
    "dot.ted",
    "ha#sh",
    "br[ack]et",
    'quo"te',
    "apo'strophe",
    "ünï",
    "",
    "eq=ual",
    "back\\slash",
    "new\nline",
]
BARE = [
    name
    for name in AWKWARD
    if name and all(char.isascii() and (char.isalnum() or char in "-_") for char in name)
]

TRICKY_SCALARS = [
    "1",
    "-5_000_000",
    "true",
    "1979-05-27 07:32:00Z",
    '"text"',
    '"# no comment"',
    '"esc \\" ] } , aped"',
    "'lit # \\'",
    '"""one line"""',
    '"""\nthree\nlines ] = "quoted" \\""""',
    "'''\nkey = 1\n[table]\n'''",
    '"""two at the end"""""',
    "''''apostrophe first'''",
]


def written(draw: st.DrawFn, name: str) -> str:
    """A key as a person may write it."""
    forms = ['"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"']
    if name in BARE:
        forms.append(name)
    if "'" not in name and "\n" not in name:
        forms.append(f"'{name}'")
    return draw(st.sampled_from(forms))


class Writer:
    """Writes random TOML, and notes where it puts each key."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    def note(self, path: KeyPath) -> None:
        self.lines[path] = self.text.count("\n") + 1

    def blank(self, *, breaks: bool) -> None:
        options = ["", " ", "\t "]
        if breaks:
            options += ["\n", " # a [comment] = 'x'\n", "\r\n\n"]
        self.text += self.draw(st.sampled_from(options))

    def value(self, path: KeyPath, depth: int) -> None:
        kind = self.draw(st.sampled_from(["scalar", "scalar", "array", "inline"] if depth else ["scalar"]))
        if kind == "scalar":
            self.text += self.draw(st.sampled_from(TRICKY_SCALARS))
        elif kind == "array":
            self.text += "["
            for index in range(self.draw(st.integers(0, 3))):
                self.blank(breaks=True)
                self.note((*path, index))
                self.value((*path, index), depth - 1)
                self.blank(breaks=True)
                self.text += ","
            self.blank(breaks=True)
            self.text += "]"
        else:
            self.text += "{"
            for position, name in enumerate(self.names(2)):
                self.text += ", " if position else " "
                self.pair(path, name, depth - 1)
            self.text += " }"

    def names(self, most: int) -> list[str]:
        return self.draw(st.lists(st.sampled_from(AWKWARD), max_size=most, unique=True))

    def pair(self, parent: KeyPath, name: str, depth: int) -> None:
        path = (*parent, name)
        self.note(path)
        self.text += written(self.draw, name)
        if self.draw(st.integers(0, 3)) == 0:
            inner = self.draw(st.sampled_from(AWKWARD))
            self.text += self.draw(st.sampled_from([".", " . "])) + written(self.draw, inner)
            path = (*path, inner)
            self.note(path)
        self.text += self.draw(st.sampled_from(["=", " = ", "\t="]))
        self.value(path, depth)

    def header(self, path: KeyPath, *, array: bool) -> None:
        opening, closing = ("[[", "]]") if array else ("[", "]")
        names = [written(self.draw, part) for part in path if isinstance(part, str)]
        self.text += opening + self.draw(st.sampled_from([".", " . "])).join(names) + closing
        self.blank(breaks=False)
        self.text += self.draw(st.sampled_from(["\n", " # [no.table]\n", "\r\n"]))

    def body(self, path: KeyPath) -> None:
        for name in self.names(3):
            self.blank(breaks=True)
            self.pair(path, name, 2)
            self.blank(breaks=False)
            self.text += "\n"


@st.composite
def documents(draw: st.DrawFn) -> Writer:
    """Keys at the root, then tables, arrays of tables and tables inside their last entries."""
    writer = Writer(draw)
    writer.body(())
    taken = set(tomllib.loads(writer.text))
    for name in draw(st.lists(st.sampled_from(AWKWARD), max_size=3, unique=True)):
        if name in taken:
            continue
        if draw(st.booleans()):
            writer.note((name,))
            writer.header((name,), array=False)
            writer.body((name,))
            continue
        for index in range(draw(st.integers(1, 3))):
            if index == 0:
                writer.note((name,))
            entry: KeyPath = (name, index)
            writer.note(entry)
            writer.header((name,), array=True)
            if draw(st.booleans()):
                inner = draw(st.sampled_from(AWKWARD))
                writer.note((*entry, inner))
                writer.header((name, inner), array=False)
                writer.body((*entry, inner))
            else:
                writer.body(entry)
    return writer


@settings(deadline=None, max_examples=150)
@given(documents())
def test_every_key_of_a_random_document_is_found_on_its_line(writer: Writer) -> None:
    document = tomllib.loads(writer.text)
    locations = Locations(writer.text)
    for path, line in writer.lines.items():
        value: Any = document
        for part in path:
            value = value[part]
        assert locations.line(path) == line, (path, writer.text)


@settings(deadline=None, max_examples=50)
@given(documents(), st.lists(st.one_of(st.sampled_from(AWKWARD), st.integers(0, 5)), max_size=4))
def test_a_path_that_is_not_there_gets_the_line_of_its_nearest_parent(
    writer: Writer, extra: list[str | int]
) -> None:
    locations = Locations(writer.text)
    for path, line in writer.lines.items():
        assert locations.line((*path, "\x00 nowhere", *extra)) == line
    assert locations.line(("\x00 nowhere", *extra)) == 1


def test_deep_nesting_costs_no_stack() -> None:
    text = "a = 1\nb = " + "[" * 5_000 + "7" + "]" * 5_000 + "\n[c]\nd = 2\n"
    locations = Locations(text)
    assert locations.line(("b", *([0] * 5_000))) == 2
    assert locations.line(("c", "d")) == 4
