"""Files of people that the server writes: checked before a job begins, removed when it fails."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tinyagentos.model.errors import Conflict, InvalidInput

# By its unit the server may write to few places; where there is no systemd, to any.
PLACES = ("/home", "/root", "/srv", "/mnt", "/media", "/tmp", "/var/tmp", "/var/backups")  # noqa: S108


def check_new_file(file: Path) -> None:
    """Return when the server may make this file; InvalidInput, or Conflict when it is there."""
    if not file.is_absolute() or not file.parent.is_dir():
        raise InvalidInput(
            f"{file} cannot be written.", hint="Give the whole path of a file in a folder."
        )
    if file.exists():
        raise Conflict(f"{file} is there already.", hint="Give another name.")
    if not os.access(file.parent, os.W_OK):
        raise InvalidInput(
            f"The server may not write to {file.parent}.",
            hint=f"Give a file below one of {', '.join(PLACES)}.",
        )


def remove_unfinished(part: Path) -> None:
    """Have no such file; where the server may not write, it has made none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if part.lstat() and os.access(part.parent, os.W_OK):
            part.unlink()
