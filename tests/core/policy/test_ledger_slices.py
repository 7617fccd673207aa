"""What a ledger spends of a slice while the shared store is being asked, and without being able to ask it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.quota import QuotaEstimate, QuotaThresholds, QuotaUnit, WindowKind, WindowSpec
from smartfallback.model.sharing import SharedWindow, WindowReport
from smartfallback.policy.ledger import AccountLedger
from smartfallback.policy.ledger_sharing import Appetite

NOW = 1_700_000_000.0
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000, "sun 00:00 UTC")
KEY = "week.tokens.0"
ME, OTHER = "me#1", "other#1"
NOBODY: dict[str, float] = {}


def ledger(ceiling: float, *, used_elsewhere: float = 0.0, name: str = ME) -> AccountLedger:
    """A ledger with a slice."""
    made = AccountLedger((WEEK,), QuotaThresholds(hard_limit=100), now=NOW)
    made.share(name)
    report = made.reports(NOW, {})[0]
    told = SharedWindow(report.started_at, report.ends_at, None, {OTHER: used_elsewhere}, {name: ceiling})
    made.mirror({KEY: told}, NOW)
    return made


def hold(it: AccountLedger, tokens: int) -> None:
    assert it.reserve(QuotaEstimate(tokens), NOW, lease_s=60) is not None


def asked(
    it: AccountLedger, want: float, need: float = 1.0, asking: dict[str, float] | None = None
) -> WindowReport:
    """What is told when so much is asked for."""
    wants, waiting = {KEY: Appetite(want, need)}, asking or NOBODY
    return it.keep(it.reports(NOW, wants, it.held(waiting)), wants, waiting)[0]


def test_what_is_given_up_is_not_spent_any_more() -> None:
    it = ledger(100)
    assert asked(it, 10).keeps == 10
    hold(it, 10)
    assert not it.overdrawn
    hold(it, 1)
    assert it.overdrawn, "the other 90 may be another instance's by now"


def test_what_is_kept_is_told_with_what_runs() -> None:
    it = ledger(100)
    hold(it, 30)
    report = asked(it, 40)
    assert (report.held, report.keeps) == (30, 70)


def test_an_instance_at_rest_gives_all_back() -> None:
    it = ledger(100)
    assert it.keep(it.reports(NOW, {}), {}, NOBODY)[0].keeps == 0
    hold(it, 1)
    assert it.overdrawn


def test_who_waits_for_leave_has_no_slice_yet() -> None:
    it = ledger(20)
    hold(it, 15)
    hold(it, 30)
    waiting = {KEY: 30.0}
    report = asked(it, 50, asking=waiting)
    assert (report.held, report.keeps) == (15, 20)
    assert it.overdrawn
    assert not it.covers({KEY: 30.0}, waiting)
    assert it.covers({KEY: 5.0}, waiting)


def test_slices_shrink_near_the_limit() -> None:
    it = ledger(400, used_elsewhere=900)
    assert asked(it, 400).keeps == 50
    assert asked(it, 400, need=80).keeps == 50, "what was given up doesn't come back by itself"


def test_what_the_store_holds_for_this_instance_is_no_slice() -> None:
    it = ledger(20)
    report = it.reports(NOW, {}, NOBODY)[0]
    told = SharedWindow(report.started_at, report.ends_at, None, {}, {ME: 20.0}, {}, {ME: 100.0})
    it.mirror({KEY: told}, NOW)
    held = it.reserve(QuotaEstimate(100), NOW, lease_s=60)
    assert held is not None
    it.settle(held, QuotaEstimate(40), NOW)
    wants = {KEY: Appetite(500.0, 1.0)}
    # Less was spent than was held there: that is nothing to keep.
    assert it.keep(it.reports(NOW, wants, NOBODY), wants, NOBODY)[0].keeps <= 40


def test_a_share_is_reckoned_without_those_who_wait() -> None:
    it = ledger(0)
    for _ in range(50):
        hold(it, 10)
    it.widen(4, {KEY: 500.0})
    assert it.covers({KEY: 250.0}, {KEY: 500.0})
    assert not it.covers({KEY: 251.0}, {KEY: 500.0})


def test_a_larger_share_counts_what_a_smaller_one_gave() -> None:
    it = ledger(0)
    it.widen(8)
    it.widen(4)
    hold(it, 250)
    assert not it.overdrawn
    hold(it, 1)
    assert it.overdrawn


def test_the_scarcest_window_says_what_is_left() -> None:
    assert ledger(0).left_share == 1.0
    assert ledger(0, used_elsewhere=600).left_share == 0.4


class Exchange:
    """A store between which and its instances every message takes its time."""

    def __init__(self, instances: int) -> None:
        self.names = [f"i{number}#1" for number in range(instances)]
        self.ledgers = {name: ledger(0, name=name) for name in self.names}
        self.spent = dict.fromkeys(self.names, 0.0)
        self.ceilings: dict[str, float] = {}
        self.replies: dict[str, SharedWindow] = {}

    def ask(self, name: str, want: float) -> None:
        """An instance's report arrives; the reply is on its way. Slices are granted as by the script."""
        report = asked(self.ledgers[name], want, need=7.0)
        self.spent[name] = report.spent
        others = sum(
            max(0.0, level - self.spent[each]) for each, level in self.ceilings.items() if each != name
        )
        free = report.cap - sum(self.spent.values()) - others - report.held
        sharing = len(self.ceilings.keys() | {name})
        grant = min(want, max(free / (2 * sharing), min(7.0, free)))
        self.ceilings[name] = max(report.spent + report.held + max(0.0, grant), report.keeps)
        self.replies[name] = replace(
            SharedWindow(report.started_at, report.ends_at),
            spent=dict(self.spent),
            ceilings={**self.ceilings},
        )

    def hear(self, name: str) -> None:
        """The reply is there."""
        reply = self.replies.pop(name, None)
        if reply is not None:
            self.ledgers[name].mirror({KEY: reply}, NOW)

    def spend(self, name: str) -> None:
        """A request that goes by the slice, if it has room there."""
        it = self.ledgers[name]
        if it.covers({KEY: 7.0}, NOBODY):
            held = it.reserve(QuotaEstimate(7), NOW, lease_s=60)
            if held is not None:
                it.settle(held, QuotaEstimate(7), NOW)

    @property
    def total(self) -> float:
        """What all have spent, told or not."""
        return sum(it.spent()[KEY] for it in self.ledgers.values())


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["ask", "hear", "spend"]), st.integers(0, 400)),
    min_size=20,
    max_size=120,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_whatever_is_on_its_way_all_together_stay_within_the_limit(steps: list[tuple[int, str, int]]) -> None:
    exchange = Exchange(3)
    for number, step, amount in steps:
        name = exchange.names[number]
        if step == "ask":
            if name not in exchange.replies:  # one message at a time
                exchange.ask(name, float(amount))
        elif step == "hear":
            exchange.hear(name)
        else:
            for _ in range(1 + amount // 8):
                exchange.spend(name)
        assert exchange.total <= 1_000


def test_a_slice_that_the_others_would_get_is_not_spent_twice() -> None:
    exchange = Exchange(3)
    slow, *others = exchange.names
    exchange.ask(slow, 500.0)
    exchange.hear(slow)
    exchange.ask(others[0], 10.0)
    exchange.ask(slow, 500.0)  # its reply takes long
    for _ in range(200):
        for name in others:
            exchange.hear(name)
            exchange.spend(name)
            exchange.ask(name, 400.0)
    for _ in range(200):
        exchange.spend(slow)
    assert 900 < exchange.total <= 1_000
