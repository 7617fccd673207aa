"""The state file: private, exact, shared, and told of when it is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartfallback import AdminState, CircuitState, QuotaUnit, SqliteStateStore, TruthLabel, WindowKind
from smartfallback.model.state import (
    AccountState,
    AttentionState,
    CircuitRecord,
    RestState,
    SystemState,
    WallState,
    WindowState,
)
from support.clock import EPOCH, FakeClock
from support.states import DRAINED, HELD, change, of, read, unprivileged

FULL = AccountState(
    admin=AdminState.DISABLED,
    admin_reason="tea 🍵 \x00 [/x] \ud800 " + "long " * 50,
    attention=AttentionState("authentication 401: no", EPOCH, "ab12"),
    cooldown=RestState(EPOCH + 1 / 3, "rate_limit 429: slow down"),
    wall=WallState(EPOCH + 86_400.1, EPOCH, "weekly limit"),
    windows=(
        WindowState(WindowKind.WEEK, QuotaUnit.TOKENS, 12, TruthLabel.MEASURED, EPOCH, EPOCH + 9, EPOCH + 1),
        WindowState(
            WindowKind.MONTH,
            QuotaUnit.CREDITS,
            0.1 + 0.2,
            TruthLabel.REPORTED,
            EPOCH,
            EPOCH + 9,
            EPOCH,
            EPOCH - 5,
            limit=300.0,
            adopted=True,
        ),
    ),
    circuit=CircuitRecord(CircuitState.OPEN, "3 of 3 calls failed", EPOCH, EPOCH + 7, 100.0, 200.0),
    model_rests={"a/b": RestState(EPOCH + 2, "")},
    model_circuits={"m": CircuitRecord(CircuitState.HALF_OPEN, "", EPOCH, None, 5.0, None, True)},
    last_used_at=EPOCH - 0.125,
    requests=7,
    failures=2,
    tokens=12_345,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state.db"


async def save(path: Path, state: SystemState) -> None:
    store = SqliteStateStore(path)
    await store.load(state.accounts, state.providers)
    await store.save(state)
    await store.aclose()


async def test_what_is_saved_is_read_back_to_the_last_bit(path):
    state = SystemState({"a-1": FULL, "a-2": AccountState()}, {"api": HELD, "other": None})
    await save(path, state)
    assert await read(path) == state


async def test_file_and_directory_are_for_the_user_alone(path):
    store = SqliteStateStore(path)
    await store.save(of(a=DRAINED))
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    assert modes["state.db"] == 0o600
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await store.aclose()


async def test_a_file_that_others_could_read_is_made_private(path):
    await save(path, of(a=DRAINED))
    path.chmod(0o644)
    assert (await read(path)).accounts == {"a": DRAINED}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_closing_twice_or_without_use_is_fine_and_saving_nothing_makes_no_file(path):
    store = SqliteStateStore(path)
    await store.save(SystemState())
    await store.aclose()
    await store.aclose()
    assert not path.exists()


async def test_the_default_file_is_in_the_state_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert SqliteStateStore().path == tmp_path / "smartfallback" / "state.db"


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at " * 40, b"\0" * 5_000])
async def test_a_broken_file_is_put_aside_unchanged_and_a_new_one_begun(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    store = SqliteStateStore(path)
    assert await store.load(["a"], ()) == SystemState()
    await store.save(of(a=DRAINED))
    await store.aclose()
    (notice,) = store.take_notices()
    (aside,) = path.parent.glob("state.db.damaged-*")
    assert aside.read_bytes() == content
    assert aside.name in notice
    assert (await read(path)).accounts == {"a": DRAINED}


def spoil(file: Path, sound: int) -> None:
    """Overwrite all but the first ``sound`` bytes."""
    content = file.read_bytes()
    with file.open("r+b") as opened:  # the same file for those who have it open
        opened.seek(sound)
        opened.write(b"rubbish!" * ((len(content) - sound) // 8))


async def test_a_file_with_broken_pages_is_put_aside_and_all_that_is_known_is_written_anew(path):
    many = {f"a-{number}": DRAINED for number in range(400)}
    await save(path, SystemState(many))
    store = SqliteStateStore(path)
    assert len((await store.load(many, ())).accounts) == 400
    for file, sound in ((path, 4_096), (path.with_name("state.db-wal"), 32)):
        spoil(file, sound)
    other = SqliteStateStore(path)
    await other.load(["a-1"], ())
    await other.aclose()
    assert any("damaged" in notice for notice in other.take_notices())
    await store.save(of(b=DRAINED))
    await store.aclose()
    assert set((await read(path)).accounts) == {*many, "b"}


async def test_a_row_that_can_not_be_read_costs_only_itself(path):
    await save(path, of(good=DRAINED, bad=DRAINED, worse=DRAINED, odd=DRAINED))
    change(path, "UPDATE state SET document = ? WHERE name = ?", '{"admin": "asleep"}', "bad")
    change(path, "UPDATE state SET document = ? WHERE name = ?", b"\xff\x00", "worse")
    change(path, "UPDATE state SET document = ? WHERE name = ?", '{"tokens": -1, "windows": 3}', "odd")
    store = SqliteStateStore(path)
    assert (await store.load(["good", "bad"], ())).accounts == {"good": DRAINED}
    (notice,) = store.take_notices()
    assert "bad, odd, worse" in notice
    await store.save(of(bad=DRAINED))
    await store.aclose()
    assert set((await read(path)).accounts) == {"good", "bad"}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 7", "version 7"),
        ("PRAGMA application_id = 99", "another program"),
    ],
)
async def test_a_file_of_another_version_or_program_is_left_as_it_is(path, statement, said):
    await save(path, of(a=DRAINED))
    change(path, statement)
    before = path.read_bytes()
    store = SqliteStateStore(path)
    assert await store.load(["a"], ()) == SystemState()
    await store.save(of(a=AccountState()))
    await store.save(of(a=AccountState()))
    await store.aclose()
    (notice,) = store.take_notices()
    assert said in notice
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["state.db"]


async def test_another_programs_database_without_any_mark_is_left_as_it_is(path):
    path.parent.mkdir()
    change(path, "CREATE TABLE recipes (name)")
    before = path.read_bytes()
    store = SqliteStateStore(path)
    await store.load(["a"], ())
    await store.save(of(a=DRAINED))
    await store.aclose()
    assert "another program" in store.take_notices()[0]
    assert path.read_bytes() == before


@pytest.fixture
def frozen() -> Iterator[Path]:
    """A state file in a directory; both become read-only once the file is there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(save(folder / "state.db", of(a=DRAINED)))
        (folder / "state.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder / "state.db"
        folder.chmod(0o700)


async def test_in_a_read_only_directory_the_state_is_read_and_changes_stay_in_memory(frozen):
    before = frozen.read_bytes()
    with unprivileged():
        store = SqliteStateStore(frozen)
        loaded = await store.load(["a"], ())
        await store.save(of(a=AccountState()))
        await store.save(of(a=AccountState()))
        await store.aclose()
    assert loaded.accounts == {"a": DRAINED}
    assert len(store.take_notices()) == 1
    assert frozen.read_bytes() == before


async def test_a_directory_that_can_not_be_made_is_told_once(frozen):
    with unprivileged():
        store = SqliteStateStore(frozen.parent / "new" / "state.db")
        await store.load(["a"], ())
        await store.save(of(a=DRAINED))
        await store.aclose()
    (notice,) = store.take_notices()
    assert "Permission denied" in notice
    assert not (frozen.parent / "new").exists()


async def test_a_directory_where_the_file_should_be_is_no_traceback(path):
    path.mkdir(parents=True)
    store = SqliteStateStore(path)
    assert await store.load(["a"], ()) == SystemState()
    await store.save(of(a=DRAINED))
    await store.aclose()
    assert len(store.take_notices()) == 1
    assert path.is_dir()


async def test_a_locked_file_is_written_once_it_is_free_with_nothing_lost(path):
    await save(path, of(a=DRAINED))
    store = SqliteStateStore(path)
    await store.load(["a"], ())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await store.save(of(b=DRAINED))
        (notice,) = store.take_notices()
        assert "locked" in notice
        other.execute("ROLLBACK")
    await store.save(SystemState())
    (notice,) = store.take_notices()
    assert "again" in notice
    await store.aclose()
    assert set((await read(path)).accounts) == {"a", "b"}


async def test_a_file_locked_at_the_start_keeps_its_orders_all_the_same(path):
    await save(path, of(a=DRAINED, b=DRAINED))
    clock = FakeClock()
    store = SqliteStateStore(path, clock=clock)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        await store.load(["a", "b"], ())
        await store.save(of(a=AccountState(requests=2)))
        other.execute("ROLLBACK")
    clock.advance(60.0)
    await store.save(SystemState())
    await store.aclose()
    found = (await read(path)).accounts
    assert (found["a"].admin, found["a"].requests) == (AdminState.DRAINED, 5)
    assert found["b"] == DRAINED


async def test_a_full_disk_is_told_once_and_what_is_unsaved_is_written_when_there_is_room(path):
    await save(path, of(a=DRAINED))
    store = SqliteStateStore(path)
    await store.load(["a"], ())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    many = {f"b-{number}": FULL for number in range(200)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        await store.save(SystemState(many))
        await store.save(of(c=DRAINED))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(store.take_notices()) == 1
    await store.aclose()
    assert set((await read(path)).accounts) == {"a", "c", *many}


async def test_a_file_removed_while_it_is_used_is_made_anew_with_all_that_is_known(path):
    await save(path, of(a=DRAINED))
    store = SqliteStateStore(path)
    await store.load(["a"], ())
    for entry in path.parent.iterdir():
        entry.unlink()
    path.parent.rmdir()
    await store.save(of(b=DRAINED))
    await store.aclose()
    assert set((await read(path)).accounts) == {"a", "b"}
    assert store.take_notices() == ()


async def test_a_caller_that_goes_away_loses_no_write_and_doubles_none(path):
    store = SqliteStateStore(path)
    await store.load(["a"], ())
    for total in range(1, 21):
        task = asyncio.create_task(store.save(of(a=AccountState(requests=total))))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.aclose()
    assert (await read(path)).accounts["a"].requests == 20


async def test_a_load_that_nobody_waited_for_erases_nothing(path):
    await save(path, of(a=DRAINED))
    store = SqliteStateStore(path)
    task = asyncio.create_task(store.load(["a"], ()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.save(of(a=AccountState(requests=1)))
    await store.aclose()
    found = (await read(path)).accounts["a"]
    assert (found.admin, found.requests) == (AdminState.DRAINED, 4)
