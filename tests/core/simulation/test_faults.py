"""Every fault, met through a real socket: by a plain client, and as the real adapters classify it."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    CutStream,
    DoubledEnd,
    EmptyAnswer,
    Fault,
    Flapping,
    Garbage,
    GarbageKind,
    HttpStatus,
    KeyRevoked,
    NoUsage,
    OverloadInStream,
    QuotaWall,
    ResetConnection,
    SafetyBlock,
    SignsOfLife,
    SlowFirstToken,
    StallBeforeFirstToken,
    StallMidStream,
    WaitForm,
)
from smartfallback.simulation.lab import Lab
from support.clock import FakeClock
from support.simulated import DIALECTS, MODEL, ask, ask_raw

both = pytest.mark.parametrize("name", DIALECTS)
with_and_without_stream = pytest.mark.parametrize("stream", [True, False])

CATEGORIES: list[tuple[Fault, str]] = [
    (HttpStatus(500), "api_failure"),
    (HttpStatus(501), "api_failure"),
    (HttpStatus(503), "transient_error"),
    (HttpStatus(529), "transient_error"),
    (HttpStatus(401), "authentication"),
    (HttpStatus(403), "authentication"),
    (HttpStatus(400), "invalid_request"),
    (KeyRevoked(), "authentication"),
    (Banned(), "authentication"),
    (BurstLimit(), "rate_limit"),
    (BurstLimit(details=False, form=WaitForm.NONE), "rate_limit"),
    (QuotaWall(), "quota_exhausted"),
    (QuotaWall(resets_in_s=3_600), "quota_exhausted"),
    (ResetConnection(), "network_error"),
    (CutStream(5), "malformed_response"),
    (CutStream(5, clean=True), "malformed_response"),
    (Garbage(GarbageKind.JSON), "malformed_response"),
    (Garbage(GarbageKind.HTML), "malformed_response"),
    (Garbage(GarbageKind.SSE), "malformed_response"),
    (Garbage(GarbageKind.JSON, after_tokens=4), "malformed_response"),
    (EmptyAnswer(), "malformed_response"),
    (OverloadInStream(), "transient_error"),
    (OverloadInStream(5), "transient_error"),
    (SafetyBlock(), "content_filtered"),
]


@both
@with_and_without_stream
@pytest.mark.parametrize(("fault", "category"), CATEGORIES, ids=lambda value: str(value)[:60])
async def test_adapters_tell_faults_apart(
    lab: Lab, clock: FakeClock, name: str, stream: bool, fault: Fault, category: str
) -> None:
    lab.set_fault(name, fault)
    async with asyncio.timeout(20):
        answer = await ask(lab, name, clock, stream=stream)
    assert answer.failure is not None
    assert answer.failure.category.value == category
    assert answer.failure.permanent is isinstance(fault, Banned)
    assert lab.counters(name).requests == 1


@both
@pytest.mark.parametrize("fault", [fault for fault, _ in CATEGORIES], ids=lambda value: str(value)[:60])
async def test_a_lifted_fault_leaves_nothing_behind(lab: Lab, name: str, fault: Fault) -> None:
    lab.lift(lab.set_fault(name, fault, f"{name}-1"))
    assert lab.faults == ()
    assert (await ask_raw(lab, name)).broken is None


@both
@pytest.mark.parametrize("status", [401, 403, 404, 418, 500, 503, 529])
async def test_a_status_comes_with_an_error_body_of_the_dialect(lab: Lab, name: str, status: int) -> None:
    lab.set_fault(name, HttpStatus(status, "said so", "SOME_CODE"))
    raw = await ask_raw(lab, name)
    error = raw.json["error"]
    assert raw.status == status
    assert error["message"] == "said so"
    assert error["status" if name == "gemini" else "code"] == "SOME_CODE"
    assert lab.counters(name).refused == 1


@both
async def test_a_status_may_state_a_wait(lab: Lab, clock: FakeClock, name: str) -> None:
    lab.set_fault(name, HttpStatus(503, retry_after_s=1.5))
    assert (await ask_raw(lab, name)).headers["Retry-After"] == "1.5"
    answer = await ask(lab, name, clock)
    assert answer.failure is not None
    assert answer.failure.retry_after_s == 1.5
    lab.set_fault(name, HttpStatus(503))
    assert "Retry-After" not in (await ask_raw(lab, name)).headers


@pytest.mark.parametrize("fields", [{"status": 200}, {"status": 600}, {"retry_after_s": -1.0}], ids=str)
def test_a_status_refuses_impossible_values(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        HttpStatus(**fields)  # type: ignore[arg-type]


@both
async def test_a_burst_states_its_wait_in_each_form(lab: Lab, clock: FakeClock, name: str) -> None:
    for form in (WaitForm.SECONDS, WaitForm.DATE, WaitForm.BODY):
        lab.set_fault(name, BurstLimit(30, form))
        raw = await ask_raw(lab, name)
        assert raw.status == 429
        stated = raw.headers.get("Retry-After")
        if form is WaitForm.SECONDS:
            assert stated == "30"
        elif form is WaitForm.DATE:
            assert stated is not None
            assert parsedate_to_datetime(stated).timestamp() == clock.time() + 30
        else:
            assert stated is None
        answer = await ask(lab, name, clock)
        assert answer.failure is not None
        assert answer.failure.retry_after_s == pytest.approx(30, abs=1)


@both
async def test_a_burst_without_a_wait_states_none(lab: Lab, clock: FakeClock, name: str) -> None:
    lab.set_fault(name, BurstLimit(form=WaitForm.NONE, details=False))
    answer = await ask(lab, name, clock)
    assert answer.failure is not None
    assert answer.failure.retry_after_s is None


@both
async def test_a_burst_may_concern_one_model_only(lab: Lab, clock: FakeClock, name: str) -> None:
    lab.set_fault(name, BurstLimit(model=MODEL))
    assert (await ask(lab, name, clock)).failure is not None
    assert (await ask(lab, name, clock, model="sim-2")).failure is None


async def test_a_daily_wall_looks_like_a_short_wait(lab: Lab) -> None:
    lab.set_fault("gemini", QuotaWall())
    violation, retry = (await ask_raw(lab, "gemini")).json["error"]["details"]
    assert "PerDay" in violation["violations"][0]["quotaId"]
    assert retry["retryDelay"] == "31s"


async def test_a_wall_states_its_end(lab: Lab, clock: FakeClock) -> None:
    lab.set_fault("gemini", QuotaWall(resets_in_s=390_500))
    info = (await ask_raw(lab, "gemini")).json["error"]["details"][0]
    assert info["metadata"]["quotaResetDelay"] == "108h28m20.00s"
    answer = await ask(lab, "gemini", clock)
    assert answer.failure is not None
    assert answer.failure.resets_at == pytest.approx(clock.time() + 390_500, abs=1)


@both
async def test_a_reset_comes_before_any_response(lab: Lab, name: str) -> None:
    lab.set_fault(name, ResetConnection())
    with pytest.raises(aiohttp.ClientConnectionError):
        await ask_raw(lab, name)
    assert lab.counters(name).answered == 0


@both
async def test_a_cut_stream_brings_exactly_the_tokens_before_the_cut(
    lab: Lab, clock: FakeClock, name: str
) -> None:
    lab.set_fault(name, CutStream(21))
    raw = await ask_raw(lab, name)
    assert raw.status == 200
    assert isinstance(raw.broken, aiohttp.ClientPayloadError)
    assert lab.counters(name).tokens_served == 21
    answer = await ask(lab, name, clock)
    assert len(answer.text.split()) == 21
    assert answer.finish is None
    assert lab.used(name, f"{name}-1") > 42


@both
async def test_a_clean_cut_ends_the_response_without_a_final_event(lab: Lab, name: str) -> None:
    lab.set_fault(name, CutStream(21, clean=True))
    raw = await ask_raw(lab, name)
    assert raw.broken is None
    assert b"STOP" not in raw.body
    assert b'"stop"' not in raw.body
    assert b"[DONE]" not in raw.body


@both
@with_and_without_stream
@pytest.mark.parametrize(
    "fault", [StallBeforeFirstToken(), StallMidStream(10), SlowFirstToken(3_600), SignsOfLife(10, 0.01)]
)
async def test_a_stalled_answer_goes_on_when_the_fault_is_lifted(
    lab: Lab, clock: FakeClock, name: str, stream: bool, fault: Fault
) -> None:
    active = lab.set_fault(name, fault)
    call = asyncio.create_task(ask(lab, name, clock, stream=stream))
    expected = 10 if stream and isinstance(fault, StallMidStream | SignsOfLife) else 0
    async with asyncio.timeout(10):
        await lab.until(lambda: lab.counters(name).in_flight == 1)
        await lab.until(lambda: lab.counters(name).tokens_served == expected)
        # A call without the fault runs from end to end meanwhile: the stalled one has had its chance.
        lab.set_fault(name, HttpStatus(500), f"{name}-2")
        await ask_raw(lab, name, f"{name}-2")
        assert not call.done()
        assert lab.counters(name, f"{name}-1").tokens_served == expected
        lab.lift(active)
        answer = await call
    assert answer.failure is None
    assert answer.finish == "stop"
    assert len(answer.text.split()) >= 30


@both
async def test_garbage_in_mid_answer_follows_real_tokens(lab: Lab, clock: FakeClock, name: str) -> None:
    lab.set_fault(name, Garbage(GarbageKind.SSE, after_tokens=9))
    answer = await ask(lab, name, clock)
    assert len(answer.text.split()) == 9
    assert answer.failure is not None


@both
async def test_an_overload_inside_a_stream_follows_its_tokens(lab: Lab, clock: FakeClock, name: str) -> None:
    lab.set_fault(name, OverloadInStream(9))
    raw = await ask_raw(lab, name)
    assert raw.status == 200
    assert raw.events[-1]["error"]["message"]
    assert len((await ask(lab, name, clock)).text.split()) == 9


@both
async def test_an_empty_answer_is_a_200_without_content(lab: Lab, name: str) -> None:
    lab.set_fault(name, EmptyAnswer())
    raw = await ask_raw(lab, name)
    assert (raw.status, raw.body) == (200, b"")


@both
async def test_signs_of_life_are_comments_and_nothing_else(lab: Lab, name: str) -> None:
    active = lab.set_fault(name, SignsOfLife(4, every_s=0.01))
    call = asyncio.create_task(ask_raw(lab, name))
    async with asyncio.timeout(10):
        await lab.until(lambda: lab.counters(name).tokens_served == 4)
        await asyncio.sleep(0.05)
        lab.lift(active)
        raw = await call
    assert raw.broken is None
    comments = [line for line in raw.body.splitlines() if line.startswith(b":")]
    assert len(comments) >= 2
    with pytest.raises(ValueError, match="every_s"):
        SignsOfLife(every_s=0)


@both
async def test_a_doubled_end_is_there_twice_and_told_once(lab: Lab, clock: FakeClock, name: str) -> None:
    whole = await ask_raw(lab, name)
    lab.set_fault(name, DoubledEnd())
    doubled = await ask_raw(lab, name)
    ends = [b'"STOP"' if name == "gemini" else b"[DONE]"]
    assert [whole.body.count(end) for end in ends] == [1]
    assert [doubled.body.count(end) for end in ends] == [2]
    answer = await ask(lab, name, clock)
    assert (answer.failure, answer.finish) == (None, "stop")
    assert answer.usage is not None


@both
@with_and_without_stream
async def test_an_answer_without_usage_has_all_but_that(
    lab: Lab, clock: FakeClock, name: str, stream: bool
) -> None:
    lab.set_fault(name, NoUsage())
    answer = await ask(lab, name, clock, stream=stream)
    assert (answer.failure, answer.finish, answer.usage) == (None, "stop", None)
    assert answer.text


async def test_flapping_comes_and_goes_with_its_period(lab: Lab, clock: FakeClock) -> None:
    lab.set_fault("openai", Flapping(HttpStatus(503), period_s=20, down_share=0.25))
    seen = []
    for _ in range(8):
        seen.append((await ask_raw(lab, "openai")).status)
        clock.advance(5)
    assert seen == [503, 200, 200, 200] * 2


@pytest.mark.parametrize(("period_s", "share"), [(0, 0.5), (-1, 0.5), (10, 1.1), (10, -0.1)])
def test_flapping_refuses_impossible_values(period_s: float, share: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Flapping(HttpStatus(503), period_s, share)


async def test_a_fault_of_one_account_spares_the_others_and_goes_before_the_upstreams(lab: Lab) -> None:
    lab.set_fault("openai", HttpStatus(500), "openai-1")
    assert (await ask_raw(lab, "openai", "openai-1")).status == 500
    assert (await ask_raw(lab, "openai", "openai-2")).status == 200
    lab.set_fault("openai", HttpStatus(503))
    assert (await ask_raw(lab, "openai", "openai-1")).status == 500
    assert (await ask_raw(lab, "openai", "openai-2")).status == 503
    assert (await ask_raw(lab, "gemini")).status == 200


async def test_lifting_a_replaced_fault_leaves_the_new_one(lab: Lab) -> None:
    old = lab.set_fault("openai", HttpStatus(500))
    new = lab.set_fault("openai", HttpStatus(503))
    lab.lift(old)
    assert lab.faults == (new,)
    lab.clear_faults("gemini")
    assert (await ask_raw(lab, "openai")).status == 503
    lab.clear_faults()
    assert (await ask_raw(lab, "openai")).status == 200


async def test_faults_need_a_known_place(lab: Lab) -> None:
    with pytest.raises(KeyError):
        lab.set_fault("nowhere", HttpStatus(500))
    with pytest.raises(KeyError):
        lab.set_fault("openai", HttpStatus(500), "nobody")
