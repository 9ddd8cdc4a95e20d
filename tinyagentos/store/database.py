"""The one door to SQLite: opens the file, brings its schema up to date, runs statements.

Calls are synchronous on purpose: each is one indexed row in a local file (well under a
millisecond), and a job's record is worth waiting for. WAL with synchronous=FULL makes every
commit survive a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).

Every failure of SQLite leaves here as a TaosError (docs/adr/0082). What may be written later goes
through `Late`; what has to be on disk before the next act goes through `execute`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tinyagentos.model.errors import HostNotReady, NoSpace, TaosError
from tinyagentos.store.errors import explain
from tinyagentos.store.late import Late
from tinyagentos.store.reserve import Reserve

_log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
Statement = tuple[str, tuple[object, ...]]
Connect = Callable[..., sqlite3.Connection]
# Pages of 4 KiB that the file and its log have before they are needed: they can be written when
# the disk is full, and nobody else can take them.
KEPT_PAGES = 256
# Milliseconds that a statement waits for another program; the server waits with it.
BUSY_MS = 500

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        state TEXT NOT NULL,
        created_at TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        body TEXT NOT NULL
    );
    CREATE UNIQUE INDEX one_active_job_per_subject ON jobs (subject)
        WHERE state IN ('queued', 'running', 'interrupted');
    CREATE UNIQUE INDEX one_job_per_idempotency_key ON jobs (idempotency_key)
        WHERE idempotency_key != '';
    CREATE INDEX jobs_by_time ON jobs (created_at);
    CREATE TABLE timings (
        what TEXT NOT NULL,
        subject TEXT NOT NULL,
        seconds REAL NOT NULL,
        size_bytes INTEGER,
        at TEXT NOT NULL
    );
    CREATE INDEX timings_by_subject ON timings (what, subject, at);
    """,
    """
    CREATE TABLE web_secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL, until TEXT NOT NULL);
    CREATE TABLE web_sessions (hash TEXT PRIMARY KEY, until TEXT NOT NULL);
    """,
    """
    CREATE TABLE supply (name TEXT PRIMARY KEY, body TEXT NOT NULL);
    """,
    """
    CREATE TABLE providers (
        name TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        url TEXT NOT NULL,
        model TEXT NOT NULL,
        sealed_key BLOB NOT NULL
    );
    CREATE TABLE model_usage (
        instance TEXT NOT NULL,
        month TEXT NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        PRIMARY KEY (instance, month)
    );
    """,
    """
    ALTER TABLE providers ADD COLUMN models TEXT NOT NULL DEFAULT '[]';
    """,
    """
    CREATE TABLE accepted (
        key TEXT PRIMARY KEY, request TEXT NOT NULL, job_id TEXT NOT NULL, answer TEXT NOT NULL
    );
    """,
)


class Database:
    """An open database with the newest schema."""

    def __init__(
        self,
        path: Path | str,
        *,
        reserve: Reserve | None = None,
        connect: Connect = sqlite3.connect,
    ) -> None:
        """Open or create the file at path (`:memory:` for tests).

        reserve: given up when a vital statement meets a full disk. Raises HostNotReady when the
        file cannot be opened, is damaged, or is of a newer taOS; NoSpace when the disk is full.
        """
        self._path = path
        self._reserve = reserve
        self._late: list[Late[Any, Any]] = []  # of many types, only flushed
        self._connection = self._insist(lambda: self._open(connect), vital=True)

    def _open(self, connect: Connect) -> sqlite3.Connection:
        connection = connect(self._path, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            for pragma in (
                f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL",
                f"wal_autocheckpoint={KEPT_PAGES}",
            ):  # fmt: skip
                connection.execute(f"PRAGMA {pragma}")
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def keep_room(self) -> None:
        """Have pages that can be written when the disk is full; never an error."""
        try:
            # Both the file and its log grow by it; the log is made anew whenever it is opened.
            self.execute_all(
                ("CREATE TABLE IF NOT EXISTS filler (room BLOB)", ()),
                ("INSERT INTO filler VALUES (zeroblob(?))", (KEPT_PAGES * 4096,)),
                vital=True,
            )
            self.execute("DROP TABLE filler", vital=True)
            self.execute("PRAGMA wal_checkpoint(RESTART)")
        except TaosError as error:
            _log.warning("no room can be kept in the database: %s", error)
        self.keep_reserve()

    def keep_reserve(self) -> None:
        """Have the reserve again, if there is room for it; never an error."""
        if self._reserve:
            self._reserve.ensure()

    def execute(self, statement: str, *values: object, vital: bool = False) -> list[sqlite3.Row]:
        """Run one statement and return its rows.

        vital: the reserve is given up for it. Raises NoSpace, StoreFailed, or
        sqlite3.IntegrityError for a broken rule.
        """
        return self._insist(
            lambda: self._connection.execute(statement, values).fetchall(), vital=vital
        )

    def execute_all(self, *statements: Statement, vital: bool = False) -> None:
        """Run the statements; all of them are kept, or none. Raises as execute() does."""
        self._insist(lambda: self._all(statements), vital=vital)

    def late(self, write: Callable[[K, V], None]) -> Late[K, V]:
        """Values of a table that may be written later; flush() writes them."""
        made = Late(write)
        self._late.append(made)
        return made

    @property
    def failure(self) -> TaosError | None:
        """Why records wait to be written; None when none does."""
        return next((one.failure for one in self._late if one.failure), None)

    def flush(self) -> None:
        """Write what waits, if that is possible; never an error."""
        with contextlib.suppress(TaosError):
            for one in self._late:
                one.flush()

    def close(self) -> None:
        """Write what waits, if that is possible, and close the file."""
        self.flush()
        if failure := self.failure:
            _log.error("records were not written: %s", failure)
        self._connection.close()

    def _insist(self, act: Callable[[], T], *, vital: bool) -> T:
        """What act returns, tried again when it met a full disk and there was a reserve."""
        try:
            return self._words(act)
        except NoSpace:
            if not (vital and self._reserve and self._reserve.give_up()):
                raise
        return self._words(act)

    def _words(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def _all(self, statements: tuple[Statement, ...]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in statements:
                self._connection.execute(statement, values)
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite itself has rolled back after most failures.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise HostNotReady(
            f"The database is of a newer taOS (schema {version}, known {len(MIGRATIONS)}).",
            hint="Install that version of taOS again, or move the database away.",
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")
