"""Whether others than root can change what root would run."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def find_changeable(path: Path) -> Path | None:
    """The first part of the path that a user other than root may change or replace.

    None: only root can decide what is found at the path. The places that symbolic links lead to
    count as well. Raises OSError when the path does not lead to anything.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would hide the links
    real = absolute.resolve(strict=True)
    parts = (*reversed(absolute.parents), absolute, *reversed(real.parents), real)
    return next((part for part in dict.fromkeys(parts) if is_changeable(part.lstat())), None)


def find_changeable_below(folder: Path) -> Path | None:
    """The first file or folder below the folder that a user other than root may change."""
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(where, name)
            if is_changeable(path.lstat()):
                return path
    return None


def is_changeable(found: os.stat_result) -> bool:
    """Whether a user other than root may change what has this status."""
    if found.st_uid != 0:
        return True
    if stat.S_ISLNK(found.st_mode):
        return False
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return False  # others may add names here, and not take root's away
    by_group = found.st_mode & stat.S_IWGRP and found.st_gid != 0
    return bool(by_group or found.st_mode & stat.S_IWOTH)
