"""An image as taOS speaks of it: for one framework and one architecture."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# Incus and the kernel say x86_64 and aarch64, people and file names say x64 and arm64.
INCUS_ARCH = {"x64": "x86_64", "arm64": "aarch64"}
DEBIAN_ARCH = {"x64": "amd64", "arm64": "arm64"}
ARCH_OF_MACHINE = {"x86_64": "x64", "aarch64": "arm64"}


class ImageState(StrEnum):
    """Where an image is on its way to this host."""

    absent = "absent"
    fetching = "fetching"
    verifying = "verifying"
    importing = "importing"
    warming = "warming"
    ready = "ready"
    rejected = "rejected"
    stale = "stale"


class ImagePolicy(StrEnum):
    """When images are fetched."""

    lazy = "lazy"
    background = "background"
    manual = "manual"
    off = "off"


# What each policy means and costs, in a sentence for people.
POLICIES = {
    ImagePolicy.lazy: "The first deploy of a framework begins to fetch its image: nothing comes "
    "that nobody uses, but that first deploy may have to build.",
    ImagePolicy.background: "Images are fetched when the server starts, behind everything else: "
    "the first deploy is quick too, at the price of line and disk for frameworks nobody uses.",
    ImagePolicy.manual: "An image is fetched only when you ask for it: nothing crosses the line "
    "unasked, and until then the first deploy builds.",
    ImagePolicy.off: "Images are never fetched: no channel is trusted, and the first deploy of "
    "each framework builds on this host.",
}


@dataclass(frozen=True)
class SupplyRecord:
    """What is known of a framework's released image, whether it is here or not.

    fingerprint, version, sizes: of the newest release when the channel was last asked.
    failures: tries in a row that did not get it; reason: of the last; try_at: not before then.
    rejected: the fingerprint that could not be trusted, or CHANNEL when that goes for all of it.
    check_at: when the channel is to be asked again.
    stopped: somebody stopped its download; it goes on when somebody asks. discards: and what has
    come is to be removed.
    """

    fingerprint: str = ""
    version: str = ""
    size_bytes: int = 0
    failures: int = 0
    reason: str = ""
    rejected: str = ""
    try_at: datetime | None = None
    check_at: datetime | None = None
    unpacked_bytes: int = 0
    stopped: bool = False
    discards: bool = False


@dataclass(frozen=True)
class ImageRow:
    """What is known about one framework's image for one architecture. Sizes in bytes.

    partial_bytes: what has come of a download that is not done.
    """

    framework: str
    arch: str
    state: ImageState
    version: str = ""
    newest: str = ""
    fingerprint: str = ""
    alias: str = ""
    size_bytes: int | None = None
    origin: str = ""
    reason: str = ""
    unpacked_bytes: int | None = None
    partial_bytes: int = 0


def image_alias(framework: str, arch: str) -> str:
    """The Incus alias of a framework's image, such as `openclaw/x64`."""
    return f"{framework}/{arch}"
