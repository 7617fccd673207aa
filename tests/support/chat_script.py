"""A core whose chats are answered by a test, event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from textual.app import App, ComposeResult

from smartfallback import (
    AnswerResumed,
    AttemptFailed,
    AttemptOutrun,
    AttemptRecord,
    AttemptResult,
    AttemptStarted,
    ChatSessions,
    ChatTurn,
    Command,
    CommandResult,
    Degradation,
    DegradationKind,
    Delta,
    Event,
    Failure,
    NextStep,
    Reply,
    Request,
    RequestDegraded,
    RequestError,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
    Seam,
    SimulationView,
    Snapshot,
    Usage,
)
from smartfallback_console import themes
from smartfallback_console.bridge import ChatHandle, Earlier, SourceState
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.system import Simulator
from support.clock import FakeClock
from support.console_data import NOW, decision, snapshot

T = TypeVar("T")
USAGE = Usage(812, 230)


class ScriptedSource:
    """Collects the chats that were started; a test answers them through :class:`Answer`."""

    def __init__(self, view: Snapshot | None = None) -> None:
        self.state = SourceState.RUNNING
        self.failure = ""
        self.view = view
        self.handles: list[ChatHandle] = []
        self.refuses = ""
        self.kept = ChatSessions(None)
        """The sessions that are kept; a test may put those of a store here."""

    def latest(self) -> Snapshot | None:
        return self.view

    def drain(self) -> tuple[tuple[Event, ...], int]:
        return (), 0

    def earlier(self) -> Earlier | None:
        return None

    def watch(self, interval_s: float | None) -> None:
        pass

    def simulation(self) -> SimulationView | None:
        return None

    async def simulate(self, act: Callable[[Simulator], T]) -> T:
        raise RuntimeError("nothing can be rehearsed here")

    def execute(self, command: Command) -> Awaitable[CommandResult]:
        done: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        done.set_result(CommandResult(True, ""))
        return done

    def keep_turn(self, turn: ChatTurn) -> None:
        self.kept.save_turn(turn)

    async def sessions(self, act: Callable[[ChatSessions], Awaitable[T]]) -> T:
        return await act(self.kept)

    def start_chat(self, request: Request) -> ChatHandle:
        if self.refuses:
            raise RuntimeError(self.refuses)
        handle = ChatHandle(request)
        handle.on_cancel(handle.finish)
        self.handles.append(handle)
        return handle

    @property
    def requests(self) -> list[Request]:
        return [handle.request for handle in self.handles]

    def answer(self) -> Answer:
        """The newest chat, to be answered."""
        return Answer(self.handles[-1])


class Answer:
    """Writes the events of one chat in the order in which the engine would."""

    def __init__(self, handle: ChatHandle) -> None:
        self.handle = handle
        self._seq = 0
        self._records: list[AttemptRecord] = []
        self._tried: tuple[str, str] = ("", "")
        self._model = ""
        self._running = False
        self._text: list[str] = []
        self._degradations: list[Degradation] = []
        self._seams: list[Seam] = []
        self._queued_s = 0.0
        self._won = 0

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def tries(self, account: str, pool: str = "antigravity", model: str = "gemini-2.5-flash") -> Answer:
        step = decision(account, pool)
        if not self._records and self._seq == 0:
            request = self.handle.request
            self.handle.push(RequestRouted(self._next(), NOW, "r-1", request.chain, request.origin, step))
        self._tried, self._running = (account, pool), True
        self._model = model
        number = len(self._records) + 1
        self.handle.push(AttemptStarted(self._next(), NOW, "r-1", number, account, pool, pool, model, step))
        return self

    def hedges(self, account: str, pool: str = "copilot", model: str = "gpt-4o", *, wins: bool) -> Answer:
        """A second candidate is asked beside the one that runs; one of the two answers first."""
        first, step = self._tried, decision(account, pool)
        number = len(self._records) + 1
        self.handle.push(
            AttemptStarted(self._next(), NOW, "r-1", number + 1, account, pool, pool, model, step, hedge=True)
        )
        lost = first if wins else (account, pool)
        place = number if wins else number + 1
        self._records.append(AttemptRecord(place, *lost, self._model, AttemptResult.OUTRUN, 0.9))
        self._tried = (account, pool) if wins else first
        won = number + 1 if wins else number
        self._won = won
        self.handle.push(AttemptOutrun(self._next(), NOW, "r-1", place, *lost, lost[1], 0.9, won))
        return self

    def resumes(self, account: str, cause: str, *, overlap: int = 0) -> Answer:
        """``account``, which was tried last, goes on with what has been said so far."""
        broken = self._records[-1].account
        seam = Seam(sum(map(len, self._text)), broken, account, cause, overlap)
        self._seams.append(seam)
        self._degradations.append(Degradation(DegradationKind.CONTINUED, f"continued by {account}"))
        self.handle.push(AnswerResumed(self._next(), NOW, "r-1", seam))
        return self

    def queues(self, failure: Failure, *, place: int = 2, expires_in: float = 1_800.0) -> Answer:
        request = self.handle.request
        self.handle.push(
            RequestQueued(
                self._next(), NOW, "r-1", request.origin, request.chain, 0, place, NOW + expires_in, failure
            )
        )
        return self

    def replays(self, waited_s: float = 200.0) -> Answer:
        request = self.handle.request
        self._queued_s += waited_s
        self.handle.push(RequestReplayed(self._next(), NOW, "r-1", request.origin, request.chain, waited_s))
        return self

    def fails(self, failure: Failure, then: NextStep = NextStep.SWITCH_ACCOUNT) -> Answer:
        account, pool = self._tried
        self._running = False
        number = len(self._records) + 1
        self._records.append(
            AttemptRecord(number, account, pool, self._model, AttemptResult.FAILED, 0.31, failure)
        )
        self.handle.push(
            AttemptFailed(self._next(), NOW, "r-1", number, account, pool, pool, 0.31, failure, then)
        )
        return self

    def degrades(self, degradation: Degradation) -> Answer:
        self._degradations.append(degradation)
        self.handle.push(RequestDegraded(self._next(), NOW, "r-1", degradation))
        return self

    def says(self, text: str) -> Answer:
        self._text.append(text)
        self.handle.push(Delta(self._next(), NOW, "r-1", text))
        return self

    def finishes(
        self,
        *,
        usage: Usage = USAGE,
        cost: float | None = 0.0012,
        first_token_s: float | None = 0.42,
        latency_s: float = 2.31,
        finish_reason: str = "stop",
        cached_age_s: float | None = None,
        cached_from: tuple[str, str] = ("ag-3", "antigravity"),
    ) -> None:
        account, pool = self._tried if cached_age_s is None else cached_from
        if cached_age_s is None:
            number = self._won or len(self._records) + 1
            self._records.append(
                AttemptRecord(number, account, pool, self._model, AttemptResult.SUCCESS, latency_s)
            )
            self._records.sort()
        reply = Reply(
            request_id="r-1",
            text="".join(self._text),
            account=account,
            pool=pool,
            provider=pool,
            model=self._model,
            usage=usage,
            finish_reason=finish_reason,
            attempts=tuple(self._records),
            latency_s=latency_s,
            first_token_s=first_token_s,
            cost=cost,
            degradations=tuple(self._degradations),
            seams=tuple(self._seams),
            cached_age_s=cached_age_s,
            queued_s=self._queued_s,
        )
        self.handle.push(RequestFinished(self._next(), NOW, "r-1", self.handle.request.origin, reply))
        self.handle.finish()

    def breaks(
        self, failure: Failure, *, next_available_at: float | None = None, skipped: tuple[str, ...] = ()
    ) -> None:
        """The request ends in ``failure``; the attempt that runs is its last."""
        if self._running:
            self.fails(failure, NextStep.FAIL)
        self.handle.finish(
            RequestError(
                "r-1",
                failure,
                self._records,
                partial="".join(self._text),
                next_available_at=next_available_at,
                skipped=skipped,
            )
        )


class ChatApp(App[None]):
    """A chat pane alone, looked at by hand unless ``live``."""

    def __init__(
        self,
        source: ScriptedSource,
        clock: FakeClock | None = None,
        *,
        read_only: bool = False,
        theme: str = themes.DEFAULT,
        single: bool = False,
    ) -> None:
        super().__init__()
        self.clock = clock or FakeClock()
        self._pane = ChatPane(
            source,
            read_only=read_only,
            clock=self.clock.monotonic,
            epoch=self.clock.time,
            live=False,
            id="chat",
        )
        for known in themes.built_in().themes:
            self.register_theme(known)
        self.theme = theme
        self._single = single

    def compose(self) -> ComposeResult:
        yield self._pane

    def on_mount(self) -> None:
        self.screen.set_class(self._single, "-single")
        if self._single:
            self._pane.styles.border = ("none", "transparent")
        self._pane.focus()

    @property
    def chat(self) -> ChatPane:
        return self._pane


def demo_source() -> ScriptedSource:
    return ScriptedSource(snapshot())
