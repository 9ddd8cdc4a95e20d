"""The only way from a file to an image that Incus may see."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from tinyagentos.model.release import ImageTarget, WrongContent

_KEY = object()


@dataclass(frozen=True)
class VerifiedImage:
    """A file whose every byte is as signed. Only verify() can make one."""

    path: Path
    target: ImageTarget
    key: object = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse to be made by anybody else."""
        if self.key is not _KEY:
            raise TypeError("only verify() makes a VerifiedImage")


async def verify(path: Path, target: ImageTarget) -> VerifiedImage:
    """The image, with its bytes on the disk for good.

    Raises WrongContent when the file's size or SHA-256 is not the signed one; the file is removed.
    """
    digest, size = await asyncio.to_thread(_read, path)
    if (digest, size) != (target.fingerprint, target.size_bytes):
        path.unlink()
        raise WrongContent(
            f"The file of {target.name} is not the signed one.",
            hint="It was removed. Fetch it again.",
        )
    return VerifiedImage(path, target, _KEY)


def _read(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return digest, file.tell()
