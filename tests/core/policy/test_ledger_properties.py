"""The ledger against a model that keeps every entry and adds them up anew each time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from smartfallback.model.quota import (
    QuotaEstimate,
    QuotaStatus,
    QuotaThresholds,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.policy.ledger import WALL_FALLBACK_S, AccountLedger, OwnUse, Reservation

HOUR = 3600.0
DAY = 24 * HOUR
START = 1_772_452_800.0
LEASE_S = 1800.0
HARD = 95.0
SPECS = (
    WindowSpec(WindowKind.DAY, QuotaUnit.TOKENS, 1000, "00:00 UTC"),
    WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.REQUESTS, 12),
)
RANK = (QuotaStatus.HEALTHY, QuotaStatus.WARNING, QuotaStatus.CRITICAL, QuotaStatus.EXHAUSTED)


@dataclass
class Entry:
    """One reservation as the model knows it: the windows' numbers tell which windows it belongs to."""

    reservation: Reservation
    estimate: QuotaEstimate
    lease_ends: float
    windows: tuple[int, ...]
    state: str = "live"


@dataclass
class Window:
    spec: WindowSpec
    number: int = 0
    used: float = 0
    ends: float | None = None
    floor: float = 0
    settled: float = 0
    on_trial: bool = False


@dataclass
class Model:
    windows: list[Window] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    wall: float | None = None
    wall_at: float = 0
    ended_wall: float = 0
    rolled: list[tuple[WindowKind, float]] = field(default_factory=list)
    lapsed: int = 0

    def live(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.state == "live"]

    def held(self, index: int) -> float:
        window = self.windows[index]
        return sum(
            entry.estimate.amount(window.spec.unit)
            for entry in self.live()
            if entry.windows[index] == window.number
        )

    def advance(self, now: float) -> None:
        for window in self.windows:
            if window.ends is not None and now >= window.ends:
                self.rolled.append((window.spec.kind, window.used))
                window.number += 1
                window.used = window.settled = 0
                window.on_trial = False
                window.floor = window.ends
                window.ends = None if window.spec.resets is None else now // DAY * DAY + DAY
        if self.wall is not None and now >= self.wall:
            self.ended_wall = self.wall - self.wall_at
            self.wall = None
        for entry in self.live():
            if now >= entry.lease_ends:
                entry.state = "lapsed"
                self.lapsed += 1
                self.confirm()

    def confirm(self) -> None:
        for window in self.windows:
            window.on_trial = False

    def open(self, window: Window, now: float) -> None:
        if window.ends is None:
            window.ends = max(now, window.floor) + 5 * HOUR
            window.floor = window.ends - 5 * HOUR
            window.on_trial = True

    def named(self, until: float, now: float) -> None:
        """A provider named a wall."""
        if until > now and (self.wall is None or until > self.wall):
            self.wall, self.wall_at = until, now

    def restart(self, now: float) -> None:
        """What is held dies, what is counted stays as far as its span can be believed."""
        self.entries.clear()
        self.rolled.clear()
        self.lapsed = 0
        self.ended_wall = 0
        for window in self.windows:
            window.on_trial = False
            window.settled = 0
            if window.spec.resets is None:
                if window.ends is None:
                    window.floor = 0
                elif window.ends > now + 10 * HOUR:
                    window.floor, window.ends = now, now + 5 * HOUR
                else:
                    window.floor = max(window.floor, window.ends - 5 * HOUR)
            elif window.ends is not None and not (window.ends <= now or now < window.ends - DAY <= now + DAY):
                window.ends = now // DAY * DAY + DAY
        self.advance(now)


class LedgerMachine(RuleBasedStateMachine):
    """Looking is a rule too: were it an invariant, each look would apply what the next call must."""

    steps = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[OwnUse, list[tuple[int, float]]]] = []
        self.now = START
        self.ledger = AccountLedger(SPECS, QuotaThresholds(hard_limit=HARD), now=START)
        self.model = Model([Window(SPECS[0], ends=START // DAY * DAY + DAY), Window(SPECS[1])])
        self.resets_at = 0.0

    @rule(seconds=st.sampled_from((0.5, 60.0, LEASE_S, HOUR, 5 * HOUR, 11 * HOUR, 3 * DAY)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def the_clock_steps_back(self) -> None:
        self.now -= HOUR

    @rule(
        tokens=st.integers(0, 200), requests=st.integers(0, 4), callers=st.integers(1, 4), looks=st.booleans()
    )
    def reserve(self, tokens: int, requests: int, callers: int, looks: bool) -> None:
        self.model.advance(self.now)
        estimate = QuotaEstimate(tokens, requests)
        for _ in range(callers):
            model = self.model
            fits = model.wall is None and all(
                (before := window.used + model.held(index)) < (cap := window.spec.limit * HARD / 100)
                and before + estimate.amount(window.spec.unit) <= cap
                for index, window in enumerate(model.windows)
            )
            if looks:
                view, change = self.ledger.view(self.now), self.ledger.next_change_at(self.now)
                assert (self.ledger.refusal(estimate, self.now) == "") == fits
            reservation = self.ledger.reserve(estimate, self.now, lease_s=LEASE_S)
            assert (reservation is not None) == fits
            if reservation is None:
                self.seen["refused"] += 1
                if looks:
                    assert self.ledger.view(self.now) == view
                    assert self.ledger.next_change_at(self.now) == change
                continue
            for window in model.windows:
                model.open(window, self.now)
            numbers = tuple(window.number for window in model.windows)
            model.entries.append(Entry(reservation, estimate, self.now + LEASE_S, numbers))
            for window_view in self.ledger.view(self.now).windows:
                assert window_view.used + window_view.held <= window_view.limit * HARD / 100

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data(), tokens=st.integers(0, 600), requests=st.integers(0, 2))
    def settle(self, data: st.DataObject, tokens: int, requests: int) -> None:
        self.settle_with(data.draw(st.sampled_from(self.model.entries)), QuotaEstimate(tokens, requests))

    def settle_with(self, entry: Entry, actual: QuotaEstimate) -> None:
        self.model.advance(self.now)
        assert self.ledger.settle(entry.reservation, actual, self.now) == (entry.state != "ended")
        self.seen[f"settled when {entry.state}"] += 1
        if entry.state != "ended":
            self.model.confirm()
            for window, number in zip(self.model.windows, entry.windows, strict=True):
                if window.number == number:
                    window.used += actual.amount(window.spec.unit)
                    window.settled += actual.amount(window.spec.unit)
            entry.state = "ended"

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.end_without_use(data.draw(st.sampled_from(self.model.entries)))

    def end_without_use(self, entry: Entry) -> None:
        model = self.model
        model.advance(self.now)
        assert self.ledger.release(entry.reservation, self.now) == (entry.state != "ended")
        was_live, entry.state = entry.state == "live", "ended"
        if was_live and not model.live():
            for window in model.windows:
                if window.on_trial:
                    window.ends, window.on_trial = None, False
                    self.seen["an opening taken back"] += 1

    @rule()
    def all_end_without_use(self) -> None:
        for entry in self.model.live():
            self.end_without_use(entry)

    @rule(tokens=st.integers(0, 50), how=st.sampled_from(("settles", "settles late", "used nothing")))
    def one_comes_and_goes(self, tokens: int, how: str) -> None:
        """The operator clears the way for one attempt, after all others have ended."""
        self.now += 6 * HOUR
        self.operator_clears()
        for index in range(2):
            self.reading(index, 0.0)
        before = len(self.model.entries)
        self.reserve(tokens, 1, 1, False)
        self.now += LEASE_S if how == "settles late" else 1.0
        for entry in self.model.entries[before:]:
            if how == "used nothing":
                self.end_without_use(entry)
            else:
                self.settle_with(entry, QuotaEstimate(tokens))

    @rule()
    def expire(self) -> None:
        self.model.advance(self.now)
        assert self.ledger.expire(self.now) == self.model.lapsed
        self.seen["lapsed"] += self.model.lapsed
        self.model.lapsed = 0

    @rule()
    def roll(self) -> None:
        self.model.advance(self.now)
        rolled = self.ledger.roll(self.now)
        assert [(each.kind, each.used_before) for each in rolled] == self.model.rolled
        self.seen.update(f"{each.kind} began anew" for each in rolled)
        self.model.rolled.clear()

    @rule(wait=st.sampled_from((-60.0, 60.0, 60.0, HOUR)))
    def wall(self, wait: float) -> None:
        self.model.advance(self.now)
        self.ledger.mark_exhausted(self.now + wait, self.now, reason="wall")
        self.model.named(self.now + wait, self.now)

    @rule()
    def wall_without_end(self) -> None:
        model = self.model
        model.advance(self.now)
        self.ledger.mark_exhausted(None, self.now, reason="wall")
        binding = max(model.windows, key=lambda window: window.used / window.spec.limit)
        model.named(binding.ends or self.now + WALL_FALLBACK_S, self.now)

    @rule()
    def operator_clears(self) -> None:
        self.model.advance(self.now)
        self.ledger.clear_exhausted(self.now)
        self.model.wall = None

    @rule(
        index=st.integers(0, 1), share=st.sampled_from((0.0, 0.0, 0.1, 0.5, 0.8, 0.94, 0.95, 0.99, 1.0, 1.1))
    )
    def reading(self, index: int, share: float) -> None:
        self.model.advance(self.now)
        used = share * SPECS[index].limit
        self.ledger.set_used(index, used, self.now, TruthLabel.REPORTED)
        window = self.model.windows[index]
        window.used = used
        if used:
            self.model.open(window, self.now)
            window.on_trial = False
        self.seen[self.ledger.status(self.now)] += 1

    @rule(index=st.integers(0, 1), wait=st.sampled_from((-60.0, 0.0, HOUR, 8 * HOUR)))
    def a_source_says_when_it_ends(self, index: int, wait: float) -> None:
        self.model.advance(self.now)
        self.ledger.set_end(index, self.now + wait, self.now)
        window = self.model.windows[index]
        if wait > 0 and window.spec.resets is None:
            window.ends, window.on_trial = self.now + wait, False

    @rule()
    def a_source_is_asked(self) -> None:
        self.model.advance(self.now)
        mark = [(window.number, window.settled) for window in self.model.windows]
        self.marks.append((self.ledger.own_use(self.now), mark))

    @precondition(lambda self: self.marks)
    @rule(data=st.data())
    def own_use_since_then_is_known(self, data: st.DataObject) -> None:
        self.model.advance(self.now)
        since, mark = data.draw(st.sampled_from(self.marks))
        own = [window.own_since for window in self.ledger.tracked(self.now, since)]
        assert own == [
            window.settled - settled if window.number == number else window.settled
            for window, (number, settled) in zip(self.model.windows, mark, strict=True)
        ]

    @rule(off_s=st.sampled_from((0.0, 60.0, 6 * HOUR, 2 * DAY)))
    def restart(self, off_s: float) -> None:
        states, wall = self.ledger.states(), self.ledger.wall()
        self.now += off_s
        self.ledger = AccountLedger(SPECS, QuotaThresholds(hard_limit=HARD), now=self.now)
        self.ledger.restore(states, wall, self.now)
        self.model.restart(self.now)
        self.marks.clear()
        self.resets_at = 0.0
        self.seen["restarted"] += 1

    @rule()
    def a_wall_that_ended_is_told(self) -> None:
        model = self.model
        model.advance(self.now)
        assert self.ledger.ended_wall(self.now) == model.ended_wall
        self.seen["a wall ended"] += model.ended_wall > 0
        model.ended_wall = 0

    @rule()
    def the_next_reset_is_known(self) -> None:
        model = self.model
        model.advance(self.now)
        ends = [window.ends for window in model.windows if window.ends is not None]
        ends += [] if model.wall is None else [model.wall]
        assert self.ledger.next_reset_at(self.now) == min(ends)

    @rule()
    def counts_are_the_models(self) -> None:
        model = self.model
        model.advance(self.now)
        view = self.ledger.view(self.now)
        for index, (window, seen) in enumerate(zip(model.windows, view.windows, strict=True)):
            assert (seen.used, seen.held) == (window.used, model.held(index))
            assert seen.resets_at == window.ends
        used = [100 * window.used / window.spec.limit for window in model.windows]
        committed = [
            100 * (window.used + model.held(index)) / window.spec.limit
            for index, window in enumerate(model.windows)
        ]
        assert self.ledger.used_percent(self.now) == max(used)
        assert self.ledger.committed_percent(self.now) == max(committed)
        assert view.binding == used.index(max(used))

    @rule()
    def status_is_monotone_in_what_is_used(self) -> None:
        self.model.advance(self.now)
        status = self.ledger.status(self.now)
        assert self.ledger.exhausted_until == self.model.wall
        percent = self.ledger.used_percent(self.now)
        assert percent is not None
        least = sum(percent >= threshold for threshold in (80, 95, 100))
        assert RANK.index(status) == (3 if self.model.wall is not None else least)
        self.seen[status] += 1

    @rule()
    def the_next_change_is_known(self) -> None:
        model = self.model
        model.advance(self.now)
        ends = [window.ends for window in model.windows if window.ends is not None]
        ends += [entry.lease_ends for entry in model.live()]
        ends += [] if model.wall is None else [model.wall]
        assert self.ledger.next_change_at(self.now) == min(ends)

    @rule()
    def calendar_windows_only_move_forward(self) -> None:
        self.model.advance(self.now)
        resets_at = self.ledger.view(self.now).windows[0].resets_at
        assert resets_at is not None
        assert resets_at >= self.resets_at
        self.resets_at = resets_at

    def teardown(self) -> None:
        """A crash leaves no hold beyond its lease."""
        later = self.now + 10 * DAY
        assert all(window.held == 0 for window in self.ledger.view(later).windows)

    @invariant()
    def a_step_was_made(self) -> None:
        LedgerMachine.steps += 1


def test_10_000_steps_of_random_lives_are_the_models_and_meet_everything_that_can_happen() -> None:
    LedgerMachine.steps, LedgerMachine.seen = 0, Counter()
    run_state_machine_as_test(
        LedgerMachine, settings=settings(max_examples=280, stateful_step_count=50, deadline=None)
    )
    assert LedgerMachine.steps >= 10_000
    assert set(+LedgerMachine.seen) == {
        *RANK,
        "5h began anew",
        "a wall ended",
        "an opening taken back",
        "day began anew",
        "lapsed",
        "refused",
        "restarted",
        "settled when ended",
        "settled when lapsed",
        "settled when live",
    }
