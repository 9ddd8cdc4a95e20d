"""Builds run other people's programs on this host: these leave nothing, however a build ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PREFIX = "build-"
REMOVE_TRIES = 50


def isolated(*argv: str) -> tuple[str, ...]:
    """The command with its own mounts and processes.

    They end with the command, and the command with us: mounts that a killed build leaves in the
    host could not be removed with its folder (unshare(1), --kill-child; setpriv(1), --pdeathsig).
    """
    return (
        "setpriv", "--pdeathsig=KILL",
        "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
        "--mount-proc", "--propagation=private", *argv,
    )  # fmt: skip


@asynccontextmanager
async def build_folder(cache: Path) -> AsyncIterator[Path]:
    """A folder for one build, removed at its end. Folders of builds that crashed go first.

    A build holds a lock on its folder; the kernel lets go of it when the process ends.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(f"{PREFIX}*"):
        if (lock := _try_lock(left)) is not None:
            await _remove(left)
            os.close(lock)
    folder, lock = _make_locked(cache)
    try:
        yield folder
    finally:
        await asyncio.shield(_remove(folder))
        os.close(lock)


def is_held(folder: Path) -> bool:
    """Whether the folder is that of a build under way."""
    if not folder.is_dir():
        return False
    if (lock := _try_lock(folder)) is None:
        return True
    os.close(lock)
    return False


def _make_locked(cache: Path) -> tuple[Path, int]:
    """A new folder and its lock; another build may take the folder away before we lock it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache))
        lock = _try_lock(folder)
        if lock is not None and folder.exists():
            return folder, lock


def _try_lock(folder: Path) -> int | None:
    """The open folder, locked; None when another build holds it or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


async def _remove(folder: Path) -> None:
    """Remove the folder; the last processes of a killed build may write there for a moment."""
    for _ in range(REMOVE_TRIES):
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if not folder.exists():
            return
        await asyncio.sleep(0.1)
