from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartfallback.policy.backoff import Backoff, ExponentialBackoff, FixedBackoff, LinearBackoff


def waits(backoff: Backoff, count: int) -> list[float]:
    return [backoff.delay(attempt, random.Random(1)) for attempt in range(1, count + 1)]


def test_fixed_waits_the_same_each_time() -> None:
    assert waits(FixedBackoff(2.0, jitter=False), 3) == [2.0, 2.0, 2.0]


def test_linear_grows_by_its_base_up_to_its_maximum() -> None:
    assert waits(LinearBackoff(2.0, 5.0, jitter=False), 4) == [2.0, 4.0, 5.0, 5.0]


def test_exponential_doubles_up_to_its_maximum() -> None:
    assert waits(ExponentialBackoff(0.2, 1.0, jitter=False), 5) == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_exponential_multiplies_by_its_multiplier() -> None:
    assert waits(ExponentialBackoff(1.0, jitter=False, multiplier=3.0), 3) == [1.0, 3.0, 9.0]


def test_the_ten_thousandth_retry_waits_the_maximum() -> None:
    assert ExponentialBackoff(1.0, 60.0, jitter=False).delay(10_000, random.Random(1)) == 60.0
    assert ExponentialBackoff(0.0, 60.0).delay(10_000, random.Random(1)) == 0.0


def test_full_jitter_uses_the_whole_range() -> None:
    rng = random.Random(7)
    drawn = [LinearBackoff(1.0).delay(4, rng) for _ in range(500)]
    assert min(drawn) < 0.2
    assert max(drawn) > 3.8
    assert max(drawn) <= 4.0


@given(
    kind=st.sampled_from([FixedBackoff, LinearBackoff, ExponentialBackoff]),
    base=st.floats(0, 100),
    above=st.floats(0, 1000),
    attempt=st.integers(1, 2000),
    seed=st.integers(),
)
def test_every_wait_is_within_its_bounds_and_repeats_with_the_seed(
    kind: type[Backoff], base: float, above: float, attempt: int, seed: int
) -> None:
    backoff = kind(base, base + above)
    wait = backoff.delay(attempt, random.Random(seed))
    assert 0 <= wait <= backoff.ceiling(attempt) <= base + above
    assert wait == backoff.delay(attempt, random.Random(seed))
    assert backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FixedBackoff(-1.0), "base_delay"),
        (lambda: FixedBackoff(float("nan")), "base_delay"),
        (lambda: LinearBackoff(2.0, 1.0), "max_delay"),
        (lambda: LinearBackoff(2.0, float("inf")), "max_delay"),
        (lambda: ExponentialBackoff(multiplier=0.5), "multiplier"),
        (lambda: ExponentialBackoff(-1.0), "base_delay"),
        (lambda: FixedBackoff().delay(0, random.Random(1)), "from 1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: object, named: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=named):
        make()
