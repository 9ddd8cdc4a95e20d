"""What this host is: read once, passed on as values."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.model.errors import HostNotReady
from tinyagentos.model.image import ARCH_OF_MACHINE

# What slowness() measures on the machine that the reference figures are of.
REFERENCE_SECONDS = 0.0396


@dataclass(frozen=True)
class HostFacts:
    """The host as setup and doctor see it. Sizes in bytes."""

    distribution: str
    codename: str
    arch: str
    has_systemd: bool
    is_root: bool
    memory_total_bytes: int
    disk_free_bytes: int
    incus_filesystem: str


@functools.cache
def slowness() -> float:
    """How many times as long as on the reference machine the same work takes here; at least 0.25.

    One processor's speed at compressing text stands for the rest. It takes about 0.1 s, once.
    """
    text = b"".join(f"{number * 7919 % 10007} of {number}; ".encode() for number in range(40_000))
    took = []
    for _ in range(3):
        begun = time.thread_time()  # not the wall's: what else runs now says nothing of the host
        zlib.compress(text, 6)
        took.append(time.thread_time() - begun)
    return max(0.25, min(took) / REFERENCE_SECONDS)


def read_facts(incus_dir: Path = Path("/var/lib/incus")) -> HostFacts:
    """Look at this host; nothing is started or asked over a network."""
    release = read_os_release(Path("/etc/os-release").read_text())
    existing = incus_dir if incus_dir.exists() else Path("/var/lib")
    return HostFacts(
        distribution=release.get("ID", ""),
        codename=release.get("VERSION_CODENAME", ""),
        arch=host_arch(),
        has_systemd=has_systemd(),
        is_root=os.geteuid() == 0,
        memory_total_bytes=read_meminfo(Path("/proc/meminfo").read_text())["MemTotal"],
        disk_free_bytes=shutil.disk_usage(existing).free,
        incus_filesystem=filesystem_of(existing, Path("/proc/mounts").read_text()),
    )


def host_arch() -> str:
    """`x64` or `arm64`; HostNotReady on any other machine."""
    machine = platform.machine()
    if machine not in ARCH_OF_MACHINE:
        raise HostNotReady(
            f"taOS does not run on {machine} machines.", hint="It needs x86-64 or 64-bit ARM."
        )
    return ARCH_OF_MACHINE[machine]


def has_systemd() -> bool:
    """Whether systemd runs this host (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def memory_available_bytes() -> int:
    """What the host could give to new processes now, as the kernel estimates it."""
    return read_meminfo(Path("/proc/meminfo").read_text())["MemAvailable"]


def memory_total_bytes() -> int:
    """How much memory the host has."""
    return read_meminfo(Path("/proc/meminfo").read_text())["MemTotal"]


def read_os_release(text: str) -> dict[str, str]:
    """The keys of an os-release(5) file."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def read_meminfo(text: str) -> dict[str, int]:
    """The lines of /proc/meminfo in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, *unit = rest.split()
        found[name] = int(number) * (1024 if unit else 1)
    return found


def filesystem_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds the path, by the longest mount point above it."""
    best, kind = "", ""
    for line in mounts.splitlines():
        point, filesystem = line.split()[1:3]
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, filesystem
    return kind
