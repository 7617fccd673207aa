"""A shared store around a real one whose exchanges with the engine can meet drills.

While no drill is in force all goes straight through, and the real store says how it is. While one is,
this one says so in its place, as a real link does (``state/redis_store/``): trouble is told once, found
out by whoever asks or by a check of its own, and a store that fails keeps nobody waiting twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from smartfallback.clock import Clock
from smartfallback.model.circuits import CircuitTarget
from smartfallback.model.sharing import (
    AccountReport,
    Change,
    Fact,
    FactWrite,
    Heartbeat,
    HoldRequest,
    InstanceView,
    ProbeReply,
    QuotaReply,
    StoreKind,
)
from smartfallback.simulation.drills.drill import Meeting
from smartfallback.simulation.drills.store_counts import StoreCounts
from smartfallback.simulation.faults import Latency, PlainFault, Refused
from smartfallback.state.shared import SharedStore, StoreLostError, StoreStatus

if TYPE_CHECKING:
    from smartfallback.simulation.drills.injector import Injector

LOG: Final = logging.getLogger("smartfallback.state")

REQUEST_LIMIT_S: Final = 0.05
"""What a request may wait on the store (SPEC 9)."""
BACKGROUND_LIMIT_S: Final = 1.0
"""What anything else may wait."""
_CHECK_EVERY_S: Final = 1.0
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 2.0
_DRILL: Final = ", by a drill"

T = TypeVar("T")


class DrilledStore:
    """Passes exchanges on to ``inner``, but for what drills on the store make of them.

    A :class:`~smartfallback.state.shared.SharedStore`, for one event loop.

    Args:
        inner: The real store; closed with this one.
        injector: Knows which drills are in force.
        clock: Since when the store fails.
        rng: Spreads the checks while it does.
    """

    def __init__(self, inner: SharedStore, injector: Injector, clock: Clock, rng: random.Random) -> None:
        self._inner = inner
        self._injector = injector
        self._clock = clock
        self._rng = rng
        self._listeners: list[Callable[[StoreStatus], None]] = []
        self._drilled: StoreStatus | None = None
        """How it is while a drill is in force; None while there is none."""
        self._failed_at = 0.0
        self._wait_s = _FIRST_WAIT_S
        self._woken = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._hints: asyncio.Queue[Change] | None = None
        self._missed = False
        self.counts = StoreCounts()
        """What was told to the store of use, and what it says of it."""
        inner.on_change(self._inner_changed)

    # -- how it is -------------------------------------------------------------------------

    @property
    def kind(self) -> StoreKind:
        """The kind of store."""
        return self._inner.kind

    @property
    def place(self) -> str:
        """Its address, without credentials."""
        return self._inner.place

    @property
    def status(self) -> StoreStatus:
        """How it is now, as far as drills let it be seen."""
        return self._inner.status if self._drilled is None else self._drilled

    @property
    def offset_s(self) -> float:
        """The store's clock minus this machine's, in seconds."""
        return self._inner.offset_s

    def on_change(self, listener: Callable[[StoreStatus], None]) -> None:
        """Call ``listener``, on the loop, whenever it becomes usable, reachable, or neither."""
        self._listeners.append(listener)

    # -- its life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and keep trying in the background; returns within a second, connected or not."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="smartfallback-drilled-store")
        await self._inner.start()

    async def aclose(self) -> None:
        """End the own task, and the real store. Safe to call twice."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        await self._inner.aclose()

    # -- what the injector tells -----------------------------------------------------------

    def begin_drill(self) -> None:
        """A drill on the store is in force from now on."""
        if self._drilled is None:
            self._drilled = self._inner.status
            self._wait_s = _FIRST_WAIT_S
        self._woken.set()

    def end_drill(self) -> None:
        """A drill on the store is over; without any other the real store counts again."""
        if self._drilled is None or self._injector.drills_store:
            self._woken.set()
            return
        before, self._drilled = self._drilled, None
        self._catch_up_on_hints()
        self._tell(before, self._inner.status, logs=self._inner.status.usable)

    # -- exchanges -------------------------------------------------------------------------

    async def reserve(self, instance: str, hold: HoldRequest) -> QuotaReply:
        """See :meth:`smartfallback.state.shared.SharedStore.reserve`."""
        return await self._pass(REQUEST_LIMIT_S, lambda: self._inner.reserve(instance, hold))

    async def report(
        self, instance: str, reports: Sequence[AccountReport], *, lease_s: float
    ) -> Sequence[QuotaReply]:
        """See :meth:`smartfallback.state.shared.SharedStore.report`."""
        self.counts.told(instance, reports)
        replies = await self._pass(
            BACKGROUND_LIMIT_S, lambda: self._inner.report(instance, reports, lease_s=lease_s)
        )
        self.counts.heard(replies)
        return replies

    async def write_facts(self, writes: Sequence[FactWrite]) -> Sequence[Fact]:
        """See :meth:`smartfallback.state.shared.SharedStore.write_facts`."""
        return await self._pass(BACKGROUND_LIMIT_S, lambda: self._inner.write_facts(writes))

    async def read_facts(self, subjects: Collection[str]) -> Mapping[str, Mapping[str, Fact]]:
        """See :meth:`smartfallback.state.shared.SharedStore.read_facts`."""
        return await self._pass(BACKGROUND_LIMIT_S, lambda: self._inner.read_facts(subjects))

    async def take_probe(
        self, instance: str, target: CircuitTarget, probe: str, *, at_once: int, lease_s: float
    ) -> ProbeReply:
        """See :meth:`smartfallback.state.shared.SharedStore.take_probe`."""
        return await self._pass(
            REQUEST_LIMIT_S,
            lambda: self._inner.take_probe(instance, target, probe, at_once=at_once, lease_s=lease_s),
        )

    async def drop_probe(self, target: CircuitTarget, probe: str) -> None:
        """See :meth:`smartfallback.state.shared.SharedStore.drop_probe`."""
        await self._pass(BACKGROUND_LIMIT_S, lambda: self._inner.drop_probe(target, probe))

    async def heartbeat(self, instance: InstanceView) -> Heartbeat:
        """See :meth:`smartfallback.state.shared.SharedStore.heartbeat`."""
        return await self._pass(BACKGROUND_LIMIT_S, lambda: self._inner.heartbeat(instance))

    async def leave(self, instance: str) -> None:
        """See :meth:`smartfallback.state.shared.SharedStore.leave`."""
        await self._pass(BACKGROUND_LIMIT_S, lambda: self._inner.leave(instance))

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Hints at changes that others made; those that a drill keeps away are made up for afterwards."""
        hints = self._hints = asyncio.Queue()
        follower = asyncio.create_task(self._follow(hints), name="smartfallback-drilled-hints")
        try:
            while True:
                yield await hints.get()
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    # -- inside ----------------------------------------------------------------------------

    async def _pass(self, limit_s: float, call: Callable[[], Awaitable[T]]) -> T:
        """Make ``call`` as drills let it be made.

        Raises:
            StoreLostError: The store can't be used, by a drill or in fact, or not within ``limit_s``.
        """
        if self._drilled is None:
            return await call()
        urgent = limit_s <= REQUEST_LIMIT_S
        if not (self._drilled.usable if urgent else self._drilled.reachable):
            raise StoreLostError(self._drilled.trouble)
        meeting = self._injector.meet_store()
        if meeting is None:
            return await call()
        try:
            if isinstance(meeting.fault, Refused):
                self._lose("connection refused")
                raise StoreLostError("connection refused" + _DRILL)
            async with asyncio.timeout(limit_s):
                await meeting.stand_still(_delay_of(meeting.fault))
                return await call()
        except TimeoutError:
            if urgent and self.status.usable:
                self._slow(f"no answer within {REQUEST_LIMIT_S * 1000:.0f} ms")
            self._woken.set()
            raise StoreLostError(f"no answer within {limit_s * 1000:.0f} ms{_DRILL}") from None
        finally:
            meeting.close()

    async def _keep(self) -> None:
        """Look, while a drill is in force, how the store seems to be: nobody may ask it for a while."""
        while True:
            if self._drilled is None:
                await self._woken.wait()
                self._woken.clear()
                continue
            self._woken.clear()
            await self._check()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._next_wait_s()):
                    await self._woken.wait()

    def _next_wait_s(self) -> float:
        if self.status.usable:
            return _CHECK_EVERY_S
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, _LONGEST_WAIT_S)
        return wait_s * (0.5 + self._rng.random() / 2)

    async def _check(self) -> None:
        meeting = self._injector.meet_store()
        if meeting is None:
            if self._drilled is not None:  # the drill is away for a moment
                self._set(self._inner.status)
            return
        try:
            if isinstance(meeting.fault, Refused):
                self._lose("connection refused")
                return
            delay_s = min(_delay_of(meeting.fault), BACKGROUND_LIMIT_S)
            if delay_s <= REQUEST_LIMIT_S:
                self._set(self._inner.status)
                return
            if await _lifted_within(meeting, REQUEST_LIMIT_S):
                return
            if self.status.usable:
                self._slow(f"no answer within {REQUEST_LIMIT_S * 1000:.0f} ms")
            if await _lifted_within(meeting, delay_s - REQUEST_LIMIT_S):
                return
            if delay_s >= BACKGROUND_LIMIT_S:
                self._lose(f"no answer within {BACKGROUND_LIMIT_S:.0f} s")
            else:
                self._slow(f"an answer took {delay_s * 1000:.0f} ms", delay_s)
        finally:
            meeting.close()

    def _lose(self, words: str) -> None:
        self._missed = True
        self._degrade(words, self.status.lag_s, reachable=False)

    def _slow(self, words: str, lag_s: float | None = None) -> None:
        if not self._inner.status.reachable:
            self._set(self._inner.status)
        else:
            self._degrade(words, self.status.lag_s if lag_s is None else lag_s, reachable=True)

    def _degrade(self, words: str, lag_s: float | None, *, reachable: bool) -> None:
        if self._drilled is None:
            return  # the drill has ended meanwhile
        since = self._drilled.degraded_since
        if since is None:
            since = self._clock.time()
        self._set(StoreStatus(False, reachable, since, words + _DRILL, lag_s))

    def _set(self, status: StoreStatus) -> None:
        before, self._drilled = self.status, status
        if status.reachable and not before.reachable:
            self._catch_up_on_hints()
        self._tell(before, status)

    def _inner_changed(self, status: StoreStatus) -> None:
        if self._drilled is None:
            self._listen_to(status)

    def _tell(self, before: StoreStatus, now: StoreStatus, *, logs: bool = True) -> None:
        """Tell of a change, if it is one, as a link tells of its own: a line of log, and whoever listens."""
        if before.usable and not now.usable:
            self._failed_at = self._clock.monotonic()
        if (before.usable, before.reachable) == (now.usable, now.reachable):
            return
        if now.usable:
            lasted_s = self._clock.monotonic() - self._failed_at
            LOG.info("shared store %s: in use again after %.1f s", self.place, lasted_s)
        elif logs and now.reachable:
            LOG.warning(
                "shared store %s is slow (%s): requests go on from memory, all else is still shared",
                self.place,
                now.trouble,
            )
        elif logs:
            LOG.warning(
                "shared store %s can't be used (%s): going on from memory, trying again",
                self.place,
                now.trouble,
            )
        self._listen_to(now)

    def _listen_to(self, status: StoreStatus) -> None:
        for listener in self._listeners:
            try:
                listener(status)
            except Exception:  # whoever listens must not keep the store from being watched
                LOG.exception("a listener to the shared store failed")

    # -- hints -----------------------------------------------------------------------------

    async def _follow(self, hints: asyncio.Queue[Change]) -> None:
        loop = asyncio.get_running_loop()
        async for change in self._inner.changes():
            meeting = None if self._drilled is None else self._injector.meet_store()
            if meeting is None:
                hints.put_nowait(change)
                continue
            meeting.close()
            delay_s = _delay_of(meeting.fault)
            if self.status.reachable and delay_s < BACKGROUND_LIMIT_S:
                loop.call_later(delay_s, hints.put_nowait, change)
            else:
                self._missed = True

    def _catch_up_on_hints(self) -> None:
        if self._missed and self._hints is not None:
            self._hints.put_nowait(Change(""))
        self._missed = False


async def _lifted_within(meeting: Meeting, seconds: float) -> bool:
    """Wait so long, and say whether the drill has ended by then."""
    await meeting.stand_still(seconds)
    return meeting.lifted


def _delay_of(fault: PlainFault) -> float:
    """How much later an answer comes, in seconds; infinite for one that never comes."""
    return fault.delay_s if isinstance(fault, Latency) else math.inf
