"""What the runs of all requests share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.capacity import Capacity
from smartfallback.engine.planner import Planner
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.engine.roster import AccountRuntime
from smartfallback.engine.settlement import Settlement
from smartfallback.engine.sharing.admission import Admission
from smartfallback.model.quota import WindowReading
from smartfallback.policy.answer_cache import AnswerCache
from smartfallback.policy.retry_budget import RetryBudget


@dataclass(frozen=True, slots=True)
class Services:
    """What a run works with; one set an orchestrator."""

    planner: Planner
    settlement: Settlement
    bus: Bus
    clock: Clock
    rng: random.Random
    budget: RetryBudget
    capacity: Capacity
    queue: QueueDesk
    cache: AnswerCache
    learn: Callable[[AccountRuntime, Sequence[WindowReading]], None]
    check: Callable[[str], None]
    admission: Admission | None = None
    """Asks other instances; None where nothing is shared."""
