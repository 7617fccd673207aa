"""Files that earlier versions of the format have left, made by the statements that made them then."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import AdminState, CircuitState, Ending, Origin, PastRequest, SqliteStateStore
from smartfallback.model.queueing import QueueState
from smartfallback.model.state import HoldState, SystemState, TieState
from smartfallback.state import database
from support.states import DRAINED, change, of, read

VERSION_1 = """
CREATE TABLE state (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    seen_at REAL NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID
"""
VERSION_2 = (
    """
CREATE TABLE queue (
    ticket TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    priority INTEGER NOT NULL,
    since REAL NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID
""",
    """
CREATE TABLE queue_owners (
    owner TEXT NOT NULL PRIMARY KEY,
    beat INTEGER NOT NULL
) WITHOUT ROWID
""",
    """
CREATE TABLE outcomes (
    ticket TEXT NOT NULL PRIMARY KEY,
    request_id TEXT NOT NULL,
    at REAL NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID
""",
)
ACCOUNT = (
    '{"admin": "drained", "admin_reason": "maintenance", "last_used_at": null, "requests": 3, '
    '"failures": 0, "tokens": 0, "windows": [{"kind": "week", "unit": "tokens", "used": 1234, '
    '"label": "measured", "started_at": 1.0, "ends_at": 2.0, "changed_at": 1.5, "read_at": null, '
    '"limit": 5000, "adopted": false}], "circuit": {"state": "open", "cause": "3 of 3 calls failed", '
    '"since": 1.0, "until": 9.0, "first_break_s": 4.0, "last_break_s": 8.0, "rate_limit_test": false}}'
)
QUEUED = (
    '{"request_id": "r1", "request": {"messages": [{"role": "user", "content": "hello"}], "chain": '
    '"default", "model": null, "session": null, "max_output_tokens": null, "temperature": null, '
    '"timeout_s": null, "pin": null, "avoid": [], "requires": [], "stream": true, "origin": "api", '
    '"id": "r1", "on_break": null, "queue": null, "keep_text": true}, "terms": {"expires_s": 9e9, '
    '"priority": 0}, "failure": {"category": "rate_limit", "message": "slow down"}, "since": 1.0}'
)
OUTCOME = '{"error": {"request_id": "r0", "failure": {"category": "timeout", "message": "late"}}}'


def write(path: Path, version: int) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(VERSION_1)
        now = time.time()
        connection.execute("INSERT INTO state VALUES ('account', 'a', ?, ?)", (now, ACCOUNT))
        connection.execute("INSERT INTO state VALUES ('provider', 'api', ?, 'null')", (now,))
        if version == 2:
            for statement in VERSION_2:
                connection.execute(statement)
            connection.execute("INSERT INTO queue VALUES ('t1', 'gone', 0, 1.0, ?)", (QUEUED,))
            connection.execute("INSERT INTO outcomes VALUES ('t0', 'r0', ?, ?)", (now, OUTCOME))
        connection.execute(f"PRAGMA application_id = {0x53464243}")
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.fixture(params=[1, 2])
def version(request) -> int:
    return int(request.param)


@pytest.fixture
def path(tmp_path: Path, version: int) -> Path:
    path = tmp_path / "state.db"
    write(path, version)
    return path


def schema(path: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(
            connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
            ).fetchall()
        )


async def test_an_old_file_keeps_its_data_and_learns_to_keep_all_that_is_new(path, version):
    store = SqliteStateStore(path)
    state = await store.load(("a",), ("api",))
    account = state.accounts["a"]
    assert (account.admin, account.admin_reason, account.requests) == (AdminState.DRAINED, "maintenance", 3)
    assert account.windows[0].used == 1234
    assert account.circuit is not None
    assert (account.circuit.state, account.circuit.last_break_s) == (CircuitState.OPEN, 8.0)
    assert (account.throttle, account.holds) == (None, ())
    assert state.providers == {"api": None}
    news = await store.exchange_queue(QueueState({}, ()), 10)
    assert news is not None
    assert [queued.request_id for queued in news.adopted] == (["r1"] if version == 2 else [])
    assert (await store.collect_outcome("r0") is not None) == (version == 2)
    past = PastRequest("p", time.time(), "r", "", Origin.API, Ending.CANCELLED, (), 1.0)
    assert await store.keep_history((past,))
    hold = HoldState(5, 1, 0.0, time.time(), time.time() + 60.0)
    tie = TieState("s", False, "a", time.time())
    await store.save(SystemState({"b": DRAINED}, ties={"main": (tie,)}))
    assert await store.list_sessions("", 5) is not None
    assert store.take_notices() == ()
    other = SqliteStateStore(path)
    await store.save(of(c=DRAINED, a=replace(account, holds=(hold,))))
    found = await other.load((), ())
    assert set(found.accounts) == {"a", "b", "c"}
    assert found.accounts["a"].holds == (hold,)
    assert found.ties == {"main": (tie,)}
    assert await other.history(5) == (past,)
    for each in (store, other):
        await each.aclose()
    new = path.with_name("new.db")
    fresh = SqliteStateStore(new)
    await fresh.save(of(a=DRAINED))
    await fresh.aclose()
    assert schema(path) == schema(new)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_many_that_bring_one_file_up_to_date_at_once_do_it_once(path):
    stores = [SqliteStateStore(path) for _ in range(6)]
    loaded = await asyncio.gather(*(store.load(["a"], ()) for store in stores))
    assert [state.accounts["a"].requests for state in loaded] == [3] * 6
    assert [store.take_notices() for store in stores] == [()] * 6
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_an_old_file_that_can_only_be_read_is_read(path):
    # Nobody may bring up to date what an own lock keeps as it is.
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store = SqliteStateStore(path)
        state = await store.load(["a"], ())
        assert state.accounts["a"].requests == 3
        assert (state.ties, state.accounts["a"].holds) == ({}, ())
        await store.aclose()


async def test_a_newer_file_is_left_as_it_is(path):
    change(path, "PRAGMA user_version = 4")
    before = path.read_bytes()
    store = SqliteStateStore(path)
    assert await store.load(["a"], ()) == SystemState()
    await store.save(of(a=DRAINED))
    past = PastRequest("p", time.time(), "r", "", Origin.API, Ending.CANCELLED, (), 1.0)
    assert not await store.keep_history((past,))
    assert await store.history(5) == ()
    await store.aclose()
    (notice,) = store.take_notices()
    assert "version 4" in notice
    assert path.read_bytes() == before


async def test_a_move_that_is_interrupted_leaves_the_old_file(path, monkeypatch):
    steps = database._STEPS
    monkeypatch.setattr(database, "_STEPS", (*steps[:2], (*steps[2], "CREATE TABLE state (again)")))
    store = SqliteStateStore(path)
    state = await store.load(["a"], ())
    await store.aclose()
    assert state.accounts["a"].requests == 3
    assert "already exists" in store.take_notices()[0]
    monkeypatch.undo()
    assert (await read(path, "a")).accounts["a"].requests == 3
