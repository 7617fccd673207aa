"""An orchestrator over simulated upstreams that are asked for their quotas, on a clock that a test moves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from smartfallback import (
    AccountSpec,
    AccountView,
    Event,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    QuotaHeard,
    QuotaUnit,
    RefreshQuota,
    Reply,
    Request,
    Secret,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.engine.bus import Subscription
from smartfallback.simulation.faults import Fault
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import (
    INSTANT,
    DialectName,
    Upstream,
    UpstreamAccount,
    UpstreamQuota,
)
from support.clock import FakeClock
from support.lab_systems import chain

GEMINI = "gemini"
OPENAI = "openai"
MODEL = "gemini-2.5-flash"
LIMIT = 1_000_000.0
USED = 250_000.0
WEEKLY = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, LIMIT, "sun 00:00 UTC"),)
PATIENCE_S = 20.0


def upstream(dialect: DialectName, *accounts: UpstreamAccount) -> Upstream:
    return Upstream(dialect.value, dialect, accounts, INSTANT)


def upstream_account(name: str, **settings: object) -> UpstreamAccount:
    """An account that has used a quarter of its weekly tokens."""
    settings.setdefault("quota", UpstreamQuota(LIMIT, used=USED))
    return UpstreamAccount(name, Secret(f"key-of-{name}"), **settings)  # type: ignore[arg-type]


def account_of(entry: UpstreamAccount, **settings: object) -> AccountSpec:
    settings.setdefault("quota", WEEKLY)
    return AccountSpec(entry.id, api_key=entry.api_key, **settings)  # type: ignore[arg-type]


def pool_at(lab: Lab, name: str, *accounts: AccountSpec, **settings: object) -> PoolSpec:
    """The pool of these accounts at one of the lab's upstreams."""
    kind = ProviderKind.GEMINI if name == GEMINI else ProviderKind.OPENAI
    fields: dict[str, object] = {"model": MODEL, "base_url": lab.base_url(name)} | settings
    return PoolSpec(name, kind, name, accounts, **fields)  # type: ignore[arg-type]


@dataclass
class Scene:
    """A running system."""

    lab: Lab
    clock: FakeClock
    orchestrator: Orchestrator
    events: Subscription

    def account(self, name: str = "ag-1") -> AccountView:
        view = self.orchestrator.snapshot().account(name)
        assert view is not None
        return view

    async def ask(self, **fields: object) -> Reply:
        request = replace(Request.ask("How do database indexes work?"), **fields)  # type: ignore[arg-type]
        return await self.orchestrator.chat(request)

    def news(self) -> tuple[Event, ...]:
        """What happened since the last look."""
        return self.events.drain()[0]

    async def heard(self, account: str = "ag-1") -> QuotaHeard:
        """The next news of the account's quota source; earlier news is lost."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for event in self.news():
                    if isinstance(event, QuotaHeard) and event.account == account:
                        return event
                await asyncio.sleep(0.005)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - a snapshot sets no event
                await asyncio.sleep(0.005)

    async def refreshed(self, account: str = "ag-1") -> AccountView:
        """Ask the account's source a second later; what is known after its answer or its failure."""
        self.clock.advance(1)
        failures = self._failures()
        assert self.orchestrator.execute(RefreshQuota(account)).ok
        await self.until(lambda: self._failures() > failures or self._read_now(account))
        return self.account(account)

    def _failures(self) -> int:
        checks = self.orchestrator.quota_checks
        assert checks is not None
        return checks.failures

    def _read_now(self, account: str) -> bool:
        bound = self.account(account).quota.bound
        if bound is None or bound.label is not TruthLabel.REPORTED:
            return False
        return bound.read_at == self.clock.time()


@asynccontextmanager
async def scene(
    *accounts: AccountSpec | UpstreamAccount, fault: Fault | None = None, **settings: object
) -> AsyncIterator[Scene]:
    """Gemini accounts, by default ``ag-1`` and ``ag-2``; the sources are being asked for the first time.

    Args:
        accounts: What the system configures; upstream accounts get a weekly window.
        fault: What the upstream suffers from the start.
        settings: Of the pool.
    """
    given = accounts or (upstream_account("ag-1"), upstream_account("ag-2"))
    known = [entry if isinstance(entry, UpstreamAccount) else upstream_account(entry.id) for entry in given]
    specs = [entry if isinstance(entry, AccountSpec) else account_of(entry) for entry in given]
    clock = FakeClock()
    async with Lab(clock, random.Random(1), [upstream(DialectName.GEMINI, *known)]) as lab:
        if fault is not None:
            lab.set_fault(GEMINI, fault)
        system = chain(pool_at(lab, GEMINI, *specs, **settings))
        async with running(lab, clock, Orchestrator(system, clock=clock, rng=random.Random(1))) as begun:
            yield begun


@asynccontextmanager
async def running(lab: Lab, clock: FakeClock, orchestrator: Orchestrator) -> AsyncIterator[Scene]:
    events = orchestrator.subscribe()
    async with orchestrator:
        yield Scene(lab, clock, orchestrator, events)
