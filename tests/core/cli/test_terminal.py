"""What the commands write, for any number an upstream may state."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.cli.chat_json import failed
from smartfallback.cli.terminal import expected
from smartfallback.model.outcomes import AttemptRecord, AttemptResult, ErrorCategory, Failure, RequestError

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (NOW - 1e30, "now"),
        (-math.inf, "now"),
        (NOW, "now"),
        (1e20, "not before the year 9999"),
        (1e30, "not before the year 9999"),
        (math.inf, "not before the year 9999"),
        (math.nan, "not before the year 9999"),
    ],
)
def test_moments_that_no_calendar_has(at: float, words: str) -> None:
    assert expected(at, NOW) == words


def test_a_moment_of_the_calendar() -> None:
    assert expected(NOW + 90, NOW).startswith("at 2027-01-1")
    assert expected(NOW + 90, NOW).endswith(", in 90 s")


@settings(deadline=None, max_examples=200)
@given(st.floats())
def test_any_number_is_told_in_few_words(at: float) -> None:
    assert 0 < len(expected(at, NOW)) < 60


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_json_holds_no_number_that_json_has_not(number: float) -> None:
    failure = Failure(ErrorCategory.RATE_LIMIT, "slow down", retry_after_s=number)
    record = AttemptRecord(1, "a", "p", "m", AttemptResult.FAILED, 0.1, failure)
    told = failed(RequestError("r", failure, [record], next_available_at=number), "default", simulated=False)
    assert told["next_available_at"] is None
    assert "retry_after_s': None" in str(told["error"])
    assert "retry_after_s': None" in str(told["attempts"])
