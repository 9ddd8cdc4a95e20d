"""The table of timings: how long things took on this host, to say what to expect."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from tinyagentos.model.errors import TaosError
from tinyagentos.store.database import Database

RECENT = 5
KEPT = 500


@dataclass(frozen=True)
class Timing:
    """One measurement."""

    what: str
    subject: str
    seconds: float
    at: datetime


class TimingTable:
    """Measured durations of this host, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, what: str, subject: str, seconds: float, at: datetime, size_bytes: int | None = None
    ) -> None:
        """Keep one measurement, such as what=`deploy.build`, subject=`openclaw/x64`.

        One that cannot be written is dropped: nothing depends on it.
        """
        keep = "INSERT INTO timings (what, subject, seconds, size_bytes, at) VALUES (?, ?, ?, ?, ?)"
        forget = (
            "DELETE FROM timings WHERE rowid NOT IN"
            " (SELECT rowid FROM timings ORDER BY rowid DESC LIMIT ?)"
        )
        with contextlib.suppress(TaosError):
            self._database.execute_all(
                (keep, (what, subject, seconds, size_bytes, at.isoformat())), (forget, (KEPT,))
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

    def typical_rate(self, what: str) -> float | None:
        """The median of the latest measurements of any subject, in bytes a second."""
        rows = self._database.execute(
            "SELECT size_bytes / seconds AS rate FROM timings"
            " WHERE what = ? AND size_bytes > 0 AND seconds > 0 ORDER BY rowid DESC LIMIT ?",
            what,
            RECENT,
        )
        return median(row["rate"] for row in rows) if rows else None

    def list_recent(self, prefix: str, limit: int = 50) -> tuple[Timing, ...]:
        """The newest measurements of everything that begins so, newest first."""
        rows = self._database.execute(
            "SELECT what, subject, seconds, at FROM timings WHERE what GLOB ?"
            " ORDER BY rowid DESC LIMIT ?",
            f"{prefix}*",
            limit,
        )
        return tuple(
            Timing(row["what"], row["subject"], row["seconds"], datetime.fromisoformat(row["at"]))
            for row in rows
        )
