"""Instances of the engine in one process that share their state over a real Redis server."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from smartfallback import (
    AccountSpec,
    AdminState,
    CircuitScope,
    CircuitSettings,
    CircuitState,
    CircuitTarget,
    Clock,
    CommandResult,
    Disable,
    Enable,
    ErrorCategory,
    Event,
    Failure,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaThresholds,
    QuotaUnit,
    RequestError,
    Secret,
    SystemSpec,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.circuits import RateLimitRule
from smartfallback.model.commands import Command
from smartfallback.model.sharing import Fact, FactWrite, SharingMode, SharingSpec
from smartfallback.model.snapshot import AccountView, CircuitView
from smartfallback.quota_sources.refresher import Watch
from smartfallback.state.base import StateStore
from smartfallback.state.redis_store.store import RedisSharedStore
from support.scripted import ScriptedUpstream, ask, failure, pool, system
from support.waiting import until

KEY: Final = "the-key-of-a1-in-no-known-shape"
WEEK: Final = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 10_000, "sun 00:00 UTC")
CIRCUIT: Final = CircuitSettings(
    failure_threshold=2,
    recovery_timeout_s=300.0,
    recovery_jitter=0.0,
    on_rate_limit=RateLimitRule.IGNORE,
)
CAP: Final = 8


def spec(circuit: CircuitSettings = CIRCUIT, **settings: Any) -> SystemSpec:
    """A pool of accounts a1 to a3 and ``mark``, and a pool of a model on this machine."""
    accounts = [
        AccountSpec(name, api_key=Secret(KEY) if name == "a1" else None, quota=(WEEK,), max_concurrency=CAP)
        for name in ("a1", "a2", "a3", "mark")
    ]
    settings.setdefault("thresholds", QuotaThresholds(soft_limit=100, hard_limit=100, critical=99))
    cloud = pool("cloud", *accounts, account_circuit=circuit, default_output_tokens=10, **settings)
    return system(cloud, pool("here", "gguf", provider=ProviderKind.LOCAL))


def of_account(name: str) -> CircuitTarget:
    return CircuitTarget(CircuitScope.ACCOUNT, name)


def of_model(account: str, model: str = "cloud-model") -> CircuitTarget:
    return CircuitTarget(CircuitScope.MODEL, f"{account}/{model}")


API: Final = CircuitTarget(CircuitScope.PROVIDER, "cloud-api")


class GatedStore(RedisSharedStore):
    """Waits, where a test wants it, between an exchange with the server and what is made of it.

    Attributes:
        reads: How many subjects were asked for.
        written: The subjects that facts were told of.
        gates: Where to wait: "read" and "write" after the exchange, "to write" before it.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.reads = 0
        self.written: list[str] = []
        self.gates: dict[str, Gate] = {}

    async def read_facts(self, subjects: Collection[str]) -> Mapping[str, Mapping[str, Fact]]:
        self.reads += len(subjects)
        facts = await super().read_facts(subjects)
        await self._pass("read", [subject for subject in subjects if facts.get(subject)])
        return facts

    async def write_facts(self, writes: Sequence[FactWrite]) -> Sequence[Fact]:
        subjects = [write.subject for write in writes]
        await self._pass("to write", subjects)
        held = await super().write_facts(writes)
        self.written += subjects
        await self._pass("write", subjects)
        return held

    async def _pass(self, way: str, subjects: Collection[str]) -> None:
        gate = self.gates.get(way)
        if gate is not None and gate.subject in subjects:
            gate.reached.set()
            await gate.go_on.wait()


@dataclass
class Gate:
    """Stops an exchange about a subject."""

    subject: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Sharer:
    """One instance."""

    name: str
    orchestrator: Orchestrator
    upstream: ScriptedUpstream
    store: GatedStore
    prefix: str
    events: list[Event] = field(default_factory=list)

    def account(self, name: str) -> AccountView:
        view = self.orchestrator.snapshot().account(name)
        assert view is not None
        return view

    def circuit(self, target: CircuitTarget) -> CircuitView:
        snapshot = self.orchestrator.snapshot()
        if target.scope is CircuitScope.PROVIDER:
            return next(each.provider_circuit for each in snapshot.pools if each.provider_id == target.name)
        account = self.account(target.name.partition("/")[0])
        if target.scope is CircuitScope.ACCOUNT:
            return account.circuit
        return next(each for each in account.model_circuits if each.target == target)

    def state(self, target: CircuitTarget) -> CircuitState:
        return self.circuit(target).state

    def do(self, command: Command) -> None:
        result: CommandResult = self.orchestrator.execute(command)
        assert result.ok, result.message

    async def answered(self, account: str) -> bool:
        """Ask an account once; whether it answered."""
        try:
            await self.orchestrator.chat(ask(pin=account))
        except RequestError:
            return False
        return True

    async def fails(self, account: str, category: ErrorCategory, times: int = 1, **fields: Any) -> Failure:
        """Let requests to the account fail."""
        scripted = failure(category, **fields)
        for _ in range(times):
            # Some errors are tried again at once.
            self.upstream.always(account, (scripted,))
            assert not await self.answered(account)
        del self.upstream.defaults[account]
        return scripted

    def told(self, account: str) -> int:
        """How often the others were told of an account."""
        return self.store.written.count(f"account:{account}")

    def has_to_tell(self, subject: str) -> bool:
        """Whether something about a subject has been noticed, and waits until the store is back."""
        sharing = self.orchestrator._sharing
        assert sharing is not None
        return any(write.subject == subject for write in sharing._board._book.to_tell())

    def heard(self, kind: type[Event], account: str) -> int:
        subscription_events = [event for event in self.events if isinstance(event, kind)]
        return sum(getattr(event, "account", None) == account for event in subscription_events)


def make(
    name: str,
    url: str,
    prefix: str,
    *,
    system_spec: SystemSpec | None = None,
    mode: SharingMode = SharingMode.LEASED,
    clock: Clock | None = None,
    store: StateStore | None = None,
    sources: Mapping[str, Watch] | None = None,
    **more: Any,
) -> Sharer:
    """An instance that has not started."""
    upstream = ScriptedUpstream()
    shared = GatedStore(url, prefix=prefix, clock=clock)

    def watches(pool_spec: PoolSpec, clock: Clock) -> Mapping[str, Watch]:
        return (sources or {}) if pool_spec.name == "cloud" else {}

    orchestrator = Orchestrator(
        system_spec or spec(),
        clock=clock,
        provider_factory=upstream.provider,
        source_factory=watches,
        store=store,
        shared=shared,
        sharing=SharingSpec(mode, name),
        **more,
    )
    sharer = Sharer(name, orchestrator, upstream, shared, prefix)
    orchestrator._bus.listen(sharer.events.append)
    return sharer


@asynccontextmanager
async def sharing(url: str, names: str = "A B", *, prefix: str = "", **settings: Any) -> AsyncIterator[Any]:
    """Instances of these names that have started, as a tuple."""
    prefix = prefix or f"test-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        sharers = [make(name, url, prefix, **settings) for name in names.split()]
        for sharer in sharers:
            await stack.enter_async_context(sharer.orchestrator)
        yield tuple(sharers)


async def told(teller: Sharer, *hearers: Sharer) -> None:
    """Wait until ``hearers`` have heard all that ``teller`` had to tell before."""
    if teller.account("mark").admin is AdminState.DISABLED:
        teller.do(Enable("mark"))
    word = f"word {uuid.uuid4().hex[:8]}"
    teller.do(Disable("mark", word))
    await until(lambda: all(hearer.account("mark").admin_reason == word for hearer in hearers))
    await until(lambda: teller.orchestrator.snapshot().store.unsent == 0)


async def both_heard(one: Sharer, other: Sharer) -> None:
    """Wait until each has heard what the other had to tell."""
    await told(one, other)
    await told(other, one)


class OffClock:
    """The machine's clocks, with a calendar that is wrong by some seconds."""

    def __init__(self, off_s: float = 0.0) -> None:
        self.off_s = off_s

    monotonic = staticmethod(time.monotonic)

    def time(self) -> float:
        return time.time() + self.off_s


@asynccontextmanager
async def lost(*sharers: Sharer, server: Any) -> AsyncIterator[None]:
    """A time in which the server is down; it comes back with what it had."""
    server.stop(save=True)
    await until(lambda: not any(sharer.store.status.reachable for sharer in sharers))
    yield
    server.start()
    await until(lambda: all(sharer.store.status.usable for sharer in sharers))
