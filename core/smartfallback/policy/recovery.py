"""What follows a failed attempt: the table of the eleven categories, and the decision made from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from smartfallback.model.outcomes import ErrorCategory, Failure, NextStep
from smartfallback.policy.backoff import Backoff, ExponentialBackoff, FixedBackoff, LinearBackoff

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

FIRST_WAIT_S: Final = 0.2
"""The longest first wait before the same account is asked again, and the longest stated wait that
is sat out while another candidate is eligible."""

SHORT_RATE_LIMIT_S: Final = 2.0
"""A rate limit is waited for only if its stated wait is at most this long."""


FAILOVER_S: Final = 5.0
"""While another candidate is eligible, no provider keeps a request for longer without giving a token."""


class SwitchScope(StrEnum):
    """How far to move when an account is given up."""

    ACCOUNT = "account"
    """To the next account, of the same pool if it has one."""
    POOL = "pool"
    """Out of the pool: its accounts share what failed."""
    NONE = "none"
    """Nowhere: another account would answer the same."""


class BlameScope(StrEnum):
    """What a failure is recorded on."""

    ACCOUNT = "account"
    MODEL = "model"
    """One model of the account."""
    PROVIDER = "provider"
    PROJECT = "project"
    """All accounts whose keys share the project."""
    REQUEST = "request"


class Verdict(StrEnum):
    """How a failure is recorded on a scope."""

    FAILURE = "failure"
    """Counts in the scope's circuit."""
    SLOW = "slow"
    """Counts in the scope's circuit as a time-out."""
    RATE_LIMIT = "rate limit"
    """A cooldown, and the circuit's rule for 429s."""
    EXHAUSTED = "exhausted"
    """No quota until the stated reset; the circuit sees nothing."""
    ATTENTION = "attention"
    """Out of service until somebody acts; the circuit sees nothing."""
    NOTHING = "nothing"


class Persistence(Enum):
    """When the same account is asked again although another candidate is eligible."""

    NEVER = "never"
    ONCE = "once, if the deadline has room for it"
    FIRST = "until its retries are used up"


@dataclass(frozen=True, slots=True)
class RecoveryRule:
    """One row of the table.

    Attributes:
        retries: Tries after the first with the same account.
        backoff: The waits before them.
        persistence: Whether they come before switching.
        switch: Where to go then.
        blame: On which scopes the failure is recorded, and how; see :func:`blamed`.
    """

    retries: int
    backoff: Backoff
    persistence: Persistence
    switch: SwitchScope
    blame: Mapping[BlameScope, Verdict]


_AT_ONCE: Final = FixedBackoff(base_delay=0.0, max_delay=0.0, jitter=False)
_EXPONENTIAL: Final = ExponentialBackoff(base_delay=FIRST_WAIT_S, max_delay=5.0)
_LINEAR: Final = LinearBackoff(base_delay=0.5, max_delay=SHORT_RATE_LIMIT_S)


def _rule(
    retries: int,
    backoff: Backoff,
    persistence: Persistence,
    switch: SwitchScope,
    *blame: tuple[BlameScope, Verdict],
) -> RecoveryRule:
    return RecoveryRule(retries, backoff, persistence, switch, MappingProxyType(dict(blame)))


RULES: Final[Mapping[ErrorCategory, RecoveryRule]] = MappingProxyType(
    {
        ErrorCategory.TRANSIENT_ERROR: _rule(
            3,
            _EXPONENTIAL,
            Persistence.FIRST,
            SwitchScope.ACCOUNT,
            (BlameScope.ACCOUNT, Verdict.FAILURE),
        ),
        ErrorCategory.RATE_LIMIT: _rule(
            2,
            _LINEAR,
            Persistence.NEVER,
            SwitchScope.ACCOUNT,
            (BlameScope.ACCOUNT, Verdict.RATE_LIMIT),
        ),
        ErrorCategory.QUOTA_EXHAUSTED: _rule(
            0,
            _AT_ONCE,
            Persistence.NEVER,
            SwitchScope.ACCOUNT,
            (BlameScope.ACCOUNT, Verdict.EXHAUSTED),
        ),
        ErrorCategory.API_FAILURE: _rule(
            2,
            _EXPONENTIAL,
            Persistence.NEVER,
            SwitchScope.POOL,
            (BlameScope.ACCOUNT, Verdict.FAILURE),
            (BlameScope.PROVIDER, Verdict.FAILURE),
        ),
        ErrorCategory.TIMEOUT: _rule(
            1,
            _AT_ONCE,
            Persistence.ONCE,
            SwitchScope.ACCOUNT,
            (BlameScope.ACCOUNT, Verdict.SLOW),
            (BlameScope.PROVIDER, Verdict.SLOW),
        ),
        ErrorCategory.NETWORK_ERROR: _rule(
            2,
            _EXPONENTIAL,
            Persistence.NEVER,
            SwitchScope.POOL,
            (BlameScope.PROVIDER, Verdict.FAILURE),
        ),
        ErrorCategory.AUTHENTICATION: _rule(
            0,
            _AT_ONCE,
            Persistence.NEVER,
            SwitchScope.ACCOUNT,
            (BlameScope.ACCOUNT, Verdict.ATTENTION),
        ),
        ErrorCategory.INVALID_REQUEST: _rule(
            0,
            _AT_ONCE,
            Persistence.NEVER,
            SwitchScope.NONE,
            (BlameScope.REQUEST, Verdict.NOTHING),
        ),
        ErrorCategory.CONTENT_FILTERED: _rule(
            0,
            _AT_ONCE,
            Persistence.NEVER,
            SwitchScope.NONE,
            (BlameScope.REQUEST, Verdict.NOTHING),
        ),
        ErrorCategory.MALFORMED_RESPONSE: _rule(
            1,
            _AT_ONCE,
            Persistence.ONCE,
            SwitchScope.ACCOUNT,
            (BlameScope.ACCOUNT, Verdict.FAILURE),
        ),
        ErrorCategory.UNKNOWN: _rule(
            1,
            _EXPONENTIAL,
            Persistence.ONCE,
            SwitchScope.ACCOUNT,
            (BlameScope.ACCOUNT, Verdict.FAILURE),
        ),
    }
)
"""The table, one row for each category."""

_PER_MODEL: Final = frozenset({Verdict.FAILURE, Verdict.SLOW, Verdict.RATE_LIMIT, Verdict.EXHAUSTED})


class Recovery(NamedTuple):
    """What to do next. ``wait_s`` is above 0 only before a retry and always ends before the deadline."""

    step: NextStep
    wait_s: float


def next_step(
    failure: Failure,
    *,
    retries_done: int,
    has_alternative: bool,
    time_left_s: float,
    budget: Callable[[], bool],
    rng: random.Random,
    switch_on_content_filter: bool = False,
    can_trim: bool = False,
    attempt_s: float = 0.0,
    provider_s: float = 0.0,
) -> Recovery:
    """Decide what follows ``failure``.

    Args:
        failure: Why the attempt failed.
        retries_done: Retries that this account already had in this request.
        has_alternative: Another candidate is eligible: for a switch of the pool, one outside it.
        time_left_s: Seconds to the request's deadline.
        budget: Takes one retry from the retry budget; asked last, only when a retry is right.
        rng: Draws the jitter of the waits.
        switch_on_content_filter: Let another pool answer what one has blocked.
        can_trim: The conversation can be shortened.
        attempt_s: How long the failed attempt took. With an alternative, categories that are
            retried once are retried only if so much time is left after the wait.
        provider_s: How long the request has been with this provider. With an alternative it is left
            within :data:`FAILOVER_S`.
    """
    rule = RULES[failure.category]
    if time_left_s <= 0:
        return Recovery(NextStep.FAIL, 0.0)
    if failure.category is ErrorCategory.INVALID_REQUEST:
        degrade = failure.context_overflow and can_trim
        return Recovery(NextStep.DEGRADE if degrade else NextStep.FAIL, 0.0)
    if failure.category is ErrorCategory.CONTENT_FILTERED:
        switch = switch_on_content_filter and has_alternative
        return Recovery(NextStep.SWITCH_POOL if switch else NextStep.FAIL, 0.0)
    wait_s = _retry_wait(failure, rule, retries_done, rng)
    if (
        wait_s is not None
        and wait_s < time_left_s
        and (
            not has_alternative
            or _beats_switching(
                failure,
                rule,
                wait_s + attempt_s < time_left_s and provider_s + wait_s + attempt_s <= FAILOVER_S,
            )
        )
        and budget()
    ):
        return Recovery(NextStep.RETRY, wait_s)
    if not has_alternative:
        return Recovery(NextStep.FAIL, 0.0)
    leaves_pool = failure.permanent or rule.switch is SwitchScope.POOL
    return Recovery(NextStep.SWITCH_POOL if leaves_pool else NextStep.SWITCH_ACCOUNT, 0.0)


def blamed(failure: Failure) -> tuple[tuple[BlameScope, Verdict], ...]:
    """The scopes on which ``failure`` is recorded, and how.

    The rule's scopes, narrowed to what the error named: one model of the account, or widened to
    the project whose keys share the wall (``failure.model`` may still limit that to one model).
    After a permanent failure the account needs attention, whatever its category.
    """
    pairs: list[tuple[BlameScope, Verdict]] = []
    for scope, verdict in RULES[failure.category].blame.items():
        if scope is not BlameScope.ACCOUNT:
            pairs.append((scope, verdict))
        elif failure.permanent:
            pairs.append((scope, Verdict.ATTENTION))
        elif verdict is Verdict.EXHAUSTED and failure.project_wide:
            pairs.append((BlameScope.PROJECT, verdict))
        elif failure.model is not None and verdict in _PER_MODEL:
            pairs.append((BlameScope.MODEL, verdict))
        else:
            pairs.append((scope, verdict))
    return tuple(pairs)


def _retry_wait(failure: Failure, rule: RecoveryRule, retries_done: int, rng: random.Random) -> float | None:
    """Seconds before the next retry with the same account, None when its category allows none."""
    if failure.permanent or retries_done >= rule.retries:
        return None
    stated_s = failure.retry_after_s
    if failure.category is ErrorCategory.RATE_LIMIT and (stated_s is None or stated_s > SHORT_RATE_LIMIT_S):
        return None
    return max(rule.backoff.delay(retries_done + 1, rng), stated_s or 0.0)


def _beats_switching(failure: Failure, rule: RecoveryRule, deadline_has_room: bool) -> bool:
    """Whether the same account is asked again although another candidate is eligible."""
    if (failure.retry_after_s or 0.0) > FIRST_WAIT_S:
        return False
    if rule.persistence is Persistence.ONCE:
        return deadline_has_room
    return rule.persistence is Persistence.FIRST
