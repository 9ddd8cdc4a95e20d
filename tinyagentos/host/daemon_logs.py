"""The logs of Incus and its helpers, kept small.

The proxy of an agent's door writes two lines for each connection that the server does not take, so
an agent decides how long they get. Incus rotates none of them, nor does who started it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDERS = (Path("/var/log/incus"), Path("/var/lib/incus/logs"))
LARGEST_BYTES = 5_000_000
KEPT_BYTES = 500_000
_BLOCK = 512


def shorten_logs(
    folders: Iterable[Path] = FOLDERS, largest: int = LARGEST_BYTES, kept: int = KEPT_BYTES
) -> tuple[Path, ...]:
    """Empty the logs that take more bytes than `largest`; the end of each is in NAME.1.

    A daemon goes on in the same file. One that does not append leaves a hole before what it writes,
    which takes no space: that is why a size is counted in blocks.
    """
    return tuple(log for log in _logs(folders) if _shorten(log, largest, kept))


def _logs(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in {one.resolve() for one in folders}:
        yield from folder.glob("*.log")
        yield from folder.glob("*/*.log")


def _shorten(log: Path, largest: int, kept: int) -> bool:
    with contextlib.suppress(OSError):  # its instance may go meanwhile
        descriptor = os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb+") as file:
            seen = os.fstat(descriptor)
            if not stat.S_ISREG(seen.st_mode) or seen.st_blocks * _BLOCK <= largest:
                return False
            file.seek(max(0, seen.st_size - kept))
            end = file.read(kept)
            file.truncate(0)
        log.with_name(f"{log.name}.1").write_bytes(end)
        return True
    return False
