"""Which drills are in force, and what each call meets of them."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from smartfallback.clock import Clock
from smartfallback.engine.orchestrator import ProviderFactory
from smartfallback.engine.quota_desk import SourceFactory
from smartfallback.model.specs import PoolSpec, SystemSpec
from smartfallback.providers.base import Provider
from smartfallback.quota_sources.refresher import Watch
from smartfallback.simulation.drills.drill import (
    SHARED_STORE,
    Drill,
    DrillScope,
    DrillTarget,
    DrillView,
    Meeting,
    RunningDrill,
)
from smartfallback.simulation.drills.playable import BY_STORE, plain, playable
from smartfallback.simulation.faults import (
    BurstLimit,
    Fault,
    PlainFault,
    QuotaApiFault,
    QuotaTrouble,
    ToolMissing,
)

if TYPE_CHECKING:
    from smartfallback.simulation.drills.store import DrilledStore
    from smartfallback.state.shared import SharedStore

_SPECIFIC_FIRST: Final = (DrillScope.ACCOUNT, DrillScope.POOL, DrillScope.PROVIDER, DrillScope.STORE)


class Injector:
    """Injects faults into the calls of a system, as long as drills are in force.

    Nothing of it outlives the process. All of it belongs to the event loop that runs the system.

    Args:
        spec: The system whose accounts, pools and providers may be touched.
        clock: How long drills have lasted, and when.
        rng: Which calls a share of less than all touches.
        most_s: The longest that a drill may last, in seconds.
    """

    def __init__(self, spec: SystemSpec, clock: Clock, rng: random.Random, *, most_s: float = 900.0) -> None:
        self._spec = spec
        self._clock = clock
        self._rng = rng
        self._most_s = most_s
        self._started = 0
        self._running: list[RunningDrill] = []
        self.armed = False
        """Whether any drill may be in force. The one thing that calls look at while none is."""
        self.store: DrilledStore | None = None
        """The shared store that drills can touch, None where nothing is shared."""

    def start(self, drill: Drill) -> DrillView:
        """Put ``drill`` in force.

        Raises:
            ValueError: Its target does not exist or can't meet the fault, or its share, duration or
                number of calls is out of range; in a sentence.
        """
        pools = self._pools_of(drill.target)
        self._check(drill, pools)
        now = self._clock.monotonic()
        self._started += 1
        account = drill.target.name if drill.target.scope is DrillScope.ACCOUNT else None
        running = RunningDrill(
            f"drill-{self._started}",
            drill,
            frozenset(pool.name for pool in pools),
            account,
            now,
            now + drill.duration_s,
            self._clock.time(),
            self._clock.monotonic,
            self._came_to_rest,
        )
        self._running.insert(0, running)
        # Sorting is stable, so among drills of one scope the newest stays first.
        self._running.sort(key=lambda entry: _SPECIFIC_FIRST.index(entry.drill.target.scope))
        self.armed = True
        if drill.target.scope is DrillScope.STORE and self.store is not None:
            self.store.begin_drill()
        return running.view()

    def stop(self, drill_id: str) -> bool:
        """End a drill; calls that stand still because of it go on. False if there is none of that id."""
        self._purge()
        running = next((entry for entry in self._running if entry.id == drill_id), None)
        if running is None:
            return False
        self._remove(running)
        return True

    def stop_all(self) -> int:
        """End every drill; how many there were."""
        self._purge()
        running = list(self._running)
        for entry in running:
            self._remove(entry)
        return len(running)

    def active(self) -> tuple[DrillView, ...]:
        """The drills in force, the one that goes before the others first."""
        if not self.armed:
            return ()
        self._purge()
        return tuple(running.view() for running in self._running)

    def draw(self, account: str, pool: str) -> Fault | None:
        """Which fault a call of the account meets now, None for none. Counts as a hit."""
        meeting = self.meet(account, pool)
        if meeting is None:
            return None
        meeting.close()
        return meeting.fault

    def meet(
        self,
        account: str,
        pool: str,
        model: str | None = None,
        can: tuple[type[PlainFault], ...] | None = None,
    ) -> Meeting | None:
        """Like :meth:`draw`, for a call that can be followed to its end.

        Of the drills that concern the call, the most specific goes first and then the newest. One
        that leaves this call alone (by its share, its phase or its model) makes way for the next.

        Args:
            account: Whose call it is.
            pool: Of which pool.
            model: Which model is asked; None is any.
            can: The faults that can be played to this call; None for all.
        """
        if not self.armed:
            return None
        self._purge()
        now = self._clock.monotonic()
        for running in self._running:
            if running.exhausted or not running.concerns(account, pool):
                continue
            fault = running.present(now)
            if fault is None or (can is not None and type(fault) not in can):
                continue
            if isinstance(fault, BurstLimit) and model is not None and fault.model not in (None, model):
                continue
            share = running.drill.share
            if share < 1 and self._rng.random() >= share:
                continue
            return running.touch(fault)
        return None

    def meet_store(self) -> Meeting | None:
        """What an exchange with the shared store meets now: the newest drill on it that is not away."""
        if not self.armed:
            return None
        self._purge()
        now = self._clock.monotonic()
        for running in self._running:
            fault = running.present(now) if running.drill.target.scope is DrillScope.STORE else None
            if fault is not None:
                return running.touch(fault)
        return None

    @property
    def drills_store(self) -> bool:
        """Whether a drill on the shared store is in force, present or away for a moment."""
        self._purge()
        return any(running.drill.target.scope is DrillScope.STORE for running in self._running)

    def lacks_tool(self, pool: str) -> bool:
        """Whether the pool's program is missing by a drill. Counts as no hit."""
        if not self.armed:
            return False
        self._purge()
        now = self._clock.monotonic()
        return any(
            pool in entry.pools and isinstance(entry.present(now), ToolMissing) for entry in self._running
        )

    def quota_trouble(self, account: str, pool: str) -> QuotaTrouble | None:
        """What a drill does to the quota endpoint of an account now, None for nothing. Counts as no hit."""
        if not self.armed:
            return None
        self._purge()
        now = self._clock.monotonic()
        for entry in self._running:
            fault = entry.present(now) if entry.concerns(account, pool) else None
            if isinstance(fault, QuotaApiFault):
                return fault.trouble
        return None

    def provider_factory(self, on_notice: Callable[[str], None] | None = None) -> ProviderFactory:
        """Builds the real adapters, with this injector between them and what they call.

        Args:
            on_notice: Told what the operator should know of an adapter's own parts.
        """

        def build(pool: PoolSpec, clock: Clock) -> Provider:
            from smartfallback.simulation.drills.adapters import drilled_provider

            return drilled_provider(self, pool, clock, on_notice)

        return build

    def source_factory(self) -> SourceFactory:
        """Finds the built-in quota sources; those that run a tool lack it when a drill says so."""

        def find(pool: PoolSpec, clock: Clock) -> Mapping[str, Watch]:
            from smartfallback.simulation.drills.adapters import drilled_sources

            return drilled_sources(self, pool, clock)

        return find

    def around(self, store: SharedStore) -> SharedStore:
        """``store`` with this injector between it and the engine; closed with it. For one store only."""
        from smartfallback.simulation.drills.store import DrilledStore

        self.store = DrilledStore(store, self, self._clock, random.Random(self._rng.random()))
        return self.store

    def _came_to_rest(self, running: RunningDrill) -> None:
        if running.exhausted and running in self._running:
            self._remove(running)

    def _purge(self) -> None:
        if not self._running:
            return
        now = self._clock.monotonic()
        for running in [entry for entry in self._running if now >= entry.until]:
            self._remove(running)

    def _remove(self, running: RunningDrill) -> None:
        self._running.remove(running)
        self.armed = bool(self._running)
        running.lift()
        if running.drill.target.scope is DrillScope.STORE and self.store is not None:
            self.store.end_drill()

    def _pools_of(self, target: DrillTarget) -> tuple[PoolSpec, ...]:
        """The pools that ``target`` is about.

        Raises:
            ValueError: There is no such account, pool or provider, or nothing is shared.
        """
        pools = self._spec.pools
        if target.scope is DrillScope.STORE:
            if self.store is None:
                raise ValueError("nothing is shared here: it takes a Redis server (redis_url, --redis-url)")
            if target != SHARED_STORE:
                raise ValueError(f"the shared store is called {SHARED_STORE.name!r}, not {target.name!r}")
            return ()
        if target.scope is DrillScope.ACCOUNT:
            names = [account.id for pool in pools for account in pool.accounts]
            found = [pool for pool in pools if any(account.id == target.name for account in pool.accounts)]
        elif target.scope is DrillScope.POOL:
            names = [pool.name for pool in pools]
            found = [pool for pool in pools if pool.name == target.name]
        else:
            names = [pool.provider_id for pool in pools]
            found = [pool for pool in pools if pool.provider_id == target.name]
        if not found:
            raise ValueError(f"there is no {target}{_nearest(target.name, names)}")
        return tuple(found)

    def _check(self, drill: Drill, pools: tuple[PoolSpec, ...]) -> None:
        fault, target = plain(drill.fault), drill.target
        if not 0 < drill.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {drill.share!r}")
        if not 0 < drill.duration_s <= self._most_s:
            raise ValueError(
                f"duration_s must be above 0 and at most {self._most_s:g}, not {drill.duration_s!r}"
            )
        if drill.most_calls is not None and drill.most_calls < 1:
            raise ValueError(f"most_calls must be at least 1, not {drill.most_calls!r}")
        for name in ("retry_after_s", "resets_in_s", "delay_s", "after_tokens"):
            value = getattr(fault, name, None)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, not {value!r}")
        if target.scope is DrillScope.STORE:
            self._check_store(drill)
        elif not any(playable(fault, pool.provider) for pool in pools):
            kinds = ", ".join(sorted({pool.provider.value for pool in pools}))
            raise ValueError(
                f"{type(fault).__name__} can't be played to {target}: calls of kind {kinds} can't meet it"
            )
        if isinstance(fault, ToolMissing):
            self._check_tool(drill, pools)

    @staticmethod
    def _check_store(drill: Drill) -> None:
        fault = plain(drill.fault)
        if not isinstance(fault, BY_STORE):
            raise ValueError(
                f"{type(fault).__name__} can't be played to {drill.target}: it can meet "
                f"{', '.join(kind.__name__ for kind in BY_STORE)}"
            )
        if drill.share < 1 or drill.most_calls is not None:
            raise ValueError("a store fails for all calls or for none: leave share and most_calls out")

    @staticmethod
    def _check_tool(drill: Drill, pools: tuple[PoolSpec, ...]) -> None:
        if drill.share < 1 or drill.most_calls is not None:
            raise ValueError("a tool is missing for all calls or for none: leave share and most_calls out")
        if drill.target.scope is DrillScope.ACCOUNT and len(pools[0].accounts) > 1:
            raise ValueError(
                f"all accounts of pool {pools[0].name} share one tool: choose the pool in place of "
                f"{drill.target}"
            )


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(set(names)), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
