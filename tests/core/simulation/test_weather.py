from __future__ import annotations

import asyncio
from random import Random

import pytest

from smartfallback.simulation.faults import HttpStatus
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.weather import Incident, Weather
from support.simulated import ask_raw

STORM = Incident("storm", "openai", HttpStatus(503), 20.0)
SHOWER = Incident("shower", "gemini", HttpStatus(429), 10.0, ("gemini-1", "gemini-2"))


class Steps:
    """Sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self._end: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self._end.get()

    async def next(self) -> float:
        """Wait for the next sleep and give its length."""
        async with asyncio.timeout(5):
            return await self.asked.get()

    async def over(self) -> float:
        """End the sleep that runs; the length of the one after it."""
        self._end.put_nowait(None)
        return await self.next()


@pytest.fixture
def steps() -> Steps:
    return Steps()


def weather(lab: Lab, steps: Steps, *incidents: Incident) -> Weather:
    return Weather(lab, Random(1), incidents, quiet_s=100, first_after_s=30, sleep=steps.sleep)


async def test_incidents_begin_end_and_leave_quiet_between(lab: Lab, steps: Steps) -> None:
    async with weather(lab, steps, STORM) as skies:
        assert await steps.next() == 30
        assert lab.faults == ()
        assert await steps.over() == STORM.duration_s
        assert [skies.happening] == [STORM]
        assert (await ask_raw(lab, "openai")).status == 503
        assert 60 <= await steps.over() <= 140
        assert skies.happening is None
        assert (await ask_raw(lab, "openai")).status == 200


async def test_every_incident_happens_before_any_happens_again(lab: Lab, steps: Steps) -> None:
    async with weather(lab, steps, STORM, SHOWER) as skies:
        await steps.next()
        happened = []
        for _ in range(6):
            await steps.over()
            happened.append(skies.happening)
            await steps.over()
        assert all({*happened[i : i + 2]} == {STORM, SHOWER} for i in (0, 2, 4))


async def test_it_hits_the_named_accounts_together(lab: Lab, steps: Steps) -> None:
    async with weather(lab, steps, SHOWER):
        await steps.next()
        await steps.over()
        assert {(fault.upstream, fault.account) for fault in lab.faults} == {
            ("gemini", "gemini-1"),
            ("gemini", "gemini-2"),
        }


async def test_it_leaves_faults_of_others_alone(lab: Lab, steps: Steps) -> None:
    mine = lab.set_fault("openai", HttpStatus(418))
    async with weather(lab, steps, STORM) as skies:
        await steps.next()
        assert await steps.over() != STORM.duration_s
        assert skies.happening is None
    assert lab.faults == (mine,)


async def test_switching_off_ends_the_incident_and_on_lets_the_next_come(lab: Lab, steps: Steps) -> None:
    async with weather(lab, steps, STORM) as skies:
        await steps.next()
        await steps.over()
        skies.switch_off()
        await steps.next()
        assert not skies.on
        assert lab.faults == ()
        skies.switch_on()
        assert await steps.over() == STORM.duration_s
        assert len(lab.faults) == 1


async def test_stopping_lifts_its_own_faults_only(lab: Lab, steps: Steps) -> None:
    async with weather(lab, steps, STORM):
        await steps.next()
        await steps.over()
        mine = lab.set_fault("gemini", HttpStatus(418))
        assert mine in lab.faults[1:]
    assert list(lab.faults) == [mine]


def test_it_needs_incidents_and_a_quiet_time(lab: Lab) -> None:
    with pytest.raises(ValueError, match="incident"):
        Weather(lab, Random(1), [])
    with pytest.raises(ValueError, match="quiet_s"):
        Weather(lab, Random(1), [STORM], quiet_s=0)
