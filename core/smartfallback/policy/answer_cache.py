"""Answers given before, for requests that nobody can serve now: exact, and with their age."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from smartfallback.model.requests import DegradationKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smartfallback.model.requests import Reply, Request

_AS_ASKED: Final = frozenset({DegradationKind.FALLBACK_POOL, DegradationKind.RESERVE_QUOTA})
"""They tell who answered, not that less than the question was answered."""


class AnswerCache:
    """Whole answers by what was asked; the least recently used make room for new ones.

    Two requests ask the same if their chain, model, messages, output limit, temperature and needed
    capabilities are equal. Prompts are not kept: an entry is found by a 256-bit digest of them. The
    newest answer to a question replaces older ones. Times are monotonic seconds.

    Args:
        most_entries: So many answers are kept.
        most_characters: The texts of all answers together; a longer one is not kept at all.

    Raises:
        ValueError: A limit is below 1; the message names it.
    """

    __slots__ = ("_characters", "_entries", "_most_characters", "_most_entries")

    def __init__(self, *, most_entries: int = 500, most_characters: int = 4_000_000) -> None:
        for name, value in (("most_entries", most_entries), ("most_characters", most_characters)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        self._most_entries = most_entries
        self._most_characters = most_characters
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def characters(self) -> int:
        """Of the texts of all answers together."""
        return self._characters

    def put(self, request: Request, reply: Reply, now: float) -> None:
        """Keep ``reply`` as the answer to ``request``, if it is whole and all that was asked for.

        Not kept are answers that were cut off or filtered, put together from two, taken from a
        cache, given to a shortened question or by a lesser model, and those whose text the request
        did not want kept.
        """
        size = len(reply.text)
        if size > self._most_characters or not _worth_keeping(request, reply):
            return
        key = _digest(request)
        self._remove(key)
        self._entries[key] = _Entry(reply, now)
        self._characters += size
        while len(self._entries) > self._most_entries or self._characters > self._most_characters:
            self._remove(next(iter(self._entries)))

    def get(self, request: Request, now: float, max_age_s: float) -> tuple[Reply, float] | None:
        """The answer to an equal request, at most ``max_age_s`` seconds old, and its age in seconds.

        An answer of an account that ``request`` avoids, or of another than the one it is pinned to,
        is not given; nor is any where the reply must not hold its text.
        """
        if not request.keep_text:
            return None
        key = _digest(request)
        entry = self._entries.get(key)
        if entry is None:
            return None
        age = max(0.0, now - entry.at)
        account = entry.reply.account
        # Written so that a limit that is no number admits nothing.
        fresh = age <= max_age_s
        if not fresh or account in request.avoid or request.pin not in (None, account):
            return None
        self._entries.move_to_end(key)
        return entry.reply, age

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._characters -= len(entry.reply.text)


class _Entry(NamedTuple):
    reply: Reply
    at: float


def _worth_keeping(request: Request, reply: Reply) -> bool:
    return (
        request.keep_text
        and bool(reply.text)
        and reply.finish_reason == "stop"
        and reply.cached_age_s is None
        and not reply.seams
        and all(degradation.kind in _AS_ASKED for degradation in reply.degradations)
    )


def _digest(request: Request) -> bytes:
    digest = blake2b(digest_size=32)
    for part in _parts(request):
        # Each part goes in behind its length, so that no two lists of parts read the same; lone
        # surrogates, which callers may pass, are encoded too.
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def _parts(request: Request) -> Iterator[str]:
    """All that makes the question, in a fixed order; what may be missing is put into ``repr``."""
    yield request.chain
    yield repr(request.model)
    yield repr(request.max_output_tokens)
    # 1 and 1.0, or 0.0 and -0.0, are one temperature.
    yield repr(None if request.temperature is None else float(request.temperature) + 0.0)
    yield str(len(request.requires))
    yield from sorted(request.requires)
    for message in request.messages:
        yield message.role
        yield message.content
