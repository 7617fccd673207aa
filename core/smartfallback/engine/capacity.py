"""Callers that wait for an account to have room again."""

from __future__ import annotations

import asyncio
from collections import deque

MOST_WAITING = 1_000


class Capacity:
    """A first-in-first-out line. Each freed place wakes one caller, who then tries again."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, until: float) -> bool:
        """Wait for a place until the loop's clock shows ``until``.

        Returns:
            False when none came by then, or when the line is full.
        """
        if len(self._waiting) >= MOST_WAITING:
            return False
        loop = asyncio.get_running_loop()
        if until <= loop.time():
            return False
        place = loop.create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout_at(until):
                await place
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.freed()
            raise
        finally:
            if place in self._waiting:
                self._waiting.remove(place)
        return True

    def freed(self) -> None:
        """An account has room: wake the caller that has waited longest."""
        waiting = self._waiting
        while waiting:
            place = waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
