"""An image as taOS speaks of it: for one framework and one architecture."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class ImageRow:
    """What is known about one framework's image for one architecture. Sizes in bytes."""

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


def image_alias(framework: str, arch: str) -> str:
    """The Incus alias of a framework's image, such as `openclaw/x64`."""
    return f"{framework}/{arch}"
