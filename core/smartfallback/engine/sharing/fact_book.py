"""What holds over all instances as far as one of them knows, and what that one still has to tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.sharing.account_facts import NOTHING, READING, Standing, rests_here
from smartfallback.model.sharing import Fact, FactRule, FactWrite

Place = tuple[str, str]
"""A subject and the name of a fact about it."""
Entry = tuple[str, str, bool]
"""A place, and whether a rest is lifted there: one that began after that is told besides it."""

_CLOCKS_DIFFER_S: Final = 5.0
"""A time that lies further ahead was told by a clock that is no longer right."""
_CROWDED: Final = 200
"""A subject with so many facts may have given some up for want of room."""
_NONE: Final[Mapping[str, FactWrite]] = {}


class FactBook:
    """Puts what one instance tells and what it hears in order.

    Of two facts the store says which one holds. What it says is doubted only where something later is
    known here: a server that takes over from another may have missed it, and has to be told again.

    Args:
        clock: Set by the store's clock.
        instance: This one's id.
    """

    def __init__(self, clock: Clock, instance: str) -> None:
        self._clock = clock
        self._instance = instance
        self._began_at = clock.time()
        self._told: dict[str, dict[str, FactWrite]] = {}
        """What holds over all instances, as far as it was told or heard, by subject and name."""
        self._pending: dict[Entry, FactWrite] = {}
        """What is to be told, the latest of each."""

    def __len__(self) -> int:
        """How many facts are to be told."""
        return len(self._pending)

    # -- what is to be told --------------------------------------------------------------------

    def tell(self, place: Place, standing: Standing) -> None:
        """Something is so from now on, or since the time that it says.

        Who speaks after having heard another's word speaks later, though the clocks may differ a little
        (L. Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", 1978).
        """
        at = self._clock.time() if standing.at is None else standing.at
        known = self.told(place[0]).get(place[1])
        if known is not None and place[1] != READING and at <= known.fact.at < at + _CLOCKS_DIFFER_S:
            at = math.nextafter(known.fact.at, math.inf)
        lift = self._pending.get((*place, True))
        if lift is not None:
            at = max(at, math.nextafter(lift.fact.at, math.inf))
        write = FactWrite(*place, Fact(standing.value, at, self._instance, standing.until), standing.rule)
        entry = _entry(write)
        if entry[2]:
            self._pending.pop((*place, False), None)
        self._pending[entry] = write

    def tell_lifted(self, place: Place, rule: FactRule) -> None:
        """A rest was lifted, before what is told next of the same place."""
        self.tell(place, Standing(NOTHING, None, rule))

    def tell_all_again(self) -> None:
        """The store has lost what it knew: tell it all, as old as it is."""
        for told in self._told.values():
            for write in told.values():
                self._tell_again(write)

    def to_tell(self, without: Iterable[str] = ()) -> list[FactWrite]:
        """All that is to be told, but facts of these names."""
        return [write for write in self._pending.values() if write.name not in without]

    def is_to_tell(self, write: FactWrite) -> bool:
        """Whether it still is to be told, and nothing else in its place."""
        return self._pending.get(_entry(write)) is write

    def was_told(self, write: FactWrite) -> None:
        """It has reached the store."""
        if self.is_to_tell(write):
            del self._pending[_entry(write)]

    def tells_later(self, place: Place, fact: Fact) -> bool:
        """Whether something that came about later than ``fact`` is to be told."""
        mine = (self._pending.get((*place, lifts)) for lifts in (False, True))
        return any(write is not None and write.fact.at > fact.at for write in mine)

    def clock_moved(self, by_s: float) -> Iterator[tuple[Place, float]]:
        """The clock was set: what was stamped by it before is moved along.

        Returns:
            The places and times of all that moves, as they were.
        """
        for entry, write in list(self._pending.items()):
            fact = write.fact
            if fact.by == self._instance and fact.at >= self._began_at:
                until = fact.until
                if until is not None and rests_here(write.name):
                    until += by_s
                self._pending[entry] = replace(write, fact=replace(fact, at=fact.at + by_s, until=until))
                yield entry[:2], fact.at

    # -- what holds ----------------------------------------------------------------------------

    def told(self, subject: str) -> Mapping[str, FactWrite]:
        """What holds of a subject, by name."""
        return self._told.get(subject, _NONE)

    def holds(self, place: Place, fact: Fact, rule: FactRule) -> None:
        """The store says so, and it is believed."""
        subject, name = place
        self._told.setdefault(subject, {})[name] = FactWrite(subject, name, fact, rule)

    def news(self, subject: str, facts: Mapping[str, Fact]) -> dict[str, Fact]:
        """What is new among all facts of a subject; what the store no longer knows is told it again."""
        told = self.told(subject)
        news: dict[str, Fact] = {}
        for name, fact in facts.items():
            known = told.get(name)
            if (known is None or known.fact != fact) and not self.tells_later((subject, name), fact):
                if known is not None and self._is_older(fact, known):
                    self._tell_again(known)
                else:
                    news[name] = fact
        if len(facts) < _CROWDED:
            for name in told.keys() - facts.keys():
                self._tell_again(told[name])
        return news

    def _is_older(self, fact: Fact, known: FactWrite) -> bool:
        """Whether the store should hold ``known`` instead of ``fact``; when that is told, it decides."""
        before = known.fact
        if before.at > self._clock.time() + _CLOCKS_DIFFER_S or self._is_over(before):
            return False
        if known.rule is FactRule.LATEST:
            return fact.at < before.at
        if before.until is None:
            return fact.at <= before.at
        return fact.at < before.at if fact.until is None else fact.until < before.until

    def _tell_again(self, write: FactWrite) -> None:
        if not self._is_over(write.fact):
            self._pending.setdefault(_entry(write), write)

    def _is_over(self, fact: Fact) -> bool:
        return fact.until is not None and fact.until <= self._clock.time()


def shortens(write: FactWrite, fact: Fact) -> bool:
    """Whether ``fact``, which holds instead of a rest that was told, ends earlier: that one was lifted."""
    told, holds = write.fact.until, fact.until
    return write.rule is FactRule.LONGEST and told is not None and holds is not None and holds < told


def _entry(write: FactWrite) -> Entry:
    return write.subject, write.name, write.rule is FactRule.LONGEST and write.fact.until is None
