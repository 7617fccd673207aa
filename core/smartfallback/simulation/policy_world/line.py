"""The line of requests for whom every account that could serve is busy, without a loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from smartfallback.engine.capacity import MOST_WAITING, Capacity
from smartfallback.engine.grant import Grant


class Caller(Protocol):
    """Who waits in the line."""

    @property
    def kind(self) -> Hashable:
        """Callers of one kind can use the same places."""
        ...

    def take(self) -> Grant | None:
        """Take a place if there is one that suits."""
        ...

    def hopeless(self) -> bool:
        """Whether no place can come free that would suit."""
        ...

    def served(self, grant: Grant | None) -> None:
        """The wait is over: with a place, or without hope for one."""
        ...


class Line(Capacity):
    """First come, first served, by the same rules as the line that waits on an event loop.

    Args:
        soon: Does something once the current step is done, at the same moment.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], None]) -> None:
        super().__init__()
        self._soon = soon
        self._callers: dict[Caller, None] = {}
        self._due = False

    def __len__(self) -> int:
        return len(self._callers)

    def enter(self, caller: Caller) -> None:
        """Let ``caller`` wait; :meth:`Caller.served` ends that, or :meth:`leave`."""
        if len(self._callers) >= MOST_WAITING:
            self._soon(lambda: caller.served(caller.take()))
            return
        self._callers[caller] = None
        self.freed()

    def leave(self, caller: Caller) -> None:
        """The caller waits no longer."""
        self._callers.pop(caller, None)

    def freed(self) -> None:
        """An account may have room: hand over what there is, once the current step is done."""
        if self._callers and not self._due:
            self._due = True
            self._soon(self._serve)

    def _serve(self) -> None:
        self._due = False
        fruitless: set[Hashable] = set()
        for caller in tuple(self._callers):
            if caller not in self._callers or caller.kind in fruitless:
                continue
            grant = caller.take()
            if grant is not None or caller.hopeless():
                self.leave(caller)
                caller.served(grant)
            else:
                fruitless.add(caller.kind)
