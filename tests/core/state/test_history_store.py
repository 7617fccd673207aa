"""History as it is stored: exact, once, bounded, and whole with many writers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import (
    AttemptResult,
    Ending,
    ErrorCategory,
    MemoryStateStore,
    Origin,
    PastAttempt,
    PastRequest,
    RecoveryAction,
    RecoveryRecord,
    SqliteStateStore,
)
from smartfallback.model import history
from smartfallback.state import history_table
from smartfallback.state.base import StateStore
from smartfallback.state.history_codec import decode_past, encode_past
from support.clock import EPOCH, FakeClock
from support.states import change

DAY_S = 86_400.0
PLAIN = PastRequest(
    id="p-1",
    at=EPOCH,
    request_id="r1",
    chain="default",
    origin=Origin.API,
    ending=Ending.ANSWERED,
    attempts=(PastAttempt("a-1", "main", "m", AttemptResult.SUCCESS, 0.25),),
    latency_s=0.25,
    account="a-1",
    pool="main",
    provider="main-api",
    model="m",
    first_token_s=0.1,
    input_tokens=10,
    output_tokens=5,
)
FULL = replace(
    PLAIN,
    id="p-2",
    at=EPOCH + 1 / 3,
    request_id="tea 🍵 [/x] \ud800",
    attempts=(
        PastAttempt("a-1", "main", "m", AttemptResult.FAILED, 1e-9, ErrorCategory.RATE_LIMIT),
        PastAttempt("a-2", "main", "m", AttemptResult.DIVERTED, 2.0),
        PastAttempt("b-1", "other", "n", AttemptResult.SUCCESS, 0.1 + 0.2),
    ),
    tokens_estimated=True,
    cost=0.000123,
    degraded=True,
    cached_age_s=3.0,
    queued_s=61.5,
    recovery=RecoveryRecord(
        "tea 🍵 [/x] \ud800",
        EPOCH + 1 / 3,
        "default",
        ErrorCategory.RATE_LIMIT,
        "a-1",
        "b-1",
        (RecoveryAction.SWITCH_PROVIDER, RecoveryAction.QUEUE_REQUEST),
        3,
        62.0,
        True,
    ),
)


def past(number: int, at: float | None = None) -> PastRequest:
    return replace(PLAIN, id=f"n-{number}", request_id=f"r{number}", at=EPOCH + number if at is None else at)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "memory"])
def store(request, tmp_path: Path, clock: FakeClock) -> StateStore:
    if request.param == "sqlite":
        return SqliteStateStore(tmp_path / "state.db", clock=clock)
    return MemoryStateStore(clock=clock)


async def test_what_is_kept_is_read_back_to_the_last_bit_the_newest_first(store):
    assert await store.history(10) == ()
    failed = PastRequest(
        "p-3", EPOCH + 2, "r3", "", Origin.CHAT, Ending.FAILED, (), 9.0, error="timeout: idle stream"
    )
    cancelled = PastRequest("p-4", EPOCH + 3, "r4", "fast", Origin.TRAFFIC, Ending.CANCELLED, (), 0.5)
    assert await store.keep_history((PLAIN, FULL, failed))
    assert await store.keep_history((cancelled,))
    assert await store.history(10) == (cancelled, failed, FULL, PLAIN)
    assert await store.history(2) == (cancelled, failed)
    assert await store.history(10, EPOCH + 1 / 3) == (cancelled, failed, FULL)
    assert await store.history(0) == ()
    await store.aclose()


async def test_what_is_handed_in_twice_stands_there_once(store):
    for _ in range(3):
        assert await store.keep_history((past(1), past(2)))
    assert [ended.id for ended in await store.history(10)] == ["n-2", "n-1"]
    await store.aclose()


async def test_what_is_too_old_goes(store, clock):
    await store.keep_history([past(number, EPOCH - 29 * DAY_S) for number in range(300)])
    await store.keep_history([past(number) for number in range(1_000, 1_003)])
    assert len(await store.history(1_000)) == 303
    clock.advance(2 * DAY_S)
    await store.keep_history([past(number) for number in range(2_000, 2_200)])
    assert len(await store.history(1_000)) == 203
    await store.aclose()


async def test_of_too_many_the_oldest_go_a_part_at_a_time(store, monkeypatch):
    monkeypatch.setattr(history_table, "KEPT", 500)
    monkeypatch.setattr(history_table, "PRUNED_AT_ONCE", 300)
    await store.keep_history([past(number) for number in range(1_000)])
    assert len(await store.history(2_000)) == 700
    await store.keep_history([past(number) for number in range(1_000, 1_200)])
    found = await store.history(2_000)
    assert len(found) == 600
    await store.keep_history([past(number) for number in range(1_200, 1_400)])
    found = await store.history(2_000)
    assert [ended.id for ended in found] == [f"n-{number}" for number in reversed(range(900, 1_400))]
    await store.aclose()


async def test_the_bounds_are_those_that_are_promised():
    assert (history.KEPT_S, history.KEPT) == (30 * DAY_S, 200_000)


async def test_two_stores_on_one_file_neither_lose_nor_double(tmp_path):
    stores = [SqliteStateStore(tmp_path / "state.db", clock=FakeClock()) for _ in range(2)]

    async def write(number: int) -> None:
        for batch in range(20):
            ended = [past(number * 10_000 + batch * 10 + place) for place in range(10)]
            assert await stores[number].keep_history(ended)
            assert await stores[number].keep_history(ended[:3])

    await asyncio.gather(write(0), write(1))
    found = await stores[0].history(1_000)
    assert len({ended.id for ended in found}) == len(found) == 400
    for store in stores:
        await store.aclose()


async def test_a_row_that_can_not_be_read_costs_only_itself(tmp_path):
    path = tmp_path / "state.db"
    store = SqliteStateStore(path, clock=FakeClock())
    await store.keep_history([past(number) for number in range(5)])
    await store.aclose()
    for number, document in enumerate(("{}", '{"origin": "api"}', b"\xff\x00")):
        change(path, "UPDATE history SET document = ? WHERE id = ?", document, f"n-{number}")
    store = SqliteStateStore(path, clock=FakeClock())
    assert [ended.id for ended in await store.history(10)] == ["n-4", "n-3"]
    (notice,) = store.take_notices()
    assert "3 earlier requests" in notice
    await store.aclose()


async def test_one_that_can_not_be_written_costs_only_itself(store):
    assert await store.keep_history((past(1), replace(past(2), latency_s=float("nan")), past(3)))
    assert [ended.id for ended in await store.history(10)] == ["n-3", "n-1"]
    (notice,) = store.take_notices()
    assert "r2" in notice
    await store.aclose()


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        PastRequest,
        id=st.text(min_size=1),
        at=st.floats(0, 4e9),
        request_id=st.text(),
        chain=st.text(),
        origin=st.sampled_from(Origin),
        ending=st.sampled_from(Ending),
        attempts=st.lists(
            st.builds(
                PastAttempt,
                st.text(),
                st.text(),
                st.text(),
                st.sampled_from(AttemptResult),
                st.floats(0, 1e6),
                st.none() | st.sampled_from(ErrorCategory),
            ),
            max_size=4,
        ).map(tuple),
        latency_s=st.floats(0, 1e6),
        account=st.text(),
        cost=st.none() | st.floats(0, 1e3),
        input_tokens=st.integers(0, 2**40),
        error=st.text(),
    )
)
def test_every_row_comes_back_as_it_was(ended):
    assert decode_past(encode_past(ended)) == ended
