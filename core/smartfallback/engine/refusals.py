"""Errors of requests that no account could be asked: what kept them all from serving."""

from __future__ import annotations

from collections import Counter

from smartfallback.engine.walk import Walk
from smartfallback.model.decisions import SkipReason
from smartfallback.model.outcomes import ErrorCategory, Failure, TimeoutPhase

_CATEGORY_OF_SKIP = {
    SkipReason.QUOTA_EXHAUSTED: ErrorCategory.QUOTA_EXHAUSTED,
    SkipReason.HARD_LIMIT: ErrorCategory.QUOTA_EXHAUSTED,
    SkipReason.SOFT_LIMIT: ErrorCategory.QUOTA_EXHAUSTED,
    SkipReason.NO_ROOM: ErrorCategory.QUOTA_EXHAUSTED,
    SkipReason.COOLDOWN: ErrorCategory.RATE_LIMIT,
    SkipReason.NEEDS_ATTENTION: ErrorCategory.AUTHENTICATION,
    SkipReason.CONTEXT: ErrorCategory.INVALID_REQUEST,
    SkipReason.CAPABILITY: ErrorCategory.INVALID_REQUEST,
    SkipReason.PROVIDER_CIRCUIT: ErrorCategory.API_FAILURE,
}
_STANDING = frozenset(
    {
        SkipReason.NEEDS_ATTENTION,
        SkipReason.CONTEXT,
        SkipReason.CAPABILITY,
        SkipReason.EXCLUDED,
        SkipReason.UNAVAILABLE,
        SkipReason.DISABLED,
    }
)
"""Reasons that don't pass by themselves."""
_SHOWN = 4
_OF_THE_REQUEST = frozenset({ErrorCategory.INVALID_REQUEST, ErrorCategory.CONTENT_FILTERED})
"""Whoever answers, and whenever, the request as it is will meet them again."""

DEADLINE_PASSED = Failure(
    ErrorCategory.TIMEOUT, "the deadline passed before an account was free", phase=TimeoutPhase.TOTAL
)
CLOSED = Failure(ErrorCategory.TRANSIENT_ERROR, "the orchestrator was closed while the request ran")


def is_passing(failure: Failure, *, for_all: bool = True) -> bool:
    """Whether time may heal what failed; with ``for_all`` off, whether an earlier answer may stand in.

    Refused credentials need somebody to act, which an earlier answer doesn't mind.
    """
    if failure.category in _OF_THE_REQUEST or failure is CLOSED:
        return False
    return not for_all or failure.category is not ErrorCategory.AUTHENTICATION


def nobody_can_serve(walk: Walk) -> Failure:
    """The failure of a walk that found no account, in the category of its commonest skip."""
    reasons = Counter(skip.reason for skip in walk.skips if skip.reason is not SkipReason.TRIED)
    # One account that only rests is worth more to say than many that never could: it is worth waiting for.
    reasons = Counter({each: n for each, n in reasons.items() if each not in _STANDING}) or reasons
    commonest = reasons.most_common(1)[0][0] if reasons else SkipReason.UNAVAILABLE
    category = _CATEGORY_OF_SKIP.get(commonest, ErrorCategory.TRANSIENT_ERROR)
    why = "; ".join(str(skip) for skip in walk.skips[:_SHOWN])
    if len(walk.skips) > _SHOWN:
        why += f"; and {len(walk.skips) - _SHOWN} more"
    message = f"no account of chain {walk.chain.name} can serve now ({why or 'it has none'})"
    return Failure(category, message, hint="see the accounts' states for what keeps them from serving")
