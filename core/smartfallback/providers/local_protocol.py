"""What the console and the child process that runs a GGUF model say to each other.

One JSON object a line: orders go down the child's standard input, reports come up its standard
output. The end of the input means that the parent is gone. Reports carry the id of the order that
they answer, so that what was on its way when an answer was cancelled can be told apart.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final, TypeVar, cast


class Fault(StrEnum):
    """Why the child could not do what it was asked."""

    PACKAGE = "package"
    """llama-cpp-python can't be imported."""
    MODEL = "model"
    """The file is no model that llama.cpp can run."""
    CONTEXT = "context"
    """The conversation is longer than the context."""
    REQUEST = "request"
    """The conversation does not fit the model's chat template."""
    INFERENCE = "inference"
    """llama.cpp failed in mid-work; the process lives on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a child is started with.

    Attributes:
        model_path: The GGUF file.
        context_tokens: The context wanted; less is used when the model's own is smaller.
        threads: Threads for the computation.
    """

    model_path: str
    context_tokens: int
    threads: int


@dataclass(frozen=True, slots=True)
class Generate:
    """Order: answer a conversation of ``(role, text)`` turns; a None leaves llama.cpp's default."""

    id: int
    messages: list[list[str]]
    max_tokens: int | None
    temperature: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Order: stop the answer of that id. It is confirmed by whatever report ends the answer."""

    id: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Report: the model is loaded, with this much context."""

    context_tokens: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """Report: the model can't be loaded; the child ends."""

    fault: str
    message: str


@dataclass(frozen=True, slots=True)
class Text:
    """Report: a piece of an answer."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Report: an answer is complete, counted with the model's own tokenizer."""

    id: int
    reason: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Report: an answer ended because it was cancelled."""

    id: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Report: an answer could not be given."""

    id: int
    fault: str
    message: str


Order = Generate | Cancel
Report = Ready | LoadFailed | Text | Finished | Stopped | Failed

_ORDERS: Final[dict[str, type[Order]]] = {cls.__name__: cls for cls in (Generate, Cancel)}
_REPORTS: Final[dict[str, type[Report]]] = {
    cls.__name__: cls for cls in (Ready, LoadFailed, Text, Finished, Stopped, Failed)
}


def encode(message: Order | Report) -> bytes:
    """One line of ASCII, with its line feed."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode_order(line: bytes) -> Order:
    """The order in ``line``.

    Raises:
        ValueError: It holds none.
    """
    return _decode(line, _ORDERS)


def decode_report(line: bytes) -> Report:
    """The report in ``line``.

    Raises:
        ValueError: It holds none.
    """
    return _decode(line, _REPORTS)


_Message = TypeVar("_Message")


def _decode(line: bytes, kinds: dict[str, type[_Message]]) -> _Message:
    message = json.loads(line)
    kind = kinds.get(str(message.pop("kind", ""))) if isinstance(message, dict) else None
    if kind is None or message.keys() != {field.name for field in fields(cast(Any, kind))}:
        raise ValueError(f"not a message of this protocol: {line[:80]!r}")
    return kind(**message)
