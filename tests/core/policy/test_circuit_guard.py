"""A circuit around any call: what comes out of it is the call's own, and counts for what it is."""

from __future__ import annotations

import asyncio

import pytest

from smartfallback.model.circuits import CircuitState
from smartfallback.policy.circuit_guard import CircuitOpenError, Guard
from support.circuits import Rig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Own(Exception):
    """An exception of the caller's own."""


def guard(rig: Rig, **how: tuple[type[Exception], ...]) -> Guard:
    return Guard(rig.circuit, lambda: rig.now, **how)


def results(rig: Rig) -> tuple[int, int, int]:
    """Calls, failures and slow ones."""
    statistics = rig.circuit.statistics(rig.now)
    assert statistics.live == 0
    return (statistics.calls, statistics.failures, statistics.slow)


def test_30_an_exception_from_the_call_comes_back_unchanged_and_counts() -> None:
    rig = Rig(failure_threshold=2)
    error = Own("mine")
    for _ in range(2):
        with pytest.raises(Own) as caught, guard(rig):
            raise error
        assert caught.value is error
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert rig.state is OPEN
    assert rig.circuit.cause == "2 of 2 calls failed (100%); last: Own: mine"


def test_12_an_open_circuit_calls_nothing_and_says_when_to_retry_and_why() -> None:
    rig = Rig(failure_threshold=1, recovery_timeout_s=30.0)
    rig.fail()
    called = False
    with pytest.raises(CircuitOpenError) as refused, guard(rig):
        called = True
    assert not called
    assert refused.value.target == rig.circuit.target
    assert refused.value.rejection.retry_after_s == 30.0
    assert str(refused.value) == (
        "the circuit of account ag-1 is open for 30.0 s: 1 of 1 call failed (100%); last: 503"
    )
    rig.circuit.force_open("", rig.now)
    with pytest.raises(CircuitOpenError) as refused, guard(rig):
        called = True
    assert str(refused.value) == "the circuit of account ag-1 is forced_open until an operator lifts it"
    assert rig.circuit.statistics(rig.now).rejected == 2
    assert not called


def test_a_call_that_succeeds_counts_and_may_be_slow() -> None:
    rig = Rig(slow_call_s=10.0)
    with guard(rig) as permit:
        assert permit.live
        rig.wait(10.0)
    assert results(rig) == (1, 0, 1)


def test_a_time_out_counts_as_slow_and_comes_back_unchanged() -> None:
    rig = Rig(slow_call_s=10.0, failure_threshold=1)
    with pytest.raises(TimeoutError, match="after 2 s"), guard(rig):
        raise TimeoutError("after 2 s")
    assert results(rig) == (1, 1, 1)
    assert rig.circuit.cause.endswith("last: after 2 s")


def test_9_what_is_ignored_counts_for_nothing_and_comes_back_unchanged() -> None:
    rig = Rig(failure_threshold=1)
    with pytest.raises(Own), guard(rig, ignored=(Own,)):
        raise Own
    assert results(rig) == (0, 0, 0)
    assert rig.circuit.statistics(rig.now).settled == 1


async def test_17_a_cancelled_caller_is_told_cancelled_and_counts_for_nothing() -> None:
    rig = Rig(failure_threshold=1)
    begun = asyncio.Event()

    async def call() -> None:
        with guard(rig):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await begun.wait()
    assert rig.circuit.statistics(rig.now).live == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert results(rig) == (0, 0, 0)
    assert rig.circuit.statistics(rig.now).released == 1
    assert rig.state is CLOSED


def test_20_a_probe_that_crashes_gives_its_place_back_and_no_verdict() -> None:
    rig = Rig()
    rig.open()
    rig.until_probing()
    with pytest.raises(KeyboardInterrupt), guard(rig):
        raise KeyboardInterrupt
    assert rig.state is HALF_OPEN
    rig.succeed()
    assert rig.state is CLOSED


async def test_18_of_a_hundred_callers_at_once_the_cap_is_let_through() -> None:
    rig = Rig(half_open_max_calls=3, success_threshold=3)
    rig.open()
    rig.until_probing()
    go_on = asyncio.Event()

    async def call() -> bool:
        try:
            with guard(rig):
                await go_on.wait()
        except CircuitOpenError:
            return False
        return True

    callers = [asyncio.create_task(call()) for _ in range(100)]
    await asyncio.sleep(0)
    assert rig.circuit.statistics(rig.now).live == 3
    go_on.set()
    assert sum(await asyncio.gather(*callers)) == 3
    assert rig.state is CLOSED
