"""What becomes of the shared store in the course of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartfallback.model.events import StateNotice
from smartfallback.model.quota import QuotaUnit

if TYPE_CHECKING:
    from smartfallback.engine.orchestrator import Orchestrator
    from smartfallback.model.requests import Reply
    from smartfallback.model.sharing import StoreView
    from smartfallback.simulation.drills.store import DrilledStore
    from smartfallback.simulation.drills.store_counts import Count

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class WindowCount:
    """What one quota window has of a run.

    Attributes:
        account: The account's id.
        told: What this instance last told the store that it had settled.
        held: What the store has of that.
        used: What the answers of the run have cost, None where that can't be told.
        grown: By how much more the store has than before the run.
    """

    account: str
    told: float
    held: float
    used: float | None
    grown: float

    @property
    def right(self) -> bool:
        """Whether the store has it all, and nothing twice."""
        slack = _ROUNDING * max(1.0, abs(self.told))
        if abs(self.told - self.held) > slack:
            return False
        return self.used is None or self.grown >= self.used - slack


@dataclass(frozen=True, slots=True)
class StoreEvidence:
    """The shared store as it stands now.

    Attributes:
        view: As the operator sees it.
        notices: How many notices about it have come since the step began.
        counts: What it has of the use of each window.
    """

    view: StoreView
    notices: int
    counts: tuple[WindowCount, ...]


class StoreWatch:
    """Watches the store of a system from now on. Must be closed.

    Args:
        orchestrator: The running system.
        store: Its shared store.
    """

    def __init__(self, orchestrator: Orchestrator, store: DrilledStore) -> None:
        self._orchestrator = orchestrator
        self._store = store
        self._events = orchestrator.subscribe()
        self._notices = 0
        self._before = {(count.account, count.key): count for count in store.counts.all()}

    def notices(self) -> int:
        """How many notices about the store have come so far."""
        events, _ = self._events.drain()
        place = self._store.place
        self._notices += sum(
            isinstance(event, StateNotice) and event.message.startswith(place) for event in events
        )
        return self._notices

    def evidence(self, view: StoreView, replies: Iterable[Reply], notices_before: int) -> StoreEvidence:
        """How it stands, after all of a run's ``replies``."""
        used: dict[str, tuple[int, int]] = {}
        for reply in replies:
            tokens, requests = used.get(reply.account, (0, 0))
            used[reply.account] = tokens + reply.usage.total_tokens, requests + 1
        counts = tuple(
            self._count(count, *used.get(count.account, (0, 0))) for count in self._store.counts.all()
        )
        return StoreEvidence(view, self.notices() - notices_before, counts)

    def _count(self, count: Count, tokens: int, requests: int) -> WindowCount:
        unit = count.key.split(".")[1]
        used = {QuotaUnit.TOKENS.value: tokens, QuotaUnit.REQUESTS.value: requests}.get(unit)
        before = self._before.get((count.account, count.key))
        if before is None or not before.held:
            grown = count.held
        elif before.started_at == count.started_at:
            grown = count.held - before.held
        else:  # it began anew in the middle of the run
            used, grown = None, count.held
        return WindowCount(count.account, count.told, count.held, used, grown)

    def close(self) -> None:
        """Watch no longer."""
        self._orchestrator.unsubscribe(self._events)
