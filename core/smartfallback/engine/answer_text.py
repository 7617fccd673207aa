"""The text of an answer while it comes in: what the caller got, the seams in it, and what it may cost."""

from __future__ import annotations

from smartfallback.model.requests import Seam
from smartfallback.policy.overlap import OverlapRemover

_LOOSE_PIECES = 512
"""A small string costs fifty bytes besides its characters, so so many are joined to one."""


class AnswerText:
    """Collects an answer that may be made of several accounts' parts.

    Attributes:
        characters: How many characters the caller has got.
        whole: It has not broken off, so that every piece is new text.
        seams: Where the answer broke off and went on.

    Args:
        keep: Keep the text; without it only its length is known.
    """

    __slots__ = ("_blocks", "_broken", "_keep", "_overlap", "_pieces", "characters", "seams", "whole")

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._blocks: list[str] = []
        self._pieces: list[str] = []
        self._overlap: OverlapRemover | None = None
        self._broken: tuple[str, str] | None = None
        self.characters = 0
        self.whole = True
        self.seams: list[Seam] = []

    def __str__(self) -> str:
        return "".join(self._blocks) + "".join(self._pieces)

    @property
    def kept(self) -> bool:
        """Whether :func:`str` gives the text."""
        return self._keep

    def broke_off(self, account: str, cause: str) -> None:
        """The answer of ``account`` has broken off; what is added from now on continues it."""
        if self._broken is None:
            self._broken = (account, cause)
        self.whole = False
        self._overlap = OverlapRemover(str(self))

    def take(self, text: str, account: str) -> tuple[Seam | None, str]:
        """Add the next piece, from ``account``.

        Returns:
            The seam that lies before it, if there is a new one, and what of the piece is new text.

        Raises:
            RestartedError: It begins the answer anew instead of continuing it.
        """
        overlap = self._overlap
        if overlap is None:
            return None, self.add(text)
        new = overlap.feed(text)
        return (self._sew(account, overlap), self.add(new)) if new else (None, "")

    def end(self, account: str) -> tuple[Seam | None, str]:
        """Add what is still held back for its likeness to the text before; see :meth:`take`."""
        overlap = self._overlap
        if overlap is None:
            return None, ""
        new = overlap.end()
        return self._sew(account, overlap), self.add(new)

    def _sew(self, account: str, overlap: OverlapRemover) -> Seam | None:
        if self._broken is None:
            return None
        broken, cause = self._broken
        self._broken = None
        seam = Seam(self.characters, broken, account, cause, overlap.removed)
        self.seams.append(seam)
        return seam

    def add(self, text: str) -> str:
        """Add the next piece of an answer that has not broken off; returns it."""
        self.characters += len(text)
        if self._keep and text:
            pieces = self._pieces
            pieces.append(text)
            if len(pieces) >= _LOOSE_PIECES:
                self._blocks.append("".join(pieces))
                pieces.clear()
        return text
