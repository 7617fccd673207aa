"""State in an SQLite file, written on a thread of its own and shared by several processes.

The first trouble with the file is told once and its end too; meanwhile everything goes on in memory
and what is unsaved is tried again. A damaged file is renamed and a new one begun, with what can still
be read of it; a file of another program or version is left as it is.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import platformdirs

from smartfallback.clock import Clock
from smartfallback.model.sharing import StoreKind, StoreView
from smartfallback.state.database import (
    ForeignFile,
    busy,
    connect,
    connect_for_reading,
    damaged,
    identity,
    set_aside,
)
from smartfallback.state.salvage import salvage
from smartfallback.state.tables import TableStore

RETRY_OPEN_S: Final = 5.0
"""After a file could not be opened, how long it is let alone."""

Result = TypeVar("Result")


def default_state_path() -> Path:
    """``smartfallback/state.db`` in the user's state directory."""
    return platformdirs.user_state_path("smartfallback", appauthor=False) / "state.db"


class SqliteStateStore(TableStore):
    """A :class:`~smartfallback.state.base.StateStore` in a file.

    Several processes may use one file: what each changed since it last wrote is merged into it.

    Args:
        path: The file; by default :func:`default_state_path`. It is made when there is none, readable
            for the user alone, as is its directory if that is made too.
        clock: For the age of what is kept; the machine's by default.
    """

    def __init__(self, path: Path | None = None, *, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.path = path or default_state_path()
        # What follows belongs to the worker's thread.
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._closed_until = -float("inf")
        # The loop's thread only looks at what follows.
        self._trouble = ""
        self._trouble_since: float | None = None
        self._lag_s: float | None = None

    def view(self) -> StoreView:
        """The file, and since when it can't be used."""
        return StoreView(
            StoreKind.SQLITE,
            str(self.path),
            lag_s=self._lag_s,
            degraded_since=self._trouble_since,
            trouble=self._trouble,
            unsent=self._states.unsaved,
        )

    def _tell(self, notice: str) -> None:
        super()._tell(f"{self.path}: {notice}")

    def _is_there(self) -> bool:
        return identity(self.path) is not None

    def _is_open(self) -> bool:
        return self._connection is not None

    def _empty_log(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # another process that reads keeps the log for now
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _try_again(self) -> None:
        self._closed_until = -float("inf")

    def _with_tables(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        try:
            try:
                return self._transact(work)
            except sqlite3.Error as error:
                if not damaged(error):
                    raise
                self._replace_damaged()
                return self._transact(work)
        except ForeignFile as error:
            self._failed(f"{self.path} {error}; it is left as it is")
        except sqlite3.Error as error:
            if not busy(error):
                self._let_go()
            self._failed(f"{self.path} can't be used ({error})")
        except OSError as error:
            self._failed(f"{self.path} can't be used ({error.strerror or error})")
        return None

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        if self._connection is not None and identity(self.path) != self._opened:
            self._let_go()  # it was removed or replaced, so what is written would be lost
            self._begin_anew()
        if self._connection is None:
            now = self._clock.monotonic()
            if now < self._closed_until:
                return None
            self._closed_until = now + RETRY_OPEN_S
            self._open()
            self._try_again()
        connection = self._connection
        if connection is None:
            return None
        began = self._clock.monotonic()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        self._lag_s = self._clock.monotonic() - began
        if self._trouble:
            self._trouble, self._trouble_since = "", None
            self._notices.append(f"{self.path} can be used again: state is kept over a restart.")
        return result

    def _open(self) -> None:
        self._opened = identity(self.path)
        self._connection = connect(self.path)
        self._opened = identity(self.path)

    def _failed(self, trouble: str) -> None:
        if not self._trouble:
            self._notices.append(f"{trouble}: state is kept in memory only and will not survive a restart.")
            self._trouble_since = self._clock.time()
        self._trouble = trouble

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _replace_damaged(self) -> None:
        """Rename the damaged file, unless another process has done so already."""
        self._let_go()
        self._try_again()
        self._begin_anew()
        if self._opened is None or identity(self.path) != self._opened:
            return
        aside = set_aside(self.path)
        begun = f"{self.path} was damaged: it is now {aside.name}, and a new one is begun"
        try:
            self._open()
            saved = 0 if self._connection is None else salvage(aside, self._connection)
        except BaseException:
            self._notices.append(f"{begun}.")
            raise
        kept = f" with {saved:,} entries that could still be read" if saved else ""
        self._notices.append(f"{begun}{kept}.")

    def _look_elsewhere(self, look: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """What a file holds that can be read but not written."""
        with contextlib.suppress(sqlite3.Error, OSError, ForeignFile):
            if self.path.is_file():
                connection = connect_for_reading(self.path)
                with contextlib.closing(connection):
                    return look(connection)
        return None
