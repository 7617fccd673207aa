"""The members of one tier of a pool, and whom its strategy would choose among them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from smartfallback.model.specs import HybridSettings, Strategy
from smartfallback.policy.selection.choice import Choice, Order, Standing
from smartfallback.policy.selection.hybrid import HybridOrder
from smartfallback.policy.selection.ranked import GreedyOrder, LeastRecentlyUsedOrder, RoundRobinOrder
from smartfallback.policy.selection.scoring import NEVER, UNKNOWN_PERCENT_USED, known_percent
from smartfallback.policy.selection.sticky import StickyOrder

DEFAULT_MAX_SESSIONS = 10_000


class Ties(NamedTuple):
    """What earlier choices mean for later ones of one account.

    Attributes:
        turn: Its turn, None before the first time that it was a member.
        sessions: Those bound to it; None among them is the traffic without a session.
    """

    turn: float | None
    sessions: tuple[str | None, ...]


class Selection:
    """Picks accounts for one tier of a pool; an account is its slot, its place in ``names``.

    The caller keeps the eligible accounts in with :meth:`put` and :meth:`discard`, asks for
    :meth:`candidates` and reports with :meth:`taken` which one it accepted. Every operation costs
    O(log n) at most. Changes wait until candidates are asked for the next time, so that several
    changes of one account between two choices cost one.

    All times are seconds on one clock. A last use ahead of the clock counts as a use just now.
    Should the clock go back, every member is placed anew, once.

    Args:
        names: The accounts' names; membership starts empty.
        strategy: How members are ordered.
        settings: The terms of the hybrid formula.
        rng: Decides all draws, and the order among accounts that never had a turn.
        max_sessions: So many sessions the sticky strategy remembers.
    """

    __slots__ = (
        "_last_used",
        "_max_sessions",
        "_member",
        "_names",
        "_now",
        "_order",
        "_pending",
        "_percent",
        "_rng",
        "_settings",
        "_size",
        "_standings",
        "_strategy",
        "_turn",
        "_turns",
    )

    def __init__(
        self,
        names: Sequence[str],
        strategy: Strategy,
        settings: HybridSettings,
        rng: random.Random,
        *,
        max_sessions: int = DEFAULT_MAX_SESSIONS,
    ) -> None:
        count = len(names)
        self._names = tuple(names)
        self._rng = rng
        self._max_sessions = max_sessions
        self._member = [False] * count
        self._size = 0
        self._percent: list[float | None] = [None] * count
        self._last_used: list[float | None] = [None] * count
        self._turns: list[float | None] = [None] * count
        self._turn = 0
        self._standings: list[Standing] = [(UNKNOWN_PERCENT_USED, NEVER, 0.0)] * count
        self._pending: set[int] = set()
        self._now = NEVER
        self._strategy = strategy
        self._settings = settings
        self._order = self._new_order()

    @property
    def strategy(self) -> Strategy:
        """The strategy in use."""
        return self._strategy

    @property
    def settings(self) -> HybridSettings:
        """The terms of the hybrid formula in use."""
        return self._settings

    def __len__(self) -> int:
        return self._size

    def __contains__(self, slot: int) -> bool:
        return self._member[slot]

    def put(self, slot: int, percent_used: float | None, last_used: float | None) -> None:
        """Insert or update a member.

        Args:
            slot: The account's place in ``names``.
            percent_used: Of its binding window, held quota included; None (unknown) counts as 50.
            last_used: Seconds on the clock of ``now``; None for never.
        """
        if self._member[slot]:
            if self._percent[slot] == percent_used and self._last_used[slot] == last_used:
                return
        else:
            self._member[slot] = True
            self._size += 1
            if self._turns[slot] is None:
                # Behind all that had a turn, in random order with those that come at the same time.
                self._turns[slot] = self._turn + 0.5 + self._rng.random() / 4
        self._percent[slot] = percent_used
        self._last_used[slot] = last_used
        self._pending.add(slot)

    def discard(self, slot: int) -> None:
        """Remove a member; no effect on an account that is none. Its turn and sessions remain."""
        if self._member[slot]:
            self._member[slot] = False
            self._size -= 1
            self._pending.discard(slot)
            self._order.discard(slot)

    def candidates(self, now: float, session: str | None = None) -> Iterator[Choice]:
        """The strategy's choice, then its choice with that one excluded, and so on to the last.

        Lazy: each next one costs O(log n). The caller takes the first that passes its own checks.
        A member that is discarded meanwhile is not proposed after that; other changes show
        in the next call.

        Args:
            now: Seconds.
            session: What the sticky strategy keeps together; the others ignore it.
        """
        if now < self._now:
            self._pending.update(self._members())
        self._now = now
        if self._pending:
            self._place_pending(now)
        return self._order.candidates(now, session)

    def taken(self, slot: int, now: float, session: str | None = None) -> None:  # noqa: ARG002 - the last use comes with put
        """A choice was accepted: it goes to the end of the turns and binds what is sticky."""
        self._turn += 1
        self._turns[slot] = self._turn
        changed = self._order.taken(slot, session)
        if self._member[slot]:
            self._pending.add(slot)
        if changed is not None and self._member[changed]:
            self._pending.add(changed)

    def forget(self, slot: int) -> None:
        """Drop the sticky bindings of an account, so that a drain moves them elsewhere."""
        self._order.forget(slot)
        if self._member[slot]:
            self._pending.add(slot)

    def ties(self, slot: int) -> Ties:
        """What choices so far mean for later ones of the slot: its turn, and what is bound to it."""
        order = self._order
        return Ties(self._turns[slot], order.held(slot) if isinstance(order, StickyOrder) else ())

    def tie(self, slot: int, ties: Ties) -> None:
        """Give the slot that turn again, and bind those sessions to it, wherever they have gone since."""
        if ties.turn is not None:
            self._turns[slot] = ties.turn
        order = self._order
        changed = {order.taken(slot, session) for session in ties.sessions if isinstance(order, StickyOrder)}
        self._pending.update(each for each in (slot, *changed) if each is not None and self._member[each])

    def bound(self, most: int) -> list[tuple[str | None, int]]:
        """What is bound to whom, the ``most`` used last, in the order of use; None is traffic without a
        session."""
        order = self._order
        return order.bound(most) if isinstance(order, StickyOrder) else []

    def holds(self, session: str | None) -> bool:
        """Whether the session (None: the traffic without one) is bound to anybody."""
        order = self._order
        return isinstance(order, StickyOrder) and order.holder(session) is not None

    def set_strategy(self, strategy: Strategy, settings: HybridSettings) -> None:
        """Order the present members anew. Turns are kept; sticky bindings end."""
        self._strategy = strategy
        self._settings = settings
        self._order = self._new_order()
        self._pending.update(self._members())

    def _members(self) -> Iterator[int]:
        return (slot for slot, member in enumerate(self._member) if member)

    def _place_pending(self, now: float) -> None:
        standings = self._standings
        order = self._order
        for slot in self._pending:
            last_used = self._last_used[slot]
            if last_used is None:
                last_used = NEVER
            elif last_used > now:
                last_used = now
            standings[slot] = (known_percent(self._percent[slot]), last_used, self._turns[slot] or 0.0)
            order.put(slot, now)
        self._pending.clear()

    def _new_order(self) -> Order:
        names, standings, settings = self._names, self._standings, self._settings
        if self._strategy is Strategy.GREEDY:
            return GreedyOrder(names, standings, settings)
        if self._strategy is Strategy.LRU:
            return LeastRecentlyUsedOrder(names, standings, settings)
        if self._strategy is Strategy.ROUND_ROBIN:
            return RoundRobinOrder(names, standings, settings)
        if self._strategy is Strategy.STICKY:
            return StickyOrder(names, standings, settings, self._max_sessions)
        return HybridOrder(names, standings, settings, self._rng)
