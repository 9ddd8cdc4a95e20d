"""The table of timings: how long things took on this host, to say what to expect."""

from __future__ import annotations

from datetime import datetime
from statistics import median

from tinyagentos.store.database import Database

RECENT = 5
KEPT = 500


class TimingTable:
    """Measured durations of this host, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, what: str, subject: str, seconds: float, at: datetime, size_bytes: int | None = None
    ) -> None:
        """Keep one measurement, such as what=`deploy.build`, subject=`openclaw/x64`."""
        self._database.execute(
            "INSERT INTO timings (what, subject, seconds, size_bytes, at) VALUES (?, ?, ?, ?, ?)",
            what,
            subject,
            seconds,
            size_bytes,
            at.isoformat(),
        )
        self._database.execute(
            "DELETE FROM timings WHERE rowid NOT IN"
            " (SELECT rowid FROM timings ORDER BY rowid DESC LIMIT ?)",
            KEPT,
        )

    def typical_seconds(self, what: str, subject: str) -> float | None:
        """The median of the latest measurements, None when there is none."""
        rows = self._database.execute(
            "SELECT seconds FROM timings WHERE what = ? AND subject = ?"
            " ORDER BY rowid DESC LIMIT ?",
            what,
            subject,
            RECENT,
        )
        return median(row["seconds"] for row in rows) if rows else None
