"""Properties of shared quotas: instances in any mode that crash, are cut off, repeat themselves and are late.

The model knows what each process really spent, and compares it with what the server makes of what it
hears. A process spends within the ceiling that it was told last, and from sending a report on within
what that says it keeps.
"""

from __future__ import annotations

import atexit
import itertools
import json
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smartfallback.model.sharing import QuotaReply, SharedWindow, WindowReport
from smartfallback.state.shared import StoreLostError
from support.quota_store import KEY, LEASE, SPAN, START, Call, QuotaStore, window
from support.redis_servers import RedisServer

CAP = 60.0
SLACK = 1e-6
STEP_SETTINGS = settings(max_examples=50, stateful_step_count=50, deadline=None)
WAYS = st.sampled_from(["", "", "", "reply", "request"])
MINE = st.integers(0, 2)


@cache
def _server() -> RedisServer:
    server = RedisServer(unix=True).start()
    atexit.register(server.close)
    return server


@dataclass
class Process:
    """One instance for as long as it runs."""

    name: str
    leased: bool
    start: float = START
    spent: float = 0.0
    ceiling: float = 0.0
    running: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By id: what it holds, and the start of its window."""
    ended: list[str] = field(default_factory=list)
    reply: QuotaReply | None = None
    lost: bool = False

    @property
    def held(self) -> float:
        return sum(amount for amount, start in self.running.values() if start == self.start)


class Instances(RuleBasedStateMachine):
    """Three places at each of which a process runs; messages may be lost either way, and come again."""

    losses = False

    def __init__(self) -> None:
        super().__init__()
        self.store = QuotaStore(_server())
        self.numbers = itertools.count(1)
        self.places: list[Process] = []
        self.dead: list[Process] = []
        self.sent: list[Call] = []
        self.copies: list[dict[str, bytes]] = []
        self.counted: dict[tuple[float, str], float] = {}
        """By window and process: the most that the store has counted."""
        self.gone: set[str] = set()
        """Reservations whose end the store has acknowledged."""

    @initialize(modes=st.tuples(st.booleans(), st.booleans(), st.booleans()))
    def begin(self, modes: tuple[bool, bool, bool]) -> None:
        self.places = [Process(f"p{next(self.numbers)}", leased) for leased in modes]
        for process in self.places:
            self.exchange(process, 50.0 if process.leased else 0.0, 1)

    # -- what processes do

    @rule(place=MINE, amount=st.sampled_from([0.7, 3.0, 9.0]), times=st.integers(1, 9))
    def spend_from_slice(self, place: int, amount: float, times: int) -> None:
        process = self.rolled(place)
        for _ in range(times):
            if not process.leased or process.spent + process.held + amount > process.ceiling:
                return
            process.running[f"r{next(self.numbers)}"] = (amount, process.start)

    @rule(place=MINE, part=st.sampled_from([0.0, 0.3, 1.0]), times=st.integers(1, 9))
    def settle(self, place: int, part: float, times: int) -> None:
        process = self.rolled(place)
        for number in list(process.running)[:times]:
            self.end_one(process, number, part)

    def end_one(self, process: Process, number: str, part: float) -> None:
        amount, start = process.running.pop(number)
        if start == process.start:
            process.spent += amount * part
        if not process.leased:
            process.ended.append(number)

    @rule(place=MINE, amount=st.sampled_from([1.0, 4.0, 0.1, 2.5, 20.0]), way=WAYS)
    def reserve(self, place: int, amount: float, way: str) -> None:
        process = self.rolled(place)
        if process.leased:
            return
        number = f"r{next(self.numbers)}"
        ended = tuple(process.ended)
        before = self.store.stored()
        link = self.store.link(process.name)
        link.lose = way
        try:
            reply = self.store.reserve(
                process.name,
                amount,
                self.told(process),
                id=number,
                most=8,
                reply=process.reply,
                ended=ended,
            )
        except StoreLostError:
            process.ended.append(number)
            return
        finally:
            link.lose = ""
            self.sent.append(link.sent[-1])
        if reply.lost:
            process.lost = True
            return
        del process.ended[: len(ended)]
        self.gone.update(ended)
        if reply.granted:
            process.running[number] = (amount, process.start)
            process.reply = reply
            seen = reply.windows[KEY]
            assert seen.used + seen.elsewhere("") <= CAP + SLACK
        else:
            after = self.store.stored()
            assert number not in self.store.client.zrange(self.store.keys.holds, 0, -1)
            if process.reply is not None and reply.version == process.reply.version:
                assert not ended
                assert after == before
            process.reply = reply

    @rule(place=MINE, want=st.sampled_from([0.0, 5.0, 50.0]), need=st.sampled_from([1, 9, 50]), way=WAYS)
    def report(self, place: int, want: float, need: int, way: str) -> None:
        self.exchange(self.rolled(place), want if self.places[place].leased else 0.0, need, way)

    def exchange(self, process: Process, want: float = 0.0, need: int = 0, way: str = "") -> None:
        told = self.told(process, want, min(need, want))
        process.ceiling = min(process.ceiling, told.keeps)
        ended = tuple(process.ended)
        remembered = {} if process.reply is None else process.reply.windows
        link = self.store.link(process.name)
        link.lose = way
        try:
            reply = self.store.report(
                process.name,
                told,
                ended=ended,
                reply=process.reply,
                restore=remembered if process.lost else None,
            )
        except StoreLostError:
            return
        finally:
            link.lose = ""
            self.sent.append(link.sent[-1])
        process.lost = reply.lost
        if reply.lost:
            assert self.losses
            self.exchange(process, want, need)
            return
        process.reply = reply
        del process.ended[: len(ended)]
        self.gone.update(ended)
        seen = reply.windows[KEY]
        assert seen.started_at == process.start
        assert seen.spent.get(process.name, 0.0) == pytest.approx(process.spent)
        process.ceiling = seen.ceilings.get(process.name, 0.0)
        # What a store that was lost has leased before all have spoken again may be leased twice.
        if not self.losses and process.leased and process.ceiling > process.spent + told.held + SLACK:
            assert seen.used + seen.elsewhere("") <= CAP + SLACK

    def told(self, process: Process, want: float = 0.0, need: float = 0.0) -> WindowReport:
        held = process.held if process.leased else 0.0
        taken = process.spent + held
        keeps = taken + max(0.0, min(want, process.ceiling - taken))
        start = process.start
        return window(process.spent, cap=CAP, start=start, held=held, want=want, need=need, keeps=keeps)

    def rolled(self, place: int) -> Process:
        """The process, in the window that runs now."""
        process = self.places[place]
        start = START + SPAN * ((self.store.now - START) // SPAN)
        if start != process.start:
            process.start, process.spent, process.ceiling = start, 0.0, 0.0
        return process

    # -- what happens to them

    @rule(place=MINE, leased=st.booleans())
    def crash(self, place: int, leased: bool) -> None:
        self.dead.append(self.places[place])
        self.places[place] = Process(f"p{next(self.numbers)}", leased)

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(1, 12))
    def repeat(self, back: int) -> None:
        """A message comes again, or only now."""
        self.store.link(self.places[0].name).replay(self.sent[-min(back, len(self.sent))])

    @rule(seconds=st.sampled_from([0.001, 1.0, 4.0, LEASE]), roll=st.integers(0, 9))
    def pass_time(self, seconds: float, roll: int) -> None:
        self.go_to(self.store.now + seconds if roll else self.start + SPAN)

    def go_to(self, now: float) -> None:
        # A strict process reports, and ends its requests, well within the lease of its reservations.
        for place, process in enumerate(self.places):
            if not process.leased:
                for number in list(process.running):
                    self.end_one(process, number, 1.0)
                self.exchange(self.rolled(place))
        self.store.at(now)

    # -- what has to be so

    def seen(self) -> SharedWindow | None:
        """What the store holds of the window that runs now, told to a newcomer who changes nothing."""
        copy = self.store.copy()
        reply = self.store.report("onlooker", window(0, cap=CAP, start=self.start))
        self.store.go_back(copy)
        return reply.windows.get(KEY)

    @property
    def start(self) -> float:
        return START + SPAN * ((self.store.now - START) // SPAN)

    @invariant()
    def the_store_counts_what_is_so(self) -> None:
        if not self.places:
            return
        seen = self.seen()
        assert seen is not None
        assert seen.held == pytest.approx(self.rows_of_holds())
        if self.losses:
            return
        for process in (*self.places, *self.dead):
            if process.start == self.start:
                self.check_nothing_is_spent_unseen(process, seen)
        assert self.gone.isdisjoint(self.store.client.zrange(self.store.keys.holds, 0, -1))

    def check_nothing_is_spent_unseen(self, process: Process, seen: SharedWindow) -> None:
        counted = seen.spent.get(process.name, 0.0)
        assert counted >= self.counted.get((self.start, process.name), 0.0)
        self.counted[self.start, process.name] = counted
        if process.leased:
            charged = counted + seen.charged.get(process.name, 0.0)
            most = max(seen.ceilings.get(process.name, 0.0), charged)
            assert process.spent + process.held <= most + SLACK
        elif process in self.places:
            assert process.spent + process.held <= counted + seen.held.get(process.name, 0.0) + SLACK

    def rows_of_holds(self) -> dict[str, float]:
        """What the store's holds that stand come to in the window that runs now, by process."""
        held: dict[str, float] = {}
        keys, client = self.store.keys, self.store.client
        for number in client.zrangebyscore(keys.holds, f"({self.store.now}", "+inf"):
            hold = json.loads(str(client.hget(keys.amounts, str(number))))
            start, amount = hold["w"][KEY]
            if start == self.start:
                held[hold["i"]] = held.get(hold["i"], 0.0) + amount
        return held

    def teardown(self) -> None:
        if not self.places:
            return
        remembered = self.remembered()
        for _ in range(3):  # the last to restore may bring news for the first
            for place, process in enumerate(self.places):
                for number in list(process.running):
                    self.end_one(self.rolled(place), number, 1.0)
                self.exchange(self.rolled(place))
        now = self.store.now + 2 * LEASE
        if now < self.start + SPAN:
            self.store.at(now)
        for place in range(3):
            self.exchange(self.rolled(place))
        seen = self.seen()
        assert seen is not None
        if now < self.start + SPAN:
            assert (seen.held, seen.ceilings) == ({}, {})
            assert self.store.client.hlen(self.store.keys.amounts) == 0
        truth = {process.name: process.spent for process in self.places if process.spent}
        alive = {process.name for process in self.places}
        assert {name: seen.spent[name] for name in seen.spent if name in alive} == pytest.approx(truth)
        assert alive.isdisjoint(seen.charged)
        assert seen.used == pytest.approx(sum(seen.spent.values()) + sum(seen.charged.values()))
        for process in self.dead:
            counted = seen.spent.get(process.name, 0.0)
            if process.start == self.start:
                assert counted <= process.spent + SLACK
                if process.leased and not self.losses:
                    assert process.spent <= counted + seen.charged.get(process.name, 0.0) + SLACK
            assert counted >= remembered.get(process.name, 0.0) - SLACK

    def remembered(self) -> dict[str, float]:
        """The most that any process that lives has heard of each."""
        found: dict[str, float] = {}
        for process in self.places:
            reply = process.reply
            if reply is not None and KEY in reply.windows and reply.windows[KEY].started_at == self.start:
                for name, spent in reply.windows[KEY].spent.items():
                    found[name] = max(spent, found.get(name, 0.0))
        return found


class Losses(Instances):
    """The server loses what it knew as well, or goes back to an earlier state."""

    losses = True

    @rule()
    def lose_everything(self) -> None:
        self.store.flush()

    @rule()
    def save(self) -> None:
        self.copies.append(self.store.copy())

    @precondition(lambda self: self.copies)
    @rule(back=st.integers(1, 3))
    def go_back(self, back: int) -> None:
        self.store.go_back(self.copies[-min(back, len(self.copies))])


TestInstances = Instances.TestCase
TestInstances.settings = STEP_SETTINGS
TestLosses = Losses.TestCase
TestLosses.settings = STEP_SETTINGS
