"""Takes what can still be read out of a damaged file."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

MOST_ROWS: Final = 50_000
"""So many of one table at most, the latest where they are numbered, so that a start is not held up."""


def salvage(damaged: Path, into: sqlite3.Connection) -> int:
    """Copy the rows of all tables that both databases have, as far as their pages are sound.

    A scan ends where it meets a broken page, so each table is scanned from both ends of its key and in
    the order of its pages. What a row means is checked where it is used.

    Args:
        damaged: The file; it is not changed.
        into: Where rows that it does not have are added, in a transaction of its own.

    Returns:
        How many rows were added.

    Raises:
        sqlite3.Error: ``into`` can't be written.
    """
    before = into.total_changes
    into.execute("BEGIN IMMEDIATE")
    try:
        with contextlib.suppress(sqlite3.Error):
            source = sqlite3.connect(damaged.absolute().as_uri() + "?mode=ro", uri=True, timeout=0.1)
            with contextlib.closing(source):
                source.text_factory = _text
                for table in _tables(into):
                    _copy(table, source, into)
    except BaseException:
        into.execute("ROLLBACK")
        raise
    into.execute("COMMIT")
    return into.total_changes - before


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _tables(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def _copy(table: str, source: sqlite3.Connection, into: sqlite3.Connection) -> None:
    columns = into.execute("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", (table,)).fetchall()
    names = ", ".join(name for name, _ in columns)
    key = sorted((place, name) for name, place in columns if place)
    marks = ", ".join("?" * len(columns))
    for direction in ("DESC", "ASC", None):
        order = (
            "" if direction is None else " ORDER BY " + ", ".join(f"{name} {direction}" for _, name in key)
        )
        try:
            # The names are those of our own tables.
            rows = source.execute(f"SELECT {names} FROM {table}{order} LIMIT {MOST_ROWS}")  # noqa: S608
            while True:
                row = rows.fetchone()
                if row is None:
                    return
                into.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608
        except sqlite3.DatabaseError:
            continue
