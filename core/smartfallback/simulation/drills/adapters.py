"""The real adapters and quota sources of a pool, with an injector between them and what they call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec, ProviderKind
from smartfallback.providers.base import Provider
from smartfallback.providers.registry import build_provider
from smartfallback.quota_sources.base import QuotaSource
from smartfallback.quota_sources.refresher import Watch
from smartfallback.quota_sources.registry import sources_for
from smartfallback.simulation.drills.playable import BY_MODEL, BY_TOOL

if TYPE_CHECKING:
    from smartfallback.simulation.drills.injector import Injector
    from smartfallback.simulation.drills.tool import HidingLocator


def drilled_provider(
    injector: Injector, pool: PoolSpec, clock: Clock, on_notice: Callable[[str], None] | None
) -> Provider:
    """The pool's own adapter, met by the injector's drills."""
    if pool.provider is ProviderKind.LOCAL:
        return _local(injector, pool, clock, on_notice)
    from smartfallback.simulation.drills.opencode import OpenCodeTransport
    from smartfallback.simulation.drills.transport import InjectingTransport

    kind = OpenCodeTransport if pool.provider is ProviderKind.OPENCODE else InjectingTransport
    tool = _tool(injector, pool, clock)
    provider = build_provider(
        pool, clock, on_notice, lambda transport: kind(transport, injector, pool, clock), tool
    )
    if tool is None:
        return provider
    from smartfallback.simulation.drills.complaints import tool_failure
    from smartfallback.simulation.drills.wrapper import InjectingProvider

    # Calls that an API serves in the tool's place meet their drills there.
    return InjectingProvider(
        provider,
        injector,
        pool,
        clock,
        can=BY_TOOL,
        fails=tool_failure,
        runs=lambda: tool.find() is not None,
    )


def drilled_sources(injector: Injector, pool: PoolSpec, clock: Clock) -> Mapping[str, Watch]:
    """The pool's own quota sources; a tool is missing and an endpoint fails when a drill says so."""
    from smartfallback.simulation.drills.sources import DrilledSource

    tool = _tool(injector, pool, clock)
    watches = sources_for(pool, clock, tool)
    around: dict[QuotaSource, DrilledSource] = {}
    for watch in watches.values():
        around.setdefault(
            watch.source,
            DrilledSource(
                watch.source,
                lambda account: injector.quota_trouble(account, pool.name),
                lambda: tool is not None and tool.find() is not None,
            ),
        )
    return {name: watch._replace(source=around[watch.source]) for name, watch in watches.items()}


def _local(
    injector: Injector, pool: PoolSpec, clock: Clock, on_notice: Callable[[str], None] | None
) -> Provider:
    from smartfallback.simulation.drills.complaints import MODEL_MISSING, model_failure
    from smartfallback.simulation.drills.wrapper import InjectingProvider

    return InjectingProvider(
        build_provider(pool, clock, on_notice),
        injector,
        pool,
        clock,
        can=BY_MODEL,
        fails=model_failure,
        missing=lambda: MODEL_MISSING if injector.lacks_tool(pool.name) else "",
    )


def _tool(injector: Injector, pool: PoolSpec, clock: Clock) -> HidingLocator | None:
    if pool.provider is not ProviderKind.COPILOT:
        return None
    from smartfallback.simulation.drills.tool import HidingLocator

    return HidingLocator(pool.command, clock, lambda: injector.lacks_tool(pool.name))
