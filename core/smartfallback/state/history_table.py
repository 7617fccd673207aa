"""What became of requests, in the SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from smartfallback.model.history import KEPT, KEPT_S, PastRequest
from smartfallback.state.history_codec import decode_past, encode_past

PRUNE_EVERY: Final = 200
"""After so many rows, what is too old or too much is taken out."""
PRUNED_AT_ONCE: Final = 2_000
"""At most so many, so that no write takes long after a long time off."""

SCHEMA: Final = (
    """
CREATE TABLE history (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    ending TEXT NOT NULL,
    document TEXT NOT NULL
)
""",
    "CREATE INDEX history_by_end ON history (at)",
)


class HistoryTable:
    """Ended requests; to be used inside a transaction.

    Rows have ids of their own, so that several processes may write side by side, and what is written
    twice stands there once.

    Args:
        notice: Told, in a sentence, what could not be read or written.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._until_prune = 0

    def keep(self, connection: sqlite3.Connection, ended: Sequence[PastRequest], now: float) -> bool:
        """Write ended requests, and take out what is kept no longer at ``now`` (epoch seconds)."""
        rows = []
        for past in ended:
            try:
                rows.append(encode_past(past))
            except ValueError as error:  # it would keep all others from being written
                self._notice(f"what became of the request {past.request_id} can't be kept ({error}).")
        connection.executemany(
            "INSERT OR IGNORE INTO history (id, at, ending, document) VALUES (?, ?, ?, ?)", rows
        )
        self._until_prune -= len(rows)
        if self._until_prune <= 0:
            self._until_prune = PRUNE_EVERY
            self._prune(connection, now)
        return True

    def latest(
        self, connection: sqlite3.Connection, limit: int, since: float | None
    ) -> tuple[PastRequest, ...]:
        """The newest ones that ended at ``since`` (epoch seconds) or later, the newest first."""
        found: list[PastRequest] = []
        unreadable = 0
        for row in connection.execute(
            "SELECT id, at, ending, document FROM history WHERE at >= ? "
            "ORDER BY at DESC, number DESC LIMIT ?",
            (-float("inf") if since is None else since, max(0, limit)),
        ):
            try:
                found.append(decode_past(row))
            except (TypeError, ValueError):
                unreadable += 1
        if unreadable:
            self._notice(f"what became of {unreadable} earlier requests can't be read.")
        return tuple(found)

    def _prune(self, connection: sqlite3.Connection, now: float) -> None:
        connection.execute(
            "DELETE FROM history WHERE number IN (SELECT number FROM history WHERE at < ? LIMIT ?)",
            (now - KEPT_S, PRUNED_AT_ONCE),
        )
        # Numbers only grow, so that counting all rows is not needed.
        connection.execute(
            "DELETE FROM history WHERE number IN (SELECT number FROM history "
            "WHERE number <= (SELECT max(number) FROM history) - ? LIMIT ?)",
            (KEPT, PRUNED_AT_ONCE),
        )
