"""State in this process's memory: the same tables without a file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from smartfallback.clock import Clock
from smartfallback.model.sharing import StoreKind, StoreView
from smartfallback.state.database import in_memory
from smartfallback.state.tables import TableStore

Result = TypeVar("Result")


class MemoryStateStore(TableStore):
    """A :class:`~smartfallback.state.base.StateStore` that ends with the process.

    What was kept stays when it is closed, so that the next orchestrator that is given the same store
    goes on from there, as one that is given a file does.

    Args:
        clock: For the age of what is kept; the machine's by default.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._connection: sqlite3.Connection | None = None
        self._content: bytes | None = None

    def view(self) -> StoreView:
        """Always in order."""
        return StoreView(StoreKind.MEMORY)

    def _with_tables(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        connection = self._connection
        if connection is None:
            connection = self._connection = in_memory()
            if self._content is not None:
                connection.deserialize(self._content)
                self._content = None
                self._begin_anew()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    def _is_there(self) -> bool:
        return self._is_open() or self._content is not None

    def _is_open(self) -> bool:
        return self._connection is not None

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.closing(connection):
                self._content = connection.serialize()
