"""Where a recipe is carried out: a folder that becomes a root, or a running instance."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tinyagentos import proc
from tinyagentos.factory.isolation import isolated
from tinyagentos.incus import Incus
from tinyagentos.model.errors import BuildFailed, CommandFailed

CHUNK = 1024 * 1024
UNPACK_WITHIN = 300.0
# What a package's script may do: own, change and read any file of the root, and be other users.
# Without the rest it can neither mount, make devices, trace, nor leave the root (capabilities(7)).
MAY = "+chown,+dac_override,+fowner,+fsetid,+setuid,+setgid,+setfcap,+kill"
ENTER = f"""\
root=$1 cwd=$2; shift 2
mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for one in null zero full random urandom tty; do
    : > "$root/dev/$one"; mount --bind "/dev/$one" "$root/dev/$one"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm" && chmod 1777 "$root/dev/shm"
mount -t tmpfs tmpfs "$root/tmp"
names="$root/run/systemd/resolve"; mkdir -p "$names"; : > "$names/stub-resolv.conf"
mount --bind /etc/resolv.conf "$names/stub-resolv.conf"
exec chroot "$root" setpriv --bounding-set=-all,{MAY} --inh-caps=-all --no-new-privs \
    /bin/sh -c 'cd "$0" && exec "$@"' "$cwd" "$@"
"""


class Target(Protocol):
    """A Linux system that is being made."""

    async def run(self, *argv: str, env: Mapping[str, str], within: float, cwd: str = "/") -> str:
        """Run a command inside and return what it printed; BuildFailed when it fails."""
        ...

    async def unpack(self, archive: Path) -> None:
        """Unpack an uncompressed tar over the root."""
        ...


class RootfsTarget:
    """A root file system in a folder; commands run in it with their own mounts and processes.

    Install scripts are other people's programs: they see no disk of the host and have few of
    root's powers, and nothing that they started or mounted is left.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    async def run(self, *argv: str, env: Mapping[str, str], within: float, cwd: str = "/") -> str:
        """Run a command in the folder as its root."""
        words = [f"{name}={value}" for name, value in env.items()]
        try:
            return await proc.run(
                *isolated("/bin/sh", "-euc", ENTER, "sh", str(self.root), cwd),
                "/usr/bin/env", "-i", *words, *argv, within=within,
            )  # fmt: skip
        except CommandFailed as error:
            raise _failed(argv, error.message) from error

    async def unpack(self, archive: Path) -> None:
        """Unpack with the host's tar."""
        await proc.run(
            "tar", "--extract", "--numeric-owner", "--keep-directory-symlink",
            f"--directory={self.root}", f"--file={archive}", within=UNPACK_WITHIN,
        )  # fmt: skip


class InstanceTarget:
    """A running Incus instance."""

    def __init__(self, incus: Incus, instance: str) -> None:
        self._incus = incus
        self._instance = instance

    async def run(self, *argv: str, env: Mapping[str, str], within: float, cwd: str = "/") -> str:
        """Run a command in the instance as its root."""
        ended = await self._incus.instances.exec(
            self._instance, argv, env=env, cwd=cwd, within=within
        )
        out = ended.stdout.decode(errors="replace")
        if ended.exit_code:
            said = (ended.stderr.decode(errors="replace") or out).strip()[-800:]
            raise _failed(argv, f"status {ended.exit_code}: {said}")
        return out

    async def wait_online(self, *, within: float) -> None:
        """Return when the instance has booted so far that it has an address and names resolve.

        Raises BuildFailed after that many seconds. One command waits inside.
        """
        wait = (
            "until systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded|starting' "
            "&& grep -q '^nameserver' /etc/resolv.conf "
            "&& grep -q -v '^Iface' /proc/net/route; do sleep 0.05; done"
        )
        await self.run("timeout", f"{within:.0f}", "sh", "-c", wait, env={}, within=within + 5)

    async def unpack(self, archive: Path) -> None:
        """Stream the archive to tar in the instance."""
        ended = await self._incus.instances.exec(
            self._instance,
            ("tar", "--extract", "--numeric-owner", "--keep-directory-symlink", "--directory=/"),
            stdin=read_chunks(archive),
            within=UNPACK_WITHIN,
        )
        if ended.exit_code:
            raise _failed(("tar",), ended.stderr.decode(errors="replace"))


async def read_chunks(path: Path) -> AsyncIterator[bytes]:
    """The file's bytes, a mebibyte at a time."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while chunk := await asyncio.to_thread(os.read, descriptor, CHUNK):
            yield chunk
    finally:
        os.close(descriptor)


def _failed(argv: Sequence[str], said: str) -> BuildFailed:
    return BuildFailed(
        f"`{' '.join(argv)[:80]}` failed in the build: {said}",
        hint="If the network is the cause, try again; otherwise the recipe needs mending.",
    )
