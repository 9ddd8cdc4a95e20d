"""Building for another processor: the kernel must know how, and our own tools run as themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

from tinyagentos import proc
from tinyagentos.model.errors import BuildFailed, CommandFailed
from tinyagentos.model.image import DEBIAN_ARCH, INCUS_ARCH

ASK_WITHIN = 30.0
# What programs made for any Linux ask of the C library (glibc's own parts).
LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0")
LOADERS = {"x64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}


async def check_runs(arch: str) -> None:
    """Return when this host runs programs for the architecture, else raise BuildFailed."""
    try:
        await proc.run("arch-test", DEBIAN_ARCH[arch], within=ASK_WITHIN)
    except CommandFailed as error:
        binutils = f"binutils-{INCUS_ARCH[arch].replace('_', '-')}-linux-gnu"
        raise BuildFailed(
            f"This host does not run programs for {arch}.",
            hint=f"Install qemu-user-static, binfmt-support and {binutils}, then build again.",
        ) from error


def bring_loader(host: str, root: Path, inside: str) -> tuple[str, ...]:
    """Have the host's loader and C library in the root's folder `inside`, for tools of the build.

    Returns the words that, before a program's path in the root, run it with them: as itself and
    not emulated, in seconds where emulation takes minutes.
    """
    folder = root / inside.lstrip("/")
    folder.mkdir(parents=True)
    loader = Path(LOADERS[host])
    shutil.copy(loader, folder / loader.name)
    for name in LIBRARIES:
        shutil.copy(Path("/lib") / f"{INCUS_ARCH[host]}-linux-gnu" / name, folder / name)
    return (f"{inside}/{loader.name}", "--library-path", inside)
