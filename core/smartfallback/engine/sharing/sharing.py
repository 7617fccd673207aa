"""Keeps one instance in step with the others: the tasks that talk to the shared store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from smartfallback.clock import SharedClock
from smartfallback.engine.bus import Bus
from smartfallback.engine.placement import Placement
from smartfallback.engine.quota_desk import QuotaDesk
from smartfallback.engine.roster import AccountRuntime, CircuitFactory, Roster
from smartfallback.engine.settlement import Settlement
from smartfallback.engine.sharing.account_facts import AccountFacts
from smartfallback.engine.sharing.admission import Admission
from smartfallback.engine.sharing.board import Board
from smartfallback.engine.sharing.circuit_facts import CircuitFacts
from smartfallback.engine.sharing.quota_share import QuotaShare
from smartfallback.engine.sharing.standing import shares
from smartfallback.model.events import (
    AdminChanged,
    AttentionRaised,
    CooldownStarted,
    Event,
    QuotaCorrected,
    QuotaHeard,
    QuotaStatusChanged,
    StateNotice,
)
from smartfallback.model.sharing import Fact, FactWrite, InstanceView, SharingSpec, StoreView
from smartfallback.policy.circuit import CircuitChange
from smartfallback.policy.ledger import AccountLedger
from smartfallback.state.shared import SharedStore, StoreLostError, StoreStatus

LOG: Final = logging.getLogger("smartfallback.state")

TICK_S: Final = 0.05
"""How often is looked for what nobody told of."""
REREAD_S: Final = 5
"""In so many seconds all facts are read again, whether or not a hint has come: whoever told of a change
may have died before the hint. That is as long as it takes no more than so many a second:"""
MOST_REREAD_PER_S: Final = 2_000
JOINED: Final = "instances:all"
"""The subject of hints that an instance has come: how many there are decides on each one's share."""
BREATH_S: Final = 0.004
"""The least time between two exchanges that no request waits for."""
HEARTBEAT_S: Final = 1.0
START_WAIT_S: Final = 2.0
"""How long the start waits for what the others know."""
CLOSE_WAIT_S: Final = 1.0
_PAUSE_S: Final = 1.0
"""After what nobody foresaw."""
_EXCHANGED_AT_ONCE: Final = 50
"""Accounts whose quota is exchanged before facts have their turn again."""
_CLOCK_STEP_S: Final = 2.0
"""By more, windows may be others than they seemed to be."""
_MOST_COMPLAINTS: Final = 20
_CLOCK_DIFFERS_S: Final = 0.05
"""Clocks that differ by less are one: on a busy machine their difference is not known better."""

_NEWS: Final = (
    AdminChanged,
    AttentionRaised,
    CooldownStarted,
    QuotaCorrected,
    QuotaHeard,
    QuotaStatusChanged,
)
"""Events that others are told of at once."""

Load = Callable[[], tuple[int, float]]
"""Attempts that run, and requests a second."""


class Sharing:
    """One instance's part in what several share. On one event loop.

    Args:
        roster: The accounts and providers.
        placement: Places accounts about which others have news.
        settlement: Changes admin states, and tells of attempts that end.
        desk: Takes up quota readings.
        bus: Told of the store's changes; tells of what others should know.
        clock: Set by the store's clock.
        store: What the instances share; closed with this.
        spec: How this instance takes part.
        make_circuit: Makes circuits of models.
        load: What the instance does, for the others to see.
        line: How many requests wait for a place on any account.
        version: The product's version.
    """

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        settlement: Settlement,
        desk: QuotaDesk,
        bus: Bus,
        clock: SharedClock,
        store: SharedStore,
        spec: SharingSpec,
        *,
        make_circuit: CircuitFactory,
        load: Load,
        line: Callable[[], int],
        version: str,
    ) -> None:
        self._roster = roster
        self._placement = placement
        self._clock = clock
        self._bus = bus
        self._store = store
        self._spec = spec
        self._load = load
        self._version = version
        self._name = spec.name or f"{socket.gethostname()}/{os.getpid()}"
        self.instance = f"{self._name}#{secrets.token_hex(4)}"
        self._started_at = clock.time()
        self._instances: tuple[InstanceView, ...] = ()
        self._beaten = False
        self._complaints: set[str] = set()
        self._complained = False
        """The operator was told that the store can't be used as it should."""
        self._unexchanged: deque[AccountRuntime] = deque()
        """Accounts of whose quota the store, or this instance, may have missed something."""
        self._heard: dict[str, None] = {}
        self._joined = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._quota = QuotaShare(roster, placement, clock, store, self.instance, spec.mode, line)
        self._board = Board(
            roster,
            placement,
            AccountFacts(bus, settlement, desk, clock),
            CircuitFacts(roster, clock, make_circuit),
            clock,
            store,
            self.instance,
            _name_of,
        )
        self.admission = Admission(self._quota, settlement, clock, store, self.instance)
        placement.told = self._placed
        settlement.left = self.admission.left
        bus.listen(self._on_event)

    # -- its life ------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, and hear what time it is, before anything is told by the clock. Returns in any case."""
        self._store.on_change(self._store_changed)
        ahead = self._clock.time() - self._clock.monotonic()
        await self._store.start()
        if self._store.status.reachable:
            self._set_clock()
        if abs(self._clock.time() - self._clock.monotonic() - ahead) > _CLOCK_STEP_S:
            self._begin_windows_anew()

    def _begin_windows_anew(self) -> None:
        """Windows that began by this machine's clock may be past or to come."""
        now, wall = self._clock.monotonic(), self._clock.time()
        for account in self._roster.accounts.values():
            if account.last_used is None:
                account.ledger = AccountLedger(account.spec.quota, account.pool.spec.thresholds, now=wall)
                if shares(account):
                    account.ledger.share(self.instance)
                account.status = account.ledger.status(wall)
                account.watched = -math.inf
                self._placement.place(account, now)
                self._placement.watch_reset(account, now)

    async def start(self) -> None:
        """Take over what the others know, then keep in step; after :meth:`connect`. Returns in any case."""
        self._board.note()
        self._miss_all()
        if self._store.status.reachable:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_WAIT_S):
                    await self._try(self._catch_up())
        else:
            self._quota.go_on_alone()
        self._board.start()
        for name, work in (("talk", self._talk()), ("listen", self._listen()), ("beat", self._beat())):
            self._own(work, f"smartfallback-sharing-{name}")

    async def _catch_up(self) -> None:
        """Hear all from the others, who hear at once that there is one more to share with."""
        await self._beat_once()
        here = Fact(json.dumps(self._name), self._clock.time(), self.instance)
        await self._store.write_facts([FactWrite(JOINED, "instance", here)])
        while self._board.behind:
            await self._board.read_unread()
        await self._quota.exchange_all()
        self._unexchanged.clear()

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def aclose(self) -> None:
        """Give slices back, say goodbye and let go of the store. Safe to call twice."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WAIT_S)
        if tasks and self._store.status.reachable:
            with contextlib.suppress(TimeoutError, StoreLostError):
                async with asyncio.timeout(CLOSE_WAIT_S):
                    self._board.look()
                    await self._board.write()
                    await self._drop_probes()
                    await self._quota.exchange(self._quota.all_known(), leaving=True)
                    await self._store.leave(self.instance)
        await self._store.aclose()

    # -- what happens here ---------------------------------------------------------------------

    def circuit_changed(self, change: CircuitChange) -> None:
        """A circuit of the roster has changed."""
        self._board.circuit_changed(change)
        self._quota.wake.set()

    def _placed(self, account: AccountRuntime) -> None:
        self._quota.note(account)
        self._board.touch(account)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, _NEWS):
            self._quota.wake.set()

    def _store_changed(self, status: StoreStatus) -> None:
        if not status.usable:
            self._quota.let_go()
        if status.reachable:
            self._set_clock()
        else:
            self._miss_all()
            self._quota.go_on_alone()
        self._quota.wake.set()
        if self._complained or not status.usable:
            self._bus.publish(StateNotice(self._bus.next_seq(), self._clock.time(), self._told(status)))
        self._complained = not status.usable

    def _told(self, status: StoreStatus) -> str:
        place = self._store.place
        if status.usable:
            return f"{place} can be used again: what was done meanwhile is being merged."
        if status.reachable:
            return f"{place} is slow ({status.trouble}): requests go on without waiting for it."
        return f"{place} can't be used ({status.trouble}): all goes on from memory until it is back."

    # -- the tasks -----------------------------------------------------------------------------

    async def _talk(self) -> None:
        wake = self._quota.wake
        while True:
            if not self._quota.waits:
                await asyncio.sleep(BREATH_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await wake.wait()
            wake.clear()
            await self._try(self._talk_once())

    async def _try(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it as far as the store can be used; what goes wrong once must not end the exchange for good."""
        try:
            await work
        except StoreLostError:
            return  # the store tells of it itself
        except Exception as error:
            if repr(error) not in self._complaints and len(self._complaints) < _MOST_COMPLAINTS:
                self._complaints.add(repr(error))
                LOG.exception("the exchange with other instances has failed, trying again")
            await asyncio.sleep(_PAUSE_S)

    async def _talk_once(self) -> None:
        self._board.look()
        if not self._store.status.reachable:
            return
        await self._hear_and_tell()
        due = self._quota.due(self._clock.monotonic())
        for start in range(0, len(due), _EXCHANGED_AT_ONCE):
            if start:
                await self._hear_and_tell()
            # A count that was set is there before the others are told to look.
            await self._quota.exchange(due[start : start + _EXCHANGED_AT_ONCE])
        await self._exchange_next()
        await self._board.write()
        if self._board.busy or self._unexchanged:
            self._quota.wake.set()

    async def _hear_and_tell(self) -> None:
        """Hear what there are hints at, and tell what needs no quota to be told before."""
        heard, self._heard = self._heard, {}
        for subject in heard:
            account = self._roster.accounts.get(subject.removeprefix("account:"))
            if account is not None and shares(account):
                self._quota.look_at(account)
        self._board.miss_these(heard)
        await self._board.read_unread()
        await self._board.read_passed_over()
        await self._board.write(early=True)
        await self._drop_probes()

    async def _exchange_next(self) -> None:
        """Exchange some of the quotas of which something may have been missed."""
        missed = self._unexchanged
        batch = [missed.popleft() for _ in range(min(len(missed), _EXCHANGED_AT_ONCE))]
        try:
            await self._quota.exchange(batch)
        except (StoreLostError, asyncio.CancelledError):
            self._unexchanged.extend(batch)
            raise

    def _miss_all(self) -> None:
        """Anything may have been missed, here or there."""
        self._board.miss()
        self._unexchanged = deque(each for each in self._roster.accounts.values() if shares(each))

    async def _drop_probes(self) -> None:
        """Give places of probes back, after what the probes have shown was told."""
        dropped = self.admission.dropped
        while dropped:
            probe = dropped[0]
            await self._store.drop_probe(probe[0].target, probe[1])
            if dropped and dropped[0] is probe:
                dropped.popleft()

    async def _listen(self) -> None:
        while True:
            await self._try(self._follow())
            await asyncio.sleep(_PAUSE_S)  # it ends when the store is closed, and so does this

    async def _follow(self) -> None:
        async for change in self._store.changes():
            if change.by == self.instance:
                continue
            if change.subject == JOINED:
                self._joined.set()
            elif change.subject:
                self._heard[change.subject] = None
            elif change.by:
                self._board.miss()
            else:
                self._miss_all()
            self._quota.wake.set()

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._joined.wait()
            self._joined.clear()
            if self._store.status.reachable:
                self._board.miss(min(MOST_REREAD_PER_S, math.ceil(self._board.size / REREAD_S)))
                await self._try(self._beat_once())
            else:
                self._clock.go_on_alone()

    async def _beat_once(self) -> None:
        in_flight, requests_per_s = self._load()
        mine = InstanceView(
            self.instance,
            self._name,
            self._version,
            self._started_at,
            self._clock.time(),
            in_flight,
            requests_per_s,
        )
        heard = await self._store.heartbeat(mine)
        self._set_clock()
        self._instances = heard.instances
        self._quota.instances = max(1, len(heard.instances))
        if self._beaten and not heard.known:
            self._board.resend()
            self._miss_all()
            self._quota.wake.set()
        self._beaten = True

    def _set_clock(self) -> None:
        """Go by the store's clock, as far as it is known to differ: those on one machine agree exactly."""
        known_to_s = max(_CLOCK_DIFFERS_S, (self._store.status.lag_s or 0.0) / 2)
        offset_s = self._store.offset_s
        if abs(offset_s) <= known_to_s:
            offset_s = 0.0
        if not self._clock.is_set:
            moved_s = self._clock.set(offset_s)
            self._started_at += moved_s
            self._board.clock_moved(moved_s)
        elif abs(offset_s - self._clock.offset_s) > known_to_s:
            self._board.clock_moved(self._clock.set(offset_s))

    # -- what the operator sees ----------------------------------------------------------------

    def view(self) -> StoreView:
        """The store and who shares it, this instance first."""
        status = self._store.status
        here = [each for each in self._instances if each.id == self.instance]
        others = sorted((each for each in self._instances if each.id != self.instance), key=_by_name)
        since = status.degraded_since
        return StoreView(
            kind=self._store.kind,
            place=self._store.place,
            mode=self._spec.mode,
            lag_s=status.lag_s,
            degraded_since=None if since is None else since + self._clock.offset_s,
            trouble=status.trouble,
            unsent=self._board.unsent + (0 if status.reachable else self._quota.unsent),
            instances=(*(replace(each, here=True) for each in here), *others),
            slow=status.reachable and not status.usable,
        )


def _name_of(instance: str) -> str:
    return instance.rpartition("#")[0] or instance


def _by_name(instance: InstanceView) -> tuple[str, str]:
    return instance.name, instance.id
