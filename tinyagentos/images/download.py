"""Getting an image from the channel into use: the story, as a job that may run twice.

A working image is never touched before its successor is unpacked and proven; no byte reaches Incus
that was not signed.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.config import Settings
from tinyagentos.images.fetch import Manner, fetch_image, part_path
from tinyagentos.images.source import open_source
from tinyagentos.images.supply import find_image, warm_image
from tinyagentos.images.verify import VerifiedImage, verify
from tinyagentos.incus import Image, Incus, IncusError, NotFound
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind
from tinyagentos.model.errors import HostNotReady, NoSpace, Unavailable
from tinyagentos.model.image import image_alias
from tinyagentos.model.release import ImageTarget
from tinyagentos.signing.channel import Channel, trusted_root

DOWNLOAD = "download image"
ASK, FETCH, VERIFY = "ask the channel", "fetch", "verify"
IMPORT, WARM, USE = "import", "unpack image", "use it from now on"
STEPS = (ASK, FETCH, VERIFY, IMPORT, WARM, USE)
HEADROOM = 512 << 20
MB = 1_000_000


@dataclass(frozen=True)
class Supply:
    """What getting images works with."""

    incus: Incus
    settings: Settings
    arch: str

    @property
    def folder(self) -> Path:
        """Where files of images grow."""
        return self.settings.cache_dir / "images"


def download_kind(supply: Supply) -> JobKind:
    """The kind of job that gets an image."""

    async def run(job: JobContext) -> None:
        await ensure_image_present(job, supply)

    async def undo(job: JobContext) -> None:
        await undo_download(job, supply)

    return JobKind(DOWNLOAD, run, undo, STEPS, at_once=1)


async def ensure_image_present(job: JobContext, supply: Supply) -> None:
    """Have the newest released image of the framework in use; nothing is done when it is."""
    framework = job.params["framework"]
    job.plan_steps(*STEPS)
    target = await ensure_known(framework, job, supply)
    held = await find_image(supply.incus, image_alias(framework, supply.arch), supply.arch)
    if held is None or held.fingerprint != target.fingerprint:
        if await supply.incus.images.find(target.fingerprint) is None:
            await check_space(target, supply)
            path = await ensure_fetched(target, job, supply)
            image = await ensure_verified(path, target, job)
            await ensure_imported(image, job, supply)
        await ensure_warm(target, job, supply)
    await ensure_used(target, held, job, supply)


async def undo_download(job: JobContext, supply: Supply) -> None:
    """Remove an image that came into Incus and never came into use; what was fetched is kept.

    It is proven again before it is used, so keeping it costs only its space.
    """
    for image in await supply.incus.images.list():
        ours = image.properties.get("taos.framework") == job.params["framework"]
        if ours and not image.aliases:
            await supply.incus.images.delete(image.fingerprint)


async def ensure_known(framework: str, job: JobContext, supply: Supply) -> ImageTarget:
    """The newest image that the channel offers; Unavailable when it has none for this machine."""
    with job.step(ASK):
        index = await asyncio.to_thread(open_channel(supply.settings).refresh)
        target = index.newest(framework, supply.arch)
        if target is None:
            raise Unavailable(
                f"The channel has no image of {framework} for {supply.arch}.",
                hint="Deploying builds it on this host instead.",
            )
        job.note(f"{target.framework} {target.version}, {target.size_bytes / MB:.0f} MB")
        return target


def open_channel(settings: Settings) -> Channel:
    """The configured channel; HostNotReady when none is, or no root to trust."""
    if not settings.image_channel:
        raise HostNotReady(
            "No channel of images is configured.",
            hint="Set `image_channel` to its address; until then deploying builds on this host.",
        )
    source = open_source(settings.image_channel)
    state = settings.data_dir / "channel"
    return Channel(trusted_root(settings.image_root), state, source.metadata)


async def check_space(target: ImageTarget, supply: Supply) -> None:
    """Return when there is room for the file, Incus's copy and the unpacked image; else NoSpace."""
    part = part_path(supply.folder, target)
    here = part.stat().st_size if part.exists() else 0
    need = 2 * target.size_bytes - here + HEADROOM
    supply.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(supply.folder).free
    if free < need:
        raise NoSpace(
            f"The image needs {need / MB:.0f} MB on the disk of {supply.settings.data_dir}; "
            f"{free / MB:.0f} MB are free.",
            hint="Make room there, then download again: what has come is kept.",
        )
    profile = await supply.incus.profiles.get("default")
    pool = supply.settings.pool or profile.devices.get("root", {}).get("pool", "")
    room = await supply.incus.storage.get_resources(pool)
    if room.free_bytes < target.unpacked_bytes + HEADROOM:
        raise NoSpace(
            f"The image takes {target.unpacked_bytes / MB:.0f} MB on storage pool {pool}, "
            f"and {HEADROOM / MB:.0f} MB are to stay; {room.free_bytes / MB:.0f} MB are free.",
            hint="Delete agents or images you do not need, or grow the pool.",
        )


async def ensure_fetched(target: ImageTarget, job: JobContext, supply: Supply) -> Path:
    """The image's file, every part of it proven."""
    with job.step(FETCH):
        drop_others(target, supply)
        settings = supply.settings
        pace = Pace(job)
        return await fetch_image(
            target,
            open_source(settings.image_channel),
            supply.folder,
            progress=pace.at,
            note=job.note,
            manner=Manner(stall=settings.image_stall, rate=settings.image_rate),
        )


class Pace:
    """Says how far a fetch is, how fast, and how long it will still take."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._begun: tuple[float, int] | None = None

    def at(self, done: int, total: int) -> None:
        """So many bytes of so many are here."""
        now = time.monotonic()
        self._begun = self._begun or (now, done)
        seconds, gained = now - self._begun[0], done - self._begun[1]
        if gained and seconds:
            rate = gained / seconds
            left = (total - done) / rate
            self._job.note(f"{rate / MB:.1f} MB/s, about {left:.0f} s left")
        self._job.progress(done, total)


async def ensure_verified(path: Path, target: ImageTarget, job: JobContext) -> VerifiedImage:
    """The file as an image that Incus may see."""
    with job.step(VERIFY):
        return await verify(path, target)


async def ensure_imported(image: VerifiedImage, job: JobContext, supply: Supply) -> None:
    """Have the image in Incus, without an alias; its file is not needed any more then."""
    with job.step(IMPORT):
        total = image.target.size_bytes
        await supply.incus.images.add(
            image.path,
            expect=image.target.fingerprint,
            progress=lambda sent: job.progress(min(sent, total), total),
        )
        image.path.unlink()


async def ensure_warm(target: ImageTarget, job: JobContext, supply: Supply) -> None:
    """Have the pool unpack the image now, so that no deploy waits for it."""
    with job.step(WARM):
        await warm_image(supply.incus, target.fingerprint)


async def ensure_used(
    target: ImageTarget, held: Image | None, job: JobContext, supply: Supply
) -> None:
    """Move the alias; the image that had it goes unless an instance still needs it."""
    with job.step(USE):
        alias = image_alias(target.framework, supply.arch)
        await supply.incus.images.set_alias(alias, target.fingerprint)
        if held and held.fingerprint != target.fingerprint:
            try:
                await supply.incus.images.delete(held.fingerprint)
            except NotFound:
                return
            except IncusError as error:
                job.note(f"the image before is kept: {error}")


def drop_others(target: ImageTarget, supply: Supply) -> None:
    """Remove what was fetched of images that the channel has newer ones of."""
    mine = part_path(supply.folder, target)
    for left in supply.folder.glob("*.part"):
        if left != mine:
            left.unlink(missing_ok=True)
