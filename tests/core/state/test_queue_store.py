"""The queue in the state file: kept, handed on from dead processes, never replayed by two."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import (
    AttemptRecord,
    AttemptResult,
    Capability,
    Degradation,
    DegradationKind,
    ErrorCategory,
    Failure,
    Message,
    OnBreak,
    Origin,
    QueueTerms,
    Reply,
    Request,
    RequestError,
    Role,
    Seam,
    SqliteStateStore,
    TimeoutPhase,
    Usage,
)
from smartfallback.model.queueing import KeptOutcome, QueuedRequest, QueueState
from smartfallback.state.database import SCHEMA_VERSION
from smartfallback.state.queue_codec import decode_outcome, decode_queued, encode_outcome, encode_queued
from smartfallback.state.queue_table import BEAT_S, KEEP_OUTCOMES, KEEP_OUTCOMES_S, LEASE_S
from support.clock import EPOCH, FakeClock
from support.states import DRAINED, change, of, read

WALLED = Failure(
    ErrorCategory.QUOTA_EXHAUSTED,
    "weekly limit [/x]",
    http_status=429,
    code="quota",
    model="m",
    project_wide=True,
    retry_after_s=1.5,
    resets_at=EPOCH + 5,
    hint="wait",
    phase=TimeoutPhase.IDLE,
)
FULL = Request(
    messages=(Message(Role.SYSTEM, "be brief"), Message(Role.USER, "tea 🍵 \x00 \ud800 ")),
    chain="fast",
    model="m-2",
    session="s",
    max_output_tokens=7,
    temperature=0.1 + 0.2,
    timeout_s=9.5,
    pin="a-1",
    avoid=frozenset({"a-2", "a-3"}),
    requires=frozenset({Capability.VISION, Capability.TOOLS}),
    stream=False,
    origin=Origin.CHAT,
    id="mine",
    on_break=OnBreak.ERROR,
    queue=QueueTerms(30.0, -2),
)
ATTEMPTS = (
    AttemptRecord(1, "a-1", "main", "m", AttemptResult.FAILED, 0.25, WALLED),
    AttemptRecord(2, "a-2", "main", "m", AttemptResult.SUCCESS, 1.0),
)
ANSWER = Reply(
    request_id="mine",
    text="because",
    account="a-2",
    pool="main",
    provider="p",
    model="m",
    usage=Usage(3, 4, estimated=True),
    finish_reason="length",
    attempts=ATTEMPTS,
    latency_s=1.5,
    first_token_s=0.5,
    cost=0.01,
    degradations=(Degradation(DegradationKind.CONTINUED, "why"),),
    seams=(Seam(5, "a-1", "a-2", "cut", 2),),
    cached_age_s=3.0,
    queued_s=60.0,
)


def queued(ticket: str, *, priority: int = 0, since: float = EPOCH) -> QueuedRequest:
    terms = QueueTerms(3_600.0, priority)
    return QueuedRequest(ticket, f"id-{ticket}", Request.ask(f"question {ticket}"), terms, WALLED, since)


def holding(*requests: QueuedRequest, outcomes: tuple[KeptOutcome, ...] = ()) -> QueueState:
    return QueueState({request.ticket: request for request in requests}, outcomes)


def outcome(ticket: str, at: float = EPOCH, request_id: str = "id") -> KeptOutcome:
    return KeptOutcome(ticket, request_id, at, replace(ANSWER, request_id=request_id, text=ticket))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state.db"


async def found(path: Path, room: int = 100, clock: FakeClock | None = None) -> list[str]:
    """What a process that starts now would adopt."""
    store = SqliteStateStore(path, clock=clock or FakeClock())
    try:
        news = await store.exchange_queue(QueueState(), room)
        return [] if news is None else [request.ticket for request in news.adopted]
    finally:
        await store.aclose()


def test_requests_replies_and_errors_are_read_back_as_they_were():
    record = QueuedRequest("t", "mine", FULL, QueueTerms(12.5, 4), WALLED, EPOCH)
    assert decode_queued("t", encode_queued(record)) == record
    assert decode_outcome(encode_outcome(KeptOutcome("t", "mine", EPOCH, ANSWER))) == ANSWER
    error = RequestError(
        "mine", WALLED, ATTEMPTS, partial="bec", next_available_at=EPOCH + 3, skipped=["a-3: drained"]
    )
    back = decode_outcome(encode_outcome(KeptOutcome("t", "mine", EPOCH, error)))
    assert isinstance(back, RequestError)
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_no_field_is_left_out():
    kept = json.loads(encode_queued(QueuedRequest("t", "mine", FULL, QueueTerms(), WALLED, EPOCH)))
    assert set(kept["request"]) == {field.name for field in fields(Request)}
    assert set(kept["failure"]) == {field.name for field in fields(Failure)}
    reply = json.loads(encode_outcome(KeptOutcome("t", "mine", EPOCH, ANSWER)))["reply"]
    assert set(reply) == {field.name for field in fields(Reply)}
    assert set(reply["attempts"][0]) == set(AttemptRecord._fields)
    assert set(reply["seams"][0]) == set(Seam._fields)


@given(
    text=st.text(),
    terms=st.builds(
        QueueTerms, st.floats(min_value=0.001, max_value=1e9, exclude_min=True), st.integers(-(2**70), 2**70)
    ),
    temperature=st.none() | st.floats(0, 2),
    pin=st.none() | st.text(),
    avoid=st.frozensets(st.text()),
)
@settings(max_examples=100, deadline=None)
def test_any_request_is_read_back_as_it_was(text, terms, temperature, pin, avoid):
    request = Request((Message(Role.USER, text),), temperature=temperature, pin=pin, avoid=avoid, queue=terms)
    record = QueuedRequest("t", text, request, terms, WALLED, EPOCH)
    assert decode_queued("t", encode_queued(record)) == record


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        encode_queued(queued("t")).replace('"user"', '"nobody"'),
        encode_queued(queued("t")).replace("3600.0", "-1"),
        encode_queued(queued("t")).replace("3600.0", "NaN"),
        encode_queued(queued("t")).replace("3600.0", "1" + "0" * 400),
        encode_queued(queued("t")).replace('"stream": true', '"stream": 1'),
        encode_queued(queued("t")).replace("[{", "[4, {"),
        encode_queued(queued("t")).replace('"avoid": []', '"avoid": [1]'),
    ],
)
def test_what_is_no_request_is_refused(broken):
    with pytest.raises(ValueError):  # noqa: PT011 - which one doesn't matter, they are all dropped alike
        decode_queued("t", broken)


async def test_what_waits_when_a_process_closes_is_the_next_ones_by_priority_and_arrival(path):
    store = SqliteStateStore(path)
    requests = [queued("c"), queued("a", since=EPOCH - 5), queued("urgent", priority=3)]
    await store.exchange_queue(holding(*requests), 100)
    await store.aclose()
    assert await found(path, room=2) == ["urgent", "a"]
    assert await found(path) == ["urgent", "a", "c"]


async def test_what_has_ended_is_gone_and_what_came_and_went_was_never_written(path):
    clock = FakeClock()
    store = SqliteStateStore(path, clock=clock)
    await store.exchange_queue(QueueState(), 100)
    assert not path.exists()
    one, two = queued("one"), queued("two")
    await store.exchange_queue(holding(one, two), 100)
    await store.exchange_queue(holding(two), 100)
    await store.aclose()
    assert await found(path) == ["two"]


async def test_a_live_process_keeps_its_requests_whatever_the_calendar_says(path):
    clock, other_clock = FakeClock(), FakeClock()
    store, other = SqliteStateStore(path, clock=clock), SqliteStateStore(path, clock=other_clock)
    state = holding(queued("a"))
    for round_number in range(20):
        news = await store.exchange_queue(state, 100)
        assert news is not None
        assert not news.lost
        news = await other.exchange_queue(QueueState(), 100)
        assert news is not None
        assert news.adopted == ()
        for each in (clock, other_clock):
            each.advance(BEAT_S)
        if round_number == 10:
            other_clock.step_wall_clock(7_200.0)
    await store.aclose()
    await other.aclose()


async def test_a_dead_process_has_its_requests_taken_over_by_one_other_when_its_lease_ends(path):
    clock = FakeClock()
    dead = SqliteStateStore(path, clock=clock)
    await dead.exchange_queue(holding(queued("a"), queued("b")), 100)
    others = [SqliteStateStore(path, clock=clock) for _ in range(3)]
    held = [QueueState()] * 3
    waited = 0.0
    adopted: list[list[str]] = [[], [], []]
    while waited <= LEASE_S + 2 * BEAT_S:
        for number, other in enumerate(others):
            news = await other.exchange_queue(held[number], 100)
            assert news is not None
            adopted[number] += [request.ticket for request in news.adopted]
            held[number] = holding(*held[number].requests.values(), *news.adopted)
        assert waited >= LEASE_S or not any(adopted)
        clock.advance(BEAT_S)
        waited += BEAT_S
    assert sorted(adopted, key=len) == [[], [], ["a", "b"]]
    # It was only frozen: it learns that they are not its own any more, and takes nothing back.
    news = await dead.exchange_queue(holding(queued("a"), queued("b")), 100)
    assert news is not None
    assert news.lost == {"a", "b"}
    await dead.exchange_queue(QueueState(), 100)
    for store in (dead, *others):
        await store.aclose()
    assert await found(path) == ["a", "b"]


async def test_a_request_adopted_by_a_process_that_no_longer_listens_is_not_lost(path):
    store = SqliteStateStore(path)
    await store.exchange_queue(holding(queued("a")), 100)
    await store.aclose()
    hasty = SqliteStateStore(path)
    exchange = asyncio.create_task(hasty.exchange_queue(QueueState(), 100))
    await asyncio.sleep(0)
    exchange.cancel()
    await asyncio.gather(exchange, return_exceptions=True)
    await hasty.exchange_queue(QueueState(), 0)
    await hasty.aclose()
    assert await found(path) == ["a"]


async def test_an_outcome_is_handed_out_once_the_oldest_first_and_ends_its_request(path):
    store = SqliteStateStore(path, clock=FakeClock())
    state = holding(queued("a"), queued("b"))
    await store.exchange_queue(state, 100)
    ended = (outcome("b", EPOCH + 1), outcome("a", EPOCH))
    news = await store.exchange_queue(holding(outcomes=ended), 100)
    assert news is not None
    assert news.uncollected == 2
    other = SqliteStateStore(path, clock=FakeClock())
    assert await other.collect_outcome("id") == ended[1]
    assert await store.collect_outcome("id") == ended[0]
    assert await store.collect_outcome("id") is None
    await store.aclose()
    await other.aclose()
    assert await found(path) == []


async def test_outcomes_are_kept_for_a_day_and_the_latest_only(path):
    clock = FakeClock()
    store = SqliteStateStore(path, clock=clock)
    many = tuple(
        outcome(f"{number:04}", EPOCH + number, f"id-{number}") for number in range(KEEP_OUTCOMES + 3)
    )
    await store.exchange_queue(holding(outcomes=many), 100)
    assert await store.collect_outcome("id-2") is None
    assert await store.collect_outcome("id-3") == many[3]
    clock.advance(KEEP_OUTCOMES_S + 10.0)
    news = await store.exchange_queue(QueueState(), 100)
    assert news is not None
    assert await store.collect_outcome("id-10") is None
    assert await store.collect_outcome("id-11") == many[11]
    await store.aclose()


async def test_unreadable_rows_are_told_of_once_and_dropped(path):
    store = SqliteStateStore(path, clock=FakeClock())
    await store.exchange_queue(holding(queued("a"), queued("b"), outcomes=(outcome("o"),)), 100)
    await store.aclose()
    change(path, "UPDATE queue SET document = '{}' WHERE ticket = 'a'")
    change(path, "UPDATE outcomes SET document = 'x'")
    store = SqliteStateStore(path, clock=FakeClock())
    news = await store.exchange_queue(QueueState(), 100)
    assert news is not None
    assert [request.ticket for request in news.adopted] == ["b"]
    assert await store.collect_outcome("id") is None
    first, second = store.take_notices()
    assert "a queued request can't be read" in first
    assert "the outcome of id can't be read" in second
    await store.exchange_queue(holding(*news.adopted), 100)
    await store.aclose()
    assert store.take_notices() == ()
    assert await found(path) == ["b"]


async def test_what_cannot_be_written_is_told_and_handed_in_again_when_the_file_is_back(path):
    path.parent.mkdir()
    path.mkdir()
    clock = FakeClock()
    store = SqliteStateStore(path, clock=clock)
    state = holding(queued("a"), outcomes=(outcome("o"),))
    assert await store.exchange_queue(state, 100) is None
    assert len(store.take_notices()) == 1
    path.rmdir()
    clock.advance(10.0)
    assert await store.exchange_queue(state, 100) is not None
    await store.aclose()
    assert await found(path) == ["a"]


async def test_a_file_removed_under_way_is_written_anew(path):
    clock = FakeClock()
    store = SqliteStateStore(path, clock=clock)
    state = holding(queued("a"))
    await store.exchange_queue(state, 100)
    for file in path.parent.iterdir():
        file.unlink()
    for _ in range(2):
        clock.advance(BEAT_S)
        await store.exchange_queue(state, 100)
    await store.aclose()
    assert await found(path) == ["a"]


OLD_SCHEMA = """
CREATE TABLE state (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    seen_at REAL NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID
"""
OLD_ACCOUNT = (
    '{"admin": "drained", "admin_reason": "maintenance", "last_used_at": null, "requests": 3, '
    '"failures": 0, "tokens": 0, "windows": []}'
)


def write_version_1(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute(OLD_SCHEMA)
    connection.execute("INSERT INTO state VALUES ('account', 'a', ?, ?)", (time.time(), OLD_ACCOUNT))
    connection.execute(f"PRAGMA application_id = {0x53464243}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


async def test_a_file_of_version_1_keeps_its_data_and_learns_to_keep_the_queue(path):
    write_version_1(path)
    assert (await read(path)).accounts == {"a": DRAINED}
    store = SqliteStateStore(path)
    await store.save(of(b=DRAINED))
    await store.exchange_queue(holding(queued("q")), 100)
    await store.aclose()
    assert store.take_notices() == ()
    assert await found(path) == ["q"]
    assert (await read(path)).accounts == {"a": DRAINED, "b": DRAINED}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()


async def test_many_that_migrate_one_file_at_once_do_it_once(path):
    write_version_1(path)
    stores = [SqliteStateStore(path) for _ in range(6)]
    loaded = await asyncio.gather(*(store.load(["a"], ()) for store in stores))
    assert [state.accounts for state in loaded] == [{"a": DRAINED}] * 6
    assert [store.take_notices() for store in stores] == [()] * 6
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_a_file_of_a_newer_version_is_left_as_it_is(path):
    write_version_1(path)
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    store = SqliteStateStore(path)
    assert await store.exchange_queue(holding(queued("q")), 100) is None
    await store.aclose()
    (notice,) = store.take_notices()
    assert f"version {SCHEMA_VERSION + 1}" in notice
    assert path.read_bytes() == before


PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from smartfallback import ErrorCategory, Orchestrator, QueueTerms, SqliteStateStore
from support.scripted import ScriptedUpstream, ask, failure, pool, system

async def main(path):
    upstream = ScriptedUpstream()
    upstream.always("a-1", [failure(ErrorCategory.QUOTA_EXHAUSTED)])
    store = SqliteStateStore(path)
    spec = system(pool("main", "a-1"))
    async with Orchestrator(spec, provider_factory=upstream.provider, store=store) as orchestrator:
        async for event in orchestrator.stream(ask("left behind", queue=QueueTerms(3600.0))):
            print(type(event).__name__, event.request_id, flush=True)

asyncio.run(main(Path(sys.argv[2])))
"""


async def test_what_a_killed_process_had_queued_is_adopted(path):
    tests = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(tests), str(path), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        async for line in process.stdout:
            if line.startswith(b"RequestQueued"):
                request_id = line.split()[1].decode()
                break
        clock = FakeClock()
        store = SqliteStateStore(path, clock=clock)
        await asyncio.to_thread(wait_for_row, path)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        adopted: tuple[QueuedRequest, ...] = ()
        while not adopted:
            news = await store.exchange_queue(QueueState(), 100)
            assert news is not None
            adopted = news.adopted
            clock.advance(BEAT_S)
    assert clock.monotonic() >= LEASE_S
    (record,) = adopted
    assert record.request_id == request_id
    assert record.request.messages[0].content == "left behind"
    await store.aclose()


def wait_for_row(path: Path) -> None:
    """Look into the file until the other process has written its request."""
    for _ in range(2_000):
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(look_into(path)) as connection:
            if connection.execute("SELECT count(*) FROM queue").fetchone()[0]:
                return
        time.sleep(0.02)
    raise AssertionError("nothing was written")


def look_into(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
