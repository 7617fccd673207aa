"""A request's life: routed, tried, answered, failed over, broken off, cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smartfallback import (
    AccountSpec,
    AttemptFailed,
    AttemptResult,
    AttemptStarted,
    ChainSpec,
    DegradationKind,
    Delta,
    ErrorCategory,
    Message,
    NextStep,
    OnBreak,
    ProviderKind,
    QuotaThresholds,
    QuotaUnit,
    RequestCancelled,
    RequestError,
    RequestFinished,
    RequestRouted,
    Role,
    Timeouts,
    Usage,
    WindowKind,
    WindowSpec,
)
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

SERVER_ERROR = failure(ErrorCategory.API_FAILURE, http_status=500)
OVERLOADED = failure(ErrorCategory.TRANSIENT_ERROR, http_status=503)
BURST = failure(ErrorCategory.RATE_LIMIT, http_status=429)


async def test_events_come_in_order_and_the_reply_says_who_answered(start):
    orchestrator = await start(system(pool("main", "a-1")))
    events = [event async for event in orchestrator.stream(ask())]
    assert [type(event) for event in events] == [RequestRouted, AttemptStarted, Delta, Delta, RequestFinished]
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    reply = events[-1].reply
    assert (reply.text, reply.account, reply.pool, reply.model) == (
        "Hello world",
        "a-1",
        "main",
        "main-model",
    )
    assert reply.usage == Usage(10, 5)
    assert not reply.degraded
    assert [record.result for record in reply.attempts] == [AttemptResult.SUCCESS]


async def test_usage_is_estimated_and_marked_so_when_the_upstream_reports_none(start, upstream):
    upstream.always("a-1", [Chunk("x" * 40), Chunk("", "stop")])
    orchestrator = await start(system(pool("main", "a-1")))
    reply = await orchestrator.chat(ask("y" * 80))
    assert reply.usage.estimated
    assert reply.usage.output_tokens == pytest.approx(10, abs=2)
    assert reply.usage.input_tokens == pytest.approx(20, abs=5)


async def test_an_error_before_the_first_token_switches_and_the_caller_sees_one_answer(start, upstream):
    upstream.always("a-1", [Chunk(""), BURST])
    orchestrator = await start(system(pool("main", "a-1", "a-2")))
    for _ in range(5):
        events = [event async for event in orchestrator.stream(ask())]
        deltas = [event.text for event in events if isinstance(event, Delta)]
        assert "".join(deltas) == events[-1].reply.text == "Hello world"
        assert events[-1].reply.account == "a-2"
    assert upstream.accounts_called().count("a-1") <= 1


async def test_an_error_after_the_first_token_is_explicit_and_repeats_nothing(start, upstream):
    cut = failure(ErrorCategory.MALFORMED_RESPONSE, message="cut")
    upstream.always("a-1", [Chunk("Hel"), Chunk("lo"), cut])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    deltas: list[str] = []

    async def read() -> None:
        async for event in orchestrator.stream(ask()):
            if isinstance(event, Delta):
                deltas.append(event.text)

    with pytest.raises(RequestError) as caught:
        await read()
    assert "".join(deltas) == caught.value.partial == "Hello"
    assert caught.value.failure.category is ErrorCategory.MALFORMED_RESPONSE
    assert upstream.accounts_called() == ["a-1"]
    account = orchestrator.snapshot().account("a-1")
    assert account is not None
    assert account.failures == 1
    assert account.circuit.failures == 1


async def test_a_stream_that_ends_without_a_final_chunk_is_an_error(start, upstream):
    upstream.always("a-1", [Chunk("Hello")])
    orchestrator = await start(system(pool("main", "a-1")))
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert caught.value.failure.category is ErrorCategory.MALFORMED_RESPONSE
    assert caught.value.partial == "Hello"


async def test_an_empty_answer_is_retried_then_switched(start, upstream):
    upstream.always("a-1", [Chunk("", "stop")])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    reply = await orchestrator.chat(ask())
    assert reply.account == "b-1"
    assert upstream.accounts_called() == ["a-1", "a-1", "b-1"]


async def test_a_transient_error_tries_the_same_account_again_first(start, upstream):
    upstream.queue("a-1", [OVERLOADED])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    reply = await orchestrator.chat(ask())
    assert upstream.accounts_called() == ["a-1", "a-1"]
    assert [record.result for record in reply.attempts] == [AttemptResult.FAILED, AttemptResult.SUCCESS]


async def test_a_server_error_switches_pool_and_spares_the_siblings(start, upstream):
    for name in ("a-1", "a-2", "a-3"):
        upstream.always(name, [SERVER_ERROR])
    orchestrator = await start(system(pool("main", "a-1", "a-2", "a-3"), pool("next", "b-1")))
    reply = await orchestrator.chat(ask())
    assert reply.account == "b-1"
    assert len(upstream.calls) == 2
    assert [d.kind for d in reply.degradations] == [DegradationKind.FALLBACK_POOL]


async def test_a_provider_that_is_down_costs_at_most_its_threshold(start, upstream):
    names = [f"a-{n}" for n in range(1, 9)]
    for name in names:
        upstream.always(name, [SERVER_ERROR])
    orchestrator = await start(system(pool("main", *names), pool("next", "b-1")))
    for _ in range(40):
        assert (await orchestrator.chat(ask())).account == "b-1"
    failed = [name for name in upstream.accounts_called() if name != "b-1"]
    assert len(failed) == 5


async def test_half_open_lets_the_provider_prove_itself(start, upstream, clock):
    upstream.always("a-1", [SERVER_ERROR])
    upstream.always("a-2", [SERVER_ERROR])
    orchestrator = await start(system(pool("main", "a-1", "a-2"), pool("next", "b-1")))
    for _ in range(20):
        await orchestrator.chat(ask())
    upstream.always("a-1", ANSWER)
    upstream.always("a-2", ANSWER)
    clock.advance(400)
    answered_by = [(await orchestrator.chat(ask())).pool for _ in range(10)]
    assert answered_by == ["main"] * 3 + ["next"] * 7, "three probes, then its traffic climbs"
    clock.advance(130)
    assert [(await orchestrator.chat(ask())).pool for _ in range(10)] == ["main"] * 10


async def test_an_invalid_request_fails_at_once_without_rotation(start, upstream):
    upstream.always("a-1", [failure(ErrorCategory.INVALID_REQUEST, http_status=400)])
    upstream.always("a-2", [failure(ErrorCategory.INVALID_REQUEST, http_status=400)])
    orchestrator = await start(system(pool("main", "a-1", "a-2"), pool("next", "b-1")))
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert caught.value.failure.category is ErrorCategory.INVALID_REQUEST
    assert len(upstream.calls) == 1
    assert all(a.circuit.failures == 0 for p in orchestrator.snapshot().pools for a in p.accounts)


async def test_a_context_overflow_is_answered_with_a_trimmed_history(start, upstream):
    overflow = failure(ErrorCategory.INVALID_REQUEST, http_status=400, context_overflow=True)
    upstream.queue("a-1", [overflow])
    orchestrator = await start(system(pool("main", "a-1")))
    turns = [Message(Role.SYSTEM, "Be brief.")]
    for number in range(4):
        turns += [Message(Role.USER, f"question {number}"), Message(Role.ASSISTANT, f"answer {number}")]
    turns.append(Message(Role.USER, "the last question"))
    reply = await orchestrator.chat(replace(ask(), messages=tuple(turns)))
    sent = upstream.calls[-1].messages
    assert sent[0] == turns[0]
    assert sent[-1] == turns[-1]
    assert len(sent) < len(turns)
    assert [d.kind for d in reply.degradations] == [DegradationKind.TRIMMED_HISTORY]


async def test_when_all_fail_the_error_lists_every_attempt_and_the_next_availability(start, upstream, clock):
    upstream.always("a-1", [failure(ErrorCategory.RATE_LIMIT, http_status=429, retry_after_s=40.0)])
    upstream.always("b-1", [failure(ErrorCategory.RATE_LIMIT, http_status=429, retry_after_s=90.0)])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert [record.account for record in caught.value.attempts] == ["a-1", "b-1"]
    assert caught.value.next_available_at == pytest.approx(clock.time() + 40, abs=1)
    with pytest.raises(RequestError) as again:
        await orchestrator.chat(ask())
    assert again.value.attempts == ()
    assert again.value.failure.category is ErrorCategory.RATE_LIMIT
    assert {line.split(":")[0] for line in again.value.skipped} == {"a-1", "b-1"}


async def test_a_stated_wait_is_honoured_to_the_second(start, upstream, clock):
    upstream.queue("a-1", [failure(ErrorCategory.RATE_LIMIT, http_status=429, retry_after_s=40.0)])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(39)
    assert (await orchestrator.chat(ask())).account == "b-1"
    clock.advance(1.1)
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_a_rate_limit_on_one_model_leaves_the_others_usable(start, upstream):
    limited = failure(ErrorCategory.RATE_LIMIT, http_status=429, model="big", retry_after_s=60.0)
    upstream.queue("a-1", [limited])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    assert (await orchestrator.chat(ask(model="big"))).account == "b-1"
    assert (await orchestrator.chat(ask(model="big"))).account == "b-1"
    assert (await orchestrator.chat(ask(model="small"))).account == "a-1"


async def test_refused_credentials_need_attention_and_are_named(start, upstream):
    refused = failure(ErrorCategory.AUTHENTICATION, http_status=401, hint="check the key of account a-1")
    upstream.always("a-1", [refused])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    for _ in range(3):
        assert (await orchestrator.chat(ask())).account == "b-1"
    assert upstream.accounts_called().count("a-1") == 1
    account = orchestrator.snapshot().account("a-1")
    assert account is not None
    assert "401" in account.attention


async def test_the_operator_sees_a_cancelled_request_as_nobodys_fault(start, upstream):
    pause = Pause()
    upstream.always("a-1", [Chunk("Hel"), pause])
    spec = AccountSpec("a-1", quota=(WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000),))
    orchestrator = await start(system(pool("main", spec)))
    events = orchestrator.subscribe()
    task = asyncio.create_task(orchestrator.chat(ask()))
    await pause.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    account = orchestrator.snapshot().account("a-1")
    assert account is not None
    assert (account.in_flight, account.failures, account.circuit.failures) == (0, 0, 0)
    assert account.quota.windows[0].held == 0
    assert upstream.closed == ["a-1"]
    assert isinstance(events.drain()[0][-1], RequestCancelled)


async def test_a_caller_that_leaves_the_loop_early_cancels_the_upstream_call(start, upstream):
    pause = Pause()
    upstream.always("a-1", [Chunk("Hel"), pause])
    orchestrator = await start(system(pool("main", "a-1")))
    stream = orchestrator.stream(ask())
    async for event in stream:
        if isinstance(event, Delta):
            break
    await stream.aclose()
    assert upstream.closed == ["a-1"]
    account = orchestrator.snapshot().account("a-1")
    assert account is not None
    assert account.in_flight == 0


async def test_a_slow_first_token_is_cut_off_and_switched(start, upstream):
    upstream.always("a-1", [Chunk(""), Pause()])
    slow = pool("main", "a-1", timeouts=Timeouts(first_token_s=0.02))
    orchestrator = await start(system(slow, pool("next", "b-1")))
    events = [event async for event in orchestrator.stream(ask())]
    failed = [event for event in events if isinstance(event, AttemptFailed)]
    assert failed[0].failure.category is ErrorCategory.TIMEOUT
    assert events[-1].reply.account == "b-1"


async def test_the_last_candidate_is_never_cut_off_by_a_first_token_timeout(start, upstream):
    pause = Pause()
    upstream.always("a-1", [pause, *ANSWER])
    orchestrator = await start(system(pool("main", "a-1", timeouts=Timeouts(first_token_s=0.01))))
    task = asyncio.create_task(orchestrator.chat(ask()))
    await pause.reached.wait()
    await asyncio.sleep(0.05)
    pause.go_on.set()
    assert (await task).account == "a-1"


async def test_a_stalled_stream_ends_by_the_idle_timeout(start, upstream):
    upstream.always("a-1", [Chunk("Hel"), Pause()])
    orchestrator = await start(
        system(pool("main", "a-1", timeouts=Timeouts(idle_s=0.02)), pool("next", "b-1"))
    )
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(replace(ask(), on_break=OnBreak.ERROR))
    assert caught.value.failure.category is ErrorCategory.TIMEOUT
    assert caught.value.partial == "Hel"


async def test_a_short_stated_wait_is_sat_out_on_the_last_candidate(start, upstream):
    upstream.queue("a-1", [failure(ErrorCategory.RATE_LIMIT, http_status=429, retry_after_s=0.01)])
    orchestrator = await start(system(pool("main", "a-1")), real_time=True)
    reply = await orchestrator.chat(ask())
    assert [record.account for record in reply.attempts] == ["a-1", "a-1"]


async def test_a_mistake_in_an_adapter_takes_no_other_candidate_with_it(start, upstream):
    upstream.always("a-1", [KeyError("sk-secret-secret-secret")])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    reply = await orchestrator.chat(ask())
    assert reply.account == "b-1"
    failed = reply.attempts[0].failure
    assert failed.category is ErrorCategory.UNKNOWN
    assert str(failed) == "unknown: the adapter failed with KeyError"


async def test_one_deadline_covers_everything(start, upstream):
    upstream.always("a-1", [Pause()])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask(timeout_s=0.05))
    assert caught.value.failure.category is ErrorCategory.TIMEOUT


async def test_a_hundred_callers_on_room_for_ten(start, upstream):
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.REQUESTS, 10),)
    account = AccountSpec("a-1", quota=quota, max_concurrency=100)
    whole = QuotaThresholds(soft_limit=100, hard_limit=100)
    orchestrator = await start(system(pool("main", account, thresholds=whole)))
    results = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(100)), return_exceptions=True)
    passed = [result for result in results if not isinstance(result, BaseException)]
    assert len(passed) == 10
    assert all(isinstance(result, RequestError) for result in results if result not in passed)


async def test_callers_wait_for_a_free_slot_rather_than_fail(start, upstream):
    orchestrator = await start(system(pool("main", AccountSpec("a-1", max_concurrency=2))))
    replies = await asyncio.gather(*(orchestrator.chat(ask()) for _ in range(20)))
    assert len(replies) == 20
    snapshot = orchestrator.snapshot().account("a-1")
    assert snapshot is not None
    assert snapshot.in_flight == 0


async def test_two_slots_freed_at_once_wake_two_callers(start, upstream):
    pauses = [Pause(), Pause()]
    for pause in pauses:
        upstream.queue("a-1", [pause, *ANSWER])
    orchestrator = await start(system(pool("main", AccountSpec("a-1", max_concurrency=2))))
    tasks = [asyncio.create_task(orchestrator.chat(ask(timeout_s=5))) for _ in range(6)]
    for pause in pauses:
        await pause.reached.wait()
    assert len(upstream.calls) == 2
    for pause in pauses:
        pause.go_on.set()
    assert [reply.text for reply in await asyncio.gather(*tasks)] == ["Hello world"] * 6


async def test_a_broken_answer_costs_what_the_upstream_says_it_cost(start, upstream):
    cut = failure(ErrorCategory.MALFORMED_RESPONSE)
    upstream.always("a-1", [Chunk("Hel"), Chunk(usage=Usage(70, 30)), cut])
    spec = AccountSpec("a-1", quota=(WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000),))
    orchestrator = await start(system(pool("main", spec)))
    with pytest.raises(RequestError):
        await orchestrator.chat(replace(ask(), on_break=OnBreak.ERROR))
    window = orchestrator.snapshot().account("a-1").quota.windows[0]
    assert (window.used, window.held) == (100, 0)


async def test_above_the_soft_limit_the_next_cloud_pool_answers_and_the_reserve_comes_before_local(
    start, upstream
):
    quota = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000),)
    main = pool("main", AccountSpec("a-1", quota=quota), AccountSpec("a-2", quota=quota))
    copilot = pool("copilot", AccountSpec("b-1", quota=quota))
    local = pool("local", "gguf", provider=ProviderKind.LOCAL)
    orchestrator = await start(system(main, copilot, local))
    orchestrator.preload_usage({"a-1": 82_000, "a-2": 84_000})
    assert (await orchestrator.chat(ask())).account == "b-1"
    orchestrator.preload_usage({"b-1": 90_000})
    reserve = await orchestrator.chat(ask())
    assert reserve.pool == "main"
    assert DegradationKind.RESERVE_QUOTA in [d.kind for d in reserve.degradations]
    orchestrator.preload_usage({"a-1": 96_000, "a-2": 99_000, "b-1": 97_000})
    last = await orchestrator.chat(ask())
    assert last.account == "gguf"
    assert DegradationKind.LOCAL_MODEL in [d.kind for d in last.degradations]


async def test_pinned_and_avoided_accounts(start, upstream):
    orchestrator = await start(system(pool("main", "a-1", "a-2"), pool("next", "b-1")))
    assert {(await orchestrator.chat(ask(pin="a-2"))).account for _ in range(5)} == {"a-2"}
    assert {(await orchestrator.chat(ask(avoid=frozenset({"a-1"})))).account for _ in range(5)} == {"a-2"}
    with pytest.raises(RequestError, match="no account 'nobody'"):
        await orchestrator.chat(ask(pin="nobody"))
    with pytest.raises(RequestError, match="no chain 'fats'"):
        await orchestrator.chat(ask(chain="fats"))


async def test_a_filtered_answer_switches_pool_only_when_configured(start, upstream):
    upstream.always("a-1", [failure(ErrorCategory.CONTENT_FILTERED)])
    strict = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    with pytest.raises(RequestError):
        await strict.chat(ask())
    lenient = await start(
        replace(
            system(pool("main", "a-1"), pool("next", "b-1")),
            chains=(ChainSpec("default", ("main", "next"), switch_on_content_filter=True),),
        )
    )
    assert (await lenient.chat(ask())).account == "b-1"


async def test_the_failed_attempt_says_what_comes_next(start, upstream):
    upstream.always("a-1", [SERVER_ERROR])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    failed = [event async for event in orchestrator.stream(ask()) if isinstance(event, AttemptFailed)]
    assert [event.then for event in failed] == [NextStep.SWITCH_POOL]
