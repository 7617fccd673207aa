"""What the schema refused, in words for the operator instead of pydantic's."""

from __future__ import annotations

import re
import types
from typing import TYPE_CHECKING, Annotated, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from smartfallback.config.mistakes import nearest, one_of, printable, shown
from smartfallback.config.schema import ConfigFile
from smartfallback.model.quota import QuotaUnit, WindowKind
from smartfallback.model.specs import ProviderKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails

    from smartfallback.config.locations import KeyPath
    from smartfallback.config.mistakes import Report

_TYPES: Final = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_OF_A_KEY: Final = "[key]"
"""How the schema says that a key is meant and not its value."""
_TABLES: Final = frozenset({"a table", "a list in brackets"})
_QUOTED: Final = re.compile(r"'([^']*)'")
_TO_ADD: Final = {
    "pools": 'add a table [pools.NAME]; "smartfallback init" writes an example',
    "chains": 'add a table [chains.default] with pools = ["NAME", …]',
    "accounts": "add a table [[pools.NAME.accounts]] with an id",
    "id": "give the account a name of its own",
    "provider": f"say which kind of upstream it is: {one_of(ProviderKind)}",
    "window": f"say over which span it counts: {one_of(WindowKind)}",
    "unit": f"say what it counts: {one_of(QuotaUnit)}",
}
_POOLS_OF_CHAIN: Final = 'name them in the order in which they are asked: pools = ["NAME", …]'


def explain(
    error: ValidationError, report: Report, root: type[BaseModel] = ConfigFile, at: KeyPath = ()
) -> None:
    """Add every error that the schema found to ``report``.

    Args:
        error: What the schema found.
        report: Takes the mistakes.
        root: The schema's outermost table.
        at: Where in the document that table stands.
    """
    for detail in error.errors(include_url=False):
        _explain_one(detail, report, root, at)


def _explain_one(detail: ErrorDetails, report: Report, root: type[BaseModel], at: KeyPath) -> None:
    inside: KeyPath = tuple(part for part in detail["loc"] if part != _OF_A_KEY)
    path = (*at, *inside)
    kind = detail["type"]
    context = detail.get("ctx", {})
    last = path[-1] if path else ""
    if kind == "extra_forbidden":
        names = list(_keys_at(inside[:-1], root))
        report.mistake(
            path, "unknown key", found="", allowed=", ".join(names), suggestion=nearest(str(last), names)
        )
    elif kind in ("missing", "too_short"):
        problem = "is missing" if kind == "missing" else "is empty"
        hint = _POOLS_OF_CHAIN if path[0] == "chains" and last == "pools" else _TO_ADD.get(str(last), "")
        report.mistake(path, problem, suggestion=hint)
    elif kind in _TYPES:
        expected = _TYPES[kind]
        # What stands in a table's place may be a pasted secret.
        found = _kind_of(detail["input"]) if expected in _TABLES else None
        named = expected == "a table" and len(path) == 2 and path[0] in ("pools", "chains")
        report.mistake(
            path,
            "wrong type",
            found=found,
            allowed=expected,
            suggestion=f"{path[0]} have names: write this below [{path[0]}.NAME]" if named else "",
        )
    elif kind in ("enum", "literal_error"):
        names = _QUOTED.findall(str(context.get("expected", "")))
        value = detail["input"]
        report.mistake(
            path,
            "not one of the allowed values",
            found=shown(value) if detail["loc"] != inside else None,
            allowed=one_of(names),
            suggestion=nearest(value, names) if isinstance(value, str) else "",
        )
    elif kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        report.mistake(path, "out of range", allowed=f"{words} {context.get(name):g}")
    elif kind == "refused":
        report.mistake(
            path,
            printable(context["problem"]),
            allowed=context["allowed"],
            suggestion=context["suggestion"],
        )
    else:
        problem = context.get("error", detail["msg"])
        report.mistake(path, printable(str(problem)))


def _kind_of(value: object) -> str:
    """What sort of value it is, without showing it."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "a table" if isinstance(value, dict) else "a date or time"


def _keys_at(path: KeyPath, root: type[BaseModel]) -> Iterator[str]:
    """The keys that ``root`` knows in the table at ``path``."""
    annotation: object = root
    for part in path:
        annotation = _inside(_plain(annotation), part)
    annotation = _plain(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from annotation.model_fields


def _inside(annotation: object, part: str | int) -> object:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _plain(annotation: object) -> object:
    """``annotation`` without ``Annotated`` and without ``| None``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            annotation = next(part for part in get_args(annotation) if part is not types.NoneType)
        else:
            return annotation
