"""Disk space that is kept for the time when there is none left."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

_log = logging.getLogger(__name__)
SIZE_BYTES = 8 * 1024**2
# A reserve is made again only where that does not itself fill the disk.
ROOM_BYTES = 8 * SIZE_BYTES


class Reserve:
    """A file that holds nothing but space, to be given up so that the database can be written."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def ensure(self) -> None:
        """Have the reserve, if there is room for it; never an error."""
        part = self._file.with_name(self._file.name + ".part")
        try:
            if self._file.exists() or shutil.disk_usage(self._file.parent).free < ROOM_BYTES:
                return
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SIZE_BYTES)
            part.replace(self._file)
        except OSError as error:
            _log.warning("no disk space can be kept in reserve: %s", error)

    def give_up(self) -> bool:
        """Free the space; whether there was any."""
        try:
            self._file.unlink()
        except OSError:
            return False
        _log.warning("the disk is full: the reserve is given up", extra={"bytes": SIZE_BYTES})
        return True
