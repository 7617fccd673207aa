"""The ledger against a model that keeps every entry and adds them up anew each time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from smartfallback.model.quota import (
    QuotaEstimate,
    QuotaStatus,
    QuotaThresholds,
    QuotaUnit,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.policy.ledger import WALL_FALLBACK_S, AccountLedger, Reservation

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
    on_trial: bool = False


@dataclass
class Model:
    windows: list[Window] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    wall: float | None = None
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
                window.used = 0
                window.on_trial = False
                window.floor = window.ends
                window.ends = None if window.spec.resets is None else now // DAY * DAY + DAY
        if self.wall is not None and now >= self.wall:
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


class LedgerMachine(RuleBasedStateMachine):
    """Looking is a rule too: were it an invariant, each look would apply what the next call must."""

    def __init__(self) -> None:
        super().__init__()
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
        tokens=st.integers(0, 400), requests=st.integers(0, 4), callers=st.integers(1, 4), looks=st.booleans()
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
        self.model.advance(self.now)
        entry = data.draw(st.sampled_from(self.model.entries))
        actual = QuotaEstimate(tokens, requests)
        assert self.ledger.settle(entry.reservation, actual, self.now) == (entry.state != "ended")
        if entry.state != "ended":
            self.model.confirm()
            for window, number in zip(self.model.windows, entry.windows, strict=True):
                if window.number == number:
                    window.used += actual.amount(window.spec.unit)
            entry.state = "ended"

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        model = self.model
        model.advance(self.now)
        entry = data.draw(st.sampled_from(model.entries))
        assert self.ledger.release(entry.reservation, self.now) == (entry.state != "ended")
        was_live, entry.state = entry.state == "live", "ended"
        if was_live and not model.live():
            for window in model.windows:
                if window.on_trial:
                    window.ends, window.on_trial = None, False

    @rule()
    def expire(self) -> None:
        self.model.advance(self.now)
        assert self.ledger.expire(self.now) == self.model.lapsed
        self.model.lapsed = 0

    @rule()
    def roll(self) -> None:
        self.model.advance(self.now)
        rolled = self.ledger.roll(self.now)
        assert [(each.kind, each.used_before) for each in rolled] == self.model.rolled
        self.model.rolled.clear()

    @rule(wait=st.sampled_from((-60.0, 60.0, HOUR, DAY)))
    def wall(self, wait: float) -> None:
        self.model.advance(self.now)
        self.ledger.mark_exhausted(self.now + wait, self.now, reason="wall")
        if wait > 0:
            self.model.wall = max(self.model.wall or 0.0, self.now + wait)

    @rule()
    def wall_without_end(self) -> None:
        model = self.model
        model.advance(self.now)
        self.ledger.mark_exhausted(None, self.now, reason="wall")
        binding = max(model.windows, key=lambda window: window.used / window.spec.limit)
        model.wall = max(model.wall or 0.0, binding.ends or self.now + WALL_FALLBACK_S)

    @rule()
    def operator_clears(self) -> None:
        self.model.advance(self.now)
        self.ledger.clear_exhausted(self.now)
        self.model.wall = None

    @rule(index=st.integers(0, 1), used=st.integers(0, 1100))
    def reading(self, index: int, used: int) -> None:
        self.model.advance(self.now)
        self.ledger.set_used(index, used, self.now, TruthLabel.REPORTED)
        window = self.model.windows[index]
        window.used = used
        if used:
            self.model.open(window, self.now)
            window.on_trial = False

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


LedgerMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestLedger = LedgerMachine.TestCase
