"""An SQLite whose writes fail when a test says so, with SQLite's own errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tinyagentos.store.database import Database

WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT")


class Fault(Enum):
    """What SQLite says, and whether the write is there all the same (a failed sync)."""

    full = (sqlite3.SQLITE_FULL, False)
    locked = (sqlite3.SQLITE_BUSY, False)
    io_error = (sqlite3.SQLITE_IOERR_WRITE, False)
    read_only = (sqlite3.SQLITE_READONLY, False)
    corrupt = (sqlite3.SQLITE_CORRUPT, False)
    not_synced = (sqlite3.SQLITE_IOERR_FSYNC, True)

    def error(self) -> sqlite3.OperationalError:
        """The error that the write raises."""
        error = sqlite3.OperationalError(f"made by the test: {self.name}")
        error.sqlite_errorcode = self.value[0]
        return error


def never(_: int) -> bool:
    """Every write succeeds."""
    return False


@dataclass
class Faults:
    """Counts the writes of all databases that it opened, and fails those that a test chose."""

    fault: Fault = Fault.full
    fails: Callable[[int], bool] = never
    writes: int = 0

    def connect(self, path: Path | str, **options: Any) -> sqlite3.Connection:
        """As sqlite3.connect; the schema is always written."""
        connection = sqlite3.connect(path, factory=_Connection, **options)
        connection.faults = self
        return connection

    def open(self, path: Path | str) -> Database:
        """A database on it."""
        return Database(path, connect=self.connect)

    def begin(self, fails: Callable[[int], bool], fault: Fault) -> None:
        """Count from here on; the first write is number 1."""
        self.fails, self.fault, self.writes = fails, fault, 0

    def end(self) -> None:
        """Every write succeeds from here on."""
        self.fails = never


class _Connection(sqlite3.Connection):
    faults: Faults

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if not statement.lstrip().startswith(WRITES):
            return super().execute(statement, *values)
        self.faults.writes += 1
        if not self.faults.fails(self.faults.writes):
            return super().execute(statement, *values)
        if self.faults.fault.value[1]:
            super().execute(statement, *values)
        raise self.faults.fault.error()
