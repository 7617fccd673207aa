"""Ten thousand requests over real HTTP while every provider but one fails in 30 % of its attempts."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from smartfallback import (
    AccountSpec,
    AttemptDiverted,
    AttemptFailed,
    AttemptOutrun,
    AttemptResult,
    AttemptStarted,
    ChainSpec,
    CircuitSettings,
    CircuitState,
    Event,
    OnBreak,
    Orchestrator,
    PoolSpec,
    ProviderKind,
    Request,
    RequestCancelled,
    RequestError,
    RequestFailed,
    RequestFinished,
    RequestRouted,
    Secret,
    SystemClock,
    SystemSpec,
    Timeouts,
)
from smartfallback.model.circuits import ACCOUNT_DEFAULT, PROVIDER
from smartfallback.model.specs import QuotaSourceRule
from support.faulty_upstream import FaultyUpstream, Ill, answer, faulty_upstream, one_in
from support.lab_systems import WEEKLY, local_pool
from support.leftovers import children, held, open_sockets, tasks, unfinished

REQUESTS = 10_000
CALLERS = 50
SHARE = 0.3
ANSWERED = 0.995
LASTING_TASKS = {"Maintenance.run", "ModelProcess._drain_stderr", "FaultyUpstream.serve"}
"""What runs between requests too; the last once for each connection that is kept."""
GEMINI, OPENAI, STEADY = "gemini", "openai", "steady"


@dataclass
class Tally:
    """What became of the requests."""

    answered: int = 0
    gone: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)


def pool(name: str, kind: ProviderKind, url: str, accounts: int, places: int, **settings: object) -> PoolSpec:
    return PoolSpec(
        name=name,
        provider=kind,
        provider_id=name,
        accounts=tuple(
            AccountSpec(f"{name}-{n}", Secret(f"key-of-{name}-{n}"), WEEKLY, max_concurrency=places)
            for n in range(accounts)
        ),
        model=f"{name}-model",
        base_url=url,
        quota_source=QuotaSourceRule.NONE,
        burst_cooldown_s=0.02,
        **settings,  # type: ignore[arg-type]
    )


IMPATIENT = Timeouts(connect_s=1.0, first_token_s=0.25, idle_s=0.25)
PATIENT: dict[str, object] = {
    # No circuit takes the accounts out, so that they are asked and fail to the end.
    "account_circuit": CircuitSettings(initial_state=CircuitState.DISABLED),
    "provider_circuit": CircuitSettings(initial_state=CircuitState.DISABLED),
    "failed_model_s": 0.0,
    "adaptive_concurrency": False,
    "timeouts": IMPATIENT,
}
STRICT: dict[str, object] = {
    # As configured by default, but for the times: circuits open, probe and close all the time.
    "account_circuit": replace(
        ACCOUNT_DEFAULT, recovery_timeout_s=0.05, max_recovery_timeout_s=0.2, rate_limit_recovery_s=0.05
    ),
    "provider_circuit": replace(PROVIDER, recovery_timeout_s=0.05, max_recovery_timeout_s=0.2),
    "failed_model_s": 0.02,
    "timeouts": IMPATIENT,
}


def system(
    ill_gemini: FaultyUpstream, ill_openai: FaultyUpstream, steady: FaultyUpstream, model: Path
) -> SystemSpec:
    pools = (
        pool(GEMINI, ProviderKind.GEMINI, ill_gemini.gemini_url, 6, 9, **PATIENT),
        pool(OPENAI, ProviderKind.OPENAI, ill_openai.openai_url, 4, 6, **STRICT),
        pool(STEADY, ProviderKind.OPENAI, steady.openai_url, 3, 40),
        local_pool(model),
    )
    names = tuple(entry.name for entry in pools)
    return SystemSpec(pools, (ChainSpec("default", names, timeout_s=30.0, hedge_after_s=0.1),))


class Callers:
    """Fifty callers who share a list of requests; some leave in mid-answer, some have a favourite."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.tally = Tally()
        self._orchestrator = orchestrator
        self._rng = Random(11)
        self._left = REQUESTS

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    async def _caller(self) -> None:
        rng = self._rng
        while self._left > 0:
            stream = rng.random() < 0.7
            request = replace(Request.ask("Count."), stream=stream, on_break=OnBreak.CONTINUE)
            if rng.random() < 0.2:
                request = replace(request, session=f"s-{rng.randrange(40)}")
            kind = rng.random()
            if kind < 0.05:
                await self._leaves(request, rng.randrange(1, 8))
                continue
            if kind < 0.08:
                # Nobody may help an account that fails, so that whoever asks for it risks an error.
                await self._only(replace(request, pin=f"{GEMINI}-{rng.randrange(6)}", timeout_s=1.0))
                continue
            if kind < 0.10:
                request = replace(request, pin=f"{STEADY}-{rng.randrange(3)}")
            elif kind < 0.12:
                request = replace(request, avoid=frozenset({f"{OPENAI}-0", f"{GEMINI}-1"}))
            self._left -= 1
            await self._stays(request)

    async def _stays(self, request: Request) -> None:
        try:
            reply = await self._orchestrator.chat(request)
        except RequestError as error:
            self.tally.failed.append(f"{error.failure} after {[str(a.failure) for a in error.attempts]}")
            return
        self.tally.attempts[len(reply.attempts)] += 1
        if reply.text == answer():
            self.tally.answered += 1
        else:
            self.tally.wrong.append(f"{reply.text!r} by {[str(a) for a in reply.attempts]}")

    async def _leaves(self, request: Request, after: int) -> None:
        """Goes away after so many events, or while the next one is awaited."""
        events = self._orchestrator.stream(request)
        reading = asyncio.create_task(self._read(events, after))
        if after % 2:
            await asyncio.sleep(self._rng.random() * 0.02)
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await events.aclose()
        self.tally.gone += 1

    @staticmethod
    async def _read(events: object, most: int) -> None:
        seen = 0
        async for _ in events:  # type: ignore[attr-defined]
            seen += 1
            if seen >= most:
                return

    async def _only(self, request: Request) -> None:
        try:
            await self._orchestrator.chat(request)
        except RequestError:
            self.tally.refused += 1


class Ends:
    """Each attempt and each request ends exactly once, by the events that everybody sees."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.requests: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._events = orchestrator.subscribe(backlog=1_000_000)

    def read(self) -> None:
        events, dropped = self._events.drain()
        assert not dropped
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        self.kinds[type(event).__name__] += 1
        if isinstance(event, RequestRouted):
            self.requests[event.request_id] += 1
        elif isinstance(event, AttemptStarted):
            self.attempts[event.request_id, event.attempt] += 1
        elif isinstance(event, AttemptFailed | AttemptDiverted | AttemptOutrun):
            self.attempts[event.request_id, event.attempt] -= 1
        elif isinstance(event, RequestFinished):
            self.requests[event.request_id] -= 1
            self.attempts[event.request_id, event.reply.attempts[-1].number] -= 1
        elif isinstance(event, RequestFailed | RequestCancelled):
            self.requests[event.request_id] -= 1
            for attempt in event.attempts:
                if attempt.result is AttemptResult.CANCELLED:
                    self.attempts[event.request_id, attempt.number] -= 1


@pytest.mark.filterwarnings("error::ResourceWarning")
async def test_ten_thousand_requests_are_answered_whatever_fails_and_nothing_is_left_over(
    demo_model: Path, record_property
):
    sockets, processes, running = open_sockets(), children(), tasks()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                faulty_upstream(FaultyUpstream(draw, pace_s=0.001, overlap=overlap))
            )
            for draw, overlap in ((one_in(SHARE, 21), 4), (one_in(SHARE, 22), 0), (one_in(0.0, 23), 5))
        ]
        with_servers, serving = open_sockets(), tasks()
        spec = system(*servers, demo_model)
        async with Orchestrator(spec, rng=Random(5)) as orchestrator:
            ends = Ends(orchestrator)
            callers = Callers(orchestrator)
            local = replace(Request.ask("Count."), pin="gguf", max_output_tokens=8)
            asked = [asyncio.create_task(orchestrator.chat(local)) for _ in range(3)]
            await callers.run()
            assert {reply.account for reply in await asyncio.gather(*asked)} == {"gguf"}
            tally = callers.tally
            ends.read()

            assert held(orchestrator, clock.monotonic()) == {}
            assert unfinished(orchestrator) == 0
            assert children() - processes  # the local model's
            assert set(tasks()) - set(serving) <= LASTING_TASKS
        assert tally.answered >= ANSWERED * REQUESTS, tally.failed[:5]
        assert tally.wrong == []
        assert tally.answered + len(tally.failed) == REQUESTS
        assert not +ends.attempts
        assert not -ends.attempts
        await asyncio.gather(*(server.idle() for server in servers))
        assert [server.open_calls for server in servers] == [0, 0, 0]
        assert children() == processes
        assert tasks() == serving
        gc.collect()
        assert open_sockets() == with_servers
    assert open_sockets() == sockets
    assert tasks() == running
    # It was a storm indeed: most attempts met a server that fails, in every way there is.
    *ill, steady = servers
    faults = sum((server.faults for server in ill), Counter())
    asked_ill = sum(server.calls for server in ill)
    assert asked_ill > REQUESTS * 0.6
    assert 0.9 * SHARE < faults.total() / asked_ill < 1.1 * SHARE
    assert set(faults) == set(Ill)
    assert not steady.faults
    assert sum(server.continued for server in servers) > REQUESTS / 100
    assert ends.kinds["CircuitChanged"] > 5
    assert ends.kinds["AttemptOutrun"] > 5
    record_property(
        "note",
        f"soak: {tally.answered} of {REQUESTS} requests answered, {tally.gone} callers left, "
        f"{faults.total()} faults in {sum(server.calls for server in servers)} attempts",
    )
