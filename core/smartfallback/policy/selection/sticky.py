"""The sticky strategy: a session, or all traffic without one, stays where it is while it can."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice

from smartfallback.model.decisions import Rule
from smartfallback.model.specs import HybridSettings
from smartfallback.policy.selection.choice import Choice, Standing
from smartfallback.policy.selection.index import Key
from smartfallback.policy.selection.ranked import RankedOrder


class StickyOrder(RankedOrder):
    """Stays until it can't serve; goes elsewhere by most quota left for each session held.

    Dividing what is left among the sessions that an account already holds spreads new sessions
    before their use shows in the quota. Sessions are remembered up to a bound, the longest unused
    forgotten first.
    """

    __slots__ = ("_current", "_held", "_max_sessions", "_sessions")

    rule = Rule.MOST_QUOTA

    def __init__(
        self,
        names: Sequence[str],
        standings: Sequence[Standing],
        settings: HybridSettings,
        max_sessions: int,
    ) -> None:
        super().__init__(names, standings, settings)
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, int] = OrderedDict()
        # Insertion-ordered sets: the sessions bound to each slot.
        self._held: dict[int, dict[str, None]] = {}
        self._current: int | None = None

    def key(self, slot: int, standing: Standing) -> Key:
        """By quota left for each session, then last use, then turn."""
        used, last_used, turn = standing
        return ((used - 100.0) / (1 + len(self._held.get(slot, ()))), last_used, turn, slot)

    def candidates(self, now: float, session: str | None) -> Iterator[Choice]:
        """The account that holds the session (or the traffic) first, then the others by key."""
        bound = self.holder(session)
        if bound is not None and bound in self._index:
            yield self._choice(bound, Rule.STUCK if session is None else Rule.SESSION, now)
        else:
            bound = None
        for slot in self._index.walk():
            if slot != bound:
                yield self._choice(slot, Rule.MOST_QUOTA, now)

    def taken(self, slot: int, session: str | None) -> int | None:
        """Bind the session, or all traffic without one; returns the slot that lost a session."""
        if session is None:
            self._current = slot
            return None
        sessions = self._sessions
        before = sessions.get(session)
        if before == slot:
            sessions.move_to_end(session)
            return None
        if before is not None:
            self._release(before, session)
        sessions[session] = slot
        sessions.move_to_end(session)
        self._held.setdefault(slot, {})[session] = None
        if len(sessions) > self._max_sessions:
            oldest, before = sessions.popitem(last=False)
            self._release(before, oldest)
        return before

    def forget(self, slot: int) -> None:
        """Unbind every session of the slot, and the traffic without one."""
        for session in self._held.pop(slot, ()):
            del self._sessions[session]
        if self._current == slot:
            self._current = None

    def held(self, slot: int) -> tuple[str | None, ...]:
        """The sessions bound to the slot, and None for the traffic without one."""
        sessions: tuple[str | None, ...] = tuple(self._held.get(slot, ()))
        return (*sessions, None) if self._current == slot else sessions

    def holder(self, session: str | None) -> int | None:
        """The slot that the session (None: the traffic without one) is bound to."""
        return self._current if session is None else self._sessions.get(session)

    def bound(self, most: int) -> list[tuple[str | None, int]]:
        """The sessions bound last, at most so many, in the order of use; then the traffic without one."""
        latest: list[tuple[str | None, int]] = list(islice(reversed(self._sessions.items()), most))
        latest.reverse()
        if self._current is not None:
            latest.append((None, self._current))
        return latest

    def _release(self, slot: int, session: str) -> None:
        held = self._held[slot]
        del held[session]
        if not held:
            del self._held[slot]
