"""Which way a deploy takes: pure decisions, with the reason in words.

The trade-off: an image costs one download (117 MB), and then each deploy takes the agent's own boot
and some 2 s; a build costs nothing before, and 9 s in each deploy (35 s in the first, which makes
the base too). On an empty host the download is the quicker way from about 30 Mbit/s. docs/images.md
has the figures; `--source` and the image policy are how a person chooses instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyagentos.host.room import Room
from tinyagentos.model.agent import Source
from tinyagentos.model.errors import NoSpace, Unavailable
from tinyagentos.model.image import image_alias

FALLBACK_BASE = "debian-13"
MIB = 1024 * 1024


# Reference figures, for a host that has measured nothing yet: bytes of an image's file that are
# verified, imported and unpacked in a second on the machine that docs/images.md speaks of.
SETTLE_RATE = 25e6
# Seconds from an image that is here to an agent that answers: OpenClaw's, the slowest.
START_SECONDS = 13.0
# How far the two ways must differ before the first second of a download is believed.
CLEARLY = 1.5
# A download that is waited for is left when it would take so many times as long as the build.
TOO_SLOW = 1.3
# A build is left for the image only if that saves more seconds than beginning again costs.
SWITCH_GAIN = 3.0


@dataclass(frozen=True)
class LaunchPlan:
    """What the instance is created from, and why. wait: the image is on its way here.

    wait_seconds: for how long, as far as is known.
    """

    source: Literal["image", "build"]
    image: str
    reason: str
    wait: bool = False
    wait_seconds: float | None = None


@dataclass(frozen=True)
class Outlook:
    """What the two ways would take from now on, in seconds, up to a root that is whole.

    image: None when nothing is known of the download yet. rate: of the download, bytes a second.
    """

    image: float | None
    build: float
    rate: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the ways differ so much that a short look at the download suffices."""
        if self.image is None or self.image >= FOREVER:
            return False  # a server may take a moment to begin
        return max(self.image, self.build) > CLEARLY * min(self.image, self.build)

    @property
    def words(self) -> str:
        """Both ways in words."""
        if self.image is None:
            return f"the download has not begun; the build takes about {self.build:.0f} s"
        speed = f" at {self.rate * 8 / 1e6:.0f} Mbit/s" if self.rate else ""
        download = (
            f"about {self.image:.0f} s{speed}" if self.image < FOREVER else "very long"
        )  # fmt: skip
        return f"the download takes {download}, the build about {self.build:.0f} s"


FOREVER = 24 * 3600.0


def expect_image(left_bytes: int, rate: float | None, settle_seconds: float) -> float | None:
    """Seconds until the image is in use; None when the rate (bytes a second) is not known."""
    if left_bytes == 0:
        return settle_seconds
    if rate is None:
        return None
    return min(FOREVER, left_bytes / rate + settle_seconds) if rate else FOREVER


def expect_settle(size_bytes: int, measured_seconds: float | None, slowness: float) -> float:
    """Seconds to verify, import and unpack an image file. slowness: 1 is the reference machine."""
    return measured_seconds or size_bytes / SETTLE_RATE * slowness


def plan_launch(
    framework: str,
    arch: str,
    *,
    wanted: Source,
    image_present: bool,
    outlook: Outlook | None = None,
    refused: str = "",
    build_seconds: float | None = None,
) -> LaunchPlan:
    """Choose between the framework's image and the build path.

    With no image, the launch image is the fallback base, on which the recipe is carried out.
    outlook: of an image that is being fetched, else None. refused: why such an image is not waited
    for. build_seconds: what a build took on this host before, for the reason.
    Raises Unavailable when only the image was wanted and it does not come.
    """
    image, base = image_alias(framework, arch), image_alias(FALLBACK_BASE, arch)
    if wanted is Source.build:
        return LaunchPlan("build", base, "the build path was asked for")
    if image_present:
        return LaunchPlan("image", image, "the image is on this host")
    if wanted is Source.image:
        if refused or outlook is None:
            raise Unavailable(
                f"There is no image of {framework} for {arch} on this host"
                + (f": {refused}" if refused else "."),
                hint="Deploy with --source build, or bring an image with `taos image import FILE`.",
            )
        said = "only the image was asked for; it is fetched"
        return LaunchPlan("image", image, said, wait=True, wait_seconds=outlook.image)
    if refused:
        return LaunchPlan("build", base, refused)
    if outlook is None:
        took = f"; it took {build_seconds:.0f} s here last time" if build_seconds else ""
        return LaunchPlan("build", base, f"no image on this host{took}")
    if outlook.image is not None and outlook.image < outlook.build:
        return LaunchPlan("image", image, outlook.words, wait=True, wait_seconds=outlook.image)
    return LaunchPlan("build", base, outlook.words)


def is_too_slow(outlook: Outlook) -> bool:
    """Whether a download that is waited for is to be left for the build."""
    return outlook.image is not None and outlook.image > TOO_SLOW * outlook.build


def is_worth_switching(build_left_seconds: float) -> bool:
    """Whether a build under way is left, now that the image is here."""
    return build_left_seconds > SWITCH_GAIN


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


def check_memory_limit(limit_bytes: int, *, total_bytes: int) -> None:
    """Return when the host has as much memory as the agent may take, else raise NoSpace.

    A limit beyond that is none: the agent could take all there is from everybody else.
    """
    if limit_bytes > total_bytes:
        raise NoSpace(
            f"The agent is to have up to {limit_bytes // MIB} MiB of memory; this host has "
            f"{total_bytes // MIB} MiB in all.",
            hint="Give it less memory, such as `--memory 2GiB`.",
        )


def check_disk(need_bytes: int, room: Room) -> None:
    """Return when there is room for the deploy, else raise NoSpace with the numbers."""
    if room.free_bytes < need_bytes:
        raise NoSpace(f"{room.said}; the deploy needs {need_bytes // MIB} MiB.", hint=room.hint)
