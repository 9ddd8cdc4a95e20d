"""What taOS keeps is closed to the other users of the host."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

_log = logging.getLogger(__name__)
# The umask of a server: what it makes is its own user's only.
PRIVATE = 0o077
# Builds hold the files of another system, with modes of their own, in folders that are closed.
BUILDS = "build-"


def close_to_others(folder: Path) -> None:
    """Have the folder, and every file and folder in it, open to its owner only.

    This mends what older versions made. What belongs to another user is logged and left alone.
    """
    _close(folder)
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(BUILDS)]
        for name in (*folders, *files):
            _close(Path(where, name))


def _close(path: Path) -> None:
    """Take the rights of the group and of others away; a symbolic link has none of its own."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or not mode & PRIVATE:
            return
        try:
            path.chmod(stat.S_IMODE(mode) & ~PRIVATE)
        except PermissionError:
            _log.warning("another user's file is open to others", extra={"path": path})
