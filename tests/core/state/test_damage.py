"""A state file in every kind of trouble: told clearly, put aside, saved from as far as it can be read."""

from __future__ import annotations

import contextlib
import random
import resource
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import (
    AdminState,
    Drain,
    Ending,
    Orchestrator,
    Origin,
    PastRequest,
    SqliteStateStore,
    StateNotice,
)
from smartfallback.model.state import SystemState
from support.clock import EPOCH, FakeClock
from support.scripted import ScriptedUpstream, ask, pool, system
from support.states import DRAINED, of, read, unprivileged

MANY = {f"a-{number:03}": replace(DRAINED, admin_reason="reason " * 30) for number in range(300)}
PAST = [
    PastRequest(f"p-{number}", EPOCH + number, f"r{number}", "default", Origin.API, Ending.CANCELLED, (), 1.0)
    for number in range(300)
]
PAGE = 4_096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def fill(path: Path) -> None:
    store = SqliteStateStore(path, clock=FakeClock())
    await store.load(MANY, ())
    await store.save(SystemState(MANY, {"api": None}))
    await store.keep_history(PAST)
    await store.aclose()


def overwritten(path: Path, offset: int, length: int = PAGE, *, zeroes: bool = False) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(length) if zeroes else random.Random(7).randbytes(length))


def cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)


def root_page(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return int(page)


def a_leaf(path: Path, table: str) -> None:
    """Spoil a page in the middle of a table, with nobody having it open."""
    root = root_page(path, table)
    content = path.read_bytes()
    page = content[(root - 1) * PAGE : root * PAGE]
    cells = int.from_bytes(page[3:5], "big")
    assert page[0] in (2, 5), "the table is too small to have pages of its own"
    pointer = int.from_bytes(page[12 + 2 * (cells // 2) : 14 + 2 * (cells // 2)], "big")
    child = int.from_bytes(page[pointer : pointer + 4], "big")
    overwritten(path, (child - 1) * PAGE)


SPOILT: dict[str, Callable[[Path], None]] = {
    "header": lambda path: overwritten(path, 0, 100),
    "first page": lambda path: overwritten(path, 0),
    "root of the table": lambda path: overwritten(path, (root_page(path, "state") - 1) * PAGE),
    "all but the header": lambda path: overwritten(path, 200, path.stat().st_size - 200),
    "cut in the middle": lambda path: cut(path, path.stat().st_size // 2),
    "cut in the first page": lambda path: cut(path, 700),
    "zeroes": lambda path: overwritten(path, 0, path.stat().st_size, zeroes=True),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
async def test_whatever_is_broken_the_start_goes_on_and_says_so_once(path, spoil):
    await fill(path)
    spoil(path)
    store = SqliteStateStore(path, clock=FakeClock())
    state = await store.load(MANY, ("api",))
    assert all(state.accounts[name] == MANY[name] for name in state.accounts)
    await store.history(1_000)
    await store.save(of(b=DRAINED))
    assert await store.keep_history(PAST[:5])
    assert await store.list_sessions("", 5) is not None
    await store.aclose()
    (notice,) = store.take_notices()
    (aside,) = path.parent.glob("*damaged*[0-9]")
    assert str(path) in notice
    assert f"was damaged: it is now {aside.name}" in notice
    found = (await read(path)).accounts
    assert found["b"] == DRAINED
    assert found.keys() >= state.accounts.keys()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("table", ["state", "history"])
async def test_a_broken_page_in_the_middle_costs_what_stood_on_it_and_nothing_else(path, table):
    await fill(path)
    a_leaf(path, table)
    store = SqliteStateStore(path, clock=FakeClock())
    state = await store.load(MANY, ("api",))
    ended = await store.history(1_000)
    await store.aclose()
    (notice,) = store.take_notices()
    assert "entries that could still be read" in notice
    assert all(state.accounts[name] == MANY[name] for name in state.accounts)
    assert set(ended) <= set(PAST)
    whole, broken = (ended, state.accounts) if table == "state" else (state.accounts, ended)
    assert len(whole) == 300
    assert 150 < len(broken) < 300


async def test_damage_that_comes_up_while_it_runs_costs_nothing_that_the_process_knows(path):
    await fill(path)
    store = SqliteStateStore(path, clock=FakeClock())
    assert len((await store.load(MANY, ("api",))).accounts) == 300
    overwritten(path, PAGE, path.stat().st_size - PAGE)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    await store._worker.do(store._let_go)  # what SQLite still has in memory would hide the damage
    await store.save(of(b=DRAINED))
    await store.aclose()
    (notice,) = store.take_notices()
    assert "was damaged" in notice
    assert set((await read(path)).accounts) == {*MANY, "b"}


async def test_a_log_full_of_rubbish_costs_at_most_what_was_only_there(path):
    await fill(path)
    keeper = SqliteStateStore(path, clock=FakeClock())
    await keeper.save(of(b=DRAINED))
    log = path.with_name("state.db-wal")
    assert log.stat().st_size
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.with_name("copy.db-wal").write_bytes(random.Random(1).randbytes(50_000))
    found = (await read(copy)).accounts
    assert {name: found[name] for name in MANY} == MANY
    await keeper.aclose()


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
async def test_a_folder_where_the_log_should_be_is_no_traceback(path, ending):
    await fill(path)
    path.with_name(path.name + ending).mkdir()
    store = SqliteStateStore(path, clock=FakeClock())
    await store.load(MANY, ())
    await store.save(of(b=DRAINED))
    await store.aclose()
    assert len(store.take_notices()) <= 1


SPEC = system(pool("main", "a-1", "a-2"))


async def told(orchestrator: Orchestrator, path: Path) -> list[str]:
    """What the operator was told of the store, after a request was answered and an order kept."""
    subscription = orchestrator.subscribe()
    async with orchestrator:
        assert (await orchestrator.chat(ask())).text == "Hello world"
        assert orchestrator.execute(Drain("a-1", "maintenance")).ok
        assert await orchestrator.history() != ()
        view = orchestrator.snapshot().store
        assert view.place == str(path)
        assert bool(view.trouble) is (view.degraded_since is not None)
    return [event.message for event in subscription.drain()[0] if isinstance(event, StateNotice)]


@pytest.mark.parametrize("trouble", ["rubbish", "folder", "nowhere", "foreign", "fifo"])
async def test_no_trouble_with_the_file_keeps_a_request_from_its_answer(tmp_path, trouble):
    path = tmp_path / "folder" / "state.db"
    path.parent.mkdir()
    if trouble == "rubbish":
        path.write_bytes(b"rubbish " * 4_000)
    elif trouble == "folder":
        path.mkdir()
    elif trouble == "nowhere":
        path.parent.rmdir()
        path.parent.write_text("a file where a folder should be")
    elif trouble == "foreign":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE recipes (name)")
    else:
        path = Path("/dev/null/state.db")
    store = SqliteStateStore(path)
    orchestrator = Orchestrator(SPEC, provider_factory=ScriptedUpstream().provider, store=store)
    (message,) = await told(orchestrator, path)
    assert str(path) in message
    if trouble == "rubbish":
        assert (await read(path)).accounts["a-1"].admin is AdminState.DRAINED


async def test_a_folder_that_can_not_be_written_keeps_nobody_from_an_answer(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    with unprivileged():
        path = folder / "state.db"
        store = SqliteStateStore(path)
        orchestrator = Orchestrator(SPEC, provider_factory=ScriptedUpstream().provider, store=store)
        (message,) = await told(orchestrator, path)
    assert "will not survive a restart" in message


async def test_history_waits_for_a_disk_that_is_full(path):
    store = SqliteStateStore(path, clock=FakeClock())
    assert await store.keep_history(PAST[:1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        assert not await store.keep_history(PAST)
        assert store.view().trouble
        assert store.view().degraded_since == EPOCH
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store._try_again()
    assert await store.keep_history(PAST)
    assert store.view().degraded_since is None
    assert len(await store.history(1_000)) == 300
    await store.aclose()
    assert len(store.take_notices()) == 2


async def test_a_file_removed_under_a_running_process_is_made_anew_and_told_by_nobody(path):
    upstream = ScriptedUpstream()
    store = SqliteStateStore(path)
    async with Orchestrator(SPEC, provider_factory=upstream.provider, store=store) as orchestrator:
        orchestrator.execute(Drain("a-1", "before"))
        await orchestrator._persistence._save_changes()
        for entry in path.parent.iterdir():
            entry.unlink()
        orchestrator.execute(Drain("a-2", "after"))
    found = (await read(path)).accounts
    assert [found[name].admin_reason for name in ("a-1", "a-2")] == ["before", "after"]
