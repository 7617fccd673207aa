"""Time that nobody waits for: a clock that jumps from event to event, and the order of the events."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from typing import Final

Action = Callable[[], None]

STARTS_AT: Final = 1_000.0
"""The monotonic clock's first reading; not 0, which would hide a mistaken test for truth."""


class VirtualClock:
    """Both readings that the engine asks for; the calendar's can be stepped.

    Attributes:
        now: Monotonic seconds.
        offset: Epoch seconds minus monotonic ones.
    """

    __slots__ = ("now", "offset")

    def __init__(self, starts_at: float) -> None:
        self.now = STARTS_AT
        self.offset = starts_at - STARTS_AT

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self.now

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self.now + self.offset


class Timeline:
    """Events by their time, those of one moment in the order in which they were set."""

    __slots__ = ("_clock", "_heap", "_number")

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Action]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, when: float, action: Action) -> None:
        """Do ``action`` at ``when``, in monotonic seconds; a time that has passed is now."""
        self._number += 1
        now = self._clock.now
        heapq.heappush(self._heap, (when if when > now else now, self._number, action))

    def next_at(self) -> float | None:
        """When the next event is due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Go on to the next event and do it."""
        when, _, action = heapq.heappop(self._heap)
        self._clock.now = when
        action()


class Trace:
    """What happened, line by line, and the fingerprint of it.

    Attributes:
        lines: All of them, empty unless they are kept.
        count: How many there were.
    """

    def __init__(self, clock: VirtualClock, *, keep: bool) -> None:
        self._clock = clock
        self._keep = keep
        self._hash = hashlib.sha256()
        self._pending: list[str] = []
        self.lines: list[str] = []
        self.count = 0

    def say(self, text: str) -> None:
        """Add a line, with the time."""
        self.count += 1
        pending = self._pending
        pending.append(f"{self._clock.now:.6f} {text}\n")
        if len(pending) >= 256:
            self._flush()

    @property
    def digest(self) -> str:
        """SHA-256 of all lines so far, in hexadecimal."""
        self._flush()
        return self._hash.hexdigest()

    def text(self) -> str:
        """All lines, if they are kept."""
        self._flush()
        return "".join(self.lines)

    def _flush(self) -> None:
        self._hash.update("".join(self._pending).encode())
        if self._keep:
            self.lines += self._pending
        self._pending = []
