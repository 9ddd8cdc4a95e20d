"""The one door to SQLite: opens the file, brings its schema up to date, runs statements.

Calls are synchronous on purpose: each is one indexed row in a local file (well under a
millisecond), and a job's record is worth waiting for. WAL with synchronous=FULL makes every
commit survive a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyagentos.model.errors import HostNotReady

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

    def __init__(self, path: Path | str) -> None:
        """Open or create the file at path (`:memory:` for tests).

        Raises HostNotReady when it cannot be opened, is damaged, or is of a newer taOS.
        """
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._migrate()
        except sqlite3.Error as error:
            raise HostNotReady(
                f"The database {path} cannot be used: {error}.",
                hint="Check the disk and the file's owner; move the file away to start afresh.",
            ) from error

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise HostNotReady(
                f"The database is of a newer taOS (schema {version}, known {len(MIGRATIONS)}).",
                hint="Install that version of taOS again, or move the database away.",
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside are kept, or none."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def execute(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """Run one statement and return its rows; sqlite3.IntegrityError for a broken rule."""
        return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
