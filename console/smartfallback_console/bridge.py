"""The boundary between the console's thread and the core's.

The core runs on a thread and event loop of its own, so that a repaint never delays a dispatch and
a slow dispatch never freezes a key. Seven things cross: the latest snapshot and with it how rehearsals
stand (reference reads), new events (a bounded drain), once what became of requests before the start (a
reference read too), commands, what is asked of the simulator, chats, and the turns of chats that are kept.

A chat, seen from the user interface::

    handle = app.source.start_chat(Request.ask("Hello", origin=Origin.CHAT))
    ...                                   # on an interval of the widget, say 10 times a second:
    for event in handle.drain():          # Delta, AttemptStarted, AttemptFailed, RequestFinished, …
        ...
    handle.done                           # True once the stream ended and nothing more will come
    handle.error                          # a RequestError or other exception, None after a clean end
    handle.cancel()                       # ends the upstream call; safe to call at any time, twice too

Read ``done`` before ``drain()`` to be sure that the last batch is not missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from smartfallback import (
        ChatSessions,
        ChatTurn,
        Command,
        CommandResult,
        Event,
        PastRequest,
        Request,
        SimulationView,
        Snapshot,
    )
    from smartfallback_console.system import Engine, Simulator, Subscription, SystemFactory

T = TypeVar("T")

EVENT_BACKLOG = 5_000
"""Events kept for a console that does not look; older ones are dropped and counted."""

LOOK_BACK = 200
"""So many requests from before the start are read, however many are kept."""

LOOK_BACK_LIMIT_S = 5.0
"""A store that takes longer to tell of them is not waited for."""


class SourceState(StrEnum):
    """How far the core has come."""

    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"


class Earlier(NamedTuple):
    """The requests that ended before anybody listened, newest first; ``until`` in epoch seconds."""

    until: float
    requests: tuple[PastRequest, ...]


class ChatHandle:
    """One running answer; all members may be used from the console's thread."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.error: Exception | None = None
        """Why the stream ended early; None while it runs, after a clean end and after a cancel."""
        self.cancelled = False
        """Whether :meth:`cancel` ended it."""
        self._events: deque[Event] = deque()
        self._done = threading.Event()
        self._cancel: Callable[[], None] | None = None

    @property
    def done(self) -> bool:
        """Whether the stream has ended; events may still wait for a :meth:`drain`."""
        return self._done.is_set()

    def drain(self) -> tuple[Event, ...]:
        """The events since the last call, oldest first."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._events.popleft())
        return tuple(taken)

    def cancel(self) -> None:
        """End the upstream call, if it still runs."""
        if not self.done:
            self.cancelled = True
            if self._cancel is not None:
                self._cancel()

    def push(self, event: Event) -> None:
        """For the side that answers: add an event."""
        self._events.append(event)

    def finish(self, error: Exception | None = None) -> None:
        """For the side that answers: nothing more will come."""
        self.error = error
        self._done.set()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """For the side that answers: how to end the call; must be thread-safe."""
        self._cancel = callback
        if self.cancelled:
            callback()


class Source(Protocol):
    """What the console reads and commands: the core's thread, or a script in tests."""

    @property
    def state(self) -> SourceState:
        """How far the core has come."""
        ...

    @property
    def failure(self) -> str:
        """Why the core failed, empty while it has not."""
        ...

    def latest(self) -> Snapshot | None:
        """The newest snapshot, None before the first."""
        ...

    def drain(self) -> tuple[tuple[Event, ...], int]:
        """New events and how many were dropped."""
        ...

    def earlier(self) -> Earlier | None:
        """What became of requests before the events that are drained here; None until that has been read."""
        ...

    def watch(self, interval_s: float | None) -> None:
        """How often to make a snapshot; None while nobody looks."""
        ...

    def simulation(self) -> SimulationView | None:
        """How rehearsals stand, None where nothing can be rehearsed."""
        ...

    def execute(self, command: Command) -> Awaitable[CommandResult]:
        """Carry out a command."""
        ...

    def simulate(self, act: Callable[[Simulator], T]) -> Awaitable[T]:
        """Ask something of the simulator; its ValueError is passed on."""
        ...

    def start_chat(self, request: Request) -> ChatHandle:
        """Ask a question and collect its events."""
        ...

    def keep_turn(self, turn: ChatTurn) -> None:
        """Keep a turn of a chat as it is now, where anything is kept."""
        ...

    def sessions(self, act: Callable[[ChatSessions], Awaitable[T]]) -> Awaitable[T]:
        """Ask something of the chat sessions that are kept; its SessionsLostError is passed on."""
        ...


class CoreThread:
    """Runs a system on its own thread and event loop.

    Args:
        factory: Makes the system's context manager.
        backlog: Events kept between two drains.
    """

    def __init__(self, factory: SystemFactory, *, backlog: int = EVENT_BACKLOG) -> None:
        self._factory = factory
        self._backlog = backlog
        self._state = SourceState.STARTING
        self._failure = ""
        self._snapshot: Snapshot | None = None
        self._simulation: SimulationView | None = None
        self._earlier: Earlier | None = None
        self._interval: float | None = None
        self._subscription: Subscription | None = None
        self._engine: Engine | None = None
        self._simulator: Simulator | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._wake: asyncio.Event | None = None
        self._stop_asked = False
        self._chats: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="smartfallback-core", daemon=True)
        self._lock = threading.Lock()

    @property
    def state(self) -> SourceState:
        """How far the core has come."""
        return self._state

    @property
    def failure(self) -> str:
        """Why the core failed, empty while it has not."""
        return self._failure

    def start(self) -> None:
        """Start the thread; returns at once, :attr:`state` tells the rest."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the system and wait for its thread.

        Returns:
            Whether the thread ended within ``timeout_s`` seconds.
        """
        with self._lock:
            self._stop_asked = True
            loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop may close in this very moment
                loop.call_soon_threadsafe(stop.set)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def latest(self) -> Snapshot | None:
        """The newest snapshot, None before the first."""
        return self._snapshot

    def simulation(self) -> SimulationView | None:
        """How rehearsals stood when the newest snapshot was made, None where nothing can be rehearsed."""
        return self._simulation

    def drain(self) -> tuple[tuple[Event, ...], int]:
        """New events and how many were dropped."""
        return ((), 0) if self._subscription is None else self._subscription.drain()

    def earlier(self) -> Earlier | None:
        """What became of requests before this start; None until that has been read."""
        return self._earlier

    def watch(self, interval_s: float | None) -> None:
        """How often to make a snapshot, in seconds; None while nobody looks."""
        self._interval = interval_s
        with self._lock:
            loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(wake.set)

    def execute(self, command: Command) -> Awaitable[CommandResult]:
        """Carry out a command on the core's loop.

        Raises:
            RuntimeError: The core does not run.
        """
        return asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._execute(command), self._running_loop())
        )

    def simulate(self, act: Callable[[Simulator], T]) -> Awaitable[T]:
        """Ask something of the simulator on the core's loop.

        Raises:
            RuntimeError: The core does not run, or has no simulator.
        """
        return asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._simulate(act), self._running_loop())
        )

    def start_chat(self, request: Request) -> ChatHandle:
        """Ask a question and collect its events.

        Raises:
            RuntimeError: The core does not run.
        """
        loop = self._running_loop()
        handle = ChatHandle(request)
        loop.call_soon_threadsafe(self._begin_chat, handle)
        return handle

    def keep_turn(self, turn: ChatTurn) -> None:
        """Keep a turn of a chat as it is now; one whose core has ended is lost."""
        engine = self._engine
        if self._loop is not None and engine is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(engine.sessions.save_turn, turn)

    def sessions(self, act: Callable[[ChatSessions], Awaitable[T]]) -> Awaitable[T]:
        """Ask something of the chat sessions that are kept, on the core's loop.

        Raises:
            RuntimeError: The core does not run.
        """
        loop = self._running_loop()
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask_sessions(act), loop))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._state is not SourceState.RUNNING:
            raise RuntimeError(self._failure or f"the core is {self._state.value}")
        return self._loop

    # What follows runs on the core's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._state = SourceState.FAILED
        else:
            self._state = SourceState.STOPPED

    async def _main(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._stop, self._wake = asyncio.Event(), asyncio.Event()
            if self._stop_asked:
                return
        stopping = asyncio.create_task(self._stop.wait())
        serving = asyncio.create_task(self._serve())
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not serving.done():
            serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    async def _serve(self) -> None:
        async with self._factory() as system:
            self._engine, self._simulator = system.orchestrator, system.simulator
            self._subscription = self._engine.subscribe(self._backlog)
            self._take(self._engine)
            self._state = SourceState.RUNNING
            # In this very turn of the loop the subscription began: what has ended by now, no event tells.
            until = self._snapshot.at if self._snapshot is not None else 0.0
            looking_back = asyncio.create_task(self._look_back(self._engine, until))
            try:
                await self._publish(self._engine)
            finally:
                looking_back.cancel()
                await asyncio.gather(looking_back, return_exceptions=True)
                await self._end_chats()
                self._engine.unsubscribe(self._subscription)

    async def _publish(self, engine: Engine) -> None:
        wake = self._wake
        while wake is not None:
            try:
                async with asyncio.timeout(self._interval):
                    await wake.wait()
                    wake.clear()
            except TimeoutError:
                self._take(engine)

    def _take(self, engine: Engine) -> None:
        self._snapshot = engine.snapshot()
        if self._simulator is not None:
            self._simulation = self._simulator.view()

    async def _look_back(self, engine: Engine, until: float) -> None:
        """Read once what became of requests before ``until`` (epoch seconds)."""
        past: tuple[PastRequest, ...] = ()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_BACK_LIMIT_S):
                past = await engine.history(LOOK_BACK)
        self._earlier = Earlier(until, tuple(request for request in past if request.at <= until))

    async def _execute(self, command: Command) -> CommandResult:
        if self._engine is None:
            raise RuntimeError("the core does not run")
        result = self._engine.execute(command)
        self._take(self._engine)
        return result

    async def _simulate(self, act: Callable[[Simulator], T]) -> T:
        if self._engine is None or self._simulator is None:
            raise RuntimeError("nothing can be rehearsed here")
        result = act(self._simulator)
        self._take(self._engine)
        return result

    async def _ask_sessions(self, act: Callable[[ChatSessions], Awaitable[T]]) -> T:
        if self._engine is None:
            raise RuntimeError("the core does not run")
        return await act(self._engine.sessions)

    def _begin_chat(self, handle: ChatHandle) -> None:
        task = asyncio.get_running_loop().create_task(self._chat(handle))
        self._chats.add(task)
        task.add_done_callback(self._chats.discard)

    async def _chat(self, handle: ChatHandle) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def cancel() -> None:
            if task is not None:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(task.cancel)

        error: Exception | None = None
        try:
            handle.on_cancel(cancel)
            if self._engine is None:
                raise RuntimeError("the core does not run")
            stream = self._engine.stream(handle.request)
            try:
                async for event in stream:
                    handle.push(event)
            finally:
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()
        except Exception as caught:
            error = caught
        finally:
            handle.finish(error)

    async def _end_chats(self) -> None:
        chats = tuple(self._chats)
        for task in chats:
            task.cancel()
        await asyncio.gather(*chats, return_exceptions=True)
