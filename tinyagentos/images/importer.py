"""An image file comes into Incus: read what it is, upload it, move the alias, unpack it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.images.inspect import inspect_image
from tinyagentos.images.supply import find_image, warm_image
from tinyagentos.incus import Incus, NotFound
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.image import ARCH_OF_MACHINE, image_alias

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ImageFile:
    """A unified image file, by what its own metadata says."""

    path: Path
    framework: str
    version: str
    arch: str
    fingerprint: str
    size_bytes: int


async def read_image_file(path: Path) -> ImageFile:
    """What the file says it is, read through to its end.

    Raises InvalidInput when it is no image of taOS, Untrusted when it holds what none does.
    """
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", hint="Give the path of an image file.")
    seen = await asyncio.to_thread(inspect_image, path)
    found = _read_properties(seen.metadata)
    arch = ARCH_OF_MACHINE.get(found.get("architecture", ""))
    framework = found.get("taos.framework")
    if arch is None or not framework:
        raise InvalidInput(
            f"{path.name} does not say its framework and architecture.",
            hint="Only images made by `taos image build` can be imported.",
        )
    version = found.get("taos.version", "")
    return ImageFile(path, framework, version, arch, seen.sha256, seen.size_bytes)


async def import_file(path: Path, incus: Incus, *, progress: Progress | None = None) -> ImageFile:
    """Have the file's image in Incus under the framework's alias, unpacked and ready.

    Incus takes only the bytes that were looked at: it checks their digest. The image that had the
    alias before is removed once the new one is in place, unless an
    instance still needs it. progress is called with the bytes sent so far.
    """
    image = await read_image_file(path)
    alias = image_alias(image.framework, image.arch)
    before = await find_image(incus, alias, image.arch)
    await incus.images.add(path, expect=image.fingerprint, progress=progress)
    await warm_image(incus, image.fingerprint)
    await incus.images.set_alias(alias, image.fingerprint)
    if before and before.fingerprint != image.fingerprint:
        try:
            await incus.images.delete(before.fingerprint)
        except NotFound:
            return image
    return image


def _read_properties(metadata: str) -> dict[str, str]:
    """The plain `key: value` lines of a metadata.yaml as taOS writes it, at any depth."""
    pairs = (line.split(":", 1) for line in metadata.splitlines() if ":" in line)
    return {key.strip().strip("\"'"): value.strip().strip("\"'") for key, value in pairs}
