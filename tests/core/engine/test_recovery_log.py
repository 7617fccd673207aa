"""What the snapshot tells of recoveries, and what requests that were queued or answered early count for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smartfallback import (
    CircuitSettings,
    ErrorCategory,
    Orchestrator,
    QueueTerms,
    RecoveryAction,
    RecoverySpec,
    RequestError,
    RequestQueued,
)
from smartfallback.providers.base import Chunk
from support.scripted import ANSWER, Pause, ask, failure, pool, system

OVERLOADED = failure(ErrorCategory.TRANSIENT_ERROR, http_status=503)
SERVER_ERROR = failure(ErrorCategory.API_FAILURE, http_status=500)
WALL = failure(ErrorCategory.QUOTA_EXHAUSTED, http_status=429, retry_after_s=60.0)
ONE_IS_ENOUGH = CircuitSettings(failure_threshold=1)


def samples(orchestrator: Orchestrator) -> tuple[int, int]:
    """How many latencies and first tokens were measured."""
    snapshot = orchestrator.snapshot()
    return sum(snapshot.latency.counts), sum(snapshot.first_token.counts)


async def test_a_failover_is_logged_with_both_accounts_and_the_circuit_it_opened(start, upstream, clock):
    orchestrator = await start(
        system(pool("main", "a-1", account_circuit=ONE_IS_ENOUGH), pool("next", "b-1"))
    )
    upstream.always("a-1", [SERVER_ERROR])
    await orchestrator.chat(ask())
    view = orchestrator.snapshot().recovery
    (record,) = view.recent
    assert (record.original_account, record.final_account, record.success) == ("a-1", "b-1", True)
    assert (record.category, record.attempts, record.chain) == (ErrorCategory.API_FAILURE, 2, "default")
    assert set(record.actions) >= {RecoveryAction.CIRCUIT_BREAK, RecoveryAction.SWITCH_PROVIDER}
    assert record.at == clock.time()
    assert view.overall.success_rate == 1.0


async def test_an_overloaded_account_is_scaled_down_for_the_request_that_met_it(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    gate = Pause()
    upstream.queue("a-1", [gate, *ANSWER])
    held = asyncio.create_task(orchestrator.chat(ask()))
    await gate.reached.wait()
    upstream.always("a-1", [OVERLOADED])
    await orchestrator.chat(ask())
    gate.go_on.set()
    await held
    (record,) = orchestrator.snapshot().recovery.recent
    assert RecoveryAction.SCALE_DOWN in record.actions


async def test_an_invalid_request_is_no_recovery(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    upstream.always("a-1", [failure(ErrorCategory.INVALID_REQUEST, http_status=400)])
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())
    assert orchestrator.snapshot().recovery.overall.recoveries == 0


async def test_a_broken_off_answer_is_recovered_by_the_account_that_goes_on(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1")))
    upstream.always("a-1", [Chunk("Hello"), SERVER_ERROR])
    upstream.always("b-1", [Chunk(" world"), Chunk("", "stop")])
    await orchestrator.chat(ask())
    (record,) = orchestrator.snapshot().recovery.recent
    assert (record.final_account, record.success) == ("b-1", True)
    assert RecoveryAction.SWITCH_PROVIDER in record.actions


async def test_an_answer_from_the_cache_is_nobodys_use_and_no_latency(start, upstream):
    orchestrator = await start(system(pool("main", "a-1"), cache_s=600.0))
    await orchestrator.chat(ask())
    upstream.always("a-1", [WALL])
    await orchestrator.chat(ask())
    before = orchestrator.snapshot()
    measured = samples(orchestrator)
    # Nobody is even asked while the wall stands: no attempt, and no event that tells of its routing.
    await orchestrator.chat(ask())
    after = orchestrator.snapshot()
    assert samples(orchestrator) == measured == (1, 1)
    assert after.pools[0].accounts[0].requests == before.pools[0].accounts[0].requests
    assert (after.traffic.total_requests, after.traffic.total_failed) == (3, 0)
    assert (after.traffic.in_flight, after.traffic.success_rate) == (0, 1.0)
    assert [record.actions for record in after.recovery.recent] == [(RecoveryAction.USE_CACHE,)] * 2
    assert after.recovery.recent[0].final_account is None


async def test_a_request_in_the_queue_counts_once_from_its_first_try_to_its_answer(start, upstream, clock):
    orchestrator = await start(system(pool("main", "a-1")))
    upstream.queue("a-1", [WALL])
    answers = [asyncio.create_task(orchestrator.chat(ask(queue=QueueTerms(600.0)))) for _ in range(2)]
    await asyncio.wait(answers, timeout=0.05)
    waiting = orchestrator.snapshot()
    assert len(waiting.queue.requests) == 2, "one was tried, the other met the wall at once"
    assert (waiting.traffic.total_requests, waiting.traffic.in_flight) == (2, 2)
    clock.advance(61.0)
    await asyncio.gather(*answers)
    done = orchestrator.snapshot()
    assert (done.traffic.total_requests, done.traffic.in_flight, done.traffic.total_failed) == (2, 0, 0)
    assert samples(orchestrator) == (0, 0), "the time in the queue is no account's latency"
    assert [record.actions for record in done.recovery.recent] == [(RecoveryAction.QUEUE_REQUEST,)] * 2
    assert all(record.total_s >= 61.0 for record in done.recovery.recent)


@pytest.mark.parametrize("how", ["expires", "goes away"])
async def test_a_request_that_leaves_the_queue_unanswered_is_in_flight_no_more(start, upstream, clock, how):
    orchestrator = await start(system(pool("main", "a-1")))
    upstream.always("a-1", [WALL])
    published = orchestrator.subscribe()
    answer = asyncio.create_task(orchestrator.chat(ask(queue=QueueTerms(30.0))))
    await asyncio.wait({answer}, timeout=0.05)
    assert any(isinstance(event, RequestQueued) for event in published.drain()[0])
    if how == "expires":
        clock.advance(31.0)
    else:
        answer.cancel()
    await asyncio.wait({answer})
    snapshot = orchestrator.snapshot()
    assert (snapshot.traffic.total_requests, snapshot.traffic.in_flight) == (1, 0)
    assert snapshot.traffic.total_failed == (1 if how == "expires" else 0)
    assert [record.success for record in snapshot.recovery.recent] == ([False] if how == "expires" else [])


async def test_the_retry_budget_is_that_of_the_settings(start, upstream):
    spec = replace(system(pool("main", "a-1")), recovery=RecoverySpec(retry_share=0.5, retry_reserve=2))
    orchestrator = await start(spec)
    assert orchestrator.snapshot().retry_budget_left == 2.0
    await orchestrator.chat(ask())
    assert orchestrator.snapshot().retry_budget_left == 2.5
    upstream.queue("a-1", [OVERLOADED])
    await orchestrator.chat(ask())
    assert orchestrator.snapshot().retry_budget_left == 2.0


async def test_an_empty_budget_allows_no_retry(start, upstream):
    spec = replace(system(pool("main", "a-1")), recovery=RecoverySpec(retry_share=0.0, retry_reserve=0))
    orchestrator = await start(spec)
    upstream.always("a-1", [OVERLOADED])
    with pytest.raises(RequestError):
        await orchestrator.chat(ask())
    assert len(upstream.calls) == 1
