"""Waits with an end: what expires, what was cancelled by others, and what came in time."""

from __future__ import annotations

import asyncio

import pytest

from smartfallback.engine.watch import Watch


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def at(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_what_comes_in_time_is_handed_on():
    watch = Watch(lambda: None)
    assert await watch.wait(asyncio.sleep(0, "came"), at(10)) == "came"
    watch.close()


async def test_a_wait_ends_at_its_time_and_the_task_goes_on():
    watch = Watch(lambda: None)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await watch.wait(never(), at(0.01))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_later_wait_does_not_inherit_an_earlier_end():
    watch = Watch(lambda: None)
    await watch.wait(asyncio.sleep(0), at(0.01))
    assert await watch.wait(asyncio.sleep(0.03, "late"), at(10)) == "late"
    watch.close()


async def test_an_earlier_end_replaces_a_later_one():
    watch = Watch(lambda: None)
    await watch.wait(asyncio.sleep(0), at(100))
    with pytest.raises(TimeoutError):
        await watch.wait(never(), at(0.01))


async def test_the_end_can_be_put_off():
    asked = []

    def put_off() -> float | None:
        asked.append(True)
        return at(0.01) if len(asked) < 3 else None

    with pytest.raises(TimeoutError):
        await Watch(put_off).wait(never(), at(0.01))
    assert len(asked) == 3


async def test_an_interrupted_wait_ends_at_once():
    watch = Watch(lambda: None)
    asyncio.get_running_loop().call_soon(watch.interrupt)
    with pytest.raises(TimeoutError):
        await watch.wait(never(), at(100))
    watch.close()


async def test_a_cancellation_from_outside_stays_one():
    watch = Watch(lambda: None)
    task = asyncio.create_task(watch.wait(never(), at(100)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watch.close()


async def test_an_end_and_a_cancellation_together_are_a_cancellation():
    watch = Watch(lambda: None)
    task = asyncio.create_task(watch.wait(never(), at(100)))
    await asyncio.sleep(0)
    watch.interrupt()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watch.close()


async def test_an_error_of_what_is_waited_for_comes_through():
    async def fail() -> None:
        raise ValueError("mine")

    watch = Watch(lambda: None)
    with pytest.raises(ValueError, match="mine"):
        await watch.wait(fail(), at(10))
    watch.close()
