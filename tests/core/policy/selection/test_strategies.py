"""What operators rely on: even use, no starvation, no bursts, sticking, spreading."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice, pairwise

import pytest

from smartfallback.model.decisions import Rule
from smartfallback.model.specs import HybridSettings, Recency, Strategy
from smartfallback.policy.fairness import gini
from smartfallback.policy.selection import Choice, Selection

NAMES = [f"ag-{number}" for number in range(1, 9)]
ROTATING = [Strategy.ROUND_ROBIN, Strategy.LRU, Strategy.HYBRID]


class Pool:
    """A selection whose accounts use up quota as they serve."""

    def __init__(
        self,
        strategy: Strategy,
        *,
        names: list[str] = NAMES,
        seed: int = 7,
        settings: HybridSettings | None = None,
        cost: float = 0.005,
        pace_s: float = 0.1,
    ) -> None:
        self.selection = Selection(names, strategy, settings or HybridSettings(), random.Random(seed))
        self.used = [0.0] * len(names)
        self.last_used: list[float | None] = [None] * len(names)
        self.cost = cost
        self.pace_s = pace_s
        self.now = 10_000.0
        self.taken: Counter[int] = Counter()
        for slot in range(len(names)):
            self.join(slot)

    def join(self, slot: int) -> None:
        self.selection.put(slot, self.used[slot], self.last_used[slot])

    def serve(self, session: str | None = None) -> Choice:
        self.now += self.pace_s
        choice = next(self.selection.candidates(self.now, session))
        slot = choice.slot
        self.used[slot] += self.cost
        self.last_used[slot] = self.now
        self.join(slot)
        self.selection.taken(slot, self.now, session)
        self.taken[slot] += 1
        return choice

    def serve_many(self, times: int) -> list[int]:
        return [self.serve().slot for _ in range(times)]


# Membership and iteration


@pytest.mark.parametrize("strategy", list(Strategy))
def test_nobody_is_proposed_when_nobody_is_eligible(strategy: Strategy) -> None:
    pool = Pool(strategy)
    for slot in range(8):
        pool.selection.discard(slot)
    assert len(pool.selection) == 0
    assert list(pool.selection.candidates(pool.now)) == []
    pool.join(5)
    assert [choice.slot for choice in pool.selection.candidates(pool.now)] == [5]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_member_discarded_during_a_walk_is_not_proposed_after_it(strategy: Strategy) -> None:
    for seed in range(20):
        pool = Pool(strategy, seed=seed)
        pool.serve_many(5)
        walk = pool.selection.candidates(pool.now)
        first = [choice.slot for choice in islice(walk, 2)]
        gone = next(slot for slot in range(8) if slot not in first)
        pool.selection.discard(gone)
        pool.selection.discard(first[0])
        rest = [choice.slot for choice in walk]
        assert sorted(first + rest) == [slot for slot in range(8) if slot != gone]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_walk_survives_another_choice_in_between(strategy: Strategy) -> None:
    pool = Pool(strategy, pace_s=9_000.0)
    pool.serve_many(12)
    walk = pool.selection.candidates(pool.now)
    slots = [next(walk).slot]
    for _ in range(7):
        pool.serve()
        slots.append(next(walk).slot)
    assert sorted(slots) == list(range(8))
    assert next(walk, None) is None


@pytest.mark.parametrize("strategy", list(Strategy))
def test_drained_account_is_never_proposed(strategy: Strategy) -> None:
    pool = Pool(strategy, pace_s=3_000.0)
    pool.serve_many(20)
    pool.selection.discard(3)
    pool.selection.forget(3)
    assert 3 not in pool.serve_many(400)
    assert 3 not in {choice.slot for choice in pool.selection.candidates(pool.now)}


@pytest.mark.parametrize("strategy", list(Strategy))
def test_same_seed_makes_the_same_choices(strategy: Strategy) -> None:
    assert Pool(strategy, seed=3).serve_many(300) == Pool(strategy, seed=3).serve_many(300)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_place_in_the_list_gives_no_advantage(strategy: Strategy) -> None:
    first = Counter(Pool(strategy, seed=seed).serve().slot for seed in range(800))
    # 100 a slot is even; five standard deviations of a binomial with p = 1/8 are 47.
    assert min(first[slot] for slot in range(8)) > 53


@pytest.mark.parametrize("strategy", [Strategy.GREEDY, Strategy.LRU, Strategy.STICKY])
def test_order_of_the_list_does_not_matter(strategy: Strategy) -> None:
    used = {name: 5.0 + number for number, name in enumerate(NAMES)}
    chosen = set()
    for shuffle in range(10):
        names = random.Random(shuffle).sample(NAMES, k=8)
        selection = Selection(names, strategy, HybridSettings(), random.Random(1))
        for slot, name in enumerate(names):
            selection.put(slot, used[name], used[name])
        chosen.add(tuple(names[choice.slot] for choice in selection.candidates(1_000.0)))
    assert chosen == {tuple(NAMES)}


def test_changing_the_strategy_keeps_the_members_and_their_turns() -> None:
    pool = Pool(Strategy.STICKY)
    pool.selection.discard(2)
    pool.serve_many(3)
    for strategy in Strategy:
        pool.selection.set_strategy(strategy, HybridSettings(top_k=1, lru_share=0.0))
        assert pool.selection.strategy is strategy
        proposed = {choice.slot for choice in pool.selection.candidates(pool.now)}
        assert proposed == {0, 1, 3, 4, 5, 6, 7}
    served_before = next(iter(pool.taken))
    pool.selection.set_strategy(Strategy.ROUND_ROBIN, HybridSettings())
    assert [choice.slot for choice in pool.selection.candidates(pool.now)][-1] == served_before


# Even use and starvation


def test_round_robin_differs_by_one_at_most_at_every_moment() -> None:
    pool = Pool(Strategy.ROUND_ROBIN)
    for _ in range(200):
        pool.serve()
        counts = [pool.taken[slot] for slot in range(8)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("strategy", ROTATING)
def test_an_account_that_comes_back_gets_no_burst(strategy: Strategy) -> None:
    pool = Pool(strategy, cost=0.0)
    pool.serve_many(80)
    pool.selection.discard(0)
    pool.serve_many(700)
    pool.join(0)
    assert pool.serve_many(80).count(0) <= 20


@pytest.mark.parametrize("strategy", [Strategy.ROUND_ROBIN, Strategy.LRU])
def test_an_account_that_comes_and_goes_is_not_starved(strategy: Strategy) -> None:
    pool = Pool(strategy)
    for _ in range(160):
        pool.selection.discard(0)
        pool.join(0)
        pool.serve()
    assert pool.taken[0] == 20


@pytest.mark.parametrize("recency", list(Recency))
@pytest.mark.parametrize("pace_s", [0.0, 0.01, 6.0])
def test_hybrid_uses_eight_equal_accounts_evenly(pace_s: float, recency: Recency) -> None:
    settings = HybridSettings(recency=recency)
    pool = Pool(Strategy.HYBRID, pace_s=pace_s, cost=0.05, settings=settings)
    pool.serve_many(10_000)
    counts = [pool.taken[slot] for slot in range(8)]
    unevenness = gini(counts)
    assert unevenness is not None
    assert unevenness <= 0.05
    assert max(counts) <= 1_400


@pytest.mark.parametrize("strategy", [Strategy.GREEDY, *ROTATING])
@pytest.mark.parametrize("pace_s", [0.0, 1.0, 7_200.0])
def test_every_account_is_chosen_within_a_bounded_number_of_choices(
    strategy: Strategy, pace_s: float
) -> None:
    pool = Pool(strategy, pace_s=pace_s)
    bound = 400 if strategy is Strategy.HYBRID else 8
    chosen = pool.serve_many(4_000)
    for start in range(0, 4_000 - bound, bound):
        assert set(chosen[start : start + bound]) == set(range(8))


def test_least_recently_used_rotates_while_the_clock_stands_still() -> None:
    pool = Pool(Strategy.LRU, pace_s=0.0)
    chosen = pool.serve_many(24)
    assert chosen[:8] == chosen[8:16] == chosen[16:]
    assert sorted(chosen[:8]) == list(range(8))


# Hybrid


def test_hybrid_takes_a_tenth_by_least_recent_use() -> None:
    pool = Pool(Strategy.HYBRID)
    rules = Counter(pool.serve().rule for _ in range(10_000))
    assert set(rules) == {Rule.STARVATION_PREVENTION, Rule.BEST_OF_TOP}
    assert abs(rules[Rule.STARVATION_PREVENTION] - 1_000) <= 3 * (10_000 * 0.1 * 0.9) ** 0.5


def test_hybrid_draws_its_jitter_over_the_whole_range_and_from_the_top_three_only() -> None:
    pool = Pool(Strategy.HYBRID)
    jitters = []
    for _ in range(3_000):
        choice = pool.serve()
        if choice.rule is Rule.BEST_OF_TOP:
            assert len(choice.considered) == 3
            jitters += [terms.jitter for terms in choice.considered]
    assert 0.95 <= min(jitters) < 0.951
    assert 1.049 < max(jitters) <= 1.05
    assert abs(sum(jitters) / len(jitters) - 1.0) < 0.002


@pytest.mark.parametrize("age_s", [10.0, 40_000.0, 200_000.0])
def test_more_quota_left_never_lowers_the_chance(age_s: float) -> None:
    def chosen(used: float) -> int:
        times = 0
        for seed in range(600):
            selection = Selection(NAMES, Strategy.HYBRID, HybridSettings(), random.Random(seed))
            for slot in range(8):
                selection.put(slot, used if slot == 0 else 20.0 + 3 * slot, -age_s - slot)
            times += next(selection.candidates(0.0)).slot == 0
        return times

    counts = [chosen(used) for used in (60.0, 30.0, 26.0, 22.0, 10.0)]
    # Three standard deviations of the difference of two such counts.
    assert all(more >= less - 3 * (2 * 600 * 0.25) ** 0.5 for less, more in pairwise(counts))
    assert counts[-1] > counts[0]


def test_two_instances_do_not_herd() -> None:
    pools = [Pool(Strategy.HYBRID, seed=1), Pool(Strategy.HYBRID, seed=2)]
    together = sum(pools[0].serve().slot == pools[1].serve().slot for _ in range(4_000))
    assert together < 0.25 * 4_000


def test_a_last_use_ahead_of_the_clock_counts_as_just_now() -> None:
    settings = HybridSettings(top_k=1, lru_share=0.0, jitter_low=1.0, jitter_high=1.0)
    selection = Selection(NAMES, Strategy.HYBRID, settings, random.Random(1))
    selection.put(0, 50.0, 1_000_000.0)
    selection.put(1, 10.0, 5_000.0)
    choices = list(selection.candidates(5_000.0))
    assert [choice.slot for choice in choices] == [1, 0]
    assert [choice.considered[0].recency for choice in choices] == [1.0, 1.0]


def test_a_clock_that_goes_back_makes_cold_accounts_warm_again() -> None:
    settings = HybridSettings(top_k=1, lru_share=0.0, jitter_low=1.0, jitter_high=1.0)
    selection = Selection(NAMES, Strategy.HYBRID, settings, random.Random(1))
    selection.put(0, 50.0, 1_000.0)
    selection.put(1, 40.0, None)
    assert [choice.slot for choice in selection.candidates(200_000.0)] == [1, 0]
    choices = list(selection.candidates(500.0))
    assert [choice.slot for choice in choices] == [0, 1]
    assert [choice.considered[0].recency for choice in choices] == [1.0, 0.0]


# Sticky


def test_sticky_moves_only_when_it_must() -> None:
    pool = Pool(Strategy.STICKY)
    first = pool.serve()
    assert first.rule is Rule.MOST_QUOTA
    for _ in range(50):
        again = pool.serve()
        assert (again.slot, again.rule) == (first.slot, Rule.STUCK)
    pool.selection.discard(first.slot)
    second = pool.serve().slot
    pool.join(first.slot)
    assert set(pool.serve_many(50)) == {second}


def test_a_session_stays_with_its_account_among_other_traffic() -> None:
    pool = Pool(Strategy.STICKY)
    home = pool.serve("mine").slot
    for number in range(100):
        pool.serve(f"other-{number}")
        pool.serve()
        choice = pool.serve("mine")
        assert (choice.slot, choice.rule) == (home, Rule.SESSION)


def test_a_session_goes_on_where_it_was_accepted_last() -> None:
    pool = Pool(Strategy.STICKY)
    home = pool.serve("mine").slot
    walk = pool.selection.candidates(pool.now, "mine")
    assert next(walk).slot == home
    elsewhere = next(walk).slot
    pool.selection.taken(elsewhere, pool.now, "mine")
    assert pool.serve("mine").slot == elsewhere


def test_new_sessions_spread_before_their_use_shows() -> None:
    pool = Pool(Strategy.STICKY, cost=0.0)
    for number in range(80):
        pool.serve(f"session-{number}")
    assert [pool.taken[slot] for slot in range(8)] == [10] * 8


def test_new_sessions_go_by_what_is_left_for_each() -> None:
    selection = Selection(["full", "half"], Strategy.STICKY, HybridSettings(), random.Random(1))
    selection.put(0, 0.0, None)
    selection.put(1, 50.0, None)
    homes: Counter[int] = Counter()
    for number in range(30):
        slot = next(selection.candidates(float(number), f"s{number}")).slot
        selection.taken(slot, float(number), f"s{number}")
        homes[slot] += 1
    assert homes == {0: 20, 1: 10}


def test_an_account_that_lost_a_session_is_worth_more_to_new_ones() -> None:
    selection = Selection(
        ["a", "b", "c"], Strategy.STICKY, HybridSettings(), random.Random(1), max_sessions=2
    )
    for slot, used in enumerate((0.0, 10.0, 40.0)):
        selection.put(slot, used, None)

    def first(session: str) -> int:
        return next(selection.candidates(0.0, session)).slot

    assert first("s1") == 0
    selection.taken(0, 0.0, "s1")
    assert first("s2") == 1
    selection.taken(1, 0.0, "s2")
    assert first("s3") == 2
    selection.taken(1, 0.0, "s1")
    assert first("s3") == 0, "moved: the first account holds none now"
    selection.taken(0, 0.0, "s3")
    assert first("s4") == 2
    selection.taken(2, 0.0, "s4")
    assert first("s5") == 1, "forgotten: its sessions made room for s3 and s4"


def test_forgetting_an_account_moves_its_sessions_for_good() -> None:
    pool = Pool(Strategy.STICKY)
    homes = {f"s{number}": pool.serve(f"s{number}").slot for number in range(16)}
    gone = homes["s0"]
    pool.selection.discard(gone)
    pool.selection.forget(gone)
    pool.join(gone)
    for session, home in homes.items():
        choice = next(pool.selection.candidates(pool.now, session))
        assert (choice.rule is Rule.MOST_QUOTA) == (home == gone)
        assert home == gone or choice.slot == home


def test_the_session_unused_for_longest_is_forgotten_first() -> None:
    selection = Selection(NAMES, Strategy.STICKY, HybridSettings(), random.Random(1), max_sessions=3)
    for slot in range(8):
        selection.put(slot, 0.0, None)

    def serve(session: str) -> Rule:
        choice = next(selection.candidates(0.0, session))
        selection.taken(choice.slot, 0.0, session)
        return choice.rule

    assert [serve(session) for session in ("a", "b", "c")] == [Rule.MOST_QUOTA] * 3
    assert serve("a") is Rule.SESSION
    assert serve("d") is Rule.MOST_QUOTA
    assert [serve(session) for session in ("a", "c", "d")] == [Rule.SESSION] * 3
    assert serve("b") is Rule.MOST_QUOTA
