"""What the table of error categories leaves to the text: time-outs, told text, pools, circuits, hints."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import (
    CircuitState,
    DegradationKind,
    Delta,
    ErrorCategory,
    Message,
    QuotaStatus,
    Role,
    Timeouts,
)
from smartfallback.model.circuits import ACCOUNT_DEFAULT, PROVIDER
from smartfallback.model.outcomes import TimeoutPhase
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    CutStream,
    Fault,
    Garbage,
    GarbageKind,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    QuotaWall,
    SafetyBlock,
    SignsOfLife,
    SlowFirstToken,
    StallBeforeFirstToken,
    StallMidStream,
    WaitForm,
)
from support.certificates import self_signed
from support.troubled import QUESTION, Troubled, tls_server, troubled

GEMINI, OPENAI, OPENCODE = "gemini", "openai", "opencode"
BOTH = pytest.mark.parametrize("api", [GEMINI, OPENAI])
ALL = pytest.mark.parametrize("api", [GEMINI, OPENAI, OPENCODE])
STREAMING = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
TIGHT = Timeouts(connect_s=5.0, first_token_s=0.25, idle_s=0.25)


def check_others_untouched(system: Troubled) -> None:
    assert [system.account(name).requests for name in ("a-2", "b-1")] == [0, 0]


# --- network


@BOTH
async def test_a_certificate_that_nobody_vouches_for_is_a_network_error(api: str, tmp_path: Path) -> None:
    place = tls_server(self_signed(tmp_path))
    async with troubled(api, place, others=False) as system:
        error = (await system.ask()).failed
        assert error.failure.category is ErrorCategory.NETWORK_ERROR
        assert "self-signed" in error.failure.message
        assert "certificates" in error.failure.hint
        assert len(error.attempts) == 3
        assert (system.provider.failures, system.account().circuit.failures) == (3, 0)
    async with troubled(api, place, others=True) as system:
        assert (await system.ask()).path == ["a-1", "b-1"]


# --- time-outs


@ALL
@pytest.mark.parametrize("fault", [StallBeforeFirstToken(), SlowFirstToken(5.0)], ids=str)
async def test_a_slow_first_token_is_cut_off_tried_once_more_and_switched(api: str, fault: Fault) -> None:
    async with troubled(api, fault, others=True, timeouts=TIGHT) as system:
        result = await system.ask()
        assert result.path == ["a-1", "a-1", "a-2"]
        for record in result.answer.attempts[:2]:
            assert record.failure is not None
            assert record.failure.category is ErrorCategory.TIMEOUT
            assert record.failure.phase is TimeoutPhase.FIRST_TOKEN
        account = system.account()
        assert (account.circuit.failures, system.provider.failures) == (2, 2)
        assert account.circuit.state is CircuitState.OPEN, "two of two calls were slow"


@BOTH
async def test_a_whole_answer_may_take_half_of_the_time_that_is_left(api: str) -> None:
    """It shows its first token with its last, so a limit for first tokens would cut off every long one."""
    async with troubled(api, SlowFirstToken(0.6), others=True, timeouts=TIGHT) as system:
        assert (await system.ask(stream=False)).path == ["a-1"]
    async with troubled(api, StallBeforeFirstToken(), others=True, timeouts=TIGHT) as system:
        result = await system.ask(stream=False, timeout_s=1.0)
        assert result.path == ["a-1", "a-2"]
        failure = result.answer.attempts[0].failure
        assert failure is not None
        assert failure.phase is TimeoutPhase.FIRST_TOKEN
        assert result.answer.attempts[0].latency_s >= 0.45


async def test_no_second_try_where_the_deadline_has_no_room_for_it() -> None:
    async with troubled(OPENAI, StallBeforeFirstToken(), others=True, timeouts=TIGHT) as system:
        assert (await system.ask(timeout_s=0.48)).path[:2] == ["a-1", "a-2"]


@ALL
@STREAMING
async def test_the_last_candidate_is_never_cut_off(api: str, stream: bool) -> None:
    async with troubled(api, SlowFirstToken(0.6), others=False, timeouts=TIGHT) as system:
        result = await system.ask(stream=stream)
        assert result.path == ["a-1"]
        assert len(result.answer.text) > 80
        assert (system.account().circuit.failures, system.provider.failures) == (0, 0)


@BOTH
@STREAMING
@pytest.mark.parametrize(("timeout_s", "blamed"), [(0.4, 1), (0.1, 0)])
async def test_the_deadline_ends_all_and_blames_only_who_had_his_time(
    api: str, stream: bool, timeout_s: float, blamed: int
) -> None:
    async with troubled(api, StallBeforeFirstToken(), others=False, timeouts=TIGHT) as system:
        error = (await system.ask(stream=stream, timeout_s=timeout_s)).failed
        assert error.failure.category is ErrorCategory.TIMEOUT
        assert error.failure.phase is TimeoutPhase.TOTAL
        assert len(error.attempts) == 1
        assert (system.account().circuit.failures, system.provider.failures) == (blamed, blamed)


# --- text that was already told

BROKEN: list[tuple[Fault, ErrorCategory, TimeoutPhase | None]] = [
    (CutStream(40), ErrorCategory.MALFORMED_RESPONSE, None),
    (CutStream(40, clean=True), ErrorCategory.MALFORMED_RESPONSE, None),
    (Garbage(GarbageKind.JSON, 5), ErrorCategory.MALFORMED_RESPONSE, None),
    (Garbage(GarbageKind.SSE, 5), ErrorCategory.MALFORMED_RESPONSE, None),
    (OverloadInStream(5), ErrorCategory.TRANSIENT_ERROR, None),
    (StallMidStream(5), ErrorCategory.TIMEOUT, TimeoutPhase.IDLE),
    (SignsOfLife(5, every_s=0.05), ErrorCategory.TIMEOUT, TimeoutPhase.IDLE),
]


@ALL
@pytest.mark.parametrize(("fault", "category", "phase"), BROKEN, ids=str)
async def test_an_answer_that_breaks_off_ends_in_an_explicit_error(
    api: str, fault: Fault, category: ErrorCategory, phase: TimeoutPhase | None
) -> None:
    """Asked not to be continued, it is repeated by nobody, and its account pays for it."""
    async with troubled(api, fault, others=True, timeouts=replace(TIGHT, first_token_s=5.0)) as system:
        result = await system.ask()
        error = result.failed
        assert (error.failure.category, error.failure.phase) == (category, phase)
        assert [record.account for record in error.attempts] == ["a-1"]
        told = "".join(event.text for event in result.events if isinstance(event, Delta))
        assert told == error.partial
        assert len(told.split()) == system.lab.counters("bad").tokens_served > 0
        account = system.account()
        assert account.circuit.failures == 1
        assert system.provider.failures == (1 if category is ErrorCategory.TIMEOUT else 0)
        assert account.tokens > 0
        check_others_untouched(system)


# --- where it goes


@BOTH
@STREAMING
@pytest.mark.parametrize("others", [True, False])
async def test_a_stated_wait_of_a_transient_error_is_kept(api: str, stream: bool, others: bool) -> None:
    fault = HttpStatus(503, retry_after_s=0.4)
    async with troubled(api, fault, others=others) as system:
        begun = time.monotonic()
        result = await system.ask(stream=stream, timeout_s=0.7)
        if others:
            assert result.path == ["a-1", "a-2"], "too long to wait while others can answer"
        else:
            assert result.path == ["a-1", "a-1"], "the second wait would pass the deadline"
            assert time.monotonic() - begun >= 0.4
        assert system.account().cooldown_until is not None


async def test_a_shorter_stated_wait_is_waited_for_on_the_same_account() -> None:
    async with troubled(OPENAI, HttpStatus(503, retry_after_s=0.05), others=True) as system:
        assert (await system.ask()).path == ["a-1"] * 4 + ["a-2"]


@ALL
async def test_what_one_pool_blocks_another_may_answer_where_the_chain_says_so(api: str) -> None:
    async with troubled(api, SafetyBlock(), others=True, switch_on_content_filter=True) as system:
        result = await system.ask()
        assert result.path == ["a-1", "b-1"]
        assert system.account().circuit.failures == 0


@BOTH
@STREAMING
async def test_a_context_overflow_is_answered_with_less_history(api: str, stream: bool) -> None:
    turns = [Message(Role.USER if n % 2 == 0 else Role.ASSISTANT, f"{n} " + "word " * 200) for n in range(8)]
    messages = (*turns, *QUESTION.messages)
    async with troubled(api, None, others=False, context_tokens=1_000) as system:
        result = await system.ask(stream=stream, messages=messages)
        assert set(result.path) == {"a-1"}
        assert DegradationKind.TRIMMED_HISTORY in [entry.kind for entry in result.answer.degradations]
        assert system.account().circuit.failures == 0


# --- circuits as they come


@BOTH
async def test_an_account_that_keeps_failing_costs_three_tries_and_no_more(api: str) -> None:
    async with troubled(api, HttpStatus(503), others=True, circuit=ACCOUNT_DEFAULT) as system:
        assert (await system.ask()).path == ["a-1"] * 3 + ["a-2"]
        assert system.account().circuit.state is CircuitState.OPEN
        for _ in range(3):
            assert (await system.ask()).path == ["a-2"]
        assert system.asked == 3


@BOTH
async def test_a_provider_that_is_down_costs_five_tries_and_no_more(api: str) -> None:
    async with troubled(api, HttpStatus(500), others=True, provider_circuit=PROVIDER) as system:
        paths = [(await system.ask()).path for _ in range(12)]
        assert system.asked == 5
        assert system.provider.state is CircuitState.OPEN
        assert paths[-1] == ["b-1"]


@BOTH
async def test_the_request_after_a_burst_is_the_one_test(api: str) -> None:
    """On the last candidate that is the retry: it fails, and the circuit opens for two minutes."""
    async with troubled(api, BurstLimit(0.05, WaitForm.BODY), others=False) as system:
        error = (await system.ask()).failed
        assert error.failure.category is ErrorCategory.RATE_LIMIT
        assert len(error.attempts) == 2
        account = system.account()
        assert CircuitState.OPEN in {circuit.state for circuit in (account.circuit, *account.model_circuits)}


# --- what the operator is told


@BOTH
@pytest.mark.parametrize("fault", [KeyRevoked(), Banned(), HttpStatus(401)], ids=str)
async def test_an_account_that_is_refused_is_named_with_what_to_do(api: str, fault: Fault) -> None:
    async with troubled(api, fault, others=False) as system:
        failure = (await system.ask()).failed.failure
        assert "a-1" in failure.hint
        assert failure.permanent is isinstance(fault, Banned)
        assert "key-of-a-1" not in f"{failure}{failure.hint}{system.account().attention}"
        assert (await system.ask()).path == [], "nobody asks again before somebody has acted"
        assert system.asked == 1


@BOTH
@pytest.mark.parametrize(
    ("fault", "wait_s"), [(BurstLimit(9, WaitForm.BODY), 9.0), (QuotaWall(7_200), 7_200.0)], ids=str
)
async def test_the_error_says_when_the_account_is_back(api: str, fault: Fault, wait_s: float) -> None:
    async with troubled(api, fault, others=False) as system:
        error = (await system.ask()).failed
        assert error.next_available_at == pytest.approx(time.time() + wait_s, abs=2.0)
        account = system.account()
        if isinstance(fault, QuotaWall):
            assert account.quota.status is QuotaStatus.EXHAUSTED
            assert account.quota.exhausted_until == pytest.approx(time.time() + wait_s, abs=2.0)
        assert (await system.ask()).path == []
        assert system.asked == 1
