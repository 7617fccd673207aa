"""An account's way back after its quota began anew: validated first, then step by step.

::

    reset, account was out ──▶ VALIDATING ──reading or canary says so──▶ RAMPING ──▶ (normal)
                                 ▲     │ still exhausted
                        wait over│     ▼
                               OVERDUE (back-off from a minute to an hour)

    reset, account in service ──▶ RAMPING (held to little more than its usual rate for a minute)

A *canary* is the one request that an account is given to find out whether it can serve again. The
watch is a plain object without a clock: every method takes ``now`` in monotonic seconds.
"""

from __future__ import annotations

from copy import copy
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Final

from smartfallback.model.quota import TruthLabel
from smartfallback.policy.quota_merge import amount_in
from smartfallback.policy.ramp import Ramp

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from smartfallback.model.quota import QuotaReading
    from smartfallback.policy.quota_merge import Tracked

READING_LIMIT_S: Final = 10.0
"""So long the answer of a quota source is waited for before a canary is sent instead."""

CANARY_LEASE_S: Final = 60.0
"""A canary that has said nothing for so long makes place for the next one."""

FIRST_RETRY_S: Final = 60.0
"""The wait before the first new try after a reset that did not come; each further one doubles it."""

MAX_RETRY_S: Final = 3600.0
"""No wait before a new try is longer."""

SUSPECT_S: Final = 86_400.0
"""So long after a reset a wall that the own count can't explain is taken for a reset that did not come."""

LONG_WALL_S: Final = 600.0
"""After a wall of this length an account comes back as after a reset."""

_JITTER: Final = 0.25
_MOVED_S: Final = 3600.0
_WORTH_A_DROP: Final = 20.0
_SAME_PERCENT: Final = 1.0
_SAID_BY_A_SOURCE: Final = (TruthLabel.REPORTED, TruthLabel.LEARNED, TruthLabel.STALE)


class ResetState(StrEnum):
    """Where an account stands on its way back; one that is not on it has no watch at all."""

    VALIDATING = "validating"
    """Whether the quota is back is being found out: by a reading, else by one request."""
    OVERDUE = "overdue"
    """It is not back although it should be; the next try is set."""
    RAMPING = "ramping"
    """It is back; the rate of requests climbs."""


class ResetWatch:
    """One account's way back.

    Args:
        now: When the quota began anew, as far as is known.
        steady_per_s: The account's steady rate, see ``policy.ramp``.
        asked: Its quota source has been asked, so that a reading may come.
        in_service: The account never stopped serving: nothing is validated, only its rate is held.
        before: Percent used before the reset, as far as one is known to have been due.
    """

    __slots__ = (
        "_asked_until",
        "_canary",
        "_canary_until",
        "_steady",
        "asked",
        "before",
        "in_service",
        "ramp",
        "retry_at",
        "state",
        "tries",
    )

    def __init__(
        self,
        now: float,
        steady_per_s: float,
        *,
        asked: bool = False,
        in_service: bool = False,
        before: float = inf,
    ) -> None:
        self.before = before
        self._steady = steady_per_s
        self._canary: object | None = None
        self._canary_until = inf
        self._asked_until = now + READING_LIMIT_S if asked else -inf
        self.asked = asked
        self.in_service = in_service
        self.state = ResetState.RAMPING if in_service else ResetState.VALIDATING
        self.ramp = Ramp(steady_per_s, now, in_service=True) if in_service else None
        self.retry_at = -inf
        self.tries = 0

    @property
    def canary(self) -> object | None:
        """The request that validates, as it was handed to :meth:`admitted`; None while there is none."""
        return self._canary

    def apart(self) -> ResetWatch:
        """A watch of its own that stands at the same place."""
        other = copy(self)
        other.ramp = copy(self.ramp)
        return other

    def admits_at(self, now: float) -> float:
        """The earliest instant from ``now`` on at which a request is let through."""
        if self.state is ResetState.OVERDUE:
            return max(now, self.retry_at)
        if self.ramp is not None:
            return self.ramp.next_at(now)
        return max(now, self._canary_until if self._canary is not None else self._asked_until)

    def canary_running(self, now: float) -> bool:
        """Whether the one request is under way, and nobody else may be sent."""
        return self._canary is not None and now < self._canary_until

    def reading_awaited(self, now: float) -> bool:
        """Whether the quota source may still answer."""
        return self.state is ResetState.VALIDATING and now < self._asked_until

    def over(self, now: float) -> bool:
        """Whether the way back is behind the account."""
        return self.ramp is not None and now >= self.ramp.ends_at

    def admitted(self, request: object, now: float) -> None:
        """``request`` was let through; while validating it is the canary."""
        if self.ramp is not None:
            self.ramp.admitted(now)
        else:
            self._canary = request
            self._canary_until = now + CANARY_LEASE_S

    def released(self, request: object) -> None:
        """``request`` ended without a word on the quota: the next one is the canary."""
        if self._canary is request:
            self._canary = None

    def answered(self, request: object, now: float) -> bool:
        """``request`` is being answered; true if that validates the reset."""
        if self.state is not ResetState.VALIDATING or self._canary is not request:
            return False
        self._resume(now, tokens=0.0)
        return True

    def validated(self, now: float) -> None:
        """A reading shows that the quota is back."""
        self._resume(now, tokens=1.0)

    def contradicted(self, percent: float, hard_limit: float) -> bool:
        """Whether a reading of ``percent`` used means that the quota has not begun anew."""
        return percent >= min(hard_limit, self.before - _SAME_PERCENT)

    def no_reading(self) -> None:
        """The source has nothing to say: a canary finds out."""
        self._asked_until = -inf

    def overdue(self, now: float, rng: random.Random, retry_at: float | None = None) -> bool:
        """The account is still exhausted.

        Args:
            now: Monotonic seconds.
            rng: Draws the jitter.
            retry_at: When the provider says it will be back; the back-off decides without it.

        Returns:
            False if that was known: results that come in together count as one.
        """
        if self.state is ResetState.OVERDUE:
            self.retry_at = self.retry_at if retry_at is None else max(self.retry_at, retry_at)
            return False
        self.state = ResetState.OVERDUE
        self.ramp = None
        self._canary = None
        self.tries += 1
        if retry_at is None:
            retry_at = now + retry_wait(self.tries, rng)
        self.retry_at = retry_at
        return True

    def retry(self, now: float, *, asked: bool) -> None:
        """The wait is over: validate once more."""
        self.state = ResetState.VALIDATING
        self.asked = asked
        self._asked_until = now + READING_LIMIT_S if asked else -inf

    def _resume(self, now: float, tokens: float) -> None:
        self.state = ResetState.RAMPING
        self.ramp = Ramp(self._steady, now, tokens=tokens)
        self._canary = None
        self.tries = 0


def retry_wait(tries: int, rng: random.Random) -> float:
    """Seconds before the next try after ``tries`` (from 1) found the account still exhausted."""
    ceiling = FIRST_RETRY_S * 2.0 ** min(tries - 1, 10)
    return float(min(MAX_RETRY_S, ceiling * rng.uniform(1.0, 1.0 + _JITTER)))


def reset_seen(
    windows: Sequence[Tracked], reading: QuotaReading, *, was_out: bool, wall_until: float | None
) -> Tracked | None:
    """The window that ``reading`` shows to have begun anew ahead of its time, None if it shows none.

    A source that reports at most half of what was known says so, as far as that was known from a
    source before, or kept the account from serving (an own count that is merely too high is
    corrected, not reset); and so does one that names a reset well after the end of the wall.

    Args:
        windows: As they stood before the reading.
        reading: What the source says.
        was_out: The quota kept the account from serving.
        wall_until: Epoch seconds at which the provider's wall was to end, None without one.
    """
    if reading.label is not TruthLabel.REPORTED:
        return None
    for tracked in windows:
        if tracked.limit <= 0 or (tracked.read_at is not None and reading.read_at <= tracked.read_at):
            continue
        known = was_out or tracked.label in _SAID_BY_A_SOURCE
        before = 100.0 * tracked.used / tracked.limit
        for window in reading.windows:
            said = amount_in(window, tracked.kind, tracked.unit, tracked.limit)
            if said is None:
                continue
            if known and before >= _WORTH_A_DROP and said <= tracked.used / 2:
                return tracked
            moved = wall_until is not None and (window.resets_at or 0.0) > wall_until + _MOVED_S
            if moved and said <= tracked.limit / 2:
                return tracked
    return None
