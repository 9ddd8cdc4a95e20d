"""How long deploys are expected to take here: as measured, else by the reference figures."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from tinyagentos.agents.host import Host
from tinyagentos.agents.plan import (
    FALLBACK_BASE,
    START_SECONDS,
    LaunchPlan,
    expect_image,
    expect_settle,
)
from tinyagentos.agents.steps import INSTALLED, MAKE_BASE
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.images.download import SETTLE
from tinyagentos.images.supply import is_image_present
from tinyagentos.model.image import image_alias
from tinyagentos.model.job import Job


@dataclass(frozen=True)
class HostSpeed:
    """What every estimate rests on. slowness: 1 is the reference machine; has_base: the base that
    builds begin with is here.
    """

    slowness: float
    has_base: bool


async def read_speed(host: Host, aliases: Collection[str] | None = None) -> HostSpeed:
    """How fast the host is. aliases: of its images, where they are known already."""
    slowness = await asyncio.to_thread(host.slowness)
    if aliases is None:
        return HostSpeed(slowness, await is_image_present(host.incus, FALLBACK_BASE, host.arch))
    return HostSpeed(slowness, image_alias(FALLBACK_BASE, host.arch) in aliases)


async def expect_build(framework: str, host: Host) -> float:
    """Seconds that a build would take here, up to a root that is whole."""
    return root_seconds(framework, host, await read_speed(host))


def root_seconds(framework: str, host: Host, speed: HostSpeed) -> float:
    """Seconds of a build, up to a root that is whole."""
    recipe = host.recipes[framework]
    measured = host.timings.typical_seconds(INSTALLED, image_alias(framework, host.arch))
    seconds = measured or recipe.build_seconds * speed.slowness
    if speed.has_base:
        return seconds
    base = load_recipe(recipe.base)
    measured = host.timings.typical_seconds(MAKE_BASE, image_alias(base.name, host.arch))
    return seconds + (measured or base.build_seconds * speed.slowness)


def start_seconds(framework: str, host: Host, speed: HostSpeed) -> float:
    """Seconds of a deploy by an image that is here."""
    measured = host.timings.typical_seconds("deploy.image", image_alias(framework, host.arch))
    return measured or START_SECONDS * speed.slowness


def build_seconds(framework: str, host: Host, speed: HostSpeed) -> float:
    """Seconds of a deploy by building."""
    measured = host.timings.typical_seconds("deploy.build", image_alias(framework, host.arch))
    return measured or root_seconds(framework, host, speed) + start_seconds(framework, host, speed)


def download_seconds(framework: str, host: Host, speed: HostSpeed) -> float | None:
    """Seconds until the framework's released image could be in use; None: nobody knows."""
    images = host.images
    size = images.known_release(framework).size_bytes
    if not size:
        return None
    measured = host.timings.typical_seconds(SETTLE, image_alias(framework, host.arch))
    left = max(0, size - images.partial_bytes(framework))
    return expect_image(left, images.usual_rate(), expect_settle(size, measured, speed.slowness))


def expect_rest(plan: LaunchPlan, framework: str, host: Host, speed: HostSpeed) -> float | None:
    """Seconds that a deploy by the plan takes from now on; None: nobody knows."""
    if plan.source == "build":
        return build_seconds(framework, host, speed)
    wait = plan.wait_seconds if plan.wait else 0.0
    return None if wait is None else wait + start_seconds(framework, host, speed)


def left_seconds(job: Job) -> float | None:
    """Seconds that the job is expected to go on; None: nobody knows."""
    if job.expected_seconds is None:
        return None
    return max(0.0, job.expected_seconds - sum(step.seconds for step in job.steps))
