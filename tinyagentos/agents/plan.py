"""Which way a deploy takes: pure decisions, with the reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyagentos.model.agent import Source
from tinyagentos.model.errors import NoSpace, Unavailable
from tinyagentos.model.image import image_alias

FALLBACK_BASE = "debian-13"
MIB = 1024 * 1024


@dataclass(frozen=True)
class LaunchPlan:
    """What the instance is created from, and why."""

    source: Literal["image", "build"]
    image: str
    reason: str


def plan_launch(
    framework: str,
    arch: str,
    *,
    wanted: Source,
    image_present: bool,
    build_seconds: float | None = None,
) -> LaunchPlan:
    """Choose between the framework's image and the build path.

    With no image, the launch image is the fallback base, on which the recipe is carried out.
    build_seconds: what a build took on this host before, for the reason.
    Raises Unavailable when only the image was wanted and it is not here.
    """
    if image_present and wanted is not Source.build:
        return LaunchPlan("image", image_alias(framework, arch), "the image is on this host")
    if wanted is Source.image:
        raise Unavailable(
            f"There is no image of {framework} for {arch} on this host.",
            hint="Deploy with --source build, or import an image with `taos image import FILE`.",
        )
    took = f"; it took {build_seconds:.0f} s here last time" if build_seconds else ""
    reason = "the build path was asked for" if image_present else "no image on this host"
    return LaunchPlan("build", image_alias(FALLBACK_BASE, arch), f"{reason}{took}")


def check_memory(need_bytes: int, *, available_bytes: int, promised_bytes: int) -> None:
    """Return when the host's memory suffices for one more agent, else raise NoSpace.

    available_bytes: what the host could give now, less its reserve. promised_bytes: what deploys
    under way will still take.
    """
    free = available_bytes - promised_bytes
    if free < need_bytes:
        raise NoSpace(
            f"An agent needs {need_bytes // MIB} MiB of memory; {max(0, free) // MIB} MiB are free"
            + (
                f" ({promised_bytes // MIB} MiB go to deploys under way)."
                if promised_bytes
                else "."
            ),
            hint="Stop an agent you do not need, or wait until the other deploys are done.",
        )


def check_disk(need_bytes: int, *, free_bytes: int, pool: str) -> None:
    """Return when the pool has room for the deploy, else raise NoSpace with the numbers."""
    if free_bytes < need_bytes:
        raise NoSpace(
            f"Storage pool {pool} has {free_bytes // MIB} MiB free; "
            f"the deploy needs {need_bytes // MIB} MiB.",
            hint="Delete agents or images you do not need, or grow the pool.",
        )
