"""Which images Incus has, exactly by alias and architecture."""

from __future__ import annotations

import contextlib

from tinyagentos.incus import Image, Incus, InstanceRequest, NotFound
from tinyagentos.model.image import INCUS_ARCH, image_alias

WARM_PREFIX = "taos-warm-"


async def find_image(incus: Incus, alias: str, arch: str) -> Image | None:
    """The image under the alias, if it is of that architecture (`x64` or `arm64`).

    The alias is asked for by name: Incus's own image filter matches substrings.
    """
    found = await incus.images.find_alias(alias)
    if found is None:
        return None
    try:
        image = await incus.images.get(found.target)
    except NotFound:
        return None
    return image if image.architecture == INCUS_ARCH[arch] else None


async def is_image_present(incus: Incus, framework: str, arch: str) -> bool:
    """Whether the framework's image for the architecture is on this host."""
    return await find_image(incus, image_alias(framework, arch), arch) is not None


async def warm_image(incus: Incus, fingerprint: str) -> None:
    """Have the pool unpack the image now, so that no deploy waits for it.

    Incus makes an image's volume when the first instance is created from it, so one is created
    and removed again. On pools without copy-on-write this would only cost time: it is skipped.
    """
    name = f"{WARM_PREFIX}{fingerprint[:12]}"
    with contextlib.suppress(NotFound):
        await incus.instances.delete(name)
    try:
        await incus.instances.create(InstanceRequest(name=name, image=fingerprint))
    finally:
        with contextlib.suppress(NotFound):
            await incus.instances.delete(name)
