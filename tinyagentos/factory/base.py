"""The fallback base of the build path: here already, from the public image server, or made here."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from tinyagentos import proc
from tinyagentos.factory.pipeline import make_image
from tinyagentos.incus import Incus, IncusError
from tinyagentos.model.errors import CommandFailed
from tinyagentos.model.image import INCUS_ARCH, image_alias
from tinyagentos.model.recipe import Recipe

Report = Callable[[str], None]
# Makes the base for an architecture on this host; its fingerprint in that Incus.
BaseMaker = Callable[[Incus, Recipe, str, Report], Awaitable[str]]
REMOTE_NAME = "images"
REMOTE_ALIAS = "debian/13"
REACH_WITHIN = 3.0


async def ensure_base_image(
    incus: Incus, base: Recipe, arch: str, *, server: str, make: BaseMaker, report: Report
) -> str:
    """The fingerprint of the base in Incus, under the alias `<base>/<arch>`.

    server: the image server's address; empty: the one the Incus client knows as `images`. When it
    cannot be reached, the base is made on this host by make. A base of another architecture is not
    used.
    """
    alias = image_alias(base.name, arch)
    if found := await incus.images.find_alias(alias):
        image = await incus.images.find(found.target)
        if image and image.architecture == INCUS_ARCH[arch]:
            return image.fingerprint
    fingerprint = await _fetch(incus, server or await known_server(), report)
    if not fingerprint:
        fingerprint = await make(incus, base, arch, report)
    await incus.images.set_alias(alias, fingerprint)
    return fingerprint


async def known_server() -> str:
    """The address of the remote `images` of the Incus client, or nothing."""
    try:
        shown = await proc.run("incus", "remote", "list", "--format=json", within=10)
        return str(json.loads(shown)[REMOTE_NAME]["Addr"])
    except (CommandFailed, ValueError, KeyError, TypeError):
        return ""


async def is_reachable(address: str) -> bool:
    """Whether somebody answers there, within three seconds."""
    parts = urlsplit(address)
    if not parts.hostname:
        return False
    try:
        async with asyncio.timeout(REACH_WITHIN):
            port = parts.port or (80 if parts.scheme == "http" else 443)
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _fetch(incus: Incus, server: str, report: Report) -> str:
    """The fingerprint of the server's Debian, or nothing when it cannot be had."""
    if not await is_reachable(server):
        report("the image server cannot be reached: making the base on this host")
        return ""
    try:
        report("fetching the Debian base")
        return await incus.images.copy_from_remote(server, REMOTE_ALIAS, on_progress=report)
    except IncusError as error:
        report(f"the image server did not deliver ({error}): making the base on this host")
        return ""


async def make_base_here(
    incus: Incus, base: Recipe, arch: str, report: Report, *, cache: Path
) -> str:
    """Make the base in this process, which needs root, and have it in Incus; its fingerprint."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache) as folder:
        out = Path(folder) / "base.tar.zst"
        image = await make_image(base, base, arch, out, cache=cache, level="local", report=report)
        return await incus.images.add(image.path, expect=image.fingerprint)
