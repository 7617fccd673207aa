"""When nobody can give what was asked for: less of it, an earlier answer, or the queue."""

from __future__ import annotations

import asyncio

import pytest

from smartfallback import (
    AccountSpec,
    AttemptFailed,
    AttemptStarted,
    DegradationKind,
    Delta,
    DropQueued,
    ErrorCategory,
    NextStep,
    ProviderKind,
    QueueTerms,
    QuotaUnit,
    RequestDegraded,
    RequestError,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
    Rule,
    SkipReason,
    Usage,
    WindowKind,
    WindowSpec,
)
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

BUSY_MODEL = failure(ErrorCategory.RATE_LIMIT, http_status=429, model="main-model", retry_after_s=60.0)
OVERLOADED = failure(ErrorCategory.TRANSIENT_ERROR, http_status=503)
REVOKED = failure(ErrorCategory.AUTHENTICATION, http_status=401)
WALL = failure(ErrorCategory.QUOTA_EXHAUSTED, http_status=429, retry_after_s=60.0)
BROKEN_JSON = failure(ErrorCategory.MALFORMED_RESPONSE)


def kinds(reply):
    return [entry.kind for entry in reply.degradations]


def by_model(upstream, account, scripts):
    """Let the account answer each model by a script of its own."""
    original = upstream.script_for

    def script_for(name):
        call = upstream.calls[-1]
        return scripts[call.model] if name == account and call.model in scripts else original(name)

    upstream.script_for = script_for


# -- a cheaper model -------------------------------------------------------------------------


async def test_a_model_at_its_limit_is_stood_in_for_by_the_cheaper_one_before_the_local_model(
    start, upstream
):
    by_model(upstream, "a-1", {"main-model": (BUSY_MODEL,), "lite": ANSWER})
    local = pool("local", "gguf", provider=ProviderKind.LOCAL)
    orchestrator = await start(system(pool("main", "a-1", cheaper_model="lite"), local))
    events = [event async for event in orchestrator.stream(ask())]
    reply = events[-1].reply
    assert (reply.account, reply.model, kinds(reply)) == ("a-1", "lite", [DegradationKind.CHEAPER_MODEL])
    assert [call.model for call in upstream.calls] == ["main-model", "lite"]
    assert [event.then for event in events if isinstance(event, AttemptFailed)] == [NextStep.DEGRADE]
    assert [event.degradation for event in events if isinstance(event, RequestDegraded)] == list(
        reply.degradations
    )
    again = await orchestrator.chat(ask())
    assert (again.model, len(again.attempts)) == ("lite", 1), "the model at its limit is not asked meanwhile"


async def test_other_accounts_come_before_a_cheaper_model(start, upstream):
    by_model(upstream, "a-1", {"main-model": (BUSY_MODEL,)})
    orchestrator = await start(system(pool("main", "a-1", cheaper_model="lite"), pool("next", "b-1")))
    assert (await orchestrator.chat(ask())).account == "b-1"


async def test_a_cheaper_model_elsewhere_is_reached_without_trying_an_api_s_other_accounts(start, upstream):
    down = failure(ErrorCategory.API_FAILURE, http_status=500)
    upstream.always("a-1", [down])
    upstream.always("a-2", [down])
    by_model(upstream, "b-1", {"next-model": (BUSY_MODEL,), "lite": ANSWER})
    orchestrator = await start(system(pool("next", "b-1", cheaper_model="lite"), pool("main", "a-1", "a-2")))
    reply = await orchestrator.chat(ask())
    assert (reply.account, reply.model) == ("b-1", "lite")
    assert len([name for name in upstream.accounts_called() if name.startswith("a-")]) == 1


async def test_a_request_that_names_another_model_gets_no_cheaper_one(start, upstream):
    upstream.always("a-1", [OVERLOADED])
    orchestrator = await start(system(pool("main", "a-1", cheaper_model="lite")))
    with pytest.raises(RequestError):
        await orchestrator.chat(ask(model="special"))
    assert {call.model for call in upstream.calls} == {"special"}


async def test_a_cheaper_model_is_no_way_round_an_account_that_may_not_serve(start, upstream):
    upstream.always("a-1", [REVOKED])
    orchestrator = await start(system(pool("main", "a-1", cheaper_model="lite")))
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())
    assert [call.model for call in upstream.calls] == ["main-model"]


# -- a shorter answer ------------------------------------------------------------------------


async def test_where_the_quota_has_no_room_for_the_estimate_the_answer_is_shortened(start, upstream):
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 10_000),)
    orchestrator = await start(system(pool("main", AccountSpec("a-1", quota=quota))))
    orchestrator.preload_usage({"a-1": 9_200})
    reply = await orchestrator.chat(ask(max_output_tokens=1_000))
    assert DegradationKind.SHORTER_ANSWER in kinds(reply)
    assert upstream.calls[-1].max_output_tokens == 250
    assert not orchestrator.snapshot().account("a-1").quota.windows[0].held


async def test_an_answer_that_would_be_too_short_is_refused_instead(start, upstream):
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 10_000),)
    orchestrator = await start(system(pool("main", AccountSpec("a-1", quota=quota))))
    orchestrator.preload_usage({"a-1": 9_490})
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask(max_output_tokens=1_000))
    assert caught.value.failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert upstream.calls == []


# -- who failed a moment ago -----------------------------------------------------------------


async def test_who_just_failed_is_passed_over_for_a_while_without_being_asked(start, upstream, clock):
    upstream.queue("a-1", [BROKEN_JSON], [BROKEN_JSON])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    assert (await orchestrator.chat(ask())).account == "b-1"
    asked = upstream.accounts_called().count("a-1")
    events = [event async for event in orchestrator.stream(ask())]
    assert upstream.accounts_called().count("a-1") == asked
    decision = next(event.decision for event in events if isinstance(event, RequestRouted))
    (skip,) = [skip for skip in decision.skipped if skip.name == "a-1"]
    assert skip.reason is SkipReason.JUST_FAILED
    assert skip.until == pytest.approx(clock.time() + 10.0)
    clock.advance(10.0)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_when_nobody_else_can_serve_it_is_asked_all_the_same(start, upstream):
    upstream.queue("a-1", [BROKEN_JSON], [BROKEN_JSON])
    orchestrator = await start(system(pool("main", "a-1")))
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())
    events = [event async for event in orchestrator.stream(ask())]
    assert events[-1].reply.account == "a-1"
    assert (
        next(event.decision.rule for event in events if isinstance(event, RequestRouted)) is Rule.JUST_FAILED
    )
    assert (await orchestrator.chat(ask())).account == "a-1"
    routed, *_ = [event async for event in orchestrator.stream(ask())]
    assert routed.decision.rule is not Rule.JUST_FAILED, "an answer clears it"


async def test_another_model_of_the_account_is_not_concerned(start, upstream):
    upstream.queue("a-1", [BROKEN_JSON], [BROKEN_JSON])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    await orchestrator.chat(ask())
    assert (await orchestrator.chat(ask(model="other"))).account == "a-1"


async def test_a_pinned_request_asks_its_account_whatever_it_did(start, upstream):
    upstream.queue("a-1", [BROKEN_JSON], [BROKEN_JSON])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    await orchestrator.chat(ask())
    assert (await orchestrator.chat(ask(pin="a-1"))).account == "a-1"


async def test_two_who_both_failed_are_tried_one_after_the_other(start, upstream):
    for name in ("a-1", "b-1"):
        upstream.queue(name, [BROKEN_JSON], [BROKEN_JSON])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())
    upstream.queue("a-1", [BROKEN_JSON], [BROKEN_JSON])
    reply = await orchestrator.chat(ask())
    assert reply.account == "b-1"


# -- an earlier answer -----------------------------------------------------------------------


async def test_an_equal_request_s_answer_stands_in_labelled_with_its_age(start, upstream, clock):
    orchestrator = await start(system(pool("main", "a-1"), cache_s=600.0))
    first = await orchestrator.chat(ask())
    clock.advance(300.0)
    upstream.always("a-1", [WALL])
    events = [event async for event in orchestrator.stream(ask())]
    reply = events[-1].reply
    assert (reply.text, reply.account, reply.cached_age_s) == (first.text, "a-1", 300.0)
    assert (reply.usage, kinds(reply), reply.degraded) == (Usage(), [DegradationKind.CACHED], True)
    assert "5 min" in reply.degradations[0].detail
    assert "".join(event.text for event in events if isinstance(event, Delta)) == first.text
    assert [event.then for event in events if isinstance(event, AttemptFailed)] == [NextStep.CACHE]
    assert [record.account for record in reply.attempts] == ["a-1"]
    asked = len(upstream.calls)
    assert (await orchestrator.chat(ask())).cached_age_s == 300.0
    assert len(upstream.calls) == asked


@pytest.mark.parametrize("change", [{"text": "Why not?"}, {"temperature": 0.5}, {"max_output_tokens": 9}])
async def test_any_other_request_fails_as_ever(start, upstream, change):
    orchestrator = await start(system(pool("main", "a-1"), cache_s=600.0))
    await orchestrator.chat(ask())
    upstream.always("a-1", [REVOKED])
    with pytest.raises(RequestError):
        await orchestrator.chat(ask(**change))


async def test_too_old_an_answer_does_not_stand_in(start, upstream, clock):
    orchestrator = await start(system(pool("main", "a-1"), cache_s=600.0))
    await orchestrator.chat(ask())
    clock.advance(600.1)
    upstream.always("a-1", [WALL])
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())


async def test_while_somebody_answers_no_earlier_answer_is_given(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1"), cache_s=600.0))
    await orchestrator.chat(ask())
    upstream.always("a-1", [WALL])
    reply = await orchestrator.chat(ask())
    assert (reply.account, reply.cached_age_s) == ("b-1", None)


async def test_without_the_setting_nothing_is_kept(start, upstream):
    orchestrator = await start(system(pool("main", "a-1")))
    await orchestrator.chat(ask())
    upstream.always("a-1", [WALL])
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())


async def test_a_request_of_its_own_making_gets_no_earlier_answer(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), cache_s=600.0))
    await orchestrator.chat(ask())
    upstream.always("a-1", [failure(ErrorCategory.INVALID_REQUEST, http_status=400)])
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert caught.value.failure.category is ErrorCategory.INVALID_REQUEST


# -- the queue -------------------------------------------------------------------------------


async def read_until(events, kind):
    seen = []
    async for event in events:
        seen.append(event)
        if isinstance(event, kind):
            return seen
    raise AssertionError(f"no {kind.__name__} came")


async def test_a_request_waits_until_capacity_returns_and_is_then_answered(start, upstream, clock):
    upstream.queue("a-1", [WALL])
    orchestrator = await start(system(pool("main", "a-1")))
    events = orchestrator.stream(ask(queue=QueueTerms(expires_s=600.0, priority=2)))
    seen = await read_until(events, RequestQueued)
    queued = seen[-1]
    assert (queued.place, queued.priority) == (1, 2)
    assert queued.expires_at == pytest.approx(clock.time() + 600.0)
    assert queued.failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert [event.then for event in seen if isinstance(event, AttemptFailed)] == [NextStep.QUEUE]
    assert [entry.priority for entry in orchestrator.snapshot().queue.requests] == [2]
    answer = asyncio.create_task(read_until(events, RequestFinished))
    await asyncio.wait({answer}, timeout=0.05)
    assert len(upstream.calls) == 1, "nobody is asked while the wall stands"
    clock.advance(61.0)
    seen = await answer
    assert isinstance(seen[0], RequestReplayed)
    assert seen[0].waited_s == pytest.approx(61.0)
    assert [event.account for event in seen if isinstance(event, AttemptStarted)] == ["a-1"]
    reply = seen[-1].reply
    assert (reply.text, reply.queued_s) == ("Hello world", pytest.approx(61.0))
    assert orchestrator.snapshot().queue.requests == ()


async def test_the_chain_s_rule_holds_where_the_request_has_none(start, upstream, clock):
    upstream.queue("a-1", [WALL])
    orchestrator = await start(system(pool("main", "a-1"), queue_s=600.0))
    answer = asyncio.create_task(orchestrator.chat(ask()))
    await asyncio.wait({answer}, timeout=0.02)
    clock.advance(61.0)
    assert (await answer).text == "Hello world"


async def test_a_request_that_time_cannot_heal_is_not_queued(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), queue_s=600.0))
    for error in (failure(ErrorCategory.INVALID_REQUEST), failure(ErrorCategory.CONTENT_FILTERED), REVOKED):
        upstream.queue("a-1", [error])
        with pytest.raises(RequestError) as caught:
            await orchestrator.chat(ask())
        assert caught.value.failure.category is error.category


async def test_one_account_that_rests_is_waited_for_among_many_that_never_can(start, upstream, clock):
    upstream.queue("a-1", [WALL])
    upstream.always("b-1", [REVOKED])
    upstream.always("b-2", [REVOKED])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1", "b-2"), queue_s=600.0))
    first = asyncio.create_task(orchestrator.chat(ask()))
    await asyncio.wait({first}, timeout=0.02)
    second = asyncio.create_task(orchestrator.chat(ask()))
    await asyncio.wait({second}, timeout=0.02)
    assert len(orchestrator.snapshot().queue.requests) == 2
    clock.advance(61.0)
    assert [(await answer).account for answer in (first, second)] == ["a-1", "a-1"]


async def test_its_time_runs_out_with_the_reason_for_which_it_waited(start, upstream, clock):
    upstream.always("a-1", [WALL])
    orchestrator = await start(system(pool("main", "a-1")))
    published = orchestrator.subscribe()
    answer = asyncio.create_task(orchestrator.chat(ask(queue=QueueTerms(expires_s=30.0))))
    await asyncio.wait({answer}, timeout=0.02)
    clock.advance(31.0)
    with pytest.raises(RequestError) as caught:
        await answer
    assert caught.value.failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert isinstance(published.drain()[0][-1], RequestFailed)


async def test_a_caller_that_goes_away_leaves_the_queue(start, upstream):
    upstream.always("a-1", [WALL])
    orchestrator = await start(system(pool("main", "a-1"), queue_s=600.0))
    answer = asyncio.create_task(orchestrator.chat(ask()))
    await asyncio.wait({answer}, timeout=0.02)
    assert len(orchestrator.snapshot().queue.requests) == 1
    answer.cancel()
    await asyncio.wait({answer})
    assert orchestrator.snapshot().queue.requests == ()


async def test_an_operator_takes_a_request_out_of_the_queue(start, upstream):
    upstream.always("a-1", [WALL])
    orchestrator = await start(system(pool("main", "a-1"), queue_s=600.0))
    answer = asyncio.create_task(orchestrator.chat(ask(id="mine")))
    await asyncio.wait({answer}, timeout=0.02)
    assert not orchestrator.execute(DropQueued("yours")).ok
    assert orchestrator.execute(DropQueued("mine")).ok
    with pytest.raises(RequestError) as caught:
        await answer
    assert caught.value.failure.category is ErrorCategory.QUOTA_EXHAUSTED
    assert orchestrator.snapshot().queue.requests == ()


async def test_another_request_of_the_same_name_does_not_end_the_wait(start, upstream, clock):
    upstream.queue("a-1", [WALL])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1"), queue_s=600.0))
    waiting = asyncio.create_task(orchestrator.chat(ask(id="twin", avoid=frozenset({"b-1"}))))
    await asyncio.wait({waiting}, timeout=0.02)
    assert len(orchestrator.snapshot().queue.requests) == 1
    with pytest.raises(RequestError, match="twin"):
        await orchestrator.chat(ask(id="twin"))
    assert len(orchestrator.snapshot().queue.requests) == 1
    clock.advance(61.0)
    assert (await waiting).text == "Hello world"


async def test_an_answer_that_has_begun_is_never_queued(start, upstream):
    upstream.always("a-1", [Chunk("Hel"), REVOKED])
    orchestrator = await start(system(pool("main", "a-1"), queue_s=600.0, cache_s=600.0))
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert caught.value.partial == "Hel"


async def test_an_earlier_answer_comes_before_the_queue(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), queue_s=600.0, cache_s=600.0))
    await orchestrator.chat(ask())
    upstream.always("a-1", [WALL])
    assert (await orchestrator.chat(ask())).cached_age_s == 0.0


async def test_a_request_that_is_replayed_in_vain_keeps_its_place_and_goes_on_waiting(start, upstream, clock):
    gate = Pause()
    upstream.queue("a-1", [WALL], [WALL], [gate, *ANSWER])
    orchestrator = await start(system(pool("main", "a-1"), queue_s=6_000.0))
    answer = asyncio.create_task(orchestrator.chat(ask()))
    for _ in range(100):
        await asyncio.wait({answer}, timeout=0.05)
        if gate.reached.is_set():
            break
        clock.advance(61.0)
    gate.go_on.set()
    reply = await answer
    assert [record.account for record in reply.attempts] == ["a-1"] * 3
    assert reply.queued_s > 100.0
