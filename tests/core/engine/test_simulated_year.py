"""A year of simulated weeks: eight accounts that begin anew on Sundays and one that does on Wednesdays.

The resets are set to a time that one Sunday skips and another has twice, so that each must fall on
the instant that an independent look at the calendar finds. Traffic is thin during the week and
dense around every reset.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from smartfallback import (
    AccountSpec,
    Orchestrator,
    ProviderKind,
    QuotaReset,
    QuotaUnit,
    Skip,
    SkipReason,
    SqliteStateStore,
    Subscription,
    SystemSpec,
    WindowKind,
    WindowSpec,
)
from smartfallback.engine.roster import AccountRuntime
from smartfallback.model.events import Event, ResetOverdue, ResetValidated
from support.clock import FakeClock
from support.scripted import ask, pool, system
from support.weekly_upstream import WeeklyUpstream

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
DAY = 24 * HOUR
WEEKS = 53
LIMIT = 160_000
HARD_LIMIT = 0.95 * LIMIT
SUNDAY_ACCOUNTS = tuple(f"ag-{n}" for n in range(1, 9))
WEDNESDAY_ACCOUNT = "ag-9"
ACCOUNTS = (*SUNDAY_ACCOUNTS, WEDNESDAY_ACCOUNT)

COARSE_S = HOUR
A_MINUTE = 18
"""Requests a minute where traffic is dense."""
BEFORE_S = 4 * 60.0
AFTER_S = 150.0
STEADY_A_MINUTE = A_MINUTE / len(ACCOUNTS)

LIGHT, HEAVY = 1_000, 9_000
LATE_S = 3 * HOUR


class Week(NamedTuple):
    """What a week is like. ``source`` tells whether the provider's quota API answers."""

    name: str
    cost: int
    copilot: bool = True
    source: bool = False


KINDS = (
    Week("light", LIGHT),
    Week("all stop at the soft limit", HEAVY),
    Week("all stop at the hard limit", HEAVY, copilot=False, source=True),
    Week("late", HEAVY, copilot=False, source=True),
    Week("all stop at the hard limit, nobody to ask", HEAVY, copilot=False),
    Week("early", HEAVY, copilot=False, source=True),
    Week("off", HEAVY),
    Week("off and light", LIGHT, source=True),
)


def resets(weekday: int, first: datetime, count: int) -> list[float]:
    """The first minute of each such day at which Berlin's clocks show 02:30 or later."""
    found: list[float] = []
    day = first
    while len(found) < count:
        if day.weekday() == weekday:
            minute = datetime(day.year, day.month, day.day, tzinfo=BERLIN).astimezone(UTC)
            while (minute.astimezone(BERLIN).hour, minute.astimezone(BERLIN).minute) < (2, 30):
                minute += timedelta(minutes=1)
            found.append(minute.timestamp())
        day += timedelta(days=1)
    return found


def spec() -> SystemSpec:
    def weekly(day: str) -> tuple[WindowSpec, ...]:
        return (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, LIMIT, f"{day} 02:30 Europe/Berlin"),)

    main = [AccountSpec(name, quota=weekly("sun")) for name in SUNDAY_ACCOUNTS]
    main.append(AccountSpec(WEDNESDAY_ACCOUNT, quota=weekly("wed")))
    local = pool("local", "gguf", provider=ProviderKind.LOCAL)
    return system(pool("main", *main, default_output_tokens=10_000), pool("copilot", "gh"), local)


class Year:
    """Runs the weeks one after the other and keeps what was seen."""

    def __init__(self, state: Path) -> None:
        start = datetime(2026, 3, 2, tzinfo=BERLIN)
        self.clock = FakeClock(start.timestamp())
        self.sundays = resets(6, start, WEEKS)
        self.wednesdays = resets(2, start, WEEKS)
        self.upstream = WeeklyUpstream(self.clock, LIMIT)
        self.state = state
        self.rng = random.Random(7)
        self.week = KINDS[0]
        self.asked: list[tuple[float, str]] = []
        self.idle: list[tuple[str, float, Skip]] = []
        self.begun: dict[tuple[str, float], Week] = {}
        """Each true beginning of an account's quota, with the kind of week."""
        self.overdue: list[ResetOverdue] = []
        self.validated: list[ResetValidated] = []
        self.told: list[QuotaReset] = []
        self.orchestrator: Orchestrator
        self.events: Subscription

    async def open(self) -> None:
        self.orchestrator = Orchestrator(
            spec(),
            clock=self.clock,
            rng=self.rng,
            provider_factory=self.upstream.provider,
            store=SqliteStateStore(self.state, clock=self.clock),
        )
        self.orchestrator._placement.resets.validate = self._ask_source
        self.events = self.orchestrator.subscribe()
        await self.orchestrator.__aenter__()

    def _ask_source(self, account: AccountRuntime) -> bool:
        if self.week.source:
            self.asked.append((self.clock.time() + 1.0, account.id))
        return self.week.source

    def _say(self, name: str) -> None:
        account = self.orchestrator._roster.accounts[name]
        self.orchestrator._placement.read(account, self.upstream.reading(name))

    async def request(self, at: float) -> None:
        """Let time pass up to ``at``, with all that is due, and send one request."""
        self.clock.advance(max(0.0, at - self.clock.time()))
        self.orchestrator._maintenance.check(self.clock.monotonic())
        due = [entry for entry in self.asked if entry[0] <= self.clock.time()]
        for entry in due:
            self.asked.remove(entry)
            self._say(entry[1])
        await self.orchestrator.chat(ask())
        for event in self.events.drain()[0]:
            self._keep(event)

    def _keep(self, event: Event) -> None:
        if isinstance(event, ResetOverdue) and event.account in ACCOUNTS:
            self.overdue.append(event)
        elif isinstance(event, ResetValidated):
            self.validated.append(event)
        elif isinstance(event, QuotaReset):
            self.told.append(event)

    def begin_anew(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.upstream.begin_anew(name)
            self.begun[name, self.clock.time()] = self.week

    def note_idle(self, names: tuple[str, ...]) -> None:
        """Keep who can't be used although the quota has begun anew and the time to come back is over."""
        for name in names:
            skip = self.orchestrator.snapshot().account(name).skip  # type: ignore[union-attr]
            has_quota = self.upstream.used[name] < 0.5 * LIMIT
            if has_quota and skip is not None and skip.reason is not SkipReason.RAMP:
                self.idle.append((self.week.name, self.clock.time(), skip))

    async def run_week(self, number: int, kind: Week) -> None:
        """From after one Sunday's reset to after the next."""
        self.week = kind
        self.upstream.cost = kind.cost
        self.upstream.refusing = set() if kind.copilot else {"gh"}
        sunday, wednesday = self.sundays[number], self.wednesdays[number]
        await self._thin(wednesday - BEFORE_S)
        await self._dense(wednesday, BEFORE_S)
        await self._reset(wednesday, (WEDNESDAY_ACCOUNT,))
        if kind.name == "early":
            friday = sunday - 38 * HOUR
            await self._thin(friday)
            self.clock.advance(friday - self.clock.time())
            self.begin_anew(SUNDAY_ACCOUNTS)
            for name in SUNDAY_ACCOUNTS:
                self._say(name)
            await self._dense(friday + AFTER_S, AFTER_S)
            self.note_idle(SUNDAY_ACCOUNTS)
        if kind.name.startswith("off"):
            await self._off(sunday)
            return
        await self._thin(sunday - BEFORE_S)
        await self._dense(sunday, BEFORE_S)
        if kind.name == "late":
            await self._late(sunday)
        else:
            await self._reset(sunday, SUNDAY_ACCOUNTS)

    async def _reset(self, at: float, names: tuple[str, ...]) -> None:
        self.clock.advance(at - self.clock.time())
        self.begin_anew(names)
        await self._dense(at + AFTER_S, AFTER_S)
        self.note_idle(names)

    async def _late(self, sunday: float) -> None:
        await self._dense(sunday + AFTER_S, AFTER_S)
        while self.clock.time() < sunday + LATE_S - 1:
            await self.request(min(sunday + LATE_S - 1, self.clock.time() + 60.0))
        assert self.upstream.calls_between("ag-1", sunday, self.clock.time()) == 0
        self.clock.advance(sunday + LATE_S - self.clock.time())
        self.begin_anew(SUNDAY_ACCOUNTS)
        while self.clock.time() < sunday + LATE_S + 75 * 60:
            await self.request(self.clock.time() + 30.0)
        self.note_idle(SUNDAY_ACCOUNTS)

    async def _off(self, sunday: float) -> None:
        await self._thin(sunday - 8 * HOUR)
        await self.orchestrator.aclose()
        self.clock.advance(sunday + 30 * HOUR - self.clock.time())
        self.begin_anew(SUNDAY_ACCOUNTS)
        await self.open()
        opened = self.clock.time()
        await self._dense(opened + AFTER_S, AFTER_S)
        self.note_idle(SUNDAY_ACCOUNTS)

    async def _thin(self, until: float) -> None:
        while (at := self.clock.time() + COARSE_S * self.rng.uniform(0.5, 1.5)) < until:
            await self.request(at)

    async def _dense(self, until: float, seconds: float) -> None:
        count = int(seconds * A_MINUTE / 60)
        for n in range(count):
            await self.request(until - seconds + n * seconds / count + 0.01)


def first_minutes(year: Year) -> Iterator[tuple[str, float, int]]:
    """Account, instant and requests of the minute after each beginning and after each validation."""
    beginnings = [*year.begun, *((event.account, event.at) for event in year.validated)]
    for name, at in beginnings:
        yield name, at, year.upstream.calls_between(name, at, at + 60)


async def test_a_year_of_weeks(tmp_path: Path) -> None:
    year = Year(tmp_path / "state.db")
    assert year.sundays[3] == datetime(2026, 3, 29, 1, 0, tzinfo=UTC).timestamp()
    assert year.sundays[33] == datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    await year.open()
    try:
        for number in range(WEEKS - 1):
            await year.run_week(number, KINDS[number % len(KINDS)])
    finally:
        await year.orchestrator.aclose()

    past_the_limit = {name: used for name, used in year.upstream.most_used.items() if name in ACCOUNTS}
    assert max(past_the_limit.values()) <= HARD_LIMIT
    assert max(past_the_limit.values()) > 0.85 * LIMIT

    stampedes = [entry for entry in first_minutes(year) if entry[2] > 2 * STEADY_A_MINUTE]
    assert stampedes == []

    assert year.idle == []
    for (name, at), kind in year.begun.items():
        # Of accounts that serve already, or that a source validates, the strategy may leave one for later.
        if kind.cost == HEAVY and not kind.source:
            assert year.upstream.calls_between(name, at, at + AFTER_S) >= 1, (kind, name)

    expected = {(name, at) for name in SUNDAY_ACCOUNTS for at in year.sundays[: WEEKS - 1]}
    noticed = {
        (event.account, at)
        for event in year.told
        for at in (*year.sundays, *year.wednesdays)
        if 0 <= event.at - at < 5
    }
    on = {
        at for number, at in enumerate(year.sundays) if not KINDS[number % len(KINDS)].name.startswith("off")
    }
    assert {(name, at) for name, at in expected if at in on} <= noticed
    early = [at for (name, at), kind in year.begun.items() if kind.name == "early" and name == "ag-1"]
    assert {event.at for event in year.told if event.account == "ag-1"} >= set(early[::2])

    lateness = {
        round((event.at - at) / HOUR, 1)
        for event in year.overdue
        for at in year.sundays
        if 0 <= event.at - at < DAY
    }
    assert min(lateness) < 0.1
    assert max(lateness) <= LATE_S / HOUR + 1.1
    assert len([event for event in year.overdue if event.tries == 1]) >= 8 * (WEEKS // len(KINDS))
    assert {event.by for event in year.validated} == {"a request", "its quota API"}
