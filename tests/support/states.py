"""States and files for tests of the state store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from smartfallback import AdminState, CircuitState, SqliteStateStore
from smartfallback.model.state import AccountState, CircuitRecord, SystemState
from support.clock import EPOCH

DRAINED = AccountState(admin=AdminState.DRAINED, admin_reason="maintenance", requests=3)
HELD = CircuitRecord(CircuitState.FORCED_OPEN, "incident", EPOCH)


def of(**accounts: AccountState) -> SystemState:
    return SystemState(accounts=accounts)


async def read(path: Path, *accounts: str) -> SystemState:
    """What another process would find."""
    store = SqliteStateStore(path)
    try:
        return await store.load(accounts, ())
    finally:
        await store.aclose()


def change(path: Path, statement: str, *values: object) -> None:
    """Meddle with a file that nobody has open."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without the right of the superuser to write everywhere, should the tests run as that."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)
