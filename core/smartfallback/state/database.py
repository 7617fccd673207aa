"""The SQLite file itself: made private, opened with care, told apart from what is not ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from smartfallback.state.history_table import SCHEMA as HISTORY_SCHEMA
from smartfallback.state.queue_table import SCHEMA as QUEUE_SCHEMA
from smartfallback.state.session_table import SCHEMA as SESSION_SCHEMA
from smartfallback.state.state_table import HOLD_SCHEMA, STATE_SCHEMA, TIE_SCHEMA

APPLICATION_ID: Final = 0x53464243
"""Marks the file as ours (the letters SFBC), as SQLite's header provides for it."""
SCHEMA_VERSION: Final = 3
"""1 kept the state of accounts and circuits, 2 the queue too, and 3 keeps holds, sticky sessions, history
and chat sessions."""
BUSY_S: Final = 0.5
"""How long another process that writes is waited for, on the store's own thread."""

_STEPS: Final[tuple[tuple[str, ...], ...]] = (
    STATE_SCHEMA,
    QUEUE_SCHEMA,
    (*HOLD_SCHEMA, *TIE_SCHEMA, *HISTORY_SCHEMA, *SESSION_SCHEMA),
)
"""What leads from each version to the next; an empty file has version 0."""
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BESIDE: Final = ("", "-wal", "-shm", "-journal")


class ForeignFile(Exception):
    """The file is in order, but not one that this version may write; the message says what it is."""


def in_memory() -> sqlite3.Connection:
    """A database without a file, with all tables. Any one thread at a time may use it."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _bring_up_to_date(connection)
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, which is made (private to the user) when there is none.

    Raises:
        ForeignFile: It is another program's, or of another version of this one.
        sqlite3.Error: It can't be read, or is damaged (see :func:`damaged`).
        OSError: It can't be made.
    """
    _make(path)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        _bring_up_to_date(connection)
        _check(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        # Safe against a killed process; only a power cut may cost the last writes, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open a file that can't be written, such as one in a read-only directory.

    Raises:
        ForeignFile: As :func:`connect`.
        sqlite3.Error: It can't be read.
    """
    uri = path.absolute().as_uri() + "?mode=ro"
    if not path.with_name(path.name + "-wal").exists():
        uri += "&immutable=1"  # otherwise SQLite wants to make its files beside it
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        _check(connection, oldest=1)
    except BaseException:
        connection.close()
        raise
    return connection


def damaged(error: sqlite3.Error) -> bool:
    """Whether the error means that the file's content is broken."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def busy(error: sqlite3.Error) -> bool:
    """Whether the error means that another process holds the file just now."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file stands at the path, None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and what SQLite keeps beside it; returns its new path.

    Raises:
        OSError: It can't be renamed.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    number = 1
    name = aside = f"{path.name}.damaged-{stamp}"
    while path.with_name(aside).exists():
        number += 1
        aside = f"{name}-{number}"
    for ending in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(path.with_name(aside + ending))
    return path.with_name(aside)


def _make(path: Path) -> None:
    if path.exists():
        with contextlib.suppress(OSError):  # another user's file, perhaps; SQLite says if it is usable
            if path.is_file() and path.stat().st_mode & 0o077:
                path.chmod(0o600)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its -wal and -shm files the same mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Give an empty file its schema, and an older one of ours what is new since then."""
    if not _outdated(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _outdated(connection):  # not brought up to date by another process meanwhile
            for statements in _STEPS[_numbers(connection)[1] :]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _outdated(connection: sqlite3.Connection) -> bool:
    application, version = _numbers(connection)
    if (application, version) == (0, 0):
        return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return application == APPLICATION_ID and 0 < version < SCHEMA_VERSION


def _check(connection: sqlite3.Connection, oldest: int = SCHEMA_VERSION) -> None:
    """Refuse what is not a file of ours, or of a version that this one does not know."""
    application, version = _numbers(connection)
    if application != APPLICATION_ID:
        raise ForeignFile("is another program's database")
    if not oldest <= version <= SCHEMA_VERSION:
        raise ForeignFile(
            f"has version {version} of the format, where this version of SmartFallback knows {SCHEMA_VERSION}"
        )


def _numbers(connection: sqlite3.Connection) -> tuple[int, int]:
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return application, version
