"""Text from outside made safe to show, and handed to the screen in measured portions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from rich.cells import chop_cells

_ASCII_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_KEPT_OUT = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Control, format (bidi overrides, joiners), surrogate, private-use and line separator characters."""
_VARIATION_SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Terminals disagree on the width of a character followed by one of these."""


def printable(text: str) -> str:
    """``text`` with line breaks and tabs, without what could move the cursor or turn lines round."""
    if text.isascii():
        return _ASCII_CONTROLS.sub("", text)
    return "".join(character for character in text if _is_kept(character))


def _is_kept(character: str) -> bool:
    if character in "\n\t":
        return True
    return unicodedata.category(character) not in _KEPT_OUT and character not in _VARIATION_SELECTORS


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells, broken anywhere; the cost grows with its length only."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines += chop_cells(line.expandtabs(4), max(1, width)) or [""]
    return lines


class Pacer:
    """Collects text and says when the next portion is due.

    Portions are at least ``interval_s`` apart, and further when showing them takes long: showing may take
    a ``1 / (1 + rest)`` share of the time at most, so that keys are answered whatever comes.

    Args:
        clock: Monotonic seconds.
        interval_s: Seconds between two portions, at least.
        rest: How many times the cost of the last portion passes before the next one.
    """

    def __init__(self, clock: Callable[[], float], interval_s: float = 0.1, rest: float = 3.0) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._rest = rest
        self._due_at = 0.0
        self._pieces: list[str] = []
        self._took_at = 0.0

    def put(self, text: str) -> None:
        """Add text to the next portion."""
        if text:
            self._pieces.append(text)

    @property
    def due(self) -> bool:
        """Whether there is text and it may be shown now."""
        return bool(self._pieces) and self._clock() >= self._due_at

    @property
    def empty(self) -> bool:
        """Whether all text has been taken."""
        return not self._pieces

    def take(self, limit: int) -> str:
        """The next portion, of at most ``limit`` characters; call :meth:`shown` once it is on the screen."""
        self._took_at = self._clock()
        self._due_at = self._took_at + self._interval_s
        text = "".join(self._pieces)
        self._pieces.clear()
        self.put(text[limit:])
        return text[:limit]

    def shown(self) -> None:
        """The portion is on the screen: rest in proportion to what that took."""
        now = self._clock()
        self._due_at = max(self._due_at, now + self._rest * (now - self._took_at))
