"""The hybrid formula for one account."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartfallback.model.specs import HybridSettings, Recency
from smartfallback.policy.selection import UNKNOWN_PERCENT_USED, score_terms

NOW = 1_000_000.0
DAY = 86_400.0


@pytest.mark.parametrize(
    ("percent_used", "last_used", "quota", "recency", "score"),
    [
        (0.0, None, 1.0, 0.0, 0.6),
        (0.0, NOW, 1.0, 1.0, 1.0),
        (25.0, NOW - DAY / 2, 0.75, 0.5, 0.65),
        (100.0, NOW - DAY / 4, 0.0, 0.75, 0.3),
        (40.0, NOW - DAY, 0.6, 0.0, 0.36),
        (40.0, NOW - 9 * DAY, 0.6, 0.0, 0.36),
    ],
)
def test_specified_formula(
    percent_used: float, last_used: float | None, quota: float, recency: float, score: float
) -> None:
    terms = score_terms(percent_used, last_used, NOW, HybridSettings(), "ag-1")
    assert terms.account == "ag-1"
    assert (terms.quota, terms.recency, terms.score) == pytest.approx((quota, recency, score))
    assert terms.jitter == 1.0


@pytest.mark.parametrize(("last_used", "recency"), [(None, 1.0), (NOW, 0.0), (NOW - DAY / 4, 0.25)])
def test_rested_turns_the_recency_term_round(last_used: float | None, recency: float) -> None:
    terms = score_terms(50.0, last_used, NOW, HybridSettings(recency=Recency.RESTED))
    assert terms.recency == pytest.approx(recency)
    assert terms.score == pytest.approx(0.3 + 0.4 * recency)


@pytest.mark.parametrize("unknown", [None, math.nan])
def test_unknown_quota_counts_as_half_used(unknown: float | None) -> None:
    assert UNKNOWN_PERCENT_USED == 50.0
    assert score_terms(unknown, None, NOW, HybridSettings()).quota == 0.5


def test_impossible_readings_stay_inside_the_scale() -> None:
    settings = HybridSettings()
    assert score_terms(130.0, None, NOW, settings).quota == 0.0
    assert score_terms(-3.0, None, NOW, settings).quota == 1.0
    assert score_terms(0.0, NOW + DAY, NOW, settings).recency == 1.0


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 3 * DAY))
def test_more_quota_left_never_scores_lower(one: float, other: float, age: float) -> None:
    more, less = sorted((one, other))
    settings = HybridSettings()
    assert (
        score_terms(more, NOW - age, NOW, settings).score >= score_terms(less, NOW - age, NOW, settings).score
    )
