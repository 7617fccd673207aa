"""What several processes hold and bind, in one file: each its own, none twice, none for ever."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import MemoryStateStore, SqliteStateStore
from smartfallback.model.state import (
    MOST_TIES,
    AccountState,
    HoldState,
    SystemState,
    ThrottleState,
    TieState,
)
from smartfallback.state.base import StateStore
from support.clock import EPOCH, FakeClock
from support.states import DRAINED, change, of


def hold(tokens: int, until_s: float) -> HoldState:
    return HoldState(tokens, 1, 0.5, EPOCH, EPOCH + until_s)


def holding(*holds: HoldState) -> AccountState:
    return AccountState(requests=1, holds=holds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@asynccontextmanager
async def process(path: Path, clock: FakeClock) -> AsyncIterator[SqliteStateStore]:
    """A process that uses the file until it is killed: nothing is closed or given back."""
    store = SqliteStateStore(path, clock=clock)
    yield store
    await store._worker.do(store._let_go)
    store._worker.stop()


async def held(path: Path, clock: FakeClock, account: str = "a") -> tuple[HoldState, ...]:
    store = SqliteStateStore(path, clock=clock)
    state = (await store.load((), ())).accounts.get(account, AccountState())
    await store.aclose()
    return state.holds


async def test_what_a_killed_process_held_is_held_by_all_that_start_until_its_end(path, clock):
    async with process(path, clock) as killed:
        await killed.save(of(a=holding(hold(10, 60.0), hold(20, 30.0)), b=holding(hold(5, 90.0))))
    for _ in range(3):  # none of those that start makes it its own
        async with process(path, clock) as store:
            state = (await store.load(("a",), ())).accounts
            assert state["a"].holds == (hold(10, 60.0), hold(20, 30.0))
            await store.save(of(a=replace(state["a"], requests=2, holds=())))
    clock.advance(30.0)
    assert await held(path, clock) == (hold(10, 60.0),)
    clock.advance(30.0)
    assert await held(path, clock) == ()
    assert await held(path, clock, "b") == (hold(5, 90.0),)
    clock.advance(30.0)
    store = SqliteStateStore(path, clock=clock)
    await store.save(of(c=DRAINED))
    await store.aclose()
    change(path, "INSERT INTO holds SELECT 'x', 'x', 0, count(*) FROM holds")
    assert await rows(path, "SELECT document FROM holds") == [("0",)]  # what has ended is gone from the file


async def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def test_processes_side_by_side_neither_wipe_nor_count_what_the_other_holds(path, clock):
    async with process(path, clock) as one, process(path, clock) as two:
        await one.load(("a",), ())
        await two.load(("a",), ())
        await one.save(of(a=holding(hold(10, 60.0))))
        await two.save(of(a=holding(hold(7, 50.0))))
        assert set(await held(path, clock)) == {hold(10, 60.0), hold(7, 50.0)}
        await two.save(of(a=AccountState(requests=2)))
        assert await held(path, clock) == (hold(10, 60.0),)
        await two.save(of(a=AccountState(requests=3)))
        assert await held(path, clock) == (hold(10, 60.0),)
        found = await rows(path, "SELECT count(*) FROM holds")
        assert found == [(1,)]


async def test_who_closes_leaves_no_hold(path, clock):
    store = SqliteStateStore(path, clock=clock)
    await store.save(of(a=holding(hold(10, 60.0))))
    await store.aclose()
    assert await held(path, clock) == ()


async def test_own_holds_are_not_found_again_by_the_process_itself(path, clock):
    async with process(path, clock) as store:
        await store.save(of(a=holding(hold(10, 60.0))))
        assert (await store.load(("a",), ())).accounts["a"].holds == ()


async def test_holds_that_can_not_be_read_cost_nothing_else(path, clock):
    async with process(path, clock) as store:
        await store.save(of(a=holding(hold(10, 60.0)), b=holding(hold(5, 60.0))))
    change(path, "UPDATE holds SET document = '[{\"tokens\": -4}]' WHERE account = 'a'")
    assert await held(path, clock) == ()
    assert await held(path, clock, "b") == (hold(5, 60.0),)


async def test_a_lowered_limit_is_kept_and_of_two_the_lower_one_holds(path, clock):
    low, lower = ThrottleState(4, 9, EPOCH, EPOCH), ThrottleState(2, None, None, EPOCH + 5.0)
    async with process(path, clock) as one, process(path, clock) as two:
        await one.load(("a",), ())
        await two.load(("a",), ())
        await one.save(of(a=AccountState(throttle=lower)))
        await two.save(of(a=AccountState(throttle=low)))
        async with process(path, clock) as three:
            assert (await three.load((), ())).accounts["a"].throttle == lower
        await one.save(of(a=AccountState()))
    async with process(path, clock) as four:
        assert (await four.load((), ())).accounts["a"].throttle is None


# -- what is sticky --------------------------------------------------------------------------


def tie(session: str | None, account: str, at: float, *, reserve: bool = False) -> TieState:
    return TieState(session, reserve, account, EPOCH + at)


def tied(*ties: TieState) -> SystemState:
    return SystemState(ties={"main": ties})


@pytest.fixture(params=["sqlite", "memory"])
def store(request, path, clock) -> StateStore:
    return SqliteStateStore(path, clock=clock) if request.param == "sqlite" else MemoryStateStore(clock=clock)


async def reopened(store: StateStore) -> SystemState:
    """What the next one that is given the same place finds."""
    await store.aclose()
    if isinstance(store, SqliteStateStore):
        store = SqliteStateStore(store.path)
    try:
        return await store.load((), ())
    finally:
        await store.aclose()


async def test_ties_come_back_in_the_order_of_their_use_whatever_they_are_called(store):
    odd = "tea 🍵 \x00 ' [/x] \ud800"
    await store.save(tied(tie("a", "a-1", 1.0), tie(odd, "a-2", 2.0), tie(None, "a-1", 3.0)))
    await store.save(tied(tie("a", "a-2", 4.0), tie("a", "a-1", 0.0, reserve=True)))
    assert (await reopened(store)).ties["main"] == (
        tie("a", "a-1", 0.0, reserve=True),
        tie(odd, "a-2", 2.0),
        tie(None, "a-1", 3.0),
        tie("a", "a-2", 4.0),
    )


async def test_what_is_unbound_is_gone_and_pools_are_apart(store):
    await store.save(SystemState(ties={"main": (tie("a", "a-1", 1.0),), "other": (tie("a", "b-1", 1.0),)}))
    await store.save(tied(tie("a", "", 2.0)))
    assert (await reopened(store)).ties == {"other": (tie("a", "b-1", 1.0),)}


async def test_of_a_pool_the_ties_used_last_are_kept(store):
    many = [tie(f"s-{number}", "a-1", float(number)) for number in range(MOST_TIES + 300)]
    await store.save(tied(*many[:1_000]))
    await store.save(tied(*many[1_000:]))
    assert (await reopened(store)).ties["main"] == tuple(many[300:])


async def test_of_two_processes_the_later_use_says_where_a_session_is(path, clock):
    async with process(path, clock) as one, process(path, clock) as two:
        await one.save(tied(tie("a", "a-1", 5.0)))
        await two.save(tied(tie("a", "a-2", 3.0)))
        await two.save(tied(tie("a", "", 4.0)))
    async with process(path, clock) as three:
        assert (await three.load((), ())).ties["main"] == (tie("a", "a-1", 5.0),)


async def test_a_memory_store_keeps_everything_for_the_next_that_is_given_it(clock):
    store = MemoryStateStore(clock=clock)
    await store.save(SystemState({"a": DRAINED, "b": holding(hold(3, 60.0))}, {"api": None}))
    assert store.take_notices() == ()
    found = await reopened(store)
    assert found == SystemState({"a": DRAINED, "b": AccountState(requests=1)}, {"api": None})
