"""An event loop whose time stands still while there is work and jumps to the next timer when there is none.

Real sockets work on it, as long as both ends live in the same loop: what is on its way over loopback is
there when the loop asks for it. So minutes of real HTTP traffic take as long as the work in them, and a
slow machine changes no moment of it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from support.clock import EPOCH

T = TypeVar("T")

_ARRIVAL_S = 0.001
"""Real seconds in which bytes that were sent over loopback have arrived."""
_NOTHING_MORE_S = 10.0
"""Real seconds after which a loop that has no timer is stuck."""
_START = 1_000.0


class Stuck(RuntimeError):
    """Nothing is ready, no timer is set, and nothing arrives."""


class JumpingSelector(selectors.DefaultSelector):
    """Waits for no longer than bytes need to arrive; the rest of a wait is a jump.

    Attributes:
        now: The time, in seconds.
        turns: So many turns the loop has begun.
        on_turn: Called before each turn with its number, if set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = _START
        self.turns = 0
        self.on_turn: Callable[[int], bool] | None = None
        """Returns whether it made something ready to run, so that no time may pass in this turn."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if self.on_turn is not None and self.on_turn(self.turns):
            return super().select(0)
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        ready = super().select(_NOTHING_MORE_S if timeout is None else _ARRIVAL_S)
        if not ready:
            if timeout is None:
                raise Stuck("nothing is ready and no timer is set")
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """See the module's description."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


class LoopClock:
    """The clock that goes with the loop that runs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def monotonic(self) -> float:
        return self._loop.time()

    def time(self) -> float:
        return EPOCH + self._loop.time()


def run(main: Coroutine[Any, Any, T]) -> T:
    """The result of ``main`` on a loop of its own."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)
