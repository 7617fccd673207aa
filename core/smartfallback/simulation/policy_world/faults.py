"""What upstreams do to attempts: answers of random length, and the faults of a schedule."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from smartfallback.engine.grant import Grant
from smartfallback.engine.walk import CHARACTERS_A_TOKEN
from smartfallback.model.outcomes import ErrorCategory, Failure, TimeoutPhase
from smartfallback.model.requests import Usage


class Trouble(StrEnum):
    """The kinds of fault of a schedule."""

    ERROR = "error"
    OVERLOAD = "overload"
    OVERLOAD_WITH_WAIT = "overload with a stated wait"
    BURST = "burst limit"
    BURST_WITH_WAIT = "burst limit with a stated wait"
    BURST_OF_MODEL = "burst limit of a model"
    BURST_OF_PROJECT = "burst limit of a project"
    WALL = "quota wall"
    WALL_WITHOUT_END = "quota wall without an end"
    WALL_OF_PROJECT = "quota wall of a project"
    REFUSED = "connection refused"
    HANG = "no token"
    SLOW = "slow"
    MALFORMED = "malformed"
    CUT = "cut stream"
    STALL = "stalled stream"
    REVOKED = "key revoked"
    BANNED = "banned"
    FILTERED = "filtered"
    INVALID = "invalid"
    TOO_LONG = "context overflow"
    UNKNOWN = "unknown"


LASTING: Final = frozenset({Trouble.REVOKED, Trouble.BANNED})
"""These take an account out of service until an operator acts."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One fault for a time.

    Attributes:
        trouble: What happens.
        accounts: To attempts of these accounts; empty for all of ``provider``.
        provider: To attempts at this API, where no accounts are named.
        begins: Monotonic seconds.
        ends: Monotonic seconds.
        share: Of the attempts.
    """

    trouble: Trouble
    accounts: tuple[str, ...]
    provider: str
    begins: float
    ends: float
    share: float


class Course(NamedTuple):
    """How an attempt goes if nothing ends it before.

    Attributes:
        first_s: Seconds to the first token; infinite when there is none.
        end_s: Seconds to the end; infinite for one that hangs.
        failure: How it ends; None for a whole answer.
        characters: What came of an answer that fails.
        usage: What a whole answer costs.
    """

    first_s: float
    end_s: float
    failure: Failure | None = None
    characters: int = 0
    usage: Usage = Usage()


_PLAIN: Final = {
    Trouble.ERROR: Failure(ErrorCategory.API_FAILURE, "internal error", 500),
    Trouble.OVERLOAD: Failure(ErrorCategory.TRANSIENT_ERROR, "overloaded", 503),
    Trouble.OVERLOAD_WITH_WAIT: Failure(ErrorCategory.TRANSIENT_ERROR, "overloaded", 503, retry_after_s=7.0),
    Trouble.BURST: Failure(ErrorCategory.RATE_LIMIT, "too many requests", 429),
    Trouble.REFUSED: Failure(ErrorCategory.NETWORK_ERROR, "connection refused"),
    Trouble.MALFORMED: Failure(ErrorCategory.MALFORMED_RESPONSE, "no JSON", 200),
    Trouble.CUT: Failure(ErrorCategory.MALFORMED_RESPONSE, "the stream was cut off", 200),
    Trouble.STALL: Failure(ErrorCategory.TIMEOUT, "the stream stood still", phase=TimeoutPhase.IDLE),
    Trouble.REVOKED: Failure(ErrorCategory.AUTHENTICATION, "the key was revoked", 401, hint="a new key"),
    Trouble.BANNED: Failure(ErrorCategory.AUTHENTICATION, "banned", 403, permanent=True),
    Trouble.FILTERED: Failure(ErrorCategory.CONTENT_FILTERED, "blocked", 200),
    Trouble.INVALID: Failure(ErrorCategory.INVALID_REQUEST, "bad request", 400),
    Trouble.TOO_LONG: Failure(ErrorCategory.INVALID_REQUEST, "too long", 400, context_overflow=True),
    Trouble.UNKNOWN: Failure(ErrorCategory.UNKNOWN, "teapot", 418),
}
_WAITS_S: Final = (0.5, 1.5, 5.0, 20.0, 60.0)
_WALLS_S: Final = (30.0, 120.0, 700.0, 1_800.0)


class Upstreams:
    """Decides how each attempt goes.

    Args:
        episodes: The faults.
        rng: Draws shares, durations and amounts.
        pace: Mean seconds of a whole answer.
    """

    def __init__(self, episodes: tuple[Episode, ...], rng: random.Random, pace: float) -> None:
        self._coming = sorted(episodes, key=lambda episode: episode.begins, reverse=True)
        self._active: list[Episode] = []
        self._rng = rng
        self._pace = pace

    def heal(self) -> None:
        """End all faults, those to come too, and answer faster than any limit."""
        self._pace = min(self._pace, 0.2)
        self._coming.clear()
        self._active.clear()

    def course(self, grant: Grant, now: float, wall: float) -> Course:
        """How the attempt with ``grant`` goes that begins now."""
        coming = self._coming
        if coming and coming[-1].begins <= now:
            while coming and coming[-1].begins <= now:
                self._active.append(coming.pop())
        if self._active:
            self._active = [episode for episode in self._active if episode.ends > now]
            for episode in self._active:
                concerns = (
                    grant.account.id in episode.accounts
                    if episode.accounts
                    else grant.pool.provider.id == episode.provider
                )
                if concerns and self._rng.random() < episode.share:
                    return self._trouble(episode.trouble, grant, wall)
        return self._answer(grant, 1.0)

    def _answer(self, grant: Grant, slowness: float) -> Course:
        rng = self._rng
        end_s = slowness * self._pace * (0.3 + rng.expovariate(1.0 / 0.7))
        prompt = grant.estimate.tokens - grant.output_estimate
        usage = Usage(
            max(1, int(prompt * (0.7 + 0.5 * rng.random()))), 1 + int(grant.output_estimate * rng.random())
        )
        return Course(end_s * (0.1 + 0.3 * rng.random()), end_s, None, 0, usage)

    def _trouble(self, trouble: Trouble, grant: Grant, wall: float) -> Course:
        rng = self._rng
        if trouble is Trouble.HANG:
            return Course(math.inf, math.inf)
        if trouble is Trouble.SLOW:
            return self._answer(grant, 15.0)
        failure = self._failure(trouble, grant, wall)
        if trouble in (Trouble.CUT, Trouble.STALL):
            whole = self._answer(grant, 1.0)
            waited_s = grant.pool.spec.timeouts.idle_s if trouble is Trouble.STALL else 0.0
            characters = CHARACTERS_A_TOKEN * whole.usage.output_tokens
            return Course(whole.first_s, whole.end_s + waited_s, failure, characters)
        return Course(math.inf, 0.02 + 0.5 * rng.random(), failure)

    def _failure(self, trouble: Trouble, grant: Grant, wall: float) -> Failure:
        plain = _PLAIN.get(trouble)
        if plain is not None:
            return plain
        rng = self._rng
        if trouble in (Trouble.WALL, Trouble.WALL_OF_PROJECT, Trouble.WALL_WITHOUT_END):
            ends = None if trouble is Trouble.WALL_WITHOUT_END else wall + rng.choice(_WALLS_S)
            shared = trouble is Trouble.WALL_OF_PROJECT
            return Failure(
                ErrorCategory.QUOTA_EXHAUSTED, "out of quota", 429, resets_at=ends, project_wide=shared
            )
        return Failure(
            ErrorCategory.RATE_LIMIT,
            "too many requests",
            429,
            model=grant.model if trouble is Trouble.BURST_OF_MODEL else None,
            project_wide=trouble is Trouble.BURST_OF_PROJECT,
            retry_after_s=rng.choice(_WAITS_S),
        )
