"""A system whose accounts can meet drills."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from smartfallback.clock import Clock, SystemClock
from smartfallback.engine.orchestrator import Orchestrator
from smartfallback.model.sharing import SharingSpec
from smartfallback.model.specs import PoolSpec, SystemSpec
from smartfallback.providers.base import Provider
from smartfallback.simulation.drills.injector import Injector
from smartfallback.state.base import StateStore
from smartfallback.state.shared import SharedStore


class Rehearsable(NamedTuple):
    """An orchestrator, yet to be entered, and the injector behind its adapters."""

    orchestrator: Orchestrator
    injector: Injector


def rehearsable(
    spec: SystemSpec,
    *,
    clock: Clock | None = None,
    rng: random.Random | None = None,
    store: StateStore | None = None,
    shared: SharedStore | None = None,
    sharing: SharingSpec | None = None,
) -> Rehearsable:
    """The orchestrator of ``spec``, with an injector between it, its adapters, and what they call.

    Args:
        spec: The accounts, pools and chains.
        clock: The time; the machine's by default.
        rng: Randomness for selection, jitter, back-off and drills.
        store: Keeps state over a restart; the orchestrator closes it.
        shared: What the state is shared through with other instances; the orchestrator closes it.
        sharing: How it takes part in that.
    """
    clock = clock or SystemClock()
    rng = rng or random.Random()
    injector = Injector(spec, clock, random.Random(rng.random()))
    tell: list[Callable[[str, str], None]] = []

    def provider(pool: PoolSpec, at: Clock) -> Provider:
        return injector.provider_factory(lambda message: tell[0](pool.name, message))(pool, at)

    orchestrator = Orchestrator(
        spec,
        clock=clock,
        rng=rng,
        provider_factory=provider,
        source_factory=injector.source_factory(),
        store=store,
        shared=None if shared is None else injector.around(shared),
        sharing=sharing,
    )
    tell.append(orchestrator.tell_notice)
    return Rehearsable(orchestrator, injector)
