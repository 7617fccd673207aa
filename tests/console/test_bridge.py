"""The core on its own thread: snapshots, commands, chats, failures at start, and a clean end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from smartfallback import ChatSessions, ChatTurn, Ending, Origin, PastRequest, RunView, SessionsLostError
from smartfallback.model.commands import Command, CommandResult, Drain
from smartfallback.model.events import Delta, Event
from smartfallback.model.outcomes import ErrorCategory, Failure, RequestError
from smartfallback.model.requests import Request
from smartfallback.model.snapshot import Snapshot
from smartfallback_console import bridge
from smartfallback_console.bridge import LOOK_BACK, CoreThread, Earlier, SourceState
from smartfallback_console.system import Simulator, Subscription
from support import console_data, console_simulation
from support.console_simulation import ScriptedSimulator

REQUEST = Request.ask("hello")


class Queue:
    def __init__(self) -> None:
        self.waiting: list[Event] = []

    def drain(self) -> tuple[tuple[Event, ...], int]:
        taken, self.waiting = tuple(self.waiting), []
        return taken, 0


class Saved(ChatSessions):
    """Keeps nothing, but notes what was to be kept."""

    def __init__(self) -> None:
        super().__init__(None)
        self.saved: list[ChatTurn] = []

    def save_turn(self, turn: ChatTurn) -> None:
        self.saved.append(turn)


@dataclass
class Core:
    """An engine that notes on which thread it is used."""

    queue: Queue = field(default_factory=Queue)
    threads: set[int] = field(default_factory=set)
    snapshots: int = 0
    closed: bool = False
    cancelled: bool = False
    unsubscribed: bool = False
    simulator: Simulator | None = None
    sessions: Saved = field(default_factory=Saved)
    past: tuple[PastRequest, ...] | None = ()
    """What history tells; None for a store that does not answer."""

    @property
    def orchestrator(self) -> Core:
        return self

    def snapshot(self) -> Snapshot:
        self.threads.add(threading.get_ident())
        self.snapshots += 1
        return console_data.snapshot(version=self.snapshots)

    def subscribe(self, backlog: int = 0) -> Subscription:
        assert backlog > 0
        return self.queue

    def unsubscribe(self, subscription: object) -> None:
        self.unsubscribed = subscription is self.queue

    def execute(self, command: Command) -> CommandResult:
        self.threads.add(threading.get_ident())
        return CommandResult(ok=True, message=repr(command))

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        self.threads.add(threading.get_ident())
        text = request.messages[0].content
        yield Delta(1, 0.0, "r", "first")
        if text == "fail":
            raise RequestError("r", Failure(ErrorCategory.UNKNOWN, "broken"))
        if text == "hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = True
        yield Delta(2, 0.0, "r", "second")

    async def history(self, limit: int = 0) -> tuple[PastRequest, ...]:
        self.threads.add(threading.get_ident())
        if self.past is None:
            await asyncio.Event().wait()
        return (self.past or ())[:limit]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Core]:
        try:
            yield self
        finally:
            self.closed = True


class OnThread(ScriptedSimulator):
    """Notes on which thread it is used."""

    def __init__(self, threads: set[int]) -> None:
        super().__init__()
        self._threads = threads

    def start(self, name: str, *, confirmed: bool = False) -> RunView:
        self._threads.add(threading.get_ident())
        return super().start(name, confirmed=confirmed)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, with a bound."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(0.002)


@pytest.fixture
def core() -> Core:
    return Core()


@asynccontextmanager
async def started(core: Core) -> AsyncIterator[CoreThread]:
    thread = CoreThread(core.running)
    thread.start()
    try:
        await until(lambda: thread.state is not SourceState.STARTING)
        yield thread
    finally:
        await asyncio.to_thread(thread.stop)


async def test_snapshots_come_only_while_somebody_looks(core: Core) -> None:
    async with started(core) as thread:
        first = thread.latest()
        assert first is not None
        thread.watch(0.005)
        await until(lambda: core.snapshots > 5)
        thread.watch(None)
        assert (await thread.execute(Drain("ag-1"))).ok
        settled = core.snapshots
        assert (await thread.execute(Drain("ag-1"))).ok
        assert core.snapshots == settled + 1
        assert thread.latest() is not first


async def test_all_of_it_happens_on_the_cores_thread(core: Core) -> None:
    async with started(core) as thread:
        await thread.execute(Drain("ag-1"))
        handle = thread.start_chat(REQUEST)
        await until(lambda: handle.done)
    assert len(core.threads) == 1
    assert threading.get_ident() not in core.threads


async def test_how_rehearsals_stand_comes_with_the_snapshot_and_at_once_after_asking(core: Core) -> None:
    core.simulator = simulator = OnThread(core.threads)
    async with started(core) as thread:
        assert thread.simulation() is simulator.view()
        run = await thread.simulate(lambda own: own.start("api-down"))
        view = thread.simulation()
        assert view is not None
        assert view.current == run
        simulator.go_on(console_simulation.failed())
        assert thread.simulation() is view
        thread.watch(0.005)
        await until(lambda: thread.simulation() is not view)
        simulator.refuse = "not now"
        with pytest.raises(ValueError, match="not now"):
            await thread.simulate(lambda own: own.stop())
    assert len(core.threads) == 1
    assert threading.get_ident() not in core.threads


async def test_without_a_simulator_nothing_can_be_rehearsed(core: Core) -> None:
    async with started(core) as thread:
        assert thread.simulation() is None
        with pytest.raises(RuntimeError, match="nothing can be rehearsed here"):
            await thread.simulate(lambda own: own.stop())


async def test_a_chat_streams_and_ends(core: Core) -> None:
    async with started(core) as thread:
        handle = thread.start_chat(REQUEST)
        await until(lambda: handle.done)
        assert [event.text for event in handle.drain() if isinstance(event, Delta)] == ["first", "second"]
        assert handle.error is None
        assert handle.drain() == ()
        handle.cancel()
        assert not handle.cancelled


async def test_a_chat_that_fails_tells_the_error(core: Core) -> None:
    async with started(core) as thread:
        handle = thread.start_chat(Request.ask("fail"))
        await until(lambda: handle.done)
        assert isinstance(handle.error, RequestError)
        assert len(handle.drain()) == 1


async def test_cancelling_a_chat_ends_the_call(core: Core) -> None:
    async with started(core) as thread:
        handle = thread.start_chat(Request.ask("hang"))
        await until(lambda: bool(handle.drain()))
        handle.cancel()
        handle.cancel()
        await until(lambda: handle.done)
        assert core.cancelled
        assert handle.cancelled
        assert handle.error is None


async def test_a_chat_cancelled_before_it_began_never_runs_on(core: Core) -> None:
    async with started(core) as thread:
        handle = thread.start_chat(Request.ask("hang"))
        handle.cancel()
        await until(lambda: handle.done)
        assert handle.cancelled


async def test_stop_ends_running_chats_and_the_system(core: Core) -> None:
    async with started(core) as thread:
        handle = thread.start_chat(Request.ask("hang"))
        await until(lambda: bool(handle.drain()))
        assert await asyncio.to_thread(thread.stop)
        assert core.closed
        assert core.cancelled
        assert core.unsubscribed
        assert handle.done
        assert thread.state is SourceState.STOPPED
        with pytest.raises(RuntimeError):
            thread.start_chat(REQUEST)


async def test_a_core_that_cannot_start_says_why() -> None:
    def refuse() -> Core:
        raise OSError("no free port")

    @asynccontextmanager
    async def broken() -> AsyncIterator[Core]:
        yield refuse()

    thread = CoreThread(broken)
    thread.start()
    await until(lambda: thread.state is SourceState.FAILED)
    assert thread.failure == "OSError: no free port"
    assert thread.stop()
    with pytest.raises(RuntimeError, match="no free port"):
        thread.start_chat(REQUEST)


async def test_a_core_that_is_stopped_while_it_starts_ends_too() -> None:
    entered = threading.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[Core]:
        entered.set()
        await asyncio.Event().wait()
        yield Core()

    thread = CoreThread(slow)
    thread.start()
    await asyncio.to_thread(entered.wait, 10)
    begun = time.monotonic()
    assert await asyncio.to_thread(thread.stop, 10)
    assert time.monotonic() - begun < 10


def test_stop_without_start_is_nothing() -> None:
    assert CoreThread(Core().running).stop()


async def test_turns_are_kept_and_sessions_asked_for_on_the_cores_thread(core: Core) -> None:
    turn = ChatTurn("t", "s", 0.0, "why")
    async with started(core) as thread:
        thread.keep_turn(turn)
        kept = core.sessions

        async def look(sessions: ChatSessions) -> bool:
            core.threads.add(threading.get_ident())
            assert sessions is kept
            return sessions.kept

        assert await thread.sessions(look) is False
        assert kept.saved == [turn]

        async def lose(sessions: ChatSessions) -> None:
            raise SessionsLostError("gone")

        with pytest.raises(SessionsLostError, match="gone"):
            await thread.sessions(lose)
    assert len(core.threads) == 1
    assert threading.get_ident() not in core.threads
    thread.keep_turn(turn)
    with pytest.raises(RuntimeError, match="stopped"):
        thread.sessions(look)


def ended(name: str, at: float) -> PastRequest:
    return PastRequest(name, at, name, "default", Origin.API, Ending.ANSWERED, (), 0.1)


async def test_what_ended_before_the_events_began_is_read_once_and_on_the_core_s_thread(core: Core) -> None:
    now = console_data.NOW
    other = ended("of another instance, a moment later", now + 0.1)
    core.past = (other, *(ended(str(number), now - number) for number in range(LOOK_BACK + 50)))
    async with started(core) as thread:
        await until(lambda: thread.earlier() is not None)
        assert thread.earlier() == Earlier(now, core.past[1:LOOK_BACK])
        core.past = ()
        assert thread.earlier() is thread.earlier() is not None
    assert threading.get_ident() not in core.threads


async def test_history_that_does_not_answer_holds_nothing_up(core: Core) -> None:
    core.past = None
    async with started(core) as thread:
        assert thread.state is SourceState.RUNNING
        assert thread.latest() is not None
        handle = thread.start_chat(REQUEST)
        await until(lambda: handle.done)
        assert thread.earlier() is None
    assert core.closed


async def test_history_is_waited_for_no_longer_than_its_time(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "LOOK_BACK_LIMIT_S", 0.01)
    core.past = None
    async with started(core) as thread:
        await until(lambda: thread.earlier() is not None)
        assert thread.earlier() == Earlier(console_data.NOW, ())
