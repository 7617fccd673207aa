"""The whole table of SPEC section 6, and the rule that waiting loses to switching."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.outcomes import ErrorCategory as Category
from smartfallback.model.outcomes import Failure, NextStep
from smartfallback.policy.backoff import ExponentialBackoff, LinearBackoff
from smartfallback.policy.recovery import (
    FAILOVER_S,
    RULES,
    BlameScope,
    Recovery,
    SwitchScope,
    Verdict,
    blamed,
    next_step,
)

LAST = False
MORE = True


class Row(NamedTuple):
    """The specification's table, written down a second time."""

    retries: int
    tries_the_account_again_first: int
    switch: NextStep
    blame: dict[BlameScope, Verdict]


ACCOUNT, PROVIDER, REQUEST = BlameScope.ACCOUNT, BlameScope.PROVIDER, BlameScope.REQUEST
TABLE = {
    Category.TRANSIENT_ERROR: Row(3, 3, NextStep.SWITCH_ACCOUNT, {ACCOUNT: Verdict.FAILURE}),
    Category.RATE_LIMIT: Row(2, 0, NextStep.SWITCH_ACCOUNT, {ACCOUNT: Verdict.RATE_LIMIT}),
    Category.QUOTA_EXHAUSTED: Row(0, 0, NextStep.SWITCH_ACCOUNT, {ACCOUNT: Verdict.EXHAUSTED}),
    Category.API_FAILURE: Row(
        2, 0, NextStep.SWITCH_POOL, {ACCOUNT: Verdict.FAILURE, PROVIDER: Verdict.FAILURE}
    ),
    Category.TIMEOUT: Row(1, 1, NextStep.SWITCH_ACCOUNT, {ACCOUNT: Verdict.SLOW, PROVIDER: Verdict.SLOW}),
    Category.NETWORK_ERROR: Row(2, 0, NextStep.SWITCH_POOL, {PROVIDER: Verdict.FAILURE}),
    Category.AUTHENTICATION: Row(0, 0, NextStep.SWITCH_ACCOUNT, {ACCOUNT: Verdict.ATTENTION}),
    Category.INVALID_REQUEST: Row(0, 0, NextStep.FAIL, {REQUEST: Verdict.NOTHING}),
    Category.CONTENT_FILTERED: Row(0, 0, NextStep.FAIL, {REQUEST: Verdict.NOTHING}),
    Category.MALFORMED_RESPONSE: Row(1, 1, NextStep.SWITCH_ACCOUNT, {ACCOUNT: Verdict.FAILURE}),
    Category.UNKNOWN: Row(1, 1, NextStep.SWITCH_ACCOUNT, {ACCOUNT: Verdict.FAILURE}),
}
EVERY = list(Category)


def failing(category: Category) -> Failure:
    """A failure of ``category`` that may be retried as often as its category ever is."""
    return Failure(category, "test", retry_after_s=0.1 if category is Category.RATE_LIMIT else None)


def decide(
    failure: Failure,
    has_alternative: bool,
    *,
    retries_done: int = 0,
    time_left_s: float = 60.0,
    budget: bool = True,
    seed: int = 1,
    switch_on_content_filter: bool = False,
    can_trim: bool = False,
    attempt_s: float = 0.0,
    provider_s: float = 0.0,
) -> Recovery:
    return next_step(
        failure,
        retries_done=retries_done,
        has_alternative=has_alternative,
        time_left_s=time_left_s,
        budget=lambda: budget,
        rng=random.Random(seed),
        switch_on_content_filter=switch_on_content_filter,
        can_trim=can_trim,
        attempt_s=attempt_s,
        provider_s=provider_s,
    )


def steps_until_given_up(failure: Failure, has_alternative: bool) -> list[NextStep]:
    steps: list[NextStep] = []
    while not steps or steps[-1] is NextStep.RETRY:
        steps.append(decide(failure, has_alternative, retries_done=len(steps)).step)
    return steps


def test_the_table_has_a_rule_for_each_of_the_eleven_categories() -> None:
    assert set(RULES) == set(Category) == set(TABLE)
    assert len(RULES) == 11


@pytest.mark.parametrize("category", EVERY)
def test_on_the_last_candidate_each_uses_its_retries_then_fails(category: Category) -> None:
    retries = TABLE[category].retries
    assert steps_until_given_up(failing(category), LAST) == [NextStep.RETRY] * retries + [NextStep.FAIL]


@pytest.mark.parametrize("category", EVERY)
def test_with_another_candidate_only_the_named_ones_try_the_account_again(category: Category) -> None:
    row = TABLE[category]
    again = [NextStep.RETRY] * row.tries_the_account_again_first
    assert steps_until_given_up(failing(category), MORE) == [*again, row.switch]


@pytest.mark.parametrize("category", EVERY)
def test_each_category_is_recorded_on_its_scopes(category: Category) -> None:
    assert dict(RULES[category].blame) == TABLE[category].blame
    assert dict(blamed(failing(category))) == TABLE[category].blame


@pytest.mark.parametrize("category", EVERY)
def test_the_rule_names_the_scope_of_the_switch(category: Category) -> None:
    expected = {
        NextStep.SWITCH_ACCOUNT: SwitchScope.ACCOUNT,
        NextStep.SWITCH_POOL: SwitchScope.POOL,
        NextStep.FAIL: SwitchScope.NONE,
    }
    assert RULES[category].switch is expected[TABLE[category].switch]


def test_back_off_is_of_the_specified_kind() -> None:
    exponential = {Category.TRANSIENT_ERROR, Category.API_FAILURE, Category.NETWORK_ERROR, Category.UNKNOWN}
    for category, rule in RULES.items():
        assert isinstance(rule.backoff, ExponentialBackoff) == (category in exponential)
        assert isinstance(rule.backoff, LinearBackoff) == (category is Category.RATE_LIMIT)


@pytest.mark.parametrize("seed", range(50))
def test_a_transient_error_waits_at_most_200_ms_at_first(seed: int) -> None:
    wait = decide(failing(Category.TRANSIENT_ERROR), MORE, seed=seed).wait_s
    assert 0 <= wait <= 0.2


@pytest.mark.parametrize("category", EVERY)
@pytest.mark.parametrize("has_alternative", [LAST, MORE])
def test_nothing_is_attempted_after_the_deadline(category: Category, has_alternative: bool) -> None:
    assert decide(failing(category), has_alternative, time_left_s=0.0, can_trim=True) == (NextStep.FAIL, 0.0)


@pytest.mark.parametrize("category", EVERY)
def test_without_budget_nothing_is_retried_but_switching_is_free(category: Category) -> None:
    assert decide(failing(category), LAST, budget=False).step is NextStep.FAIL
    assert decide(failing(category), MORE, budget=False).step is TABLE[category].switch


def test_the_budget_is_asked_only_when_a_retry_is_right() -> None:
    asked: list[Category] = []
    for category in EVERY:

        def spend(category: Category = category) -> bool:
            asked.append(category)
            return True

        next_step(
            failing(category),
            retries_done=0,
            has_alternative=True,
            time_left_s=60.0,
            budget=spend,
            rng=random.Random(1),
        )
    assert asked == [category for category in EVERY if TABLE[category].tries_the_account_again_first]


@pytest.mark.parametrize(
    ("stated", "step"),
    [(None, NextStep.FAIL), (0.0, NextStep.RETRY), (2.0, NextStep.RETRY), (2.1, NextStep.FAIL)],
)
def test_a_rate_limit_is_waited_for_only_if_its_stated_wait_is_short(
    stated: float | None, step: NextStep
) -> None:
    assert decide(Failure(Category.RATE_LIMIT, "429", retry_after_s=stated), LAST).step is step


def test_a_short_rate_limit_beyond_the_deadline_is_not_waited_for() -> None:
    failure = Failure(Category.RATE_LIMIT, "429", retry_after_s=1.5)
    assert decide(failure, LAST, time_left_s=1.5).step is NextStep.FAIL
    assert decide(failure, LAST, time_left_s=60).step is NextStep.RETRY


@pytest.mark.parametrize("seed", range(20))
def test_a_stated_wait_is_a_floor(seed: int) -> None:
    failure = Failure(Category.TRANSIENT_ERROR, "503", retry_after_s=7.0)
    assert decide(failure, LAST, seed=seed) == (NextStep.RETRY, 7.0)
    short = Failure(Category.RATE_LIMIT, "429", retry_after_s=0.4)
    assert decide(short, LAST, retries_done=1, seed=seed).wait_s >= 0.4


def test_a_stated_wait_loses_to_switching() -> None:
    failure = Failure(Category.TRANSIENT_ERROR, "503", retry_after_s=7.0)
    assert decide(failure, MORE) == (NextStep.SWITCH_ACCOUNT, 0.0)


@pytest.mark.parametrize("category", [Category.MALFORMED_RESPONSE, Category.TIMEOUT, Category.UNKNOWN])
def test_one_more_try_needs_room_in_the_deadline_when_another_could_answer(category: Category) -> None:
    failure = failing(category)
    assert decide(failure, MORE, time_left_s=5.0, attempt_s=2.0).step is NextStep.RETRY
    assert decide(failure, MORE, time_left_s=1.5, attempt_s=2.0).step is NextStep.SWITCH_ACCOUNT
    assert decide(failure, LAST, time_left_s=1.5, attempt_s=2.0).step is NextStep.RETRY


@pytest.mark.parametrize("category", [Category.MALFORMED_RESPONSE, Category.TIMEOUT, Category.UNKNOWN])
def test_no_account_keeps_a_request_for_long_that_another_could_answer(category: Category) -> None:
    failure = failing(category)
    within = decide(failure, MORE, time_left_s=100.0, attempt_s=FAILOVER_S / 3, provider_s=FAILOVER_S / 3)
    beyond = decide(failure, MORE, time_left_s=100.0, attempt_s=FAILOVER_S * 0.6, provider_s=FAILOVER_S * 0.6)
    assert within.step is NextStep.RETRY
    assert beyond.step is NextStep.SWITCH_ACCOUNT
    assert decide(failure, LAST, attempt_s=20.0, provider_s=20.0).step is NextStep.RETRY


def test_a_context_overflow_degrades_when_the_conversation_can_be_trimmed() -> None:
    overflow = Failure(Category.INVALID_REQUEST, "400", context_overflow=True)
    assert decide(overflow, MORE, can_trim=True).step is NextStep.DEGRADE
    assert decide(overflow, MORE, can_trim=False).step is NextStep.FAIL
    assert decide(failing(Category.INVALID_REQUEST), MORE, can_trim=True).step is NextStep.FAIL


def test_blocked_content_switches_the_pool_only_if_configured() -> None:
    blocked = failing(Category.CONTENT_FILTERED)
    assert decide(blocked, MORE, switch_on_content_filter=True).step is NextStep.SWITCH_POOL
    assert decide(blocked, LAST, switch_on_content_filter=True).step is NextStep.FAIL


@pytest.mark.parametrize("category", [c for c in EVERY if TABLE[c].switch is not NextStep.FAIL])
def test_a_ban_is_never_retried_leaves_the_pool_and_needs_attention(category: Category) -> None:
    banned = Failure(category, "terms violation", permanent=True, retry_after_s=0.1)
    assert decide(banned, MORE) == (NextStep.SWITCH_POOL, 0.0)
    assert decide(banned, LAST) == (NextStep.FAIL, 0.0)
    account = dict(blamed(banned)).get(BlameScope.ACCOUNT)
    assert account is (Verdict.ATTENTION if ACCOUNT in TABLE[category].blame else None)


def test_an_error_of_one_model_is_recorded_on_that_model_only() -> None:
    for category, verdict in [
        (Category.RATE_LIMIT, Verdict.RATE_LIMIT),
        (Category.QUOTA_EXHAUSTED, Verdict.EXHAUSTED),
        (Category.TRANSIENT_ERROR, Verdict.FAILURE),
    ]:
        assert blamed(Failure(category, "x", model="pro")) == ((BlameScope.MODEL, verdict),)
    refused = Failure(Category.AUTHENTICATION, "401", model="pro")
    assert blamed(refused) == ((BlameScope.ACCOUNT, Verdict.ATTENTION),)


def test_a_wall_of_shared_keys_is_recorded_on_the_project() -> None:
    wall = Failure(Category.QUOTA_EXHAUSTED, "429", project_wide=True)
    assert blamed(wall) == ((BlameScope.PROJECT, Verdict.EXHAUSTED),)


@settings(deadline=None, max_examples=300)
@given(
    category=st.sampled_from(EVERY),
    retries_done=st.integers(0, 5),
    has_alternative=st.booleans(),
    time_left_s=st.floats(-1, 100),
    stated=st.none() | st.floats(0, 200),
    permanent=st.booleans(),
    budget=st.booleans(),
    seed=st.integers(),
)
def test_every_decision_keeps_the_deadline_the_floor_and_the_number_of_retries(
    category: Category,
    retries_done: int,
    has_alternative: bool,
    time_left_s: float,
    stated: float | None,
    permanent: bool,
    budget: bool,
    seed: int,
) -> None:
    failure = Failure(category, "x", retry_after_s=stated, permanent=permanent)
    recovery = decide(
        failure, has_alternative, retries_done=retries_done, time_left_s=time_left_s, budget=budget, seed=seed
    )
    if recovery.step is NextStep.RETRY:
        assert budget
        assert not permanent
        assert retries_done < TABLE[category].retries
        assert recovery.wait_s < time_left_s
        assert recovery.wait_s >= (stated or 0)
    else:
        assert recovery.wait_s == 0
    if recovery.step in (NextStep.SWITCH_ACCOUNT, NextStep.SWITCH_POOL):
        assert has_alternative
        assert time_left_s > 0
