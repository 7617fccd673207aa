"""Pools over a lab whose adapters an injector stands behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from smartfallback.clock import Clock, SystemClock
from smartfallback.model.requests import Message, Role
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind, SystemSpec, Timeouts
from smartfallback.providers.base import Call, Provider
from smartfallback.simulation.drills.drill import Drill, DrillScope, DrillTarget
from smartfallback.simulation.drills.injector import Injector
from smartfallback.simulation.faults import Fault
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import INSTANT, DialectName, Upstream, UpstreamAccount
from support.http_servers import Outcome, collect

KINDS = {
    "gemini": ProviderKind.GEMINI,
    "openai": ProviderKind.OPENAI,
    "opencode": ProviderKind.OPENCODE,
}
MODELS = {"gemini": "m-1", "openai": "m-1", "opencode": "lab/m-1"}


def key(account: str) -> Secret:
    return Secret(f"test-key-of-{account}")


def at(name: str, scope: DrillScope = DrillScope.ACCOUNT) -> DrillTarget:
    return DrillTarget(scope, name)


def system(*pools: PoolSpec) -> SystemSpec:
    return SystemSpec(pools=pools, chains=())


def pool(kind: ProviderKind, name: str, *accounts: str, **settings: Any) -> PoolSpec:
    specs = tuple(AccountSpec(account, key(account)) for account in accounts)
    fields = {"model": "m-1", "provider_id": f"api-of-{name}", **settings}
    return PoolSpec(name=name, provider=kind, accounts=specs, **fields)


@dataclass
class Rig:
    """One upstream with accounts a-1 and a-2, an adapter for it, and the injector behind that."""

    lab: Lab
    dialect: str
    pool: PoolSpec
    injector: Injector
    provider: Provider

    def drill(self, fault: Fault, **settings: Any) -> str:
        settings.setdefault("target", at("a-1"))
        return self.injector.start(Drill(fault=fault, **settings)).id

    def call(self, account: int = 0, *, stream: bool = True, model: str = "") -> Call:
        turn = Message(Role.USER, "How do database indexes work?")
        return Call(
            self.pool.accounts[account], self.pool, model or self.pool.model, (turn,), None, None, stream
        )

    async def ask(self, account: int = 0, **settings: Any) -> Outcome:
        return await collect(self.provider.stream(self.call(account, **settings)))

    @property
    def reached(self) -> int:
        """How many calls for answers the upstream saw."""
        return self.lab.counters("up").requests


@asynccontextmanager
async def rig(dialect: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Rig]:
    clock = clock or SystemClock()
    accounts = tuple(UpstreamAccount(name, key(name)) for name in ("a-1", "a-2"))
    upstream = Upstream("up", DialectName(dialect), accounts, INSTANT)
    async with Lab(SystemClock(), Random(1), [upstream]) as lab:
        spec = pool(
            KINDS[dialect],
            "main",
            "a-1",
            "a-2",
            base_url=lab.base_url("up"),
            model=MODELS[dialect],
            timeouts=Timeouts(connect_s=0.2),
            **settings,
        )
        injector = Injector(system(spec), clock, Random(7))
        provider = injector.provider_factory()(spec, clock)
        try:
            yield Rig(lab, dialect, spec, injector, provider)
        finally:
            await provider.aclose()
