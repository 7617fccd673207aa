"""The demo model: a real GGUF that says what it is, for the local pool until a real one is set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import platformdirs

from smartfallback.simulation.chain_model import END, START, Chain, write_chain_model

if TYPE_CHECKING:
    from pathlib import Path

VERSION: Final = 1
"""Grows with every change of the text or the file's layout."""

CONTEXT_TOKENS: Final = 8192

Slot = Sequence[tuple[float, str]]
"""One place in the answer: alternative texts with their weights; an empty text leaves the place out."""

# Every answer opens with one of the first slot's sentences and closes with one of the last slot's.
_ANSWER: Final[Sequence[Slot]] = (
    (
        (4, "I am the **demo model**, a tiny GGUF file that SmartFallback wrote by itself."),
        (3, "This is SmartFallback's built-in **demo model** speaking, less than a megabyte of weights."),
        (2, "You have reached the **demo model**, the last step of this chain."),
    ),
    (
        (4, " I know nothing about the world, so I can't answer your question."),
        (3, " There is no knowledge in me: I recite sentences and pick among them by chance."),
        (2, " Please expect no facts here, only proof that local inference works."),
    ),
    (
        (3, "\n\nYour words were still tokenized and evaluated by llama.cpp on this computer."),
        (3, "\n\nStill, each token you read was sampled by llama.cpp in a child process."),
        (2, "\n\nNothing you typed has left this machine."),
    ),
    (
        (3, " When every cloud account is busy, drained or down, requests end up with me."),
        (2, " That makes me good for rehearsing an outage, and for little else."),
        (2, ""),
    ),
    (
        (2, "\n\n- real sampling, from real logits\n- one request at a time\n- restarted if it dies"),
        (3, ""),
    ),
    (
        (4, "\n\nFor real answers, set `model_path` of the local pool to a GGUF model of your own."),
        (3, "\n\nGive the local pool a real model through `model_path`, and it will take my place."),
    ),
)


def write_demo_model(path: Path) -> None:
    """Write the demo model to ``path``, whole or not at all; the bytes are always the same.

    Raises:
        ModuleNotFoundError: The extra ``local`` is not installed.
        OSError: The file can't be written.
    """
    write_chain_model(path, chain_of(_ANSWER), name="SmartFallback demo model", context_tokens=CONTEXT_TOKENS)


def demo_model_path() -> Path:
    """Where the demo model lies in the user's cache; it is written there if it is missing.

    Without the extra ``local`` nothing is written: the local pool then says what to install.

    Raises:
        OSError: The cache can't be written.
    """
    path = platformdirs.user_cache_path("smartfallback") / f"demo-model-v{VERSION}.gguf"
    if not path.is_file():
        try:
            write_demo_model(path)
        except ModuleNotFoundError:
            return path
    return path


def chain_of(slots: Sequence[Slot]) -> Chain:
    """Make the chain that says one alternative of each slot after another.

    A piece stands for one place only, so a word that occurs twice is joined with the words after
    it until the piece is unique.

    Raises:
        ValueError: A text has no piece that is its own, or the last slot may be left out.
    """
    chain: dict[str, list[tuple[str, float]]] = {}
    openings: list[list[tuple[str, float]]] = []
    endings: list[list[str]] = []
    for slot in slots:
        openings.append([])
        endings.append([])
        for weight, text in slot:
            if not text:
                openings[-1].append(("", weight))
                continue
            pieces = _pieces(text, chain)
            for piece, successor in zip(pieces, [*pieces[1:], ""], strict=True):
                chain[piece] = [(successor, 1.0)] if successor else []
            openings[-1].append((pieces[0], weight))
            endings[-1].append(pieces[-1])
    following: list[tuple[str, float]] = [(END, 1.0)]
    for opening, ending in zip(reversed(openings), reversed(endings), strict=True):
        for piece in ending:
            chain[piece] = following
        following = _with_gaps_filled(opening, following)
    chain[START] = following
    return chain


def _with_gaps_filled(
    opening: Sequence[tuple[str, float]], following: Sequence[tuple[str, float]]
) -> list[tuple[str, float]]:
    """The slot's openings, with its empty alternative replaced by what comes after the slot."""
    total = sum(weight for _, weight in following)
    filled = [(piece, weight) for piece, weight in opening if piece]
    for piece, weight in opening:
        if not piece:
            filled += [(successor, weight * share / total) for successor, share in following]
    return filled


def _pieces(text: str, taken: Chain) -> list[str]:
    """Cut ``text`` into words, each with the space before it; those already taken are joined."""
    pieces: list[str] = []
    piece = ""
    for word in re.findall(r"\s*\S+", text):
        piece += word
        if piece not in taken and piece not in pieces:
            pieces.append(piece)
            piece = ""
    if piece and not pieces:
        raise ValueError(f"{text!r} has no piece that is its own")
    if piece:
        pieces[-1] += piece
        if pieces[-1] in taken or pieces[-1] in pieces[:-1]:
            raise ValueError(f"{text!r} ends like another text")
    return pieces
