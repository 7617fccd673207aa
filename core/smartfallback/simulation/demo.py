"""The demo: the built-in chain against simulated upstreams, with traffic and mild weather.

Four steps, as an operator would have them: eight accounts of one API with a weekly quota, a
subscription, a server, and a model on this machine. Everything but the last is simulated.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from smartfallback.clock import Clock, SystemClock
from smartfallback.model.quota import QuotaUnit, WindowKind, WindowSpec
from smartfallback.model.secrets import Secret
from smartfallback.model.sharing import SharingSpec
from smartfallback.model.specs import AccountSpec, ChainSpec, PoolSpec, ProviderKind, SystemSpec
from smartfallback.simulation.copilot_cli import install_copilot
from smartfallback.simulation.demo_model import CONTEXT_TOKENS, demo_model_path, write_demo_model
from smartfallback.simulation.faults import BurstLimit, Flapping, HttpStatus, SlowFirstToken
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.traffic import Traffic
from smartfallback.simulation.upstreams import (
    DialectName,
    Latency,
    Upstream,
    UpstreamAccount,
    UpstreamQuota,
)
from smartfallback.simulation.weather import Incident, Weather

if TYPE_CHECKING:
    from smartfallback.engine.orchestrator import Orchestrator
    from smartfallback.simulation.drills.injector import Injector
    from smartfallback.simulation.scenarios.simulator import Simulator
    from smartfallback.simulation.scenarios.stage import Stage
    from smartfallback.state.shared import SharedStore

ANTIGRAVITY: Final = "antigravity"
COPILOT: Final = "copilot"
OPENCODE: Final = "opencode"
LOCAL: Final = "local"
GEMINI_API: Final = "gemini"
GEMINI_MODEL: Final = "gemini-2.5-flash"
COPILOT_QUOTA_PATH: Final = "/copilot_internal/user"
COPILOT_MODEL: Final = "gpt-4.1"
OPENCODE_MODEL: Final = "opencode/qwen3-coder"

DEMO_MODEL_NOTICE: Final = (
    "*Answered by the built-in demo model: its text is nonsense until `model_path` names a model of yours.*"
    "\n\n"
)

_TOKENS_A_WEEK: Final = {
    "ag-1": 320_000,
    "ag-2": 320_000,
    "ag-3": 260_000,
    "ag-4": 400_000,
    "ag-5": 320_000,
    "ag-6": 260_000,
    "ag-7": 400_000,
    "ag-8": 320_000,
}
_REQUESTS_A_MONTH: Final = {"cp-1": 60_000, "cp-2": 40_000}
_OPENCODE_TOKENS_A_MONTH: Final = 25_000_000

INITIAL_USAGE: Final[Mapping[str, float]] = MappingProxyType(
    {
        "ag-1": 108_800.0,
        "ag-2": 113_600.0,
        "ag-3": 94_120.0,
        "ag-4": 139_199.0,
        "ag-5": 118_720.0,
        "ag-6": 87_360.0,
        "ag-7": 334_000.0,
        "ag-8": 195_200.0,
        "cp-1": 15_600.0,
        "cp-2": 10_300.0,
        "oc-1": 2_600_000.0,
    }
)
"""What the accounts have used of their window when the demo begins, in the window's unit."""

_HEDGE_AFTER_S: Final = 2.5
"""Rarely without an incident: a first token takes half a second, and four seconds in one of the incidents."""
_CACHE_S: Final = 900.0
_QUEUE_S: Final = 300.0

_CALM_S: Final = 8.0
"""How long the last background requests may take before a scenario begins all the same."""

STAND_IN: Final = "a second demo, where a store in this process stands in for Redis"
"""Where scenarios about a shared store are played in a demo that shares nothing."""

CHAIN_SHARES: Final = MappingProxyType({"default": 0.8, "fast": 0.2})
"""How the background traffic is spread over the chains."""

INCIDENTS: Final = (
    Incident("a burst limit on ag-6", GEMINI_API, BurstLimit(8.0), 12.0, ("ag-6",)),
    Incident("copilot overloaded", COPILOT, HttpStatus(503), 20.0),
    Incident("slow first tokens on ag-1", GEMINI_API, SlowFirstToken(4.0), 25.0, ("ag-1",)),
    Incident("an outage of the Gemini API", GEMINI_API, HttpStatus(500), 20.0),
    Incident("a flapping ag-4", GEMINI_API, Flapping(HttpStatus(503), 6.0), 30.0, ("ag-4",)),
    Incident("burst limits on ag-2 and ag-8", GEMINI_API, BurstLimit(15.0), 15.0, ("ag-2", "ag-8")),
)
"""What the demo's weather brings."""


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo. ``traffic`` and ``weather`` may be paused, changed and switched off live."""

    orchestrator: Orchestrator
    lab: Lab
    traffic: Traffic
    weather: Weather
    injector: Injector
    simulator: Simulator


def demo_upstreams(pace: float = 1.0) -> tuple[Upstream, ...]:
    """The simulated APIs, with fresh random keys and the usage that they begin with.

    Args:
        pace: So many times as fast as usual they answer.
    """
    return (
        Upstream(
            GEMINI_API,
            DialectName.GEMINI,
            tuple(
                UpstreamAccount(
                    name,
                    _new_key(),
                    quota=UpstreamQuota(limit, QuotaUnit.TOKENS, WindowKind.WEEK, INITIAL_USAGE[name]),
                    requests_per_minute=150,
                )
                for name, limit in _TOKENS_A_WEEK.items()
            ),
            latency=Latency(first_token_s=0.45 / pace, spread=0.4, tokens_per_s=55.0 * pace),
        ),
        Upstream(
            COPILOT,
            DialectName.OPENAI,
            tuple(
                UpstreamAccount(
                    name,
                    _new_key(),
                    quota=UpstreamQuota(limit, QuotaUnit.REQUESTS, WindowKind.MONTH, INITIAL_USAGE[name]),
                    requests_per_minute=300,
                )
                for name, limit in _REQUESTS_A_MONTH.items()
            ),
            latency=Latency(first_token_s=0.7 / pace, spread=0.35, tokens_per_s=70.0 * pace),
        ),
        Upstream(
            OPENCODE,
            DialectName.OPENCODE,
            (
                UpstreamAccount(
                    "oc-1",
                    _new_key(),
                    quota=UpstreamQuota(
                        _OPENCODE_TOKENS_A_MONTH, QuotaUnit.TOKENS, WindowKind.MONTH, INITIAL_USAGE["oc-1"]
                    ),
                ),
            ),
            latency=Latency(first_token_s=1.1 / pace, spread=0.3, tokens_per_s=40.0 * pace),
        ),
    )


def demo_spec(
    lab: Lab,
    model_path: Path | None = None,
    *,
    demo_model: Path | None = None,
    copilot_tool: Path | None = None,
) -> SystemSpec:
    """The built-in chains over the upstreams of ``lab``, which must be running.

    Args:
        lab: Serves :func:`demo_upstreams`.
        model_path: A GGUF file of the user for the local pool; it goes before the demo model.
        demo_model: Where the demo model lies. With neither, the local pool says what is missing.
        copilot_tool: The stand-in for Copilot's command-line tool (``install_copilot``). Without it
            the pool looks for the real one, as a configured pool would.

    Raises:
        KeyError: The lab lacks one of the demo's upstreams.
    """
    upstreams = {upstream.name: upstream for upstream in lab.upstreams}
    pools = (
        PoolSpec(
            ANTIGRAVITY,
            ProviderKind.GEMINI,
            GEMINI_API,
            _accounts(upstreams[GEMINI_API]),
            model=GEMINI_MODEL,
            base_url=lab.base_url(GEMINI_API),
        ),
        PoolSpec(
            COPILOT,
            ProviderKind.COPILOT,
            COPILOT,
            _accounts(upstreams[COPILOT]),
            model=COPILOT_MODEL,
            command=() if copilot_tool is None else (str(copilot_tool),),
            base_url=lab.base_url(COPILOT),
            quota_url=f"{lab.base_url(COPILOT).removesuffix('/v1')}{COPILOT_QUOTA_PATH}",
        ),
        PoolSpec(
            OPENCODE,
            ProviderKind.OPENCODE,
            OPENCODE,
            _accounts(upstreams[OPENCODE]),
            model=OPENCODE_MODEL,
            base_url=lab.base_url(OPENCODE),
        ),
        _local_pool(model_path, demo_model),
    )
    chains = (
        ChainSpec(
            "default",
            (ANTIGRAVITY, COPILOT, OPENCODE, LOCAL),
            hedge_after_s=_HEDGE_AFTER_S,
            cache_s=_CACHE_S,
            queue_s=_QUEUE_S,
        ),
        ChainSpec("fast", (COPILOT, ANTIGRAVITY, LOCAL)),
    )
    return SystemSpec(pools, chains, simulated=True)


@asynccontextmanager
async def demo(
    model_path: Path | None = None,
    *,
    clock: Clock | None = None,
    rng: Random | None = None,
    rate_per_s: float = 3.0,
    weather: bool = True,
    traffic: bool = True,
    pace: float = 1.0,
    shared: SharedStore | None = None,
    sharing: SharingSpec | None = None,
) -> AsyncGenerator[Demo, None]:
    """Run the demo on this event loop while the block lasts.

    Args:
        model_path: A GGUF file of the user for the local pool; None writes the demo model into the
            user's cache, as far as the extra ``local`` is installed.
        clock: The time; the machine's by default.
        rng: Randomness of everything in the demo.
        rate_per_s: Mean number of background requests a second.
        weather: Whether incidents happen; they can be switched on later too.
        traffic: Whether background requests are sent; they can be resumed later too.
        pace: So many times as fast as usual the simulated upstreams answer.
        shared: What the accounts' state is shared through with other demos; closed with this one.
            Each demo has upstreams of its own, which count what is asked of them alone.
        sharing: How it takes part in that.

    Raises:
        OSError: No free port on loopback, or neither the cache nor the temporary folder can be written.
    """
    # The engine loads every adapter's dependencies; whoever only composes a spec needs none of them.
    from smartfallback.simulation.scenarios.loading import available_scenarios
    from smartfallback.simulation.scenarios.runner import StandIn
    from smartfallback.simulation.scenarios.simulator import Simulator
    from smartfallback.simulation.scenarios.system import rehearsable

    clock = clock or SystemClock()
    rng = rng or Random()
    files = ExitStack()
    async with AsyncExitStack() as stack:
        stack.enter_context(files)
        own = model_path is not None
        demo_model = None if own else await asyncio.to_thread(_demo_model, files)
        lab = await stack.enter_async_context(Lab(clock, Random(rng.random()), demo_upstreams(pace)))
        bin_folder = Path(files.enter_context(TemporaryDirectory(prefix="smartfallback-")))
        tool = install_copilot(bin_folder, lab.base_url(COPILOT), default_model=COPILOT_MODEL)
        spec = demo_spec(lab, model_path, demo_model=demo_model, copilot_tool=tool)
        engine, injector = rehearsable(
            spec, clock=clock, rng=Random(rng.random()), shared=shared, sharing=sharing
        )
        orchestrator = await stack.enter_async_context(engine)
        orchestrator.preload_usage(INITIAL_USAGE)
        skies = Weather(lab, Random(rng.random()), INCIDENTS)
        if not weather:
            skies.switch_off()
        await stack.enter_async_context(skies)
        background = Traffic(orchestrator, clock, Random(rng.random()), rate_per_s, chains=dict(CHAIN_SHARES))
        if not traffic:
            background.pause()
        await stack.enter_async_context(background)
        beside = Random(rng.random())
        stand_in = (
            StandIn(lambda: _beside(model_path, clock, beside, pace), STAND_IN) if shared is None else None
        )
        own_scenarios = await asyncio.to_thread(available_scenarios)
        simulator = Simulator(
            orchestrator,
            injector,
            clock,
            Random(rng.random()),
            scenarios=own_scenarios.scenarios,
            confirm=False,
            mistakes=own_scenarios.mistakes,
            quiet=lambda: _quiet(background, skies),
            stand_in=stand_in,
        )
        stack.push_async_callback(simulator.aclose)
        yield Demo(orchestrator, lab, background, skies, injector, simulator)


@asynccontextmanager
async def _beside(
    model_path: Path | None, clock: Clock, rng: Random, pace: float
) -> AsyncGenerator[Stage, None]:
    """A second demo, whose state is shared through a store in this process."""
    from smartfallback.simulation.memory_store import MemorySharedStore
    from smartfallback.simulation.scenarios.stage import Stage

    async with demo(
        model_path,
        clock=clock,
        rng=rng,
        weather=False,
        traffic=False,
        pace=pace,
        shared=MemorySharedStore(clock),
        sharing=SharingSpec(name="rehearsal"),
    ) as running:
        yield Stage.of(running.orchestrator, running.injector)


@asynccontextmanager
async def _quiet(traffic: Traffic, weather: Weather) -> AsyncGenerator[None, None]:
    """No background traffic and no weather; what was on before goes on afterwards."""
    sends, blows = not traffic.paused, weather.on
    traffic.pause()
    weather.switch_off()
    try:
        await traffic.calm(_CALM_S)
        yield
    finally:
        if sends:
            traffic.resume()
        if blows:
            weather.switch_on()


def _accounts(upstream: Upstream) -> tuple[AccountSpec, ...]:
    return tuple(
        AccountSpec(account.id, account.api_key, (_window(account.quota),) if account.quota else ())
        for account in upstream.accounts
    )


def _window(quota: UpstreamQuota) -> WindowSpec:
    resets = "sun 00:00 UTC" if quota.kind is WindowKind.WEEK else "1 00:00 UTC"
    return WindowSpec(quota.kind, quota.unit, quota.limit, resets)


def _local_pool(model_path: Path | None, demo_model: Path | None) -> PoolSpec:
    """The last step; an own model has its own context length, which only its file knows."""
    own = model_path is not None
    return PoolSpec(
        LOCAL,
        ProviderKind.LOCAL,
        LOCAL,
        (AccountSpec("gguf", max_concurrency=1),),
        model=model_path.stem if model_path is not None else "demo-model",
        model_path=model_path if own else demo_model,
        context_tokens=None if own else CONTEXT_TOKENS,
        notice="" if own else DEMO_MODEL_NOTICE,
    )


def _demo_model(stack: ExitStack) -> Path:
    """The demo model's file; in a directory that goes with ``stack`` if the cache can't be written."""
    try:
        return demo_model_path()
    except OSError:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="smartfallback-")))
        path = folder / "demo-model.gguf"
        write_demo_model(path)
        return path


def _new_key() -> Secret:
    return Secret(f"simulated-{secrets.token_urlsafe(24)}")
