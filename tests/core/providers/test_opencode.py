"""Calls of an OpenCode server: what is sent, in what order, and that nothing is left behind on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from smartfallback.model.outcomes import ErrorCategory, ProviderError, TimeoutPhase
from smartfallback.model.requests import Message, Role, Usage
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.opencode import SILENT_FOR_S, OpenCodeProvider
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    CutStream,
    EmptyAnswer,
    Fault,
    Garbage,
    GarbageKind,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    QuotaWall,
    ResetConnection,
    SafetyBlock,
    SilentEvents,
    StallMidStream,
)
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import INSTANT, DialectName, Upstream, UpstreamAccount
from support.clock import FakeClock
from support.http_servers import call_to, collect, pool_at
from support.opencode_script import (
    ASKED,
    IDLE,
    PASSWORD,
    ScriptedOpenCode,
    answered,
    delta,
    error,
    message,
    part,
    scripted_opencode,
    status,
)

MODEL = "lab/m-1"
EVENTS, SESSION, PROMPT = "GET /event", "POST /session", "POST /session/_/prompt_async"
BLOCKING, ABORT, DELETE = "POST /session/_/message", "POST /session/_/abort", "DELETE /session/_"
WHOLE = {
    "info": {"id": "msg_2", "role": "assistant", "finish": "stop", "tokens": {"input": 3, "output": 2}},
    "parts": [{"type": "step-start"}, {"type": "text", "text": "Hello"}],
}
LIMIT_S = 10.0


def pool_of(url: str, *, key: str | None = PASSWORD, model: str = MODEL) -> PoolSpec:
    return pool_at(url, ProviderKind.OPENCODE, key=key, model=model)


@asynccontextmanager
async def opencode(
    pool: PoolSpec, clock: FakeClock | None = None, **limits: float
) -> AsyncIterator[OpenCodeProvider]:
    provider = OpenCodeProvider(pool, clock or FakeClock(), **limits)
    try:
        yield provider
    finally:
        async with asyncio.timeout(LIMIT_S):
            await provider.aclose()


@asynccontextmanager
async def opencode_lab(**settings: Any) -> AsyncIterator[tuple[Lab, PoolSpec]]:
    account = UpstreamAccount("acc-1", Secret(PASSWORD))
    upstream = Upstream("oc", DialectName.OPENCODE, (account,), **{"latency": INSTANT, **settings})
    async with Lab(FakeClock(), Random(1), [upstream]) as lab:
        yield lab, pool_of(lab.base_url("oc"))


def names(server: ScriptedOpenCode) -> list[str]:
    return [name for call in server.calls for name in ALL if call in server.seen(name)]


ALL = (EVENTS, SESSION, PROMPT, BLOCKING, ABORT, DELETE)


async def test_what_is_sent_and_in_what_order() -> None:
    messages = (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "One?"),
        Message(Role.ASSISTANT, "One."),
        Message(Role.SYSTEM, "Be kind."),
        Message(Role.USER, "Two?"),
    )
    async with scripted_opencode(*answered("Hello")) as server:
        pool = pool_of(server.url, model="openrouter/some/model")
        async with opencode(pool) as provider:
            outcome = await collect(provider.stream(call_to(pool, messages=messages)))
    assert outcome.text == "Hello"
    assert names(server) == [EVENTS, SESSION, PROMPT, DELETE]
    (made,), (prompt,) = server.seen(SESSION), server.seen(PROMPT)
    assert made.body["permission"] == [{"permission": "*", "pattern": "*", "action": "deny"}]
    assert prompt.body["model"] == {"providerID": "openrouter", "modelID": "some/model"}
    assert prompt.body["tools"] == {"*": False}
    assert prompt.body["system"] == "Be brief.\n\nBe kind."
    earlier, last = (each["text"] for each in prompt.body["parts"])
    assert last == "Two?"
    assert earlier.index("User: One?") < earlier.index("Assistant: One.")
    assert "Two?" not in earlier


async def test_a_single_message_is_sent_as_it_is() -> None:
    async with scripted_opencode(*answered("Hello")) as server:
        pool = pool_of(server.url, model="")
        async with opencode(pool) as provider:
            await collect(provider.stream(call_to(pool, "hi")))
            continued = (Message(Role.USER, "hi"), Message(Role.ASSISTANT, "ho"))
            await collect(provider.stream(call_to(pool, messages=continued)))
    first, second = server.seen(PROMPT)
    assert first.body == {"tools": {"*": False}, "parts": [{"type": "text", "text": "hi"}]}
    assert "Assistant: ho" in second.body["parts"][0]["text"]
    assert second.body["parts"][1]["text"]


async def test_a_model_without_its_provider() -> None:
    pool = pool_of("http://127.0.0.1:1", model="gpt")
    async with opencode(pool) as provider:
        assert "provider and model" in provider.unavailable()
        failure = (await collect(provider.stream(call_to(pool)))).failed
    assert failure.category is ErrorCategory.INVALID_REQUEST
    async with opencode(pool_of("127.0.0.1:1")) as provider:
        assert "http://" in provider.unavailable()


async def test_text_is_passed_on_as_it_comes_and_signs_of_life_are_told() -> None:
    async with scripted_opencode(
        *ASKED, status("busy"), message("assistant"), part(""), delta("Hel")
    ) as server:
        pool = pool_of(server.url)
        async with opencode(pool) as provider:
            stream = provider.stream(call_to(pool))
            alive = 0
            while not (chunk := await anext(stream)).text:
                alive += 1
            assert chunk.text == "Hel"
            assert alive
            server.play([delta("lo"), IDLE], "ses_1")
            rest = await collect(stream)
    assert (rest.text, rest.finish) == ("lo", "stop")


async def test_two_calls_at_once_on_one_server_do_not_mix() -> None:
    async with scripted_opencode() as server:
        pool = pool_of(server.url)
        async with opencode(pool) as provider:
            asked = [asyncio.create_task(collect(provider.stream(call_to(pool, text)))) for text in "ab"]
            await server.until(PROMPT, 2)
            texts = {call.path.split("/")[2]: call.body["parts"][0]["text"] for call in server.seen(PROMPT)}
            scripts = {session: answered(*(text * 3)) for session, text in texts.items()}
            for step in range(len(answered(*"xxx"))):
                for session, script in scripts.items():
                    server.play(script[step : step + 1], session)
            outcomes = await asyncio.gather(*asked)
    assert [outcome.text for outcome in outcomes] == ["aaa", "bbb"]
    assert len({call.path for call in server.seen(DELETE)}) == 2


async def test_an_answer_from_the_simulated_server() -> None:
    async with opencode_lab(models=(MODEL,)) as (lab, pool), opencode(pool) as provider:
        pieces = [chunk async for chunk in provider.stream(call_to(pool, "How do database indexes work?"))]
        texts = [chunk.text for chunk in pieces if chunk.text]
        assert len(texts) > 1
        assert "index" in "".join(texts)
        assert pieces[-1].finish_reason == "stop"
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.output_tokens == lab.counters("oc").tokens_served
        unknown = (await collect(provider.stream(call_to(pool, model="lab/other")))).failed
        assert unknown.category is ErrorCategory.INVALID_REQUEST
        await provider.aclose()
        assert lab.open_sessions("oc", "acc-1") == ()


async def test_cancelling_aborts_the_answer_then_deletes_the_session() -> None:
    async with scripted_opencode(*ASKED, message("assistant"), part(""), delta("Hel")) as server:
        pool = pool_of(server.url)
        async with opencode(pool) as provider:
            reading = asyncio.create_task(collect(provider.stream(call_to(pool))))
            await server.until(PROMPT)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await server.until(DELETE)
    assert names(server) == [EVENTS, SESSION, PROMPT, ABORT, DELETE]


async def test_cancelling_stops_the_answer_on_the_simulated_server() -> None:
    async with opencode_lab() as (lab, pool), opencode(pool) as provider:
        lab.set_fault("oc", StallMidStream(3))
        stream = provider.stream(call_to(pool))
        while not (await anext(stream)).text:
            pass
        await stream.aclose()
        async with asyncio.timeout(LIMIT_S):
            await lab.until(lambda: lab.counters("oc").disconnects == 1)
            await lab.idle()
        assert lab.counters("oc").answered == 0


async def test_a_dead_server_delays_neither_the_caller_nor_the_end_for_long() -> None:
    async with scripted_opencode(*ASKED, holds=ABORT) as server:
        pool = pool_of(server.url)
        async with opencode(pool, cleanup_s=0.05) as provider:
            stream = provider.stream(call_to(pool))
            await anext(stream)
            await stream.aclose()
            assert not server.seen(DELETE)
        assert server.seen(ABORT)


@pytest.mark.parametrize("held", [SESSION, PROMPT])
async def test_a_caller_who_leaves_in_mid_call_leaves_nothing_behind(held: str) -> None:
    async with scripted_opencode(holds=held) as server:
        pool = pool_of(server.url)
        async with opencode(pool) as provider:
            reading = asyncio.create_task(collect(provider.stream(call_to(pool))))
            await server.until(held)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert not server.seen(ABORT)
            server.release.set()
            await server.until(DELETE)
    assert bool(server.seen(ABORT)) == (held == PROMPT)


async def test_closing_the_provider_ends_answers_in_the_making() -> None:
    aborted = [error("MessageAbortedError", message="Aborted"), IDLE]
    async with scripted_opencode(*ASKED, on_abort=aborted) as server:
        pool = pool_of(server.url)
        provider = OpenCodeProvider(pool, FakeClock())
        reading = asyncio.create_task(collect(provider.stream(call_to(pool))))
        await server.until(PROMPT)
        async with asyncio.timeout(LIMIT_S):
            await provider.aclose()
            outcome = await reading
        assert outcome.failed.category is ErrorCategory.TRANSIENT_ERROR
        assert names(server)[-2:] == [ABORT, DELETE]
        await provider.aclose()
        after = (await collect(provider.stream(call_to(pool)))).failed
        assert after.category is ErrorCategory.NETWORK_ERROR


@pytest.mark.parametrize(("key", "hint"), [("wrong", "compare"), (None, "set api_key")])
async def test_a_refused_password(key: str | None, hint: str) -> None:
    async with opencode_lab() as (lab, pool):
        account = AccountSpec("acc-1", Secret(key) if key else None)
        async with opencode(pool) as provider:
            failure = (await collect(provider.stream(call_to(pool, account=account)))).failed
        assert lab.counters("oc").requests == 0
    assert failure.category is ErrorCategory.AUTHENTICATION
    assert failure.http_status == 401
    assert failure.hint.startswith(hint)
    assert "OPENCODE_SERVER_PASSWORD" in failure.hint


async def test_a_silent_event_stream_is_answered_by_a_blocking_call() -> None:
    clock = FakeClock()
    async with scripted_opencode(tells=False, answer=WHOLE) as server:
        pool = pool_of(server.url)
        async with opencode(pool, clock, silence_s=0.05) as provider:
            outcome = await collect(provider.stream(call_to(pool)))
            assert (outcome.text, outcome.finish, outcome.usage) == ("Hello", "stop", Usage(3, 2))
            await server.until(DELETE)
            assert names(server) == [EVENTS, SESSION, BLOCKING, DELETE]
            assert (await collect(provider.stream(call_to(pool)))).text == "Hello"
            assert len(server.seen(EVENTS)) == 1
            server.tells, server.on_prompt = True, answered("streamed")
            clock.advance(SILENT_FOR_S + 1)
            assert (await collect(provider.stream(call_to(pool)))).text == "streamed"


async def test_an_event_stream_that_does_not_open() -> None:
    async with scripted_opencode(holds=EVENTS, answer=WHOLE) as server:
        pool = pool_of(server.url)
        async with opencode(pool, silence_s=0.05) as provider:
            assert (await collect(provider.stream(call_to(pool)))).text == "Hello"


async def test_a_blocking_call_has_a_limit_and_is_aborted() -> None:
    async with scripted_opencode(tells=False, holds=BLOCKING) as server:
        pool = pool_of(server.url)
        async with opencode(pool, silence_s=0.05, blocking_s=0.05) as provider:
            failure = (await collect(provider.stream(call_to(pool)))).failed
            await server.until(DELETE)
    assert failure.category is ErrorCategory.TIMEOUT
    assert failure.phase is TimeoutPhase.FIRST_TOKEN
    assert server.seen(ABORT)


async def test_a_blocking_call_that_ends_in_an_error() -> None:
    denied = {"name": "APIError", "data": {"message": "no", "statusCode": 401, "isRetryable": False}}
    answer = {"info": WHOLE["info"] | {"error": denied}, "parts": WHOLE["parts"]}  # type: ignore[operator]  # an object
    async with scripted_opencode(tells=False, answer=answer) as server:
        pool = pool_of(server.url)
        async with opencode(pool, silence_s=0.05) as provider:
            outcome = await collect(provider.stream(call_to(pool)))
    assert outcome.failed.category is ErrorCategory.AUTHENTICATION
    assert outcome.text == ""


async def test_a_silent_simulated_server() -> None:
    async with opencode_lab() as (lab, pool), opencode(pool, silence_s=0.05) as provider:
        lab.set_fault("oc", SilentEvents())
        outcome = await collect(provider.stream(call_to(pool, "How do database indexes work?")))
        assert "index" in outcome.text
        assert outcome.finish == "stop"


CATEGORIES: list[tuple[Fault, ErrorCategory]] = [
    (HttpStatus(500), ErrorCategory.TRANSIENT_ERROR),
    (HttpStatus(503), ErrorCategory.TRANSIENT_ERROR),
    (HttpStatus(401), ErrorCategory.AUTHENTICATION),
    (HttpStatus(400), ErrorCategory.INVALID_REQUEST),
    (HttpStatus(402), ErrorCategory.QUOTA_EXHAUSTED),
    (KeyRevoked(), ErrorCategory.AUTHENTICATION),
    (Banned(), ErrorCategory.AUTHENTICATION),
    (BurstLimit(), ErrorCategory.RATE_LIMIT),
    (QuotaWall(), ErrorCategory.QUOTA_EXHAUSTED),
    (QuotaWall(3_600), ErrorCategory.QUOTA_EXHAUSTED),
    (ResetConnection(), ErrorCategory.NETWORK_ERROR),
    (CutStream(5), ErrorCategory.MALFORMED_RESPONSE),
    (CutStream(5, clean=True), ErrorCategory.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.JSON), ErrorCategory.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.HTML), ErrorCategory.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.SSE), ErrorCategory.MALFORMED_RESPONSE),
    (Garbage(GarbageKind.SSE, after_tokens=4), ErrorCategory.MALFORMED_RESPONSE),
    (EmptyAnswer(), ErrorCategory.MALFORMED_RESPONSE),
    (OverloadInStream(), ErrorCategory.TRANSIENT_ERROR),
    (OverloadInStream(4), ErrorCategory.TRANSIENT_ERROR),
    (SafetyBlock(), ErrorCategory.CONTENT_FILTERED),
]


@pytest.mark.parametrize(("fault", "category"), CATEGORIES, ids=lambda value: repr(value)[:48])
async def test_faults_of_the_simulated_server(fault: Fault, category: ErrorCategory) -> None:
    async with opencode_lab() as (lab, pool), opencode(pool) as provider:
        lab.set_fault("oc", fault)
        failure = (await collect(provider.stream(call_to(pool)))).failed
        assert failure.category is category
        assert failure.permanent == isinstance(fault, Banned)
        if fault == BurstLimit():
            assert failure.retry_after_s == pytest.approx(5.0, abs=0.01)
        if fault == QuotaWall(3_600):
            assert failure.retry_after_s == pytest.approx(3_600, abs=0.01)
        # A server that went on trying by itself would spend quota that nobody waits for.
        await provider.aclose()
        if not isinstance(fault, ResetConnection | KeyRevoked):
            assert lab.counters("oc").in_flight == 0
            assert lab.open_sessions("oc", "acc-1") == ()


@pytest.mark.parametrize("name", [EVENTS, SESSION, PROMPT])
async def test_a_page_or_a_refusal_instead_of_a_server(name: str) -> None:
    for status_code, body, category in (
        (503, "busy", ErrorCategory.TRANSIENT_ERROR),
        (404, "<title>no</title>", ErrorCategory.INVALID_REQUEST),
        (500, '{"name":"UnknownError","data":{"message":"see the logs"}}', ErrorCategory.API_FAILURE),
    ):
        async with scripted_opencode(refusals={name: (status_code, body)}) as server:
            pool = pool_of(server.url)
            async with opencode(pool) as provider:
                failure = (await collect(provider.stream(call_to(pool)))).failed
        assert failure.category is category
        if "logs" in body:
            assert failure.message == "see the logs"


async def test_a_web_page_with_status_200() -> None:
    page = (200, "<!doctype html><title>OpenCode</title>")
    for name in (EVENTS, SESSION):
        async with scripted_opencode(refusals={name: page}) as server:
            pool = pool_of(server.url)
            async with opencode(pool) as provider:
                failure = (await collect(provider.stream(call_to(pool)))).failed
        assert failure.category is ErrorCategory.MALFORMED_RESPONSE


async def test_a_server_that_is_not_there_or_goes_away() -> None:
    async with scripted_opencode(*ASKED) as server:
        pool = pool_of(server.url)
        async with opencode(pool) as provider:
            reading = asyncio.create_task(collect(provider.stream(call_to(pool))))
            await server.until(PROMPT)
            server.hang_up()
            gone = (await reading).failed
            await server.until(DELETE)
    assert gone.category is ErrorCategory.MALFORMED_RESPONSE
    async with opencode(pool) as provider:
        absent = (await collect(provider.stream(call_to(pool)))).failed
    assert absent.category is ErrorCategory.NETWORK_ERROR
    assert "base_url" in absent.hint


async def test_a_hostile_session_id_reaches_no_address() -> None:
    async with scripted_opencode(refusals={SESSION: (200, '{"id": "../config?x="}')}) as server:
        pool = pool_of(server.url)
        async with opencode(pool) as provider:
            with pytest.raises(ProviderError, match="no id"):
                await anext(provider.stream(call_to(pool)))
    assert names(server) == [EVENTS, SESSION]
