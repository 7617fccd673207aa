"""What happens between two steps of a request: commands, other callers and the clock come in there."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smartfallback import (
    AccountSpec,
    AttemptFailed,
    AttemptResult,
    AttemptStarted,
    CircuitScope,
    CircuitTarget,
    DegradationKind,
    Delta,
    ErrorCategory,
    ForceFailover,
    NextStep,
    OnBreak,
    ProviderKind,
    QueueTerms,
    QuotaUnit,
    RecoverySpec,
    RequestError,
    RequestFinished,
    RequestQueued,
    WindowKind,
    WindowSpec,
)
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

STOP = Chunk("", "stop")
OVERLOADED = failure(ErrorCategory.TRANSIENT_ERROR, http_status=503)
REVOKED = failure(ErrorCategory.AUTHENTICATION, http_status=401)
CUT = failure(ErrorCategory.MALFORMED_RESPONSE, message="the stream was cut off")


async def settled() -> None:
    """Let everything that can go on without time passing do so."""
    for _ in range(50):
        await asyncio.sleep(0)


def weekly(limit: int, name: str = "a-1", **fields: object) -> AccountSpec:
    return AccountSpec(name, quota=(WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, limit),), **fields)  # type: ignore[arg-type]


# -- a hedged pair -----------------------------------------------------------------------------


async def test_an_answer_that_waits_for_its_reader_is_no_longer_moved_away(start, upstream):
    slow = Pause()
    upstream.always("a-1", [slow, Chunk("Hello"), STOP])
    upstream.always("b-1", [slow, REVOKED])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1"), hedge_after_s=0.01))
    text = ""
    async for event in orchestrator.stream(ask()):
        if isinstance(event, AttemptStarted) and event.hedge:
            slow.go_on.set()
        if isinstance(event, AttemptFailed):
            await settled()  # a-1 has answered; its reader is still here
            orchestrator.execute(ForceFailover(CircuitTarget(CircuitScope.ACCOUNT, "a-1"), "maintenance"))
        if isinstance(event, Delta):
            text += event.text
    assert text == "Hello"


async def test_a_retry_that_a_hedge_made_needless_is_not_paid_for(start, upstream):
    slow = Pause()
    upstream.always("a-1", [slow, *ANSWER])
    upstream.always("b-1", [OVERLOADED])
    spec = replace(
        system(pool("main", "a-1"), pool("next", "b-1"), hedge_after_s=0.01),
        recovery=RecoverySpec(retry_share=0.0, retry_reserve=10),
    )
    orchestrator = await start(spec)
    async for event in orchestrator.stream(ask()):
        if isinstance(event, AttemptFailed):
            slow.go_on.set()
    assert orchestrator.snapshot().retry_budget_left == 9, "one hedge, no retry"


async def test_the_reserve_is_not_spent_on_hedges(start, upstream):
    slow = Pause()
    upstream.always("a-1", [slow, *ANSWER])
    accounts = [weekly(100_000, name) for name in ("a-1", "b-1")]
    orchestrator = await start(
        system(pool("main", accounts[0]), pool("next", accounts[1]), hedge_after_s=0.01)
    )
    orchestrator.preload_usage({"b-1": 85_000})
    answer = asyncio.create_task(orchestrator.chat(ask()))
    await slow.reached.wait()
    await asyncio.sleep(0.05)
    slow.go_on.set()
    await answer
    assert upstream.accounts_called() == ["a-1"]


# -- a retry's wait ----------------------------------------------------------------------------


async def test_a_retry_whose_place_another_caller_took_waits_for_it(start, upstream):
    other = Pause()
    upstream.queue("a-1", [OVERLOADED], [other, *ANSWER], ANSWER)
    orchestrator = await start(system(pool("main", AccountSpec("a-1", max_concurrency=1))))
    waits = asyncio.Event()

    async def first() -> str:
        async for event in orchestrator.stream(ask()):
            if isinstance(event, AttemptFailed):
                assert event.then is NextStep.RETRY
                waits.set()
            if isinstance(event, RequestFinished):
                return event.reply.account
        return ""

    retried = asyncio.create_task(first())
    await waits.wait()
    second = asyncio.create_task(orchestrator.chat(ask()))
    await other.reached.wait()
    await asyncio.sleep(0.25)  # the first retry's wait, at most 0.2 s
    other.go_on.set()
    assert (await second).account == "a-1"
    assert await retried == "a-1"
    assert orchestrator.snapshot().account("a-1").in_flight == 0


async def test_no_retry_begins_after_the_deadline_however_late_its_wait_ends(start, upstream, monkeypatch):
    upstream.always("a-1", [OVERLOADED])
    orchestrator = await start(system(pool("main", "a-1")))
    loop = asyncio.get_running_loop()
    real, late = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + late)

    async def stands_still_meanwhile() -> None:
        nonlocal late
        async for event in orchestrator.stream(ask(timeout_s=5.0)):
            if isinstance(event, AttemptFailed):
                late = 6.0

    with pytest.raises(RequestError) as caught:
        await stands_still_meanwhile()
    assert caught.value.failure.category is ErrorCategory.TRANSIENT_ERROR
    assert upstream.accounts_called() == ["a-1"]


async def test_a_rest_of_the_model_that_others_met_meanwhile_holds_for_a_retry_too(start, upstream):
    def limited(rest_s: float):
        return failure(ErrorCategory.RATE_LIMIT, http_status=429, model="main-model", retry_after_s=rest_s)

    gate = Pause()
    upstream.queue("a-1", [gate, limited(60.0)], [limited(0.01)])
    orchestrator = await start(system(pool("main", "a-1")))
    long = asyncio.create_task(orchestrator.chat(ask()))
    await gate.reached.wait()

    async def is_overtaken() -> None:
        async for event in orchestrator.stream(ask(timeout_s=5.0)):
            if isinstance(event, AttemptFailed) and event.then is NextStep.RETRY:
                gate.go_on.set()
                await asyncio.wait((long,))

    with pytest.raises(RequestError):
        await is_overtaken()
    with pytest.raises(RequestError):
        await long
    assert len(upstream.calls) == 2


# -- the queue ---------------------------------------------------------------------------------


async def queued(orchestrator, request):
    """Start the request and wait until it is in the queue."""
    entered = asyncio.Event()

    async def run():
        events = []
        async for event in orchestrator.stream(request):
            events.append(event)
            if isinstance(event, RequestQueued):
                entered.set()
        return events

    task = asyncio.create_task(run())
    inside = asyncio.create_task(entered.wait())
    await asyncio.wait((task, inside), return_when=asyncio.FIRST_COMPLETED)
    inside.cancel()
    if task.done():
        await task
    await settled()
    return task


async def test_a_replay_has_as_much_patience_with_an_account_as_a_new_request(start, upstream, monkeypatch):
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    slow = Pause()
    upstream.queue("a-1", [failure(ErrorCategory.RATE_LIMIT, retry_after_s=60.0)])
    upstream.always("a-1", [slow, *ANSWER])
    upstream.queue("b-1", [failure(ErrorCategory.RATE_LIMIT, retry_after_s=60.0)])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1"), queue_s=3600.0))
    clock = orchestrator._clock
    task = await queued(orchestrator, ask())
    ahead = 100.0
    clock.advance(100.0)
    orchestrator._queue.tick(clock.monotonic())
    await slow.reached.wait()
    await asyncio.sleep(0.7)
    slow.go_on.set()
    events = await task
    assert events[-1].reply.account == "a-1", "it was not cut off after half a second"


async def test_a_request_whose_last_candidate_needs_attention_waits_for_the_others(start, upstream):
    upstream.queue("a-1", [failure(ErrorCategory.RATE_LIMIT, retry_after_s=60.0)])
    upstream.always("b-1", [REVOKED])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    clock = orchestrator._clock
    task = await queued(orchestrator, ask(queue=QueueTerms(600.0)))
    clock.advance(100.0)
    orchestrator._queue.tick(clock.monotonic())
    events = await task
    assert events[-1].reply.account == "a-1"


async def test_after_a_time_in_the_queue_the_whole_conversation_is_sent_again(start, upstream):
    orchestrator = await start(system(pool("main", weekly(1_000))))
    clock = orchestrator._clock
    orchestrator.preload_usage({"a-1": 940})
    task = await queued(orchestrator, ask("x" * 400, max_output_tokens=512, queue=QueueTerms(14 * 86_400.0)))
    orchestrator.preload_usage({"a-1": 0})
    clock.advance(5.0)
    orchestrator._queue.tick(clock.monotonic())
    reply = (await task)[-1].reply
    assert reply.degradations == ()
    assert upstream.calls[-1].max_output_tokens == 512


# -- a continued answer ------------------------------------------------------------------------


async def test_an_answer_that_a_lesser_model_began_stays_marked_as_such(start, upstream):
    original = upstream.script_for

    def script_for(name):
        if upstream.calls[-1].model == "lite":
            return (Chunk("The sky is "), CUT)
        return original(name)

    upstream.script_for = script_for
    upstream.always("a-1", [failure(ErrorCategory.RATE_LIMIT, model="main-model", retry_after_s=60.0)])
    upstream.always("gguf", [Chunk("blue."), STOP])
    local = pool("local", "gguf", provider=ProviderKind.LOCAL)
    orchestrator = await start(system(pool("main", "a-1", cheaper_model="lite"), local))
    reply = await orchestrator.chat(ask(on_break=OnBreak.CONTINUE))
    kinds = {entry.kind for entry in reply.degradations}
    assert reply.text == "The sky is blue."
    assert kinds == {
        DegradationKind.CHEAPER_MODEL,
        DegradationKind.LOCAL_MODEL,
        DegradationKind.CONTINUED,
    }
    results = [record.result for record in reply.attempts]
    assert results[-1] is AttemptResult.SUCCESS


# -- closing -----------------------------------------------------------------------------------


async def test_the_error_of_a_request_that_closing_ended_lists_the_attempt_that_ran(start, upstream):
    silent = Pause()
    upstream.always("a-1", [silent])
    orchestrator = await start(system(pool("main", "a-1")))
    answer = asyncio.create_task(orchestrator.chat(ask()))
    await silent.reached.wait()
    await orchestrator.aclose()
    with pytest.raises(RequestError) as caught:
        await answer
    attempts = [(record.account, record.result) for record in caught.value.attempts]
    assert attempts == [("a-1", AttemptResult.CANCELLED)]
