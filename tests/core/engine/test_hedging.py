"""A silent first candidate is hedged by a second one, within the retry budget."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smartfallback import (
    AccountSpec,
    AttemptFailed,
    AttemptOutrun,
    AttemptResult,
    AttemptStarted,
    Delta,
    Drain,
    ErrorCategory,
    ProviderKind,
    QuotaUnit,
    RecoverySpec,
    RequestError,
    RequestFinished,
    Usage,
    WindowKind,
    WindowSpec,
)
from smartfallback.providers.base import Chunk
from support.scripted import Pause, ask, failure, pool, system

STOP = Chunk("", "stop", Usage(20, 9))
WEEKLY = (WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000),)
PAIR = (AccountSpec("a-1", quota=WEEKLY), AccountSpec("b-1", quota=WEEKLY))


def hedged(*pools, after_s=0.01, **recovery):
    spec = system(*pools, hedge_after_s=after_s)
    return replace(spec, recovery=RecoverySpec(**recovery)) if recovery else spec


async def answered_after_a_failure(orchestrator, gate):
    """Open the gate once an attempt has failed; who answered in the end."""
    async for event in orchestrator.stream(ask()):
        if isinstance(event, AttemptFailed):
            gate.go_on.set()
        if isinstance(event, RequestFinished):
            return event.reply.account
    raise AssertionError("the stream ended without a result")


async def test_the_second_answers_while_the_first_is_silent_and_nobody_is_blamed(start, upstream):
    upstream.always("a-1", [Pause()])
    upstream.always("b-1", [Chunk("Hello"), STOP])
    orchestrator = await start(hedged(pool("main", PAIR[0]), pool("next", PAIR[1])))
    events = [event async for event in orchestrator.stream(ask())]
    reply = events[-1].reply
    assert (reply.account, reply.text) == ("b-1", "Hello")
    started = [event for event in events if isinstance(event, AttemptStarted)]
    assert [(event.account, event.hedge) for event in started] == [("a-1", False), ("b-1", True)]
    (outrun,) = [event for event in events if isinstance(event, AttemptOutrun)]
    assert (outrun.account, outrun.attempt, outrun.winner) == ("a-1", 1, 2)
    results = [(record.account, record.result) for record in reply.attempts]
    assert results == [("a-1", AttemptResult.OUTRUN), ("b-1", AttemptResult.SUCCESS)]
    loser = orchestrator.snapshot().account("a-1")
    assert (loser.in_flight, loser.failures, loser.circuit.calls) == (0, 0, 0)
    assert loser.quota.windows[0].held == 0
    assert "a-1" in upstream.closed


async def test_the_first_may_still_win_and_the_hedge_is_ended(start, upstream):
    slow, never = Pause(), Pause()
    upstream.always("a-1", [slow, Chunk("Hello"), STOP])
    upstream.always("b-1", [never])
    orchestrator = await start(hedged(pool("main", PAIR[0]), pool("next", PAIR[1])))
    answer = asyncio.create_task(orchestrator.chat(ask()))
    await never.reached.wait()
    accounts = [orchestrator.snapshot().account(name) for name in ("a-1", "b-1")]
    assert all(account.in_flight == 1 and account.quota.windows[0].held > 0 for account in accounts), (
        "quota is reserved on both"
    )
    slow.go_on.set()
    reply = await answer
    assert reply.account == "a-1"
    hedge = orchestrator.snapshot().account("b-1")
    assert (hedge.in_flight, hedge.quota.windows[0].held, hedge.failures) == (0, 0, 0)


async def test_who_fails_leaves_the_field_to_the_other(start, upstream):
    slow = Pause()
    upstream.always("a-1", [slow, Chunk("Hello"), STOP])
    upstream.always("b-1", [failure(ErrorCategory.TRANSIENT_ERROR, http_status=503)])
    orchestrator = await start(hedged(pool("main", "a-1"), pool("next", "b-1")))
    assert await answered_after_a_failure(orchestrator, slow) == "a-1"
    assert upstream.accounts_called() == ["a-1", "b-1"], "the failed hedge is not tried again"
    assert orchestrator.snapshot().account("b-1").failures == 1


async def test_when_both_fail_the_request_goes_on_as_ever(start, upstream):
    gate = Pause()
    upstream.always("a-1", [gate, failure(ErrorCategory.AUTHENTICATION)])
    upstream.always("b-1", [failure(ErrorCategory.AUTHENTICATION)])
    orchestrator = await start(hedged(*(pool(name, f"{name}-1") for name in "abc")))
    assert await answered_after_a_failure(orchestrator, gate) == "c-1"


async def test_a_prompt_answer_is_not_hedged(start, upstream):
    orchestrator = await start(hedged(pool("main", "a-1"), pool("next", "b-1"), after_s=5.0))
    await orchestrator.chat(ask())
    assert upstream.accounts_called() == ["a-1"]


async def test_hedges_spend_from_the_retry_budget(start, upstream):
    upstream.always("a-1", [Pause()])
    spec = hedged(pool("main", "a-1"), pool("next", "b-1"), retry_share=0.0, retry_reserve=2)
    orchestrator = await start(spec)
    for _ in range(2):
        assert (await orchestrator.chat(ask())).account == "b-1"
    waiting = asyncio.create_task(orchestrator.chat(ask()))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    assert upstream.accounts_called().count("b-1") == 2
    waiting.cancel()
    await asyncio.wait({waiting})


@pytest.mark.parametrize("other", ["local", "nobody", "drained"])
async def test_nobody_suitable_means_no_hedge(start, upstream, other):
    gate = Pause()
    upstream.always("a-1", [gate, Chunk("Hello"), STOP])
    pools = [pool("main", "a-1")]
    if other == "local":
        pools.append(pool("local", "b-1", provider=ProviderKind.LOCAL))
    elif other == "drained":
        pools.append(pool("next", "b-1"))
    orchestrator = await start(hedged(*pools))
    if other == "drained":
        assert orchestrator.execute(Drain("b-1")).ok
    answer = asyncio.create_task(orchestrator.chat(ask()))
    done, _ = await asyncio.wait({answer}, timeout=0.05)
    assert not done
    gate.go_on.set()
    assert (await answer).account == "a-1"
    assert upstream.accounts_called() == ["a-1"]


async def test_a_pinned_request_is_not_hedged(start, upstream):
    gate = Pause()
    upstream.always("a-1", [gate, Chunk("Hello"), STOP])
    orchestrator = await start(hedged(pool("main", "a-1"), pool("next", "b-1")))
    answer = asyncio.create_task(orchestrator.chat(ask(pin="a-1")))
    await asyncio.wait({answer}, timeout=0.05)
    gate.go_on.set()
    assert (await answer).account == "a-1"
    assert upstream.accounts_called() == ["a-1"]


async def test_the_first_token_does_not_wait_for_the_other_call_to_end(start, upstream):
    """The loser's adapter clings to its call."""
    released = asyncio.Event()

    class Clinging:
        def __init__(self, inner):
            self._inner = inner

        def unavailable(self):
            return ""

        async def stream(self, call):
            if call.account.id == "a-1":
                try:
                    await asyncio.Event().wait()
                finally:
                    await released.wait()
            async for chunk in self._inner.stream(call):
                yield chunk

        async def aclose(self):
            pass

    make = upstream.provider
    upstream.provider = lambda pool, clock: Clinging(make(pool, clock))
    orchestrator = await start(hedged(pool("main", "a-1"), pool("next", "b-1")))
    async for event in orchestrator.stream(ask()):
        if isinstance(event, Delta):
            released.set()  # only now may the other end
    assert isinstance(event, RequestFinished)
    assert event.reply.account == "b-1"


async def test_a_caller_that_goes_away_ends_both(start, upstream):
    second = Pause()
    upstream.always("a-1", [Pause()])
    upstream.always("b-1", [second])
    orchestrator = await start(hedged(pool("main", PAIR[0]), pool("next", PAIR[1])))
    tasks = asyncio.all_tasks()
    answer = asyncio.create_task(orchestrator.chat(ask()))
    await second.reached.wait()
    answer.cancel()
    await asyncio.sleep(0)
    accounts = [orchestrator.snapshot().account(name) for name in ("a-1", "b-1")]
    assert [(account.in_flight, account.quota.windows[0].held) for account in accounts] == [(0, 0), (0, 0)]
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert sorted(upstream.closed) == ["a-1", "b-1"]
    assert asyncio.all_tasks() == tasks


async def test_closing_the_orchestrator_ends_both(start, upstream):
    second = Pause()
    upstream.always("a-1", [Pause()])
    upstream.always("b-1", [second])
    orchestrator = await start(hedged(pool("main", "a-1"), pool("next", "b-1")))
    answer = asyncio.create_task(orchestrator.chat(ask()))
    await second.reached.wait()
    await orchestrator.aclose()
    with pytest.raises(RequestError) as caught:
        await answer
    assert "closed" in str(caught.value)
    assert sorted(upstream.closed) == ["a-1", "b-1"]


async def test_events_of_the_answer_are_those_of_the_winner_only(start, upstream):
    upstream.always("a-1", [Pause()])
    orchestrator = await start(hedged(pool("main", "a-1"), pool("next", "b-1")))
    events = [event async for event in orchestrator.stream(ask())]
    assert isinstance(events[-1], RequestFinished)
    assert "".join(event.text for event in events if hasattr(event, "text")) == events[-1].reply.text
