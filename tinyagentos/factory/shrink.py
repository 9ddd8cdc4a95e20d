"""Making files of a root smaller that have to stay: strip programs, store zips uncompressed."""

from __future__ import annotations

import asyncio
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tinyagentos import proc
from tinyagentos.factory.trim import Saving, list_files, matches
from tinyagentos.model.errors import BuildFailed, CommandFailed
from tinyagentos.model.image import DEBIAN_ARCH, INCUS_ARCH

STRIP_WITHIN = 300.0


async def strip_programs(root: Path, globs: Sequence[str], arch: str) -> tuple[Saving, ...]:
    """Remove the symbols that only debuggers read from the programs that the globs name.

    The program is named by architecture (binutils of Debian, here and for foreign ones), so that an
    image for another processor is stripped as well. Raises BuildFailed.
    """
    found = await asyncio.to_thread(_find, root, globs, "strip")
    if not found:
        return ()
    before = _size(found)
    try:
        await proc.run(
            f"{INCUS_ARCH[arch]}-linux-gnu-strip", "--strip-all", "--preserve-dates",
            "--enable-deterministic-archives", *found, within=STRIP_WITHIN,
        )  # fmt: skip
    except CommandFailed as error:
        package = f"binutils-{INCUS_ARCH[arch].replace('_', '-')}-linux-gnu"
        raise BuildFailed(
            f"The programs for {DEBIAN_ARCH[arch]} cannot be stripped: {error.message}",
            hint=f"Install the package {package}, then build again.",
        ) from error
    return (Saving("symbols for debuggers", len(found), before, _size(found)),)


async def store_zips(root: Path, globs: Sequence[str]) -> tuple[Saving, ...]:
    """Have the zip files that the globs name uncompressed inside.

    They get larger, the image smaller: its compression then sees that pip's wheel holds the files
    which Debian has installed as pip.
    """
    found = await asyncio.to_thread(_find, root, globs, "store")
    if not found:
        return ()
    before = _size(found)
    for path in found:
        await asyncio.to_thread(_store, path)
    return (Saving("zips uncompressed", len(found), before, _size(found)),)


def _find(root: Path, globs: Sequence[str], key: str) -> list[Path]:
    """The files the globs name; one that names none has gone stale."""
    files = [path for path, _ in list_files(root)] if globs else []
    for glob in globs:
        if not any(matches(path, (glob,)) for path in files):
            raise BuildFailed(
                f"{glob!r} in `{key}` matches nothing any more.",
                hint="Correct it in the recipe, or remove it.",
            )
    return [root / path.lstrip("/") for path in sorted(files) if matches(path, globs)]


def _store(path: Path) -> None:
    """Rewrite the zip: same members in the same order with their own times, not compressed."""
    part = path.with_name(path.name + ".part")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            member = zipfile.ZipInfo(info.filename, info.date_time)
            member.external_attr, member.create_system = info.external_attr, info.create_system
            new.writestr(member, old.read(info))
    old_state = path.stat()
    os.utime(part, ns=(old_state.st_atime_ns, old_state.st_mtime_ns))
    part.chmod(old_state.st_mode & 0o7777)
    part.replace(path)


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
