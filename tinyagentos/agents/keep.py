"""Keeping what a build path made: the snapshot of the fresh installation becomes a local image.

It runs as a job of its own after the agent answers, so that no user waits for it.
"""

from __future__ import annotations

import contextlib
import logging

from tinyagentos.agents.host import Host
from tinyagentos.agents.order import VERSION_KEY
from tinyagentos.images.supply import find_image, warm_image
from tinyagentos.incus import AlreadyExists, NotFound
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import Conflict, TaosError
from tinyagentos.model.image import INCUS_ARCH, image_alias

_log = logging.getLogger(__name__)
KEEP = "keep image"
SNAPSHOT = "built"
PACK, WARM, TIDY = "make image of the snapshot", "unpack image", "remove snapshot"
STEPS = (PACK, WARM, TIDY)


def keep_subject(framework: str, arch: str) -> str:
    """What keeping a framework's image holds: one at a time, but beside a download."""
    return f"built image:{framework}/{arch}"


def submit_keep(framework: str, instance: str, host: Host) -> bool:
    """Have the instance's snapshot kept as the framework's image; whether that is under way.

    Never an error: the agent that was built is there without it.
    """
    subject = keep_subject(framework, host.arch)
    try:
        host.runner.submit(KEEP, subject, {"framework": framework, "instance": instance})
    except Conflict:
        active = host.runner.find_active(subject)
        return active is not None and active.params.get("instance") == instance
    except TaosError as error:
        _log.warning("what was built is not kept as an image: %s", error)
        return False
    return True


async def keep_image(job: JobContext, host: Host) -> None:
    """Make the local image, have its volume unpacked, remove the snapshot."""
    framework, instance = job.params["framework"], job.params["instance"]
    alias = image_alias(framework, host.arch)
    job.plan_steps(*STEPS)
    with job.step(PACK):
        image = await find_image(host.incus, alias, host.arch)
        if image is None:
            recipe = host.recipes[framework]
            built = await host.incus.instances.get(instance)
            # The recipe here may be a newer one by now.
            version = built.config.get(VERSION_KEY) or recipe.version
            fingerprint = await host.incus.images.from_instance(
                f"{instance}/{SNAPSHOT}",
                compression="zstd",
                properties={
                    "os": "Debian",
                    "description": f"{recipe.title} {version} (built on this host)",
                    "architecture": INCUS_ARCH[host.arch],
                    "taos.framework": framework,
                    "taos.version": version,
                    "taos.origin": "built here",
                },
            )
            try:
                await host.incus.images.create_alias(alias, fingerprint)
            except (AlreadyExists, NotFound):
                # A released image came into use meanwhile: it is the better one.
                with contextlib.suppress(NotFound):
                    await host.incus.images.delete(fingerprint)
                fingerprint = ""
        else:
            fingerprint = image.fingerprint
    if fingerprint:
        # A released image that comes into use now takes this one away.
        with job.step(WARM), contextlib.suppress(NotFound):
            await warm_image(host.incus, fingerprint)
    await undo_keep(job, host)


async def undo_keep(job: JobContext, host: Host) -> None:
    """Remove the snapshot; an agent that was deleted meanwhile took it along."""
    with job.step(TIDY):
        await remove_snapshot(job.params["instance"], host)


async def remove_snapshot(instance: str, host: Host) -> None:
    """Remove the snapshot of the fresh installation, if it is there."""
    with contextlib.suppress(NotFound):
        await host.incus.instances.delete_snapshot(instance, SNAPSHOT)
