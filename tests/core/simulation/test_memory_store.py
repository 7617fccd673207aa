"""The stand-in says what a real server says, as long as one instance asks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from smartfallback.model.circuits import CircuitScope, CircuitTarget
from smartfallback.model.quota import TruthLabel
from smartfallback.model.sharing import (
    AccountReport,
    Change,
    CountBase,
    Fact,
    FactRule,
    FactWrite,
    HoldRequest,
    InstanceView,
    QuotaReply,
    StoreKind,
    WindowReport,
)
from smartfallback.simulation.memory_store import MemorySharedStore
from smartfallback.state.redis_store.store import RedisSharedStore
from smartfallback.state.shared import SharedStore
from support.clock import FakeClock
from support.redis_servers import RedisServer

ME, ACCOUNT, WEEK, MOST = "me#1", "ag-1", "week.tokens.0", 6
CIRCUIT = CircuitTarget(CircuitScope.ACCOUNT, ACCOUNT)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def both(server: RedisServer):
    """A real server, emptied, and the stand-in."""
    server.command("FLUSHALL")
    real = RedisSharedStore(server.url)
    await real.start()
    yield real, MemorySharedStore()
    await real.aclose()


def told(reply: QuotaReply):
    """What a reply says, apart from times and names that are each store's own."""
    windows = {
        key: replace(
            window,
            started_at=round(window.started_at, 3),
            ends_at=round(window.ends_at, 3),
            base=window.base
            and replace(window.base, read_at=round(window.base.read_at, 3), mark=near(window.base.mark)),
            spent=near(window.spent),
            ceilings=near(window.ceilings),
            held=near(window.held),
        )
        for key, window in reply.windows.items()
    }
    return reply.granted, reply.lost, reply.reason.partition(":")[0], windows


def near(amounts):
    return {name: round(amount, 3) for name, amount in amounts.items() if round(amount, 3)}


class Life:
    """An instance that spends a quota, drawn at random but the same for every store."""

    def __init__(self, seed: int, began: float, *, strict: bool) -> None:
        self.rng = Random(seed)
        self.began = began
        self.strict = strict
        self.spent, self.cap, self.asked = 0.0, 1000.0, 0
        self.running: list[str] = []
        self.ended: list[str] = []

    def windows(self) -> tuple[WindowReport, ...]:
        rng = self.rng
        self.spent += rng.choice((0, 0, 1.5, 20, 60))
        base = None
        if rng.random() < 0.1:
            read_at = self.began + self.asked / 1000
            base = CountBase(rng.randrange(400), read_at, TruthLabel.REPORTED, {ME: self.spent})
        held = 0.0 if self.strict else rng.choice((0.0, 4.0))
        want = rng.choice((0.0, 10.0, 300.0))
        return (
            WindowReport(
                WEEK, self.began - 50, self.began + 5000, self.cap, self.spent, held, want, want / 4, base
            ),
            WindowReport(
                "slots",
                0.0,
                math.inf,
                MOST,
                0.0,
                held and 1.0,
                float(rng.randrange(4)),
                1.0,
                keeps=held and 1.0,
            ),
        )

    def next(self) -> AccountReport | HoldRequest:
        rng = self.rng
        self.asked += 1
        ended: tuple[str, ...] = ()
        if self.running and rng.random() < 0.5:
            ended = (self.running.pop(rng.randrange(len(self.running))),)
            self.ended += ended
        if not self.strict or rng.random() < 0.3:
            return AccountReport(ACCOUNT, self.windows(), ended)
        name = f"h-{self.asked}"
        if rng.random() < 0.1 and self.ended:
            name = rng.choice(self.ended)
        elif rng.random() < 0.1 and self.running:
            name = rng.choice(self.running)
        amounts = {WEEK: rng.choice((5.0, 40.0, 250.0)), "slots": 1.0}
        return HoldRequest(name, ACCOUNT, amounts, self.windows(), 60.0, MOST, ended=ended)


async def ask(store: SharedStore, what: AccountReport | HoldRequest) -> QuotaReply:
    if isinstance(what, HoldRequest):
        return await store.reserve(ME, what)
    (reply,) = await store.report(ME, [what], lease_s=10.0)
    return reply


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_a_quota_comes_to_the_same_as_on_a_real_server(both, seed, strict):
    real, stand_in = both
    life = Life(seed, round(time.time()), strict=strict)
    reasons = set()
    for _ in range(80):
        what = life.next()
        there, here = await ask(real, what), await ask(stand_in, what)
        assert told(here) == told(there)
        reasons.add(here.reason.partition(":")[0])
        if isinstance(what, HoldRequest) and here.granted and what.id not in life.running:
            life.running.append(what.id)
    if strict:
        assert {"", "ended"} < reasons


async def test_a_window_that_is_past_is_no_window_and_an_older_one_changes_nothing(both):
    now = round(time.time())
    for start, end in (
        (now - 100, now - 1),
        (now - 5, now + 500),
        (now - 400, now - 5),
        (now - 5, now + 500),
    ):
        report = AccountReport(ACCOUNT, (WindowReport("day.requests.0", start, end, 50.0, 3.0),))
        there, here = [await ask(store, report) for store in both]
        assert told(here) == told(there)


async def test_a_window_that_is_over_makes_way_for_the_next():
    clock = FakeClock()
    store = MemorySharedStore(clock)

    async def used(began: float, spent: float) -> float:
        window = WindowReport("day.requests.0", began, began + 60, 50.0, spent)
        return (await ask(store, AccountReport(ACCOUNT, (window,)))).windows["day.requests.0"].used

    began = clock.time()
    assert await used(began, 30.0) == 30.0
    clock.advance(60.0)
    assert await used(began, 31.0) == 30.0
    assert await used(began + 60, 2.0) == 2.0


async def test_facts_hold_by_the_same_rules(both):
    now = time.time()
    told = [
        ("admin", FactRule.LATEST, Fact('"a"', now - 9, "one")),
        ("admin", FactRule.LATEST, Fact('"b"', now - 12, "two")),
        ("admin", FactRule.LATEST, Fact('"c"', now - 9, "three")),
        ("cooldown", FactRule.LONGEST, Fact('"x"', now - 9, "one", now + 60)),
        ("cooldown", FactRule.LONGEST, Fact('"y"', now - 8, "two", now + 30)),
        ("cooldown", FactRule.LONGEST, Fact("null", now - 7, "three")),
        ("cooldown", FactRule.LONGEST, Fact('"z"', now - 8.5, "one", now + 90)),
        ("cooldown", FactRule.LONGEST, Fact('"w"', now - 6, "one", now + 90)),
    ]
    for name, rule, fact in told:
        write = FactWrite("account:ag-1", name, fact, rule)
        (there,), (here,) = [await store.write_facts([write]) for store in both]
        assert here == there
    there, here = [await store.read_facts(["account:ag-1", "provider:p"]) for store in both]
    assert here == {subject: dict(facts) for subject, facts in there.items()}
    hints = both[1].changes()
    assert await anext(hints) == Change("")
    assert await anext(hints) == Change("account:ag-1", "one")
    await hints.aclose()


async def test_places_for_probes_and_instances(both):
    for store in both:
        first = await store.take_probe(ME, CIRCUIT, "p-1", at_once=1, lease_s=5.0)
        assert first.granted
        assert await store.take_probe(ME, CIRCUIT, "p-1", at_once=1, lease_s=50.0) == first
        other = await store.take_probe(ME, CIRCUIT, "p-2", at_once=1, lease_s=5.0)
        assert (other.granted, other.until) == (False, first.until)
        await store.drop_probe(CIRCUIT, "p-1")
        assert (await store.take_probe(ME, CIRCUIT, "p-3", at_once=1, lease_s=5.0)).granted
        view = InstanceView(ME, "me", "1.0", 5.0, 0.0, 2, 1.5)
        assert [(await store.heartbeat(view)).known for _ in range(2)] == [False, True]
        (seen,) = (await store.heartbeat(view)).instances
        assert (seen.here, seen.in_flight) == (True, 2)
        await store.leave(ME)
        assert not (await store.heartbeat(view)).known


async def test_a_reservation_that_nobody_ends_is_freed_by_its_lease():
    clock = FakeClock()
    store = MemorySharedStore(clock)
    window = WindowReport(WEEK, clock.time() - 1, clock.time() + 900, 100.0, 0.0)
    assert (await ask(store, HoldRequest("h-1", ACCOUNT, {WEEK: 80.0}, (window,), 30.0, 5))).granted
    refused = await ask(store, HoldRequest("h-2", ACCOUNT, {WEEK: 80.0}, (window,), 30.0, 5))
    assert (refused.granted, refused.reason) == (False, "week.tokens.0: 80 of 100 is used or held")
    clock.advance(30.0)
    assert (await ask(store, HoldRequest("h-3", ACCOUNT, {WEEK: 80.0}, (window,), 30.0, 5))).granted


def test_it_says_what_it_is():
    store = MemorySharedStore()
    assert (store.kind, store.status.usable, store.offset_s) == (StoreKind.MEMORY, True, 0.0)
    assert "stands in for Redis" in store.place
