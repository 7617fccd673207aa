"""Compares what is observed with what is expected, one sentence a check."""

from __future__ import annotations

from typing import Final

from smartfallback.simulation.scenarios.evidence import Evidence
from smartfallback.simulation.scenarios.model import Expected
from smartfallback.simulation.scenarios.request_checks import OF_REQUESTS
from smartfallback.simulation.scenarios.state_checks import OF_STATES
from smartfallback.simulation.scenarios.store_checks import OF_STORE
from smartfallback.simulation.scenarios.views import Check

_JUDGES: Final = {**OF_REQUESTS, **OF_STATES, **OF_STORE}

ABOUT_REQUESTS: Final = frozenset(OF_REQUESTS)
"""The expectations that are about a step's own requests; all others may come about with time."""


def judge(expected: Expected, evidence: Evidence) -> tuple[Check, ...]:
    """Each expectation with what was observed, in the order of the fields."""
    return tuple(
        check for name in expected.given for check in _JUDGES[name](getattr(expected, name), evidence)
    )


def announced(expected: Expected, evidence: Evidence) -> tuple[Check, ...]:
    """Each expectation, still open."""
    return tuple(Check(check.expected) for check in judge(expected, evidence))


def holds(expected: Expected, evidence: Evidence) -> bool:
    """Whether all of it is so."""
    return all(check.passed for check in judge(expected, evidence))


def settled(expected: Expected, evidence: Evidence) -> bool:
    """Whether what is expected of requests is so: once they are over, that won't change any more."""
    return all(
        check.passed
        for name in expected.given
        if name in OF_REQUESTS
        for check in _JUDGES[name](getattr(expected, name), evidence)
    )
