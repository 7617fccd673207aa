from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.policy.retry_budget import RetryBudget


def spend_all(budget: RetryBudget, now: float) -> int:
    spent = 0
    while budget.try_spend(now):
        spent += 1
    return spent


def test_thin_traffic_may_retry_from_the_reserve() -> None:
    assert spend_all(RetryBudget(reserve=3), 0.0) == 3


def test_busy_traffic_may_retry_its_share_and_the_reserve() -> None:
    budget = RetryBudget(share=0.2, reserve=2)
    for _ in range(50):
        budget.note_request(5.0)
    assert spend_all(budget, 5.0) == 12


def test_a_refusal_takes_nothing() -> None:
    budget = RetryBudget(share=0.5, reserve=0)
    budget.note_request(0.0)
    assert not budget.try_spend(0.0)
    budget.note_request(0.0)
    assert budget.try_spend(0.0)


def test_old_traffic_earns_nothing() -> None:
    budget = RetryBudget(share=1.0, window_s=10.0, reserve=0)
    for _ in range(100):
        budget.note_request(0.0)
    assert budget.left(9.999) == 100
    assert budget.left(10.0) == 0
    assert not budget.try_spend(10.0)


def test_spent_retries_come_back_after_the_window() -> None:
    budget = RetryBudget(window_s=10.0, reserve=2)
    assert spend_all(budget, 0.0) == 2
    assert spend_all(budget, 10.0) == 0, "they leave a bucket late, never early"
    assert spend_all(budget, 10.5) == 2


@pytest.mark.parametrize(
    "bad", [{"share": -0.1}, {"window_s": 0.0}, {"window_s": float("inf")}, {"reserve": -1}]
)
def test_a_budget_that_makes_no_sense_is_refused_by_name(bad: dict[str, float]) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=name):
        RetryBudget(**bad)  # type: ignore[arg-type]  # wrong values are the point


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200),
    share=st.floats(0, 1),
    reserve=st.integers(0, 5),
)
def test_at_every_retry_the_window_is_within_budget(
    steps: list[tuple[float, bool]], share: float, reserve: int
) -> None:
    budget = RetryBudget(share=share, window_s=10.0, reserve=reserve)
    now = 0.0
    requests: list[float] = []
    retries: list[float] = []
    for pause, is_request in steps:
        now += pause
        if is_request:
            budget.note_request(now)
            requests.append(now)
        elif budget.try_spend(now):
            retries.append(now)
            recent_retries = sum(1 for at in retries if at > now - 10.0)
            recent_requests = sum(1 for at in requests if at > now - 10.0)
            assert recent_retries <= reserve + share * recent_requests + 1e-9
