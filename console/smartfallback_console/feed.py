"""Polling of the core: one snapshot and one batch of events a tick."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartfallback_console.bridge import EVENT_BACKLOG, Earlier, Source, SourceState

if TYPE_CHECKING:
    from smartfallback import Event, SimulationView, Snapshot

INTERVAL_S = 0.5
"""Countdowns run smoothly, and a terminal at the end of a slow line still keeps up."""

STALE_AFTER_S = 3.0
"""From this age on, numbers are announced as old."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one look at the core brought.

    ``age_s`` is how long the newest snapshot has been the newest; ``waiting`` counts the events held
    back by a pause, ``dropped`` those lost since the start. ``earlier`` stands in one tick only, the first
    for which it is known.
    """

    snapshot: Snapshot | None
    events: tuple[Event, ...]
    state: SourceState
    failure: str
    age_s: float
    paused: bool
    waiting: int
    dropped: int
    simulation: SimulationView | None = None
    at: float = 0.0
    earlier: Earlier | None = None

    @property
    def stale(self) -> bool:
        """Whether the numbers are too old to be shown as current."""
        return self.snapshot is not None and self.age_s >= STALE_AFTER_S


class Feed:
    """Looks at the source for the screen that is visible, and for no other.

    Args:
        source: The core.
        clock: Monotonic seconds, for the age of what is shown.
    """

    def __init__(self, source: Source, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._shown: Snapshot | None = None
        self._changed_at = clock()
        self._held: deque[Event] = deque(maxlen=EVENT_BACKLOG)
        self._dropped = 0
        self._looked_back = False
        self.paused = False

    def open(self) -> None:
        """Ask the core to publish snapshots."""
        self._source.watch(INTERVAL_S)

    def close(self) -> None:
        """Nobody looks any more."""
        self._source.watch(None)

    def tick(self) -> Tick:
        """Look once. While paused the picture stands still and events are held back."""
        latest = self._source.latest()
        now = self._clock()
        if latest is not self._snapshot:
            self._snapshot = latest
            self._changed_at = now
        events, dropped = self._source.drain()
        self._dropped += dropped
        earlier: Earlier | None = None
        if self.paused:
            self._dropped += max(0, len(self._held) + len(events) - EVENT_BACKLOG)
            self._held.extend(events)
            events = ()
        else:
            self._shown = latest
            if not self._looked_back:
                earlier = self._source.earlier()
                self._looked_back = earlier is not None
            if self._held:
                events = (*self._held, *events)
                self._held.clear()
        return Tick(
            self._shown,
            events,
            self._source.state,
            self._source.failure,
            now - self._changed_at,
            self.paused,
            len(self._held),
            self._dropped,
            self._source.simulation(),
            0.0 if latest is None else latest.at,
            earlier,
        )
