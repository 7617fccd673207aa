"""Ends waits on connections that are closed under them.

aiohttp forgets the body of a response whose session is closed: whoever waits for more of it would
wait until a limit of his own runs out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class ShutDownError(Exception):
    """The client was closed, before or during the wait."""


class Shutdown:
    """The waits of one client, and their common end.

    A wait is ended by cancelling it, with the bookkeeping of ``asyncio.timeout``: a cancellation by
    anybody else is passed on as one.
    """

    __slots__ = ("_ended", "_waiting", "begun")

    def __init__(self) -> None:
        self.begun = False
        """Whether :meth:`begin` was called; no wait begins after it."""
        self._waiting: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        """End all waits now."""
        self.begun = True
        for task in self._waiting:
            self._ended.add(task)
            task.cancel()

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """The result of ``awaitable``.

        Raises:
            ShutDownError: :meth:`begin` was called meanwhile.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a wait needs a task that can be ended")
        cancelled_before = task.cancelling()
        self._waiting.add(task)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._take_back(task) and task.cancelling() <= cancelled_before:
                raise ShutDownError from None
            raise
        finally:
            self._waiting.discard(task)
            self._take_back(task)

    def _take_back(self, task: asyncio.Task[Any]) -> bool:
        """Whether :meth:`begin` has cancelled ``task``, which then no longer counts."""
        if task not in self._ended:
            return False
        self._ended.discard(task)
        task.uncancel()
        return True
