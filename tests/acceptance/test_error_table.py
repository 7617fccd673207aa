"""The table of the eleven error categories (SPEC section 6), line by line, from servers that behave so.

Each line says what follows, each of its cases how a server brings it about. Proven through the public
face, streaming and not, for each API: with nobody else to ask, and with a sibling account and another
provider at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import pytest

from smartfallback import (
    AttemptResult,
    CircuitState,
    Delta,
    ErrorCategory,
    QuotaStatus,
    Timeouts,
)
from smartfallback.model.circuits import CircuitSettings, RateLimitRule
from smartfallback.simulation.faults import (
    Banned,
    BurstLimit,
    CutStream,
    EmptyAnswer,
    Garbage,
    GarbageKind,
    HttpStatus,
    KeyRevoked,
    OverloadInStream,
    QuotaWall,
    ResetConnection,
    SafetyBlock,
    WaitForm,
)
from support.troubled import (
    PATIENT,
    Trouble,
    Troubled,
    closed_at_once,
    never_connected,
    plain_port_as_https,
    refused,
    troubled,
    unknown_host,
)

GEMINI, OPENAI, OPENCODE, COPILOT = "gemini", "openai", "opencode", "copilot"
BOTH = (GEMINI, OPENAI)
ALL = (GEMINI, OPENAI, OPENCODE)
EVERY = (*ALL, COPILOT)
TIGHT = Timeouts(connect_s=0.25, first_token_s=0.25, idle_s=0.25)
STREAMING = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


class Then(Enum):
    """Where the request goes when the account is given up."""

    ACCOUNT = "a-2"
    POOL = "b-1"
    NOWHERE = ""


class Mark(Enum):
    """What is left behind on a scope."""

    NOTHING = auto()
    COUNTS = auto()
    """A failure in the circuit."""
    SLOW = auto()
    """A failure in the circuit, and a slow call."""
    RESTS = auto()
    """A cooldown, and the circuit's next call is a test."""
    EXHAUSTED = auto()
    ATTENTION = auto()


@dataclass(frozen=True)
class Case:
    """How a server brings the line about, and in which APIs' words."""

    says: str
    trouble: Trouble
    apis: tuple[str, ...] = BOTH


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        category: What the failure is.
        retries: Tries after the first on the last candidate.
        first: Tries after the first on the same account although others are eligible.
        then: Where to then.
        account: What is recorded on the account by each try.
        provider: What is recorded on its provider.
        cases: How it comes about.
    """

    category: ErrorCategory
    retries: int
    first: int
    then: Then
    account: Mark
    provider: Mark
    cases: tuple[Case, ...]
    circuit: CircuitSettings = PATIENT
    timeouts: Timeouts | None = None


def status(code: int, *apis: str, **fields: Any) -> Case:
    return Case(str(code), HttpStatus(code, **fields), apis or BOTH)


DAY_WALL = "Quota exceeded: 50 requests per day."

# fmt: off
TABLE = (
    Line(ErrorCategory.TRANSIENT_ERROR, 3, 3, Then.ACCOUNT, Mark.COUNTS, Mark.NOTHING, (
        status(408), status(425), status(502), status(503, *BOTH, COPILOT), status(504), status(529),
        Case("overload inside a 200 stream", OverloadInStream(), ALL),
    )),
    Line(ErrorCategory.RATE_LIMIT, 0, 0, Then.ACCOUNT, Mark.RESTS, Mark.NOTHING, (
        Case("429, 9 s", BurstLimit(9, WaitForm.SECONDS), EVERY),
        Case("429, a date", BurstLimit(9, WaitForm.DATE)),
        Case("429, 9 s in the body", BurstLimit(9, WaitForm.BODY)),
        Case("429 without a wait", BurstLimit(form=WaitForm.NONE, details=False)),
    )),
    Line(ErrorCategory.RATE_LIMIT, 2, 0, Then.ACCOUNT, Mark.NOTHING, Mark.NOTHING, (
        Case("429, a moment", BurstLimit(0.05, WaitForm.BODY)),
    ), circuit=CircuitSettings(failure_threshold=50, on_rate_limit=RateLimitRule.IGNORE)),
    Line(ErrorCategory.QUOTA_EXHAUSTED, 0, 0, Then.ACCOUNT, Mark.EXHAUSTED, Mark.NOTHING, (
        Case("429, a wall with its end", QuotaWall(7_200), EVERY),
        Case("429, a daily wall with a short delay", QuotaWall()),
        status(402, *ALL),
        Case("403, a daily wall", HttpStatus(403, DAY_WALL)),
        Case("429, credits", HttpStatus(429, "Insufficient credits", "insufficient_credits"), (OPENAI,)),
    )),
    Line(ErrorCategory.API_FAILURE, 2, 0, Then.POOL, Mark.COUNTS, Mark.COUNTS, (
        status(500, *BOTH, COPILOT), status(501), status(505), status(507),
    )),
    Line(ErrorCategory.TIMEOUT, 1, 1, Then.ACCOUNT, Mark.SLOW, Mark.SLOW, (
        Case("no connection", never_connected),
    ), timeouts=TIGHT),
    Line(ErrorCategory.NETWORK_ERROR, 2, 0, Then.POOL, Mark.NOTHING, Mark.COUNTS, (
        Case("DNS", unknown_host),
        Case("refused", refused, ALL),
        Case("reset", ResetConnection(), EVERY),
        Case("closed without an answer", closed_at_once),
        Case("TLS with a port that has none", plain_port_as_https),
    )),
    Line(ErrorCategory.AUTHENTICATION, 0, 0, Then.ACCOUNT, Mark.ATTENTION, Mark.NOTHING, (
        status(401, *ALL), status(403), Case("key revoked", KeyRevoked(), EVERY),
    )),
    Line(ErrorCategory.AUTHENTICATION, 0, 0, Then.POOL, Mark.ATTENTION, Mark.NOTHING, (
        Case("banned for good", Banned(), ALL),
    )),
    Line(ErrorCategory.INVALID_REQUEST, 0, 0, Then.NOWHERE, Mark.NOTHING, Mark.NOTHING, (
        status(400, *ALL), status(404), status(413), status(422),
        Case("context overflow", HttpStatus(400, "The input token count (9) exceeds the maximum number of "
                                                 "tokens. Reduce the length of the messages.")),
    )),
    Line(ErrorCategory.CONTENT_FILTERED, 0, 0, Then.NOWHERE, Mark.NOTHING, Mark.NOTHING, (
        Case("safety block", SafetyBlock(), EVERY),
    )),
    Line(ErrorCategory.MALFORMED_RESPONSE, 1, 1, Then.ACCOUNT, Mark.COUNTS, Mark.NOTHING, (
        Case("bad JSON", Garbage(GarbageKind.JSON), ALL),
        Case("bad SSE", Garbage(GarbageKind.SSE), ALL),
        Case("an HTML page", Garbage(GarbageKind.HTML), ALL),
        Case("empty 200", EmptyAnswer(), EVERY),
        Case("cut before the first token", CutStream(0), ALL),
        Case("no final chunk and no text", CutStream(0, clean=True)),
    )),
    Line(ErrorCategory.UNKNOWN, 1, 1, Then.ACCOUNT, Mark.COUNTS, Mark.NOTHING, (
        status(418), status(302), status(409),
    )),
)
# fmt: on


def rows() -> Iterator[Any]:
    for line in TABLE:
        for case in line.cases:
            for api in case.apis:
                yield pytest.param(line, case, api, id=f"{line.category.value}-{case.says}-{api}")


EVERY_ROW = pytest.mark.parametrize(("line", "case", "api"), list(rows()))


def check_records(system: Troubled, line: Line, tries: int) -> None:
    """The account and its provider bear what the line says, and nothing else."""
    account, provider = system.account(), system.provider
    counted = tries if line.account in (Mark.COUNTS, Mark.SLOW) else 0
    assert account.circuit.failures == counted
    assert bool(account.attention) is (line.account is Mark.ATTENTION)
    assert (account.quota.status is QuotaStatus.EXHAUSTED) is (line.account is Mark.EXHAUSTED)
    circuits = (account.circuit, *account.model_circuits)
    states = {circuit.state for circuit in circuits}
    if line.account is Mark.RESTS:
        assert CircuitState.HALF_OPEN in states
    elif line.account is Mark.SLOW:
        assert states == {CircuitState.OPEN if tries > 1 else CircuitState.CLOSED}
    else:
        assert states == {CircuitState.CLOSED}
    rests = account.cooldown_until is not None or (len(circuits) > 1 and CircuitState.HALF_OPEN in states)
    if line.category is not ErrorCategory.RATE_LIMIT:
        assert account.cooldown_until is None
    elif line.account is Mark.RESTS:
        assert rests
    assert provider.failures == (tries if line.provider is not Mark.NOTHING else 0)
    assert provider.state is CircuitState.CLOSED
    assert (account.requests, account.failures) == (tries, tries)


def check_nothing_is_left(system: Troubled) -> None:
    for pool in system.orchestrator.snapshot().pools:
        for account in pool.accounts:
            assert account.in_flight == 0
            assert all(window.held == 0 for window in account.quota.windows)


@EVERY_ROW
@STREAMING
async def test_on_the_last_candidate(line: Line, case: Case, api: str, stream: bool) -> None:
    settings = {"circuit": line.circuit, "timeouts": line.timeouts}
    async with troubled(api, case.trouble, others=False, **settings) as system:  # type: ignore[arg-type]
        error = (await system.ask(stream=stream)).failed
        assert error.failure.category is line.category
        assert [record.account for record in error.attempts] == ["a-1"] * (1 + line.retries)
        assert {record.result for record in error.attempts} == {AttemptResult.FAILED}
        failures = [record.failure for record in error.attempts]
        assert {failure and failure.category for failure in failures} == {line.category}
        check_records(system, line, 1 + line.retries)
        check_nothing_is_left(system)


@EVERY_ROW
@STREAMING
async def test_with_others_at_hand(line: Line, case: Case, api: str, stream: bool) -> None:
    settings = {"circuit": line.circuit, "timeouts": line.timeouts}
    async with troubled(api, case.trouble, others=True, **settings) as system:  # type: ignore[arg-type]
        result = await system.ask(stream=stream)
        on_it = ["a-1"] * (1 + line.first)
        if line.then is Then.NOWHERE:
            assert result.failed.failure.category is line.category
            assert result.path == on_it
        else:
            assert result.answer.account == line.then.value
            assert result.path == [*on_it, line.then.value]
            assert len(result.answer.text) > 80
            told = "".join(event.text for event in result.events if isinstance(event, Delta))
            assert not stream or told == result.answer.text
        check_records(system, line, 1 + line.first)
        for name in ("a-2", "b-1"):
            healthy = system.account(name)
            assert (healthy.failures, healthy.attention, healthy.cooldown_until) == (0, "", None)
            assert healthy.requests == (name == line.then.value)
        check_nothing_is_left(system)
