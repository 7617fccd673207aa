"""An instance that ends leaves nothing behind, and one that can't start neither."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from smartfallback import AdminState, Disable, Drain, Orchestrator, SqliteStateStore
from smartfallback.model.events import StateNotice
from smartfallback.model.sharing import SharingMode
from support.scripted import ANSWER, Pause
from support.sharers import CAP, both_heard, lost, make, sharing, told
from support.waiting import until


def sharing_tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if "sharing" in task.get_name()]


async def test_its_slices_are_free_at_once_and_it_is_listed_no_more(url):
    async with sharing(url) as (one, two):
        await until(lambda: len(one.orchestrator.snapshot().store.instances) == 2)
        for _ in range(3):
            assert await two.answered("a1")
        await until(lambda: one.account("a1").quota.windows[0].used == 45.0)
        await until(lambda: one.account("a1").quota.windows[0].elsewhere > 0)
        two.do(Drain("a2", "the last thing it did"))
        await two.orchestrator.aclose()
        # Much sooner than a lease or a heartbeat would end.
        await until(lambda: one.account("a1").quota.windows[0].elsewhere == 0)
        assert one.account("a1").quota.windows[0].used == 45.0
        await until(lambda: one.account("a2").admin is AdminState.DRAINED)
        await until(lambda: len(one.orchestrator.snapshot().store.instances) == 1)


@pytest.mark.parametrize("mode", SharingMode)
async def test_what_still_runs_is_settled_before_it_goes(url, mode):
    async with sharing(url, mode=mode) as (one, two):
        pause = Pause()
        two.upstream.queue("a1", (pause, *ANSWER))
        running = asyncio.create_task(two.answered("a1"))
        await pause.reached.wait()
        await two.orchestrator.aclose()
        assert not await running
        await until(lambda: one.account("a1").quota.windows[0].elsewhere == 0)


@pytest.mark.parametrize("state", ["there", "stopped", "frozen"])
async def test_it_ends_soon_however_the_store_is(server, state):
    async with sharing(server.url) as (one, two):
        await both_heard(one, two)
        if state == "stopped":
            server.stop()
        elif state == "frozen":
            server.freeze()
        two.do(Drain("a1"))
        async with asyncio.timeout(8):
            await two.orchestrator.aclose()
            await two.orchestrator.aclose()
            await one.orchestrator.aclose()
        assert not sharing_tasks()


async def test_one_that_cannot_start_leaves_nothing(url, monkeypatch, tmp_path):
    async def fails(self: Orchestrator) -> None:
        raise OSError("no more memory")

    broken = make("B", url, "broken", store=SqliteStateStore(tmp_path / "state.db"))
    monkeypatch.setattr(broken.orchestrator._quota, "start", lambda: fails(broken.orchestrator))
    with pytest.raises(OSError, match="no more memory"):
        await broken.orchestrator.__aenter__()
    assert not sharing_tasks()
    assert not [task for task in asyncio.all_tasks() if "smartfallback" in task.get_name()]
    assert not broken.store.status.reachable or broken.store._link.closed


async def test_one_that_is_cancelled_while_it_starts_leaves_nothing(server):
    server.freeze()
    slow = make("B", server.url, "slow")
    starting = asyncio.create_task(slow.orchestrator.__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    assert not [task for task in asyncio.all_tasks() if "smartfallback" in task.get_name()]


async def test_the_operator_is_told_of_each_change_of_the_store_once(server):
    async with sharing(server.url) as (one, two):
        await told(one, two)
        notices = lambda: [event.message for event in two.events if isinstance(event, StateNotice)]  # noqa: E731
        assert notices() == []
        async with lost(one, two, server=server):
            two.do(Disable("a1", "meanwhile"))
            assert two.orchestrator.snapshot().store.degraded_since
            assert two.orchestrator.snapshot().store.unsent
        await until(lambda: len(notices()) == 2)
        gone, back = notices()
        assert "all goes on from memory" in gone
        assert "can be used again" in back
        await both_heard(one, two)
        assert two.orchestrator.snapshot().store.degraded_since is None
        assert one.account("a1").admin is AdminState.DISABLED


async def test_its_places_are_free_at_once(url, monkeypatch):
    monkeypatch.setattr("smartfallback.engine.sharing.quota_share.LEASE_S", 600.0)
    async with sharing(url) as (one, two):
        await both_heard(one, two)
        for _ in range(3):
            assert await two.answered("a1")
        await two.orchestrator.aclose()
        pauses = [Pause() for _ in range(CAP)]
        one.upstream.queue("a1", *((pause, *ANSWER) for pause in pauses))
        running = [asyncio.create_task(one.answered("a1")) for _ in pauses]
        await until(lambda: all(pause.reached.is_set() for pause in pauses))
        for pause in pauses:
            pause.go_on.set()
        assert all(await asyncio.gather(*running))
