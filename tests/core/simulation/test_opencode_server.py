"""The simulated OpenCode server, met by a plain client and held against what the real program sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from smartfallback.model.secrets import Secret
from smartfallback.simulation.faults import BurstLimit, HttpStatus, StallMidStream
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import INSTANT, DialectName, Upstream, UpstreamAccount
from support.clock import FakeClock
from support.opencode_script import PASSWORD, basic

RECORDING = json.loads(
    (Path(__file__).parents[2] / "support" / "opencode_recording.json").read_text(encoding="utf-8")
)
PROMPT = {
    "model": {"providerID": "lab", "modelID": "m-1"},
    "parts": [{"type": "text", "text": "How do database indexes work?"}],
}
LIMIT_S = 10.0


class Client:
    """A plain client of the server with its event stream open."""

    def __init__(self, session: aiohttp.ClientSession, url: str, events: aiohttp.ClientResponse) -> None:
        self._session = session
        self._url = url
        self._events = events

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        async with self._session.request(method, self._url + path, json=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def new_session(self) -> str:
        return str((await self.call("POST", "/session", {}))[1]["id"])

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """The events up to the first of a kind."""
        seen: list[dict[str, Any]] = []
        async with asyncio.timeout(LIMIT_S):
            while not seen or seen[-1]["type"] != kind:
                line = await self._events.content.readline()
                if line.startswith(b"data: "):
                    seen.append(json.loads(line[6:]))
        return seen


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    accounts = (UpstreamAccount("oc-1", Secret(PASSWORD)), UpstreamAccount("oc-2", Secret("another")))
    upstream = Upstream("oc", DialectName.OPENCODE, accounts, latency=INSTANT, models=("lab/m-1",))
    async with Lab(FakeClock(), Random(1), [upstream]) as lab:
        yield lab


@asynccontextmanager
async def connected(lab: Lab) -> AsyncIterator[Client]:
    url = lab.base_url("oc")
    async with (
        aiohttp.ClientSession(headers={"Authorization": basic(PASSWORD)}) as session,
        session.get(url + "/event") as events,
    ):
        client = Client(session, url, events)
        await client.until("server.connected")
        yield client


def shape(value: Any) -> Any:
    """Names and kinds, without the values."""
    return (
        {name: shape(each) for name, each in value.items()}
        if isinstance(value, dict)
        else type(value).__name__
    )


def is_part_of(simulated: Any, real: Any) -> bool:
    """Whether nothing was made up: each name and kind also comes from the real program."""
    if not isinstance(simulated, dict) or not isinstance(real, dict):
        return bool(simulated == real)
    return all(name in real and is_part_of(each, real[name]) for name, each in simulated.items())


async def test_every_event_has_a_shape_that_the_real_program_sends_in_the_same_order(lab: Lab) -> None:
    async with connected(lab) as client:
        session = await client.new_session()
        assert await client.call("POST", f"/session/{session}/prompt_async", PROMPT) == (204, None)
        simulated = await client.until("session.idle")
    real = RECORDING["answered"]["events"]
    shapes = [(event["type"], shape(event["properties"])) for event in real]
    for event in simulated:
        mine = shape(event["properties"])
        assert any(kind == event["type"] and is_part_of(mine, known) for kind, known in shapes), event
    kinds = iter([event["type"] for event in real])
    told = [event["type"] for event in simulated]
    once = [kind for number, kind in enumerate(told) if number == 0 or told[number - 1] != kind]
    busy_later = [kind for kind in once if kind != "session.status"]
    assert all(kind in kinds for kind in busy_later)


async def test_the_blocking_call_gives_what_the_events_told(lab: Lab) -> None:
    async with connected(lab) as client:
        session = await client.new_session()
        _, answer = await client.call("POST", f"/session/{session}/message", PROMPT)
        events = await client.until("session.idle")
    deltas = [event["properties"]["delta"] for event in events if event["type"] == "message.part.delta"]
    assert "".join(deltas) == answer["parts"][0]["text"]
    assert answer["info"]["tokens"]["output"] == lab.counters("oc", "oc-1").tokens_served


async def test_abort_ends_an_answer_and_deletion_does_not(lab: Lab) -> None:
    lab.set_fault("oc", StallMidStream(3))
    async with connected(lab) as client:
        session, other = await client.new_session(), await client.new_session()
        for each in (session, other):
            await client.call("POST", f"/session/{each}/prompt_async", PROMPT)
        async with asyncio.timeout(LIMIT_S):
            await lab.until(lambda: lab.counters("oc").tokens_served == 6)
        assert await client.call("DELETE", f"/session/{other}") == (200, True)
        assert lab.counters("oc").in_flight == 2
        assert await client.call("POST", f"/session/{session}/abort") == (200, True)
        aborted = (await client.until("session.error"))[-1]["properties"]
        assert aborted["error"] == RECORDING["aborted"]["after_abort"][0]["properties"]["error"]
        assert aborted["sessionID"] == session
        assert lab.counters("oc").in_flight == 1
        assert lab.open_sessions("oc", "oc-1") == (session,)


async def test_the_server_tries_its_provider_again_by_itself_and_gives_up_at_last(lab: Lab) -> None:
    lab.set_fault("oc", BurstLimit(retry_after_s=0))
    async with connected(lab) as client:
        session = await client.new_session()
        await client.call("POST", f"/session/{session}/prompt_async", PROMPT)
        events = await client.until("session.error")
    states = [event["properties"]["status"] for event in events if event["type"] == "session.status"]
    assert [state.get("attempt") for state in states if state["type"] == "retry"] == [1, 2, 3, 4, 5]
    assert events[-1]["properties"]["error"]["data"]["statusCode"] == 429
    assert lab.counters("oc").refused == 6


async def test_an_error_that_no_retry_mends_ends_the_answer_at_once(lab: Lab) -> None:
    lab.set_fault("oc", HttpStatus(400))
    async with connected(lab) as client:
        session = await client.new_session()
        _, answer = await client.call("POST", f"/session/{session}/message", PROMPT)
    assert answer["info"]["error"]["data"]["statusCode"] == 400
    assert answer["parts"] == []


async def test_what_is_no_account_no_session_or_no_prompt_is_refused(lab: Lab) -> None:
    async with connected(lab) as client:
        session = await client.new_session()
        other = basic("another")
        assert (await client.call("GET", "/global/health"))[1]["healthy"] is True
        for wrong in ("Basic !", "Bearer x", basic("wrong"), ""):
            assert (await client.call("POST", "/session", {}, Authorization=wrong))[0] == 401
        assert (await client.call("DELETE", f"/session/{session}", Authorization=other))[0] == 404
        assert (await client.call("POST", "/session/ses_0/abort"))[0] == 404
        assert (await client.call("GET", f"/session/{session}/abort"))[0] == 404
        assert (await client.call("POST", f"/session/{session}/prompt_async", {"parts": "x"}))[0] == 400
        assert (await client.call("POST", f"/session/{session}/prompt_async", [1]))[0] == 400
        models = (await client.call("GET", "/config/providers"))[1]
        assert list(models["providers"][0]["models"]) == ["m-1"]


async def test_a_server_that_goes_down_takes_its_sessions_along(lab: Lab) -> None:
    lab.set_fault("oc", StallMidStream(3))
    async with connected(lab) as client:
        session = await client.new_session()
        await client.call("POST", f"/session/{session}/prompt_async", PROMPT)
        await lab.take_down("oc")
    await lab.bring_up("oc")
    assert lab.open_sessions("oc", "oc-1") == ()
    assert lab.counters("oc").in_flight == 0
