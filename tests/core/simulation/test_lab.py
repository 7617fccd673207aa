"""The lab's upstreams as a plain HTTP client sees them: answers, limits, quotas, counters."""

from __future__ import annotations

import asyncio
import socket
from random import Random

import aiohttp
import pytest

from smartfallback.model.quota import WindowKind
from smartfallback.simulation.faults import StallMidStream
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import Counters, Latency, UpstreamQuota, window_end
from support.clock import FakeClock
from support.simulated import (
    DIALECTS,
    MODEL,
    account,
    ask,
    ask_raw,
    auth,
    requests_quota,
    running_lab,
    upstream,
    wire_call,
)

WEEK_S = 7 * 86_400


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_adapter_gets_a_complete_answer(lab: Lab, clock: FakeClock, name: str, stream: bool) -> None:
    answer = await ask(lab, name, clock, stream=stream)
    assert answer.failure is None
    assert answer.finish == "stop"
    assert len(answer.text.split()) >= 30
    assert answer.usage is not None
    assert answer.usage.output_tokens == len(answer.text.split())
    assert (len(answer.pieces) > 3) is stream
    seen = lab.counters(name, f"{name}-1")
    assert (seen.requests, seen.answered, seen.in_flight, seen.disconnects) == (1, 1, 0, 0)
    assert seen.tokens_served == answer.usage.output_tokens
    assert lab.used(name, f"{name}-1") == answer.usage.total_tokens
    assert lab.counters(name, f"{name}-2") == Counters()


async def test_openai_streams_have_role_content_usage_and_done(lab: Lab) -> None:
    raw = await ask_raw(lab, "openai")
    assert raw.headers["Content-Type"] == "text/event-stream"
    first, *_, final, usage = raw.events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert final["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 0
    assert raw.body.endswith(b"data: [DONE]\n\n")


async def test_openai_leaves_usage_out_unless_asked(lab: Lab) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    raw = await ask_raw(lab, "openai", body=body)
    assert all("usage" not in event for event in raw.events)


async def test_gemini_streams_end_with_reason_and_usage(lab: Lab) -> None:
    raw = await ask_raw(lab, "gemini")
    assert raw.events[-1]["candidates"][0]["finishReason"] == "STOP"
    assert raw.events[-1]["usageMetadata"]["candidatesTokenCount"] > 0
    assert all("finishReason" not in event["candidates"][0] for event in raw.events[:-1])


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_token_limit_of_a_call_cuts_the_answer(lab: Lab, name: str, stream: bool) -> None:
    raw = await ask_raw(lab, name, stream=stream, limit=7)
    assert (b"MAX_TOKENS" if name == "gemini" else b'"length"') in raw.body
    assert lab.counters(name).tokens_served == 7


async def test_models_are_listed(lab: Lab) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"{lab.base_url('openai')}/models"
        async with session.get(url, headers=auth("openai", "openai-1")) as response:
            assert [model["id"] for model in (await response.json())["data"]] == [MODEL, "sim-2"]
        url = f"{lab.base_url('gemini')}/v1beta/models"
        async with session.get(url, headers=auth("gemini", "gemini-1")) as response:
            names = [model["name"] for model in (await response.json())["models"]]
            assert names == [f"models/{MODEL}", "models/sim-2"]


@pytest.mark.parametrize(("name", "status"), [("gemini", 400), ("openai", 401)])
async def test_an_unknown_key_is_refused_and_counted_for_nobody(lab: Lab, name: str, status: int) -> None:
    raw = await ask_raw(lab, name, "stranger")
    assert raw.status == status
    assert (b"API_KEY_INVALID" if name == "gemini" else b"invalid_api_key") in raw.body
    assert lab.counters(name) == Counters()


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("body", [b"{", b"[]", b'{"contents": [], "messages": [], "model": "sim-1"}'])
async def test_a_bad_body_is_the_callers_fault(lab: Lab, name: str, body: bytes) -> None:
    raw = await ask_raw(lab, name, body=body)
    assert raw.status == 400
    assert raw.json["error"]["message"]
    assert lab.counters(name).refused == 1


@pytest.mark.parametrize("name", DIALECTS)
async def test_an_unknown_model_is_not_found(lab: Lab, name: str) -> None:
    assert (await ask_raw(lab, name, model="sim-9")).status == 404


@pytest.mark.parametrize("name", DIALECTS)
async def test_too_long_a_prompt_is_refused(clock: FakeClock, name: str) -> None:
    async with running_lab(clock, upstream(name, context_tokens=100)) as lab:
        assert (await ask_raw(lab, name, question="word " * 79)).status == 200
        raw = await ask_raw(lab, name, question="word " * 90)
    assert raw.status == 400
    assert b"exceeds the maximum number of tokens" in raw.body


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_used_up_quota_is_a_wall_until_the_week_ends(clock: FakeClock, name: str) -> None:
    async with running_lab(clock, upstream(name, account("a", quota=requests_quota(2)))) as lab:
        for _ in range(2):
            assert (await ask_raw(lab, name, "a")).status == 200
        answer = await ask(lab, name, clock, "a")
        assert answer.failure is not None
        assert answer.failure.category.value == "quota_exhausted"
        assert answer.failure.http_status == 429
        sunday = window_end(clock.time(), WindowKind.WEEK)
        clock.advance(sunday - clock.time() - 1)
        assert (await ask_raw(lab, name, "a")).status == 429
        clock.advance(1)
        assert (await ask_raw(lab, name, "a")).status == 200
        assert lab.used(name, "a") == 1


async def test_a_gemini_wall_states_when_it_ends(clock: FakeClock) -> None:
    lab_quota = UpstreamQuota(100, used=100)
    async with running_lab(clock, upstream("gemini", account("a", quota=lab_quota))) as lab:
        answer = await ask(lab, "gemini", clock, "a")
    assert answer.failure is not None
    assert answer.failure.resets_at == pytest.approx(window_end(clock.time(), WindowKind.WEEK), abs=1)


@pytest.mark.parametrize("name", DIALECTS)
async def test_too_many_requests_a_minute_are_a_burst(clock: FakeClock, name: str) -> None:
    async with running_lab(clock, upstream(name, account("a", requests_per_minute=3))) as lab:
        for _ in range(3):
            assert (await ask_raw(lab, name, "a")).status == 200
        refused = await ask_raw(lab, name, "a")
        assert refused.status == 429
        assert refused.headers["Retry-After"] == "20"
        answer = await ask(lab, name, clock, "a")
        assert answer.failure is not None
        assert answer.failure.category.value == "rate_limit"
        assert answer.failure.retry_after_s == pytest.approx(20)
        clock.advance(20)
        assert (await ask_raw(lab, name, "a")).status == 200


async def test_openai_headers_state_what_is_left(clock: FakeClock) -> None:
    limits = account("a", requests_per_minute=60, tokens_per_minute=6_000)
    async with running_lab(clock, upstream("openai", limits)) as lab:
        headers = (await ask_raw(lab, "openai", "a")).headers
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "59"
        assert headers["x-ratelimit-reset-requests"] == "1s"
        served = lab.used("openai", "a")
        headers = (await ask_raw(lab, "openai", "a")).headers
        assert int(headers["x-ratelimit-remaining-tokens"]) == 6_000 - served


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_client_that_goes_away_is_seen_at_once(lab: Lab, name: str) -> None:
    lab.set_fault(name, StallMidStream(10))
    url, body = wire_call(lab, name, stream=True)
    async with aiohttp.ClientSession() as session:
        async with session.post(url, json=body, headers=auth(name, f"{name}-1")) as response:
            while lab.counters(name).tokens_served < 10:
                assert await response.content.readany()
            assert lab.counters(name).in_flight == 1
            response.close()
        async with asyncio.timeout(5):
            await lab.idle()
    seen = lab.counters(name, f"{name}-1")
    assert (seen.disconnects, seen.in_flight, seen.answered) == (1, 0, 0)
    assert lab.used(name, f"{name}-1") > 10


async def test_calls_in_flight_are_counted_at_their_peak(lab: Lab) -> None:
    active = lab.set_fault("openai", StallMidStream(1))
    calls = [asyncio.create_task(ask_raw(lab, "openai")) for _ in range(5)]
    async with asyncio.timeout(5):
        await lab.until(lambda: lab.counters("openai").tokens_served >= 5)
        lab.lift(active)
        await asyncio.gather(*calls)
    seen = lab.counters("openai")
    assert (seen.peak_in_flight, seen.in_flight, seen.answered) == (5, 0, 5)


async def test_an_upstream_that_is_down_refuses_connections_and_comes_back_where_it_was(lab: Lab) -> None:
    lab.set_fault("gemini", StallMidStream(3))
    url = lab.base_url("gemini")
    hanging = asyncio.create_task(ask_raw(lab, "gemini"))
    async with asyncio.timeout(5):
        await lab.until(lambda: lab.counters("gemini").tokens_served >= 3)
        await lab.take_down("gemini")
        assert (await hanging).broken is not None
    assert lab.counters("gemini").disconnects == 0
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask_raw(lab, "gemini")
    lab.clear_faults()
    await lab.bring_up("gemini")
    assert lab.base_url("gemini") == url
    assert (await ask_raw(lab, "gemini")).status == 200


async def test_closing_the_lab_frees_its_ports_and_ends_hanging_calls(clock: FakeClock) -> None:
    async with running_lab(clock, upstream("openai")) as lab:
        lab.set_fault("openai", StallMidStream(1))
        hanging = asyncio.create_task(ask_raw(lab, "openai"))
        async with asyncio.timeout(5):
            await lab.until(lambda: lab.counters("openai").tokens_served > 0)
        port = int(lab.base_url("openai").split(":")[2].split("/")[0])
    async with asyncio.timeout(5):
        assert (await hanging).broken is not None
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


async def test_the_same_seed_gives_the_same_answers(clock: FakeClock) -> None:
    bodies = []
    for _ in range(2):
        async with running_lab(clock, upstream("openai"), seed=7) as lab:
            bodies.append([(await ask_raw(lab, "openai")).body for _ in range(4)])
    assert bodies[0] == bodies[1]
    assert len(set(bodies[0])) == 4


async def test_names_and_keys_must_be_unique(clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="two upstreams"):
        Lab(clock, Random(1), [upstream("openai"), upstream("openai")])
    with pytest.raises(ValueError, match="share an id or a key"):
        Lab(clock, Random(1), [upstream("openai", account("a"), account("a"))])


@pytest.mark.parametrize(
    ("kind", "length_s"),
    [(WindowKind.WEEK, WEEK_S), (WindowKind.DAY, 86_400), (WindowKind.FIVE_HOURS, 18_000)],
)
def test_a_window_that_ends_is_followed_by_a_whole_one(kind: WindowKind, length_s: int) -> None:
    end = window_end(FakeClock().time(), kind)
    assert window_end(end, kind) - end == length_s
    assert window_end(end - 1, kind) == end


def test_first_token_times_scatter_around_their_median() -> None:
    rng = Random(5)
    drawn = sorted(Latency(0.4, 0.35, 80).draw(rng)[0] for _ in range(999))
    assert 0.36 < drawn[499] < 0.44
    assert 1.5 < drawn[949] / drawn[499] < 2.2
