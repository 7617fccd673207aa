"""The library's front door: send a request, give a command, read the state."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from dataclasses import replace
from types import AsyncGeneratorType, TracebackType
from weakref import WeakKeyDictionary

from smartfallback.clock import Clock, SharedClock, SystemClock
from smartfallback.engine.bus import DEFAULT_BACKLOG, Bus, Subscription
from smartfallback.engine.capacity import Capacity
from smartfallback.engine.comebacks import Comebacks
from smartfallback.engine.historian import Historian
from smartfallback.engine.maintenance import Maintenance
from smartfallback.engine.meters import Meters, PoolAccounts
from smartfallback.engine.observer import Observer
from smartfallback.engine.operator import Operator
from smartfallback.engine.persistence import Persistence
from smartfallback.engine.placement import Placement
from smartfallback.engine.planner import Planner
from smartfallback.engine.queue_archive import QueueArchive
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.engine.quota_desk import QuotaDesk, SourceFactory, without_sources
from smartfallback.engine.rehearsal import Rehearsal, Rehearsals
from smartfallback.engine.replays import Replays
from smartfallback.engine.resets import Resets
from smartfallback.engine.roster import PoolRuntime, Roster, circuit_factory
from smartfallback.engine.run import Run
from smartfallback.engine.services import Services
from smartfallback.engine.sessions import ChatSessions
from smartfallback.engine.settlement import Settlement
from smartfallback.engine.sharing.sharing import Sharing
from smartfallback.engine.stay import Restored
from smartfallback.engine.throttling import Throttles
from smartfallback.model.commands import Command, CommandResult
from smartfallback.model.events import Actor, CircuitChanged, Event, ProviderNotice, RequestFinished
from smartfallback.model.history import PastRequest
from smartfallback.model.outcomes import ErrorCategory, Failure, RequestError
from smartfallback.model.queueing import QueuedRequest
from smartfallback.model.quota import TruthLabel, WindowSpec
from smartfallback.model.requests import OnBreak, Origin, Reply, Request
from smartfallback.model.sharing import SharingSpec, StoreView
from smartfallback.model.snapshot import Snapshot
from smartfallback.model.specs import PoolSpec, SystemSpec
from smartfallback.policy.answer_cache import AnswerCache
from smartfallback.policy.circuit import CircuitChange
from smartfallback.policy.retry_budget import RetryBudget
from smartfallback.providers.base import Provider
from smartfallback.quota_sources.refresher import RefreshStats, Watch
from smartfallback.state.base import StateStore
from smartfallback.state.shared import SharedStore
from smartfallback.telemetry.recoveries import RecoveryLog

_CLOSE_LIMIT_S = 2.0

ProviderFactory = Callable[[PoolSpec, Clock], Provider]


class Orchestrator:
    """Routes requests over the accounts of a system.

    Use it as an async context manager, on one event loop::

        async with Orchestrator(spec) as orchestrator:
            reply = await orchestrator.chat(Request.ask("Why is the sky blue?"))

    Args:
        spec: The accounts, pools and chains.
        clock: The time; the machine's by default.
        rng: Randomness for selection, jitter and back-off.
        provider_factory: Makes a pool's adapter; the built-in ones by default.
        source_factory: Finds the quota sources of a pool's accounts; the built-in ones by default,
            none when ``provider_factory`` is given.
        store: Keeps state over a restart; this orchestrator closes it. Without one nothing is kept.
        shared: Shares state with other instances; this orchestrator closes it too. Without one every
            quota is this instance's alone.
        sharing: How this instance takes part in that.
    """

    def __init__(
        self,
        spec: SystemSpec,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        provider_factory: ProviderFactory | None = None,
        source_factory: SourceFactory | None = None,
        store: StateStore | None = None,
        shared: SharedStore | None = None,
        sharing: SharingSpec | None = None,
    ) -> None:
        self.spec = spec
        self._clock = clock or SystemClock()
        shared_clock = None if shared is None else SharedClock(self._clock)
        self._clock = shared_clock or self._clock
        rng = rng or random.Random()
        self._bus = Bus()
        self._requests = 0
        self._closed = False
        self._runs: WeakKeyDictionary[AsyncGenerator[Event, None], Run] = WeakKeyDictionary()
        factory = provider_factory or self._built_in_provider
        make_circuit = circuit_factory(rng, self._clock.monotonic, self._circuit_changed)
        self._roster = Roster(
            spec,
            adapters=lambda pool: factory(pool, self._clock),
            make_circuit=make_circuit,
            rng=rng,
            now_at=self._clock.time(),
        )
        capacity = Capacity()
        archive = None if store is None else QueueArchive(self._clock)
        self._queue = QueueDesk(
            spec.recovery.queue_limit, self._clock, rng, line=capacity.__len__, archive=archive
        )

        def on_room() -> None:
            capacity.freed()
            self._queue.freed()

        self._comebacks = Comebacks(self._roster, self._clock, self._bus)
        self._placement = Placement(
            self._clock,
            self._bus,
            Resets(self._clock, self._bus, rng),
            self._comebacks,
            Throttles(self._clock, self._bus),
            on_room,
        )
        settlement = Settlement(
            self._roster,
            self._placement,
            self._clock,
            self._bus,
            make_circuit=make_circuit,
            on_room=on_room,
        )
        self._services = Services(
            planner=Planner(self._placement, self._clock),
            settlement=settlement,
            bus=self._bus,
            clock=self._clock,
            rng=rng,
            budget=RetryBudget(share=spec.recovery.retry_share, reserve=spec.recovery.retry_reserve),
            capacity=capacity,
            queue=self._queue,
            cache=AnswerCache(),
            learn=lambda account, limits: self._quota.learn(account, limits),
            check=lambda account_id: self._quota.check(account_id),
        )
        if source_factory is None:
            source_factory = _built_in_sources if provider_factory is None else without_sources
        self._quota = QuotaDesk(self._roster, self._placement, self._clock, self._bus, rng, source_factory)
        self._operator = Operator(
            self._roster, self._placement, settlement, self._clock, self._bus, self._quota, self._queue
        )
        self._meters = Meters(
            {pool.name: _pool_accounts(pool) for pool in self._roster.pools.values()},
            self._clock,
            self._shares,
        )
        self._bus.listen(self._meters.on_event)
        recoveries = RecoveryLog(self._clock)
        self._bus.listen(recoveries.on_event)
        self._observer = Observer(
            self._roster,
            self._meters,
            recoveries,
            self._services.budget,
            self._clock,
            self._bus,
            self._queue,
            simulated=spec.simulated,
            store=StoreView if store is None else store.view,
        )
        self._maintenance = Maintenance(
            self._roster, self._placement, self._meters, self._clock, self._bus, self._queue
        )
        self._sharing: Sharing | None = None
        if shared is not None and shared_clock is not None:
            self._sharing = Sharing(
                self._roster,
                self._placement,
                settlement,
                self._quota,
                self._bus,
                shared_clock,
                shared,
                sharing or SharingSpec(),
                make_circuit=make_circuit,
                load=self._load,
                line=capacity.__len__,
                version=_product_version(),
            )
            self._services = replace(self._services, admission=self._sharing.admission)
            self._observer.store = self._sharing.view
        self._rehearsals = Rehearsals(
            self._roster,
            self._placement,
            self._maintenance,
            self._operator,
            self._clock,
            self._bus,
            on_room,
        )
        self._maintenance_task: asyncio.Task[None] | None = None
        self._persistence: Persistence | None = None
        self._replays: Replays | None = None
        self._historian: Historian | None = None
        self._sessions = ChatSessions(store)
        self._id_ending = f"-{secrets.token_hex(3)}"
        if store is not None and archive is not None:
            self._replays = Replays(self._queue, archive, store, self._clock, self._replay)
            self._historian = Historian(store, self._clock, self._meters, recoveries)
            self._bus.listen(self._historian.on_event)
            self._persistence = Persistence(
                self._roster,
                self._placement,
                self._clock,
                self._bus,
                store,
                make_circuit=make_circuit,
                queue=self._replays,
                historian=self._historian,
            )
        now = self._clock.monotonic()
        for account in self._roster.accounts.values():
            account.status = account.ledger.status(self._clock.time())
            self._placement.place(account, now)
            self._placement.watch_reset(account, now)
        self._maintenance.check(now)

    async def __aenter__(self) -> Orchestrator:
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _start(self) -> None:
        if self._sharing is not None:
            # Saved times are those of the shared clock.
            await self._sharing.connect()
        if self._persistence is not None:
            await self._persistence.start()
            self._maintenance.check(self._clock.monotonic())
        if self._sharing is not None:
            await self._sharing.start()
            self._maintenance.check(self._clock.monotonic())
        await self._quota.start()
        self._maintenance_task = asyncio.create_task(
            self._maintenance.run(), name="smartfallback-maintenance"
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop: no new requests, adapters closed, child processes gone, state saved. Safe to call twice."""
        self._closed = True
        await self._end_runs()
        if self._replays is not None:
            await self._replays.aclose()
        task, self._maintenance_task = self._maintenance_task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._quota.aclose()
        await asyncio.gather(
            *(pool.adapter.aclose() for pool in self._roster.pools.values()), return_exceptions=True
        )
        await self._sessions.aclose()
        if self._sharing is not None:
            await self._sharing.aclose()
        if self._persistence is not None:
            await self._persistence.aclose()

    async def _end_runs(self) -> None:
        """End what runs before the adapters close under it, so that no upstream is blamed for that."""
        for run in tuple(self._runs.values()):
            run.close()
        self._services.capacity.close()
        self._queue.close()
        # A stream that its reader has left standing ends when the reader comes back, not before.
        stopping = [
            run.stopped.wait()
            for events, run in tuple(self._runs.items())
            if isinstance(events, AsyncGeneratorType) and events.ag_running
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT_S):
                await asyncio.gather(*stopping)

    def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer ``request`` as typed events: routed, attempts, deltas, finished.

        Close the generator (or cancel the task that reads it) to end the upstream call.

        Raises:
            RequestError: While iterating: nobody could answer, or the answer broke off.
        """
        chats = request.origin is Origin.CHAT
        return self._open(request, OnBreak.CONTINUE if chats else OnBreak.ERROR)

    def _replay(self, name: str, record: QueuedRequest, since: float) -> AsyncGenerator[Event, None]:
        request = replace(record.request, id=name)
        return self._open(request, OnBreak.CONTINUE, Restored(record.terms, record.failure, since))

    def _open(
        self, request: Request, on_break: OnBreak, restored: Restored | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events of ``request``; ``on_break`` holds where neither it nor its chain says otherwise."""
        self._requests += 1
        request_id = request.id or f"r{self._requests}"
        self._services.budget.note_request(self._clock.monotonic())
        chain = self._roster.chains.get(request.chain)
        if chain is None:
            known = ", ".join(self._roster.chains)
            raise _refused(request_id, f"there is no chain {request.chain!r}; the chains are {known}")
        if request.pin is not None and request.pin not in self._roster.accounts:
            raise _refused(request_id, f"there is no account {request.pin!r} to pin the request to")
        if not request.messages:
            raise _refused(request_id, "the request has no messages")
        if request.timeout_s is not None and not request.timeout_s > 0:
            raise _refused(request_id, f"timeout_s must be above 0, not {request.timeout_s:g}")
        if self._closed:
            raise _refused(request_id, "the orchestrator is closed")
        if request.max_output_tokens is not None and request.max_output_tokens < 1:
            raise _refused(
                request_id, f"max_output_tokens must be at least 1, not {request.max_output_tokens}"
            )
        if restored is None and self._queue.holds(request_id):
            raise _refused(request_id, f"a request {request_id!r} waits in the queue already")
        if not request.id and self._replays is not None and self._queue.terms(request, chain.spec):
            request_id += self._id_ending  # it may outlive this process, and be collected from another
        pinned = None if request.pin is None else self._roster.accounts[request.pin]
        on_break = request.on_break or chain.spec.on_break or on_break
        run = Run(request_id, request, chain, self._services, pinned, on_break=on_break, restored=restored)
        events = run.events()
        self._runs[events] = run
        return events

    async def chat(self, request: Request) -> Reply:
        """The whole answer to ``request``; one that breaks off is continued unless the request says no.

        Raises:
            RequestError: Nobody could answer, or the answer broke off (``partial`` has what came).
        """
        events = self._open(request, OnBreak.CONTINUE)
        try:
            async for event in events:
                if isinstance(event, RequestFinished):
                    return event.reply
        finally:
            await events.aclose()
        raise RuntimeError("a stream of events ended without a result")

    async def collect(self, request_id: str) -> Reply | RequestError | None:
        """How a request ended that waited in the queue when an earlier process ended.

        Such a request is replayed without a caller; its outcome waits here for a day at most, the latest
        500 of them, over further restarts too, and is handed out once.

        Returns:
            The reply, or the error for which it failed; None when there is nothing of that id (yet).
        """
        return None if self._replays is None else await self._replays.collect(request_id)

    async def history(self, limit: int = 100, since: float | None = None) -> tuple[PastRequest, ...]:
        """What became of the requests that ended last, the newest first, over restarts too.

        Without a store nothing is kept. What is kept is bounded: 30 days, 200,000 requests.

        Args:
            limit: How many at most.
            since: Only those that ended then or later, in epoch seconds.
        """
        return () if self._historian is None else await self._historian.latest(limit, since)

    def execute(self, command: Command) -> CommandResult:
        """Carry out an operator's command now; a refusal says why and changes nothing."""
        return self._rehearsals.execute(command)

    @contextlib.contextmanager
    def rehearsal(self, accounts: Collection[str], providers: Collection[str] = ()) -> Iterator[Rehearsal]:
        """A time in which what happens to these accounts and providers is not kept.

        Failures, circuits, rests, walls, ramps, corrections and what ``Rehearsal.execute`` does act as
        ever, but none of it is saved, so that a killed process starts as before; at the end, also
        after an error or cancellation, it is all put back. What is real stays: tokens and requests
        that were used and answered, readings of quota sources, and commands given by hand through
        :meth:`execute`. Attempts that still run at the end may finish, and their failure says nothing.

        With an account its provider is held too, and the accounts that share its project; with a
        provider all of its accounts.

        Args:
            accounts: Ids of accounts.
            providers: Ids of providers.

        Raises:
            ValueError: A name is unknown, nothing is named, or another rehearsal holds any of it.
            RuntimeError: The orchestrator does not run.
        """
        if self._maintenance_task is None or self._closed:
            raise RuntimeError("a rehearsal needs an orchestrator that runs")
        rehearsal = self._rehearsals.begin(accounts, providers)
        try:
            yield rehearsal
        finally:
            self._rehearsals.end(rehearsal)

    def snapshot(self) -> Snapshot:
        """The state of everything now, as a frozen tree that any thread may read."""
        return self._observer.snapshot()

    @property
    def sessions(self) -> ChatSessions:
        """The chat sessions that are kept over a restart; nothing is without a store."""
        return self._sessions

    @property
    def quota_checks(self) -> RefreshStats | None:
        """How many of the attempts met a fresh quota in the cache; None without any quota source."""
        return self._quota.stats

    def has_quota_source(self, account: str) -> bool:
        """Whether the provider of an account can be asked for its quota."""
        return self._quota.has_source(account)

    def subscribe(self, backlog: int = DEFAULT_BACKLOG) -> Subscription:
        """A bounded backlog of all events but deltas, starting now; drain it from any thread."""
        return self._bus.subscribe(backlog)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription."""
        self._bus.unsubscribe(subscription)

    def tell_notice(self, pool: str, message: str) -> None:
        """Tell subscribers what the adapter of a pool has to say, such as a restarted child process.

        Adapters of an own ``provider_factory`` can be given this to speak by.
        """
        self._bus.publish(ProviderNotice(self._bus.next_seq(), self._clock.time(), pool, message))

    def preload_usage(self, used: Mapping[str, float]) -> None:
        """Set what accounts have used of their first quota window, before traffic starts.

        An account that has used anything counts as just used.

        Raises:
            KeyError: An account doesn't exist.
        """
        now = self._clock.monotonic()
        at = self._clock.time()
        for name, amount in used.items():
            account = self._roster.accounts[name]
            account.ledger.set_used(0, amount, at, TruthLabel.MEASURED)
            if amount > 0 and account.last_used is None:
                account.last_used = now
                account.last_used_at = at
            self._placement.place(account, now)

    def _built_in_provider(self, pool: PoolSpec, clock: Clock) -> Provider:
        from smartfallback.providers.registry import build_provider

        return build_provider(pool, clock, lambda message: self.tell_notice(pool.name, message))

    def _shares(self, pool: str) -> list[float | None]:
        at = self._clock.time()
        return [account.ledger.used_percent(at) for account in self._roster.pools[pool].accounts]

    def _circuit_changed(self, change: CircuitChange) -> None:
        now = self._clock.monotonic()
        at = self._clock.time()
        actor = Actor.OPERATOR if change.by_operator else Actor.SYSTEM
        until = None if change.until is None else at + change.until - now
        self._bus.publish(
            CircuitChanged(
                self._bus.next_seq(), at, change.target, change.old, change.new, change.cause, actor, until
            )
        )
        self._comebacks.circuit_changed(change)
        if self._sharing is not None:
            self._sharing.circuit_changed(change)

    def _load(self) -> tuple[int, float]:
        in_flight = sum(account.in_flight for account in self._roster.accounts.values())
        return in_flight, self._meters.traffic.view(self._clock.monotonic()).requests_per_s


def _product_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("smartfallback-console")
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def _built_in_sources(pool: PoolSpec, clock: Clock) -> Mapping[str, Watch]:
    from smartfallback.quota_sources.registry import sources_for

    return sources_for(pool, clock)


def _pool_accounts(pool: PoolRuntime) -> PoolAccounts:
    limits: list[WindowSpec | None] = [
        account.spec.quota[0] if account.spec.quota else None for account in pool.accounts
    ]
    return PoolAccounts([account.id for account in pool.accounts], limits)


def _refused(request_id: str, message: str) -> RequestError:
    return RequestError(request_id, Failure(ErrorCategory.INVALID_REQUEST, message))
