"""The line of callers for whom every account that could serve is busy.

A freed place is given to the caller that has waited longest and can use it, with all that the
attempt needs already taken, so nobody who comes later gets in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import NamedTuple

from smartfallback.engine.grant import Grant

MOST_WAITING = 1_000


class Claim(NamedTuple):
    """What a caller in the line wants.

    Attributes:
        kind: Callers of one kind can use the same places: where one finds none, all do.
        take: Takes a place if there is one that suits.
        hopeless: Whether no place can come free that would suit.
        give_back: Ends what was taken for a caller that has just gone away.
    """

    kind: Hashable
    take: Callable[[], Grant | None]
    hopeless: Callable[[], bool]
    give_back: Callable[[Grant], None]


class Capacity:
    """First come, first served; a caller whom no freed place suits lets others pass."""

    def __init__(self) -> None:
        self._line: dict[asyncio.Future[Grant | None], Claim] = {}
        self._handing_over = False

    def __len__(self) -> int:
        return len(self._line)

    async def wait(self, claim: Claim, until: float) -> Grant | None:
        """Wait for a place until the loop's clock shows ``until``.

        Returns:
            The place; None when none came in time, when none can come, or when the line was closed.
        """
        if len(self._line) >= MOST_WAITING:
            return claim.take()
        place: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()
        self._line[place] = claim
        self.freed()
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.shield(place)
        except TimeoutError:
            return place.result() if place.done() else None
        except asyncio.CancelledError:
            grant = place.result() if place.done() else None
            if grant is not None:
                claim.give_back(grant)
            raise
        finally:
            self._line.pop(place, None)

    def freed(self) -> None:
        """An account may have room: hand over what there is, once the current step is done."""
        if self._line and not self._handing_over:
            self._handing_over = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def close(self) -> None:
        """Nobody gets a place any more."""
        for place in tuple(self._line):
            if not place.done():
                place.set_result(None)

    def _hand_over(self) -> None:
        self._handing_over = False
        fruitless: set[Hashable] = set()
        for place, claim in tuple(self._line.items()):
            if place.done() or claim.kind in fruitless:
                continue
            grant = claim.take()
            if grant is not None or claim.hopeless():
                place.set_result(grant)
            else:
                fruitless.add(claim.kind)
