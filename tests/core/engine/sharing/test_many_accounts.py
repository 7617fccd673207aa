"""What is shared of a thousand accounts holds up nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import pytest

from smartfallback import (
    AccountSpec,
    AdminState,
    CircuitScope,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    Drain,
    OpenCircuit,
    SystemSpec,
)
from smartfallback.model.sharing import AccountReport, Fact, QuotaReply
from support.scripted import pool, system
from support.sharers import WEEK, make, of_account
from support.waiting import until

MANY = 1_200
API = CircuitTarget(CircuitScope.PROVIDER, "cloud-api")


def many(count: int = MANY) -> SystemSpec:
    accounts = [AccountSpec(f"n{number}", quota=(WEEK,)) for number in range(count)]
    return system(pool("cloud", *accounts, "mark"))


class Load:
    """How much one instance asks of its store at once, and in all."""

    def __init__(self, sharer) -> None:
        store = sharer.store
        read, report = store.read_facts, store.report
        self.read_at_once = self.reported_at_once = self.reported = 0

        async def read_facts(subjects: Collection[str]) -> Mapping[str, Mapping[str, Fact]]:
            self.read_at_once = max(self.read_at_once, len(subjects))
            return await read(subjects)

        async def reports(
            instance: str, each: Sequence[AccountReport], *, lease_s: float
        ) -> Sequence[QuotaReply]:
            self.reported_at_once = max(self.reported_at_once, len(each))
            self.reported += len(each)
            return await report(instance, each, lease_s=lease_s)

        store.read_facts, store.report = read_facts, reports


@pytest.fixture(scope="module")
def all_accounts() -> SystemSpec:
    return many()


async def test_a_drain_is_heard_while_all_is_being_read_and_exchanged(url, all_accounts):
    one = make("A", url, "many", system_spec=all_accounts)
    two = make("B", url, "many", system_spec=all_accounts)
    async with one.orchestrator, two.orchestrator:
        load = Load(two)
        sharing = two.orchestrator._sharing
        assert sharing is not None
        # As after the store was away.
        sharing._miss_all()
        sharing._quota.wake.set()
        await until(lambda: load.reported)
        one.do(Drain("n7", "meanwhile"))
        await until(lambda: two.account("n7").admin is AdminState.DRAINED)
        assert load.reported < MANY, "it was not heard before all was exchanged"
        await until(lambda: load.reported >= MANY and not sharing._board.behind)
        assert load.read_at_once <= 500
        assert load.reported_at_once <= 100


async def test_a_providers_circuit_is_adopted_without_a_look_at_each_of_its_accounts(url, all_accounts):
    one = make("A", url, "provider", system_spec=all_accounts)
    two = make("B", url, "provider", system_spec=all_accounts)
    async with one.orchestrator, two.orchestrator:
        placed = []
        place = two.orchestrator._placement.place
        two.orchestrator._placement.place = lambda account, now: (placed.append(account), place(account, now))
        one.do(OpenCircuit(API, "their status page says so"))
        await until(lambda: two.state(API) is CircuitState.FORCED_OPEN)
        waiting = asyncio.create_task(two.answered("n3"))
        assert not await waiting
        one.do(CloseCircuit(API, "it is back"))
        await until(lambda: two.state(API) is CircuitState.CLOSED)
        assert await two.answered("n3")
        assert len(placed) < MANY / 4


async def test_the_sweep_over_all_is_spread_over_the_seconds(url, all_accounts):
    one = make("A", url, "sweep", system_spec=all_accounts)
    async with one.orchestrator:
        sharing = one.orchestrator._sharing
        assert sharing is not None
        await until(lambda: not sharing._board.busy)
        before = one.store.reads
        one.do(OpenCircuit(of_account("n1"), "something to hear"))
        async with asyncio.timeout(15):
            beats = []
            beat = sharing._board.miss
            sharing._board.miss = lambda most=None: (beats.append(most), beat(most))
            while len(beats) < 2:  # noqa: ASYNC110 - no event tells of a heartbeat
                await asyncio.sleep(0.005)
        assert all(most is not None and most <= MANY / 5 + 1 for most in beats)
        assert one.store.reads - before <= MANY
