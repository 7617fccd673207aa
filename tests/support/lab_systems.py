"""Systems over simulated upstreams: the pools of the built-in chain, fast enough for tests."""

from __future__ import annotations

from pathlib import Path

from smartfallback import (
    AccountSpec,
    ChainSpec,
    PoolSpec,
    ProviderKind,
    QuotaUnit,
    Secret,
    SystemSpec,
    Timeouts,
    WindowKind,
    WindowSpec,
)
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import INSTANT, DialectName, Latency, Upstream, UpstreamAccount

STEADY = Latency(first_token_s=0.01, spread=0.0, tokens_per_s=400.0)
"""Fast, but slow enough to act in the middle of an answer."""

WEEKLY = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 5_000_000, "sun 00:00 UTC"),)
NAMES = tuple(f"ag-{number}" for number in range(1, 9))


def antigravity(latency: Latency = INSTANT) -> Upstream:
    accounts = tuple(UpstreamAccount(name, Secret(f"key-of-{name}")) for name in NAMES)
    return Upstream("gemini", DialectName.GEMINI, accounts, latency)


def copilot(latency: Latency = INSTANT) -> Upstream:
    return Upstream("copilot", DialectName.OPENAI, (UpstreamAccount("co-1", Secret("key-of-co-1")),), latency)


def pool_of(lab: Lab, upstream: str, name: str, **settings: object) -> PoolSpec:
    """The pool of all accounts of one of the lab's upstreams."""
    spec = next(entry for entry in lab.upstreams if entry.name == upstream)
    kind = ProviderKind.GEMINI if spec.dialect is DialectName.GEMINI else ProviderKind.OPENAI
    accounts = tuple(
        AccountSpec(account.id, api_key=account.api_key, quota=WEEKLY, max_concurrency=100)
        for account in spec.accounts
    )
    return PoolSpec(
        name=name,
        provider=kind,
        provider_id=upstream,
        accounts=accounts,
        model="gemini-2.5-flash",
        base_url=lab.base_url(upstream),
        **settings,  # type: ignore[arg-type]
    )


def local_pool(model: Path, **settings: object) -> PoolSpec:
    return PoolSpec(
        name="local",
        provider=ProviderKind.LOCAL,
        provider_id="local",
        accounts=(AccountSpec("gguf", max_concurrency=1),),
        model="demo",
        model_path=model,
        **settings,  # type: ignore[arg-type]
    )


def openai_pool(base_url: str, name: str = "server", account: str = "srv-1") -> PoolSpec:
    return PoolSpec(
        name=name,
        provider=ProviderKind.OPENAI,
        provider_id=name,
        accounts=(AccountSpec(account),),
        model="demo",
        base_url=base_url,
        timeouts=Timeouts(idle_s=5.0),
    )


def chain(*pools: PoolSpec) -> SystemSpec:
    return SystemSpec(pools=pools, chains=(ChainSpec("default", tuple(pool.name for pool in pools)),))
