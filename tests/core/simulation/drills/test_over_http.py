"""Every fault, played between the real adapters and real servers, means what it means on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, TimeoutPhase
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    ConnectTimeout,
    CutStream,
    DnsFailure,
    EmptyAnswer,
    Fault,
    Flapping,
    Garbage,
    GarbageKind,
    HttpStatus,
    KeyRevoked,
    Latency,
    OverloadInStream,
    QuotaWall,
    RawResponse,
    Refused,
    ResetConnection,
    SafetyBlock,
    SlowFirstToken,
    StallBeforeFirstToken,
    StallMidStream,
    TlsFailure,
)
from support.drills import Rig, rig
from support.http_servers import collect
from support.leftovers import open_sockets

C = ErrorCategory
DIALECTS = ("gemini", "openai", "opencode")
HERE: list[tuple[Fault, ErrorCategory]] = [
    (HttpStatus(500), C.API_FAILURE),
    (HttpStatus(503, retry_after_s=7), C.TRANSIENT_ERROR),
    (RawResponse(418, "tea"), C.UNKNOWN),
    (RawResponse(502, "<html><title>Bad gateway</title>"), C.TRANSIENT_ERROR),
    (KeyRevoked(), C.AUTHENTICATION),
    (Banned(), C.AUTHENTICATION),
    (BurstLimit(3.0), C.RATE_LIMIT),
    (QuotaWall(7_200.0), C.QUOTA_EXHAUSTED),
    (Refused(), C.NETWORK_ERROR),
    (DnsFailure(), C.NETWORK_ERROR),
    (TlsFailure(), C.NETWORK_ERROR),
    (ResetConnection(), C.NETWORK_ERROR),
    (ConnectTimeout(), C.TIMEOUT),
    (EmptyAnswer(), C.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.JSON), C.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.HTML), C.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.SSE), C.MALFORMED_RESPONSE),
    (OverloadInStream(), C.TRANSIENT_ERROR),
    (SafetyBlock(), C.CONTENT_FILTERED),
    (Flapping(HttpStatus(500), down_share=1.0), C.API_FAILURE),
]
"""Faults that take the answer's place: the upstream is not asked."""
ON_THE_WAY: list[tuple[Fault, ErrorCategory]] = [
    (CutStream(12), C.MALFORMED_RESPONSE),
    (CutStream(12, clean=True), C.MALFORMED_RESPONSE),
    (CutStream(1_000_000), C.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.JSON, 12), C.MALFORMED_RESPONSE),
    (OverloadInStream(12), C.TRANSIENT_ERROR),
]
"""Faults that befall the real answer."""


async def clean(rig: Rig, before: int, **settings: Any) -> None:
    """The next call is answered by the upstream, and nothing is left of the one before."""
    answer = await rig.ask(**settings)
    assert answer.failure is None
    assert answer.finish == "stop"
    assert rig.reached == before + 1
    async with asyncio.timeout(5):
        await rig.lab.idle()
        await rig.lab.until(lambda: not rig.lab.open_sessions("up", "a-1"))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("fault", "category"), HERE, ids=repr)
async def test_a_fault_in_the_place_of_an_answer(
    dialect: str, fault: Fault, category: ErrorCategory, stream: bool
) -> None:
    async with rig(dialect) as here:
        drill = here.drill(fault)
        met = await here.ask(stream=stream)
        assert met.failed.category is category
        assert "test-key" not in repr(met)
        assert here.reached == 0
        assert [view.hits for view in here.injector.active()] == [1]
        spared = await here.ask(1, stream=stream)
        assert spared.failure is None
        assert here.injector.stop(drill)
        await clean(here, 1, stream=stream)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("fault", "category"), ON_THE_WAY, ids=repr)
async def test_a_fault_that_befalls_a_real_answer(
    dialect: str, fault: Fault, category: ErrorCategory
) -> None:
    async with rig(dialect) as here:
        drill = here.drill(fault)
        met = await here.ask()
        assert met.failed.category is category
        assert here.reached == 1
        words = len(met.text.split())
        if getattr(fault, "after_tokens", 0) == 12:
            # Events pass whole, and this upstream puts eight tokens into each.
            assert 12 <= words < 12 + 8
        else:
            assert words >= 40
        here.injector.stop(drill)
        await clean(here, 1)


@pytest.mark.parametrize("dialect", ["gemini", "openai"])
@pytest.mark.parametrize("fault", [CutStream(5), CutStream(5, clean=True), Garbage(after_tokens=5)], ids=repr)
async def test_a_fault_that_befalls_an_answer_in_one_piece(dialect: str, fault: Fault) -> None:
    async with rig(dialect) as here:
        here.drill(fault, most_calls=1)
        assert (await here.ask(stream=False)).failed.category is C.MALFORMED_RESPONSE
        await clean(here, 1, stream=False)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "fault", [StallBeforeFirstToken(), StallMidStream(10), SlowFirstToken(500), Latency(500)], ids=repr
)
async def test_a_call_that_stands_still_goes_on_whole_when_its_drill_ends(dialect: str, fault: Fault) -> None:
    async with rig(dialect) as here:
        drill = here.drill(fault)
        asking = asyncio.create_task(here.ask())
        await standing(here, fault)
        assert not asking.done()
        assert here.injector.stop(drill)
        async with asyncio.timeout(5):
            answer = await asking
        assert answer.failure is None
        assert answer.finish == "stop"
        assert here.reached == 1
        await clean(here, 1)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", [StallBeforeFirstToken(), StallMidStream(10), Latency(500)], ids=repr)
async def test_a_cancelled_caller_goes_at_once_and_leaves_no_connection(dialect: str, fault: Fault) -> None:
    async with rig(dialect) as here:
        await here.ask(1)
        before = len(open_sockets())
        here.drill(fault, most_calls=1)
        asking = asyncio.create_task(here.ask())
        await standing(here, fault)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        here.injector.stop_all()
        async with asyncio.timeout(5):
            await here.lab.idle()
            await here.lab.until(lambda: not here.lab.open_sessions("up", "a-1"))
        await clean(here, here.reached)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(open_sockets()) <= before + 2


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_delay_ends_by_itself_and_the_answer_is_whole(dialect: str) -> None:
    async with rig(dialect) as here:
        untouched = (await here.ask(1)).finish
        for fault in (SlowFirstToken(0.02), Latency(0.02)):
            here.drill(fault, most_calls=1)
            answer = await here.ask()
            assert (answer.failure, answer.finish) == (None, untouched)
        assert here.injector.active() == ()


async def test_a_drill_that_runs_out_lets_a_call_go_on() -> None:
    async with rig("openai") as here:
        here.drill(StallMidStream(10), duration_s=0.05)
        async with asyncio.timeout(5):
            answer = await here.ask()
        assert answer.failure is None
        assert here.injector.active() == ()


@pytest.mark.parametrize("dialect", ["gemini", "openai"])
async def test_what_an_upstream_states_is_read_by_the_adapter(dialect: str) -> None:
    async with rig(dialect) as here:
        here.drill(BurstLimit(3.0), most_calls=1)
        assert (await here.ask()).failed.retry_after_s == 3.0
        here.drill(HttpStatus(503, "Down for repair", retry_after_s=7), most_calls=1)
        said = (await here.ask()).failed
        assert (said.http_status, said.retry_after_s, said.message) == (503, 7.0, "Down for repair")
        here.drill(RawResponse(429, "{}", (("Retry-After", "11"),)), most_calls=1)
        assert (await here.ask()).failed.retry_after_s == 11.0
        here.drill(QuotaWall(7_200.0), most_calls=1)
        wall = (await here.ask()).failed
        assert wall.retry_after_s == pytest.approx(7_200, abs=2) or wall.resets_at is not None
        here.drill(Banned(), most_calls=1)
        assert (await here.ask()).failed.permanent
        here.drill(ConnectTimeout(), most_calls=1)
        assert (await here.ask()).failed.phase is TimeoutPhase.CONNECT


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_burst_limit_for_a_model_leaves_other_models_alone(dialect: str) -> None:
    async with rig(dialect) as here:
        prefix = "lab/" if dialect == "opencode" else ""
        here.drill(BurstLimit(model=f"{prefix}big"))
        assert (await here.ask(model=f"{prefix}small")).failure is None
        assert (await here.ask(model=f"{prefix}big")).failed.category is C.RATE_LIMIT


async def test_a_stopped_drill_spoils_no_answer_that_is_on_its_way() -> None:
    async with rig("openai") as here:
        drill = here.drill(CutStream(60))
        chunks = here.provider.stream(here.call())
        while not (await anext(chunks)).text:
            pass
        here.injector.stop(drill)
        assert (await collect(chunks)).failure is None


async def test_a_server_whose_event_stream_is_silent_meets_drills_in_its_one_call(clock: Clock) -> None:
    from smartfallback.simulation.faults import SilentEvents

    async with rig("opencode", clock) as here:
        here.lab.set_fault("up", SilentEvents())
        here.provider._silence_s = 0.05  # type: ignore[attr-defined]
        assert (await here.ask()).failure is None
        for fault, category in (
            (QuotaWall(), C.QUOTA_EXHAUSTED),
            (SafetyBlock(), C.CONTENT_FILTERED),
            (EmptyAnswer(), C.MALFORMED_RESPONSE),
            (Garbage(), C.MALFORMED_RESPONSE),
        ):
            before = here.reached
            here.drill(fault, most_calls=1)
            assert (await here.ask()).failed.category is category
            assert here.reached == before
        here.drill(CutStream(3), most_calls=1)
        assert (await here.ask()).failed.category is C.MALFORMED_RESPONSE
        assert here.injector.active() == ()
        await clean(here, here.reached)


async def standing(here: Rig, fault: Fault) -> None:
    """Wait until the call stands still, and a little longer in case it does not."""
    async with asyncio.timeout(5):
        if not isinstance(fault, Latency):
            await here.lab.until(lambda: here.reached >= 1)
        while not any(entry._lift is not None for entry in here.injector._running):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
