"""The tables of the web's password and sessions. Only hashes are kept."""

from __future__ import annotations

from datetime import datetime

from tinyagentos.store.database import Database


class AccessTable:
    """Named secrets (hashed) and sessions (hashed), each with the time it ends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_secret(self, name: str, now: datetime) -> str:
        """The secret of that name; empty when there is none, or its time is over."""
        rows = self._database.execute(
            "SELECT value FROM web_secrets WHERE name = ? AND until > ?", name, now.isoformat()
        )
        return str(rows[0]["value"]) if rows else ""

    def put_secret(self, name: str, value: str, until: datetime) -> None:
        """Keep the secret instead of any before."""
        self._database.execute(
            "INSERT OR REPLACE INTO web_secrets (name, value, until) VALUES (?, ?, ?)",
            name,
            value,
            until.isoformat(),
        )

    def drop_secret(self, name: str) -> None:
        """Forget the secret."""
        self._database.execute("DELETE FROM web_secrets WHERE name = ?", name)

    def find_session(self, digest: str, now: datetime) -> datetime | None:
        """When the session ends, None when there is none that still lasts."""
        rows = self._database.execute(
            "SELECT until FROM web_sessions WHERE hash = ? AND until > ?", digest, now.isoformat()
        )
        return datetime.fromisoformat(rows[0]["until"]) if rows else None

    def put_session(self, digest: str, until: datetime, now: datetime) -> None:
        """Keep the session until then, and forget those that are over."""
        self._database.execute("DELETE FROM web_sessions WHERE until <= ?", now.isoformat())
        self._database.execute(
            "INSERT OR REPLACE INTO web_sessions (hash, until) VALUES (?, ?)",
            digest,
            until.isoformat(),
        )

    def drop_session(self, digest: str) -> None:
        """End the session."""
        self._database.execute("DELETE FROM web_sessions WHERE hash = ?", digest)

    def drop_sessions(self) -> None:
        """End every session."""
        self._database.execute("DELETE FROM web_sessions")
