"""The queue in the SQLite file: whose a request is, and how it passes from a dead process to another.

Each process that has requests in the file has a row with a beat that it keeps raising. A process whose
beat stands still for :data:`LEASE_S`, by the watcher's own monotonic clock, is taken for dead; no
calendar enters into it, so a stepped clock gives nobody's requests away. A process that closes takes
its row with it, which sets its requests free at once.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from typing import Final

from smartfallback.model.outcomes import RequestError
from smartfallback.model.queueing import KeptOutcome, QueuedRequest, QueueNews, QueueState
from smartfallback.model.requests import Reply
from smartfallback.state.queue_codec import decode_outcome, decode_queued, encode_outcome, encode_queued

BEAT_S: Final = 2.5
"""How often the beat is raised, and others are looked after."""
LEASE_S: Final = 10.0
"""A process that has not raised its beat for so long is taken for dead."""
KEEP_OUTCOMES_S: Final = 86_400.0
KEEP_OUTCOMES: Final = 500
"""How long, and how many, outcomes wait for somebody to collect them; the oldest go first."""

SCHEMA: Final = (
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
_HIGHEST = 2**63 - 1


class QueueTable:
    """One process's share in the tables of the queue; to be used inside a transaction.

    A transaction that fails leaves this object as it was, apart from a call of :meth:`committed`.

    Args:
        notice: Told, in a sentence, what could not be read or written.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._owner = secrets.token_hex(8)
        self._written: dict[str, QueuedRequest] = {}
        """What the file holds of this process, by ticket."""
        self._next: dict[str, QueuedRequest] = {}
        self._taken_up: frozenset[str] = frozenset()
        """Requests that were handed in once, so that their absence means their end. One that was adopted
        while nobody listened any more is not among them, and stays for the next start."""
        self._next_taken_up: frozenset[str] = frozenset()
        self._beats: dict[str, tuple[int, float]] = {}
        """The beats of other processes, and since when they stand there."""
        self._looked_at = -float("inf")

    def forget_written(self) -> None:
        """The file is another one: all is to be written again."""
        self._written = {}

    def due(self, state: QueueState, now: float) -> bool:
        """Whether :meth:`exchange` would have anything to do at ``now`` (monotonic seconds)."""
        return bool(state.outcomes) or self._differs(state) or now - self._looked_at >= BEAT_S

    @property
    def holds_any(self) -> bool:
        """Whether the file holds requests of this process."""
        return bool(self._written)

    def exchange(
        self, connection: sqlite3.Connection, state: QueueState, room: int, now: float, wall: float
    ) -> QueueNews:
        """Write what changed, adopt what nobody owns any more, at most ``room`` requests."""
        lost = self._lost(connection)
        self._next_taken_up = frozenset(state.requests) - lost
        self._next = {ticket: queued for ticket, queued in self._written.items() if ticket not in lost}
        self._delete(connection, state)
        self._write(connection, state, lost)
        self._write_outcomes(connection, state.outcomes, wall)
        self._bury(connection, now)
        adopted = self._adopt(connection, room)
        self._beat(connection)
        uncollected: int = connection.execute("SELECT count(*) FROM outcomes").fetchone()[0]
        return QueueNews(adopted, lost, uncollected)

    def committed(self, now: float) -> None:
        """What :meth:`exchange` did stands in the file."""
        self._written = self._next
        self._taken_up = self._next_taken_up
        self._looked_at = now

    def collect(self, connection: sqlite3.Connection, request_id: str) -> KeptOutcome | None:
        """Take out the oldest outcome of that name."""
        for ticket, at, document in connection.execute(
            "SELECT ticket, at, document FROM outcomes WHERE request_id = ? ORDER BY at, ticket",
            (request_id,),
        ).fetchall():
            connection.execute("DELETE FROM outcomes WHERE ticket = ?", (ticket,))
            try:
                outcome: Reply | RequestError = decode_outcome(document)
            except (TypeError, ValueError):
                self._notice(f"what was kept as the outcome of {request_id} can't be read; it is dropped.")
                continue
            return KeptOutcome(ticket, request_id, at, outcome)
        return None

    def release(self, connection: sqlite3.Connection) -> None:
        """Let others have the requests of this process, which closes."""
        connection.execute("DELETE FROM queue_owners WHERE owner = ?", (self._owner,))

    def _differs(self, state: QueueState) -> bool:
        requests, written = state.requests, self._written
        return len(requests) != len(written) or any(
            written.get(ticket) is not queued for ticket, queued in requests.items()
        )

    def _lost(self, connection: sqlite3.Connection) -> frozenset[str]:
        """Requests that were written and are not this process's any more."""
        if not self._written:
            return frozenset()
        mine = connection.execute("SELECT ticket FROM queue WHERE owner = ?", (self._owner,))
        return frozenset(self._written) - {ticket for (ticket,) in mine}

    def _delete(self, connection: sqlite3.Connection, state: QueueState) -> None:
        ended = self._taken_up.union(kept.ticket for kept in state.outcomes)
        for ticket in ended.difference(state.requests):
            # Also when another process has it by now: it has been answered.
            connection.execute("DELETE FROM queue WHERE ticket = ?", (ticket,))
            self._next.pop(ticket, None)

    def _write(self, connection: sqlite3.Connection, state: QueueState, lost: frozenset[str]) -> None:
        for ticket, queued in state.requests.items():
            if ticket in lost or self._written.get(ticket) is queued:
                continue
            self._next[ticket] = queued
            try:
                document = encode_queued(queued)
            except ValueError as error:
                self._notice(f"the queued request {queued.request_id} can't be saved ({error}).")
                continue
            connection.execute(
                "INSERT INTO queue VALUES (?, ?, ?, ?, ?) ON CONFLICT (ticket) "
                "DO UPDATE SET document = excluded.document WHERE owner = excluded.owner",
                (
                    ticket,
                    self._owner,
                    max(-_HIGHEST, min(_HIGHEST, queued.terms.priority)),
                    queued.since,
                    document,
                ),
            )

    def _write_outcomes(
        self, connection: sqlite3.Connection, outcomes: tuple[KeptOutcome, ...], wall: float
    ) -> None:
        for kept in outcomes:
            try:
                document = encode_outcome(kept)
            except ValueError as error:
                self._notice(f"the outcome of {kept.request_id} can't be saved ({error}).")
                continue
            connection.execute(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)",
                (kept.ticket, kept.request_id, kept.at, document),
            )
        connection.execute("DELETE FROM outcomes WHERE at <= ?", (wall - KEEP_OUTCOMES_S,))
        connection.execute(
            "DELETE FROM outcomes WHERE ticket IN "
            "(SELECT ticket FROM outcomes ORDER BY at DESC, ticket LIMIT -1 OFFSET ?)",
            (KEEP_OUTCOMES,),
        )

    def _bury(self, connection: sqlite3.Connection, now: float) -> None:
        """Take out the processes whose beat has stood still for too long."""
        standing = self._beats
        self._beats = {}
        others = connection.execute(
            "SELECT owner, beat FROM queue_owners WHERE owner != ?", (self._owner,)
        ).fetchall()
        for owner, beat in others:
            before, since = standing.get(owner, (beat, now))
            if before == beat and now - since >= LEASE_S:
                connection.execute("DELETE FROM queue_owners WHERE owner = ?", (owner,))
            else:
                self._beats[owner] = (beat, since if before == beat else now)

    def _adopt(self, connection: sqlite3.Connection, room: int) -> tuple[QueuedRequest, ...]:
        if room <= 0:
            return ()
        free = connection.execute(
            "SELECT ticket, document FROM queue "
            "WHERE owner != ? AND owner NOT IN (SELECT owner FROM queue_owners) "
            "ORDER BY priority DESC, since, ticket LIMIT ?",
            (self._owner, room),
        ).fetchall()
        adopted: list[QueuedRequest] = []
        unreadable = 0
        for ticket, document in free:
            try:
                queued = decode_queued(ticket, document)
            except (TypeError, ValueError):
                connection.execute("DELETE FROM queue WHERE ticket = ?", (ticket,))
                unreadable += 1
                continue
            connection.execute("UPDATE queue SET owner = ? WHERE ticket = ?", (self._owner, ticket))
            self._next[ticket] = queued
            adopted.append(queued)
        if unreadable:
            what = "a queued request" if unreadable == 1 else f"{unreadable} queued requests"
            self._notice(f"{what} can't be read and will not be replayed.")
        return tuple(adopted)

    def _beat(self, connection: sqlite3.Connection) -> None:
        if self._next:
            connection.execute(
                "INSERT INTO queue_owners VALUES (?, 1) ON CONFLICT (owner) DO UPDATE SET beat = beat + 1",
                (self._owner,),
            )
        elif self._written:
            connection.execute("DELETE FROM queue_owners WHERE owner = ?", (self._owner,))
