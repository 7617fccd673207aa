"""Bursts and walls: who rests, for how long, and that many at once count as one."""

from __future__ import annotations

import asyncio

import pytest

from smartfallback import (
    AccountSpec,
    CircuitChanged,
    CooldownStarted,
    ErrorCategory,
    QuotaUnit,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.events import ResetOverdue
from support.scripted import Pause, ask, failure, pool, system

WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 10_000_000, "sun 00:00 UTC")
KINDS = (ErrorCategory.RATE_LIMIT, ErrorCategory.QUOTA_EXHAUSTED)


def limit(category: ErrorCategory, wait: float | None, **fields: object):
    return failure(category, http_status=429, retry_after_s=wait, **fields)


def accounts(*names: str, **fields: object) -> list[AccountSpec]:
    return [AccountSpec(name, quota=(WEEK,), **fields) for name in names]  # type: ignore[arg-type]


async def answered_by(orchestrator, **fields: object) -> str:
    return (await orchestrator.chat(ask(**fields))).account


@pytest.mark.parametrize("category", KINDS)
@pytest.mark.parametrize("wait", [40.0, 7_999.0])
async def test_a_stated_wait_of_an_account_ends_to_the_second(start, upstream, clock, category, wait):
    orchestrator = await start(system(pool("main", *accounts("a-1")), pool("next", "b-1")))
    upstream.queue("a-1", [limit(category, wait)])
    assert await answered_by(orchestrator) == "b-1"
    clock.advance(wait - 0.5)
    assert await answered_by(orchestrator) == "b-1"
    clock.advance(0.51)
    assert await answered_by(orchestrator) == "a-1"


@pytest.mark.parametrize("category", KINDS)
async def test_a_stated_wait_of_a_model_leaves_the_others_alone_and_ends_to_the_second(
    start, upstream, clock, category
):
    orchestrator = await start(system(pool("main", *accounts("a-1")), pool("next", "b-1")))
    upstream.queue("a-1", [limit(category, 7_999.0, model="big")])
    assert await answered_by(orchestrator, model="big") == "b-1"
    assert await answered_by(orchestrator, model="small") == "a-1"
    clock.advance(7_998.5)
    assert await answered_by(orchestrator, model="big") == "b-1"
    clock.advance(0.51)
    assert await answered_by(orchestrator, model="big") == "a-1"


@pytest.mark.parametrize("category", KINDS)
@pytest.mark.parametrize("model", [None, "big"])
async def test_the_accounts_of_a_project_rest_together(start, upstream, clock, category, model):
    shared = accounts("a-1", "a-2", "a-3", project="p")
    orchestrator = await start(
        system(pool("main", *shared, *accounts("a-4", project="q")), pool("next", "b-1"))
    )
    events = orchestrator.subscribe()
    upstream.queue("a-1", [limit(category, 60.0, project_wide=True, model=model)])
    assert await answered_by(orchestrator, model="big", avoid=frozenset({"a-2", "a-3"})) == "a-4"
    for _ in range(12):
        assert await answered_by(orchestrator, model="big") == "a-4"
    if model is not None:
        pinned = [await answered_by(orchestrator, model="small", pin=name) for name in ("a-1", "a-2", "a-3")]
        assert pinned == ["a-1", "a-2", "a-3"]
    elif category is ErrorCategory.RATE_LIMIT:
        told = [event.account for event in events.drain()[0] if isinstance(event, CooldownStarted)]
        assert sorted(told) == ["a-1", "a-2", "a-3"]
    clock.advance(60.01)
    for name in ("a-1", "a-2", "a-3"):
        assert await answered_by(orchestrator, model="big", pin=name) == name


async def test_a_projects_burst_is_no_fault_of_the_siblings(start, upstream, clock):
    orchestrator = await start(
        system(pool("main", *accounts("a-1", "a-2", project="p")), pool("next", "b-1"))
    )
    upstream.queue("a-1", [limit(ErrorCategory.RATE_LIMIT, 60.0, project_wide=True)])
    await answered_by(orchestrator, avoid=frozenset({"a-2"}))
    sibling = orchestrator.snapshot().account("a-2")
    assert (sibling.failures, sibling.circuit.failures, sibling.circuit.state.value) == (0, 0, "closed")
    assert "429" in sibling.cooldown_reason


async def test_without_a_project_a_wide_limit_holds_for_its_account_alone(start, upstream):
    orchestrator = await start(system(pool("main", *accounts("a-1", "a-2"))))
    upstream.queue("a-1", [limit(ErrorCategory.RATE_LIMIT, 60.0, project_wide=True)])
    for _ in range(30):
        assert await answered_by(orchestrator) in ("a-1", "a-2")
    assert orchestrator.snapshot().account("a-1").cooldown_until is not None
    assert orchestrator.snapshot().account("a-2").cooldown_until is None


@pytest.mark.parametrize("category", KINDS)
@pytest.mark.parametrize(("first", "second"), [(100.0, 300.0), (300.0, 100.0)])
async def test_of_two_waits_the_later_end_counts(start, upstream, clock, category, first, second):
    orchestrator = await start(system(pool("main", *accounts("a-1")), pool("next", "b-1")))
    pauses = (Pause(), Pause())
    upstream.queue("a-1", [pauses[0], limit(category, first)], [pauses[1], limit(category, second)])
    tasks = [asyncio.create_task(orchestrator.chat(ask())) for _ in pauses]
    for pause, task in zip(pauses, tasks, strict=True):
        await pause.reached.wait()
        pause.go_on.set()
        assert (await task).account == "b-1"
    clock.advance(299.5)
    assert await answered_by(orchestrator) == "b-1"
    clock.advance(0.51)
    assert await answered_by(orchestrator) == "a-1"


@pytest.mark.parametrize("model", [None, "big"])
@pytest.mark.parametrize("category", KINDS)
async def test_fifty_refusals_at_once_escalate_once(start, upstream, clock, category, model):
    spec = accounts("a-1", max_concurrency=50)
    orchestrator = await start(
        system(pool("main", *spec), pool("next", AccountSpec("b-1", max_concurrency=50)))
    )
    pauses = [Pause() for _ in range(50)]
    upstream.queue("a-1", *([pause, limit(category, 40.0, model=model)] for pause in pauses))
    tasks = [asyncio.create_task(orchestrator.chat(ask(model="big"))) for _ in pauses]
    for pause in pauses:
        await pause.reached.wait()
    events = orchestrator.subscribe()
    for pause in pauses:
        pause.go_on.set()
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(0.001)
    assert {reply.account for reply in await asyncio.gather(*tasks)} == {"b-1"}
    told = events.drain()[0]
    changes = [event for event in told if isinstance(event, CircuitChanged)]
    rests = [event for event in told if isinstance(event, CooldownStarted)]
    bursts = category is ErrorCategory.RATE_LIMIT
    assert len(changes) == (1 if bursts else 0)
    assert len(rests) == (1 if bursts or model is not None else 0)
    assert not [event for event in told if isinstance(event, ResetOverdue)]
    clock.advance(40.01)
    assert await answered_by(orchestrator, model="big") == "a-1"


async def test_a_refusal_without_a_stated_wait_is_a_short_rest(start, upstream, clock):
    orchestrator = await start(system(pool("main", *accounts("a-1")), pool("next", "b-1")))
    upstream.queue("a-1", [limit(ErrorCategory.RATE_LIMIT, None)])
    assert await answered_by(orchestrator) == "b-1"
    clock.advance(4.9)
    assert await answered_by(orchestrator) == "b-1"
    clock.advance(0.2)
    assert await answered_by(orchestrator) == "a-1"


async def test_a_wall_without_a_stated_end_lasts_until_the_window_begins_anew(start, upstream, clock):
    orchestrator = await start(system(pool("main", *accounts("a-1")), pool("next", "b-1")))
    upstream.queue("a-1", [limit(ErrorCategory.QUOTA_EXHAUSTED, None)])
    assert await answered_by(orchestrator) == "b-1"
    clock.advance(5.5 * 86_400 - 1)
    assert await answered_by(orchestrator) == "b-1"
    clock.advance(1.01)
    assert await answered_by(orchestrator) == "a-1"
