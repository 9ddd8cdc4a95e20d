"""The kernel can limit what an agent takes."""

from __future__ import annotations

from pathlib import Path

from tinyagentos.host.check import Check, Finding, Ground, fine, warning

NEEDED = ("memory", "pids")
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")
LEGACY = Path("/proc/cgroups")


def controllers(unified: str, legacy: str) -> frozenset[str]:
    """The cgroup controllers of either version that the kernel has switched on."""
    rows = [line.split() for line in legacy.splitlines() if not line.startswith("#")]
    return frozenset(unified.split()) | {row[0] for row in rows if len(row) == 4 and row[3] == "1"}


async def look(_: Ground) -> Finding:
    """Whether memory and processes can be limited."""
    unified = UNIFIED.read_text() if UNIFIED.exists() else ""
    legacy = LEGACY.read_text() if LEGACY.exists() else ""
    missing = [name for name in NEEDED if name not in controllers(unified, legacy)]
    if not missing:
        return fine("memory and processes can be limited")
    return warning(
        f"the kernel does not limit {' and '.join(missing)}: one agent can take all of it",
        "On a Raspberry Pi add `cgroup_enable=memory` to the kernel's command line.",
    )


CHECK = Check("limits", "a runaway agent must not take the host down with it", look)
