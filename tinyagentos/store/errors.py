"""What SQLite says, as an error for the person who has to mend it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from tinyagentos.model.errors import NoSpace, StoreFailed, TaosError

MIB = 1024**2
# SQLite says FULL only for ENOSPC of a write; its index file and quotas end as an I/O error.
FULL_BELOW = MIB
BASE = 0xFF  # of an extended error code


def explain(error: sqlite3.Error, path: Path | str) -> TaosError:
    """The failure in words. NoSpace for a full disk, else StoreFailed."""
    # sqlite3 errors of Python itself, such as of a closed database, have no code.
    code = getattr(error, "sqlite_errorcode", None) or 0
    free = _free_bytes(path)
    is_full = code & BASE == sqlite3.SQLITE_FULL
    if is_full or (code & BASE == sqlite3.SQLITE_IOERR and free < FULL_BELOW):
        return NoSpace(
            "taOS cannot write its records: "
            f"{Path(path).parent} has {free / MIB:.1f} MiB of disk space left.",
            hint="Make room there: delete agents, snapshots or images, or other files of the host.",
        )
    match code & BASE:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            said = f"Another program holds taOS's database {path}."
            hint = "End that program, or wait for it; then try again."
        case sqlite3.SQLITE_READONLY:
            said = f"taOS cannot write its records: {path} is read-only."
            hint = "A disk with errors becomes read-only: look at `dmesg`, then restart the host."
        case sqlite3.SQLITE_IOERR:
            said = f"The disk fails under taOS's database {path}."
            hint = "Look at `dmesg`, and save what you need: the disk may be dying."
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            said = f"The database {path} cannot be used: it is damaged."
            hint = "Check the disk. Stop the server and move the file away to start afresh."
        case _:
            said = f"The database {path} cannot be used: {error}."
            hint = "Check the disk and the file's owner; move the file away to start afresh."
    return StoreFailed(said, hint=hint)


def _free_bytes(path: Path | str) -> int:
    try:
        return shutil.disk_usage(Path(path).parent).free
    except OSError:
        return 0
