"""The tables of the web's password and sessions. Only hashes are kept."""

from __future__ import annotations

from datetime import UTC, datetime

from tinyagentos.store.database import Database

# When a session ends that somebody ended.
_ENDED = datetime.min.replace(tzinfo=UTC)


class AccessTable:
    """Named secrets (hashed) and sessions (hashed), each with the time it ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Who logs in or out does so also while nothing can be written.
        self._late = database.late(self._write_session)

    def find_secret(self, name: str, now: datetime) -> str:
        """The secret of that name; empty when there is none, or its time is over."""
        rows = self._database.execute(
            "SELECT value FROM web_secrets WHERE name = ? AND until > ?", name, now.isoformat()
        )
        return str(rows[0]["value"]) if rows else ""

    def put_secret(self, name: str, value: str, until: datetime) -> None:
        """Keep the secret instead of any before; NoSpace or StoreFailed."""
        self._database.execute(
            "INSERT OR REPLACE INTO web_secrets (name, value, until) VALUES (?, ?, ?)",
            name,
            value,
            until.isoformat(),
            vital=True,
        )

    def drop_secret(self, name: str) -> None:
        """Forget the secret; NoSpace or StoreFailed."""
        self._database.execute("DELETE FROM web_secrets WHERE name = ?", name, vital=True)

    def find_session(self, digest: str, now: datetime) -> datetime | None:
        """When the session ends, None when there is none that still lasts."""
        if late := self._late.get(digest):
            return late[0] if late[0] > now else None
        rows = self._database.execute(
            "SELECT until FROM web_sessions WHERE hash = ? AND until > ?", digest, now.isoformat()
        )
        return datetime.fromisoformat(rows[0]["until"]) if rows else None

    def put_session(self, digest: str, until: datetime, now: datetime) -> None:
        """Keep the session until then, and forget those that are over.

        It is written as soon as that is possible.
        """
        self._late.put(digest, (until, now))

    def drop_session(self, digest: str) -> None:
        """End the session; that is written as soon as that is possible."""
        self._late.put(digest, (_ENDED, _ENDED))

    def drop_sessions(self) -> None:
        """End every session; NoSpace or StoreFailed."""
        self._database.execute("DELETE FROM web_sessions", vital=True)
        self._late.clear()

    def _write_session(self, digest: str, session: tuple[datetime, datetime]) -> None:
        until, now = (at.isoformat() for at in session)
        put = "INSERT OR REPLACE INTO web_sessions (hash, until) VALUES (?, ?)"
        self._database.execute_all(
            (put, (digest, until)),
            ("DELETE FROM web_sessions WHERE until <= ?", (now,)),
            vital=True,
        )
