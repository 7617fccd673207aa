"""Of two words about one thing the later one holds, whenever and by whichever way they arrive."""

from __future__ import annotations

import time

import pytest

from smartfallback import (
    AdminState,
    CircuitState,
    CloseCircuit,
    Disable,
    Drain,
    Enable,
    ErrorCategory,
    OpenCircuit,
    ResetCircuit,
    Resume,
)
from support.redis_proxy import TcpProxy
from support.sharers import Gate, both_heard, lost, make, of_account, sharing, told
from support.waiting import until


async def test_what_an_operator_says_while_an_older_word_is_being_read_holds(url):
    async with sharing(url) as (one, two):
        gate = two.store.gates["read"] = Gate("account:a1")
        one.do(Drain("a1", "older"))
        await gate.reached.wait()
        two.do(Disable("a1", "the last word"))
        gate.go_on.set()
        await until(lambda: one.account("a1").admin_reason == "the last word")
        await both_heard(one, two)
        for sharer in (one, two):
            assert sharer.account("a1").admin is AdminState.DISABLED
            assert sharer.account("a1").admin_reason == "the last word"


async def test_what_an_operator_says_while_the_answer_to_an_earlier_word_comes_holds(url):
    async with sharing(url) as (one, two):
        await both_heard(one, two)
        before = two.store.gates["to write"] = Gate("account:a1")
        after = two.store.gates["write"] = Gate("account:a1")
        two.do(Disable("a1", "the first word"))
        await before.reached.wait()
        one.do(Drain("a1", "a later one"))
        await until(lambda: one.orchestrator.snapshot().store.unsent == 0 and one.told("a1"))
        before.go_on.set()
        await after.reached.wait()
        two.do(Enable("a1"))
        after.go_on.set()
        await both_heard(one, two)
        for sharer in (one, two):
            assert sharer.account("a1").admin is AdminState.ACTIVE


async def test_operators_on_both_sides_of_a_partition(url, server):
    with TcpProxy(server.address) as way:
        prefix = "partition"
        here, there = make("here", server.url, prefix), make("there", way.url, prefix)
        async with here.orchestrator, there.orchestrator:
            here.do(Drain("a1"))
            here.do(OpenCircuit(of_account("a3"), "before"))
            await told(here, there)
            way.refuse()
            way.cut()
            await until(lambda: not there.store.status.reachable)
            there.do(Resume("a1"))
            here.do(Disable("a2", "first"))
            # So exactly their clocks don't agree.
            await until(lambda: here.told("a2"))
            there.do(Disable("a2", "second"))
            there.do(CloseCircuit(of_account("a3"), "first"))
            here.do(Drain("a3"))
            await until(lambda: here.told("a3") > 1)
            here.do(OpenCircuit(of_account("a3"), "second", 600.0))
            assert there.orchestrator.snapshot().store.unsent > 0
            way.accept()
            await until(lambda: there.store.status.usable)
            await both_heard(here, there)
            for sharer in (here, there):
                assert sharer.account("a1").admin is AdminState.ACTIVE
                assert sharer.account("a2").admin_reason == "second"
                assert sharer.state(of_account("a3")) is CircuitState.FORCED_OPEN
                assert sharer.circuit(of_account("a3")).cause == "second"


async def test_a_reset_and_a_shorter_wait_right_after_it(url, server):
    async with sharing(server.url) as (one, two):
        await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=3_600.0)
        await told(one, two)
        async with lost(one, two, server=server):
            two.do(ResetCircuit(of_account("a1")))
            await two.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=300.0)
        await both_heard(one, two)
        for sharer in (one, two):
            assert sharer.account("a1").cooldown_until == pytest.approx(time.time() + 300, abs=60)


async def test_a_longer_wait_that_begins_after_a_reset_elsewhere_is_not_lifted_by_it(url, server):
    async with sharing(server.url) as (one, two):
        await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=3_600.0)
        await told(one, two)
        async with lost(one, two, server=server):
            one.do(ResetCircuit(of_account("a1")))
            # What happens within one twentieth of a second has no order.
            await until(lambda: one.has_to_tell("account:a1"))
            two.do(ResetCircuit(of_account("a1")))
            await two.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=900.0)
        await both_heard(one, two)
        for sharer in (one, two):
            assert sharer.account("a1").cooldown_until == pytest.approx(time.time() + 900, abs=60)


async def test_who_was_away_learns_that_a_rest_was_lifted_although_another_one_has_begun(url, server):
    with TcpProxy(server.address) as way:
        here, there = make("here", server.url, "away"), make("there", way.url, "away")
        async with here.orchestrator, there.orchestrator:
            await there.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=3_600.0)
            await told(there, here)
            way.refuse()
            way.cut()
            await until(lambda: not there.store.status.reachable)
            here.do(ResetCircuit(of_account("a1")))
            await here.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=300.0)
            await until(lambda: here.orchestrator.snapshot().store.unsent == 0)
            way.accept()
            await until(lambda: there.store.status.usable)
            await until(lambda: (there.account("a1").cooldown_until or 0) < time.time() + 1_000)
            assert there.account("a1").cooldown_until == pytest.approx(time.time() + 300, abs=60)


async def test_a_store_that_goes_back_to_earlier_data_brings_nothing_back_from_the_dead(server):
    async with sharing(server.url) as (one, two):
        one.do(Drain("a1", "for an hour"))
        await one.fails("a2", ErrorCategory.RATE_LIMIT, retry_after_s=3_600.0)
        await told(one, two)
        server.command("SAVE")
        two.do(Resume("a1"))
        one.do(ResetCircuit(of_account("a2")))
        one.do(OpenCircuit(of_account("a3"), "the last word"))
        await both_heard(one, two)
        # As when a replica takes over that had not heard the latest.
        server.kill()
        for sharer in (one, two):
            await until(lambda sharer=sharer: not sharer.store.status.reachable)
        server.start()
        for sharer in (one, two):
            await until(lambda sharer=sharer: sharer.store.status.usable)
        await both_heard(one, two)
        late = make("late", server.url, one.prefix)
        async with late.orchestrator:
            for sharer in (one, two, late):
                assert sharer.account("a1").admin is AdminState.ACTIVE
                assert sharer.account("a2").cooldown_until is None
                assert sharer.state(of_account("a3")) is CircuitState.FORCED_OPEN


async def test_a_store_that_was_emptied_is_told_all_again(server):
    async with sharing(server.url) as (one, two):
        one.do(Drain("a1", "for an hour"))
        await two.fails("a2", ErrorCategory.RATE_LIMIT, retry_after_s=3_600.0)
        one.do(OpenCircuit(of_account("a3"), "so it is"))
        await both_heard(one, two)
        server.flush()
        keys = f"{one.prefix}:*"
        await until(lambda: len([each for each in server.command("KEYS", keys) if "fact" in each]) >= 4)
        late = make("late", server.url, one.prefix)
        async with late.orchestrator:
            await until(lambda: late.account("a1").admin is AdminState.DRAINED)
            await until(lambda: late.account("a2").cooldown_until)
            await until(lambda: late.state(of_account("a3")) is CircuitState.FORCED_OPEN)
        for sharer in (one, two):
            assert sharer.account("a1").admin is AdminState.DRAINED


async def test_what_is_told_while_the_store_is_away_is_told_when_it_is_back(server):
    async with sharing(server.url) as (one, two):
        async with lost(one, two, server=server):
            one.do(Drain("a1"))
            one.do(OpenCircuit(of_account("a2"), "while nobody could hear"))
            await two.fails("a3", ErrorCategory.AUTHENTICATION)
            await until(lambda: one.orchestrator.snapshot().store.unsent >= 2)
        await both_heard(one, two)
        for sharer in (one, two):
            assert sharer.account("a1").admin is AdminState.DRAINED
            assert sharer.state(of_account("a2")) is CircuitState.FORCED_OPEN
            assert sharer.account("a3").attention
            assert sharer.orchestrator.snapshot().store.unsent == 0
