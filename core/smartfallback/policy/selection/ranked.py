"""The strategies that follow one fixed order: greedy, least recently used and round robin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from smartfallback.model.decisions import Rule
from smartfallback.model.specs import HybridSettings
from smartfallback.policy.selection.choice import Choice, Standing
from smartfallback.policy.selection.index import Key, SlotIndex
from smartfallback.policy.selection.scoring import score_terms


class RankedOrder:
    """Base of the strategies whose choice is the member with the smallest key."""

    __slots__ = ("_index", "_names", "_settings", "_standings")

    rule: ClassVar[Rule]

    def __init__(self, names: Sequence[str], standings: Sequence[Standing], settings: HybridSettings) -> None:
        self._names = names
        self._standings = standings
        self._settings = settings
        self._index = SlotIndex(len(names))

    def key(self, slot: int, standing: Standing) -> Key:
        """What orders the slot; unique by its turn."""
        raise NotImplementedError

    def put(self, slot: int, now: float) -> None:  # noqa: ARG002 - the order doesn't change with time
        """Insert the slot, or move it to where its standing belongs."""
        self._index.place(self.key(slot, self._standings[slot]))

    def discard(self, slot: int) -> None:
        """Remove the slot if it is there."""
        self._index.remove(slot)

    def candidates(self, now: float, session: str | None) -> Iterator[Choice]:  # noqa: ARG002 - sessions don't bind here
        """Every member once, by key."""
        rule = self.rule
        for slot in self._index.walk():
            yield self._choice(slot, rule, now)

    def taken(self, slot: int, session: str | None) -> int | None:  # noqa: ARG002 - the turn in the standing says it
        """Nothing to remember: the standing of the slot tells that it was taken."""
        return None

    def forget(self, slot: int) -> None:
        """Nothing ties later requests to a slot."""

    def _choice(self, slot: int, rule: Rule, now: float) -> Choice:
        used, last_used, _ = self._standings[slot]
        terms = score_terms(used, last_used, now, self._settings, self._names[slot])
        return Choice(slot, rule, (terms,))


class GreedyOrder(RankedOrder):
    """Most quota left first; among equals the least recently used."""

    __slots__ = ()

    rule = Rule.MOST_QUOTA

    def key(self, slot: int, standing: Standing) -> Key:
        """By percent used, then last use, then turn."""
        return (*standing, slot)


class LeastRecentlyUsedOrder(RankedOrder):
    """Never used first, then by last use; of those used at one instant, the one taken first."""

    __slots__ = ()

    rule = Rule.LEAST_RECENTLY_USED

    def key(self, slot: int, standing: Standing) -> Key:
        """By last use, then turn."""
        return (standing[1], standing[2], 0.0, slot)


class RoundRobinOrder(RankedOrder):
    """The account that was taken longest ago is next.

    An account keeps its turn while it is away: back again it is served once and then waits like
    all others, so it neither catches up in a burst nor starves by coming and going.
    """

    __slots__ = ()

    rule = Rule.NEXT_IN_TURN

    def key(self, slot: int, standing: Standing) -> Key:
        """By turn."""
        return (standing[2], 0.0, 0.0, slot)
