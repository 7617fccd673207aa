"""Accounts, providers, holds and ties in the SQLite file.

What one process changed since it last wrote is merged into what others have written meanwhile. Holds
are each process's own: it writes and deletes only its own ones, reads only those of others, and what
it has read it never writes. So they end by themselves, whichever process is gone, and count once.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final, Literal

from smartfallback.model.state import (
    MOST_TIES,
    AccountState,
    CircuitRecord,
    HoldState,
    SystemState,
    TieState,
)
from smartfallback.state.codec import (
    decode_account,
    decode_circuit,
    decode_holds,
    encode_account,
    encode_circuit,
    encode_holds,
)
from smartfallback.state.merge import merged, merged_circuit

FORGET_AFTER_S: Final = 90 * 86_400.0
"""How long the state of an account that is no longer configured is kept."""

STATE_SCHEMA: Final = (
    """
CREATE TABLE state (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    seen_at REAL NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID
""",
)
HOLD_SCHEMA: Final = (
    """
CREATE TABLE holds (
    owner TEXT NOT NULL,
    account TEXT NOT NULL,
    until REAL NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (owner, account)
) WITHOUT ROWID
""",
)
TIE_SCHEMA: Final = (
    """
CREATE TABLE ties (
    pool TEXT NOT NULL,
    reserve INTEGER NOT NULL,
    session TEXT NOT NULL,
    account TEXT NOT NULL,
    used_at REAL NOT NULL,
    PRIMARY KEY (pool, reserve, session)
) WITHOUT ROWID
""",
    "CREATE INDEX ties_by_use ON ties (pool, used_at)",
)

Key = tuple[Literal["account", "provider"], str]
Value = AccountState | CircuitRecord | None
TieKey = tuple[str, bool, str | None]

_FRESH: Final = AccountState()


class StateTable:
    """One process's view of the state; to be used inside a transaction.

    A transaction that fails leaves this object as it was, apart from a call of :meth:`written`.

    Args:
        notice: Told, in a sentence, what could not be read or written.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._owner = secrets.token_hex(8)
        self._configured: frozenset[Key] = frozenset()
        self._known: dict[Key, Value] = {}
        """What this process last read or wrote."""
        self._unsaved: dict[Key, Value] = {}
        self._known_ties: dict[str, dict[tuple[bool, str | None], TieState]] = {}
        self._unsaved_ties: dict[TieKey, TieState] = {}
        self._held: set[str] = set()
        """Accounts with holds of this process in the file."""
        self._exact: set[Key] = set()
        """Where the file holds just what is known, as long as nobody else has written into it."""
        self._next_exact: set[Key] = set()
        self._file: tuple[sqlite3.Connection, int] | None = None
        """A connection, and the number by which it tells whether others have written since."""

    @property
    def unsaved(self) -> int:
        """How much is to be written. Any thread may ask."""
        return len(self._unsaved) + len(self._unsaved_ties)

    @property
    def anything_known(self) -> bool:
        """Whether anything was read or written."""
        return bool(self._known)

    def configure(self, accounts: Iterable[str], providers: Iterable[str]) -> None:
        """Say who is configured; others may be forgotten after a while."""
        keys: list[Key] = [("account", name) for name in accounts]
        keys += [("provider", name) for name in providers]
        self._configured = frozenset(keys)

    def take(self, changes: SystemState) -> None:
        """Note changes, to be written next."""
        self._unsaved.update((("account", name), state) for name, state in changes.accounts.items())
        self._unsaved.update((("provider", name), record) for name, record in changes.providers.items())
        for pool, ties in changes.ties.items():
            for tie in ties:
                key = (pool, tie.reserve, tie.session)
                self._unsaved_ties.pop(key, None)  # the order is that of use
                self._unsaved_ties[key] = tie

    def written(self) -> None:
        """What :meth:`write` did stands in the file."""
        self._exact |= self._next_exact
        for key, value in self._unsaved.items():
            self._known[key] = value
            if isinstance(value, AccountState):
                (self._held.add if value.holds else self._held.discard)(key[1])
        self._unsaved = {}
        for (pool, _, _), tie in self._unsaved_ties.items():
            known = self._known_ties.setdefault(pool, {})
            known.pop((tie.reserve, tie.session), None)
            if tie.account:
                known[tie.reserve, tie.session] = tie
            if len(known) > MOST_TIES:
                del known[next(iter(known))]
        self._unsaved_ties = {}

    def forget_read(self) -> None:
        """What was read was not taken up: it says nothing about where changes come from."""
        self._known = {}
        self._known_ties = {}
        self._exact.clear()

    def forget_written(self) -> None:
        """The file is another one: all is to be written again."""
        self._unsaved = {**self._known, **self._unsaved}
        known = {
            (pool, tie.reserve, tie.session): tie
            for pool, ties in self._known_ties.items()
            for tie in ties.values()
        }
        self._unsaved_ties = {**known, **self._unsaved_ties}
        self._exact.clear()
        self._file = None

    # -- reading -----------------------------------------------------------------------------

    def read(self, connection: sqlite3.Connection, now: float) -> SystemState:
        """All that the file holds, with the holds of other processes that have not ended at ``now``."""
        rows = self._rows(connection)
        self._known = dict(rows)
        self._note_version(connection)
        self._exact = set(rows)
        ties = self._read_ties(connection)
        self._known_ties = {
            pool: {(tie.reserve, tie.session): tie for tie in held} for pool, held in ties.items()
        }
        return _system(rows, self._read_holds(connection, now), ties)

    def _rows(self, connection: sqlite3.Connection) -> dict[Key, Value]:
        rows: dict[Key, Value] = {}
        unreadable: list[str] = []
        for kind, name, document in connection.execute("SELECT kind, name, document FROM state"):
            try:
                if kind == "account":
                    rows["account", name] = decode_account(document)
                elif kind == "provider":
                    rows["provider", name] = decode_circuit(document)
            except (TypeError, ValueError):
                unreadable.append(str(name))
        if unreadable:
            listed = ", ".join(sorted(unreadable)[:5]) + (", …" if len(unreadable) > 5 else "")
            self._notice(f"what was saved of {listed} can't be read; they start anew.")
        return rows

    def _read_holds(self, connection: sqlite3.Connection, now: float) -> dict[str, list[HoldState]]:
        found: dict[str, list[HoldState]] = {}
        if not _has(connection, "holds"):
            return found
        for account, document in connection.execute(
            "SELECT account, document FROM holds WHERE owner != ? AND until > ?", (self._owner, now)
        ):
            # One that can't be read is worth no word: it would have ended in a minute.
            with contextlib.suppress(TypeError, ValueError):
                holds = [hold for hold in decode_holds(document) if hold.until > now]
                found.setdefault(account, []).extend(holds)
        return found

    def _read_ties(self, connection: sqlite3.Connection) -> dict[str, tuple[TieState, ...]]:
        found: dict[str, list[TieState]] = {}
        if not _has(connection, "ties"):
            return {}
        for pool, reserve, session, account, used_at in connection.execute(
            "SELECT pool, reserve, session, account, used_at FROM ties ORDER BY used_at"
        ):
            with contextlib.suppress(ValueError):
                name = json.loads(session)
                if name is None or isinstance(name, str):
                    found.setdefault(pool, []).append(TieState(name, bool(reserve), account, used_at))
        return {pool: tuple(ties[-MOST_TIES:]) for pool, ties in found.items()}

    # -- writing -----------------------------------------------------------------------------

    def mark_seen(self, connection: sqlite3.Connection, now: float) -> None:
        """Note who is configured now, and forget who has not been for long."""
        connection.executemany(
            "UPDATE state SET seen_at = ? WHERE kind = ? AND name = ?",
            [(now, *key) for key in self._configured],
        )
        connection.execute("DELETE FROM state WHERE seen_at < ?", (now - FORGET_AFTER_S,))
        connection.execute("DELETE FROM ties WHERE used_at < ?", (now - FORGET_AFTER_S,))

    def write(self, connection: sqlite3.Connection, now: float) -> bool:
        """Write what is unsaved."""
        self._note_version(connection)
        self._next_exact = set()
        rows = []
        for key, mine in self._unsaved.items():
            try:
                document = self._merged_document(connection, key, mine)
                if isinstance(mine, AccountState):
                    self._write_holds(connection, key[1], mine.holds)
            except ValueError as error:  # it would keep all others from being saved
                self._notice(f"what changed of {key[1]} can't be saved ({error}).")
                continue
            rows.append((*key, now, document))
        connection.executemany(
            "INSERT INTO state VALUES (?, ?, ?, ?) ON CONFLICT (kind, name) "
            "DO UPDATE SET seen_at = excluded.seen_at, document = excluded.document",
            rows,
        )
        if self._unsaved:
            connection.execute("DELETE FROM holds WHERE until <= ?", (now,))
        if self._unsaved_ties:
            self._write_ties(connection)
        return True

    def release(self, connection: sqlite3.Connection) -> None:
        """Delete the holds of this process, which closes."""
        connection.execute("DELETE FROM holds WHERE owner = ?", (self._owner,))

    def _note_version(self, connection: sqlite3.Connection) -> None:
        """Find out whether others have written; inside a transaction, so that nobody does now."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if self._file is None or self._file[0] is not connection or self._file[1] != version:
            self._exact.clear()
            self._file = connection, version

    def _merged_document(self, connection: sqlite3.Connection, key: Key, mine: Value) -> str:
        theirs = None
        if key not in self._exact:
            theirs = connection.execute(
                "SELECT document FROM state WHERE kind = ? AND name = ?", key
            ).fetchone()
        base = self._known.get(key)
        whole = mine
        if theirs is not None:
            with contextlib.suppress(TypeError, ValueError):  # an unreadable one is replaced
                if isinstance(mine, AccountState):
                    before = base if isinstance(base, AccountState) else _FRESH
                    whole = merged(before, mine, decode_account(theirs[0]))
                else:
                    before_it = base if isinstance(base, CircuitRecord) else None
                    whole = merged_circuit(before_it, mine, decode_circuit(theirs[0]))
        if whole is mine or whole == mine:
            self._next_exact.add(key)
        return encode_account(whole) if isinstance(whole, AccountState) else encode_circuit(whole)

    def _write_holds(
        self, connection: sqlite3.Connection, account: str, holds: Collection[HoldState]
    ) -> None:
        if holds:
            connection.execute(
                "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?)",
                (self._owner, account, max(hold.until for hold in holds), encode_holds(tuple(holds))),
            )
        elif account in self._held:
            connection.execute("DELETE FROM holds WHERE owner = ? AND account = ?", (self._owner, account))

    def _write_ties(self, connection: sqlite3.Connection) -> None:
        pools = set()
        for (pool, reserve, session), tie in self._unsaved_ties.items():
            pools.add(pool)
            where = pool, int(reserve), json.dumps(session)
            if tie.account:
                connection.execute(
                    "INSERT INTO ties VALUES (?, ?, ?, ?, ?) ON CONFLICT (pool, reserve, session) "
                    "DO UPDATE SET account = excluded.account, used_at = excluded.used_at "
                    "WHERE excluded.used_at >= used_at",
                    (*where, tie.account, tie.used_at),
                )
            else:
                connection.execute(
                    "DELETE FROM ties WHERE pool = ? AND reserve = ? AND session = ? AND used_at <= ?",
                    (*where, tie.used_at),
                )
        connection.executemany(
            "DELETE FROM ties WHERE pool = ? AND used_at < (SELECT used_at FROM ties WHERE pool = ? "
            "ORDER BY used_at DESC LIMIT 1 OFFSET ?)",
            [(pool, pool, MOST_TIES - 1) for pool in pools],
        )


def _has(connection: sqlite3.Connection, table: str) -> bool:
    """Whether there is such a table; files that can only be read are not brought up to date."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
    return found.fetchone() is not None


def _system(
    rows: Mapping[Key, Value],
    holds: Mapping[str, Collection[HoldState]],
    ties: Mapping[str, tuple[TieState, ...]],
) -> SystemState:
    accounts: dict[str, AccountState] = {}
    providers: dict[str, CircuitRecord | None] = {}
    for (kind, name), value in rows.items():
        if isinstance(value, AccountState):
            accounts[name] = value
        elif kind == "provider":
            providers[name] = value
    for name, held in holds.items():
        accounts[name] = replace(accounts.get(name, _FRESH), holds=tuple(held))
    return SystemState(accounts, providers, ties)
