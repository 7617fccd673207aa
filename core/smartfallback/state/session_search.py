"""Finds words in chat sessions: exact text, whatever the case, with no sign that means anything else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from smartfallback.model.chat_sessions import SNIPPET_BEFORE, SNIPPET_LENGTH, Snippet

MOST_WORDS: Final = 8
_NEAR: Final = 4 * SNIPPET_LENGTH
_BLANKS: Final = re.compile(r"\s+")


class SessionSearch:
    """What is searched for; without a word everything fits.

    Args:
        words: Words, apart by blanks. A session fits when each stands in its title or in any of its texts.
    """

    def __init__(self, words: str) -> None:
        found = list(dict.fromkeys(words.split()))[:MOST_WORDS]
        self._patterns = [re.compile(re.escape(word), re.IGNORECASE) for word in found]

    def __bool__(self) -> bool:
        """Whether there is anything to search for."""
        return bool(self._patterns)

    def fits(self, title: str, texts: Iterable[str]) -> tuple[bool, Snippet | None]:
        """Whether a session fits, and the first place with most of the words that its title does not tell.

        Args:
            title: Its title, which is looked at first.
            texts: Its prompts and answers, those to be shown first at the front.

        Returns:
            Whether it fits; and a snippet, None if the title alone holds all words.
        """
        wanted = [pattern for pattern in self._patterns if not pattern.search(title)]
        missing = set(wanted)
        if not missing:
            return True, None
        best: tuple[int, Snippet] | None = None
        for text in texts:
            hits = [hit for pattern in wanted if (hit := pattern.search(text))]
            if not hits:
                continue
            missing.difference_update(hit.re for hit in hits)
            if best is None or len(hits) > best[0]:
                first = min(hits, key=lambda hit: hit.start())
                best = len(hits), snippet(text, first.start(), first.end())
            if not missing and best[0] == len(wanted):
                break
        return not missing, best[1] if best is not None else None


def snippet(text: str, start: int, end: int) -> Snippet:
    """What stands around ``text[start:end]``, on one line."""
    before = _BLANKS.sub(" ", text[max(0, start - _NEAR) : start]).lstrip()
    if len(before) > SNIPPET_BEFORE or start > _NEAR:
        before = f"…{before[-SNIPPET_BEFORE:]}"
    found = text[start:end][: SNIPPET_LENGTH - SNIPPET_BEFORE]
    room = SNIPPET_LENGTH - len(before) - len(found)
    after = _BLANKS.sub(" ", text[end : end + _NEAR]).rstrip()
    if len(after) > room or len(text) > end + _NEAR:
        after = f"{after[:room]}…"
    return Snippet(before + found + after, len(before), len(found))
