"""Takes out of a continued answer what repeats the text before it.

A model that is asked to go on from a text often begins with its last words again, sometimes with
all of it. Both are removed, so that no text reaches the caller twice.
"""

from __future__ import annotations

from typing import Final

LEAST_OVERLAP: Final = 8
"""Fewer characters may well be the same by chance ("and the", then "the next")."""

LOOK_BACK: Final = 4_000
"""How far back a repetition of the last words may begin."""

LEAST_RESTART: Final = 24
"""An answer whose first so many characters are those of the whole text has begun anew."""


class RestartedError(Exception):
    """The continuation began the answer anew and went another way: it does not fit to what is there."""


class OverlapRemover:
    """Holds the beginning of a continuation back until it is clear how much of it is a repetition.

    Args:
        before: The text that is continued.
    """

    __slots__ = ("_before", "_held", "_settled", "_tail", "removed")

    def __init__(self, before: str) -> None:
        self._before = before
        self._tail = before[-LOOK_BACK:]
        self._held = ""
        self._settled = not before
        self.removed = 0
        """Characters taken out so far."""

    def feed(self, text: str) -> str:
        """What is new in the next piece and in those held back; empty while that isn't clear.

        Raises:
            RestartedError: The continuation begins the text anew and differs.
        """
        if self._settled:
            return text
        self._held += text
        return "" if self._undecided() else self._settle()

    def end(self) -> str:
        """What is new in the pieces still held back, once no more will come.

        Raises:
            RestartedError: As :meth:`feed`.
        """
        return "" if self._settled else self._settle()

    def _undecided(self) -> bool:
        held, tail = self._held, self._tail
        if len(held) <= len(self._before) and self._before.startswith(held):
            return True
        found = tail.find(held)
        # A place where more of the text would have to follow may yet turn out as its last words.
        return found != -1 and found + len(held) < len(tail)

    def _settle(self) -> str:
        self._settled = True
        held, self._held = self._held, ""
        self.removed = self._repeated(held)
        return held[self.removed :]

    def _repeated(self, held: str) -> int:
        before, tail = self._before, self._tail
        if held.startswith(before):
            return len(before)
        for length in range(min(len(held), len(tail)), LEAST_OVERLAP - 1, -1):
            if tail.endswith(held[:length]):
                return length
        if len(held) >= LEAST_RESTART and before.startswith(held[:LEAST_RESTART]):
            raise RestartedError
        return 0
