"""Themes: the built-in ones and the user's, read from TOML files and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.color import Color, ColorParseError
from textual.theme import Theme

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

DEFAULT = "harbour-night"

_COLOURS = (
    "primary",
    "secondary",
    "accent",
    "warning",
    "error",
    "success",
    "foreground",
    "background",
    "surface",
    "panel",
)
_REQUIRED = ("primary", "foreground", "background")


class ThemeError(ValueError):
    """A theme file can't be used; the message names the file, the key and what is allowed."""


@dataclass(frozen=True, slots=True)
class ThemeSet:
    """The themes that were read, and a message for each file that could not be."""

    themes: tuple[Theme, ...]
    problems: tuple[str, ...] = ()


def built_in() -> ThemeSet:
    """The themes that come with the console."""
    return _read_all(files("smartfallback_themes").iterdir())


def from_folder(folder: Path) -> ThemeSet:
    """A user's themes; a folder that isn't there holds none."""
    return _read_all(folder.iterdir()) if folder.is_dir() else ThemeSet(())


def _read_all(entries: Any) -> ThemeSet:
    themes, problems = [], []
    found: list[Traversable] = sorted(
        (entry for entry in entries if entry.name.endswith(".toml")), key=lambda entry: entry.name
    )
    for entry in found:
        try:
            themes.append(parse(entry.read_bytes().decode("utf-8", "replace"), entry.name))
        except (ThemeError, OSError) as error:
            problems.append(str(error))
    return ThemeSet(tuple(themes), tuple(problems))


def parse(text: str, file_name: str) -> Theme:
    """One theme from the text of its file.

    Raises:
        ThemeError: Something in it is missing, misspelt or no colour.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ThemeError(f"{file_name}: {error}") from None
    allowed = {"name", "dark", "variables", *_COLOURS}
    if unknown := sorted(set(data) - allowed):
        raise ThemeError(f"{file_name}: unknown key {unknown[0]!r}; allowed are {', '.join(sorted(allowed))}")
    name = data.get("name", file_name.removesuffix(".toml"))
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise ThemeError(f"{file_name}: name must be a line of text")
    dark = data.get("dark", True)
    if not isinstance(dark, bool):
        raise ThemeError(f"{file_name}: dark must be true or false")
    if missing := [key for key in _REQUIRED if key not in data]:
        raise ThemeError(f"{file_name}: {', '.join(missing)} missing")
    colours = {key: _colour(data[key], file_name, key) for key in _COLOURS if key in data}
    variables = data.get("variables", {})
    if not isinstance(variables, dict):
        raise ThemeError(f"{file_name}: variables must be a table of names and colours")
    checked = {key: _colour(value, file_name, f"variables.{key}") for key, value in variables.items()}
    theme = Theme(name, colours["primary"], dark=dark, variables=checked)
    for key, value in colours.items():
        setattr(theme, key, value)
    return theme


def _colour(value: object, file_name: str, key: str) -> str:
    if not isinstance(value, str):
        raise ThemeError(f'{file_name}: {key} must be a colour such as "#3a7bd5", not {value!r}')
    try:
        Color.parse(value)
    except ColorParseError:
        raise ThemeError(f'{file_name}: {key}: {value!r} is no colour; write one as "#3a7bd5"') from None
    return value
