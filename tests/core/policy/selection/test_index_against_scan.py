"""Every strategy against the plainest implementation of its rule: a scan over all members."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.decisions import Rule, ScoreTerms
from smartfallback.model.specs import HybridSettings, Recency, Strategy
from smartfallback.policy.selection import Choice, Selection, score_terms

SLOTS = 7
START = 500_000.0
NAMES = [f"a{slot}" for slot in range(SLOTS)]


@dataclass
class Member:
    percent_used: float | None
    last_used: float | None
    seen_used: float | None = None
    """The last use as far as the clock had come when it was first seen."""


class Scan:
    """What is known of each member, and the rules of section 4 applied to all of them."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.turns: dict[int, int] = {}
        self.sessions: dict[str, int] = {}
        self.current: int | None = None
        self.unseen: set[int] = set()
        self.now = START

    def put(self, slot: int, percent_used: float | None, last_used: float | None) -> None:
        old = self.members.get(slot)
        if old is None or (old.percent_used, old.last_used) != (percent_used, last_used):
            self.members[slot] = Member(percent_used, last_used)
            self.unseen.add(slot)

    def discard(self, slot: int) -> None:
        self.members.pop(slot, None)
        self.unseen.discard(slot)

    def see(self, now: float) -> None:
        if now < self.now:
            self.unseen.update(self.members)
        self.now = now
        for slot in self.unseen:
            member = self.members[slot]
            member.seen_used = None if member.last_used is None else min(member.last_used, now)
        self.unseen.clear()

    def taken(self, slot: int, session: str | None) -> None:
        self.turns[slot] = max(self.turns.values(), default=0) + 1
        if slot in self.members:
            self.unseen.add(slot)
        if session is None:
            self.current = slot
        else:
            self.sessions[session] = slot

    def forget(self, slot: int) -> None:
        self.sessions = {session: held for session, held in self.sessions.items() if held != slot}
        self.current = None if self.current == slot else self.current
        if slot in self.members:
            self.unseen.add(slot)

    def age(self, slot: int) -> float:
        used = self.members[slot].seen_used
        return float("inf") if used is None else self.now - used

    def used(self, slot: int) -> float:
        percent = self.members[slot].percent_used
        return 50.0 if percent is None else percent

    def score(self, slot: int, terms: HybridSettings) -> float:
        member = self.members[slot]
        return score_terms(member.percent_used, member.seen_used, self.now, terms).score


Check = Callable[[Scan, Choice, set[int], str | None, HybridSettings], None]


def check_greedy(scan: Scan, choice: Choice, left: set[int], _: str | None, __: HybridSettings) -> None:
    assert choice.rule is Rule.MOST_QUOTA
    best = min((scan.used(slot), -scan.age(slot)) for slot in left)
    assert (scan.used(choice.slot), -scan.age(choice.slot)) == best


def check_lru(scan: Scan, choice: Choice, left: set[int], _: str | None, __: HybridSettings) -> None:
    assert choice.rule is Rule.LEAST_RECENTLY_USED
    assert scan.age(choice.slot) == max(scan.age(slot) for slot in left)


def check_round_robin(scan: Scan, choice: Choice, left: set[int], _: str | None, __: HybridSettings) -> None:
    assert choice.rule is Rule.NEXT_IN_TURN
    had_turn = left & scan.turns.keys()
    if choice.slot in scan.turns:
        assert scan.turns[choice.slot] == min(scan.turns[slot] for slot in had_turn)


def check_sticky(scan: Scan, choice: Choice, left: set[int], session: str | None, _: HybridSettings) -> None:
    bound = scan.current if session is None else scan.sessions.get(session)
    if bound in left:
        assert choice.slot == bound
        assert choice.rule is (Rule.STUCK if session is None else Rule.SESSION)
        return

    def left_per_session(slot: int) -> float:
        held = sum(holder == slot for holder in scan.sessions.values())
        return (100.0 - scan.used(slot)) / (1 + held)

    assert choice.rule is Rule.MOST_QUOTA
    assert left_per_session(choice.slot) == max(left_per_session(slot) for slot in left)


def check_hybrid(scan: Scan, choice: Choice, left: set[int], _: str | None, settings: HybridSettings) -> None:
    for terms in choice.considered:
        slot = NAMES.index(terms.account)
        assert slot in left
        assert terms.score == pytest.approx(scan.score(slot, settings), abs=1e-9)
    if choice.rule is Rule.STARVATION_PREVENTION:
        assert scan.age(choice.slot) == max(scan.age(slot) for slot in left)
        assert [terms.account for terms in choice.considered] == [NAMES[choice.slot]]
        return
    assert choice.rule is Rule.BEST_OF_TOP
    top = sorted((scan.score(slot, settings) for slot in left), reverse=True)[: settings.top_k]
    assert [terms.score for terms in choice.considered] == pytest.approx(top, abs=1e-9)
    assert all(settings.jitter_low <= terms.jitter <= settings.jitter_high for terms in choice.considered)
    best: ScoreTerms = max(choice.considered, key=lambda terms: terms.final)
    assert NAMES[choice.slot] == best.account


CHECKS: dict[Strategy, Check] = {
    Strategy.GREEDY: check_greedy,
    Strategy.LRU: check_lru,
    Strategy.ROUND_ROBIN: check_round_robin,
    Strategy.STICKY: check_sticky,
    Strategy.HYBRID: check_hybrid,
}

HYBRIDS = (
    HybridSettings(),
    HybridSettings(recency=Recency.RESTED),
    HybridSettings(lru_share=0.0, jitter_low=1.0, jitter_high=1.0, top_k=2),
    HybridSettings(lru_share=1.0),
    HybridSettings(quota_weight=0.2, recency_weight=0.8, recency_horizon_s=600.0, top_k=10),
    HybridSettings(recency_weight=0.0, top_k=1),
)

SLOT = st.integers(0, SLOTS - 1)
PERCENT = st.one_of(st.none(), st.sampled_from([0.0, 40.0, 100.0]), st.floats(0.0, 100.0))
AGE = st.one_of(st.none(), st.sampled_from([-900.0, 0.0, 600.0, 86_400.0]), st.floats(-900.0, 200_000.0))
JUMP = st.one_of(st.sampled_from([-4_000.0, 1.0, 86_400.0]), st.floats(-4_000.0, 5_000.0))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), SLOT, PERCENT, AGE),
        st.tuples(st.just("put"), SLOT, PERCENT, AGE),
        st.tuples(st.just("discard"), SLOT, st.none(), st.none()),
        st.tuples(st.just("forget"), SLOT, st.none(), st.none()),
        st.tuples(st.just("jump"), st.just(0), JUMP, st.none()),
        st.tuples(st.just("choose"), SLOT, st.none(), st.none()),
        st.tuples(st.just("choose"), SLOT, st.none(), st.none()),
    ),
    min_size=8,
    max_size=60,
)


@pytest.mark.parametrize("strategy", list(Strategy))
@settings(deadline=None, max_examples=150)
@given(steps=STEPS, seed=st.integers(0, 9_999), terms=st.sampled_from(HYBRIDS), data=st.data())
def test_index_agrees_with_a_scan(
    strategy: Strategy,
    steps: list[tuple[str, int, float | None, float | None]],
    seed: int,
    terms: HybridSettings,
    data: st.DataObject,
) -> None:
    if strategy is not Strategy.HYBRID:
        terms = HYBRIDS[0]
    selection = Selection(NAMES, strategy, terms, random.Random(seed))
    scan = Scan()
    now = START
    for what, slot, value, age in [*steps, ("choose", 0, None, None)]:
        if what == "put":
            last_used = None if age is None else now - age
            selection.put(slot, value, last_used)
            scan.put(slot, value, last_used)
        elif what == "discard":
            selection.discard(slot)
            scan.discard(slot)
        elif what == "forget":
            selection.forget(slot)
            scan.forget(slot)
        elif what == "jump":
            now += value or 0.0
        else:
            scan.see(now)
            session = [None, "s1", "s2"][slot % 3]
            assert len(selection) == len(scan.members)
            assert {slot for slot in range(SLOTS) if slot in selection} == set(scan.members)
            left = set(scan.members)
            accept = data.draw(st.integers(0, SLOTS))
            accepted: int | None = None
            for place, choice in enumerate(selection.candidates(now, session)):
                CHECKS[strategy](scan, choice, left, session, terms)
                left.remove(choice.slot)
                if place == accept:
                    accepted = choice.slot
            assert not left, "every member is proposed"
            if accepted is not None:
                selection.taken(accepted, now, session)
                scan.taken(accepted, session)
