"""An instance that starts again with what it had saved, while the others went on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartfallback import (
    AdminState,
    CircuitState,
    CloseCircuit,
    Drain,
    Enable,
    ErrorCategory,
    OpenCircuit,
    Resume,
    SqliteStateStore,
)
from smartfallback.model.commands import ResetCircuit
from support.redis_servers import RedisServer
from support.sharers import OffClock, Sharer, make, of_account, told
from support.waiting import until

A2 = of_account("a2")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def second() -> Iterator[RedisServer]:
    """A server that is started when the test wants it."""
    server = RedisServer()
    yield server
    server.close()


def saved(url: str, file: Path, **settings: object) -> Sharer:
    return make("B", url, "restart", store=SqliteStateStore(file), **settings)


async def all_that_rests(sharer: Sharer) -> None:
    """Let an account be drained, one held open, one rest, and one need attention."""
    await sharer.fails("a3", ErrorCategory.RATE_LIMIT, retry_after_s=3_600.0)
    await sharer.fails("a1", ErrorCategory.AUTHENTICATION)
    sharer.do(OpenCircuit(A2, "by hand"))
    sharer.do(Drain("a2", "by hand"))


def lift(sharer: Sharer) -> None:
    sharer.do(Resume("a2"))
    sharer.do(CloseCircuit(A2, "all is well"))
    sharer.do(ResetCircuit(of_account("a3")))
    sharer.do(Enable("a1"))


def assert_lifted(sharer: Sharer) -> None:
    assert sharer.account("a2").admin is AdminState.ACTIVE
    assert sharer.state(A2) is CircuitState.CLOSED
    assert sharer.account("a3").cooldown_until is None
    assert not sharer.account("a1").attention


async def test_what_was_lifted_meanwhile_is_lifted(server, file):
    other = make("A", server.url, "restart")
    async with other.orchestrator:
        before = saved(server.url, file)
        async with before.orchestrator:
            await all_that_rests(before)
            await told(before, other)
        lift(other)
        await until(lambda: other.orchestrator.snapshot().store.unsent == 0)
        await told(other)
        after = saved(server.url, file)
        async with after.orchestrator:
            assert_lifted(after)
            await told(after, other)
            assert_lifted(other)


async def test_what_was_lifted_meanwhile_is_not_brought_back_by_one_that_starts_without_the_store(
    server, file
):
    other = make("A", server.url, "restart")
    async with other.orchestrator:
        before = saved(server.url, file)
        async with before.orchestrator:
            await all_that_rests(before)
            await told(before, other)
        lift(other)
        await told(other)
        server.stop(save=True)
        after = saved(server.url, file)
        async with after.orchestrator:
            # All it knows is in its file.
            assert after.account("a2").admin is AdminState.DRAINED
            assert after.state(A2) is CircuitState.FORCED_OPEN
            assert after.account("a3").cooldown_until
            server.start()
            for sharer in (other, after):
                await until(lambda sharer=sharer: sharer.store.status.usable)
            await told(other, after)
            await told(after, other)
            for sharer in (other, after):
                assert_lifted(sharer)


async def test_what_was_ordered_while_the_store_was_away_holds_after_a_restart(server, file):
    other = make("A", server.url, "restart")
    async with other.orchestrator:
        before = saved(server.url, file)
        async with before.orchestrator:
            other.do(OpenCircuit(A2, "to be closed"))
            other.do(Drain("a1", "to be resumed"))
            await told(other, before)
            other.do(CloseCircuit(A2, "closed"))
            other.do(Resume("a1"))
            await told(other, before)
            server.stop(save=True)
            await until(lambda: not before.store.status.reachable)
            before.do(OpenCircuit(A2, "the last word"))
            before.do(Drain("a1", "the last word"))
            await before.fails("a3", ErrorCategory.RATE_LIMIT, retry_after_s=3_600.0)
        server.start()
        await until(lambda: other.store.status.usable)
        after = saved(server.url, file)
        async with after.orchestrator:
            for sharer in (after, other):
                await until(lambda sharer=sharer: sharer.state(A2) is CircuitState.FORCED_OPEN)
                await until(lambda sharer=sharer: sharer.account("a1").admin is AdminState.DRAINED)
                await until(lambda sharer=sharer: sharer.account("a3").cooldown_until)
                assert sharer.circuit(A2).cause == "the last word"


async def test_it_starts_without_the_store_and_joins_when_that_is_there(second, file):
    second.start()
    url = second.url
    second.stop()
    one, two = saved(url, file), make("A", url, "restart")
    async with one.orchestrator, two.orchestrator:
        one.do(Drain("a1", "alone"))
        assert await one.answered("a2")
        second.start()
        await until(lambda: two.account("a1").admin is AdminState.DRAINED)
        await until(lambda: len(one.orchestrator.snapshot().store.instances) == 2)


@pytest.mark.parametrize("off_s", [3_600.0, -3_600.0])
async def test_what_was_saved_is_read_by_the_clock_that_all_go_by(server, file, off_s):
    before = saved(server.url, file, clock=OffClock(off_s))
    async with before.orchestrator:
        await before.fails("a3", ErrorCategory.RATE_LIMIT, retry_after_s=1_800.0)
        before.do(OpenCircuit(A2, "for a while", 1_800.0))
        ends = time.time() + 1_800.0
        assert before.account("a3").cooldown_until == pytest.approx(ends, abs=30)
    server.flush()  # so that only the file knows
    after = saved(server.url, file, clock=OffClock(off_s))
    async with after.orchestrator:
        assert after.account("a3").cooldown_until == pytest.approx(ends, abs=30)
        assert after.circuit(A2).until == pytest.approx(ends, abs=30)
