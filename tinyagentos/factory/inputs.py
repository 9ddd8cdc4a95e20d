"""What a build needs from outside, fetched on the host, verified, and cached as ready archives."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tinyagentos import proc
from tinyagentos.model.errors import CommandFailed, Unavailable, Untrusted
from tinyagentos.model.image import INCUS_ARCH
from tinyagentos.model.recipe import PypiPart, Wheel

FETCH_WITHIN = 900.0
# pip takes a package only for the very platforms it is told; the oldest one has two names.
GLIBC = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
# Where a host keeps the certificates it trusts; one behind an intercepting proxy has its own.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
CA_IN_TARGET = "/run/taos-build/ca.crt"
PASSED_ON = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "npm_config_registry", "PIP_INDEX_URL",
)  # fmt: skip
NEWEST_TIME = 315532800  # 1980, the oldest a zip file knows


def host_ca_bundle(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file of certificates that this host trusts, if it has one."""
    places = (environ.get("SSL_CERT_FILE", ""), *CA_BUNDLES)
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


def build_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of commands in a build: the host's certificates, proxies and registries."""
    passed = {name: environ[name] for name in PASSED_ON if environ.get(name)}
    trust = ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "PIP_CERT", "npm_config_cafile")
    return {
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": "/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        **dict.fromkeys(trust, CA_IN_TARGET),
        **passed,
    }


async def fetch_wheel(wheel: Wheel, arch: str, cache: Path) -> Path:
    """An uncompressed tar of what the recipe takes from the wheel, named below `wheel.into`.

    Raises Unavailable when it cannot be fetched, Untrusted when its bytes are not the pinned ones.
    """
    digest = wheel.sha256[arch]
    archive = cache / f"{wheel.name}-{wheel.version}-{arch}-{digest[:12]}.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="wheel-", dir=cache))
    try:
        file = await _download(wheel, arch, work)
        found = await asyncio.to_thread(_sha256, file)
        if found != digest:
            raise Untrusted(
                f"{wheel.package} {wheel.version} for {arch} is not the pinned file: "
                f"its SHA-256 is {found}.",
                hint="Do not use it; if upstream made a new release, pin that one.",
            )
        part = archive.with_suffix(f".{os.getpid()}.part")
        await asyncio.to_thread(_repack, file, wheel, part)
        return part.replace(archive)
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def fetch_python(part: PypiPart, arch: str, cache: Path) -> Path:
    """An uncompressed tar of a virtual environment with the part's packages.

    Made by the host's pip, which checks each package against its pinned SHA-256, so nothing runs
    and nothing is fetched in the target. Raises Unavailable when that fails.
    """
    what = hashlib.sha256(f"{part.into} {part.python} ".encode() + part.requirements).hexdigest()
    archive = cache / f"python-{part.python}-{arch}-{what[:16]}.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="python-", dir=cache))
    try:
        requirements, root = work / "requirements.txt", work / "root"
        requirements.write_bytes(part.requirements)
        await _pip(
            "install", "--no-compile", "--require-hashes", "--implementation=cp",
            f"--python-version={part.python}", *_platforms(arch),
            f"--target={root}", f"--requirement={requirements}",
            what="The recipe's Python packages",
        )  # fmt: skip
        file = archive.with_suffix(f".{os.getpid()}.part")
        await asyncio.to_thread(_pack_python, root, part, file)
        return file.replace(archive)
    finally:
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


def _pack_python(root: Path, part: PypiPart, out: Path) -> None:
    """Pack the packages; owners root, times fixed, order sorted.

    Without what pip writes for this host: programs that name its Python, and records of them.
    """
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {part.python}\n"
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(f"{part.into}/pyvenv.cfg".lstrip("/"))
        member.size, member.mtime = len(settings), NEWEST_TIME
        tar.addfile(member, io.BytesIO(settings.encode()))
        python = tarfile.TarInfo(f"{part.into}/bin/python3".lstrip("/"))
        python.type, python.linkname, python.mtime = (
            tarfile.SYMTYPE,
            "/usr/bin/python3",
            NEWEST_TIME,
        )
        tar.addfile(python)
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.is_dir() or name.parts[0] == "bin" or name.name == "RECORD":
                continue
            member = tarfile.TarInfo(f"{part.packages}/{name.as_posix()}".lstrip("/"))
            member.size, member.mtime = path.stat().st_size, NEWEST_TIME
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with path.open("rb") as content:
                tar.addfile(member, content)


async def _download(wheel: Wheel, arch: str, folder: Path) -> Path:
    named = f"{wheel.package}=={wheel.version}"
    await _pip("download", *_platforms(arch), f"--dest={folder}", named, what=named)
    return next(folder.glob("*.whl"))


def _platforms(arch: str) -> tuple[str, ...]:
    return tuple(f"--platform={glibc}_{INCUS_ARCH[arch]}" for glibc in GLIBC)


async def _pip(does: str, *words: str, what: str) -> None:
    try:
        await proc.run(
            sys.executable, "-m", "pip", does, "--quiet", "--disable-pip-version-check",
            "--no-deps", "--no-cache-dir", "--only-binary=:all:", *words, within=FETCH_WITHIN,
        )  # fmt: skip
    except CommandFailed as error:
        if "DO NOT MATCH THE HASHES" in error.message:
            raise Untrusted(
                f"A package among {what.lower()} is not the pinned file: {error.message}",
                hint="Do not use it; if upstream made a new release, pin that one.",
            ) from error
        raise Unavailable(
            f"{what} cannot be fetched: {error.message}",
            hint="Check the network, and pip's settings.",
        ) from error


def _repack(file: Path, wheel: Wheel, out: Path) -> None:
    """Take what the recipe keeps from the wheel; owners root, times fixed, order sorted."""
    root = wheel.member_root + "/"
    with zipfile.ZipFile(file) as source, tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for info in sorted(source.infolist(), key=lambda info: info.filename):
            name = info.filename.removeprefix(root)
            if info.is_dir() or not info.filename.startswith(root) or not _is_kept(name, wheel):
                continue
            member = tarfile.TarInfo(f"{wheel.into}/{name}".lstrip("/"))
            member.size, member.mtime = info.file_size, NEWEST_TIME
            member.mode = 0o755 if name in wheel.executable else 0o644
            with source.open(info) as content:
                tar.addfile(member, content)
        for name, target in sorted(wheel.links.items()):
            link = tarfile.TarInfo(f"{wheel.into}/{name}".lstrip("/"))
            link.type, link.linkname, link.mtime = tarfile.SYMTYPE, target, NEWEST_TIME
            tar.addfile(link)


def _is_kept(name: str, wheel: Wheel) -> bool:
    return any(name == one or (one.endswith("/") and name.startswith(one)) for one in wheel.keep)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
