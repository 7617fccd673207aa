"""What is rehearsed is nobody else's business; what is ordered by hand meanwhile, and heard, is."""

from __future__ import annotations

from dataclasses import replace

from smartfallback import (
    AdminState,
    CircuitState,
    CloseCircuit,
    Disable,
    Drain,
    Enable,
    ErrorCategory,
    OpenCircuit,
    Resume,
)
from support.sharers import API, CIRCUIT, both_heard, of_account, sharing, spec, told
from support.waiting import until

A1, A2 = of_account("a1"), of_account("a2")


async def test_others_hear_nothing_of_it(server):
    async with sharing(server.url) as (one, two):
        await both_heard(one, two)
        before = len(one.store.written)
        with one.orchestrator.rehearsal(["a1", "a2"]) as rehearsal:
            assert rehearsal.execute(Drain("a1", "as if")).ok
            assert rehearsal.execute(OpenCircuit(A2, "as if")).ok
            assert rehearsal.execute(OpenCircuit(API, "as if")).ok
            await told(two, one)
        with one.orchestrator.rehearsal(["a1", "a2"]):
            await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=600.0)
            await one.fails("a2", ErrorCategory.AUTHENTICATION)
            await told(two, one)
        await told(one, two)
        for sharer in (one, two):
            for name in ("a1", "a2"):
                account = sharer.account(name)
                assert account.admin is AdminState.ACTIVE
                assert account.cooldown_until is None
                assert not account.attention
                assert account.circuit.state is CircuitState.CLOSED
            assert sharer.state(API) is CircuitState.CLOSED
        subjects = set(one.store.written[before:])
        assert subjects == {"account:mark"}


async def test_what_others_do_meanwhile_holds_when_it_is_over(url):
    async with sharing(url) as (one, two):
        with one.orchestrator.rehearsal(["a1", "a2"]) as rehearsal:
            assert rehearsal.execute(Drain("a1", "as if")).ok
            two.do(Disable("a1", "for real"))
            two.do(OpenCircuit(A2, "for real"))
            two.do(OpenCircuit(API, "for real"))
            await two.fails("a3", ErrorCategory.AUTHENTICATION)
            await told(two, one)
            assert one.account("a1").admin is AdminState.DRAINED
            assert one.state(A2) is CircuitState.CLOSED
        await until(lambda: one.account("a1").admin_reason == "for real")
        await until(lambda: one.state(A2) is CircuitState.FORCED_OPEN)
        await until(lambda: one.state(API) is CircuitState.FORCED_OPEN)


async def test_what_is_ordered_by_hand_meanwhile_holds_for_all_at_once(url):
    async with sharing(url) as (one, two):
        two.do(OpenCircuit(A2, "to be closed"))
        await told(two, one)
        with one.orchestrator.rehearsal(["a1", "a2"]):
            one.do(Drain("a1", "for real"))
            one.do(OpenCircuit(A1, "for real"))
            one.do(OpenCircuit(API, "for real"))
            one.do(CloseCircuit(A2, "for real"))
            await until(lambda: two.account("a1").admin is AdminState.DRAINED)
            await until(lambda: two.state(A1) is CircuitState.FORCED_OPEN)
            await until(lambda: two.state(API) is CircuitState.FORCED_OPEN)
            await until(lambda: two.state(A2) is CircuitState.CLOSED)
        await both_heard(one, two)
        for sharer in (one, two):
            assert sharer.state(A1) is CircuitState.FORCED_OPEN
            assert sharer.state(A2) is CircuitState.CLOSED
            assert sharer.account("a1").admin is AdminState.DRAINED


async def test_of_an_order_by_hand_and_a_later_one_elsewhere_the_later_holds_afterwards(url):
    async with sharing(url) as (one, two):
        with one.orchestrator.rehearsal(["a1"]):
            one.do(Drain("a1", "first"))
            await until(lambda: two.account("a1").admin is AdminState.DRAINED)
            two.do(Resume("a1"))
            two.do(Disable("a1", "second"))
            await told(two, one)
        await until(lambda: one.account("a1").admin_reason == "second")
        one.do(Enable("a1"))
        await until(lambda: two.account("a1").admin is AdminState.ACTIVE)


async def test_a_rehearsed_probe_takes_nobody_s_place(server):
    short = spec(replace(CIRCUIT, recovery_timeout_s=0.01))
    async with sharing(server.url, system_spec=short) as (one, two):
        with one.orchestrator.rehearsal(["a1"]):
            await one.fails("a1", ErrorCategory.MALFORMED_RESPONSE, times=2)
            assert one.state(A1) is not CircuitState.CLOSED
            await until(lambda: one.orchestrator.snapshot().account("a1").skip is None)
            before = server.command("KEYS", "*probes*") + server.command("KEYS", "*dropped*")
            assert await one.answered("a1")
            assert one.state(A1) is CircuitState.CLOSED
            await told(two, one)
            after = server.command("KEYS", "*probes*") + server.command("KEYS", "*dropped*")
            assert before == after == []
