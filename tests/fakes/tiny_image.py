"""A container image of a few hundred kB: busybox, and an init that idles or serves HTTP.

It needs a statically linked busybox on this machine (Debian: busybox-static). Without one the
image is still an image, which the fake Incus takes, but nothing in it runs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
EMPTY: Mapping[str, str] = {}
APPLETS = (
    "sh cat chmod cp date dirname echo env false grep head hostname httpd id ifconfig kill ln ls "
    "mkdir nc printf ps pwd rm sed sleep stty tail tar test touch true wc"
)
FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "var", "www")

# Incus asks PID 1 to shut down with SIGPWR; a shell gets it only between two commands.
INIT = """#!/bin/sh
trap 'exit 0' PWR TERM
ifconfig lo 127.0.0.1 up
{services}
while true; do sleep 3600 & wait $!; done
"""
IDLE = ":"
HOSTNAME_TEMPLATE = "{{ container.name }}\n"
HOSTNAME = """templates:
  /etc/hostname:
    when: [create, copy, rename]
    create_only: false
    template: hostname.tpl
"""


def serve(port: int, *, ready_after: float = 0, path: str = "readyz") -> str:
    """Lines of init that serve /www on the loopback; `/readyz` is there after so many seconds."""
    ready = f"{{ sleep {ready_after}; mkdir -p /www/$(dirname {path}); echo ready > /www/{path}; }}"
    return f"httpd -p 127.0.0.1:{port} -h /www\n{ready} &"


@dataclass(frozen=True)
class TinyImage:
    """The image's files; rootfs is None when it is unified."""

    fingerprint: str
    metadata: Path
    rootfs: Path | None = None

    @property
    def path(self) -> Path:
        """The file of a unified image."""
        return self.metadata


def build_unified(
    path: Path,
    *,
    services: str = IDLE,
    files: Mapping[str, bytes] | None = None,
    properties: Mapping[str, str] = EMPTY,
    names_host: bool = False,
) -> TinyImage:
    """The image in one file. services: lines for init; files: more content by absolute path.

    A file under a `bin` folder is executable. names_host: Incus writes its hostname, as it does
    into images of taOS.
    """
    with _open_tar(path) as tar:
        _add_metadata(tar, properties, HOSTNAME if names_host else "")
        if names_host:
            _add_file(tar, "templates/hostname.tpl", HOSTNAME_TEMPLATE.encode(), 0o644)
        _add_rootfs(tar, "rootfs/", services, files or {})
    return TinyImage(hashlib.sha256(path.read_bytes()).hexdigest(), path)


def build_split(
    folder: Path,
    *,
    services: str = IDLE,
    files: Mapping[str, bytes] | None = None,
    properties: Mapping[str, str] = EMPTY,
) -> TinyImage:
    """The image in two files, as build_unified()."""
    metadata, rootfs = folder / "metadata.tar.gz", folder / "rootfs.tar.gz"
    with _open_tar(metadata) as tar:
        _add_metadata(tar, properties)
    with _open_tar(rootfs) as tar:
        _add_rootfs(tar, "", services, files or {})
    digest = hashlib.sha256(metadata.read_bytes() + rootfs.read_bytes())
    return TinyImage(digest.hexdigest(), metadata, rootfs)


def _open_tar(path: Path) -> tarfile.TarFile:
    # tarfile's own gzip writes the time into the file: the fingerprint would never be the same.
    packed = gzip.GzipFile(path, "wb", compresslevel=6, mtime=0)
    tar = _ClosingTar(fileobj=packed, mode="w")
    tar.packed = packed
    return tar


class _ClosingTar(tarfile.TarFile):
    packed: gzip.GzipFile

    def close(self) -> None:
        super().close()
        self.packed.close()


def _add_metadata(tar: tarfile.TarFile, properties: Mapping[str, str], templates: str = "") -> None:
    lines = [f"architecture: {platform.machine()}", "creation_date: 1700000000", "properties:"]
    all_properties = {"os": "tiny", "description": "busybox for tests", **properties}
    lines += [f'  {name}: "{value}"' for name, value in all_properties.items()]
    _add_file(tar, "metadata.yaml", f"{chr(10).join(lines)}\n{templates}".encode(), 0o644)


def _add_rootfs(
    tar: tarfile.TarFile, prefix: str, services: str, files: Mapping[str, bytes]
) -> None:
    for folder in ("", *FOLDERS):
        entry = tarfile.TarInfo(f"{prefix}{folder}" or ".")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    busybox = BUSYBOX.read_bytes() if BUSYBOX.exists() else b""
    _add_file(tar, f"{prefix}bin/busybox", busybox, 0o755)
    for applet in APPLETS.split():
        entry = tarfile.TarInfo(f"{prefix}bin/{applet}")
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, "busybox", 0o777
        tar.addfile(entry)
    content = {
        "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "/etc/group": b"root:x:0:\n",
        "/sbin/init": INIT.format(services=services).encode(),
        **files,
    }
    made = set(FOLDERS)
    for name, data in content.items():
        for parent in reversed(Path(name.lstrip("/")).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                entry = tarfile.TarInfo(f"{prefix}{parent}")
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
        mode = 0o755 if Path(name).parent.name in {"bin", "sbin"} else 0o644
        _add_file(tar, f"{prefix}{name.lstrip('/')}", data, mode)


def _add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
