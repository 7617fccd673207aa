"""One timer for all the waits of an attempt.

``asyncio.timeout_at`` makes and cancels a timer for every wait, and a stream waits once a chunk:
at fifty concurrent callers that was a twentieth of all work. Here a wait only notes when it ends;
the timer is set anew when it rings too early. How the cancellation of an expired wait is told from
that of a caller follows ``asyncio.Timeout``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Watch:
    """Ends waits that take too long. For one waiting task at a time.

    Args:
        on_due: Called when a wait has reached its end: a later instant of the loop's clock to
            wait until, or None to end it.
    """

    __slots__ = ("_cancelling", "_due", "_expired", "_loop", "_on_due", "_task", "_timer")

    def __init__(self, on_due: Callable[[], float | None]) -> None:
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    async def wait(self, awaitable: Awaitable[T], due: float) -> T:
        """What ``awaitable`` gives, if it does so before the loop's clock shows ``due``.

        Raises:
            TimeoutError: It did not, or :meth:`interrupt` was called; it was cancelled.
            RuntimeError: There is no running task.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a wait needs a task")
        self._due = due
        timer = self._timer
        if timer is None or due < timer.when():
            self.close()
            self._timer = self._loop.call_at(due, self._ring)
        self._cancelling = task.cancelling()
        self._task = task
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._expired:
                self._expired = False
                if task.uncancel() <= self._cancelling:
                    raise TimeoutError from None
            raise
        finally:
            self._task = None
            if self._expired:
                self._expired = False
                task.uncancel()

    def interrupt(self) -> None:
        """End the wait that is going on, if there is one."""
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()

    def close(self) -> None:
        """Stop the timer. A later wait starts it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Stop the timer for good, and let go of whoever was to be called."""
        self.close()
        self._on_due = _never

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return
        due = self._due
        if self._loop.time() >= due:
            later = self._on_due()
            if later is None:
                self.interrupt()
                return
            self._due = due = later
        self._timer = self._loop.call_at(due, self._ring)


def _never() -> float | None:
    return None
