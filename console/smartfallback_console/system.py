"""What the console needs of the core: an engine, and a simulator where outages can be rehearsed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from smartfallback import (
        ChatSessions,
        Command,
        CommandResult,
        Drill,
        DrillView,
        Event,
        PastRequest,
        Request,
        RunView,
        SimulationView,
        Snapshot,
    )


class Subscription(Protocol):
    """The engine's event queue for one listener."""

    def drain(self) -> tuple[tuple[Event, ...], int]:
        """New events and how many were dropped since the last call; from any thread."""
        ...


class Engine(Protocol):
    """What the console needs of an orchestrator."""

    def snapshot(self) -> Snapshot:
        """The state of everything, on the core's loop."""
        ...

    def subscribe(self, backlog: int = ...) -> Subscription:
        """Begin to collect events, at most so many between two drains."""
        ...

    def unsubscribe(self, subscription: Any) -> None:
        """Stop collecting."""
        ...

    def execute(self, command: Command) -> CommandResult:
        """Carry out a command, on the core's loop."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Event]:
        """The events of one request."""
        ...

    async def history(self, limit: int = ...) -> tuple[PastRequest, ...]:
        """The requests that ended last, the newest first, also before this start; on the core's loop."""
        ...

    @property
    def sessions(self) -> ChatSessions:
        """The chat sessions that are kept, on the core's loop."""
        ...


class Simulator(Protocol):
    """What the console needs of a simulator; all of it on the core's loop."""

    def view(self) -> SimulationView:
        """How rehearsals stand; cheap."""
        ...

    def start(self, name: str, *, confirmed: bool = ...) -> RunView:
        """Start a scenario; ValueError says why not."""
        ...

    def stop(self) -> bool:
        """End the scenario that runs, and clean up after it."""
        ...

    def start_drill(self, drill: Drill) -> DrillView:
        """Inject a fault; ValueError says why not."""
        ...

    def stop_drill(self, drill_id: str) -> bool:
        """End one fault."""
        ...

    def stop_all_drills(self) -> int:
        """End all faults that were started by hand."""
        ...


class System(Protocol):
    """A running system: the demo's or the configured one."""

    @property
    def orchestrator(self) -> Engine:
        """Its engine."""
        ...

    @property
    def simulator(self) -> Simulator | None:
        """Rehearses outages on it, None where nothing can."""
        ...


SystemFactory = Callable[[], AbstractAsyncContextManager[System]]
"""Makes the context within which the system runs; called and entered on the core's thread."""
