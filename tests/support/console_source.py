"""A scripted core for the console: a snapshot that commands change, events by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from smartfallback import ChatSessions, ChatTurn, SimulationView
from smartfallback.model.commands import (
    Command,
    CommandResult,
    Disable,
    Drain,
    Enable,
    Resume,
)
from smartfallback.model.decisions import AdminState, Skip, SkipReason
from smartfallback.model.events import Event
from smartfallback.model.requests import Request
from smartfallback.model.snapshot import Snapshot
from smartfallback_console.bridge import ChatHandle, Earlier, SourceState
from smartfallback_console.system import Simulator
from support import console_data
from support.console_simulation import ScriptedSimulator

T = TypeVar("T")

ADMIN: dict[type[object], tuple[AdminState, SkipReason | None]] = {
    Drain: (AdminState.DRAINED, SkipReason.DRAINED),
    Resume: (AdminState.ACTIVE, None),
    Disable: (AdminState.DISABLED, SkipReason.DISABLED),
    Enable: (AdminState.ACTIVE, None),
}


class ScriptedSource:
    """Answers commands by noting them, and admin commands by changing the snapshot too."""

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        events: tuple[Event, ...] | None = None,
        *,
        ready: bool = True,
        simulator: ScriptedSimulator | None = None,
    ) -> None:
        self.simulator = simulator
        self.state = SourceState.RUNNING if ready else SourceState.STARTING
        self.failure = ""
        self.snapshot = (snapshot or console_data.snapshot()) if ready else None
        self.pending = (console_data.events() if events is None else events) if ready else ()
        self.dropped = 0
        self.past: Earlier | None = None
        """What became of requests before this start; a test may put it here."""
        self.interval: float | None = None
        self.commands: list[Command] = []
        self.refuse = ""
        self.kept = ChatSessions(None)

    def latest(self) -> Snapshot | None:
        return self.snapshot

    def drain(self) -> tuple[tuple[Event, ...], int]:
        taken, self.pending = self.pending, ()
        dropped, self.dropped = self.dropped, 0
        return taken, dropped

    def earlier(self) -> Earlier | None:
        return self.past

    def watch(self, interval_s: float | None) -> None:
        self.interval = interval_s

    def simulation(self) -> SimulationView | None:
        return self.simulator.view() if self.simulator is not None else None

    async def simulate(self, act: Callable[[Simulator], T]) -> T:
        if self.simulator is None:
            raise RuntimeError("nothing can be rehearsed here")
        return act(self.simulator)

    def execute(self, command: Command) -> Awaitable[CommandResult]:
        return self._execute(command)

    async def _execute(self, command: Command) -> CommandResult:
        if self.refuse:
            return CommandResult(ok=False, message=self.refuse)
        self.commands.append(command)
        if isinstance(command, Drain | Resume | Disable | Enable):
            self._set_admin(command.account, *ADMIN[type(command)])
        return CommandResult(ok=True, message=f"{type(command).__name__} done")

    def keep_turn(self, turn: ChatTurn) -> None:
        self.kept.save_turn(turn)

    async def sessions(self, act: Callable[[ChatSessions], Awaitable[T]]) -> T:
        return await act(self.kept)

    def start_chat(self, request: Request) -> ChatHandle:
        return ChatHandle(request)

    def _set_admin(self, name: str, admin: AdminState, reason: SkipReason | None) -> None:
        if self.snapshot is None:
            return
        pools = tuple(
            replace(
                pool,
                accounts=tuple(
                    replace(view, admin=admin, skip=Skip(name, pool.name, reason) if reason else None)
                    if view.id == name
                    else view
                    for view in pool.accounts
                ),
            )
            for pool in self.snapshot.pools
        )
        self.snapshot = replace(self.snapshot, version=self.snapshot.version + 1, pools=pools)

    def move(self, seconds: float, *events: Event) -> None:
        """Publish a later snapshot, and events with it."""
        if self.snapshot is not None:
            self.snapshot = replace(
                self.snapshot, version=self.snapshot.version + 1, at=self.snapshot.at + seconds
            )
        self.pending = (*self.pending, *events)
