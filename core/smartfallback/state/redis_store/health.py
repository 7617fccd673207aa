"""Whether the server can be used: the words for it, the one line of log for each change, the back-off."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from enum import Enum
from typing import Final

from smartfallback.clock import Clock
from smartfallback.state.shared import StoreStatus

LOG: Final = logging.getLogger("smartfallback.state")

CHECK_EVERY_S: Final = 1.0
"""How often a server that is well is asked."""
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 2.0
_FORGIVEN_AFTER_S: Final = 10.0
"""A server that fails again sooner goes on with the wait it had: it flaps, and so would the log."""


class State(Enum):
    """What the server is good for."""

    UNKNOWN = "not asked yet"
    LOST = "not reachable"
    SLOW = "reachable, too slow for requests"
    WELL = "well"


class Health:
    """The state of a server, as the checks and the callers find it.

    Args:
        place: What messages call it; without credentials.
        clock: For "since when"; monotonic for what lasts.
        rng: Spreads the tries of many instances.
    """

    def __init__(self, place: str, clock: Clock, rng: random.Random) -> None:
        self._place = place
        self._clock = clock
        self._rng = rng
        self._state = State.UNKNOWN
        self._trouble = ""
        self._degraded_since: float | None = None
        self._degraded_mono = 0.0
        self._well_mono = 0.0
        self._wait_s = _FIRST_WAIT_S
        self._lag_s: float | None = None
        self._listeners: list[Callable[[StoreStatus], None]] = []
        self._status = self._as_status()

    @property
    def state(self) -> State:
        """What the server is good for."""
        return self._state

    @property
    def status(self) -> StoreStatus:
        """The same for the rest of the house."""
        return self._status

    def on_change(self, listener: Callable[[StoreStatus], None]) -> None:
        """Call ``listener`` at each change of state."""
        self._listeners.append(listener)

    def well(self, lag_s: float) -> None:
        """It answered soon enough for requests."""
        self._lag_s = lag_s
        self._change(State.WELL, "")

    def slow(self, words: str, lag_s: float | None = None) -> None:
        """It answers, but not soon enough for requests."""
        self._lag_s = lag_s if lag_s is not None else self._lag_s
        self._change(State.SLOW, words)

    def lost(self, words: str) -> None:
        """It can't be used at all."""
        self._change(State.LOST, words)

    def next_wait_s(self) -> float:
        """How long to wait with the next check: even for a server that is well, growing for one that isn't.

        Between half and all of the back-off, so that many instances don't come at one moment.
        """
        if self._state is State.WELL:
            return CHECK_EVERY_S
        wait = self._wait_s
        self._wait_s = min(wait * 2, _LONGEST_WAIT_S)
        return wait * (0.5 + self._rng.random() / 2)

    def _change(self, state: State, trouble: str) -> None:
        before, self._state, self._trouble = self._state, state, trouble
        now = self._clock.monotonic()
        if state is State.WELL:
            lasted = now - self._degraded_mono if self._degraded_since is not None else None
            self._degraded_since = None
            if before is not State.WELL:
                self._well_mono = now
        else:
            lasted = None
            if self._degraded_since is None:
                self._degraded_since, self._degraded_mono = self._clock.time(), now
            if before is State.WELL and now - self._well_mono >= _FORGIVEN_AFTER_S:
                self._wait_s = _FIRST_WAIT_S
        self._status = self._as_status()
        if state is before:
            return
        self._tell(lasted)
        for listener in self._listeners:
            try:
                listener(self._status)
            except Exception:  # whoever listens must not keep the server from being watched
                LOG.exception("a listener to the shared store failed")

    def _tell(self, lasted_s: float | None) -> None:
        match self._state:
            case State.WELL if lasted_s is None:
                LOG.info("shared store %s: in use", self._place)
            case State.WELL:
                LOG.info("shared store %s: in use again after %.1f s", self._place, lasted_s)
            case State.SLOW:
                LOG.warning(
                    "shared store %s is slow (%s): requests go on from memory, all else is still shared",
                    self._place,
                    self._trouble,
                )
            case _:
                LOG.warning(
                    "shared store %s can't be used (%s): going on from memory, trying again",
                    self._place,
                    self._trouble,
                )

    def _as_status(self) -> StoreStatus:
        return StoreStatus(
            usable=self._state is State.WELL,
            reachable=self._state in (State.WELL, State.SLOW),
            degraded_since=self._degraded_since,
            trouble=self._trouble or (self._state.value if self._state is State.UNKNOWN else ""),
            lag_s=self._lag_s,
        )
