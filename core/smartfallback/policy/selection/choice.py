"""What a strategy proposes, and what every strategy offers to the selection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from smartfallback.model.decisions import Rule, ScoreTerms


class Choice(NamedTuple):
    """One proposed account with the rule that proposed it.

    ``considered`` holds the scored accounts, the chosen one among them. Strategies that don't
    score list the chosen account alone, for information.
    """

    slot: int
    rule: Rule
    considered: tuple[ScoreTerms, ...]


Standing = tuple[float, float, float]
"""What the strategies know of one member, cleaned of missing and impossible values.

Percent used, from 0 to 100; last use in seconds, minus infinity for never; and the turn, which
grows with each time that an account is taken and differs between all members: it settles every
tie in favour of the account that has waited longest. A plain tuple, for one is made at each choice.
"""


class Order(Protocol):
    """One strategy's arrangement of the members of a pool.

    ``standings`` are shared with the selection, indexed by slot. :meth:`put` and :meth:`discard`
    are called after they changed.
    """

    def put(self, slot: int, now: float) -> None:
        """Insert the slot, or move it to where its standing belongs."""
        ...

    def discard(self, slot: int) -> None:
        """Remove the slot if it is there."""
        ...

    def candidates(self, now: float, session: str | None) -> Iterator[Choice]:
        """Every member once, each the strategy's choice among those not yet yielded.

        A member that is discarded while the iteration is under way is not yielded after that.
        """
        ...

    def taken(self, slot: int, session: str | None) -> int | None:
        """A choice was accepted. Returns another slot whose place changed by it, if any."""
        ...

    def forget(self, slot: int) -> None:
        """Drop what ties later requests to the slot."""
        ...
